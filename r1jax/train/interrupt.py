"""Being asked to stop: a signal becomes a flag that the loop reads between steps, so that a step is never cut in two."""

from __future__ import annotations

import contextlib
import signal

from r1jax import distributed


class Stopped(SystemExit):
    """The run was asked to stop (SIGTERM, SIGINT) and has saved its state; the exit status is 128 + the signal's number."""


class Signals:
    """Turns SIGTERM and SIGINT into a flag that the loop reads between steps; a second signal acts at once."""

    def __init__(self):
        self.received: int | None = None

    def __enter__(self):
        self._old = {}
        with contextlib.suppress(ValueError):  # not the main thread: signals stay the caller's
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._note)
        return self

    def agreed(self) -> int | None:
        """The signal that any process has received, the same for all: they have to ask together."""
        return distributed.highest(self.received)

    def _note(self, number, _):
        self.received = number
        signal.signal(number, self._old[number])

    def __exit__(self, *_):
        for number, handler in self._old.items():
            signal.signal(number, handler)
