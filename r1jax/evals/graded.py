"""Sampling and grading at once: a response goes to the graders as soon as it is there, while the device decodes the others.

Rollouts, evaluations and rejection sampling all get their responses here. Nothing of the host is waited for but the grades that are
still missing when the last row is there (`Graded.scoring.result`).

Axes: Q questions, G samples, B = Q·G rows (question-major).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from r1jax.config import Environment, Part
from r1jax.evals.talk import Talk, conversation
from r1jax.pulse import beat
from r1jax.rewards.combine import Scores, Scoring
from r1jax.rewards.pool import Pool
from r1jax.sample import Row, Sampler, put, response
from r1jax.types import OUTCOMES, Problem, Response, Rollout


@dataclasses.dataclass(frozen=True)
class Graded:
    """Responses to questions, on their way through the graders."""

    problems: list[Problem]  # B, each G times
    answers: list[Response]  # B
    rollout: Rollout  # of NumPy arrays
    scoring: Scoring
    order: list[int]  # of each row, when it came to the graders
    page: Any = None  # as `Asker.__call__`'s

    def result(self) -> Scores:
        """Waits for the grades; see `Scoring.result`."""
        if self.page and self.page.scores:
            return self.page.scores
        scores = self.scoring.result(self.order)
        if self.page:
            self.page.graded(scores)
        return scores


@dataclasses.dataclass(frozen=True)
class Asker:
    """What puts questions to a policy and hands its answers on."""

    sampler: Sampler
    tokenizer: object
    pool: Pool
    environment: Environment | None = None  # what answers it between its turns

    def read(self, row: Row) -> Response:
        """A row of whole responses as text."""
        if self.environment is None:
            return response(row.tokens, row.finished, self.tokenizer)
        own = np.ones(len(row.tokens), bool) if row.own is None else row.own
        return conversation(row.tokens, own, row.finished, self.tokenizer)

    def __call__(
        self,
        params,
        problems: Sequence[Problem],
        prompts: Sequence[Sequence[int]],
        rewards: Sequence[Part],
        rollout: int,
        limit: int,
        temperature: float,
        page: Any = None,
    ) -> Graded:
        """Samples the problems (`Sampler.__call__` says how, and what the arguments are) and has `rewards` grade them.

        page: what the disk has of this very call (`r1jax.train.journal.Page`), which takes what is new. Returns when all rows are there,
        with the grading begun.
        """
        G, ids = self.sampler.samples, [p.id for p in problems]
        repeated = [p for p in problems for _ in range(G)]
        out = self.sampler.blank(ids)
        answers: list[Response] = [None] * len(repeated)
        scoring, came, talk, B = Scoring(rewards, self.pool), [], None, len(repeated)
        if self.environment:
            limits = np.minimum(np.broadcast_to(limit, B), self.sampler.decode.max_tokens)
            talk = Talk(self.environment, self.tokenizer, self.pool, repeated.__getitem__, lambda b: int(limits[b]))
            out = dataclasses.replace(out, outcomes=np.zeros((B, len(OUTCOMES)), np.int32))

        def sampled(without: Collection[int] = ()) -> Iterator[Row]:
            return self.sampler.stream(params, ids, prompts, rollout, limit, temperature, without, talk)

        apart = self.sampler.separable(B, engine=talk is not None)
        for row in page.through(B, apart, sampled) if page else sampled():
            answers[row.index] = self.read(row)
            if not (page and page.scores):
                scoring.add([repeated[row.index]], [answers[row.index]])
            came.append(row.index)
            put(out, row, prompts[row.index // G])
            beat()
        return Graded(repeated, answers, out, scoring, np.argsort(came).tolist(), page)
