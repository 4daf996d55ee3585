"""A workdir as the report sees it: whatever is there, of a run that is finished, half finished or barely begun.

Reads config.json (the recipe under 'recipe', or at the top), metrics.jsonl and summary.json; `samples` reads
samples.jsonl. Any of them may be missing, empty or torn: what cannot be read counts as not there.
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

import numpy as np

from r1jax.train import log


@dataclasses.dataclass(frozen=True)
class StageRun:
    """One stage of a run."""

    name: str
    config: dict[str, Any]  # its Stage as in config.json, {} if unknown
    summary: dict[str, Any]  # its entry in summary.json, {} if not there yet
    lines: list[dict[str, Any]]  # its lines of metrics.jsonl

    @property
    def done(self) -> int:
        """Steps taken."""
        return int(self.summary.get('steps') or max((line.get('step', 0) for line in self.lines), default=0))

    @property
    def planned(self) -> int | None:
        return self.config.get('steps')

    def part(self, name: str) -> dict[str, Any]:
        """A dataclass of the stage ('source', 'loss', 'optim') as written in config.json, {} if unknown."""
        value = self.config.get(name)
        return value if isinstance(value, dict) else {}

    @property
    def finished(self) -> bool:
        return bool(self.summary) and self.done >= (self.planned or 0)

    @property
    def seconds(self) -> float | None:
        if self.summary.get('seconds') is not None:
            return self.summary['seconds']
        return max((line['seconds'] for line in self.lines if line.get('seconds') is not None), default=None)

    @property
    def evals(self) -> dict[str, dict[str, dict]]:
        """Name -> {'before': EVAL, 'after': EVAL}, either may be missing; the stage's main evaluation first."""
        found = self.summary.get('evals') or {'evaluation': self.summary}
        results = {
            name: {when: both[when] for when in ('before', 'after') if (both.get(when) or {}).get('pass@1') is not None}
            for name, both in found.items()
        }
        return {name: both for name, both in results.items() if both}

    def column(self, path: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps f[N] and finite values f[N] of a metric."""
        rows = [(line['step'], line[path]) for line in self.lines if is_number(line.get(path))]
        table = np.array(rows, float).reshape(-1, 2)
        return table[:, 0], table[:, 1]


@dataclasses.dataclass(frozen=True)
class Run:
    """All of a workdir but its samples."""

    name: str
    config: dict[str, Any]
    summary: dict[str, Any]
    stages: list[StageRun]

    @property
    def finished(self) -> bool:
        return bool(self.stages) and all(stage.finished for stage in self.stages)


def read(workdir: str) -> Run:
    """What is there.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: metrics.jsonl is damaged before its last line.
    """
    if not os.path.isdir(workdir):
        raise FileNotFoundError(f'no workdir at {workdir}')
    config = _load(os.path.join(workdir, 'config.json'))
    summary = _load(os.path.join(workdir, log.SUMMARY))
    recipe = recipe_of(config)
    stages = {
        stage['name']: stage for stage in recipe.get('stages') or [] if isinstance(stage, dict) and 'name' in stage
    }
    results = summary.get('stages') or {}
    lines: dict[str, list[dict]] = {}
    for line in log.read(os.path.join(workdir, log.METRICS)):
        if 'step' in line:
            lines.setdefault(str(line.get('stage')), []).append(line)
    names = dict.fromkeys([*stages, *lines, *results])  # in the recipe's order, then as they were met
    name = recipe.get('name') or summary.get('recipe') or os.path.basename(os.path.abspath(workdir))
    runs = [StageRun(n, stages.get(n, {}), results.get(n) or {}, lines.get(n, [])) for n in names]
    return Run(str(name), config, summary, runs)


def recipe_of(config: dict[str, Any]) -> dict[str, Any]:
    """The recipe in a config.json."""
    return config['recipe'] if isinstance(config.get('recipe'), dict) else config


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and bool(np.isfinite(value))


def _load(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding='utf-8') as file:
            value = json.load(file)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
