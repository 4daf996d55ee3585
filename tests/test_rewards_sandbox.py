"""What a program in the sandbox is given, what it is denied, and how it ends."""
# ruff: noqa: E501 - programs stand in a line each

import errno
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from r1jax.rewards import inside, sandbox, seccomp
from r1jax.rewards.sandbox import Limits, MiB

ROOT = pathlib.Path(__file__).parents[1]
PYTHON = ['python', 'script', 'main.py']
SYSTEM_PYTHON = pathlib.Path('/usr/bin/python3')


def run(source, stdin=b'', **limits):
    return sandbox.run(PYTHON, stdin, {'main.py': source.encode()}, Limits(**limits))


def told(source):
    """What a program printed, as JSON."""
    ran = run(f'import json, os, sys, ctypes\ndef say(x): print(json.dumps(x))\n{source}')
    assert ran.succeeded, ran
    return json.loads(ran.stdout)


def test_streams_files_and_status():
    source = 'import sys\nprint(input(), open("/dev/stdin").read(), open("b.txt").read())\nopen("/dev/stderr", "w").write("e")\nexit(7)'
    ran = sandbox.run(PYTHON, b'one\ntwo', {'main.py': source.encode(), 'b.txt': b'\xc3\xa9'})
    assert (ran.outcome, ran.status, ran.stderr) == ('exited', 7, b'e')
    assert ran.stdout.decode() == 'one one\ntwo é\n'
    assert 0 < ran.cpu < 2 and 4 * MiB < ran.memory < 200 * MiB


def test_a_program_ends_as_any_python_program_does():
    ran = run(
        'import atexit, threading\natexit.register(print, "exit")\nthreading.Thread(target=print, args=("thread",)).start()\nprint(__name__)'
    )
    assert ran.succeeded and sorted(ran.stdout.split()) == [b'__main__', b'exit', b'thread']
    ran = run('1 / 0')
    assert ran.status == 1 and ran.stderr.endswith(b'ZeroDivisionError: division by zero\n')
    assert run('import os\nos.abort()').status == -signal.SIGABRT


def test_any_program_runs():
    assert sandbox.run(['/bin/sh', '-c', 'cat; pwd'], b'x').stdout == b'x/tmp\n'
    for command, why in (['/nothing/here'], b'No such file'), (['./x'], b'Exec format error'):
        ran = sandbox.run(command, files={'x': b'garbage'}, executable=('x',))
        assert ran.status == 127 and why in ran.stderr


@pytest.mark.parametrize(
    ('source', 'limits', 'outcome'),
    [
        ('while True: pass', {'cpu': 0.3}, 'timeout'),
        ('import os\nos.fork()\nos.fork()\nwhile True: pass', {'cpu': 0.4, 'wall': 20}, 'timeout'),  # together
        ('import time\ntime.sleep(99)', {'wall': 0.3}, 'timeout'),
        ('import mmap\nm = mmap.mmap(-1, 1 << 28)\nfor i in range(0, 1 << 28, 4096): m[i] = 1', {'memory': 64 * MiB}, 'memory'),
        ('print("x" * 2000)', {'output': 1000}, 'output'),
        ('print("x" * 900)', {'output': 1000}, 'exited'),
        ('import os, signal\nos.kill(os.getpid(), signal.SIGTERM)', {}, 'exited'),
    ],
)  # fmt: skip
def test_outcomes(source, limits, outcome):
    start = time.monotonic()
    assert run(source, **limits).outcome == outcome
    assert time.monotonic() - start < 15


def test_memory_that_forks_share_counts_once():
    source = 'import os, time\nx = bytearray(b"x") * (60 << 20)\nfor _ in range(6):\n    if not os.fork():\n        time.sleep(0.5)\n        os._exit(0)\ntime.sleep(0.7)'
    assert run(source, memory=160 * MiB).succeeded


def test_limits_hold_as_errors_too():
    ran = run('x = bytearray(1 << 30)', address_space=256 * MiB)
    assert b'MemoryError' in ran.stderr
    ran = run(
        'import os\ntry:\n    while True:\n        if not os.fork(): os.pause()\nexcept (OSError, AttributeError) as e: print(e.errno)',
        processes=8,
    )
    assert int(ran.stdout or 0) == errno.EAGAIN or ran.outcome == 'exited'
    ran = run('open("x", "wb").write(bytes(9 << 20))', disk=8 * MiB)
    assert b'No space left' in ran.stderr or b'File too large' in ran.stderr


