"""What holds at a step: a stage's settings with its phases applied, and seeds derived by name."""

from __future__ import annotations

import dataclasses
import zlib

from r1jax.config import OnPolicy, Part, Stage


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a phase can change. Read once a rollout, at its first step."""

    max_tokens: int  # 0 for stored sources
    temperature: float
    learning_rate: float
    rewards: tuple[Part, ...]


def settings_at(stage: Stage, step: int) -> Settings:
    """The settings of a rollout that begins at `step`: those of the stage, overlaid by every phase begun."""
    source = stage.source
    if isinstance(source, OnPolicy):
        now = Settings(source.sample.max_tokens, source.sample.temperature, stage.optim.learning_rate, source.rewards)
    else:
        now = Settings(0, 1.0, stage.optim.learning_rate, ())
    for phase in stage.phases:
        if phase.step <= step:
            changes = {f.name: getattr(phase, f.name) for f in dataclasses.fields(Settings)}
            now = dataclasses.replace(now, **{k: v for k, v in changes.items() if v is not None})
    return now


def longest(stage: Stage) -> int:
    """The largest max_tokens of any phase: what the sampler is compiled for."""
    return max(settings_at(stage, p).max_tokens for p in (0, *(p.step for p in stage.phases)))


def derive(seed: int, *names: str | int) -> int:
    """A 31-bit seed for a named purpose: distinct purposes get unrelated streams."""
    return zlib.crc32('/'.join(map(str, (seed, *names))).encode()) & 0x7FFFFFFF
