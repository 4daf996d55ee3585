"""Whether a run is still alive: `beat` wherever something is finished, and a `Watchdog` that ends a process in which nothing is.

A hang is worse than a crash: it costs as much as it lasts and says nothing. After `limit` seconds without a beat the watchdog writes the
stack of every thread to standard error and to a file, and ends the process with status 1; the state is in the last checkpoint. Every
process of a run has its own, so that all their stacks are told. Code that never lets go of the interpreter cannot keep it from doing so:
a thread of C (`faulthandler`) then writes the stacks, to standard error alone.

Nothing here imports jax.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time

PATIENCE = 15.0  # three ticks: seconds after the stacks are written, in which other processes write theirs

_last = time.monotonic()


def beat() -> None:
    """Something is finished: a step, a sample, an answer's grade."""
    global _last
    _last = time.monotonic()


class Watchdog:
    """Watches in `with`.

    Args:
      limit: seconds without a beat; 0: for ever.
      folder: where the stacks are written, as process-N.txt.
      process: N, the number of this process.
    """

    def __init__(self, limit: float, folder: str, process: int = 0):
        self.limit, self.path = limit, os.path.join(folder, f'process-{process}.txt')
        self._over = threading.Event()

    def __enter__(self) -> Watchdog:
        beat()
        if self.limit:
            self._thread = threading.Thread(target=self._watch, name='watchdog', daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        if self.limit:
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        tick = min(self.limit / 10, 5.0)
        while not self._over.wait(tick):
            if time.monotonic() - _last > self.limit:
                self._end()
            with contextlib.suppress(ValueError, OSError, AttributeError):  # no standard error that has a number
                faulthandler.dump_traceback_later(self.limit + 2 * tick, exit=True, file=sys.stderr)

    def _end(self) -> None:
        what = f'nothing was finished for {self.limit:g} s'
        with contextlib.suppress(ValueError, OSError, AttributeError):
            sys.stdout.flush()
            print(f'\nr1jax: {what}. The stack of every thread of process {os.getpid()}:', file=sys.stderr, flush=True)
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        where = f'; they are in {self.path} too'
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            with open(self.path, 'w', encoding='utf-8') as file:
                print(f'{time.strftime("%F %T")}: {what}', file=file, flush=True)
                faulthandler.dump_traceback(file=file, all_threads=True)
        except OSError as error:
            where = f'; they could not be written to {self.path} ({error.strerror})'
        fix = 'the same command goes on from the last checkpoint; hang_after of the recipe says how long is too long'
        print(f'r1jax: failed: {what}{where}; {fix}', file=sys.stderr, flush=True)
        time.sleep(PATIENCE)
        os._exit(1)  # whatever hangs would keep it from ending in the usual way
