"""What runs in a grading process: reads calls from a socket, answers each with a start and an end, one after another.

The other side is `r1jax.rewards.pool`. Towards the worker go pickles; back comes JSON, since a process that has graded hostile text is
not believed further than the numbers it may give: unpickling what it says would hand it the process that trains.

A worker imports no jax, has a session of its own, adopts the orphans below it (so that whoever kills it can find its whole tree), dies
with the pool, and is what the kernel takes first when memory runs out. Each call finds the generators of random numbers seeded alike, so
that a grade does not depend on which worker gives it or on what it graded before.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import pickle
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, BinaryIO

HEAD = struct.Struct('<cIQI')  # of a frame: kind, number of a function, number of an item, bytes that follow
LOAD, GRADE = b'l', b'g'  # towards the worker: a function to keep, an item to call it with
HELLO, READY, START, END = b'h', b'r', b's', b'e'  # from it: alive, loaded or not, a call began, a call ended
LONGEST = 2000  # characters of an explanation that are kept, where a function does not say how many in `longest`
RANDOM = ('random', 'numpy.random', 'sympy.core.random')  # modules with a seed(), where they are loaded

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def main(parent: int, fd: int) -> None:
    """Serves the pool in process `parent` over the socket `fd` until it closes."""
    alone(parent)
    connection = socket.socket(fileno=fd)
    functions: dict[int, Callable] = {}
    incoming = connection.makefile('rb')
    connection.sendall(frame(HELLO))
    while head := incoming.read(HEAD.size):
        kind, function, item, size = HEAD.unpack(head)
        data = _exactly(incoming, size)
        if kind == LOAD:
            connection.sendall(frame(READY, function, content=_load(functions, function, data)))
            continue
        connection.sendall(frame(START, function, item, {'at': time.monotonic()}))
        result = _call(functions[function], data)
        connection.sendall(frame(END, function, item, result | {'at': time.monotonic()}))
        with contextlib.suppress(ChildProcessError):  # orphans that it adopted and that have ended
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def frame(kind: bytes, function: int = 0, item: int = 0, content: Any = b'') -> bytes:
    """Bytes as they are, anything else as JSON, behind a head."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return HEAD.pack(kind, function, item, len(data)) + data


def alone(parent: int) -> None:
    """Ties this process to `parent` and to its own descendants. What a system does not have is left out."""
    if sys.platform == 'linux':
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        with contextlib.suppress(OSError), open('/proc/self/oom_score_adj', 'w') as file:
            file.write('1000')
    if os.getppid() != parent:  # it died before we asked to be told
        os._exit(1)


def _exactly(incoming: BinaryIO, size: int) -> bytes:
    data = incoming.read(size)
    if len(data) < size:
        sys.exit(0)  # the pool went away in the middle of a frame
    return data


def _load(functions: dict[int, Callable], number: int, data: bytes) -> dict[str, Any]:
    """Keeps a function, and lets it import what it needs before any deadline runs."""
    try:
        function = pickle.loads(data)
    except ImportError as error:  # its module is missing, or an extra that this needs
        return {'error': str(error), 'missing': True}
    except Exception as error:
        return {
            'error': f'cannot be found by a grading process ({_described(error)}): define it in a module of its own'
        }
    try:
        getattr(function, 'warm', bool)()
    except ImportError as error:
        return {'error': str(error), 'missing': True}
    except Exception as error:
        return {'error': f'cannot grade here: {error}'}
    functions[number] = function
    return {}


def _call(function: Callable, data: bytes) -> dict[str, Any]:
    """{'outcome', 'value', 'detail'} of one call, whatever it does short of ending the process."""
    for module in RANDOM:
        if module in sys.modules:
            sys.modules[module].seed(0)
    value: Any = math.nan
    detail = ''
    try:
        value = function(*pickle.loads(data))
        if isinstance(value, tuple):
            value, detail = value
        value = float(value)
        outcome = 'graded' if math.isfinite(value) else 'raised'
        detail = str(detail) if outcome == 'graded' else f'returned {value}'
    except MemoryError as error:
        outcome, detail = 'memory', _described(error)
    except ImportError as error:
        outcome, detail = 'missing', str(error)
    except BaseException as error:  # sys.exit() too: it ends no process here
        outcome, detail = 'raised', _described(error)
    longest = getattr(function, 'longest', LONGEST)
    return {'outcome': outcome, 'value': value if outcome == 'graded' else math.nan, 'detail': detail[:longest]}


def _described(error: BaseException) -> str:
    try:
        return f'{type(error).__name__}: {error}'[:LONGEST]
    except Exception:  # an error of the grader's own making, whose text raises
        return type(error).__name__
