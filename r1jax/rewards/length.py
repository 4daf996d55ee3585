"""Length in tokens: the cosine reward, which makes short right answers and long wrong ones the better of their kind.

Source: Yeo et al. 2025, "Demystifying Long Chain-of-Thought Reasoning in LLMs" (arXiv 2502.03373, section 4). The other length
reward, DAPO's soft overlong penalty, needs the phase's token limit and stands in `r1jax.train.rollout.soft_overlong`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from r1jax.types import Problem, Response


@dataclasses.dataclass(frozen=True)
class Cosine:
    """r(l) = long + ½ (short − long) (1 + cos(π l / max_tokens)) for l tokens, with one pair (short, long) for right answers and one
    for wrong ones; `exceeded` for an answer that was cut off or is longer.

    It takes the place of the accuracy part that it is made of, `fn`, whose value from 0.5 on means right:
    `Part('accuracy_by_length', Cosine(Math(), max_tokens=4096), deadline=5)`. The defaults are the paper's.
    """

    fn: Callable[[Problem, Response], float]
    max_tokens: int  # the limit of sampling
    right_short: float = 2.0
    right_long: float = 1.0
    wrong_short: float = -10.0
    wrong_long: float = 0.0
    exceeded: float = -10.0

    def __post_init__(self):
        if self.max_tokens < 1:
            raise ValueError(f'max_tokens={self.max_tokens} must be at least 1: it is where the cosine ends')

    def __call__(self, problem: Problem, response: Response) -> float:
        """The reward of one response. Raises what `fn` raises."""
        if not response.finished or response.tokens > self.max_tokens:
            return self.exceeded
        right = self.fn(problem, response) >= 0.5
        short, long = (self.right_short, self.right_long) if right else (self.wrong_short, self.wrong_long)
        return long + (short - long) * (1 + math.cos(math.pi * response.tokens / self.max_tokens)) / 2
