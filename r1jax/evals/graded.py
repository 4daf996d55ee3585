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

from r1jax.config import Part
from r1jax.pulse import beat
from r1jax.rewards.combine import Scores, Scoring
from r1jax.rewards.pool import Pool
from r1jax.sample import Row, Sampler, put, response
from r1jax.types import Problem, Response, Rollout


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
        out, answers = self.sampler.blank(ids), [None] * len(repeated)
        scoring, came = Scoring(rewards, self.pool), []

        def sampled(without: Collection[int] = ()) -> Iterator[Row]:
            return self.sampler.stream(params, ids, prompts, rollout, limit, temperature, without=without)

        B = len(repeated)
        for row in page.through(B, self.sampler.separable(B), sampled) if page else sampled():
            answers[row.index] = response(row.tokens, row.finished, self.tokenizer)
            if not (page and page.scores):
                scoring.add([repeated[row.index]], [answers[row.index]])
            came.append(row.index)
            put(out, row, prompts[row.index // G])
            beat()
        return Graded(repeated, answers, out, scoring, np.argsort(came).tolist(), page)
