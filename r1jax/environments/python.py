"""A Python tool: the policy's program runs in the sandbox of the code rewards (`r1jax.rewards.sandbox`), and reads what it printed."""

from __future__ import annotations

import dataclasses

from r1jax.environments.tools import ToolError
from r1jax.rewards import sandbox
from r1jax.rewards.sandbox import Limits, MiB
from r1jax.types import Problem

_WHY = {
    'timeout': ('it took too long', 'timeout'),
    'memory': ('it took too much memory', 'memory'),
    'output': ('it printed too much', 'failed'),
    'died': ('it was killed', 'died'),
    'stopped': ('it was stopped', 'died'),
}


@dataclasses.dataclass(frozen=True)
class Python:
    """Runs a Python program, and returns what it prints."""

    name: str = 'python'
    seconds: float = 4.0  # of CPU; on the clock, twice that
    memory: int = 512  # MiB
    printed: int = 64  # KiB that it may print

    def __post_init__(self):
        if self.seconds <= 0 or self.memory < 64 or self.printed < 1:
            raise ValueError(
                f'Python(seconds={self.seconds}, memory={self.memory}, printed={self.printed}): seconds must be above 0, memory at '
                'least 64 MiB, and printed at least 1 KiB'
            )

    def warm(self) -> None:
        """Starts what makes sandboxes. Raises sandbox.Unavailable where there are none: before training, not at each call."""
        sandbox.ready()

    def __call__(self, problem: Problem, code: str) -> str:
        limits = Limits(
            cpu=self.seconds,
            wall=2 * self.seconds,
            memory=self.memory * MiB,
            address_space=self.memory * MiB,
            output=self.printed << 10,
        )
        files = {'tool.py': code.encode('utf-8', 'replace')}
        ran = sandbox.run(['python', 'script', 'tool.py'], files=files, limits=limits)
        printed = ran.stdout.decode('utf-8', 'replace').rstrip()
        if ran.outcome in _WHY:
            why, outcome = _WHY[ran.outcome]
            raise ToolError(_with(printed, why), outcome)
        if ran.status:
            said = ran.stderr.decode('utf-8', 'replace').strip().splitlines()
            raise ToolError(_with(printed, said[-1] if said else f'exit status {ran.status}'))
        return printed or '(it printed nothing)'


def _with(printed: str, why: str) -> str:
    """Why a program failed, behind what it had printed."""
    return f'{why} (after printing: {printed[-500:]})' if printed else why
