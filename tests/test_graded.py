"""Sampling and grading at once: what comes out is the same, and grading begins before sampling ends."""

import graders
import numpy as np
import pytest
from tiny import MODEL, params_of

from r1jax.config import Part, SampleConfig
from r1jax.evals.graded import Asker
from r1jax.rewards.combine import begin
from r1jax.rewards.pool import Pool
from r1jax.rewards.queue import Function, Grade, Job, Queue
from r1jax.sample import Sampler, responses
from r1jax.sample.engine import Engine
from r1jax.types import Problem, Response

PROBLEMS = [Problem(i, f'question {i}', '5') for i in range(6)]
PROMPTS = [[3 + i] * (2 + i) for i in range(6)]


class Digits:
    """A tokenizer whose texts are numbers."""

    eos, pad = 1, 0

    def decode(self, ids):
        return ' '.join(map(str, ids))


def words(problem, response):
    return float(len(response.text.split()))


class Whole:
    """Grades all at once: what it says depends on the order."""

    def many(self, problems, responses):
        return [float(i) + p.id for i, p in enumerate(problems)]


REWARDS = (Part('words', words), Part('explained', graders.explained, deadline=30.0), Part('whole', Whole()))


@pytest.fixture(scope='module')
def sampler():
    """Of which a third of the rows fits into the slots."""
    return Sampler.create(MODEL, SampleConfig(24, max_prompt=8, slots=4, buckets=1), 2, Digits(), seed=0)


@pytest.fixture(scope='module')
def pool():
    with Pool(1) as pool:
        pool.warm([graders.explained])
        yield pool


def test_grading_begins_before_sampling_ends_and_changes_nothing(sampler, pool, monkeypatch):
    params, events = params_of(), []

    def noted(name, function):
        return lambda *args: events.append(name) or function(*args)

    monkeypatch.setattr(Engine, 'advance', noted('chunk', Engine.advance))
    monkeypatch.setattr(Pool, 'add', noted('sent', Pool.add))
    graded = Asker(sampler, Digits(), pool)(params, PROBLEMS, PROMPTS, REWARDS, 0, 24, 1.0)
    assert 'chunk' in events[events.index('sent') :] and events.count('sent') == 12
    monkeypatch.undo()
    rollout = sampler(params, [p.id for p in PROBLEMS], PROMPTS, 0, 24, 1.0)
    for name in ('tokens', 'sampled', 'logp', 'question', 'sample', 'finished'):
        np.testing.assert_array_equal(getattr(graded.rollout, name), getattr(rollout, name), name)
    answers = responses(rollout, Digits())
    assert graded.answers == answers and len({a.tokens for a in answers}) > 3
    assert graded.problems == [p for p in PROBLEMS for _ in range(2)]
    ours, theirs = graded.result(), begin(graded.problems, answers, REWARDS, pool).result()
    np.testing.assert_array_equal(ours.reward, theirs.reward)
    assert ours.parts.keys() == theirs.parts.keys() and ours.outcome == theirs.outcome
    for name, values in ours.parts.items():
        np.testing.assert_array_equal(values, theirs.parts[name], name)


def test_rows_in_any_order_are_graded_each_by_itself(pool):
    parts = (Part('drawn', graders.drawn, deadline=30.0), *REWARDS)
    answers = [Response(str(i * i), 1, True) for i in range(6)]
    whole = begin(PROBLEMS, answers, parts, pool).result()
    scoring = begin([], [], parts, pool)
    came = [3, 0, 5, 1, 4, 2]
    for rows in (came[:1], came[1:4], [], came[4:]):
        scoring.add([PROBLEMS[i] for i in rows], [answers[i] for i in rows])
    scores = scoring.result(np.argsort(came).tolist())
    for name in ('words', 'explained', 'drawn', 'whole'):
        np.testing.assert_array_equal(scores.parts[name], whole.parts[name], name)
    with pytest.raises(ValueError, match='no reward part applies to problem 0'):
        begin([], [], (Part('code', words, kinds=('code',)),), pool).add(PROBLEMS[:1], answers[:1])


def test_jobs_are_served_in_their_order_in_chunks_of_one_job():
    queue = Queue(workers=1)
    first, second = (Job(Function(i, '', b'', seconds=1e-3), 1.0) for i in range(2))
    for i in range(5):  # as rows come: one of each
        queue.add(first, [(PROBLEMS[i], None)])
        queue.add(second, [(PROBLEMS[i], None)])
    chunk = queue.take()
    assert [(item.job is first, item.index) for item in chunk] == [(True, i) for i in range(5)]
    queue.add(first, [(PROBLEMS[5], None)])
    assert [(item.job is first, item.index) for item in queue.take()] == [(True, 5)]
    assert [item.job is second for item in queue.take()] == [True] * 3  # what keeps no other worker idle
    for i in range(6):
        first.settle(i, Grade(float(i), 'graded'))
    assert not first.future.done()  # there may be more
    first.end()
    assert [grade.value for grade in first.future.result()] == [0, 1, 2, 3, 4, 5]
