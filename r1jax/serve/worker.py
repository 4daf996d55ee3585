"""The thread that owns the engine and the device. Others hand `Job`s in, and are told of their tokens as chunks come.

    worker = Worker(lambda: engine)
    worker.submit(job)          # from any thread; job.tell is called in the worker's
    worker.cancel(job)          # frees the slot at the end of the chunk that the device is computing
    worker.stop()

A failure of the device ends the jobs that were in it and not the thread: the next job begins with empty slots.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import queue
import threading
from collections.abc import Callable

import numpy as np

from r1jax.sample import Answer, Engine, Request
from r1jax.sample.engine import Ran
from r1jax.sample.request import Fresh

log = logging.getLogger('r1jax.serve')
_FAILURES = 3  # in a row, after which the device is given up


@dataclasses.dataclass(eq=False)
class Job:
    """A request with whom to tell: `tell(fresh, why)`, `why` as of `Answer`, or 'failed'; '' while it goes on."""

    request: Request
    tell: Callable[[Fresh, str], None]


class Worker:
    """Runs an engine in a thread of its own."""

    def __init__(
        self,
        make: Callable[[], Engine],
        around: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
        ran: Callable[[Ran], None] = lambda _: None,
    ):
        """`make` gives an engine with its weights, and is called in the thread, as everything is, within `around()`; `ran` is told of each
        chunk that is over. Returns when all is compiled. Raises what `make` raises.
        """
        self._make, self._around, self._ran = make, around, ran
        self._inbox: queue.SimpleQueue[tuple[str, Job | None]] = queue.SimpleQueue()
        self._live: dict[Job, Answer] = {}
        self._ready, self._in_a_row = threading.Event(), 0
        self.failed: BaseException | None = None  # why nothing is answered any more
        self.size = 0  # tokens of a slot
        self._thread = threading.Thread(target=self._run, name='engine', daemon=True)
        self._thread.start()
        self._ready.wait()
        if self.failed:
            raise self.failed

    def submit(self, job: Job) -> None:
        """Hands a job in. What does not fit into a slot fails, and so does what comes when the thread has ended."""
        self._inbox.put(('submit', job))
        if self.failed:
            self._fail_waiting()

    def cancel(self, job: Job) -> None:
        """Ends a job, of which nothing is told any more. One that is over, or was cancelled, stays so."""
        self._inbox.put(('cancel', job))

    def stop(self) -> None:
        """Ends the thread, and all jobs with it."""
        self._inbox.put(('stop', None))
        self._thread.join()

    # --- in the thread

    def _run(self) -> None:
        try:
            with self._around():
                engine = self._make()
                engine.submit(Request([0], 1, _no_key(engine)))  # compiles everything
                while not engine.idle:
                    engine.advance()
                self.size = engine.size
                self._ready.set()
                while self._take_in(engine):
                    self._advance(engine)
                engine.unload()
        except BaseException as error:
            self.failed = error
            log.exception('the engine has ended')
        finally:
            self.failed = self.failed or RuntimeError('the engine was stopped')
            self._fail()
            self._fail_waiting()
            self._ready.set()

    def _take_in(self, engine: Engine) -> bool:
        """What others want, waited for while there is nothing to do. False: they want the end."""
        while True:
            try:
                what, job = self._inbox.get(block=engine.idle)
            except queue.Empty:
                return True
            if what == 'stop':
                return False
            if what == 'submit':
                try:
                    self._live[job] = engine.submit(job.request)
                except ValueError:
                    log.exception('a request that should have been refused before')
                    job.tell(_NOTHING, 'failed')
            elif answer := self._live.pop(job, None):
                engine.cancel(answer)

    def _advance(self, engine: Engine) -> None:
        try:
            engine.advance()
        except Exception:
            self._in_a_row += 1
            if self._in_a_row == _FAILURES:
                raise
            log.exception('a chunk failed')
            self._fail()
            engine.reset()
            return
        self._in_a_row = 0
        for ran in engine.ran:
            self._ran(ran)
        engine.ran.clear()
        for job, answer in list(self._live.items()):
            fresh = answer.fresh()
            if answer.why:
                del self._live[job]
            if answer.why or len(fresh.tokens):
                job.tell(fresh, answer.why)

    def _fail(self) -> None:
        for job in self._live:
            job.tell(_NOTHING, 'failed')
        self._live.clear()

    def _fail_waiting(self) -> None:
        """Of those that nobody will take in: the thread has ended."""
        with contextlib.suppress(queue.Empty):
            while True:
                what, job = self._inbox.get_nowait()
                if what == 'submit':
                    job.tell(_NOTHING, 'failed')


_NOTHING = Fresh(np.zeros(0, np.int32), np.zeros(0, np.float32))


def _no_key(engine: Engine):
    return [0] * engine.key_words
