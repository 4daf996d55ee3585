"""Partial rollouts: what is carried goes on as it would have, keeps who drew it, and survives a kill."""

import dataclasses
import json
import types

import graders
import jax
import numpy as np
import pytest
import smallest
import toy
from killing import timeless
from test_graded import PROBLEMS, PROMPTS, Digits
from test_train import Killed, final_params, interrupt
from tiny import MODEL, params_of, row_logprobs

from r1jax.checks import validate
from r1jax.config import GRPO, GradingConfig, OnPolicy, Part, SampleConfig
from r1jax.data.tiny import TinySums
from r1jax.evals.graded import Asker
from r1jax.rewards.pool import Pool
from r1jax.sample import Sampler
from r1jax.settings import BadInput, override
from r1jax.train import rollout, stage
from r1jax.train.carried import Carrier
from r1jax.train.log import read
from r1jax.types import Response

LIMIT, BUDGET, G = 24, 8, 2


class Brief(Digits):
    """Of whose tokens one in twelve ends a response."""

    stops = tuple(range(2, 6))


REWARDS = (Part('explained', graders.explained, deadline=30.0),)


@pytest.fixture(scope='module')
def sampler():
    """All rows have a slot, always the same number: rounding is that of one batch size."""
    return Sampler.create(MODEL, SampleConfig(LIMIT, max_prompt=8, slots=32), G, Brief(), seed=0, fixed=True)


@pytest.fixture(scope='module')
def pool():
    with Pool(1) as pool:
        yield pool


def carrier(sampler, pool):
    return Carrier(Asker(sampler, Brief(), pool), BUDGET, PROBLEMS, PROMPTS)


