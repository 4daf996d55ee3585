"""Between the policy and its environment: what the policy wrote becomes texts, what the environment says becomes tokens.

In: rows whose last turn is over (`r1jax.sample.turns`). Out: what is said to them. The environment is called in the worker processes that
grade (`r1jax.rewards.environment`), beside the device.

The conversation is a function of the row's tokens and of which of them the policy drew, so nothing else has to be kept of it: a response
that is carried into the next rollout goes on from there.

Axes: n tokens of a response, m of what is said, B rows, K outcomes.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from r1jax.config import Environment
from r1jax.rewards.environment import Called, inline, reply
from r1jax.rewards.pool import Pool
from r1jax.rewards.queue import Grade
from r1jax.sample import Row, Said
from r1jax.types import OUTCOMES, Array, Problem, Reply, Response

_TAG = re.compile(r'</?\w+>|<\|\w+\|>|<｜[^｜]+｜>')


class _Asked(NamedTuple):
    """A row that waits to hear something."""

    index: int  # type: ignore[assignment]  # it hides a method of tuples
    size: int  # tokens of its response so far
    problem: Problem
    response: Response


class Talk:
    """What is said to the rows of one call of the sampler: `r1jax.sample.Replies`."""

    def __init__(
        self,
        environment: Environment,
        tokenizer: Any,
        pool: Pool,
        problem: Callable[[int], Problem],
        limit: Callable[[int], int],
        before: Callable[[int], tuple[np.ndarray, np.ndarray]] | None = None,
    ):
        """problem, limit: of a row by its index, its problem and the most tokens of its whole response; before: the response of a row
        before this call, tokens i32[n] and whose they are bool[n], where there is any.
        """
        self.environment, self.tokenizer, self.pool = environment, tokenizer, pool
        self.problem, self.limit, self.before = problem, limit, before
        self._called = Called(environment)
        self._asked: list[_Asked] = []
        self._job: Any = None

    def ask(self, row: Row) -> None:
        tokens, own = self._whole(row)
        call = self.problem(row.index), conversation(tokens, own, True, self.tokenizer)
        self._asked.append(_Asked(row.index, len(tokens), *call))
        if self.environment.deadline:
            self._job = self._job or self.pool.open(self._called, self.environment.deadline)
            self.pool.add(self._job, [call])

    def answers(self) -> list[Said]:
        asked, self._asked = self._asked, []
        if self.environment.deadline:
            job, self._job = self._job, None
            grades = self.pool.end(job).result()
        else:
            grades = self.pool.once(lambda: [inline(self._called, a.problem, a.response) for a in asked])
        return [self._said(each, grade) for each, grade in zip(asked, grades, strict=True)]

    def _whole(self, row: Row) -> tuple[np.ndarray, np.ndarray]:
        """i32[n] and bool[n], the response so far and whose it is."""
        own = np.ones(len(row.tokens), bool) if row.own is None else row.own
        if self.before is None:
            return row.tokens, own
        tokens, theirs = self.before(row.index)
        return np.concatenate([tokens, row.tokens]), np.concatenate([theirs, own])

    def _said(self, asked: _Asked, grade: Grade) -> Said:
        found = reply(grade)
        if found is None:
            return Said(None)
        tokens, taken = self._framed(found), (len(asked.response.turns) + 1) // 2
        if taken >= self.environment.turns or asked.size + len(tokens) >= self.limit(asked.index):
            return Said(None, 'turns')
        count = collections.Counter(found.outcomes or ['answered'] * len(found.texts))
        return Said(tokens, outcomes=np.array([count[name] for name in OUTCOMES], np.int32))

    def _framed(self, said: Reply) -> np.ndarray:
        """i32[m]: a reply as the policy reads it."""
        frame, encode = self.environment.frame, self.tokenizer.encode
        ids = encode(frame.before)
        for i, text in enumerate(said.texts):
            ids = [*ids, *(encode(frame.between) if i else ()), *self._words(text)]
        return np.array([*ids, *encode(frame.after)], np.int32)

    def _words(self, text: str) -> list[int]:
        """A text that cannot end its own frame, as long as it may be."""
        frame, most = self.environment.frame, self.environment.output
        for mark in set(_TAG.findall(' '.join([frame.before, frame.between, frame.after, *frame.stops]))):
            text = text.replace(mark, f'{mark[0]} {mark[1:]}')
        words = self.tokenizer.encode_text(text)
        return words if len(words) <= most else [*words[:most], *self.tokenizer.encode(frame.cut)]


def conversation(tokens: np.ndarray, own: np.ndarray, finished: bool, tokenizer: Any) -> Response:
    """A response in turns. tokens i32[n]; own bool[n], those that the policy drew, the first among them.

    End tokens are dropped from the policy's turns, and counted; what ends a turn besides (`Frame.stops`) is words.
    """
    ends = {tokenizer.eos, *getattr(tokenizer, 'stops', ())}
    turns = []
    for i, part in enumerate(np.split(tokens, np.flatnonzero(np.diff(own)) + 1)):
        ended = i % 2 == 0 and len(part) and int(part[-1]) in ends
        turns.append(tokenizer.decode(part[: len(part) - bool(ended)].tolist()))
    return Response('\n'.join(turns[::2]), int(own.sum()), bool(finished), tuple(turns))


def talked(answers: Sequence[Response], outcomes: Array) -> dict[str, float]:
    """Of B responses and what they asked for, i32[B,K]: turns of the policy, texts and words of the environment (characters) a response,
    the share that asked for something, and how often it came to each outcome, where it did.
    """
    counts = outcomes.sum(0)
    return {
        'turns': float(np.mean([(len(a.turns) + 1) // 2 for a in answers])),
        'asked': float((outcomes.sum(1) > 0).mean()),
        'replies': float(outcomes.sum(1).mean()),
        'characters': float(np.mean([sum(map(len, a.turns[1::2])) for a in answers])),
        **{name: int(n) for name, n in zip(OUTCOMES, counts, strict=True) if n},
    }


def stops(environment: Environment | None, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end a turn for an environment, besides the tokenizer's.

    Raises:
      ValueError: a text is not one token.
    """
    found = []
    for text in environment.frame.stops if environment else ():
        ids = tokenizer.encode(text)
        if len(ids) != 1:
            raise ValueError(
                f'environment.frame.stops: {text!r} is {len(ids)} tokens, and a turn ends with one: leave it out, so that turns end '
                'with the end token, or use a tokenizer that has it'
            )
        found += ids
    return tuple(found)
