"""A judge behind an endpoint: what happens when calls fail, are refused or cut short."""

import time

import numpy as np
import pytest
from judges import answered, ask_about, fair, honest, patient, problems, said

from r1jax.rewards.answers import Spent, Stop
from r1jax.rewards.asking import Ask
from r1jax.rewards.endpoint import Endpoint
from r1jax.rewards.judge import Reference


def drip():
    for _ in range(100):
        time.sleep(0.05)
        yield ' '


FAULTS = {
    'too many requests': lambda: (429, '{"error": {"message": "slow down"}}', ('retry-after', '0.05')),
    'a date to retry after': lambda: (429, '{}', ('retry-after', 'Wed, 21 Oct 2026 07:28:00 GMT')),
    'a fault of the server': lambda: (500, 'oops'),
    'overloaded': lambda: (503, ''),
    'a gateway that gives up': lambda: (502, '<html>bad gateway</html>'),
    'a page instead of an answer': lambda: (200, '<html>login</html>'),
    'half an answer': lambda: (200, answered('fine')[1][:20]),
    'no choices': lambda: (200, '{"choices": []}'),
    'no message': lambda: (200, '{"choices": [{}]}'),
    'another kind of thing': lambda: (200, '[1, 2]'),
    'nothing': lambda: (200, ''),
    'deep nesting': lambda: (200, '[' * 100_000),
    'a redirect': lambda: (302, '', ('location', 'http://127.0.0.1:1/')),
    'a closed connection': lambda: (None, ''),
    'too much': lambda: (200, [*[' ' * 2**20] * 9, answered('fine')[1]]),
    'silence': lambda: time.sleep(1) or (200, ''),
    'drops': lambda: (200, drip()),
}


@pytest.mark.parametrize('fault', FAULTS.values(), ids=FAULTS)
def test_what_may_pass_is_tried_again(tmp_path, endpoint, fault):
    endpoint.act = lambda n, body: fault() if n < 2 else honest(n, body)
    ask = patient(endpoint(timeout=0.4), tmp_path)
    start = time.monotonic()
    assert ask_about(ask) == [1] and time.monotonic() - start < 5  # the drops would fall for ten seconds
    assert endpoint.calls == 3 and ask.counts['retries'] == 2 and ask.counts['calls'] == ask.answers.spent().calls == 3


def test_waiting_grows_and_ends(tmp_path, endpoint):
    endpoint.act = lambda n, body: (500, 'oops')
    ask = patient(endpoint(), tmp_path, retries=3, backoff=0.1)
    start = time.monotonic()
    assert np.isnan(ask_about(ask)[0])
    assert endpoint.calls == 4 and 0.05 + 0.1 + 0.2 < time.monotonic() - start < 3
    assert ask.counts['unanswered'] == 1
    endpoint.act = honest
    assert ask_about(ask) == [1]  # a failure is not remembered


def test_the_wait_that_a_server_asks_for_is_kept(tmp_path, endpoint):
    endpoint.act = lambda n, body: (429, '', ('retry-after', '0.5')) if n < 1 else honest(n, body)
    start = time.monotonic()
    assert ask_about(patient(endpoint(), tmp_path)) == [1] and time.monotonic() - start > 0.5


@pytest.mark.parametrize(
    ('status', 'text', 'words'),
    [(401, 'bad key', 'HTTP 401: bad key'), (404, 'no such model', 'no such model'),
     (429, '{"error": {"code": "insufficient_quota"}}', 'insufficient_quota')],
)  # fmt: skip
def test_what_no_question_can_pass_stops_at_once(tmp_path, endpoint, status, text, words):
    endpoint.act = lambda n, body: (status, text)
    with pytest.raises(Stop, match=words):
        ask_about(patient(endpoint(workers=1), tmp_path), 5)
    assert endpoint.calls == 1