def test_under_one_policy_samples_are_those_of_whole_rollouts(sampler, pool):
    params, carry = params_of(), carrier(sampler, pool)
    ids = [p.id for p in PROBLEMS]
    whole = {row.index: row for row in sampler.stream(params, ids, PROMPTS, 5, LIMIT, 1.0)}
    lengths = np.array([len(whole[b].tokens) for b in range(12)])
    calls = -(-lengths.reshape(6, G).max(1) // BUDGET)  # that each group takes
    assert len(set(calls)) > 1
    for call in range(calls.max()):
        chosen = list(range(6)) if call == 0 else []
        graded = carry(params, chosen, REWARDS, 5, LIMIT, 1.0, version=10 * call)
        over = np.flatnonzero(calls == call + 1)
        assert [p.id for p in graded.problems] == np.repeat(over, G).tolist()
        assert carry.unfinished == (lengths > BUDGET * (call + 1)).sum()
        if not len(over):
            continue
        scores = graded.result()
        assert scores.valid.all() and len(scores.reward) == G * len(over)
        for i, b in enumerate(g * G + s for g in over for s in range(G)):
            out, n = graded.rollout, lengths[b]
            assert out.tokens[i][out.sampled[i]].tolist() == whole[b].tokens.tolist()
            np.testing.assert_allclose(out.logp[i][out.sampled[i]], whole[b].logp, atol=1e-4)
            assert out.version[i][out.sampled[i]].tolist() == [10 * (t // BUDGET) for t in range(n)]
            assert graded.answers[i] == (
                Response(Brief().decode(whole[b].tokens[: n - whole[b].finished].tolist()), n, whole[b].finished)
            )
            assert out.sample[i] == b % G and out.question[i] == b // G
    assert not carry.rows and carry.drawn == lengths.sum()


def test_each_token_has_the_log_probability_of_the_policy_that_drew_it(sampler, pool):
    policies, carry = [params_of(seed=s) for s in range(3)], carrier(sampler, pool)
    seen = 0
    for call in range(3):
        graded = carry(policies[call], [0, 1] if call == 0 else [], REWARDS, 0, LIMIT, 1.0, version=call)
        out = graded.rollout
        for i in range(len(graded.answers)):
            on, prompt = out.sampled[i], PROMPTS[out.question[i]]
            tokens, version = out.tokens[i][on], out.version[i][on]
            by = np.array([row_logprobs(MODEL, params, prompt, tokens) for params in policies])
            np.testing.assert_allclose(out.logp[i][on], by[version, np.arange(len(tokens))], atol=1e-4)
            seen = max(seen, len(set(version.tolist())))
    assert seen == 3


def recipe(**change):
    """The smallest experiment's second stage, from random weights, in which groups take up to three rollouts of one update."""
    whole = smallest.recipe()
    zero = whole.stages[1]
    sample = dataclasses.replace(zero.source.sample, max_tokens=18)
    drawn = OnPolicy(TinySums(size=50, terms=(2, 3)), sample, zero.source.rewards, 8, 4, budget=6, minibatches=2)
    also = {'phases': (), 'evals': (), 'checkpoint_every': 1, 'steps': 7, 'loss': GRPO(beta=0.01, importance_cap=2.0)}
    zero = dataclasses.replace(zero, start='init', source=drawn, **also | change)
    return dataclasses.replace(whole, stages=(zero,), grading=GradingConfig(workers=1))


@pytest.mark.slow
def test_a_run_carries_samples_and_a_killed_one_ends_with_the_same_bits(tmp_path, monkeypatch):
    stage.run(recipe(), str(tmp_path / 'whole'))
    lines = list(read(str(tmp_path / 'whole' / 'metrics.jsonl')))
    first, later = lines[0], lines[2::2]
    assert first['rollout/staleness'] == first['rollout/staleness_max'] == 0  # all calls were of the first policy
    assert any(m['rollout/staleness_max'] in (2, 4) for m in later)  # a rollout serves two steps
    assert all(0 <= m['rollout/staleness'] <= m['rollout/staleness_max'] <= 4 for m in later)
    assert all(m['rollout/carried'] > 0 and m['rollout/drawn'] > 0 for m in lines)
    assert all(m['policy/skipped'] == 0 for m in lines)

    def die():
        raise Killed

    for after in (3, 2):  # in the middle of a rollout; then, behind step 2 or 3, between two
        with monkeypatch.context() as m:
            interrupt(m, after, die)
            with pytest.raises(Killed):
                stage.run(recipe(), str(tmp_path / 'killed'))
    stage.run(recipe(), str(tmp_path / 'killed'))
    for name in ('metrics.jsonl', 'samples.jsonl'):
        assert timeless(tmp_path / 'whole' / name) == timeless(tmp_path / 'killed' / name), name
    ends = [final_params(tmp_path / name, recipe(), 'zero') for name in ('whole', 'killed')]
    jax.tree.map(np.testing.assert_array_equal, *ends)


def test_staleness_is_of_the_tokens_that_teach():
    arrays = {
        'version': np.array([[-1, 4, 2, 2], [-1, 0, 0, -1]]),
        'sampled': np.array([[False, True, True, True], [False, True, True, False]]),
        'keep': np.array([True, False]),
    }
    assert rollout.staleness(arrays, 4) == {'rollout/staleness': pytest.approx(4 / 3), 'rollout/staleness_max': 2}
    arrays['keep'][:] = False
    assert rollout.staleness(arrays, 4) == {'rollout/staleness': 0.0, 'rollout/staleness_max': 0}


@pytest.mark.parametrize(
    ('assignments', 'message'),
    [
        ('zero.source.budget=-1', 'zero.source.budget=-1 must be in [0, inf)'),
        ('zero.source.budget=16', 'zero.source.budget=16 has no effect: no sample is longer than max_tokens=16'),
        ('zero.source.budget=4', 'zero.loss.importance_cap=0 leaves what older policies drew uncorrected: with source.budget=4'),
        (
            'zero.source.budget=4 zero.loss.importance_cap=2 zero.source.minibatches=8',
            'zero.source.budget=4: minibatches=8 must be at most samples=4',
        ),
        (
            'zero.source.budget=4 zero.loss.importance_cap=2 zero.phases.0.temperature=0.7',
            'zero.phases.0.temperature=0.7 changes in the middle of samples that source.budget=4 carries',
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_carried_is_refused(assignments, message):
    with pytest.raises(BadInput) as error:
        validate(override(toy.recipe(), assignments.split()), 8)
    assert str(error.value).startswith(message)
    validate(override(toy.recipe(), ['zero.source.budget=4', 'zero.loss.importance_cap=2']), 8)


def test_a_rollout_in_which_no_group_teaches_is_kept_too():
    """Checkpoints hold no empty arrays: its names, types and shapes stand in the cursor."""
    from r1jax.train.source import OnPolicySource

    def source(arrays):
        counters = dict.fromkeys(('number', 'used', 'batches', 'began', 'trusted', 'gap', 'metrics'), 1)
        draw = types.SimpleNamespace(
            rollouts=1, cursor=lambda: {'position': 3, 'rollouts': 1}, carried=dict, restore=lambda *_: None
        )
        out = types.SimpleNamespace(**counters, arrays=arrays, problems=2, draw=draw, ahead=None, stage=None)
        out._arrays = types.MethodType(OnPolicySource._arrays, out)
        return out

    before = source({'tokens': np.zeros((0, 36), np.int32), 'keep': np.zeros(0, bool)})
    assert OnPolicySource.flight(before) is None
    after = source(None)
    OnPolicySource.restore(after, json.loads(json.dumps(OnPolicySource.cursor(before))), None)
    assert {n: (a.shape, a.dtype) for n, a in after.arrays.items()} == {
        'tokens': ((0, 36), np.int32), 'keep': ((0,), bool)
    }  # fmt: skip