def test_processes_are_counted_for_each_sandbox():
    source = 'import os, time\nn = 0\ntry:\n    while True:\n        if not os.fork():\n            time.sleep(9)\n        n += 1\nexcept OSError: print(n)'
    assert [int(run(source, processes=n, memory=4 << 30).stdout) for n in (4, 16)] == [3, 15]


def test_nothing_of_ours_is_seen(monkeypatch):
    monkeypatch.setenv('R1JAX_TEST_SECRET', 'x')
    seen = told(
        'say([sorted(os.listdir("/")), os.listdir("/tmp"), dict(os.environ), os.getuid(), os.getpid(), os.getcwd()])'
    )
    top, files, environment, uid, pid, folder = seen
    assert set(top) <= {'bin', 'dev', 'etc', 'lib', 'lib64', 'tmp', 'usr', *pathlib.Path(sys.base_prefix).parts[1:2]}
    assert files == ['main.py'] and folder == '/tmp'
    assert environment == sandbox._ENV
    assert uid != 0 and pid == 2
    assert told('say(os.listdir("/etc"))') in (
        ['alternatives', 'ld.so.cache'],
        ['ld.so.cache', 'alternatives'],
        ['ld.so.cache'],
    )


def test_installed_packages_are_hidden():
    found = told('say([p for p in sys.path if p.endswith("-packages") and os.path.isdir(p) and os.listdir(p)])')
    assert found == []
    tops = ('/usr/lib', f'{os.path.realpath(sys.base_prefix)}/lib', '/usr/local/lib')
    listed = told(f'import glob\nsay([p for t in {tops} for p in glob.glob(t + "/python3*/*-packages/*")])')
    assert listed == []


def test_only_its_own_streams_are_open():
    source = 'def held(fd):\n    try: os.fstat(fd)\n    except OSError: return False\n    return True\nsay([fd for fd in range(4096) if held(fd)])'
    assert told(source) == [0, 1, 2]
    script = 'for fd in 3 4 5 6 7 8 9 10 11 12 20 63 64 65 512 513; do (: >&$fd) 2>/dev/null && echo $fd; done; true'
    assert sandbox.run(['/bin/sh', '-c', script]).stdout == b''


def test_it_may_write_in_tmp_and_dev_only():
    source = 'import glob\nsay([d for t in ("/", "/*", "/*/*") for d in glob.glob(t) if os.path.isdir(d) and os.access(d, os.W_OK)])'
    assert set(told(source)) <= {'/tmp', '/dev'}


def test_no_capabilities_no_new_privileges_and_a_filter():
    calls = {
        'ptrace': (0, 0),
        'mount': (0, 0),
        'bpf': (0, 0),
        'keyctl': (0, 0),
        'memfd_create': (0, 0),
        'perf_event_open': (0, 0),
    }
    column = seccomp.ARCHITECTURES[os.uname().machine][1]
    numbers = {name: seccomp._DENIED[name][column] for name in calls} | {
        'io_uring_setup': 425,
        'clone3': 435,
        'newer': 4000,
    }
    source = f"""
libc = ctypes.CDLL(None, use_errno=True)
def tried(number):
    ctypes.set_errno(0)
    return [libc.syscall(ctypes.c_long(number), *[ctypes.c_long(0)] * 5), ctypes.get_errno()]
say([{{n: tried(v) for n, v in {numbers!r}.items()}}, libc.prctl(39, 0, 0, 0, 0), libc.prctl(21, 0, 0, 0, 0),
     libc.unshare(0x10000000), [libc.prctl(47, 1, c, 0, 0) for c in range(8)]])
"""
    results, no_new_privileges, mode, unshared, ambient = told(source)
    absent = {'clone3', 'newer'}
    assert results == {name: [-1, errno.ENOSYS if name in absent else errno.EPERM] for name in numbers}
    assert (no_new_privileges, mode, unshared, set(ambient)) == (1, 2, -1, {0})


def test_the_filter_knows_its_architectures():
    for machine in seccomp.ARCHITECTURES:
        assert len(seccomp.program(machine)) % 8 == 0 and len(seccomp.program(machine)) < 4096 * 8
    with pytest.raises(ValueError, match="for 'vax'"):
        seccomp.program('vax')


def test_no_network():
    source = """
import socket
def tried(*kind):
    try: socket.socket(*kind)
    except OSError as e: return e.errno
say([tried(f) for f in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_VSOCK)])
"""
    assert told(source) == [errno.EPERM] * 4
    assert told('import socket\na, b = socket.socketpair()\na.send(b"x")\nsay(b.recv(1).decode())') == 'x'


