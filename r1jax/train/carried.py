"""Partial rollouts: a sample draws at most `budget` tokens in one rollout, and what is unfinished then is carried into the next.

So no rollout waits for its longest samples (Kimi k1.5, arXiv 2501.12599 §2.6.2). A sample that is carried goes on under the newer policy:
its tokens so far are read again as a prompt, and its draws go on with the key that it began with. Each token keeps the log-probability
under the policy that drew it, and that policy's version.

A group is over once all its samples are, and is only then graded, by the rewards of that rollout, and taught. Its other samples wait.

Axes: C rows in flight (whole groups of G, in the order in which they began), T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.config import Part
from r1jax.evals.graded import Asker, Graded
from r1jax.evals.talk import Talk
from r1jax.pulse import beat
from r1jax.rewards.combine import Scoring
from r1jax.sample import Request, Row
from r1jax.types import OUTCOMES, Problem, Response, Rollout

Tokens = Sequence[int]


class Carrier:
    """Asks questions of a policy as `Asker` does, a budget of tokens at a time.

    `problems` and `prompts` are those that questions are chosen from, by index.
    """

    def __init__(self, ask: Asker, budget: int, problems: Sequence[Problem], prompts: Sequence[Tokens]):
        self.ask, self.budget, self.problems, self.prompts = ask, budget, problems, prompts
        # Of each row in flight: problem i32[C] (an index), sample i32[C], key u32[C,·], start i32[C] (the prompt's tokens), length i32[C]
        # (the response's), finished bool[C]; tokens, version i32[C,T], logp f32[C,T]; with experts routes i16[C,T,M,k]. With an
        # environment ended bool[C] (it came to a limit of it), outcomes i32[C,K]
        self.rows: dict[str, np.ndarray] = {}  # empty: nothing is in flight
        self.drawn = 0  # tokens, since it was last set to 0

    def __call__(
        self,
        params,
        chosen: Sequence[int],
        rewards: Sequence[Part],
        rollout: int,
        limit: int,
        temperature: float,
        version: int,
        open_page: Callable[[Mapping[str, np.ndarray]], Any] | None = None,
    ) -> Graded:
        """Begins the samples of the chosen problems, goes on with those in flight, and has the groups graded that are over by then.

        limit: most tokens of a response, of all calls together; rollout: goes into the draws of the rows that begin; version: the
        policy's; open_page: from the rows to what the disk has of this call (`r1jax.train.journal.Page`). Returns the groups that are over,
        perhaps none, in the order in which they began; the others stay in flight.
        """
        sampler, G = self.ask.sampler, self.ask.sampler.samples
        rows = _joined(self.rows, self._begun(chosen, rollout) if chosen else {})
        problems = {i: self.problems[i] for i in set(rows['problem'].tolist())}
        over = rows['finished'] | (rows['length'] >= limit)
        over |= rows.get('ended', False)
        scoring = Scoring(rewards, self.ask.pool)
        came: list[int] = []
        answers: dict[int, Response] = {}
        page = open_page(rows) if open_page else None
        wanted = np.flatnonzero(~over)
        environment, talk = self.ask.environment, None
        if environment:
            said = {int(b): _response(rows, b) for b in wanted}
            asked = environment, self.ask.tokenizer, self.ask.pool
            talk = Talk(*asked, lambda b: problems[rows['problem'][b]], lambda b: limit, said.__getitem__)

        def look(group: int | np.integer) -> None:
            """Has a group graded if it is over."""
            mine = list(range(group * G, (group + 1) * G))
            if over[mine].all():
                answers.update((b, self._answer(rows, b)) for b in mine)
                if not (page and page.scores):
                    scoring.add([problems[rows['problem'][b]] for b in mine], [answers[b] for b in mine])
                came.extend(mine)

        def sampled(without: Collection[int] = ()) -> Iterator[Row]:
            asked = [self._request(rows, b, limit, temperature) for b in wanted if b not in without]
            return sampler.answer(params, asked, talk)

        for group in sorted(set(np.flatnonzero(over) // G)):  # a phase has lowered the limit
            look(group)
        for row in page.through(len(wanted), sampler.separable(0, engine=True), sampled) if page else sampled():
            _write(rows, row, version)
            self.drawn += len(row.tokens) if row.own is None else int(row.own.sum())
            over[row.index] = row.why in ('stop', 'turns') or rows['length'][row.index] >= limit
            look(row.index // G)
            beat()
        done = np.sort(np.array(came, int))
        left = np.setdiff1d(np.arange(len(over)), done)
        self.rows = {name: a[left] for name, a in rows.items()} if len(left) else {}
        repeated = [problems[i] for i in rows['problem'][done]]
        out = _rollout({name: a[done] for name, a in rows.items()}, [p.id for p in repeated])
        return Graded(repeated, [answers[b] for b in done], out, scoring, np.argsort(came).tolist(), page)

    @property
    def unfinished(self) -> int:
        """Samples that the next call goes on with."""
        return int((~(self.rows['finished'] | self.rows.get('ended', False))).sum()) if self.rows else 0

    def _begun(self, chosen: Sequence[int], rollout: int) -> dict[str, np.ndarray]:
        """Rows in flight that have no token yet."""
        sampler, G = self.ask.sampler, self.ask.sampler.samples
        ids, C = [self.problems[i].id for i in chosen], len(chosen) * G
        blank = sampler.blank(ids)
        rows: dict[str, Any] = {
            'problem': np.repeat(np.array(chosen, np.int32), G),
            'sample': blank.sample,
            'key': sampler.keys(ids, rollout),
            'start': np.repeat(np.array([len(self.prompts[i]) for i in chosen], np.int32), G),
            'length': np.zeros(C, np.int32),
            'finished': blank.finished,
            'tokens': blank.tokens,
            'version': np.full(blank.tokens.shape, -1, np.int32),
            'logp': blank.logp,
        }
        for b, i in enumerate(rows['problem']):
            rows['tokens'][b, : rows['start'][b]] = self.prompts[i]
        if self.ask.environment:
            rows |= {'ended': np.zeros(C, bool), 'outcomes': np.zeros((C, len(OUTCOMES)), np.int32)}
        return rows if blank.routes is None else rows | {'routes': blank.routes}

    def _answer(self, rows: dict[str, np.ndarray], b: int) -> Response:
        """The whole response of a row."""
        tokens, own = _response(rows, b)
        why = 'stop' if rows['finished'][b] else 'limit'
        return self.ask.read(Row(int(b), tokens, np.zeros(0, np.float32), why, own=own))

    def _request(self, rows: dict[str, np.ndarray], b: int | np.integer, limit: int, temperature: float) -> Request:
        length = int(rows['length'][b])
        prompt = rows['tokens'][b, : rows['start'][b] + length]
        return Request(prompt, min(self.budget, limit - length), rows['key'][b], temperature, length, int(b))


def _joined(rows: dict[str, np.ndarray], more: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Both, in new arrays: they are written to."""
    return {name: np.concatenate([a[name] for a in (rows, more) if a]) for name in rows or more}


