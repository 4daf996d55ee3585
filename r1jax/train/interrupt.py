"""Being asked to stop: a signal becomes a flag that the loop reads between steps, so that a step is never cut in two.

What can be thrown away without loss is not waited for: sampling, whose finished answers are on the disk (`r1jax.train.journal`), and
evaluations. So a run that gets notice (SIGTERM, of which machines that are about to be taken away have some seconds) has its state saved
within an update's time, and not a rollout's. The TPU's notice of maintenance and the end of a spot machine arrive as SIGTERM too.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

from r1jax import distributed


class Stopped(SystemExit):
    """The run was asked to stop (SIGTERM, SIGINT) and has saved its state; the exit status is 128 + the signal's number."""


class Interrupted(Stopped):
    """The same, from within something that could be left at once."""


class Signals:
    """Turns SIGTERM and SIGINT into a flag that the loop reads between steps; a second signal acts at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._leave = False

    def __enter__(self):
        self._old = {}
        with contextlib.suppress(ValueError):  # not the main thread: signals stay the caller's
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._note)
        return self

    def agreed(self) -> int | None:
        """The signal that any process has received, the same for all: they have to ask together."""
        return distributed.highest(self.received)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """What is done inside can be left anywhere and is not gone on with: a signal raises Interrupted there. Of several processes none
        may stop by itself, so these go on to where they agree.
        """
        self._leave = distributed.count() == 1
        try:
            if self.received and self._leave:
                raise Interrupted(128 + self.received)
            yield
        finally:
            self._leave = False

    def _note(self, number, _):
        self.received = number
        signal.signal(number, self._old[number])
        if self._leave:
            self._leave = False
            raise Interrupted(128 + number)

    def __exit__(self, *_):
        for number, handler in self._old.items():
            signal.signal(number, handler)
