"""Turns by the real engine, and a whole stage with an environment, killed and gone on with."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
from killing import timeless
from talking import Asks, Never, Numbers
from test_train import Killed, final_params, interrupt
from tiny import MODEL, params_of, row_logprobs

from r1jax.config import (
    GRPO,
    NLL,
    Eval,
    GradingConfig,
    ModelConfig,
    OnPolicy,
    OptimConfig,
    Part,
    Recipe,
    RowConfig,
    SampleConfig,
    Stage,
    Stored,
)
from r1jax.data.template import r1_zero
from r1jax.data.tiny_calls import CallsTokenizer, TinyArithmetic, TinyCalls, mode
from r1jax.evals.graded import Asker
from r1jax.rewards import accuracy, form
from r1jax.rewards.pool import Pool
from r1jax.sample import Sampler
from r1jax.settings import load_recipe
from r1jax.train import stage
from r1jax.train.log import read
from r1jax.types import Problem

pytestmark = pytest.mark.slow

EXPERIMENT = pathlib.Path(__file__).parents[1] / 'experiments' / 'tiny_tools.py'
PROBLEMS = [Problem(i, f'question {i}', '5') for i in range(6)]
PROMPTS = [[9 + i] * (2 + i) for i in range(6)]


def test_what_the_engine_draws_in_turns_is_what_the_model_says_there():
    params = params_of(scale=0.15)
    cfg = SampleConfig(28, max_prompt=8, slots=8, buckets=1)

    def drawn(environment, order=range(6)):
        sampler = Sampler.create(MODEL, cfg, 2, Numbers(), seed=0, fixed=True)
        with Pool(1) as pool:
            ask = Asker(sampler, Numbers(), pool, environment)
            return ask(params, [PROBLEMS[i] for i in order], [PROMPTS[i] for i in order], (), 3, 28, 1.0)

    whole, turned = drawn(Asks()), drawn(Asks(), [4, 0, 5, 2, 3, 1])
    assert sum(len(a.turns) > 3 for a in whole.answers) > 2
    for b, prompt in enumerate(p for p in PROMPTS for _ in range(2)):
        on = whole.rollout.sampled[b]
        n = int(np.flatnonzero(on)[-1]) + 1
        response = whole.rollout.tokens[b, len(prompt) : n]
        want = row_logprobs(MODEL, params, prompt, response)
        np.testing.assert_allclose(whole.rollout.logp[b][on], want[on[len(prompt) : n]], atol=1e-4)
    rows = [g * 2 + s for g in (4, 0, 5, 2, 3, 1) for s in range(2)]
    np.testing.assert_array_equal(turned.rollout.tokens, whole.rollout.tokens[rows])
    np.testing.assert_array_equal(turned.rollout.logp, whole.rollout.logp[rows])
    alone, silent = drawn(None), drawn(Never())
    for name in ('tokens', 'sampled', 'logp', 'finished'):
        np.testing.assert_array_equal(getattr(alone.rollout, name), getattr(silent.rollout, name), name)


REWARDS = (Part('accuracy', accuracy.exact), Part('format', form.format))
SMALL = ModelConfig(vocab=128, layers=1, width=32, heads=2, kv_heads=2, head_dim=16, hidden=64, context=96)


def recipe(**change):
    tools = load_recipe(EXPERIMENT).stages[1].environment
    rows = RowConfig(length=96, per_microbatch=8)
    problems = TinyArithmetic(size=50, digits=(1, 2))
    base = Stage(
        'base',
        30,
        Stored(TinyCalls(size=600, digits=(1, 2), called=1.0), batch=16),
        NLL(),
        OptimConfig(1e-2),
        rows,
    )
    zero = Stage(
        'zero',
        4,
        OnPolicy(problems, SampleConfig(48, max_prompt=16, slots=32), REWARDS, 8, 4, minibatches=2, **change),
        GRPO(beta=0.01, importance_cap=2.0),
        OptimConfig(1e-3),
        rows,
        start='base',
        environment=dataclasses.replace(tools, deadline=20.0),
        evals=(
            Eval('held_out', TinyArithmetic('held_out', 8, (1, 2)), REWARDS, accuracy.answer, samples=4, split=mode),
            Eval('alone', TinyArithmetic('held_out', 8, (1, 2)), REWARDS, accuracy.answer, samples=4, alone=True),
        ),
        checkpoint_every=1,
    )
    grading = GradingConfig(workers=1)
    return Recipe('turns', (base, zero), r1_zero, SMALL, CallsTokenizer(), grading=grading)


@pytest.mark.parametrize('change', [{}, {'budget': 10}])
def test_a_stage_has_turns_and_a_killed_one_ends_with_the_same_bits(tmp_path, monkeypatch, change):
    stage.run(recipe(**change), str(tmp_path / 'whole'))
    lines = [line for line in read(str(tmp_path / 'whole' / 'metrics.jsonl')) if line['stage'] == 'zero']
    assert max(line.get('environment/turns', 0) for line in lines) > 1.2
    assert sum(line.get('environment/answered', 0) for line in lines) > 4
    assert max(line['policy/sampler_gap_mean'] for line in lines) < 0.2  # policies of one step apart with a budget
    samples = list(read(str(tmp_path / 'whole' / 'samples.jsonl')))
    turns = [line for line in samples if line.get('turns') and line['when'] == 'rollout']
    assert turns and all(line['completion'] == '\n'.join(line['turns'][::2]) for line in turns)
    assert not any(line.get('turns') for line in samples if line.get('eval') == 'alone')

    def die():
        raise Killed

    steps = len(list(read(str(tmp_path / 'whole' / 'metrics.jsonl'))))
    for after in (steps - 2, 1):
        with monkeypatch.context() as m:
            interrupt(m, after, die)
            with pytest.raises(Killed):
                stage.run(recipe(**change), str(tmp_path / 'killed'))
    stage.run(recipe(**change), str(tmp_path / 'killed'))
    for name in ('metrics.jsonl', 'samples.jsonl'):
        assert timeless(tmp_path / 'whole' / name) == timeless(tmp_path / 'killed' / name), name
    ends = [final_params(tmp_path / name, recipe(**change), 'zero') for name in ('whole', 'killed')]
    jax.tree.map(np.testing.assert_array_equal, *ends)
