"""Programs that attack what grades them: each is contained, none is rewarded, grading goes on, and nothing is left behind.

All run at once, as they would in training, beside honest programs that must still pass. A case is a program and the kind of
test it is up against:

    check   f(2) == 4 and f(3) == 9, by a HumanEval check; the program ought to define f
    call    the same by calls, whose expected results are secrets that no program can compute
    print   must print a secret; the input holds where to look for it outside
    cpp, javascript   as print
"""
# ruff: noqa: E501 - programs stand in a line each

import concurrent.futures
import os
import pathlib
import secrets
import shutil
import socket
import textwrap
import time

import pytest

from r1jax.rewards import sandbox
from r1jax.rewards.code import Code
from r1jax.types import Problem, Response

SECRET = secrets.token_hex(8)
RIGHT = 'def f(x):\n    return x * x\n'
CHECK = 'def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(3) == 9\n'

ATTACKS = {  # name -> (kind, program)
    # ending early
    'exit': ('check', 'exit()'),
    'sys_exit_0': ('check', 'import sys\nsys.exit(0)'),
    'sys_exit_in_call': ('check', 'import sys\ndef f(x): sys.exit(0)'),
    'os_exit_0': ('check', 'import os\nos._exit(0)'),
    'os_exit_in_call': ('check', 'import os\ndef f(x): os._exit(0)'),
    'raise_system_exit': ('check', 'raise SystemExit(0)'),
    'kill_itself': ('check', 'import os\ndef f(x): os.kill(os.getpid(), 9)'),
    'segfault': ('check', 'import ctypes\ndef f(x): ctypes.string_at(0)'),
    'exec_true': ('check', 'import os\nos.execv("/bin/true", ["true"])'),
    # using things up
    'infinite_loop': ('check', 'while True: pass'),
    'infinite_loop_in_call': ('check', 'def f(x):\n    while True: pass'),
    'loop_that_catches_everything': ('check', 'while True:\n    try:\n        while True: pass\n    except BaseException: pass'),
    'sleep': ('check', 'import time\ndef f(x): time.sleep(1e6)'),
    'power_tower': ('check', 'def f(x): return 9**9**9'),
    'fork_bomb': ('check', 'import os\nwhile True:\n    try: os.fork()\n    except OSError: pass'),
    'thread_bomb': (
        'check',
        'import threading, time\nwhile True:\n    try: threading.Thread(target=time.sleep, args=(99,)).start()\n    except RuntimeError: pass',
    ),
    'memory_bomb': ('check', 'x = []\nwhile True: x.append(bytearray(10**8))'),
    'memory_bomb_one': ('check', 'def f(x): return bytearray(10**12)'),
    'memory_bomb_many_processes': (
        'check',
        """
        import os, time
        for _ in range(8):
            if not os.fork(): break
        hog = bytearray(b'x') * 100_000_000
        time.sleep(99)
        """,
    ),
    'memory_bomb_shared': (
        'check',
        'import mmap\nkept = []\nwhile True:\n    m = mmap.mmap(-1, 1 << 26)\n    m.write(bytes(1 << 26))\n    kept.append(m)',
    ),
    'disk_bomb': ('check', 'with open("big", "wb") as file:\n    while True: file.write(bytes(1 << 20))'),
    'disk_bomb_many_files': (
        'check',
        'i = 0\nwhile True:\n    i += 1\n    open(f"f{i}", "wb").write(bytes(1 << 16))',
    ),
    'inode_bomb': ('check', 'import os\ni = 0\nwhile True:\n    i += 1\n    os.mkdir(f"d{i}")'),
    'deep_folders': ('check', 'import os\nwhile True:\n    os.mkdir("d" * 200)\n    os.chdir("d" * 200)'),
    'file_descriptor_bomb': ('check', 'kept = []\nwhile True: kept.append(open("/dev/null"))'),
    'pipe_bomb': ('check', 'import os\nwhile True:\n    r, w = os.pipe()\n    os.write(w, bytes(60000))'),
    'output_flood': ('print', 'while True: print("x" * 10**6)'),
    'error_flood': ('print', 'import sys\nwhile True: sys.stderr.write("x" * 10**6)'),
    'recursion': ('check', 'def f(x): return f(x)'),
    'recursion_without_a_limit': ('check', 'import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return [f(x)]'),
    'compile_bomb': ('check', '(' * 90 + '0' + ')' * 90 + '\nf = 1' + '+1' * 50000),
    # what comes back
    'huge_return': ('check', 'def f(x): return "x" * 10**8'),
    'huge_return_within_the_limit': ('check', 'def f(x): return [[] for _ in range(10**6)]'),
    'nested_return': ('check', 'def f(x):\n    v = []\n    for _ in range(10**5): v = [v]\n    return v'),
    'cyclic_return': ('check', 'def f(x):\n    v = []\n    v.append(v)\n    return v'),
    'endless_iterator': ('check', 'import itertools\ndef f(x): return itertools.count()'),
    'always_equal': ('check', 'class E:\n    def __eq__(self, other): return True\ndef f(x): return E()'),
    'always_equal_int': ('check', 'class E(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\ndef f(x): return E(0)'),
    'always_equal_list': ('call', 'class E(list):\n    def __eq__(self, other): return True\ndef f(x): return E()'),
    'always_equal_by_reduce': ('check', 'class E:\n    def __reduce__(self): return (print, ("x",))\n    def __eq__(self, o): return True\ndef f(x): return E()'),
    'nan_return': ('check', 'def f(x): return float("nan")'),
    'raises_assertion_error': ('check', 'def f(x): raise AssertionError'),
    'raises_stop_iteration': ('check', 'def f(x): raise StopIteration'),
    'raises_its_own': ('check', 'class E(BaseException):\n    def __str__(self): return "x" * 10**8\ndef f(x): raise E'),
    # the harness
    'patches_builtins': ('check', 'import builtins\nbuiltins.isinstance = lambda *a: True\nbuiltins.AssertionError = Warning\nbuiltins.compile = exec\ndef f(x): return 0'),
    'patches_json': ('check', 'import json\njson.dumps = lambda *a, **k: "true"\ndef f(x): return 0'),
    'patches_the_harness': (
        'check',
        """
        import sys
        for module in list(sys.modules.values()):
            for name in ('check', 'encode', 'pack', 'send', 'candidate'):
                if hasattr(module, name):
                    setattr(module, name, lambda *a, **k: 0)
        def f(x): return 0
        """,
    ),
    'empties_sys_modules': ('check', 'import sys\nsys.modules.clear()\ndef f(x): return 0'),
    'defines_check': ('check', 'def check(candidate): pass\ndef f(x): return 0'),
    'prints_markers': ('check', 'print("PASSED", "OK", 0, {"outcome": "exited", "status": 0})\ndef f(x): return 0'),
    'forges_messages': (
        'check',
        """
        import os, json, struct
        def say(m):
            b = json.dumps(m).encode()
            os.write(4, struct.pack('>I', len(b)) + b)
        for m in (['passed'], ['value', True, None], 0, ['R'], {'outcome': 'exited', 'status': 0}):
            say(m)
        os._exit(0)
        """,
    ),
    'forges_a_report': (
        'check',
        """
        import os
        for fd in range(1024):
            try: os.write(fd, b'R{"outcome": "exited", "status": 0, "cpu": 0, "memory": 0, "sizes": [0, 0]}\\n')
            except OSError: pass
        os._exit(0)
        """,
    ),
    'sends_a_huge_length': ('check', 'import os\nos.write(4, b"\\xff\\xff\\xff\\xff" + bytes(10**5))\nimport time\ntime.sleep(99)'),
    'sends_half_a_message': ('call', 'import os, time\nos.write(4, b"\\x00\\x00\\x00\\x09[")\ntime.sleep(99)'),
    'sends_deep_json': ('call', 'import os\nos.write(4, b"\\x00\\x00\\x80\\x00" + b"[" * 32768)\nimport time\ntime.sleep(99)'),
    'closes_its_pipes': ('check', 'import os, time\nos.closerange(0, 99)\ntime.sleep(99)'),
    'closes_its_pipes_in_call': ('call', 'import os\ndef f(x): os.closerange(3, 99)'),
    'two_processes_answer': ('check', 'import os\nos.fork()\ndef f(x): return 5 + (os.getpid() > 2)'),
    'looks_for_the_tests': (
        'call',
        """
        import gc, sys, re
        def f(x):
            frame, seen = sys._getframe(), []
            while frame:
                seen += [*map(repr, frame.f_locals.values()), *map(repr, frame.f_globals.values())]
                frame = frame.f_back
            for o in gc.get_objects():
                try: seen.append(repr(o)[:10000])
                except BaseException: pass
            found = re.findall('expected:[0-9a-f]{16}', ' '.join(seen))
            return found[0] if found else 'nothing'
        """,
    ),
    'looks_through_its_memory': (
        'call',
        """
        import ctypes, re
        def f(x):
            spots = [id(object()), id(f), id(re), id({})]
            found = set()
            for spot in spots:
                chunk = ctypes.string_at(spot & ~0xfff, 4096)
                found |= set(re.findall(rb'expected:[0-9a-f]{16}', chunk))
            return found.pop().decode() if found else 'nothing'
        """,
    ),
    # the outside
    'environment': ('print', 'import os\nprint(os.environ.get("R1JAX_TEST_SECRET"))'),
    'parents_environment': ('print', 'import os\nfor p in (1, os.getppid()): print(open(f"/proc/{p}/environ").read())'),
    'reads_a_file_outside': ('print', 'print(open(input()).read())'),
    'reads_home': ('print', 'import os\nprint(open(os.path.join(os.path.dirname(input()), "secret")).read(), os.listdir(os.path.expanduser("~root")))'),
    'reads_through_a_symlink': ('print', 'import os\nos.symlink(input(), "s")\nprint(open("s").read())'),
    'reads_through_dots': ('print', 'print(open("../" * 40 + input()).read())'),
    'finds_files_of_tests': (
        'print',
        'import os, re\nfor d, _, fs in os.walk("/tmp"):\n    for n in fs:\n        print(*re.findall("[0-9a-f]{16}", open(f"{d}/{n}", errors="replace").read()))',
    ),
    'reads_a_device': ('print', 'import os\nos.mknod("disk", 0o60600, os.makedev(254, 0))\nprint(open("disk", "rb").read(9))'),
    'writes_outside': ('print', 'path = input()\nopen(path, "w").write("was here")'),
    'writes_into_the_interpreter': ('print', 'import os\nopen(os.__file__, "a").write("#")'),
    'writes_into_system_folders': ('print', 'for p in ("/x", "/usr/x", "/usr/bin/x", "/etc/x", "/dev/null/x"): open(p, "w")'),
    'removes_outside': ('print', 'import os\nos.remove(input())'),
    'connects_to_the_host': ('print', 'import socket\npath = input()\nprint(socket.create_connection(("127.0.0.1", int(input())), 1).recv(99).decode())'),
    'connects_to_the_internet': ('print', 'import socket\nsocket.create_connection(("1.1.1.1", 53), 1)\nprint("out")'),
    'connects_over_vsock': ('print', 'import socket\ns = socket.socket(socket.AF_VSOCK)\ns.connect((2, 1))'),
    'connects_to_an_abstract_socket': ('print', 'import socket\ns = socket.socket(socket.AF_UNIX)\ninput(), input()\ns.connect("\\0" + input())\nprint(s.recv(99).decode())'),
    'kills_its_parent': ('check', 'import os\nfor p in (os.getppid(), 1, 0, -1):\n    for n in (9, 15, 2, 19):\n        try: os.kill(p, n)\n        except OSError: pass'),
    'traces_its_parent': ('check', 'import ctypes\nif ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0: raise SystemExit\ndef f(x): return 0'),
    'limits_its_parent': ('check', 'import resource\nresource.prlimit(1, resource.RLIMIT_CPU, (0, 0))\ndef f(x): return 0'),
    'raises_its_limits': (
        'check',
        'import resource\nfor r in range(16):\n    resource.setrlimit(r, (-1, -1))\ndef f(x): return 0',
    ),
    'becomes_root': ('check', 'import os\nos.setuid(0)\ndef f(x): return 4 if x == 2 else 9'),
    'makes_a_namespace': ('print', 'import ctypes, sys\nsys.exit(ctypes.CDLL(None).unshare(0x10000000) and 1)'),
    'mounts': ('print', 'import ctypes, sys\nsys.exit(ctypes.CDLL(None).mount(b"none", b"/tmp", b"tmpfs", 0, 0) and 1)'),
    'runs_setuid_programs': ('print', 'import os, subprocess\nprint(subprocess.run(["/usr/bin/su", "-c", "id"], capture_output=True).stdout)'),
    # staying
    'hangs_at_exit': ('print', 'import atexit, time\natexit.register(time.sleep, 99)'),
    'prints_at_exit': ('check', 'import atexit\natexit.register(print, "passed")\nexit()'),
    'thread_that_stays': ('print', 'import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()'),
    'daemon': (
        'print',
        """
        import os, time
        if not os.fork():
            os.setsid()
            if not os.fork():
                os.closerange(0, 99)
                time.sleep(1000)
            os._exit(0)
        """,
    ),
    'zombies': ('print', 'import os\nfor _ in range(20):\n    if not os.fork(): os._exit(0)'),
    'ignores_signals': ('print', 'import signal, time\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): pass\ntime.sleep(99)'),
    'stops_itself': ('print', 'import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)'),
    'listens': ('print', 'import os, socket, time\ns = socket.socket(socket.AF_UNIX)\ns.bind("/tmp/s")\ns.listen()\nif not os.fork(): time.sleep(99)'),
    'locks_its_folder': ('print', 'import os\nos.mkdir("d")\nopen("d/f", "w")\nos.chmod("d", 0)'),
    # text that is hardly a program
    'null_bytes': ('check', 'def f(x):\n    return x\0 * x'),
    'lone_surrogates': ('check', 'def f(x):\n    return "\ud800"'),
    'megabyte': ('check', RIGHT + '#' * (1 << 20)),
    # other languages
    'cpp_loop': ('cpp', 'int main() { for (volatile int i = 0;; i = i + 1) {} }'),
    'cpp_fork_bomb': ('cpp', '#include <unistd.h>\nint main() { for (;;) fork(); }'),
    'cpp_memory_bomb': ('cpp', '#include <cstdlib>\n#include <cstring>\nint main() { for (;;) { void* p = malloc(1 << 24); if (p) memset(p, 1, 1 << 24); } }'),
    'cpp_system': ('cpp', '#include <cstdlib>\nint main() { return system("cat /etc/shadow /proc/1/environ /tmp/../root/.bashrc; id; env"); }'),
    'cpp_includes_a_file': ('cpp', '#include "/etc/passwd"\nint main() {}'),
    'cpp_includes_a_device': ('cpp', '#include "/dev/zero"\nint main() {}'),
    'cpp_big_binary': ('cpp', 'char big[1u << 31] = {1};\nint main() {}'),
    'cpp_too_big_to_start': ('cpp', 'char big[1u << 31];\nint main() { return big[0]; }'),
    'cpp_endless_templates': ('cpp', 'template <int N> struct A { static const int v = A<N + 1>::v; };\nint main() { return A<0>::v; }'),
    'cpp_io_uring': ('cpp', '#include <unistd.h>\n#include <sys/syscall.h>\nint main() { char p[256] = {}; return syscall(SYS_io_uring_setup, 8, p) >= 0 ? 0 : 1; }'),
    'js_exit': ('javascript', 'process.exit(0)'),
    'js_loop': ('javascript', 'for (;;) {}'),
    'js_memory_bomb': ('javascript', 'const x = []; for (;;) x.push(new Array(1e6).fill(x.length))'),
    'js_buffer_bomb': ('javascript', 'const x = []; for (;;) x.push(Buffer.alloc(1e8, 1))'),
    'js_reads_outside': ('javascript', 'const fs = require("fs"); console.log(fs.readFileSync(fs.readFileSync(0, "utf8").split("\\n")[0], "utf8"))'),
    'js_environment': ('javascript', 'console.log(process.env, require("child_process").execSync("cat /proc/1/environ; true").toString())'),
    'js_network': ('javascript', 'require("net").connect(53, "1.1.1.1").on("connect", () => console.log("out"))'),
    'js_stays': ('javascript', 'setInterval(() => {}, 1000)'),
}  # fmt: skip

