"""Whether a step went wrong: it is not finite, or a spike over the median of those before it.

    value > factor · median of the last `WINDOW` steps that went well, once there are `LEAST` of them

The value is the loss, or with GRPO the gradient's norm: its loss is near 0 whatever happens. What is known is in the cursor of a
checkpoint, so that a run that goes on judges as one that was not stopped.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping

from r1jax.config import GRPO, Stage

WINDOW, LEAST = 32, 8  # steps


@dataclasses.dataclass
class Judge:
    """Judges steps in their order."""

    stage: Stage
    values: list[float] = dataclasses.field(default_factory=list)  # of the last steps that went well
    passed: dict[str, int] = dataclasses.field(default_factory=dict)  # step -> batches that are passed over there

    def __call__(self, metrics: Mapping[str, float]) -> str:
        """Why a step is to be rolled back, as the predicate of a sentence; '' where it is not."""
        if metrics['policy/skipped']:
            return 'was not finite' if self.stage.on_nan == 'rollback' and broken(metrics) else ''
        if not self.stage.spike:
            return ''
        name = 'grad_norm' if isinstance(self.stage.loss, GRPO) else 'loss'
        value, usual = metrics[name], statistics.median(self.values) if len(self.values) >= LEAST else math.inf
        if value > self.stage.spike * usual:
            return f'had a spike: {name} {value:.4g}, the median of the steps before is {usual:.4g}'
        self.values = [*self.values, value][-WINDOW:]
        return ''

    def pass_over(self, step: int) -> int:
        """Has one more batch be passed over at a step; how many are."""
        self.passed[str(step)] = self.passed.get(str(step), 0) + 1
        return self.passed[str(step)]

    def at(self, step: int) -> int:
        """How many batches are passed over at a step."""
        return self.passed.get(str(step), 0)

    def cursor(self) -> dict:
        return {'values': self.values, 'passed': self.passed}


def broken(metrics: Mapping[str, float]) -> bool:
    """Whether a step is not finite. (One that was skipped may have had nothing to learn from.)"""
    return not (math.isfinite(metrics['loss']) and math.isfinite(metrics['grad_norm']))
