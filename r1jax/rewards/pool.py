"""Grading in worker processes, beside training: what hangs, dies or grows costs its own item and nothing else.

    with Pool() as pool:
        later = pool.submit(fn, [(problem, response), …], deadline=5.0)
        …                                        # the accelerator goes on
        grades = later.result()                  # a Grade an item, in the items' order

Items may also come one after the other: `open` a job, `add` what is there to it, and `end` it for the future.

Workers are started anew (no fork: jax has threads), import no jax, and are kept warm. A call that runs past its deadline, kills its
process or makes it grow beyond `memory` gets that as its outcome; its worker is killed with all that it started, and replaced. An item
is answered exactly once: one that a lost worker had not begun goes to the next. What a call gives does not depend on how many workers
there are, nor on which of them made it or when.

One thread of the training process runs all of it, an event loop with a coroutine a worker. It hands out calls in chunks of about 20 ms,
so that a worker need not wait for it. Workers are its children, and Linux kills them when it ends, however it ends.

Memory is watched from outside, 20 times a second, rather than limited: limits are inherited, and what graders start (compilers,
JavaScript) has its own. Elsewhere than on Linux nothing is watched, and a worker whose pool was killed ends after its call.
"""

from __future__ import annotations

import asyncio
import collections
import math
import os
import pickle
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from r1jax.config import Reward
from r1jax.pulse import beat
from r1jax.rewards.process import PATIENCE, Lost, Worker, resident
from r1jax.rewards.queue import Function, Grade, Item, Job, Queue
from r1jax.rewards.worker import END, GRADE, START, frame
from r1jax.types import Problem, Response

T = TypeVar('T')

# times in a row that starting a worker, loading a function or beginning a call may fail before it is given up
ATTEMPTS = 10
TICK = 0.05  # seconds between looks at the workers' memory


