"""Code accuracy: does the program that a response ends with pass the problem's tests?

In: a problem whose `meta` holds tests, and a response. Out: 1.0 or 0.0, or the share of tests passed. Model code runs in
sandboxes only (`r1jax.rewards.sandbox`), and what judges it is another process, to which nothing crosses but plain data:

- stdin/stdout tests: the program gets a test's input, this process compares what it printed;
- calls: the program's process is asked for results, which this process compares;
- checking code: it runs in a second sandbox, and the function that it is given asks the first one.

So a program that patches `==`, leaves early, prints what a harness prints or looks through its own memory finds no expected
value there and no verdict to change: all it can do is answer.

`Problem.meta`:

    tests         one of
                    str: Python that defines check(candidate) (HumanEval), or bare asserts that name entry_point (MBPP)
                    [{'input': …, 'output': …}, …] with entry_point: calls. Lists and values as they are, or, where the input
                      is a str, an argument a line and the output, each in JSON (LiveCodeBench)
                    [{'input': str, 'output': str}, …] without: stdin and stdout (Codeforces, LiveCodeBench)
    entry_point   the function to call, or method of the program's class Solution
    setup         Python that comes before: HumanEval's prompt, imports. Public: both sides run it
    language      'python' | 'cpp' | 'javascript', which the program must be in; otherwise its label says. Calls are Python
    time_limit    seconds of CPU a test, by default `Code.time_limit`; on the clock twice that and 2 s are allowed
    memory_limit  bytes, by default `Code.memory_limit`
    tolerance     numbers may differ by tolerance · max(1, |expected|)
    checker       {'source': str, 'language': 'python' | 'cpp', 'arguments': ('input', 'output', 'answer')}: a program that
                  decides in place of a comparison, with its arguments, files, in this order (that of testlib.h; 'output' is
                  what was printed, 'answer' what was expected). Right is exit status 0, and if it prints a number, 1 or more;
                  status 3 says that the checker itself failed

The reward raises what no sample is to blame for, which marks the sample and not the model: `sandbox.Unavailable`, a missing
compiler, tests that are not of these forms.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import select
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from r1jax.rewards import codetext, inside, sandbox
from r1jax.rewards.sandbox import Limits, MiB, Ran
from r1jax.types import Problem, Response

_PATIENCE = 3  # tests out of time after which the rest count as failed
_COMPILING = Limits(cpu=30, wall=90, memory=1024 * MiB, address_space=None, disk=256 * MiB, output=64 * MiB)
_CHECKING = Limits(cpu=10, wall=30, memory=1024 * MiB, address_space=None, output=MiB)
_ARGUMENTS = ('input', 'output', 'answer')

Run = Callable[[bytes], Ran]  # stdin -> how it went


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What came of a response."""

    passed: int
    total: int  # tests; checking code is one
    reason: str  # of the first that failed, in a line; '' if none did

    @property
    def right(self) -> bool:
        return self.passed == self.total


@dataclasses.dataclass(frozen=True)
class Code:
    """1.0 if the program in the response passes every test, else 0.0; a reward of `r1jax.config.Part`."""

    partial: bool = False  # the share of tests passed
    time_limit: float = 6.0  # seconds of CPU a test, where the problem says none
    memory_limit: int = 512 * MiB  # bytes, where the problem says none

    def warm(self) -> None:
        """Starts what makes sandboxes. Raises sandbox.Unavailable where there are none: before training, not at each response."""
        sandbox.ready()

    def __call__(self, problem: Problem, response: Response) -> float:
        verdict = self.judge(problem, response)
        return verdict.passed / verdict.total if self.partial else float(verdict.right)

    def judge(self, problem: Problem, response: Response) -> Verdict:
        """Runs the tests.

        Raises:
          ValueError: the problem has no tests, or they do not run.
          FileNotFoundError: no compiler or interpreter for the program's language is installed.
          sandbox.Unavailable: there is no sandbox here.
          RuntimeError: a sandbox failed, through no fault of the program.
        """
        meta = problem.meta
        tests, name = meta.get('tests'), meta.get('entry_point')
        if not tests or not isinstance(tests, (str, list, tuple)) or (isinstance(tests, str) and not name):
            raise ValueError(
                f'problem {problem.id} (kind {problem.kind!r}) has no tests that code.Code knows in its meta'
            )
        total = 1 if isinstance(tests, str) else len(tests)
        found = codetext.program(response.text)
        if found is None:
            return Verdict(0, total, 'no program')
        language = codetext.language(*found)
        wanted = 'python' if name else meta.get('language', language)
        if found[0] and found[0] != wanted:
            return Verdict(0, total, f'written in {found[0]}, asked for in {wanted}')
        source = found[1].encode('utf-8', 'replace')
        limits = _limits(meta.get('time_limit', self.time_limit), meta.get('memory_limit', self.memory_limit), wanted)
        if isinstance(tests, str):
            return _checked(problem, source, limits)
        if name:
            return _tally(_called(problem, source, limits, self.partial), total, self.partial)
        return _tally(_printed(problem, wanted, source, limits), total, self.partial)


