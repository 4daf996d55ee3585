"""Runs programs in sandboxes of their own. A script of the standard library alone, `python -S -s -P -B jail.py FD`, started by
`r1jax.rewards.sandbox` and by nothing else: what trains is never forked, and never runs a line of a model's.

Four kinds of processes. The *waiting* one (this script) has everything imported; for each message on its socket, which
brings a pipe to read from and one to report into, it forks a *keeper*. The keeper stays outside, where it sees /proc and
watches memory and CPU time. It forks the *first*: process 1 of a new pid namespace, which builds a root folder of its own,
waits for the *program*, kills whatever is left and reports (walls.py has what it asks of the kernel). When the keeper dies
the kernel kills the first, and when the first dies the kernel kills all of its namespace.

In, from the first pipe: the length of a JSON text (4 bytes, big-endian), the text, then the bytes that it gives the sizes
of. The pipe stays open: once the caller closes it, or dies, everything is killed. Out: one line of JSON, then what the
program wrote to stdout and stderr.

Started as root, the first builds the root folder and then becomes an unused user; started by a user, everything happens
in a user namespace. Either way the program is nobody special, may gain no privilege, and sees no /proc.

A Python program is a fork too, in place of an interpreter that starts anew: it finds inside.py and common modules loaded,
and in its memory nothing but its own files.
"""

import errno
import fcntl
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
inside, walls = map(importlib.import_module, ('inside', 'walls'))  # beside this file, and of no package
del sys.path[0]

TICK = 0.02  # seconds between two looks at the processes
PAGE = os.sysconf('SC_PAGE_SIZE')
CLOCK = os.sysconf('SC_CLK_TCK')


def families(root):
    """Process ids of `root` and all that descend from it."""
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        try:
            for thread in os.listdir(f'/proc/{pid}/task'):
                with open(f'/proc/{pid}/task/{thread}/children') as file:
                    waiting += map(int, file.read().split())
        except OSError:  # it ended meanwhile
            continue
    return found


def usage(first):
    """(bytes in memory, seconds of CPU) of everything below the process `first`. Pages that forks share count for each."""
    pages = ticks = 0
    for pid in families(first):
        try:
            with open(f'/proc/{pid}/stat') as file:
                fields = file.read().rpartition(')')[2].split()
        except OSError:
            continue
        own, reaped = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
        ticks += reaped if pid == first else own + reaped
        pages += 0 if pid == first else int(fields[21])
    return pages * PAGE, ticks / CLOCK


def proportional(first):
    """Bytes in memory below the process `first`, pages that forks share counted once: exact, and too slow for every look."""
    total = 0
    for pid in families(first)[1:]:
        try:
            with open(f'/proc/{pid}/smaps_rollup') as file:
                total += next(int(line.split()[1]) for line in file if line.startswith('Pss:')) * 1024
        except ProcessLookupError:
            continue
        except OSError:  # not ours to read: then as counted before
            return usage(first)[0]
    return total


def become(spec, streams, filters, fault):
    """Gives this process the program's streams and limits and takes every other file descriptor but `fault` from it."""
    for target, fd in enumerate([fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64) for fd in streams]):
        os.dup2(fd, target)
    os.closerange(len(streams), fault)  # whoever could write to the report could forge it
    os.closerange(fault + 1, 1024)
    os.setsid()  # nor shall process 1 hear what the program tells its own group
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and what is ignored stays so
        signal.signal(number, signal.SIG_DFL)
    walls.give_up_capabilities()
    walls.limit(spec)
    if filters:
        walls.filter_calls(filters)


class Python(Exception):
    """Unwinds a forked process down to where inside.py runs, so that the program ends as any Python program does."""


def wait(program, deadline):
    """The program's exit status as waitpid tells it, or None at the deadline; reaps orphans on the way."""
    while True:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return None
            if pid == program:
                return status
            if not pid:
                break
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        signal.sigtimedwait([signal.SIGCHLD], left)


