"""An environment as the processes that grade call it, so that what hangs, dies or grows costs its own call and nothing else.

In: a problem and the conversation so far. Out: a `Reply`, or what the policy is told where there is none.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math

from r1jax.config import Environment
from r1jax.rewards.queue import Grade
from r1jax.types import Problem, Reply, Response

_log = logging.getLogger(__name__)

# of all texts of a reply, which crosses from a worker process in one frame; tokens are counted after that
CHARACTERS = 16_384
_FAILED = {  # what the policy reads where the environment gave no answer
    'timeout': 'error: this took too long',
    'memory': 'error: this took too much memory',
    'died': 'error: this ended without an answer',
    'raised': 'error: this failed',
}
_told: set[str] = set()


@dataclasses.dataclass(frozen=True)
class Called:
    """An environment in the form in which grading processes call: (number, explanation), here 0 and a `Reply` as JSON."""

    environment: Environment
    longest = 13 * CHARACTERS  # of an explanation: JSON makes up to twelve letters of one

    def warm(self) -> None:
        getattr(self.environment, 'warm', bool)()

    def __call__(self, problem: Problem, response: Response) -> tuple[float, str]:
        said = self.environment(problem, response)
        if said is None:
            return 0.0, 'null'
        if not isinstance(said, Reply):
            name = type(self.environment).__name__
            raise TypeError(f'{name} gave {said!r:.80}, and an environment gives a Reply or None')
        left, texts = CHARACTERS, []
        for text in said.texts:
            texts.append(text[:left])
            left -= len(texts[-1])
        return 0.0, json.dumps([texts, said.outcomes])


def inline(called: Called, problem: Problem, response: Response) -> Grade:
    """A call in this process, as a worker would grade it."""
    try:
        return Grade(0.0, 'graded', called(problem, response)[1])
    except ImportError:
        raise
    except Exception as error:  # whatever else an environment does, the policy reads that it failed
        return Grade(math.nan, 'raised', f'{type(error).__name__}: {error}')


def reply(grade: Grade) -> Reply | None:
    """What an environment said, or that it could not: why is told once an outcome, how often is in the metrics."""
    if grade.outcome == 'graded':
        found = json.loads(grade.detail)
        return found and Reply(*map(tuple, found))
    if grade.outcome not in _told:
        _told.add(grade.outcome)
        _log.warning('an environment gave no answer (%s; more are only counted): %s', grade.outcome, grade.detail)
    return Reply((_FAILED[grade.outcome],), (grade.outcome,))
