"""A benchmark run: k samples a question, each graded and stored as it comes.

In: a policy, a benchmark's problems as tokens, and a file that may hold samples already. Out: the file, with what was missing. A sample
depends on (seed, question, sample) and on the number of slots alone: not on k, on other questions, or on where a run was stopped
(`Sampler(fixed=True)`). Rows go to the graders while the device decodes others; what a kill loses are those whose grades were not there
yet, and they are drawn again as they were.

Axes: Q questions, k samples of each.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import numpy as np

from r1jax.config import Batched, Part
from r1jax.evals.benchmarks import Benchmark
from r1jax.evals.kept import Kept
from r1jax.grade import Explained
from r1jax.rewards.combine import marked
from r1jax.rewards.pool import Pool
from r1jax.rewards.queue import Grade
from r1jax.sample import Request, Sampler, response
from r1jax.sample.sampler import key_data
from r1jax.types import Problem, Response

JUDGES = 8  # questions that a judge is asked at once
AHEAD = 1024  # samples that may wait for their grades
ABOUT = (
    'rating',
    'contest_id',
    'index',
    'contest_date',
    'difficulty',
    'level',
    'subject',
)  # of a problem's meta that is stored
Key = tuple[int, int]  # the question's place among the problems, and the sample


class Grading:
    """Grades one response after the other, beside what goes on: in worker processes, or in threads where a judge is asked."""

    def __init__(self, part: Part, pool: Pool):
        self.part, self.pool = part, pool
        self._fn = Explained(part.fn) if part.deadline else None
        self._threads = None if part.deadline else ThreadPoolExecutor(JUDGES)

    @property
    def function(self) -> Explained | None:
        """What worker processes call, for `Pool.warm`; None: nothing."""
        return self._fn

    def submit(self, problem: Problem, answer: Response) -> Future[Grade]:
        if self._fn:
            return _first(self.pool.submit(self._fn, [(problem, answer)], self.part.deadline))
        return self._threads.submit(self._asked, problem, answer)

    def _asked(self, problem: Problem, answer: Response) -> Grade:
        value = float(cast(Batched, self.part.fn).many([problem], [answer])[0])
        return Grade(value, 'graded' if math.isfinite(value) else 'raised')

    def close(self) -> None:
        if self._threads:
            self._threads.shutdown(wait=False, cancel_futures=True)


def _first(later: Future[list[Grade]]) -> Future[Grade]:
    out: Future[Grade] = Future()

    def hand_on(done: Future[list[Grade]]) -> None:
        if done.cancelled() or (error := done.exception()):
            out.set_exception(concurrent.futures.CancelledError() if done.cancelled() else error)
        else:
            out.set_result(done.result()[0])

    later.add_done_callback(hand_on)
    return out


@dataclasses.dataclass(frozen=True)
class Bench:
    """A benchmark, ready to run."""

    benchmark: Benchmark
    problems: Sequence[Problem]  # Q
    prompts: Sequence[Sequence[int]]  # tokens of each
    sampler: Sampler  # of one sample a question, whose slots are fixed
    tokenizer: Any
    temperature: float

    def __post_init__(self):
        if self.sampler.samples != 1 or not self.sampler.fixed:
            raise ValueError('a benchmark takes a sampler of samples=1 and fixed=True: else samples depend on k')
        if len({p.id for p in self.problems}) != len(self.problems):
            raise ValueError(f'problems of {self.benchmark.name} share an id, and would be sampled alike')

    def missing(self, k: int, kept: Kept) -> list[Key]:
        """What is still to be drawn, a question's samples one after the other: they share its prompt's keys."""
        return [(q, s) for q, p in enumerate(self.problems) for s in range(k) if (p.id, s) not in kept.done]

    def run(
        self, params: Any, k: int, kept: Kept, grading: Grading, tell: Callable[[int, int], None] | None = None
    ) -> None:
        """Draws, grades and stores what is missing. `tell(stored, all)` hears of each sample."""
        keys = self.missing(k, kept)
        waiting: list[tuple[Key, Response, Future[Grade]]] = []
        whole, stored = len(self.problems) * k, len(self.problems) * k - len(keys)

        def store(most: int) -> None:
            """Stores what is graded, and waits while more than `most` are not."""
            nonlocal waiting, stored
            while True:
                over = [each[2].done() for each in waiting]
                for (key, answer, grade), is_over in zip(waiting, over, strict=True):
                    if is_over:
                        kept.add(self.line(key, answer, grade.result(), grading.part.name))
                        stored += 1
                        if tell:
                            tell(stored, whole)
                waiting = [each for each, is_over in zip(waiting, over, strict=True) if not is_over]
                if len(waiting) <= most:
                    return
                concurrent.futures.wait([grade for _, _, grade in waiting], return_when='FIRST_COMPLETED')

        for key, answer in self.answers(params, keys):
            waiting.append((key, answer, grading.submit(self.problems[key[0]], answer)))
            store(most=AHEAD)
        store(most=0)
        if keys:
            kept.order()

    def answers(self, params: Any, keys: Sequence[Key]) -> Iterator[tuple[Key, Response]]:
        """The samples with these keys, as they end."""
        if not keys:
            return
        limit = self.sampler.decode.max_tokens
        question = np.array([self.problems[q].id for q, _ in keys], np.int32)
        data = key_data(self.sampler.seed, 0, question, np.array([s for _, s in keys], np.int32))
        requests = [Request(self.prompts[q], limit, data[i], self.temperature, tag=i) for i, (q, _) in enumerate(keys)]
        for row in self.sampler.answer(params, requests):
            yield keys[row.index], response(row.tokens, row.finished, self.tokenizer)

    def line(self, key: Key, answer: Response, grade: Grade, part: str = 'accuracy') -> dict[str, Any]:
        """What is stored of a sample: a line as of samples.jsonl, with what it counts for in a vote."""
        p, vote = self.problems[key[0]], self.benchmark.vote
        return {
            'question': p.id,
            'sample': key[1],
            'kind': p.kind,
            'prompt': p.prompt,
            'completion': answer.text,
            'answer': p.answer,
            'tokens': answer.tokens,
            'finished': answer.finished,
            'reward': grade.value if math.isfinite(grade.value) else 0.0,
            'parts': {part: grade.value},
            **marked(grade.outcome),
            'detail': grade.detail,
            **({'about': about} if (about := {name: p.meta[name] for name in ABOUT if name in p.meta}) else {}),
            **({'vote': vote(p, answer.text)} if vote else {}),
        }
