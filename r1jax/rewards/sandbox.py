"""Runs a program that is not trusted: Python, a compiled one, node, a compiler.

In: a command, its stdin and files, limits. Out: how it ended and what it printed. The program sees no network, no home
folder, no environment and no process of ours; it may use so much time, memory, disk and so many processes; when it is over
nothing of it is left. `jail.py` says how, docs/sandbox.md what this protects against and what not.

Needs Linux 5.14 or later with user namespaces, or root. Where there is no sandbox, running raises `Unavailable`, unless
the environment variable R1JAX_ALLOW_UNSANDBOXED is 1 (the command line's --allow-unsandboxed): then the program runs as
the user, with limits and nothing else.
"""

from __future__ import annotations

import dataclasses
import functools
import glob
import json
import os
import platform
import pwd
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Literal

from r1jax.rewards import seccomp

ALLOW = 'R1JAX_ALLOW_UNSANDBOXED'
PIPES = (3, 4)  # of a program that is given pipes: it reads from the first and writes to the second
MiB = 1 << 20

_HERE = os.path.dirname(os.path.abspath(__file__))
_GRACE = 30.0  # seconds over all limits after which a sandbox is given up
_OLDEST = (5, 14)  # Linux from where processes are counted for each user namespace
_UNUSED = range(65520, 65534)  # user ids that no distribution gives away (systemd, "Users, Groups, UIDs and GIDs")
_ENV = {'PATH': '/usr/bin:/bin', 'HOME': '/tmp', 'TMPDIR': '/tmp', 'LANG': 'C.UTF-8', 'PYTHONHASHSEED': '0'}
_SYSTEM = (
    '/usr/bin',
    '/usr/lib',
    '/usr/lib64',
    '/usr/libexec',
    '/usr/include',
    '/etc/alternatives',
    '/etc/ld.so.cache',
)
_DEVICES = ('/dev/null', '/dev/zero', '/dev/full', '/dev/random', '/dev/urandom')


class Unavailable(RuntimeError):
    """There is no sandbox here, and none must be done without."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a program may use, all its processes together unless it says otherwise."""

    cpu: float = 4.0  # seconds of CPU time
    wall: float = 10.0  # seconds
    memory: int = 512 * MiB  # bytes in memory; files count apart
    address_space: int | None = (
        512 * MiB
    )  # bytes a process, so that an allocation fails in time; None: node reserves more
    stack: int = 64 * MiB  # bytes a main thread
    processes: int = 32  # and threads
    disk: int = 64 * MiB  # bytes of files in /tmp, the working folder
    output: int = 4 * MiB  # bytes printed
    open_files: int = 128  # a process


@dataclasses.dataclass(frozen=True)
class Ran:
    """How a program ended."""

    # by itself; out of time, of memory, of bytes to print; with its whole sandbox killed from inside; by `Program.stop`
    outcome: Literal['exited', 'timeout', 'memory', 'output', 'died', 'stopped']
    status: int | None  # exit status, or -signal; None where the program had not ended
    stdout: bytes  # up to Limits.output
    stderr: bytes  # the last 4096
    cpu: float  # seconds
    memory: int  # bytes, the largest process

    @property
    def succeeded(self) -> bool:
        return self.outcome == 'exited' and self.status == 0