def _limits(seconds: float, memory: int, language: str) -> Limits:
    return Limits(
        cpu=seconds,
        wall=2 * seconds + 2,
        memory=memory + 64 * MiB,  # libraries and the interpreter
        address_space=None if language == 'javascript' else memory + 128 * MiB,
        stack=max(64 * MiB, min(memory, 256 * MiB)) if language == 'cpp' else 8 * MiB,
    )


def _tally(reasons: Iterator[str], total: int, to_the_end: bool) -> Verdict:
    """Counts tests, whose `reasons` for failing are made as they are asked for; '' is a pass."""
    passed, late, first = 0, 0, ''
    for reason in reasons:
        passed += not reason
        first = first or reason
        late += reason == 'timeout'
        if reason and (not to_the_end or late == _PATIENCE):
            break
    return Verdict(passed, total, first)


# Tests on stdin and stdout


def _printed(problem: Problem, language: str, source: bytes, limits: Limits) -> Iterator[str]:
    try:
        program = _program(language, source, limits)
    except SyntaxError as error:
        yield from [str(error)] * len(problem.meta['tests'])
        return
    for test in problem.meta['tests']:
        ran = program(test['input'].encode())
        if not ran.succeeded:
            yield _why(ran)
        else:
            yield '' if _right(problem, test, ran.stdout) else 'wrong output'


def _right(problem: Problem, test: Mapping[str, Any], printed: bytes) -> bool:
    checker = problem.meta.get('checker')
    if not checker:
        return codetext.same_output(printed, test['output'], problem.meta.get('tolerance'))
    order = tuple(checker.get('arguments', _ARGUMENTS))
    if sorted(order) != sorted(_ARGUMENTS):
        raise ValueError(f'the checker of problem {problem.id} has arguments {order}, not an order of {_ARGUMENTS}')
    files = {'input': test['input'].encode(), 'output': printed, 'answer': test['output'].encode()}
    failed = f'the checker of problem {problem.id} failed: '
    language, source = checker.get('language', 'python'), checker['source']
    try:
        if language == 'python':
            compile(source, 'checker', 'exec')
        run = _program(language, source.encode(), _CHECKING, files, order)
    except SyntaxError as error:
        raise ValueError(f'{failed}{error}') from None
    ran = run(b'')
    if ran.status == 3:
        raise ValueError(f'{failed}{_why(ran)}')
    try:
        return ran.succeeded and float(ran.stdout) >= 1
    except ValueError:  # it said something else, or nothing
        return ran.succeeded


def _program(
    language: str,
    source: bytes,
    limits: Limits,
    files: Mapping[str, bytes] | None = None,
    arguments: Sequence[str] = (),
) -> Run:
    """What runs a program, compiled by now, once for every stdin. Raises SyntaxError where it does not compile."""
    files = dict(files or {})
    if language == 'python':
        command, files['answer.py'] = ['python', 'script', 'answer.py'], source
    elif language == 'javascript':
        heap = f'--max-old-space-size={limits.memory // MiB}'
        command, files['answer.js'] = [_installed('node'), heap, 'answer.js'], source
    elif language == 'cpp':
        command, files['answer'] = ['./answer'], _compiled(source)
    else:
        raise ValueError(f'programs are in python, cpp or javascript, not in {language!r}')
    return lambda stdin: sandbox.run([*command, *arguments], stdin, files, limits, executable=('answer',))


@functools.lru_cache(maxsize=8)  # a checker judges many samples
def _compiled(source: bytes) -> bytes:
    """The program that g++ makes of C++."""
    _installed('g++')
    command = ['/bin/sh', '-c', 'g++ -O2 -std=c++20 -pipe -w -o answer answer.cpp && cat answer']
    ran = sandbox.run(command, files={'answer.cpp': source}, limits=_COMPILING)
    if not ran.succeeded:
        raise SyntaxError(f'does not compile: {_why(ran)}')
    return ran.stdout


def _installed(name: str) -> str:
    path = shutil.which(name)
    if not path:
        raise FileNotFoundError(
            f'{name} is not installed, so that programs in its language cannot be graded: apt install {name}'
        )
    return os.path.realpath(path)


def _why(ran: Ran) -> str:
    """Why a program that did not succeed did not, in a line."""
    if ran.outcome != 'exited':
        return ran.outcome
    said = ran.stderr.decode(errors='replace').strip().splitlines()
    how = f'signal {-ran.status}' if ran.status < 0 else f'exit status {ran.status}'
    return f'{how}: {said[-1][:200]}' if said else how


# Tests by calls


