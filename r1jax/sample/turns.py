"""Responses of several turns: where the policy has ended one, something may answer, and the policy goes on behind what was said.

In: requests, and `Replies`, which asks an environment on the host. Out: whole rows, in which `own` marks what the policy drew. A turn that
goes on is a request like any other whose prompt ends in tokens of the response: token i of a response draws with i folded into its key,
whoever wrote the tokens before it, so that a response's draws depend on nothing else than themselves.

What answers works beside the device. It is waited for when as many rows wait for an answer as are left in the engine: that follows from
counts of tokens and not from a clock, so a run repeats bit for bit however long a tool takes. As long as rows wait for slots, nobody waits
for a tool.

A turn that goes on has its whole row read again, as a prompt, by one pass over many tokens at a time; its keys are not kept in the
meantime, since its slot is another row's.

Axes: n tokens of a response, m of what is said, P of a prompt, M layers with experts, k experts of a token, K outcomes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from r1jax.sample.engine import Engine
from r1jax.sample.request import Answer, Request


class Row(NamedTuple):
    """A row that is over."""

    index: int  # type: ignore[assignment]  # it hides a method of tuples; among the Q·G rows
    tokens: np.ndarray  # i32[n], new ones
    logp: np.ndarray  # f32[n], nats; 0 where they are not the policy's
    why: str  # it ended: 'stop', a stop token; 'limit' of its tokens; 'turns', a limit of its environment's
    # i16[≤P+n,M,k], experts of each token, the prompt's first; −1 where it was not read
    routes: np.ndarray | None = None
    own: np.ndarray | None = None  # bool[n], drawn by the policy; None: all
    # i32[K], how often what it asked for came to each of `types.OUTCOMES`; None: it asked nobody
    outcomes: np.ndarray | None = None

    @property
    def finished(self) -> bool:
        return self.why == 'stop'


class Said(NamedTuple):
    """What is said to a turn."""

    tokens: np.ndarray | None  # i32[m], what the policy reads next; None: nothing, the response is over
    why: str = 'stop'  # it is over, as `Row.why`
    outcomes: np.ndarray | None = None  # i32[K]


class Replies(Protocol):
    """What answers the policy."""

    def ask(self, row: Row) -> None:
        """The row's last turn is over: begins to find what is said to it."""
        ...

    def answers(self) -> list[Said]:
        """Waits for all that was asked since the last call; in the order in which it was asked."""
        ...


def rows(engine: Engine, requests: Sequence[Request], replies: Replies | None = None) -> Iterator[Row]:
    """What the engine gives to requests, whose tags are the rows' indexes, each as it ends. `Request.limit` bounds all that follows the
    prompt, but for the words of an answer, which are read to their end.
    """
    for request in requests:
        engine.submit(request)
    earlier: dict[int, tuple[Request, Row]] = {}  # of rows that go on: the first request, and all since
    asked: list[tuple[Request, Row]] = []
    while asked or not engine.idle:
        for answer in () if engine.idle else engine.advance():
            first, before = earlier.pop(answer.request.tag, (answer.request, None))
            row = _of(answer) if before is None else _behind(before, answer)
            if replies is None or row.why != 'stop':
                yield row
            else:
                replies.ask(row)
                asked.append((first, row))
        if not asked or len(asked) < engine.unfinished:
            continue
        for (first, row), said in zip(asked, replies.answers(), strict=True):
            if said.tokens is None:
                yield row._replace(why=said.why)
                continue
            row = _told(row, said)
            n = len(row.tokens)
            if n >= first.limit:
                yield row._replace(why='limit')
                continue
            prompt = np.concatenate([np.asarray(first.prompt, np.int32), row.tokens])
            earlier[first.tag] = first, row
            engine.submit(dataclasses.replace(first, prompt=prompt, limit=first.limit - n, drawn=first.drawn + n))
        asked = []


def _of(answer: Answer) -> Row:
    return Row(answer.request.tag, answer.tokens, answer.logp, answer.why, answer.routes)


def _behind(before: Row, answer: Answer) -> Row:
    """A row with one turn more. What was read before keeps the experts that it was read with."""
    new, routes = _of(answer), before.routes
    if routes is not None:
        here = new.routes[: len(routes)]
        routes = np.concatenate([np.where(routes < 0, here, routes), new.routes[len(routes) :]])
    tokens, logp = np.concatenate([before.tokens, new.tokens]), np.concatenate([before.logp, new.logp])
    own = np.concatenate([before.own, np.ones(len(new.tokens), bool)])
    return before._replace(tokens=tokens, logp=logp, why=new.why, routes=routes, own=own)


def _told(row: Row, said: Said) -> Row:
    """A row with what was said to it."""
    n, m = len(row.tokens), len(said.tokens)
    own = np.ones(n, bool) if row.own is None else row.own
    return row._replace(
        tokens=np.concatenate([row.tokens, np.asarray(said.tokens, np.int32)]),
        logp=np.concatenate([row.logp, np.zeros(m, np.float32)]),
        own=np.concatenate([own, np.zeros(m, bool)]),
        outcomes=said.outcomes if row.outcomes is None else row.outcomes + said.outcomes,
    )