def test_a_judge_that_answers_nobody_stops(tmp_path, endpoint):
    endpoint.act = lambda n, body: (500, 'on fire')
    with pytest.raises(Stop, match=r'none of 16 questions in a row, the last time: .*on fire'):
        ask_about(patient(endpoint(workers=1), tmp_path, retries=0), 40)
    assert endpoint.calls == 16
    endpoint.act = lambda n, body: (400, 'unknown field seed')
    with pytest.raises(Stop, match='unknown field seed'):
        ask_about(patient(endpoint(workers=1), tmp_path), 40)


def test_a_question_that_is_refused_costs_itself_alone(tmp_path, endpoint):
    ask = patient(endpoint(workers=1), tmp_path)
    endpoint.act = lambda n, body: (400, 'too long') if n else honest(n, body)
    got = ask_about(ask, 30)
    assert got[0] == 1 and np.isnan(got[1:]).all() and endpoint.calls == 30  # not tried again, and no reason to stop


def test_an_answer_that_was_cut_off_or_withheld_is_no_verdict(tmp_path, endpoint):
    kinds = [lambda t: answered(t, 'length'), lambda t: answered(t, 'content_filter'), lambda t: answered(None)]
    endpoint.act = lambda n, body: kinds[n % 3](fair([(m['role'], m['content']) for m in body['messages']]))
    ask = patient(endpoint(), tmp_path)
    assert np.isnan(ask_about(ask)[0]) and endpoint.calls == 3 and ask.counts['unreadable'] == 1


def test_draws_differ_and_repeat(tmp_path, endpoint):
    Reference(patient(endpoint(seed=7), tmp_path), votes=3).many(problems(1), said('4'))
    seeds = {b['seed'] for b in endpoint.bodies}
    assert len(seeds) == 3 and seeds == {Ask((), vote=v).seed(7) for v in range(3)}
    sent = endpoint.bodies[0]
    assert (sent['model'], sent['max_tokens'], sent['temperature'], sent['top_p']) == ('toy', 50, 1.0, 1.0)
    ask_about(patient(endpoint(seed=None, limit_field='max_completion_tokens', extra=(('n', 1),)), tmp_path))
    assert {'seed', 'max_tokens'}.isdisjoint(endpoint.bodies[-1])
    assert endpoint.bodies[-1]['max_completion_tokens'] == 50 and endpoint.bodies[-1]['n'] == 1


def test_the_key_is_sent_and_kept_nowhere(tmp_path, endpoint, monkeypatch):
    monkeypatch.setenv('TOY_KEY', 'sk-secret')
    ask = patient(endpoint(key_variable='TOY_KEY'), tmp_path)
    ask_about(ask)
    assert endpoint.headers[0]['authorization'] == 'Bearer sk-secret'
    assert 'sk-secret' not in ask.backend.identity + repr(ask)
    assert all(b'sk-secret' not in p.read_bytes() for p in tmp_path.iterdir())
    ask_about(patient(endpoint(temperature=0.1), tmp_path))
    assert 'authorization' not in endpoint.headers[1]
    monkeypatch.delenv('TOY_KEY')
    with pytest.raises(Stop, match='TOY_KEY is not set'):
        ask_about(patient(endpoint(key_variable='TOY_KEY', temperature=0.2), tmp_path))


def test_workers_and_pace_are_bounds(tmp_path, endpoint):
    endpoint.act = lambda n, body: time.sleep(0.05) or honest(n, body)
    ask_about(patient(endpoint(workers=4), tmp_path), 16)
    assert 2 <= endpoint.busiest <= 4
    start = time.monotonic()
    ask_about(patient(endpoint(per_minute=600.0, temperature=0.1), tmp_path), 6)
    assert time.monotonic() - start >= 0.5  # six begin at least 0.1 s apart


def test_nobody_there(tmp_path):
    ask = patient(Endpoint('toy', 'http://127.0.0.1:9/v1', timeout=1.0), tmp_path, retries=1)
    assert np.isnan(ask_about(ask)[0]) and ask.answers.spent() == Spent(calls=2)
    for url in ('localhost:8000/v1', 'http://a:b/v1', ''):
        with pytest.raises(Stop, match='is no address'):
            ask_about(patient(Endpoint('toy', url), tmp_path))