class _Server:
    """A program's process that answers calls; only plain data comes from it."""

    def __init__(self, setup: str, source: bytes, limits: Limits):
        ours, theirs = _pipes()
        try:
            files = {'answer.py': source, 'setup.py': setup.encode()}
            self._program = sandbox.start(
                ['python', 'serve', 'answer.py', 'setup.py'], b'', files, limits, pipes=theirs
            )
        except BaseException:
            _close(ours)
            raise
        finally:
            _close(theirs)
        self._from, self._to = ours
        for fd in ours:
            os.set_blocking(fd, False)

    def call(self, name: str, arguments: list, seconds: float, longest: int) -> Any:
        """The result of a call.

        Raises:
          TimeoutError: it took longer.
          RuntimeError: it raised, or its process is gone.
          ValueError: what came back is not plain data, or longer than `longest` bytes.
        """
        deadline = time.monotonic() + seconds
        asked = memoryview(inside.pack([name, inside.encode(arguments)]))
        try:
            while asked:
                _wait(self._to, select.POLLOUT, deadline)
                asked = asked[os.write(self._to, asked) :]
            answer = inside.unpack(lambda size: self._read(size, deadline), longest)
            if answer[0] == 'raised':
                raise RuntimeError(f'{answer[1]}: {answer[2]}'[:200])
            return inside.decode(answer[1])
        except (EOFError, BrokenPipeError):
            raise RuntimeError('its process ended') from None
        except (RecursionError, LookupError, TypeError) as error:
            raise ValueError(f'not plain data: {error}') from None

    def _read(self, size: int, deadline: float) -> bytes:
        pieces = []
        while size:
            _wait(self._from, select.POLLIN, deadline)
            piece = os.read(self._from, min(size, MiB))
            if not piece:
                raise EOFError
            pieces.append(piece)
            size -= len(piece)
        return b''.join(pieces)

    def stop(self) -> Ran:
        _close((self._from, self._to))
        return self._program.stop(after=0.1)


def _called(problem: Problem, source: bytes, limits: Limits, again: bool) -> Iterator[str]:
    tests = problem.meta['tests']
    whole = dataclasses.replace(limits, cpu=limits.cpu * len(tests), wall=limits.wall * len(tests))
    server: _Server | None = None
    try:
        for test in tests:
            arguments, expected = _case(problem, test)
            server = server or _Server(problem.meta.get('setup', ''), source, whole)
            # nothing that is right is much longer than this, and reading it costs this process memory
            longest = min(inside.LONGEST, 65536 + 8 * len(json.dumps(inside.encode([arguments, expected]))))
            reason = ''
            try:
                result = server.call(problem.meta['entry_point'], arguments, limits.wall, longest)
                if not codetext.same_value(result, expected, problem.meta.get('tolerance')):
                    reason = 'wrong result'
            except (TimeoutError, RuntimeError, ValueError, RecursionError) as error:
                reason = 'timeout' if isinstance(error, TimeoutError) else str(error) or 'wrong result'
                broken = not isinstance(error, RuntimeError) or reason == 'its process ended'
                if broken:  # out of step: the next test gets a process of its own
                    stopping, server = server, None
                    ran = stopping.stop()
                    reason = reason if ran.outcome == 'stopped' else _why(ran)
            yield reason
    finally:
        if server:
            server.stop()


def _case(problem: Problem, test: Mapping[str, Any]) -> tuple[list, Any]:
    """(arguments, expected) of a test."""
    given, expected = test['input'], test['output']
    if isinstance(given, str):
        return [json.loads(line) for line in given.splitlines() if line.strip()], json.loads(expected)
    if not isinstance(given, (list, tuple)):
        raise ValueError(f'a test of problem {problem.id} has the input {given!r}, which is no list of arguments')
    return list(given), expected


# Tests by checking code


def _checked(problem: Problem, source: bytes, limits: Limits) -> Verdict:
    setup, name = problem.meta.get('setup', '').encode(), problem.meta['entry_point']
    calls, answers = os.pipe(), os.pipe()
    program = judge = None
    with contextlib.ExitStack() as stack:
        try:
            files = {'answer.py': source, 'setup.py': setup}
            command = ['python', 'serve', 'answer.py', 'setup.py']
            program = sandbox.start(command, b'', files, limits, pipes=(calls[0], answers[1]))
            stack.callback(program.stop)
            files = {'tests.py': problem.meta['tests'].encode(), 'setup.py': setup}
            command = ['python', 'check', 'tests.py', 'setup.py', name]
            longer = dataclasses.replace(limits, cpu=limits.cpu + 2, wall=limits.wall + 2)
            judge = sandbox.start(command, b'', files, longer, pipes=(answers[0], calls[1]))
        finally:
            _close((*calls, *answers))
        verdict = judge.wait()
        stack.pop_all()
        ran = program.stop(after=0.0 if verdict.succeeded else 0.1)
    if verdict.succeeded:
        return Verdict(1, 1, '')
    said = verdict.stderr.decode(errors='replace').strip()[:200]
    if verdict.outcome == 'exited' and verdict.status == 3:
        raise ValueError(f'the tests of problem {problem.id} do not run: {said}')
    if ran.outcome != 'stopped' and not ran.succeeded:
        return Verdict(0, 1, _why(ran))
    return Verdict(0, 1, said or _why(verdict))


def _pipes() -> tuple[tuple[int, int], tuple[int, int]]:
    """((our reading end, our writing end), (theirs))."""
    answers, calls = os.pipe(), os.pipe()
    return (answers[0], calls[1]), (calls[0], answers[1])


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def _wait(fd: int, event: int, deadline: float) -> None:
    waiting = select.poll()
    waiting.register(fd, event)
    if not waiting.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimeoutError
