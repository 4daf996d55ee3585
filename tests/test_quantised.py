"""int8 weights for sampling: what is drawn and recorded is the rounded model's, and the loss corrects for it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smallest
import toy
from scipy import stats
from test_experts import LATENT
from tiny import MODEL, full_logits, params_of, row_logprobs

from r1jax import sharding
from r1jax.config import GRPO, MeshConfig, SampleConfig
from r1jax.nn.layers import Int8, matmul, side_by_side
from r1jax.rewards.pool import Pool
from r1jax.rl.batch import Item, pack
from r1jax.sample import Decode, Prompts, Sampler, quantised, questions, sample, sample_keys
from r1jax.train import stage
from r1jax.train import step as compiled
from r1jax.train.log import read
from r1jax.train.prepare import prepare

UNTIED = dataclasses.replace(LATENT, tied=False)
MODELS = {'dense': MODEL, 'latent, experts': UNTIED}
PROMPT = np.array([5, 9, 17], np.int32)


def coarse(cfg=MODEL, factor=60.0):
    """Parameters that int8 rounds much: each column of a matrix that reads a norm has an entry far larger than the others, and the norm
    gives it next to nothing to read, so that it decides the column's scale and little else.
    """
    params = params_of(cfg, scale=0.15)

    def widened(name, w):
        if name in ('attn_norm', 'mlp_norm'):
            return w.at[:, 0].divide(factor)
        if name in ('q', 'k', 'v', 'q_a', 'kv_a', 'gate', 'up'):
            return w.at[:, 0].multiply(factor)
        return w.at[:, :, 0].multiply(factor) if name in ('expert_gate', 'expert_up') else w

    stacks = {name: part for name, part in params.items() if name.startswith('stack_')}
    return params | {name: {n: widened(n, w) for n, w in part.items()} for name, part in stacks.items()}


def drawn(cfg, params, samples, limit, temperature=1.0, stop=(1,)):
    keys = sample_keys(0, 0, jnp.zeros(samples, jnp.int32), jnp.arange(samples))
    prompts = Prompts(PROMPT[None], jnp.array([len(PROMPT)]), jnp.array([0]))
    out = sample(params, prompts, keys, jnp.full(samples, limit), Decode(cfg, limit, stop, 0), np.float32(temperature))
    return jax.tree.map(np.asarray, out)


@pytest.mark.parametrize(
    'name', [n if i == 0 else pytest.param(n, marks=pytest.mark.slow) for i, n in enumerate(MODELS)]
)
def test_what_is_recorded_is_the_rounded_model_s(name):
    """Token for token: one pass over the whole row with the rounded weights, prompt included, against prefill and decoding."""
    cfg, params = MODELS[name], coarse(MODELS[name])
    r = drawn(cfg, quantised(params), 4, 10, temperature=0.8)
    far = 0.0
    for b in range(4):
        response = r.tokens[b][r.sampled[b]]
        rounded = row_logprobs(cfg, quantised(params), PROMPT, response, 0.8)
        np.testing.assert_allclose(r.logp[b][r.sampled[b]], rounded, atol=2e-4)
        far = max(far, np.abs(row_logprobs(cfg, params, PROMPT, response, 0.8) - rounded).max())
    assert far > 0.05  # and not the policy's


def test_draws_follow_the_rounded_model_s_distribution():
    params, n = coarse(), 6000
    first = drawn(MODEL, quantised(params), n, 1)
    seen = np.bincount(first.tokens[first.sampled], minlength=MODEL.vocab)
    row = np.zeros((1, 40), np.int32)
    row[0, :3] = PROMPT

    def p(params):
        want = np.asarray(jax.nn.softmax(full_logits(MODEL, params, row)[0, 2]), np.float64)
        rare = want * n < 5  # pooled, as the test asks
        pooled = [np.append(a[~rare], a[rare].sum()) for a in (seen, want)]
        keep = pooled[1] > 0
        return stats.chisquare(pooled[0][keep], pooled[1][keep] / pooled[1][keep].sum() * pooled[0][keep].sum()).pvalue

    assert p(quantised(params)) > 1e-3
    assert p(params) < 1e-6


def test_what_is_rounded_is_the_layers_matrices():
    for cfg in MODELS.values():
        params = params_of(cfg)
        rounded = quantised(params)
        assert not any(isinstance(w, Int8) for name, w in rounded.items() if not name.startswith('stack_'))
        for name, part in params.items():
            if not name.startswith('stack_'):
                continue
            for n, w in part.items():
                matrix = not n.endswith(('_norm', '_bias')) and n != 'router'
                assert isinstance(rounded[name][n], Int8) == matrix, n
                if matrix:  # half a step of its own column's scale, at most
                    q = rounded[name][n]
                    assert q.values.dtype == jnp.int8 and (np.abs(q.plain() - w) <= q.scale / 2 * 1.0001).all(), n
                    lead = 2 if n.startswith('expert_') else 1
                    inside = 2 if n == 'o' else 1
                    assert q.scale.shape == (*w.shape[:lead], *(1,) * inside, *w.shape[lead + inside :]), n


def test_rounded_weights_side_by_side_are_each_its_own():
    x = jax.random.normal(jax.random.key(0), (5, 16))
    q, k = (Int8.of(jax.random.normal(jax.random.key(i), (16, i, 4)) * i, 1) for i in (3, 2))
    both = matmul(x, side_by_side(q, k), 'float32')
    np.testing.assert_allclose(both[:, :3], matmul(x, q, 'float32'), atol=1e-5)
    np.testing.assert_allclose(both[:, 3:], matmul(x, k, 'float32'), atol=1e-5)


def test_the_sampler_rounds_once_a_rollout(monkeypatch):
    """However many calls a rollout takes; and `weights` alone decides."""
    calls, plain = [], questions.quantised
    monkeypatch.setattr(questions, 'quantised', lambda params: calls.append(1) or plain(params))
    params = coarse()
    sampler = Sampler(Decode(MODEL, 8, (1,), 0), 4, 2, questions=1, seed=0)
    prompts = [[5, 9], [7], [11, 3, 8]]

    def rollout(sampler, params):
        return sampler(params, [0, 1, 2], prompts, 0, 8, 1.0)

    same, rounded = rollout(sampler, params), rollout(dataclasses.replace(sampler, weights='int8'), params)
    assert len(calls) == 1
    want = rollout(sampler, plain(params))
    np.testing.assert_array_equal(rounded.tokens, want.tokens)
    np.testing.assert_array_equal(rounded.logp, want.logp)
    assert (rounded.tokens != same.tokens).any()
    made = Sampler.create(MODEL, SampleConfig(8, 4, weights='int8'), 2, toy.Letters(), 0)
    assert made.weights == 'int8'


def test_the_loss_weighs_each_token_by_trainer_over_sampler():
    """A first update by hand: ρ is 1, so the loss is −Σ w·min(π/π_sampler, cap)·A, with π of the trainer's own pass."""
    params, cap = coarse(), 1.2
    r = drawn(MODEL, quantised(params), 6, 8)
    items, want, seen = [], 0.0, []
    for b in range(6):
        on = r.sampled[b]
        response, sampler = r.tokens[b][on], r.logp[b][on]
        items.append(Item(PROMPT, response, 0.1, 0, float(b - 2), sampler))
        seen.append(np.exp(row_logprobs(MODEL, params, PROMPT, response) - sampler))
        want -= 0.1 * (b - 2) * np.minimum(seen[-1], cap).sum()
    weights = np.concatenate(seen)
    assert weights.max() > cap and weights.min() < 0.8  # both sides are at work
    batch, count, _ = pack(items, 48, 2, len(items))
    loss = GRPO(beta=0.0, importance_cap=cap)
    value, sums, tops, _ = compiled.gradients(MODEL, loss, params, batch, np.int32(count), 1.0, True)
    assert value == pytest.approx(want, rel=1e-3)
    assert sums['policy/importance_mean'] == pytest.approx(np.minimum(weights, cap).sum(), rel=1e-3)
    assert sums['policy/importance_capped'] == (weights >= cap).sum()
    assert tops['policy/sampler_gap_max'] == pytest.approx(np.abs(np.log(weights)).max(), rel=1e-2)
    off = compiled.gradients(MODEL, GRPO(beta=0.0), params, batch, np.int32(count), 1.0, True)
    assert off[0] == pytest.approx(-sum(0.1 * (b - 2) * len(x) for b, x in enumerate(seen)), rel=1e-3)
    assert 'policy/importance_mean' not in off[1]


# --- a stage


def recipe(**change):
    """The smallest experiment, whose second stage samples with rounded weights, several updates a rollout."""
    whole = smallest.recipe()
    base, zero = whole.stages
    source = dataclasses.replace(
        zero.source, max_refills=0, sample=dataclasses.replace(zero.source.sample, weights='int8')
    )
    loss = dataclasses.replace(zero.loss, importance_cap=2.0, sampler_gap=10.0)  # any gap would be trusted
    zero = dataclasses.replace(zero, steps=6, source=source, loss=loss, phases=(), **change)
    return dataclasses.replace(whole, stages=(dataclasses.replace(base, steps=4), zero))


@pytest.mark.slow
def test_a_stage_measures_the_gap_corrects_for_it_and_evaluates_the_policy(tmp_path, monkeypatch):
    from r1jax.train import loop

    passes, plain = [], loop.Training.logprobs
    monkeypatch.setattr(loop.Training, 'logprobs', lambda self, *args: passes.append(1) or plain(self, *args))
    stage.run(recipe(evals=()), str(tmp_path))
    lines = [m for m in read(str(tmp_path / 'metrics.jsonl')) if m['stage'] == 'zero']
    assert all(m['policy/sampler_gap_mean'] > 1e-4 for m in lines)  # an update that trusted the sampler would have none
    assert all(0.9 < m['policy/importance_mean'] < 1.1 and m['policy/importance_capped'] == 0 for m in lines)
    # two rollouts of two minibatches: π_old is a pass of the trainer's each time, beside the reference's
    assert len(passes) == 2 * 2 * 2


def test_an_evaluation_measures_the_policy_unless_it_asks_for_the_rounded_one(tmp_path):
    whole = recipe()
    first, second = whole.stages[1].evals
    own = dataclasses.replace(second, cap_at='', sample=SampleConfig(20, 12, slots=32, weights='int8'))
    zero = dataclasses.replace(whole.stages[1], evals=(first, own))
    whole = dataclasses.replace(whole, stages=(whole.stages[0], zero))
    with Pool(1, 1 << 30) as pool:
        job = prepare(whole, str(tmp_path), ['zero'], 1, pool).job('zero')
    assert [m.sampler.weights for m in job.measures] == ['same', 'int8']


@pytest.mark.slow
def test_any_mesh_draws_the_same():
    params, seen = coarse(), []
    for mesh in ((1, 1, 1), (2, 2, 2)):
        with jax.set_mesh(sharding.make_mesh(MeshConfig(*mesh))):
            placed = jax.device_put(params, compiled.weight_shardings(MODEL, sharding.make_mesh(MeshConfig(*mesh))))
            seen.append(drawn(MODEL, quantised(placed), 16, 8))
    np.testing.assert_array_equal(seen[0].tokens, seen[1].tokens)
    np.testing.assert_allclose(seen[0].logp, seen[1].logp, atol=1e-4)
