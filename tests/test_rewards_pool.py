"""The grading pool: every call has one outcome, whatever the calls beside it do, and nothing is left behind."""

import concurrent.futures
import math
import os
import pathlib
import subprocess
import sys
import textwrap
import threading
import time

import graders
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'benchmarks'))

import grading

from r1jax.rewards.pool import Pool
from r1jax.types import Problem, Response

MEMORY = 200 << 20


def items(*texts):
    return [(Problem(i, 'q', '1'), Response(str(text), 1, True)) for i, text in enumerate(texts)]


def below(pid: int) -> set[int]:
    """Live children of a process."""
    found = set()
    for name in filter(str.isdecimal, os.listdir('/proc')):
        try:
            with open(f'/proc/{name}/stat') as file:
                state, parent = file.read().rpartition(')')[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != 'Z':
            found.add(int(name))
    return found


def alive(pid: int) -> bool:
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


def until(holds, seconds=10.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, 'it never came to hold'
        time.sleep(0.01)


@pytest.fixture(scope='module')
def pool():
    with Pool(2, MEMORY) as pool:
        yield pool


@pytest.mark.parametrize(
    ('text', 'outcome', 'detail'),
    [
        ('hang', 'timeout', 'took longer than 0.5 s'),
        ('sleep 2', 'timeout', 'took longer'),
        ('exit', 'died', 'status 3'),
        ('kill', 'died', 'SIGKILL'),
        ('shout', 'died', 'status 1: so long'),
        ('leave', 'raised', 'SystemExit: bye'),
        ('raise', 'raised', 'ValueError: no idea'),
        ('nan', 'raised', 'returned nan'),
        ('word', 'raised', "could not convert string to float: 'a word'"),
        ('refuse', 'memory', 'MemoryError'),
    ],
)
def test_a_bad_call_costs_itself_and_nothing_else(pool, text, outcome, detail):
    grades = pool.grade(graders.acts, items('fine', 'fine', text, 'fine', 'fine'), 0.5)
    assert [grade.outcome for grade in grades] == ['graded', 'graded', outcome, 'graded', 'graded']
    assert detail in grades[2].detail and math.isnan(grades[2].value) and grades[0].value == 1


def test_a_worker_that_grows_is_killed(pool):
    grades = pool.grade(graders.acts, items('fine', 'grow', 'fine'), 20)
    assert [grade.outcome for grade in grades] == ['graded', 'memory', 'graded']
    assert 'MiB' in grades[1].detail


def test_a_deadline_counts_from_the_start_of_a_call_in_a_worker():
    with Pool(1) as pool:  # four calls in a row, each within the deadline, all of them beyond it
        assert {g.outcome for g in pool.grade(graders.acts, items(*['sleep 0.2'] * 4), 0.5)} == {'graded'}
        # importing takes longer than the deadline, and does not count
        assert {g.outcome for g in pool.grade(graders.Warmed('slow'), items(1, 2), 0.2)} == {'graded'}


def test_results_do_not_depend_on_the_number_of_workers_or_on_order():
    calls = items(*range(200))
    runs = []
    for workers, order in ((1, 1), (3, 1), (3, -1)):
        with Pool(workers) as pool:
            runs.append([grade.value for grade in pool.grade(graders.drawn, calls[::order], 5)][::order])
    assert runs[0] == runs[1] == runs[2] and len(set(runs[0])) > 100


def test_grading_goes_on_beside_and_several_jobs_interleave(pool):
    slow = pool.submit(graders.acts, items('sleep 0.3'), 5)
    fast = pool.submit(graders.explained, items('a', 'b'), 5)
    assert [grade.detail for grade in fast.result()] == ['it says a', 'it says b'] and not slow.done()
    assert slow.result()[0].value == 1
    assert pool.submit(graders.number, [], 5).result() == []


def test_workers_do_not_import_jax(pool):
    [grade] = pool.grade(graders.modules, items(''), 5)
    assert grade.value == 0 and 'r1jax.types' in grade.detail.split()


def test_what_cannot_be_graded_at_all_raises(pool):
    with pytest.raises(ImportError, match='pip install'):
        pool.grade(graders.lacking, items(1, 2), 5)
    with pytest.raises(ImportError, match='pip install'):
        pool.grade(graders.Warmed('missing'), items(1), 5)
    with pytest.raises(ValueError, match='Warmed cannot grade here: no sandbox'):
        pool.grade(graders.Warmed('refuse'), items(1), 5)
    with pytest.raises(RuntimeError, match=r'Warmed cannot be loaded in a grading process: .*status 1'):
        pool.grade(graders.Warmed('exit'), items(1), 5)
    with pytest.raises(ValueError, match='<lambda> cannot be sent to a grading process'):
        pool.grade(lambda problem, response: 1.0, items(1), 5)
    with pytest.raises(ValueError, match='deadline=0'):
        pool.submit(graders.number, items(1), 0)
    with pytest.raises((TypeError, AttributeError, ValueError), match='pickle'):
        pool.grade(graders.number, [(Problem(0, '', '', meta={'f': lambda: 0}), Response('', 1, True))], 5)
    assert pool.grade(graders.number, items(7), 5)[0].value == 7  # and the service goes on


def test_it_starts_warm_and_says_early_what_cannot_be_loaded():
    with Pool(1) as pool:
        good, missing = pool.warm([graders.Warmed(), graders.Warmed('missing')])
        assert good.result() is None
        with pytest.raises(ImportError, match='pip install'):
            missing.result()
        assert pool.grade(graders.Warmed(), items(1), 0.2)[0].value == 1
        (later,) = pool.warm([graders.number])  # by workers that run already and have nothing to do
        assert later.result(10) is None


def test_workers_that_cannot_be_started_are_reported(monkeypatch):
    monkeypatch.setattr('r1jax.rewards.process._BOOT', 'raise SystemExit("no such thing")')
    with Pool(1) as pool:
        with pytest.raises(RuntimeError, match=r'cannot be started: .*no such thing'):
            pool.grade(graders.number, items(1), 5)


def test_closing_leaves_nothing_behind(tmp_path):
    threads, files, children = threading.active_count(), len(os.listdir('/proc/self/fd')), below(os.getpid())
    pids = tmp_path / 'pids'
    pool = Pool(2)
    later = pool.submit(graders.acts, items(f'tree {pids}', 'hang'), 60)
    until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    assert len(below(os.getpid()) - children) == 2 and all(alive(int(pid)) for pid in pids.read_text().split())
    pool.close()
    with pytest.raises(concurrent.futures.CancelledError):
        later.result()
    with pytest.raises(RuntimeError, match='closed'):
        pool.submit(graders.number, items(1), 5)
    assert below(os.getpid()) == children and threading.active_count() == threads
    assert len(os.listdir('/proc/self/fd')) == files
    until(lambda: not any(alive(int(pid)) for pid in pids.read_text().split()))
    Pool().close()  # one that was never used


def test_a_deadline_ends_the_whole_tree(pool, tmp_path):
    pids = tmp_path / 'pids'
    assert pool.grade(graders.acts, items(f'tree {pids}'), 2)[0].outcome == 'timeout'
    assert len(pids.read_text().split()) == 2
    until(lambda: not any(alive(int(pid)) for pid in pids.read_text().split()))


def test_workers_die_with_their_parent():
    code = textwrap.dedent("""
        import graders, time
        from r1jax.rewards.pool import Pool
        from r1jax.types import Problem, Response
        pool = Pool(2)
        items = [(Problem(0, '', ''), Response('', 1, True))] * 20
        print(*{int(g.value) for g in pool.grade(graders.process, items, 5)}, flush=True)
        pool.submit(graders.acts, [(Problem(0, '', ''), Response('hang', 1, True))] * 2, 60)
        time.sleep(60)
    """)
    env = os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, env=env, text=True) as process:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert workers and all(map(alive, workers))
        process.kill()
    until(lambda: not any(map(alive, workers)))


@pytest.mark.parametrize(
    ('count', 'kills'), [(1000, 10), pytest.param(10_000, 100, marks=pytest.mark.slow)], ids=['1000', '10000']
)
def test_nothing_is_lost_or_double_while_workers_are_killed(count, kills):
    result = grading.under_fire(count, kills)
    assert result['killed'] == kills and result['graded'] + result['died'] == count
    assert result['wrong'] == 0 and kills / 4 < result['died'] <= kills
