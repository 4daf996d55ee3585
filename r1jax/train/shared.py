"""Grading among processes: the i-th item of a job is graded by process i mod N, and all get all grades.

All processes make the same calls in the same order, as they do everything (`r1jax.distributed`). Grades depend on the wall clock where a
deadline runs out, so none may rest on a process's own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from r1jax import distributed
from r1jax.config import Reward
from r1jax.rewards.pool import Pool
from r1jax.rewards.queue import Grade, Job
from r1jax.types import Problem, Response

T = TypeVar('T')


@dataclasses.dataclass
class SharedJob:
    """A job of all processes."""

    mine: Job  # of this process's worker processes
    size: int = 0  # items, all processes together


@dataclasses.dataclass(frozen=True)
class Gathered:
    """What a future is in one process. `result` is called by all processes, in the same order as everything else."""

    mine: Future
    size: int

    def result(self) -> list[Grade]:
        grades: list[Grade] = [Grade(math.nan, 'died')] * self.size
        parts = distributed.exchange(self.mine.result())
        for i, part in enumerate(parts):
            grades[i :: len(parts)] = part
        return grades


class SharedPool(Pool):
    """Worker processes of every process, with the interface of one pool."""

    def submit(  # type: ignore[override]  # what is called of a future is `result`
        self, fn: Reward, items: Sequence[tuple[Problem, Response]], deadline: float
    ) -> Gathered:
        job = self.open(fn, deadline)
        self.add(job, items)
        return self.end(job)

    def open(self, fn: Reward, deadline: float) -> SharedJob:  # type: ignore[override]  # a job of this pool alone
        return SharedJob(super().open(fn, deadline))

    def add(  # type: ignore[override]  # as above
        self, job: SharedJob, items: Sequence[tuple[Problem, Response]]
    ) -> None:
        first = (distributed.index() - job.size) % distributed.count()
        job.size += len(items)
        super().add(job.mine, items[first :: distributed.count()])

    def end(self, job: SharedJob) -> Gathered:  # type: ignore[override]  # as above
        return Gathered(super().end(job.mine), job.size)

    def once(self, grade: Callable[[], T]) -> T:
        return distributed.told(grade)


def pool(workers: int, memory: int) -> Pool:
    """Of all processes where there are several; arguments as `Pool`'s."""
    return (SharedPool if distributed.count() > 1 else Pool)(workers, memory)
