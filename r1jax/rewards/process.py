"""A grading process as its pool sees it: started, spoken to, watched, and killed with all that it started.

A `Worker` runs `r1jax.rewards.worker` in a process of its own and is used from one event loop. Whatever ends it, a call that waits for
it raises `Lost`, with the outcome of that call.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Collection
from typing import Any

from r1jax.rewards.worker import HEAD, HELLO, LOAD, READY, frame

PATIENCE = 120.0  # seconds in which a worker has to start, to import what a function needs, and to begin a call that it was given
LONGEST = 1 << 18  # bytes of a frame from a worker
_BOOT = 'import json, sys; sys.path[:] = json.loads(sys.argv[1]); from r1jax.rewards import worker; worker.main(*map(int, sys.argv[2:]))'
_ENVIRONMENT = {
    'PYTHONHASHSEED': '0',  # sets of strings in the same order in every worker
    'JAX_PLATFORMS': 'cpu',  # a grader that imports jax must not claim the accelerator
    'OMP_NUM_THREADS': '1',  # there are as many workers as cores
    'OPENBLAS_NUM_THREADS': '1',
}


class Lost(Exception):
    """A worker that is no longer of use. `args` are the outcome for the call that it was in, and what happened."""


class Worker:
    """A worker process, seen from the pool's event loop."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.pipe, end = os.pipe()
        try:
            self.process = subprocess.Popen(
                [sys.executable, '-c', _BOOT, json.dumps(sys.path), str(os.getpid()), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=end,
                stderr=end,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for the pool's process; and a group of its own can be killed
                env=os.environ | _ENVIRONMENT,
            )
        except BaseException:
            ours.close()
            os.close(self.pipe)
            raise
        finally:
            theirs.close()
            os.close(end)
        os.set_blocking(self.pipe, False)
        self.loop = asyncio.get_running_loop()
        self.loop.add_reader(self.pipe, self._hear)
        self.socket = ours
        self.writer: asyncio.StreamWriter | None = None
        self.said = b''
        self.loaded: set[int] = set()  # functions
        self.verdict: tuple[str, str] | None = None  # why the pool killed it

    async def start(self) -> None:
        self.reader, self.writer = await asyncio.open_connection(sock=self.socket)
        await self.receive(HELLO, 0, 0, PATIENCE)

    async def load(self, number: int, name: str, data: bytes) -> None:
        """Has the process keep a pickled function under a number.

        Raises:
          ImportError: it needs a package that is missing.
          ValueError: it is not found, or cannot grade on this machine.
          Lost: the process did not survive it.
        """
        if number in self.loaded:
            return
        self.writer.write(frame(LOAD, number, content=data))
        answer = await self.receive(READY, number, 0, PATIENCE)
        if answer.get('missing'):
            raise ImportError(answer['error'])
        if answer.get('error'):
            raise ValueError(f'{name} {answer["error"]}')
        self.loaded.add(number)

    async def receive(self, kind: bytes, function: int, item: int, seconds: float) -> dict[str, Any]:
        """The content of the next frame, which must be this one.

        Raises:
          Lost: it did not come in time, the process ended, or it said something else.
        """
        timer = self.loop.call_later(seconds, self._expire, f'no answer for {seconds:.3g} s')
        try:
            *what, size = HEAD.unpack(await self.reader.readexactly(HEAD.size))
            if what != [kind, function, item] or size > LONGEST:
                raise Lost('died', f'the process said {what} where {[kind, function, item]} was due')
            return json.loads(await self.reader.readexactly(size) or b'{}')
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            raise Lost(*(self.verdict or ('died', await self._ending()))) from None
        finally:
            timer.cancel()

    def watch(self, memory: int) -> None:
        """Kills the process if it holds more than `memory` bytes; who waits for it finds it lost."""
        if (held := resident(self.process.pid)) > memory and not self.verdict:
            self.verdict = 'memory', f'the process held {held / 2**20:,.0f} MiB'
            kill_tree(self.process)

    async def kill(self) -> None:
        """Ends the process and all that it started, and leaves nothing open."""
        await self._ending()
        self.loop.remove_reader(self.pipe)
        os.close(self.pipe)
        if self.writer:
            self.writer.transport.abort()
            await asyncio.sleep(0)  # it closes the socket in the loop's next turn
        self.socket.close()

    def _expire(self, why: str) -> None:
        late = select.select([self.socket], [], [], 0)[0]  # an answer is there: it is this loop that is late
        if not late and not self.verdict:
            self.verdict = 'timeout', why
            kill_tree(self.process)

    async def _ending(self) -> str:
        """Kills what is left and says how the process ended, and the last that it printed."""
        kill_tree(self.process)
        while (code := self.process.poll()) is None:
            await asyncio.sleep(0.001)
        how = f'status {code}' if code >= 0 else signal.Signals(-code).name
        self._hear()
        words = self.said.decode(errors='replace').strip().splitlines()
        return f'the process ended with {how}' + (f': {words[-1]}' if words else '')

    def _hear(self) -> None:
        """Keeps the last of what the process prints."""
        with contextlib.suppress(BlockingIOError):
            said = os.read(self.pipe, 1 << 16)
            self.said = (self.said + said)[-2000:]
            if not said:
                self.loop.remove_reader(self.pipe)


def resident(pid: int) -> int:
    """Bytes of memory that a process holds; 0 where it is gone or the system does not say."""
    try:
        with open(f'/proc/{pid}/statm', 'rb') as file:
            return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')
    except OSError:
        return 0


def kill_tree(process: subprocess.Popen) -> None:
    """Sends SIGKILL to a child, its process group, and all below it. Nothing if it has been waited for.

    The tree is stopped before it is killed, from the top down, and looked through until nothing new is in it, so that none of it gets
    away by forking.
    """
    if process.returncode is not None:  # its number may be another's by now
        return
    tree: dict[int, None] = {process.pid: None}
    new = list(tree)
    while new:
        for pid in new:
            _send(os.kill, pid, signal.SIGSTOP)
        new = [pid for pid in _below(tree) if pid not in tree]
        tree |= dict.fromkeys(new)
    _send(os.killpg, process.pid, signal.SIGKILL)
    for pid in tree:
        _send(os.kill, pid, signal.SIGKILL)


def _send(kill: Callable[[int, int], None], pid: int, number: int) -> None:
    with contextlib.suppress(
        ProcessLookupError, PermissionError
    ):  # gone, or sandboxed as another user: then its own init ends it
        kill(pid, number)


def _below(tree: Collection[int]) -> list[int]:
    """The descendants of processes, as /proc tells; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for name in os.listdir('/proc') if os.path.isdir('/proc') else ():
        if name.isdecimal():
            with contextlib.suppress(OSError), open(f'/proc/{name}/stat', 'rb') as file:
                parent = int(file.read().rpartition(b')')[2].split()[1])
                children.setdefault(parent, []).append(int(name))
    found, waiting = [], list(tree)
    while waiting:
        below = children.pop(waiting.pop(), [])
        found += below
        waiting += below
    return found
