"""The values that travel between the recipe's three verbs: `sample`, `score`, `update`.

Host values (`Problem`, `Response`, `Reply`, `Example`, `Pair`, `Labelled`) are plain Python and stand here. Device values (`Rollout`,
`Batch`, `TrainState`) stand in `r1jax.arrays` and are had from here too; they are loaded when asked for, and jax with them, since
worker processes that grade must start small and fast.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from r1jax.arrays import Array, Batch, Rollout, TrainState

__all__ = ['Array', 'Batch', 'Example', 'Labelled', 'Pair', 'Problem', 'Reply', 'Response', 'Rollout', 'TrainState']


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f'module {__name__} has no attribute {name!r}')
    return getattr(importlib.import_module('r1jax.arrays'), name)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A question with what is needed to grade its answers."""

    id: int  # stable within its source; seeds the draws of its samples
    prompt: str  # the question itself; a template turns it into model input
    answer: str  # ground truth
    kind: str = 'math'  # which reward rules apply
    language: str = 'en'
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # what a task's own scorer needs


@dataclasses.dataclass(frozen=True)
class Response:
    """One sampled answer to a problem.

    Of several turns, `text` is the policy's own, a newline between them: what a tool said is nobody's answer, and no reward takes it for
    one.
    """

    text: str  # decoded, without end tokens
    tokens: int  # number of sampled tokens, end tokens included
    finished: bool  # False: cut off at a limit
    # With an environment: what the policy and the environment said, in turn, the policy first; () without one
    turns: tuple[str, ...] = ()


# What may become of what the policy asks of an environment. The last five are failures of what answers, and become words for the policy
OUTCOMES = ('answered', 'malformed', 'unknown', 'failed', 'timeout', 'memory', 'died', 'raised')


@dataclasses.dataclass(frozen=True)
class Reply:
    """What an environment says after a turn of the policy."""

    texts: tuple[str, ...]  # one or more, such as an answer to each call of a tool
    outcomes: tuple[str, ...] = ()  # of each text, one of OUTCOMES; (): all 'answered'

    def __post_init__(self):
        if not self.texts or len(self.outcomes) not in (0, len(self.texts)):
            raise ValueError(
                f'a Reply has texts, and as many outcomes or none, not {self.texts!r:.80} and {self.outcomes}'
            )
        if unknown := set(self.outcomes) - set(OUTCOMES):
            raise ValueError(f'a Reply has no outcome {min(unknown)!r}: there are {", ".join(OUTCOMES)}')


@dataclasses.dataclass(frozen=True)
class Example:
    """A stored training text. The loss is on the response and the end token that follows it."""

    prompt: str  # '' for plain text, whose every token is learned
    response: str


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two answers to a question, one of which was preferred: what a reward model learns helpfulness from.

    Both are what the reward will read: of a response that reasons, the summary that follows `</think>`.
    """

    problem: Problem
    chosen: str
    rejected: str


@dataclasses.dataclass(frozen=True)
class Labelled:
    """An answer to a question with a judgement of its own: what a reward model learns safety from."""

    problem: Problem
    response: str  # whole, reasoning included
    label: float  # 1 safe, 0 unsafe; between them a share of judges