def _response(rows: dict[str, np.ndarray], b: int | np.integer) -> tuple[np.ndarray, np.ndarray]:
    """i32[n] and bool[n], the response of a row so far, and which of it the policy drew."""
    start = rows['start'][b]
    here = slice(start, start + rows['length'][b])
    return rows['tokens'][b, here].copy(), rows['version'][b, here] >= 0


def _write(rows: dict[str, np.ndarray], row: Row, version: int) -> None:
    """Puts new tokens behind those that a row has."""
    b = row.index
    at = rows['start'][b] + rows['length'][b]
    new = slice(at, at + len(row.tokens))
    rows['tokens'][b, new], rows['logp'][b, new] = row.tokens, row.logp
    rows['version'][b, new] = version if row.own is None else np.where(row.own, version, -1)
    rows['length'][b] += len(row.tokens)
    rows['finished'][b] = row.finished
    if 'ended' in rows:
        rows['ended'][b] = row.why == 'turns'
        rows['outcomes'][b] += 0 if row.outcomes is None else row.outcomes
    if row.routes is not None:  # what was read before keeps the experts that it was drawn with
        here = rows['routes'][b, : len(row.routes)]
        here[...] = np.where(here < 0, row.routes, here)


def _rollout(rows: dict[str, np.ndarray], question: Sequence[int]) -> Rollout:
    """Rows as the sampler returns them, with a version for each token."""
    return Rollout(
        tokens=rows['tokens'],
        sampled=rows['version'] >= 0,
        logp=rows['logp'],
        question=np.array(question, np.int32),
        sample=rows['sample'],
        finished=rows['finished'],
        version=rows['version'],
        routes=rows.get('routes'),
        outcomes=rows.get('outcomes'),
    )
