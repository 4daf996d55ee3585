"""The file of a judge's answers: found again, written by several, killed, and what they may cost."""

import dataclasses
import pathlib
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time

import pytest
from judges import answered, ask_about, honest, patient, problems, said

from r1jax.rewards.answers import Answers, Budget, BudgetExceeded, Spent, Stop
from r1jax.rewards.asking import Judge, rough_tokens
from r1jax.rewards.judge import Pairwise, Reference

ROOT = pathlib.Path(__file__).parents[1]


def test_answers_are_found_again_by_all_that_changes_them(tmp_path, endpoint):
    one = endpoint()
    first = Judge(one, str(tmp_path / 'a.db'))
    assert Reference(first).many(problems(2), said('4', '5')).tolist() == [1, 0] and endpoint.calls == 2
    same = dataclasses.replace(one, workers=1, timeout=9.0, price=(1.0, 1.0), key_variable='')
    assert Reference(Judge(same, first.path)).many(problems(2), said('4', '5')).tolist() == [1, 0]
    assert endpoint.calls == 2
    changes = [
        {'temperature': 0.5},
        {'top_p': 0.9},
        {'max_tokens': 99},
        {'seed': 1},
        {'model': 'other'},
        {'seed': None},
    ]
    changes += [{'extra': (('reasoning_effort', 'low'),)}, {'limit_field': 'max_completion_tokens'}]
    for i, change in enumerate(changes, 3):
        Reference(Judge(dataclasses.replace(one, **change), first.path)).many(problems(1), said('4'))
        assert endpoint.calls == i, change
    before = endpoint.calls
    Reference(first, votes=3).many(problems(1), said('4'))
    assert endpoint.calls == before + 2  # two votes more
    Reference(first).many(problems(1, answer='5'), said('4'))
    assert endpoint.calls == before + 3


WRITER = """
    import sys
    from r1jax.rewards.answers import Answers, Budget, Reply, Spent
    store, name = Answers(sys.argv[1]), sys.argv[2]
    for i in range(150):
        store.book(Spent(1, 10, 0.1), Budget(calls=300))
        got = store.settle(Spent(1, 10, 0.1), Spent(1, 4, 0.5), {str(i): Reply(f'{name} {i}', True, 3, 1)})
        print(got[str(i)].text)
"""


