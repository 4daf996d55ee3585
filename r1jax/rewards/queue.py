"""What waits to be graded: jobs whose items may still be coming, handed out in chunks.

The pool's own thread alone works on it. Jobs are served in the order in which they began, whenever their items came.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Literal

from r1jax.types import Problem, Response

Outcome = Literal['graded', 'timeout', 'died', 'memory', 'raised']
ERRORS: tuple[Outcome, ...] = ('timeout', 'died', 'memory', 'raised')  # outcomes of what could not be graded

CHUNK = 0.02  # seconds of calls that a worker is given at once, by what they took of late
LARGEST = 32  # calls a chunk


@dataclasses.dataclass(frozen=True)
class Grade:
    """What became of one call."""

    value: float  # NaN unless graded
    outcome: Outcome
    detail: str = ''  # the grader's explanation, or what went wrong


@dataclasses.dataclass(eq=False)
class Function:
    """A reward function as it travels."""

    number: int
    name: str
    data: bytes
    seconds: float = 0.0  # of its last calls, a running mean; 0: not called yet
    attempts: int = 0  # to load it that cost a worker, in a row
    trouble: str = ''  # what happened at the last of them
    ready: Future[None] = dataclasses.field(default_factory=Future)  # whether the first worker could load it


@dataclasses.dataclass(eq=False)
class Item:
    job: Job
    index: int
    attempts: int = 0  # to begin it


@dataclasses.dataclass(eq=False)
class Job:
    """Items of one function with one deadline, and their grades in the order in which they came."""

    function: Function
    deadline: float
    future: Future[list[Grade]] = dataclasses.field(default_factory=Future)
    items: list[tuple[Problem, Response]] = dataclasses.field(default_factory=list)
    grades: list[Grade | None] = dataclasses.field(default_factory=list)
    waiting: collections.deque[Item] = dataclasses.field(default_factory=collections.deque)  # for a worker
    left: int = 0  # items without a grade
    begun: bool = False  # items have been sent; of the caller's thread
    ended: bool = False  # no item will come any more

    def end(self) -> None:
        self.ended = True
        self._tell()

    def settle(self, i: int, grade: Grade) -> None:
        assert self.grades[i] is None, f'item {i} was graded twice'
        self.grades[i] = grade
        self.left -= 1
        self._tell()

    def _tell(self) -> None:
        if self.ended and not self.left and not self.future.done():
            self.future.set_result(self.grades)


class Queue:
    """Jobs that are not done."""

    def __init__(self, workers: int):
        self.workers = workers
        self.jobs: list[Job] = []

    def add(self, job: Job, items: Sequence[tuple[Problem, Response]]) -> None:
        assert not job.ended, 'the job has ended'
        job.waiting.extend(Item(job, len(job.items) + i) for i in range(len(items)))
        job.items.extend(items)
        job.grades.extend([None] * len(items))
        job.left += len(items)
        if job not in self.jobs:
            self.jobs.append(job)

    def take(self) -> collections.deque[Item]:
        """The next calls for a worker, all of one job: about CHUNK seconds, but not what keeps another worker idle."""
        self.jobs = [job for job in self.jobs if not job.future.done()]  # a job that failed is done
        job = next((job for job in self.jobs if job.waiting), None)
        chunk: collections.deque[Item] = collections.deque()
        if job:
            fair = math.ceil(sum(len(each.waiting) for each in self.jobs) / (2 * self.workers))
            usual = int(CHUNK / job.function.seconds) if job.function.seconds else 1
            size = max(1, min(LARGEST, fair, usual))
            while job.waiting and len(chunk) < size:
                chunk.append(job.waiting.popleft())
        return chunk
