"""Commands that take turns, round by round, so that what changes on the machine meanwhile meets them all."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence


def run(commands: Mapping[str, Sequence[str]], rounds: int, order: Sequence[str] = ()) -> dict[str, list[dict]]:
    """By name, what each command printed as its last line, a JSON object, whenever it ran. A round runs the names of `order`, by default
    each once. Lines are passed on as they come.

    Raises:
      SystemExit: a command failed; with the end of what it said.
    """
    seen: dict[str, list[dict]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name in order or commands:
            done = subprocess.run(commands[name], capture_output=True, text=True)
            if done.returncode:
                sys.exit(f'{name} failed:\n{done.stderr[-3000:]}')
            line = done.stdout.strip().splitlines()[-1]
            print(line, flush=True)
            seen[name].append(json.loads(line))
    return seen


def medians(seen: Mapping[str, list[dict]], keys: Iterable[str]) -> dict[str, dict[str, float]]:
    """By name, the medians over its rounds."""
    return {name: {key: statistics.median(line[key] for line in lines) for key in keys} for name, lines in seen.items()}