def test_a_signal_to_its_process_group_stays_inside():
    sleepers = []
    threads = [
        threading.Thread(target=lambda: sleepers.append(run('import time\ntime.sleep(1)\nprint("slept")')))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for _ in range(5):
        run('import os\nos.kill(0, 9)')
    for thread in threads:
        thread.join()
    assert [ran.stdout for ran in sleepers] == [b'slept\n'] * 3


def test_stop_kills_everything():
    program = sandbox.start(PYTHON, b'', {'main.py': b'import os, time\nos.fork()\ntime.sleep(99)'})
    start = time.monotonic()
    assert program.stop(after=0.2).outcome == 'stopped'
    assert 0.2 <= time.monotonic() - start < 5
    assert sandbox.start(PYTHON, b'', {'main.py': b'exit(3)'}).stop(after=9).status == 3


def test_a_killed_helper_is_replaced():
    run('')
    sandbox._waiting.kill()
    sandbox._waiting.wait()
    assert run('print(1)').stdout == b'1\n'


WORKER = """
import os, sys, threading
from r1jax.rewards import sandbox
source = b'import os, time\\nos.fork() or os.setsid()\\ntime.sleep(600)'
threading.Thread(target=sandbox.run, args=(['python', 'script', 'a.py'], b'', {'a.py': source})).start()
while not sandbox._waiting or not open(f'/proc/{sandbox._waiting.pid}/task/{sandbox._waiting.pid}/children').read(): pass
print(sandbox._waiting.pid, flush=True)
"""


def below(pid):
    found, waiting = set(), [pid]
    while waiting:
        pid = waiting.pop()
        found.add(pid)
        for path in pathlib.Path(f'/proc/{pid}/task').glob('*/children'):
            waiting += map(int, path.read_text().split())
    return found


def alive(pid):
    try:
        return pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] not in 'ZX'
    except FileNotFoundError:
        return False


@pytest.mark.parametrize('victim', ['worker', 'helper', 'keeper'])
def test_the_tree_dies_with_whoever_runs_it(victim):
    worker = subprocess.Popen(
        [sys.executable, '-c', WORKER], stdout=subprocess.PIPE, text=True, cwd=ROOT, stderr=subprocess.DEVNULL
    )
    helper = int(worker.stdout.readline())
    deadline = time.monotonic() + 20
    while len(tree := below(helper)) < 5 and time.monotonic() < deadline:  # helper, keeper, first, program, its child
        time.sleep(0.05)
    assert len(tree) == 5
    keeper = next(iter(pathlib.Path(f'/proc/{helper}/task/{helper}/children').read_text().split()))
    os.kill({'worker': worker.pid, 'helper': helper, 'keeper': int(keeper)}[victim], signal.SIGKILL)
    left = tree if victim != 'keeper' else tree - {helper}
    while any(map(alive, left)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in left if alive(pid)]
    worker.kill()
    worker.wait()
    worker.stdout.close()


def in_another_python(source, *wrapper, python=sys.executable, **env):
    """Runs a piece of Python that prints JSON in an interpreter of its own."""
    command = [*wrapper, str(python), '-B', '-c', f'import json\nfrom r1jax.rewards import sandbox\n{source}']
    done = subprocess.run(
        command, capture_output=True, text=True, cwd='/', env=os.environ | {'PYTHONPATH': str(ROOT)} | env
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


REFUSED = """
try: sandbox.ready()
except sandbox.Unavailable as error: print(json.dumps(str(error)))
"""
ran_as = "ran = sandbox.run(['python', 'script', 'a.py'], b'', {'a.py': b'import os; print(os.getuid(), os.listdir(\"/\"))'})\nprint(json.dumps(ran.stdout.decode()))"


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which('setpriv'), reason='becomes another user, which root may')
def test_an_ordinary_user_needs_no_root(tmp_path):
    if not SYSTEM_PYTHON.exists() or sys.version_info < (3, 11) or not os.access(ROOT, os.R_OK):
        pytest.skip('needs a Python that every user can start')
    user = ['setpriv', '--reuid=54321', '--regid=54321', '--clear-groups']
    probe = subprocess.run(
        [*user, str(SYSTEM_PYTHON), '-c', f'import sys; sys.path.append({str(ROOT)!r}); import r1jax.rewards.sandbox'],
        capture_output=True,
    )
    if probe.returncode:
        pytest.skip('the checkout or the interpreter cannot be read by every user')
    said = in_another_python(ran_as, *user, python=SYSTEM_PYTHON)
    assert said.startswith('54321 ') and 'root' not in said.partition(' ')[2]