class Program:
    """A program that was started."""

    def __init__(self, control: int, report: int, folder: str | None, limits: Limits):
        self._control, self._report, self._folder, self._limits = control, report, folder, limits
        self._stopping = False

    def stop(self, after: float = 0.0) -> Ran:
        """Kills it, with all that it started, unless it ends by itself within `after` seconds."""
        waiting = select.poll()  # select cannot watch a descriptor beyond 1023
        waiting.register(self._report, select.POLLIN)
        waiting.poll(after * 1000)
        self._stopping = True
        os.close(self._control)  # what the keeper waits for
        return self.wait()

    def wait(self) -> Ran:
        """Waits until it is over.

        Raises:
          Unavailable: there is no sandbox here.
          RuntimeError: the sandbox itself failed.
        """
        try:
            report = self._read()
        finally:
            os.close(self._report)
            if not self._stopping:
                os.close(self._control)
            if self._folder:
                shutil.rmtree(self._folder, ignore_errors=True)
        head, _, rest = report.partition(b'\n')
        if not head:
            raise RuntimeError('a sandbox ended without a word: its keeper was killed')
        answer = json.loads(head)
        if 'error' in answer:
            _failed(answer['error'], answer.get('errno'))
        out = answer['sizes'][0]
        fields = {name: answer[name] for name in ('outcome', 'status', 'cpu', 'memory')}
        return Ran(stdout=rest[:out], stderr=rest[out:], **fields)

    def _read(self) -> bytes:
        """All that the keeper says, which is bounded, within a time that is too."""
        deadline = time.monotonic() + _GRACE + (0 if self._stopping else self._limits.wall)
        pieces: list[bytes] = []
        waiting = select.poll()
        waiting.register(self._report, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            if waiting.poll(left * 1000):
                piece = os.read(self._report, MiB)
                if not piece:
                    return b''.join(pieces)
                pieces.append(piece)
        raise RuntimeError(f'a sandbox did not end within {self._limits.wall + _GRACE:g} s')


def run(
    command: Sequence[str],
    stdin: bytes = b'',
    files: Mapping[str, bytes] | None = None,
    limits: Limits = Limits(),
    executable: Sequence[str] = (),
) -> Ran:
    """Runs a program to its end.

    Args:
      command: the program, by absolute path, and its arguments; or 'python' and the arguments of inside.py.
      stdin: all of it; the program finds it in /dev/stdin too.
      files: name -> content, laid into the working folder.
      limits: what it may use.
      executable: names among `files`.

    Raises:
      Unavailable: there is no sandbox here.
      RuntimeError: the sandbox itself failed, which says nothing about the program.
    """
    return start(command, stdin, files, limits, executable).wait()


def start(
    command: Sequence[str],
    stdin: bytes = b'',
    files: Mapping[str, bytes] | None = None,
    limits: Limits = Limits(),
    executable: Sequence[str] = (),
    pipes: tuple[int, ...] = (),
) -> Program:
    """As `run`, without waiting. `pipes` are file descriptors that the program finds as `PIPES`; the caller closes its own."""
    isolated = os.environ.get(ALLOW) != '1'
    root = isolated and os.getuid() == 0
    files = dict(files or {})
    folder = None if isolated else tempfile.mkdtemp(prefix='r1jax-')
    spec = {
        'argv': list(command),
        'env': _ENV if isolated else _ENV | {'HOME': folder, 'TMPDIR': folder},
        'isolated': isolated,
        'folder': folder,
        'uid': _unused_uid() if root else None,
        'names': list(files),
        'modes': [0o755 if name in executable else 0o644 for name in files],
        'tasks': None,
        'inodes': 4096,
        'dev_size': 2 * limits.output + len(stdin) + MiB,
        **dataclasses.asdict(limits),
    }
    if isolated:
        _old_kernel()
        # process 1 counts, and the keeper where it is in the user namespace; outside of one, all that the user runs would
        spec |= _view() | {'tasks': limits.processes + (1 if root else 2)}
    blobs = {'stdin': stdin, 'filter': seccomp.program(platform.machine()) if isolated else b''}
    spec |= {'sizes': {name: len(blob) for name, blob in blobs.items()}, 'files': [len(b) for b in files.values()]}
    text = json.dumps(spec).encode()
    reader, control = os.pipe()
    report, writer = os.pipe()
    program = Program(control, report, folder, limits)
    try:
        _hand_over([reader, writer, *pipes])
    finally:
        os.close(reader)
        os.close(writer)
    try:
        data = memoryview(b''.join([len(text).to_bytes(4, 'big'), text, *blobs.values(), *files.values()]))
        while data:
            data = data[os.write(control, data) :]
    except BrokenPipeError:
        pass  # its report, or that there is none, says why
    return program


_waiting: subprocess.Popen | None = None  # this process's jail.py
_socket: socket.socket | None = None  # to it
_lock = threading.Lock()


def _hand_over(fds: Sequence[int]) -> None:
    """Asks jail.py, which is started at the first time and where it was killed, for a keeper with these descriptors."""
    global _waiting, _socket
    with _lock:
        for fresh in (False, True):
            if fresh or _socket is None:
                _forget()
                _socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with other:
                    command = [python(), '-S', '-s', '-P', '-B', os.path.join(_HERE, 'jail.py'), str(other.fileno())]
                    _waiting = subprocess.Popen(
                        command, stdin=subprocess.DEVNULL, pass_fds=[other.fileno()], env=_ENV, cwd='/', start_new_session=True
                    )  # fmt: skip
            try:
                socket.send_fds(_socket, [b'.'], fds)
                return
            except (BrokenPipeError, ConnectionResetError):
                if fresh:
                    raise


def _forget() -> None:
    """Lets go of jail.py, which then ends."""
    global _waiting, _socket
    if _socket is not None:
        _socket.close()
        _waiting.wait()
    _waiting = _socket = None


def _after_fork() -> None:
    """A forked process has to start its own: the parent's would outlive the parent."""
    global _waiting, _socket, _lock
    if _socket is not None:
        _socket.close()
    _waiting, _socket, _lock = None, None, threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def ready() -> None:
    """Raises `Unavailable`, with the reason, where nothing can be run; worth asking before a training run."""
    run(['python', 'script', 'nothing.py'], files={'nothing.py': b''})


@functools.cache
def python() -> str:
    """The interpreter that runs programs: this one's, outside of any virtual environment."""
    return os.path.realpath(getattr(sys, '_base_executable', '') or sys.executable)


@functools.cache
def _view() -> dict:
    """What a program sees of the file system, to read: system programs and libraries, and the interpreter's own."""
    interpreter, prefix = python(), os.path.realpath(sys.base_prefix)
    binds = [(path, path) for path in _SYSTEM if os.path.exists(path) and not os.path.islink(path)]
    links = [(path, os.readlink(path)) for path in _SYSTEM if os.path.islink(path)]
    for path in ('/bin', '/lib', '/lib64'):
        if os.path.islink(path):
            links.append((path, os.readlink(path)))
        elif os.path.isdir(path):
            binds.append((path, path))
    if not interpreter.startswith('/usr/bin/'):
        binds += [(interpreter, interpreter), (f'{prefix}/lib', f'{prefix}/lib')]
    node = os.path.realpath(shutil.which('node') or '')
    if os.path.isfile(node) and not any(node.startswith(f'{path}/') or node == path for path, _ in binds):
        binds.append((node, node))
    # installed packages stay hidden: one of them may hold a benchmark's tests and answers
    roots = {f'{prefix}/lib/python3*', '/usr/lib/python3*', '/usr/local/lib/python3*'}
    found = [
        path for root in sorted(roots) for name in ('site', 'dist') for path in glob.glob(f'{root}/{name}-packages')
    ]
    hide = [path for path in found if any(path.startswith(f'{source}/') for source, _ in binds)]
    binds += [(path, path) for path in _DEVICES if os.path.exists(path)]
    return {'binds': binds, 'links': links, 'hide': hide}


def _unused_uid() -> int:
    """A user id without a name, for programs to run as when the caller is root, whom some limits do not bind."""
    for uid in _UNUSED:
        try:
            pwd.getpwuid(uid)
        except KeyError:
            return uid
    raise Unavailable(f'model code must not run as root, and all user ids {_UNUSED} have names: remove one')


def _old_kernel() -> None:
    if sys.platform != 'linux' or platform.machine() not in seccomp.ARCHITECTURES:
        _failed(f'{platform.system()} on {platform.machine()} is not supported', 'ENOSYS')
    release = platform.release()
    if tuple(int(part) for part in release.split('-')[0].split('.')[:2]) < _OLDEST:
        _failed(f'Linux {release} is older than {".".join(map(str, _OLDEST))}', 'ENOSYS')


def _failed(reason: str, code: str | None) -> None:
    if code in (None, 'ENOMEM', 'EAGAIN', 'EMFILE', 'ENFILE'):  # for now, not for good
        raise RuntimeError(f'a sandbox failed: {reason}')
    raise Unavailable(
        f'model code runs in a sandbox only, and there is none here ({reason}): allow user namespaces (docs/sandbox.md says '
        'how), or trust the model with your files and pass --allow-unsandboxed'
    )