HONEST = {
    'check': RIGHT,
    'call': 'def f(x): return "expected:" + x',  # given the secret, as no attack is
    'print': f'input(); print("{SECRET}")',
    'cpp': f'#include <cstdio>\nint main() {{ puts("{SECRET}"); }}',
    'javascript': f'console.log("{SECRET}")',
}
NEEDS = {'cpp': 'g++', 'javascript': 'node'}


def problem(kind, where='', argument=''):
    limits = {'time_limit': 0.6 if kind in NEEDS else 0.3, 'memory_limit': 128 << 20}  # node takes its time to start
    if kind == 'check':
        meta = {'tests': CHECK, 'entry_point': 'f'}
    elif kind == 'call':
        meta = {'tests': [{'input': [argument], 'output': f'expected:{SECRET}'}], 'entry_point': 'f'}
    else:
        meta = {'tests': [{'input': where, 'output': SECRET}], 'language': 'python' if kind == 'print' else kind}
    return Problem(0, '', '', 'code', meta=limits | meta)


def said(kind, program):
    label = kind if kind in NEEDS else 'python'
    return Response(f'<think>hm</think>\n```{label}\n{textwrap.dedent(program)}\n```\n', 9, True)


def installed(kind):
    return kind not in NEEDS or shutil.which(NEEDS[kind])


