"""A full disk: told from other failures, and said in one sentence."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_WORDS = ('No space left on device', 'ENOSPC', 'Disk quota exceeded', 'EDQUOT', 'File too large', 'EFBIG')


def full(error: BaseException) -> bool:
    """Whether what went wrong is that a disk is full, a quota used up or a file larger than is allowed."""
    return any(
        (isinstance(each, OSError) and each.errno in _NUMBERS)
        or any(
            words in str(each) for words in _WORDS
        )  # libraries in C++ put the system's words into errors of their own
        for each in _chain(error)
    )


def sentence(folder: str, error: BaseException) -> str:
    """What happened, how much there is, and what helps."""
    name = next(
        (e.filename for e in _chain(error) if isinstance(e, OSError) and e.errno in _NUMBERS and e.filename), folder
    )
    usage = shutil.disk_usage(folder)
    size = f'{usage.free / 1e9:.3g} of {usage.total / 1e9:.3g} GB are free'
    return f'no space left to write {os.fspath(name)} ({size}): what was saved before is kept; free some space'


def quiet() -> None:
    """From now on a full disk is told in one sentence. Orbax writes each array in a task of its own; the first that fails is raised, and
    of the others asyncio and TensorStore's threads would print dozens of tracebacks around it.
    """
    logging.getLogger('asyncio').addFilter(_awaited)  # once: it is the same function
    if not _before:
        _before.append(sys.unraisablehook)
        sys.unraisablehook = _raised


_before: list[Callable] = []


def _raised(what: Any) -> None:
    """`sys.unraisablehook`."""
    theirs = what.exc_type is RuntimeError and str(what.exc_value) == 'Event loop is closed'
    if not theirs:  # of tasks whose loop has ended before them
        _before[-1](what)


def _awaited(record: logging.LogRecord) -> bool:
    return not (record.exc_info and record.exc_info[1] and full(record.exc_info[1]))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error with those that it came of."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        for inner in getattr(error, 'exceptions', ()):
            yield from _chain(inner)
        error = error.__cause__ or error.__context__