def python(script, *args):
    command = [sys.executable, '-c', textwrap.dedent(script), *map(str, args)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_two_processes_write_one_file_and_go_on_with_the_same_answers(tmp_path):
    path = tmp_path / 'deep' / 'answers.db'
    writers = [python(WRITER, path, name) for name in 'ab']
    outputs = [w.communicate(timeout=120)[0].split('\n') for w in writers]
    assert [w.returncode for w in writers] == [0, 0]
    assert outputs[0] == outputs[1] and len(outputs[0]) == 151  # who came first is who is believed
    spent = Answers(str(path)).spent()
    assert (spent.calls, spent.tokens) == (300, 1200) and spent.cost == pytest.approx(150)
    with pytest.raises(BudgetExceeded):
        Answers(str(path)).book(Spent(calls=1), Budget(calls=300))


ASKER = """
    import sys
    from r1jax.rewards.asking import Ask, Judge
    from r1jax.rewards.endpoint import Endpoint
    asks = [Ask((('user', str(i)),)) for i in range(40)]
    judge = Judge(Endpoint('toy', sys.argv[1], workers=2), sys.argv[2])
    print(len(judge.verdicts(asks, [str] * 40)))
"""


def test_a_killed_run_loses_nothing_that_was_answered(tmp_path, endpoint):
    def slowly(number, body):
        time.sleep(0.02)
        return answered('fine')

    endpoint.act = slowly
    path = tmp_path / 'answers.db'
    victim = python(ASKER, endpoint.url, path)
    while endpoint.calls < 12:
        assert victim.poll() is None
        time.sleep(0.005)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    time.sleep(0.2)
    done = endpoint.calls
    store = Answers(str(path))
    assert sqlite3.connect(path).execute('pragma integrity_check').fetchone() == ('ok',)
    assert done <= store.spent().calls <= done + 2  # what was in flight is booked
    out, _ = python(ASKER, endpoint.url, path).communicate(timeout=60)
    assert out == '40\n' and 40 <= endpoint.calls <= 40 + 4


# --- money


def test_a_budget_of_calls_is_never_passed_and_nothing_is_lost(tmp_path, endpoint):
    endpoint.act = lambda n, body: time.sleep(0.01) or honest(n, body)
    with pytest.raises(BudgetExceeded, match=r'calls=5.* does not hold another call.*5 calls, 600 tokens'):
        ask_about(patient(endpoint(), tmp_path, budget=Budget(calls=5)), 12)
    assert endpoint.calls == 5
    assert (ask_about(patient(endpoint(), tmp_path, budget=Budget(calls=12)), 12) == 1).all()
    assert endpoint.calls == 12
    none = patient(endpoint(), tmp_path, budget=Budget(calls=0))
    assert (ask_about(none, 12) == 1).all()  # what is stored costs nothing
    assert issubclass(BudgetExceeded, Stop) and not issubclass(Stop, ValueError)


@pytest.mark.parametrize('budget', [Budget(tokens=2500), Budget(cost=0.0025)], ids=str)
def test_a_budget_of_tokens_or_money_holds_the_worst_that_a_call_may_cost(tmp_path, endpoint, budget):
    ask = patient(endpoint(price=(1.0, 1.0), workers=3, max_tokens=300), tmp_path, budget=budget)
    with pytest.raises(BudgetExceeded):
        ask_about(ask, 40)
    spent = ask.answers.spent()
    assert spent.tokens == 120 * endpoint.calls and spent.cost == pytest.approx(spent.tokens / 1e6)
    worst = Reference(ask).estimate(problems(41)[40:], said('4')).most.tokens
    assert (
        120 < worst < 700 and 2500 - worst < spent.tokens <= 2500
    )  # stopped where one more might not have fitted, no earlier


def test_a_dry_run_counts_and_calls_nobody(tmp_path, endpoint):
    ask = patient(endpoint(price=(2.0, 10.0)), tmp_path)
    reference, pairwise = Reference(ask), Pairwise(ask)
    planned = reference.estimate(problems(6), said(*'44445', ''))
    assert endpoint.calls == 0 and (planned.questions, planned.stored, planned.most.calls) == (5, 0, 5)
    text = sum(len(c) for m in reference._asks(problems(5), list('44445'))[1] for _, c in m.messages)
    assert planned.prompt_tokens == pytest.approx(text / 4, rel=0.1)
    assert planned.most.tokens == planned.prompt_tokens + 5 * 50
    assert planned.most.cost == pytest.approx((2 * planned.prompt_tokens + 10 * 5 * 50) / 1e6)
    reference.many(problems(4), said(*'4444'))
    assert endpoint.calls == 4
    after = reference.estimate(problems(6), said(*'44445', ''))
    assert (after.questions, after.stored, after.most.calls) == (5, 4, 1)
    assert str(after).startswith('5 questions, 4 of them answered already; at most 1 calls')
    assert pairwise.estimate(problems(2), ['a', 'x' * 30_000], ['b', 'c']).most.calls == 4
    assert endpoint.calls == 4
    exact = dataclasses.replace(ask, tokens=len)
    assert Reference(exact).estimate(problems(1), said('9')).prompt_tokens > 3 * planned.prompt_tokens / 5
    assert rough_tokens('abcd' * 10) == 10 and rough_tokens('四个字') == 3 and rough_tokens('') == 0


def test_what_a_failed_call_may_have_cost_stays_booked(tmp_path, endpoint):
    faults = [(500, ''), (200, 'no answer'), (200, 'no answer')]
    endpoint.act = lambda n, body: faults[n] if n < 3 else honest(n, body)
    ask = patient(endpoint(), tmp_path)
    ask_about(ask)
    spent = ask.answers.spent()
    assert spent.calls == 4 and spent.tokens > 120 + 2 * 50  # two may have been charged, the 500 was not
