"""Being asked to stop: a signal becomes a flag that the loop reads between steps, so that a step is never cut in two.

What can be thrown away without loss is not waited for: sampling, whose finished answers are on the disk (`r1jax.train.journal`), and
evaluations. So a run that gets notice (SIGTERM, of which machines that are about to be taken away have some seconds) has its state saved
within an update's time, and not a rollout's. What the machine's owner says beforehand (`r1jax.train.notice`), and SIGUSR2, which
schedulers can be told to send some minutes before SIGTERM, count as SIGTERM; the real one may follow while the state is saved.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

from r1jax import distributed
from r1jax.train import notice


class Stopped(SystemExit):
    """The run was asked to stop (SIGTERM, SIGINT) and has saved its state; the exit status is 128 + the signal's number."""


class Interrupted(Stopped):
    """The same, from within something that could be left at once."""


class Signals:
    """Turns SIGTERM, SIGINT and notices into a flag that the loop reads between steps; a second signal acts at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._leave = False
        self._watch = notice.Watch(self._noticed, _say)

    def __enter__(self):
        self._old = {}
        with contextlib.suppress(ValueError):  # not the main thread: signals stay the caller's
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
                self._old[number] = signal.signal(number, self._note)
            self._watch.__enter__()
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
        if number == signal.SIGUSR2:  # what it announces comes later, and is no second signal then
            self.received = self.received or signal.SIGTERM
        else:
            self.received = number
            signal.signal(number, self._old[number])
        if self._leave:
            self._leave = False
            raise Interrupted(128 + self.received)

    def _noticed(self, sentence: str) -> None:
        _say(f'{sentence}: the state is being saved')
        os.kill(os.getpid(), signal.SIGUSR2)  # to the main thread, where handlers run

    def __exit__(self, *_):
        self._watch.__exit__()
        for number, handler in self._old.items():
            signal.signal(number, handler)


def _say(sentence: str) -> None:
    print(f'r1jax: {sentence}', file=sys.stderr, flush=True)