@pytest.mark.skipif(not shutil.which('unshare'), reason='makes a user namespace with unshare')
def test_refuses_where_root_cannot_drop():
    """Root of a namespace that maps nobody else cannot become another user."""
    if subprocess.run(['unshare', '-Ur', 'true'], capture_output=True).returncode:
        pytest.skip('no user namespaces')
    reason = in_another_python(REFUSED, 'unshare', '-Ur')
    assert 'there is none here' in reason and '--allow-unsandboxed' in reason and '\n' not in reason


@pytest.mark.skipif(not shutil.which('unshare'), reason='makes a user namespace with unshare')
def test_refuses_without_user_namespaces():
    wrapper = [
        'unshare',
        '-U',
        '--map-user=1000',
        '--keep-caps',
        'sh',
        '-c',
        'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"',
        '-',
    ]
    if subprocess.run([*wrapper, 'true'], capture_output=True).returncode:
        pytest.skip('cannot forbid user namespaces here')
    assert 'allow user namespaces' in in_another_python(REFUSED, *wrapper)


def test_refuses_an_old_kernel_and_an_unknown_system(monkeypatch):
    monkeypatch.setattr('platform.release', lambda: '5.4.0-42-generic')
    with pytest.raises(sandbox.Unavailable, match=r'Linux 5\.4\.0-42-generic is older than 5\.14'):
        sandbox.ready()
    monkeypatch.setattr('platform.release', lambda: '6.1')
    monkeypatch.setattr('platform.machine', lambda: 'vax')
    with pytest.raises(sandbox.Unavailable, match='on vax is not supported'):
        sandbox.ready()


def test_refuses_when_every_unused_user_has_a_name(monkeypatch):
    monkeypatch.setattr('pwd.getpwuid', lambda uid: None)
    with pytest.raises(sandbox.Unavailable, match='must not run as root'):
        sandbox._unused_uid()


def test_unsandboxed_only_when_asked_for():
    """Then limits hold, what is started is killed, and the folder is removed."""
    source = """
import os, pathlib, time
code = b'import os, time\\nprint(os.getcwd(), input())\\nif not os.fork():\\n    os.setsid()\\n    time.sleep(600)'
ran = sandbox.run(['python', 'script', 'a.py'], b'hello', {'a.py': code})
folder, word = ran.stdout.decode().split()
late = sandbox.run(['python', 'script', 'a.py'], b'', {'a.py': b'while True: pass'}, sandbox.Limits(cpu=0.3))
time.sleep(0.2)  # a keeper that has reported still has to end
children = open(f'/proc/{sandbox._waiting.pid}/task/{sandbox._waiting.pid}/children').read()
print(json.dumps([word, os.path.exists(folder), ran.succeeded, late.outcome, children]))
"""
    assert in_another_python(source, **{sandbox.ALLOW: '1'}) == ['hello', False, True, 'timeout', '']


@pytest.mark.parametrize(
    'value',
    [None, True, 3, -(1 << 70), 1 << 20000, 1.5, float('inf'), 'é\0', [1, [2]], (1, (2,)), {'a': 1, (2, 3): [4]}, {1, 2},
     frozenset({3}), b'\xff', bytearray(b'x'), 1j, range(1, 9, 2), [], (), {}],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_plain_data_crosses_as_itself(value):
    crossed = inside.decode(json.loads(json.dumps(inside.encode(value))))
    assert crossed == value and type(crossed) is type(value)


def test_what_is_not_plain_data_does_not_cross():
    class Liar(list):
        def __iter__(self):
            return iter([1])

        def __eq__(self, other):
            return True

    assert type(inside.decode(inside.encode(Liar([2])))) is list
    assert inside.decode(inside.encode(Liar([2]))) == [2]
    assert list(inside.decode(inside.encode(map(abs, [-1])))) == [1]
    for thing in (object(), len, Liar, {1: object()}):
        with pytest.raises(TypeError, match='no plain data'):
            inside.encode(thing)
    for forged in (
        {'eval': '1'},
        {},
        {'int': 'x'},
        {'int': 5},
        {'dict': 5},
        {'set': [[1]]},
        {'complex': 'a'},
        {'range': [1.5]},
        {'a': 1, 'b': 2},
    ):
        with pytest.raises(ValueError):
            inside.decode(forged)


def test_arguments_changed_by_a_call_are_changed_in_place():
    inner = [1, 2]
    old = [inner, {'a': inner}, {5}, 7]
    assert inside.copy_into(old, [[2, 1], {'a': [3]}, {6}, 8])
    assert old == [[3], {'a': [3]}, {6}, 8] and old[0] is inner  # held twice, so the last change is seen in both