def kill_all(isolated):
    """Kills and reaps every process below this one."""
    while True:
        try:
            if isolated:
                os.kill(-1, signal.SIGKILL)  # all of this pid namespace but its first, which is this process
            else:
                for pid in families(os.getpid())[1:]:
                    os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def first(spec, blobs, report):
    """Process 1: sets up, starts the program, waits, cleans up and reports into the file descriptor `report`."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)  # what process 1 does not handle, nobody inside can send it
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    os.setsid()  # a signal to a process group reaches all of it, outside of the pid namespace too
    os.umask(0o022)
    root = spec['uid'] is not None
    if spec['isolated']:
        walls.unshare(walls.NEWNS)
        walls.build(spec)
    else:
        walls.call('prctl', walls.SUBREAPER, 1, 0, 0, 0)
        os.chdir(spec['folder'])
    place_in = '/dev/' if spec['isolated'] else '.'
    for name, mode, blob in zip(spec['names'], spec['modes'], blobs['files'], strict=True):
        with open(name, 'wb', opener=lambda path, flags, mode=mode: os.open(path, flags, mode)) as file:
            file.write(blob)
        if root:
            os.chown(name, spec['uid'], spec['uid'])
    with open(f'{place_in}stdin', 'wb') as file:
        file.write(blobs['stdin'])
    streams = [os.open(f'{place_in}stdin', os.O_RDONLY)]
    for name in ('stdout', 'stderr'):
        streams.append(os.open(f'{place_in}{name}', os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o666))
        os.fchmod(streams[-1], 0o666)
    if root:
        walls.drop(spec['uid'])
        walls.unshare(walls.NEWUSER)  # no root above it any more, and processes are counted for this sandbox alone
    if spec['isolated']:
        walls.give_up_capabilities()
    walls.call('prctl', walls.PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.write(report, b'R')  # fails if the keeper is gone already
    started = time.monotonic()
    failure, faulty = os.pipe()  # closed once nothing more can go wrong but in the program itself
    program = os.fork()
    if not program:
        try:
            fault = fcntl.fcntl(faulty, fcntl.F_DUPFD_CLOEXEC, 512)
            become(spec, [*streams, *spec['pipes']], blobs['filter'], fault)
        except BaseException as error:
            os.write(fault, str(error).encode())
            os._exit(127)
        os.close(fault)
        if spec['argv'][0] != 'python':
            try:
                os.execve(spec['argv'][0], spec['argv'], spec['env'])
            except OSError as error:  # of a compiled program's making, or its size: its own fault
                os.write(2, str(error).encode())
            os._exit(127)
        os.environ.clear()
        os.environ.update(spec['env'])
        raise Python(spec['argv'][1:])
    os.close(faulty)
    for fd in spec['pipes']:
        os.close(fd)
    with open(failure, 'rb') as file:
        failed = file.read().decode(errors='replace')
    status = wait(program, started + spec['wall'])
    kill_all(spec['isolated'])
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = spent.ru_utime + spent.ru_stime
    sizes = [os.fstat(fd).st_size for fd in streams[1:]]
    outcome = 'exited'
    if status is None or cpu > spec['cpu']:
        outcome = 'timeout'
    elif max(sizes) > spec['output']:
        outcome = 'output'
    answer = {
        'outcome': outcome,
        'status': None if status is None else os.waitstatus_to_exitcode(status),
        'cpu': cpu,
        'memory': spent.ru_maxrss * 1024,
    }
    out, err = os.pread(streams[1], spec['output'], 0), os.pread(streams[2], 4096, max(0, sizes[1] - 4096))
    with open(report, 'wb') as file:
        file.write(framed({'error': failed} if failed else answer, out, err))


def framed(answer, out=b'', err=b''):
    return json.dumps(answer | {'sizes': [len(out), len(err)]}).encode() + b'\n' + out + err


def read_spec():
    """The spec, and its blobs by name, from file descriptor 0."""
    with open(0, 'rb', closefd=False) as stdin:
        spec = json.loads(stdin.read(int.from_bytes(stdin.read(4), 'big')))
        blobs = {name: stdin.read(size) for name, size in spec['sizes'].items()}
        blobs['files'] = [stdin.read(size) for size in spec['files']]
    return spec, blobs


def keep(parent, pipes):
    """The keeper: starts the first process and watches it until it has reported. Returns the report."""
    walls.call('prctl', walls.PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    spec, blobs = read_spec()
    spec['pipes'] = pipes
    if spec['isolated']:
        apart = walls.NEWPID | walls.NEWNET | walls.NEWIPC | walls.NEWUTS | walls.NEWCGROUP
        if spec['uid'] is not None:
            walls.unshare(apart)
        else:
            uid, gid = os.getuid(), os.getgid()
            walls.unshare(walls.NEWUSER | apart)
            for name, text in (('setgroups', 'deny'), ('uid_map', f'{uid} {uid} 1'), ('gid_map', f'{gid} {gid} 1')):
                with open(f'/proc/self/{name}', 'w') as file:
                    file.write(text)
            walls.call('prctl', walls.PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # new credentials cleared it
    if os.getppid() != parent:
        raise ProcessLookupError('the caller is gone')
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reader)
            quiet = os.open('/dev/null', os.O_RDWR)
            os.dup2(quiet, 0)
            os.dup2(quiet, 1)
            first(spec, blobs, writer)
        except Python:
            raise
        except BaseException as error:
            os.write(writer, framed(fault_of(error)))
        os._exit(0)
    os.close(writer)
    for fd in spec['pipes']:
        os.close(fd)
    report, killed = watch(spec, child, reader)
    os.kill(child, signal.SIGKILL)  # it has ended, or is to end
    os.waitpid(child, 0)
    if not report.startswith(b'R'):
        return report or framed({'error': 'process 1 died while setting up'})
    if killed or len(report) == 1:  # died: killed from inside, or by the kernel for want of memory
        return framed({'outcome': killed or 'died', 'status': None, 'cpu': 0.0, 'memory': 0})
    return report[1:]


def watch(spec, child, reader):
    """What the first process wrote, and '' or why it is to be killed."""
    report = b''
    asked = select.poll()
    for fd in (0, reader):
        asked.register(fd, select.POLLIN | select.POLLHUP)
    deadline = None
    while True:
        ready = dict(asked.poll(TICK * 1000))
        if 0 in ready:
            asked.unregister(0)
        if reader in ready:
            piece = os.read(reader, 1 << 20)
            if not piece:
                return report, ''
            report += piece
            deadline = deadline or time.monotonic() + spec['wall'] + 5  # the first process is stuck
        if 0 in ready and len(report) < 2:  # with more than that it is over already
            return report, 'stopped'
        if deadline:
            memory, cpu = usage(child)
            if memory > spec['memory'] and proportional(child) > spec['memory']:
                return report, 'memory'
            if cpu > spec['cpu'] or time.monotonic() > deadline:
                return report, 'timeout'


def fault_of(error):
    code = errno.errorcode.get(error.errno) if isinstance(error, OSError) else None
    return {'error': str(error) or type(error).__name__, 'errno': code}


def serve(asked):
    """Forks a keeper for every message on the socket; returns when the other side is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are not waited for
    owner, own = os.getppid(), os.getpid()
    asked.settimeout(1.0)
    while True:
        try:
            message, fds, _, _ = socket.recv_fds(asked, 1, 8)
        except TimeoutError:
            if os.getppid() != owner:
                return
            continue
        if not message:
            return
        if not os.fork():
            asked.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for target, fd in enumerate(fds[:2]):
                os.dup2(fd, target)
                os.close(fd)
            try:
                report = keep(own, fds[2:])
            except OSError as error:
                report = framed(fault_of(error))
            with open(1, 'wb') as file:
                file.write(report)
            os._exit(0)
        for fd in fds:
            os.close(fd)


def main():
    inside.prepare()
    gc.collect()
    gc.freeze()  # so that no collection of a fork writes to pages that it shares
    try:
        serve(socket.socket(fileno=int(sys.argv[1])))
    except Python as program:
        sys.argv = ['inside.py', *program.args[0]]
    else:
        return
    inside.main()


if __name__ == '__main__':
    main()
