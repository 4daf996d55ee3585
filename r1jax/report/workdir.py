"""A workdir as the report sees it: whatever is there, of a run that is finished, half finished or barely begun.

Reads config.json (the recipe under 'recipe', or at the top), metrics.jsonl, summary.json, lineage.json and the data
cards; `samples` and `aha` read samples.jsonl. Any of them may be missing, empty or torn: what cannot be read counts as
not there.
"""

from __future__ import annotations

import dataclasses
import functools
import glob
import json
import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from r1jax.train import log

LINEAGE = 'lineage.json'
CARDS = os.path.join('data', '*.card.json')
COLLECTS = 'rejection sampling'
LOSSES = {  # the type of a stage's loss -> what the stage is called
    'NLL': 'next token',
    'GRPO': 'GRPO',
    'DPO': 'DPO, pairs',
    'BradleyTerry': 'reward model, pairs',
    'Pointwise': 'reward model, labels',
    'Distil': 'distillation',
}


@dataclasses.dataclass(frozen=True)
class Point:
    """An evaluation's figure at a step of its stage."""

    step: int
    value: float
    ci: tuple[float, float] | None = None  # at 95 %


@dataclasses.dataclass(frozen=True)
class StageRun:
    """One stage of a run."""

    name: str
    config: dict[str, Any]  # its Stage as in config.json, {} if unknown
    summary: dict[str, Any]  # its entry in summary.json, {} if not there yet
    lines: list[dict[str, Any]]  # its lines of metrics.jsonl
    start: str = ''  # where it starts from, as in `Stage.start`; '' if unknown
    reads: tuple[str, ...] = ()  # other stages whose output it reads

    @property
    def kind(self) -> str:
        """What the stage does, in two words; '' if unknown."""
        source, loss = (str(self.part(name).get('type', '')).rpartition(':')[2] for name in ('source', 'loss'))
        if source == 'Collect':
            return COLLECTS
        if loss in LOSSES:
            return LOSSES[loss]
        return 'GRPO' if 'beta' in self.part('loss') else 'next token' if self.config else ''

    @property
    def reinforced(self) -> bool:
        """Whether it learns from rewards, as far as it has come. A stage that collects has rewards, too, and learns nothing."""
        return self.kind != COLLECTS and bool(self.column('reward/mean')[1].size)

    @property
    def collected(self) -> tuple[int, int] | None:
        """Of a stage that collected: samples kept, and samples drawn."""
        samples = (self.summary.get('collected') or {}).get('samples') or {}
        return (samples['kept'], samples['sampled']) if {'kept', 'sampled'} <= samples.keys() else None

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
        return self.summary.get('steps') is not None and self.done >= (self.planned or 0)

    @property
    def seconds(self) -> float | None:
        if self.summary.get('seconds') is not None:
            return self.summary['seconds']
        return max((line['seconds'] for line in self.lines if line.get('seconds') is not None), default=None)

    @property
    def measured(self) -> dict[str, dict[str, dict]]:
        """Name -> {'before': EVAL, 'after': EVAL}, either may be missing; the stage's main evaluation first."""
        found = self.summary.get('evals') or {'evaluation': self.summary}
        results = {
            name: {when: both[when] for when in ('before', 'after') if both.get(when)} for name, both in found.items()
        }
        return {name: both for name, both in results.items() if both}

    @property
    def evals(self) -> dict[str, dict[str, dict]]:
        """Those of `measured` whose questions have right answers."""
        results = {
            name: {when: result for when, result in both.items() if result.get('pass@1') is not None}
            for name, both in self.measured.items()
        }
        return {name: both for name, both in results.items() if both}

    def course(self, key: str) -> dict[str, list[Point]]:
        """Evaluation -> its figure `key` ('pass@1', 'part/helpful') before the stage (step 0), during and after it, in order of steps.

        The main evaluation comes first. What both files have is taken from summary.json.
        """
        found: dict[str, dict[int, Point]] = {}
        for name, both in self.measured.items():
            for when, step in (('before', 0), ('after', self.done)):
                if when in both and (point := figure_of(both[when], key)):
                    found.setdefault(name, {})[step] = Point(step, *point)
        for name, step, line in self._during:
            if is_number(line.get(path := f'eval/{name}/{key}')):
                found.setdefault(name, {}).setdefault(
                    step, Point(step, line[path], interval_of(line.get(f'{path}_ci')))
                )
        return {name: [points[step] for step in sorted(points)] for name, points in found.items()}

    @functools.cached_property
    def _during(self) -> list[tuple[str, int, dict[str, Any]]]:
        """(evaluation, step, line) of the lines that hold one."""
        found = []
        for line in self.lines:
            names = {path.split('/', 2)[1] for path in line if path.startswith('eval/') and path.count('/') > 1}
            found += [(name, line['step'], line) for name in sorted(names)]
        return found

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
    cards: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)  # stage -> its data card

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
    ancestry = _ancestry(_load(os.path.join(workdir, LINEAGE)), stages, names)
    runs = [StageRun(n, stages.get(n, {}), results.get(n) or {}, lines.get(n, []), *ancestry[n]) for n in names]
    cards = {
        os.path.basename(path).removesuffix('.card.json'): path for path in glob.glob(os.path.join(workdir, CARDS))
    }
    order = [*(n for n in names if n in cards), *sorted(cards.keys() - set(names))]
    return Run(str(name), config, summary, runs, {n: card for n in order if (card := _load(cards[n]))})


def _ancestry(lineage: dict, stages: dict[str, dict], names: Iterable[str]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Stage -> (where it starts, what else it reads): what lineage.json says, else what can be told from config.json."""
    recorded = lineage.get('stages') if isinstance(lineage.get('stages'), dict) else {}
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    known: set[str] = set()
    for name in names:
        entry = recorded.get(name) if isinstance(recorded.get(name), dict) else {}
        config = stages.get(name, {})
        reads = entry['reads'] if isinstance(entry.get('reads'), list) else sorted(_named(config, known))
        start = str(entry.get('start') or config.get('start') or '')
        found[name] = start, tuple(str(each) for each in reads if each in known and each != start)
        known.add(name)
    return found


def _named(value: Any, known: Collection[str], key: str = '') -> set[str]:
    """Names of stages in a stage's config, where a field says that it is one."""
    if isinstance(value, dict):
        return {name for k, inner in value.items() for name in _named(inner, known, k)}
    if isinstance(value, list):
        return {name for inner in value for name in _named(inner, known, key)}
    return {value} if key in ('stage', 'stages', 'teacher') and value in known else set()


def figure_of(result: Mapping[str, Any], key: str) -> tuple[float, tuple[float, float] | None] | None:
    """A figure of an EVAL with its interval; `part/NAME` is the mean of a reward part. None if it has none."""
    if key.startswith('part/'):
        part = (result.get('parts') or {}).get(key.removeprefix('part/')) or {}
        value, ci = part.get('mean'), part.get('ci')
    else:
        value, ci = result.get(key), result.get(f'{key}_ci')
    return (value, interval_of(ci)) if is_number(value) else None


def interval_of(value: Any) -> tuple[float, float] | None:
    """[low, high] as it was logged, None if it is none."""
    whole = isinstance(value, (list, tuple)) and len(value) == 2 and all(map(is_number, value))
    return (value[0], value[1]) if whole else None


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
