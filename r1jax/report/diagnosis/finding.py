"""What a check says, and what checks look at: a metric at the beginning and at the end of a stage.

Words follow intervals, as in the report: a metric "rose" if the 95 % intervals of its means over the first and the last fifth of the
steps do not overlap.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from r1jax.report.curves import WINDOW, Z
from r1jax.report.workdir import StageRun

Severity = Literal['problem', 'warning', 'note']
SEVERITIES: tuple[Severity, ...] = ('problem', 'warning', 'note')  # the gravest first

# Steps of a metric below which nothing is said of its course: a fifth of them is the least that has a spread
LEAST = 10


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something about a stage that explains why it does not learn, or why what it seems to learn is not to be believed."""

    stage: str
    check: str  # which check found it; docs/diagnosis.md has a section of this name
    severity: Severity  # no use going on; look at it; worth knowing
    seen: str  # a sentence, with the numbers
    todo: str  # what to do
    steps: tuple[int, int] | None = None  # first and last step that it was seen in
    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)  # the evidence: what was measured -> value

    def lines(self) -> str:
        """For a terminal."""
        where = f', steps {self.steps[0]:,} to {self.steps[1]:,}' if self.steps else ''
        return f'{self.severity:<7}  {self.stage}, {self.check}{where}: {self.seen}\n         → {self.todo}'

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self) | {'steps': self.steps and list(self.steps), 'numbers': dict(self.numbers)}


@dataclasses.dataclass(frozen=True)
class Course:
    """A metric over the steps of a stage, of which there are at least `LEAST`."""

    steps: np.ndarray  # f64[N], ascending
    values: np.ndarray  # f64[N], finite

    @property
    def _ends(self) -> tuple[np.ndarray, np.ndarray]:
        width = max(2, int(WINDOW * self.values.size))
        return self.values[:width], self.values[-width:]

    @property
    def first(self) -> float:
        """Mean over the first fifth."""
        return float(self._ends[0].mean())

    @property
    def last(self) -> float:
        """Mean over the last fifth."""
        return float(self._ends[1].mean())

    @property
    def end(self) -> tuple[int, int]:
        """The steps of the last fifth."""
        return int(self.steps[-self._ends[1].size]), int(self.steps[-1])

    @property
    def whole(self) -> tuple[int, int]:
        return int(self.steps[0]), int(self.steps[-1])

    @property
    def change(self) -> int:
        """1: it rose; −1: it fell; 0: the 95 % intervals of the two means overlap."""
        (low, high), (low_, high_) = map(interval, self._ends)
        return 1 if low_ > high else -1 if high_ < low else 0


def course(stage: StageRun, path: str) -> Course | None:
    """A metric's course, None where there are too few steps of it to say anything."""
    steps, values = stage.column(path)
    return Course(steps, values) if values.size >= LEAST else None


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of values taken as independent; of one value that value."""
    half = Z * values.std(ddof=1) / np.sqrt(values.size) if values.size > 1 else 0.0
    return float(values.mean() - half), float(values.mean() + half)


def percent(value: float) -> str:
    return f'{100 * value:.3g} %'


def rewards_since(stage: StageRun) -> int:
    """The steps after which the stage had the rewards that it ended with; 0: from its beginning. Their sum is another one before."""
    phases = [each for each in stage.config.get('phases') or () if isinstance(each, dict)]
    return max((each.get('step') or 0 for each in phases if each.get('rewards') is not None), default=0)