def processes():
    """Command lines of all that runs as a sandbox's user or below this process's jail.py, itself apart."""
    found = set()
    for entry in pathlib.Path('/proc').iterdir():
        try:
            if entry.name.isdigit() and b'jail.py' in (entry / 'cmdline').read_bytes():
                parent = int((entry / 'stat').read_text().rpartition(')')[2].split()[1])
                uid = (entry / 'status').read_text().partition('Uid:')[2].split()[0]
                own = parent == os.getpid()
                mine = parent == sandbox._waiting.pid or int(uid) in sandbox._UNUSED
                if mine and not own:
                    found.add(int(entry.name))
        except (OSError, IndexError):
            continue
    return found


@pytest.fixture(scope='module')
def outside(tmp_path_factory):
    """A file, a listening port and an abstract socket that hold the secret."""
    folder = tmp_path_factory.mktemp('outside')
    (folder / 'secret').write_text(SECRET)
    name = f'r1jax-{SECRET}'
    with socket.create_server(('127.0.0.1', 0)) as port, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f'\0{name}')
        abstract.listen()
        yield folder / 'secret', f'{folder / "secret"}\n{port.getsockname()[1]}\n{name}\n', (port, abstract)


@pytest.fixture(scope='module')
def verdicts(outside):
    """Every attack's verdict, and those of honest programs that were graded among them."""
    os.environ['R1JAX_TEST_SECRET'] = SECRET
    before = len(os.listdir('/proc/self/fd'))
    work = {
        name: (problem(kind, outside[1]), said(kind, program))
        for name, (kind, program) in ATTACKS.items()
        if installed(kind)
    }
    names = list(work)
    for i in range(0, len(names), 10):
        kind = list(HONEST)[i // 10 % len(HONEST)]
        if installed(kind):
            work[f'honest {i} {kind}'] = (problem(kind, outside[1], SECRET), said(kind, HONEST[kind]))
    order = sorted(work, key=lambda name: hash((name, 1)))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = dict(zip(order, pool.map(lambda name: Code().judge(*work[name]), order), strict=True))
    del os.environ['R1JAX_TEST_SECRET']
    return found, before, len(os.listdir('/proc/self/fd'))


@pytest.mark.parametrize('name', ATTACKS)
def test_an_attack_is_contained_and_not_rewarded(name, verdicts):
    if name not in verdicts[0]:
        pytest.skip('its language is not installed')
    verdict = verdicts[0][name]
    assert verdict.passed == 0 and verdict.total == 1 and verdict.reason


def test_honest_programs_pass_beside_the_attacks(verdicts):
    honest = {name: verdict for name, verdict in verdicts[0].items() if name.startswith('honest')}
    assert len(honest) >= 5
    assert all(verdict.right for verdict in honest.values()), honest


def test_nothing_is_left_behind(verdicts, outside):
    deadline = time.monotonic() + 10
    while processes() and time.monotonic() < deadline:
        time.sleep(0.05)  # a keeper that has reported still has to end
    assert processes() == set()
    assert verdicts[2] - verdicts[1] <= 3  # the socket to jail.py stays, and nothing for each program
    secret, _, sockets = outside
    assert secret.read_text() == SECRET
    assert os.listdir(secret.parent) == ['secret']
    for listening in sockets:  # nobody came
        listening.settimeout(0)
        with pytest.raises(BlockingIOError):
            listening.accept()
