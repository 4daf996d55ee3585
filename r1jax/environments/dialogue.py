"""A user who goes on asking: the turns of a conversation that are known beforehand."""

from __future__ import annotations

import dataclasses

from r1jax.config import Frame
from r1jax.types import Problem, Reply, Response

# A user's turn in ChatML, and the head of the assistant's next
USER = Frame(before='\n<|im_start|>user\n', between='\n', after='<|im_end|>\n<|im_start|>assistant\n')


@dataclasses.dataclass(frozen=True)
class Dialogue:
    """An environment that asks `Problem.meta['follow_ups']`, a list of texts, one after each turn; then the response is over.

    The problem's answer is what the last turn is graded by, or each turn by a reward of its own that reads `Response.turns`.
    """

    frame: Frame = USER
    turns: int = 8  # see `Environment`
    output: int = 512
    deadline: float = 0.0  # nothing of it takes time

    def __call__(self, problem: Problem, response: Response) -> Reply | None:
        asked = problem.meta.get('follow_ups', ())
        done = len(response.turns) // 2
        return Reply((asked[done],)) if done < len(asked) else None
