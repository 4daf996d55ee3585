"""A second chance: a task's own scorer says whether an answer is right, and the policy is told when it is not.

For any reward that grades one response, such as those of reasoning-gym's tasks:

    Retry(accuracy.reasoning_gym, turns=3)          with ReasoningGym('countdown', …) as problems

The text of all turns is what rewards read, and `accuracy.answer` takes the last answer in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from r1jax.config import Frame
from r1jax.environments.dialogue import USER
from r1jax.types import Problem, Reply, Response


@dataclasses.dataclass(frozen=True)
class Retry:
    """An environment that says `text` after each turn that `judge` gives less than `enough`."""

    judge: Callable[[Problem, Response], float]  # of a turn by itself, as a reward
    enough: float = 1.0
    text: str = 'That is not right. Try again.'
    frame: Frame = USER
    turns: int = 3  # see `Environment`
    output: int = 64
    deadline: float = 10.0

    def warm(self) -> None:
        """As the judge's."""
        getattr(self.judge, 'warm', bool)()

    def __call__(self, problem: Problem, response: Response) -> Reply | None:
        turn = response.turns[-1]
        if self.judge(problem, dataclasses.replace(response, text=turn, turns=(turn,))) >= self.enough:
            return None
        return Reply((self.text,))
