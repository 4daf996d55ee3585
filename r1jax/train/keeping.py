"""Which checkpoints of a stage stay: the last ones, every so many steps one, and the best by a metric."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from r1jax.config import Stage


@dataclasses.dataclass(frozen=True)
class Keep:
    """What is kept; the fields of `Stage` whose names begin with keep_."""

    last: int = 2
    every: int = 0  # steps; 0: none
    best: str = ''  # a metric, '-' before it for the lowest; '': none

    @classmethod
    def of(cls, stage: Stage) -> Keep:
        return cls(stage.keep_checkpoints, stage.keep_every, stage.keep_best)

    def metric(self, values: Mapping[str, float]) -> float | None:
        """What a step's metrics say of its checkpoint, more is better; None: nothing."""
        value = values.get(self.best.removeprefix('-')) if self.best else None
        if value is None or value != value:
            return None
        return -float(value) if self.best.startswith('-') else float(value)

    def __call__(self, metrics: Mapping[int, float | None]) -> set[int]:
        """The steps to keep, of those that there are with their metrics; of equally good ones the later."""
        kept = set(sorted(metrics)[-self.last :])
        if self.every:
            kept |= {step for step in metrics if step % self.every == 0}
        rated = [(value, step) for step, value in metrics.items() if value is not None]
        return kept | ({max(rated)[1]} if self.best and rated else set())