class Pool:
    """Worker processes that grade. Starts nothing before it is first used; close it, or use it in `with`.

    Args:
      workers: processes; 0: as many as the process may use cores.
      memory: bytes of memory that a worker may hold.
    """

    def __init__(self, workers: int = 0, memory: int = 2 << 30):
        self.workers = workers or len(
            os.sched_getaffinity(0) if hasattr(os, 'sched_getaffinity') else range(os.cpu_count() or 1)
        )
        self.memory = memory
        self._functions: dict[bytes, Function] = {}
        self._expected: list[Function] = []  # that every worker loads, before it grades on
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def grade(self, fn: Reward, items: Sequence[tuple[Problem, Response]], deadline: float) -> list[Grade]:
        """`submit`, and waits."""
        return self.submit(fn, items, deadline).result()

    def submit(self, fn: Reward, items: Sequence[tuple[Problem, Response]], deadline: float) -> Future[list[Grade]]:
        """Grades items beside what goes on.

        Args:
          fn: `(problem, response) -> float`, or `-> (float, explanation)`; found again by its name, or a picklable object. If it has a
            method `warm`, a worker calls it before the first deadline runs.
          items: B pairs.
          deadline: seconds that each call may take, counted from its start in a worker.

        Returns:
          A future of B grades, in the items' order. It raises ImportError where a package is missing, ValueError where workers cannot
          load `fn`, RuntimeError where they cannot be started or die loading it, and CancelledError where the pool is closed first.

        Raises:
          ValueError: `fn` has no name to find it by.
          RuntimeError: the pool is closed.
        """
        job = self.open(fn, deadline)
        self.add(job, items)
        return self.end(job)

    def open(self, fn: Reward, deadline: float) -> Job:
        """A job whose items are still to come; arguments and errors as `submit`'s."""
        if not 0 < deadline < math.inf:
            raise ValueError(f'{deadline=} must be a positive number of seconds')
        job = Job(self._function(fn), deadline)
        job.future.set_running_or_notify_cancel()
        return job

    def add(self, job: Job, items: Sequence[tuple[Problem, Response]]) -> None:
        """Has a job's next items graded, beside what goes on."""
        if items:
            job.begun = True
            self._call(self._accept, job, items)

    def end(self, job: Job) -> Future[list[Grade]]:
        """No item will come any more. Returns `submit`'s future, of the items in the order in which they came."""
        if job.begun:
            self._call(job.end)
        else:
            job.future.set_result([])
        return job.future

    def once(self, grade: Callable[[], T]) -> T:
        """What `grade` gives, called once however many processes train: it may ask a server, or not say the same twice."""
        return grade()

    def warm(self, functions: Sequence[Reward]) -> list[Future[None]]:
        """Starts the workers and has them load functions. Returns at once; a future each raises what `submit` says of its own."""
        warmed = [self._function(fn) for fn in functions]
        self._expected += warmed
        if warmed:
            self._call(lambda: self._there.set())
        return [function.ready for function in warmed]

    def close(self) -> None:
        """Kills the workers. What was not graded yet raises CancelledError."""
        with self._lock:
            self._closed, thread = True, self._thread
        if thread and thread.is_alive():
            self._loop.call_soon_threadsafe(self._main.cancel)
            thread.join()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    # --- from the caller's thread

    def _function(self, fn: Reward) -> Function:
        name = getattr(fn, '__qualname__', type(fn).__qualname__)
        try:
            data = pickle.dumps(fn)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ValueError(
                f'{name} cannot be sent to a grading process ({error}): define it at the top of a module, or use a frozen dataclass '
                'with __call__, or grade it inline with deadline=0'
            ) from error
        with self._lock:
            return self._functions.setdefault(data, Function(len(self._functions), name, data))

    def _call(self, act: Callable, *args) -> None:
        with self._lock:
            if self._closed:
                raise RuntimeError('the grading pool is closed')
            if self._thread is None:
                ready = threading.Event()
                self._thread = threading.Thread(
                    target=lambda: asyncio.run(self._serve(ready)), name='grading', daemon=True
                )
                self._thread.start()
                ready.wait()
            self._loop.call_soon_threadsafe(act, *args)

    # --- in the pool's own thread

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._main = asyncio.get_running_loop(), asyncio.current_task()
        self._queue = Queue(self.workers)
        self._there = asyncio.Event()  # something is in the queue, or to be loaded
        self._busy: set[Worker] = set()
        self._failures = 0  # to start a worker, in a row
        ready.set()
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(self.workers):
                    tasks.create_task(self._tend())
                tasks.create_task(self._watch())
        except asyncio.CancelledError:  # closed
            pass
        finally:  # also where the pool itself is at fault: nobody may wait for ever
            for future in self._waited_for():
                _fail(future, CancelledError())

    def _waited_for(self) -> list[Future]:
        return [job.future for job in self._queue.jobs] + [function.ready for function in self._expected]

    def _accept(self, job: Job, items: Sequence[tuple[Problem, Response]]) -> None:
        self._queue.add(job, items)
        self._there.set()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            for worker in self._busy:
                worker.watch(self.memory)

    async def _tend(self) -> None:
        """The life of one place in the pool: a worker after another, and the chunks that they grade."""
        while True:
            worker, began, known = None, False, 0
            try:
                worker = Worker()
                await worker.start()
                self._failures, began = 0, True
                while True:
                    for function in self._expected[known:]:
                        known += 1
                        try:
                            await self._load(worker, function)
                        except (ImportError, ValueError, RuntimeError) as error:
                            _fail(function.ready, error)
                    if chunk := self._queue.take():
                        await self._grade(worker, chunk)
                        if resident(worker.process.pid) > self.memory / 2:
                            break  # one that leaks is replaced between calls, before it costs one
                    elif known == len(self._expected):
                        self._there.clear()
                        await self._there.wait()
            except (Lost, OSError) as error:
                if not began:
                    await self._give_up(error)
            finally:
                if worker:
                    await worker.kill()

    async def _give_up(self, error: Exception) -> None:
        """Waits before the next start; once several have failed, no job may wait for one."""
        self._failures += 1
        if self._failures >= ATTEMPTS:
            reason = RuntimeError(f'grading processes cannot be started: {error.args[-1]}')
            for future in self._waited_for():
                _fail(future, reason)
        await asyncio.sleep(0.02 * self._failures)

    async def _load(self, worker: Worker, function: Function) -> None:
        """Raises what `Worker.load` does, and RuntimeError for a function that workers do not survive."""
        if function.attempts >= ATTEMPTS:
            raise RuntimeError(f'{function.name} cannot be loaded in a grading process: {function.trouble}')
        try:
            await worker.load(function.number, function.name, function.data)
        except Lost as lost:
            function.attempts, function.trouble = function.attempts + 1, lost.args[1]
            raise
        function.attempts = 0
        if not function.ready.done():
            function.ready.set_result(None)

    async def _grade(self, worker: Worker, chunk: collections.deque[Item]) -> None:
        """Has a worker grade a chunk; where it is lost, what it had not begun goes back into the queue."""
        job, number = chunk[0].job, chunk[0].job.function.number
        self._busy.add(worker)
        try:
            await self._load(worker, job.function)
            items = [pickle.dumps(job.items[item.index]) for item in chunk]
            worker.writer.write(
                b''.join(frame(GRADE, number, item.index, data) for item, data in zip(chunk, items, strict=True))
            )
            while chunk:
                await self._answer(worker, job, chunk)
                beat()
        except Lost:
            raise
        except Exception as error:  # ImportError, a function or an item that cannot be sent: no worker will do better
            _fail(job.future, error)
            raise Lost('died', 'its job failed') from error
        finally:
            self._busy.discard(worker)
            job.waiting.extendleft(reversed(chunk))
            self._there.set()

    async def _answer(self, worker: Worker, job: Job, chunk: collections.deque[Item]) -> None:
        """Settles the first of the chunk and takes it out, or raises what became of the worker."""
        item, what = chunk[0], (job.function.number, chunk[0].index)
        item.attempts += 1
        try:
            start = await worker.receive(START, *what, PATIENCE)
        except Lost as lost:  # before it began: another worker may, unless that happens again and again
            if item.attempts >= ATTEMPTS:
                job.settle(chunk.popleft().index, Grade(math.nan, 'died', f'it could not be begun: {lost.args[1]}'))
            raise
        late = Grade(math.nan, 'timeout', f'took longer than {job.deadline:g} s')
        try:
            began = min(_number(start, 'at'), time.monotonic())
            end = await worker.receive(END, *what, began + job.deadline - time.monotonic())
            took = _number(end, 'at') - began
            grade = _grade_of(end) if took <= job.deadline else late
        except Lost as lost:
            outcome, detail = lost.args
            job.settle(chunk.popleft().index, late if outcome == 'timeout' else Grade(math.nan, outcome, detail))
            raise
        job.settle(chunk.popleft().index, grade)
        seconds = job.function.seconds
        job.function.seconds = 0.8 * seconds + 0.2 * took if seconds else max(took, 1e-6)


def _fail(future: Future, error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _number(content: Any, name: str) -> float:
    try:
        return float(content[name])
    except (KeyError, TypeError, ValueError):
        raise Lost('died', f'the process gave no number as {name}: {content!r:.200}') from None


def _grade_of(end: dict[str, Any]) -> Grade:
    """What a worker says at the end of a call, as far as it can be one."""
    value, outcome, detail = _number(end, 'value'), end.get('outcome'), str(end.get('detail', ''))
    if outcome == 'missing':
        raise ImportError(detail)
    if outcome not in ('graded', 'raised', 'memory') or (outcome == 'graded') != math.isfinite(value):
        raise Lost('died', f'the process gave no grade: {end!r:.200}')
    return Grade(value, outcome, detail)
