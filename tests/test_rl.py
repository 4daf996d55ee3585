"""Advantages, losses, weights and packing against hand-worked numbers and identities."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import MODEL, packed_logprobs, params_of, random_items, row_logprobs

from r1jax.rl import logprobs
from r1jax.rl.advantage import group_advantage, mixed
from r1jax.rl.batch import Item, pack, token_weights
from r1jax.rl.judged import pair_items, undivided
from r1jax.rl.logprobs import token_logprobs
from r1jax.rl.loss import dpo, grpo, grpo_metrics, kl_estimate, nll, ratios
from r1jax.types import Batch

rewards = st.lists(st.lists(st.floats(-4, 4, width=32), min_size=4, max_size=4), min_size=1, max_size=4)


def small_batch(**fields):
    """One row, hand-sized."""
    shape = (1, len(next(iter(fields.values()))))
    base = {f.name: jnp.zeros(shape, jnp.int32) for f in dataclasses.fields(Batch)}
    floats = ('weight', 'advantage', 'sampler_logp', 'old_logp', 'ref_logp')
    base |= {n: jnp.zeros(shape, jnp.float32) for n in floats}
    return Batch(**(base | {k: jnp.array([v], jnp.float32) for k, v in fields.items()}))


# --- advantages


def test_advantage_by_hand():
    got = group_advantage([[1, 0, 0, 1], [2, 2, 2, 2], [1, 0, 5, 0]], [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 1]])
    s = math.sqrt(1 / 3)  # ddof 1 of (1, 0, 0, 1), and of (1, 0, 0)
    want = [[0.5 / s, -0.5 / s, -0.5 / s, 0.5 / s], [0] * 4, [2 / 3 / s, -1 / 3 / s, 0, -1 / 3 / s]]
    np.testing.assert_allclose(got, want, rtol=1e-5)
    np.testing.assert_allclose(group_advantage([[1, 0, 0, 1]], [[1] * 4], ddof=0), [[1, -1, -1, 1]], rtol=1e-5)
    np.testing.assert_allclose(group_advantage([[1, 0, 0, 1]], [[1] * 4], scale_by_std=False), [[0.5, -0.5, -0.5, 0.5]])
    assert abs(group_advantage([[1, 0, 0, 1]], [[1] * 4], eps=1.0)).max() < 0.4


@given(rewards, st.floats(-100, 100, width=32))
def test_advantages_sum_to_zero_and_ignore_a_shift(reward, shift):
    reward = np.array(reward)
    valid = np.ones(reward.shape, bool)
    got = group_advantage(reward, valid)
    np.testing.assert_allclose(got.sum(-1), 0, atol=1e-4)
    np.testing.assert_allclose(
        group_advantage(reward + shift, valid)[mixed(reward, valid)], got[mixed(reward, valid)], atol=2e-2
    )


def test_equal_rewards_teach_exactly_nothing():
    reward = np.full((1, 6), 0.1, np.float32)
    assert (group_advantage(reward, np.ones((1, 6))) == 0).all()
    assert not mixed(reward, np.ones((1, 6)))[0]
    assert not mixed([[1, 0]], [[True, False]])[0]  # one grade alone
    assert (group_advantage([[1, 0]], [[False, False]]) == 0).all()


# --- losses


def test_grpo_by_hand():
    """Two tokens, ratios 1.5 and 0.5 with ε = 0.2: a gain is clipped from above, a loss from below."""
    logp = jnp.log(jnp.array([[0.6, 0.1]]))
    b = small_batch(old_logp=np.log([0.4, 0.2]), ref_logp=np.log([0.3, 0.2]), weight=[0.5, 0.25], advantage=[2.0, -1.0])
    gain = 0.5 * min(1.5 * 2, 1.2 * 2) + 0.25 * min(-0.5, -0.8)
    np.testing.assert_allclose(grpo(logp, b, (0.2, 0.2), 0.0), -gain, rtol=1e-6)
    kl = 0.5 * (0.5 - math.log(0.5) - 1) + 0.25 * (2 - math.log(2) - 1)  # k3 at π_ref/π of 1/2 and 2
    np.testing.assert_allclose(grpo(logp, b, (0.2, 0.2), 0.1), -gain + 0.1 * kl, rtol=1e-6)
    wide = 0.5 * min(3.0, 2.8) + 0.25 * min(-0.5, -0.8)
    np.testing.assert_allclose(grpo(logp, b, (0.2, 0.4), 0.0), -wide, rtol=1e-6)  # clip-higher
    low = 0.5 * 2.4 + 0.25 * -0.5
    np.testing.assert_allclose(grpo(logp, b, (0.6, 0.2), 0.0), -low, rtol=1e-6)


def test_truncated_importance_weights_by_hand():
    logp = jnp.log(jnp.array([[0.5, 0.5]]))
    b = small_batch(old_logp=np.log([0.5, 0.5]), sampler_logp=np.log([0.4, 0.1]), weight=[1, 1], advantage=[1, 1])
    np.testing.assert_allclose(grpo(logp, b, (0.2, 0.2), 0.0, importance_cap=2.0), -(1.25 + 2.0), rtol=1e-6)
    np.testing.assert_allclose(grpo(logp, b, (0.2, 0.2), 0.0), -2.0, rtol=1e-6)


def test_padding_cannot_poison_the_loss():
    b = small_batch(weight=[1, 0], advantage=[1, 1], old_logp=[0, -np.inf], ref_logp=[0, np.nan])
    loss, grad = jax.value_and_grad(lambda x: grpo(x, b, (0.2, 0.2), 0.1))(jnp.zeros((1, 2)))
    assert jnp.isfinite(loss) and jnp.isfinite(grad[0, 0])


@given(st.floats(-30, 3, width=32), st.floats(-30, 3, width=32))
def test_k3_is_never_negative(a, b):
    assert kl_estimate(jnp.float32(a), jnp.float32(b), 'k3') >= 0


def test_kl_estimators_by_hand():
    a, b = jnp.log(0.5), jnp.log(0.25)
    assert kl_estimate(a, b, 'k1') == pytest.approx(math.log(2))
    assert kl_estimate(a, b, 'k2') == pytest.approx(math.log(2) ** 2 / 2)
    assert kl_estimate(a, b, 'k3') == pytest.approx(0.5 + math.log(2) - 1)
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.3, 0.3, 0.4])
    true = (p * np.log(p / q)).sum()
    for kind in ('k1', 'k3'):  # unbiased under π
        assert sum(p * np.array(kl_estimate(jnp.log(p), jnp.log(q), kind))) == pytest.approx(true, rel=1e-5)
    with pytest.raises(ValueError, match="'k4'"):
        kl_estimate(a, b, 'k4')


def test_grpo_at_ratio_one_is_nll():
    """At ratio 1, β 0, advantage 1, GRPO's gradient is that of −Σ w log π."""
    logp = jnp.log(jnp.array([[0.6, 0.1]]))
    b = small_batch(old_logp=np.asarray(logp)[0], weight=[0.5, 0.25], advantage=[1, 1])
    a, c = jax.grad(lambda x: grpo(x, b, (0.2, 0.2), 0.0))(logp), jax.grad(lambda x: nll(x, b))(logp)
    np.testing.assert_allclose(a, c, rtol=1e-6)


def test_metrics_by_hand():
    logp = jnp.log(jnp.array([[0.6, 0.1]]))
    b = small_batch(
        old_logp=np.log([0.4, 0.2]),
        sampler_logp=np.log([0.4, 0.1]),
        ref_logp=np.log([0.6, 0.1]),
        weight=[0.5, 0.25],
        advantage=[2, -1],
    )
    sums, tops = grpo_metrics(logp, jnp.array([[0.5, 0.7]]), b, (0.2, 0.2))
    assert sums['tokens'] == 2 and sums['policy/clip_fraction'] == 2 and sums['policy/kl'] == 0
    assert sums['policy/entropy'] == pytest.approx(1.2) and sums['policy/sampler_gap_mean'] == pytest.approx(
        math.log(2)
    )
    assert tops['policy/sampler_gap_max'] == pytest.approx(math.log(2))


# --- weights and packing


@given(st.lists(st.tuples(st.integers(1, 50), st.booleans()), min_size=1, max_size=20))
def test_weights_sum_as_stated(rows):
    lengths, keep = (np.array(a) for a in zip(*rows, strict=True))

    def total(normalise):
        return (token_weights(lengths, keep, normalise, 50) * lengths).sum()

    any_kept = keep.any()
    assert total('grpo') == pytest.approx(float(any_kept), rel=1e-5)
    assert total('token_mean') == pytest.approx(float(any_kept), rel=1e-5)
    assert total('dr_grpo') == pytest.approx(lengths[keep].mean() / 50 if any_kept else 0.0, rel=1e-5)


def test_weights_by_hand():
    lengths, keep = [2, 4, 8], [True, True, False]
    np.testing.assert_allclose(token_weights(lengths, keep, 'grpo'), [1 / 4, 1 / 8, 0])
    np.testing.assert_allclose(token_weights(lengths, keep, 'dr_grpo', 10), [1 / 20, 1 / 20, 0])
    np.testing.assert_allclose(token_weights(lengths, keep, 'token_mean'), [1 / 6, 1 / 6, 0])
    with pytest.raises(ValueError, match="'mean'"):
        token_weights(lengths, keep, 'mean')


def test_pack_draws_the_picture_of_the_docstring():
    items = [
        Item(np.array([1, 2, 3]), np.array([4, 5, 6]), 0.1, 0),
        Item(np.array([1, 2, 3]), np.array([7, 8]), 0.2, 0),
        Item(np.array([9, 10]), np.array([11, 12, 13]), 0.3, 1),
    ]
    batch, count, places = pack(items, 13, 1, 3)
    assert count == 1 and places == [(0, 0, 3), (0, 0, 6), (0, 0, 10)]
    row = jax.tree.map(lambda a: a[0, 0], batch)
    assert row.tokens.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]
    assert row.segment.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4, 4]
    assert row.parent.tolist() == [-1, -1, -1, 0, 0, 0, 0, 0, -1, -1, 3, 3, 3]
    assert row.position.tolist() == [0, 1, 2, 3, 4, 5, 3, 4, 0, 1, 2, 3, 4]
    assert row.source.tolist() == [0, 0, 1, 2, 3, 4, 2, 6, 8, 8, 9, 10, 11]
    np.testing.assert_allclose(row.weight, [0, 0, 0, 0.1, 0.1, 0.1, 0.2, 0.2, 0, 0, 0.3, 0.3, 0.3])
    with pytest.raises(ValueError, match='exceed rows of 4'):
        pack(items, 4, 1, 3)
    with pytest.raises(ValueError, match='capacity of 1'):
        pack(items, 8, 1, 1)


def test_prompts_set_apart_draw_the_second_picture():
    a, b, c = (Item(np.array([1, 2, 3]), np.array([4] * n), 0.1, 0) for n in (3, 2, 1))
    d = Item(np.array([9, 10]), np.array([11, 12, 13]), 0.3, 1)
    batch, count, places = pack([a, b, d, c], 18, 1, 4, prompts=6, block=6)
    assert count == 1 and places == [(0, 0, 6), (0, 0, 9), (0, 0, 12), (0, 0, 11)]
    row = jax.tree.map(lambda a: a[0, 0], batch)
    assert row.tokens.tolist() == [1, 2, 3, 9, 10, 0, 4, 4, 4, 4, 4, 4, 11, 12, 13, 0, 0, 0]
    assert row.segment.tolist() == [0, 0, 0, 1, 1, -1, 2, 2, 2, 3, 3, 4, 5, 5, 5, -1, -1, -1]
    assert row.parent.tolist() == [-1] * 6 + [0] * 6 + [1, 1, 1, -1, -1, -1]
    assert row.position.tolist()[6:] == [3, 4, 5, 3, 4, 3, 2, 3, 4, 0, 0, 0]
    assert row.source.tolist()[6:] == [2, 6, 7, 2, 9, 2, 4, 12, 13, 0, 0, 0]
    for wrong, message in (
        ((18, 1, 4, 6, 5), 'multiple of block=5'),
        ((14, 1, 4, 2, 6), 'exceed rows of 2'),
        ((11, 1, 4, 9, 2), 'exceed rows of 9'),
    ):
        with pytest.raises(ValueError, match=message):
            pack([a, b, d, c], *wrong)


def test_a_mixed_rollout_leaves_little_padding():
    """64 responses to each of 16 questions, long-tailed: below 5 % of what is computed is padding."""
    rng = np.random.default_rng(0)
    lengths = np.clip(np.exp(rng.normal(4.2, 0.75, (16, 64))), 8, 256).astype(int)
    prompts = [np.ones(64, np.int32)] * 16
    items = [Item(prompts[g], np.ones(n, np.int32), 0.1, g) for g in range(16) for n in lengths[g]]
    batch, count, _ = pack(items, 128 + 8 * 256, 1, len(items), prompts=128, block=256)
    assert (batch.segment[:count] < 0).mean() < 0.05


@given(
    st.integers(0, 1000),
    st.sampled_from([(30, 0, 0), (64, 0, 0), (60, 0, 30), (38, 8, 0), (76, 16, 20)]),
    st.sampled_from([1, 3, 8]),
)
def test_packing_loses_nothing(seed, cut, rows):
    items, (length, prompts, block) = random_items(np.random.default_rng(seed)), cut
    batch, count, places = pack(items, length, rows, len(items), prompts, block)
    for item, (m, r, t) in zip(items, places, strict=True):
        at = slice(t, t + len(item.response))
        assert (batch.tokens[m, r, at] == item.response).all() and m < count
        mother = batch.segment[m, r] == batch.parent[m, r, t]
        assert (batch.tokens[m, r][mother] == item.prompt).all()
        assert t >= prompts and (t - prompts) // (block or length) == (at.stop - 1 - prompts) // (block or length)
        np.testing.assert_array_equal(batch.old_logp[m, r, at], item.old_logp)
    total = sum(i.weight * len(i.response) for i in items)
    assert batch.weight.sum() == pytest.approx(total, rel=1e-5)
    assert (batch.segment >= 0).sum() <= sum(len(i.prompt) + len(i.response) for i in items)


@pytest.mark.parametrize('cut', [(30, 2), (96, 1), (60, 2, 0, 30), (76, 1, 16, 20)])
def test_packed_and_shared_prompts_equal_plain_rows(cut):
    params, items = params_of(), random_items(np.random.default_rng(3))
    for item, got in zip(items, packed_logprobs(MODEL, params, items, *cut), strict=True):
        np.testing.assert_allclose(got, row_logprobs(MODEL, params, item.prompt, item.response), atol=2e-5)


def test_token_logprobs_equal_log_softmax_in_chunks(monkeypatch):
    monkeypatch.setattr(logprobs, '_LOGITS', 400 * 11 * 2)  # chunks of 2 tokens, the last padded
    rng = np.random.default_rng(0)
    hidden, head = (
        jnp.array(rng.normal(size=(400, 7, 8)), jnp.float32),
        jnp.array(rng.normal(size=(11, 8)), jnp.float32),
    )
    tokens, source = (
        rng.integers(0, 11, (400, 7)),
        rng.integers(0, 7, (400, 7)),
    )
    got, entropy = token_logprobs(hidden, head, jnp.array(tokens), jnp.array(source), 0.5)
    z = jax.nn.log_softmax(np.take_along_axis(np.asarray(hidden), source[..., None], 1) @ head.T / 0.5)
    np.testing.assert_allclose(got, np.take_along_axis(np.asarray(z), tokens[..., None], -1)[..., 0], atol=2e-5)
    np.testing.assert_allclose(entropy, -(np.exp(z) * z).sum(-1), atol=1e-4)
    greedy, _ = token_logprobs(hidden, head, jnp.array(tokens), jnp.array(source), 0.0)
    plain, _ = token_logprobs(hidden, head, jnp.array(tokens), jnp.array(source), 1.0)
    np.testing.assert_array_equal(greedy, plain)


def test_the_head_computes_what_is_wanted_and_its_gradient_is_that_of_log_softmax(monkeypatch):
    monkeypatch.setattr(logprobs, '_LOGITS', 300 * 11 * 3)  # chunks of 3 tokens
    rng = np.random.default_rng(1)
    hidden, head = (
        jnp.array(rng.normal(size=(300, 9, 8)), jnp.float32),
        jnp.array(rng.normal(size=(11, 8)), jnp.float32),
    )
    tokens, source = (jnp.array(rng.integers(0, n, (300, 9))) for n in (11, 9))
    where = jnp.array(
        (rng.random((300, 9)) < 0.3) & (np.arange(9) < 5)
    )  # at most 5 of 9 a row: two of three chunks run
    weight = jnp.where(where, jnp.array(rng.normal(size=(300, 9)), jnp.float32), 0)

    def ours(hidden, head):
        logp, entropy = token_logprobs(hidden, head, tokens, source, 0.7, where=where)
        return (weight * logp).sum() + entropy.sum(), (logp, entropy)

    def plain(hidden, head):
        z = jax.nn.log_softmax(jnp.take_along_axis(hidden, source[..., None], 1) @ head.T / 0.7)
        return (weight * jnp.take_along_axis(z, tokens[..., None], -1)[..., 0]).sum()

    got, (logp, entropy) = jax.grad(ours, (0, 1), has_aux=True)(hidden, head)
    assert not logp[~where].any() and not entropy[~where].any() and entropy[where].all()
    for a, b in zip(got, jax.grad(plain, (0, 1))(hidden, head), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


# --- other algorithms


def test_leave_one_out_by_hand():
    """Each of 1, 0, 0 and 3 against the mean of the other three; of two valid ones against the other."""
    got = group_advantage([[1, 0, 0, 3], [1, 7, 4, 9]], [[1, 1, 1, 1], [1, 0, 1, 0]], False, baseline='leave_one_out')
    np.testing.assert_allclose(got, [[0, -4 / 3, -4 / 3, 8 / 3], [-3, 0, 3, 0]], atol=1e-6)
    scaled = group_advantage([[1, 0, 0, 3]], [[1] * 4], baseline='leave_one_out')
    np.testing.assert_allclose(scaled, np.array([[0, -4 / 3, -4 / 3, 8 / 3]]) / math.sqrt(2), rtol=1e-5)
    with pytest.raises(ValueError, match="unknown baseline 'best': mean or leave_one_out"):
        group_advantage([[1, 0]], [[1, 1]], baseline='best')


def two_responses(**fields):
    """One row: a prompt of one token, responses of two and of one token, padding."""
    ids = {'segment': [[0, 1, 1, 2, -1]], 'parent': [[-1, 0, 0, 0, -1]]}
    base = small_batch(**fields)
    return dataclasses.replace(base, **{name: jnp.array(value, jnp.int32) for name, value in ids.items()})


def test_sequence_ratios_by_hand():
    """GSPO: a response's ratio is the geometric mean of its tokens': √(2·½) = 1 and 3; it is clipped as a whole."""
    logp = jnp.log(jnp.array([[0.9, 0.4, 0.1, 0.6, 0.5]]))
    old = np.log([0.1, 0.2, 0.2, 0.2, 0.1])
    b = two_responses(weight=[0, 0.25, 0.25, 0.5, 0], advantage=[0, 1, 1, 1, 0], old_logp=old)
    np.testing.assert_allclose(ratios(logp, b, 'sequence')[0, 1:4], [1, 1, 3], rtol=1e-6)
    np.testing.assert_allclose(ratios(logp, b, 'token')[0, 1:4], [2, 0.5, 3], rtol=1e-6)
    loss = grpo(logp, b, (0.2, 0.3), 0.0, ratio='sequence')
    np.testing.assert_allclose(loss, -(0.5 * 1 + 0.5 * 1.3), rtol=1e-6)
    # d/dlogp of s·A, with s = exp(mean of log ratios): each token of a response gets s·A/|o|, weighed by all of its tokens
    grad = jax.grad(lambda x: grpo(x, b, (0.2, 3.0), 0.0, ratio='sequence'))(logp)
    np.testing.assert_allclose(grad, -np.array([[0, 0.5 / 2, 0.5 / 2, 0.5 * 3, 0]]), rtol=1e-6)
    sums, _ = grpo_metrics(logp, logp, b, (0.2, 0.3), ratio='sequence')
    assert sums['policy/clip_fraction'] == 1
    with pytest.raises(ValueError, match="unknown ratio 'word': token or sequence"):
        ratios(logp, b, 'word')


def test_dpo_by_hand():
    """Chosen: log-ratios log 2 and 0; rejected: log ½. With β = 0.5 the margin is 0.5·(log 2 + log 2) = log 2."""
    logp, ref = np.log([[0.5, 0.4, 0.3, 0.1, 0.5]]), np.log([0.5, 0.2, 0.3, 0.2, 0.5])
    b = two_responses(weight=[0, 1 / 3, 1 / 3, 1 / 3, 0], advantage=[0, 1, 1, -1, 0], ref_logp=ref)
    loss, metrics = dpo(jnp.asarray(logp), b, 0.5)
    np.testing.assert_allclose(loss, math.log(1 + 0.5), rtol=1e-6)  # −log σ(log 2) = log(1 + 1/2)
    want = {'accuracy': 1, 'margin': math.log(2), 'chosen': 0.5 * math.log(2), 'rejected': -0.5 * math.log(2)}
    assert metrics.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-6)
    # σ(−margin)·β = 1/3·1/2 on each token, up for the chosen and down for the rejected answer
    grad = jax.grad(lambda x: dpo(x, b, 0.5)[0])(jnp.asarray(logp))
    np.testing.assert_allclose(grad, [[0, -1 / 6, -1 / 6, 1 / 6, 0]], rtol=1e-5, atol=1e-7)
    assert dpo(jnp.asarray(logp), dataclasses.replace(b, ref_logp=jnp.asarray(logp)), 0.5)[0] == pytest.approx(
        math.log(2)
    )


def test_dpo_does_not_depend_on_the_cut():
    rng = np.random.default_rng(0)
    pairs = [
        tuple(q + rng.integers(3, 61, rng.integers(1, 9)).tolist() + [end] for end in (1, 2))
        for q in (rng.integers(3, 61, n).tolist() for n in (1, 4, 7, 2, 5))
    ]
    items = [
        dataclasses.replace(item, ref_logp=rng.normal(size=len(item.response)).astype(np.float32) - 2)
        for item in pair_items(pairs, whole=True)
    ]
    values = []
    for cut in ((64, 4, 0), (32, 1, 0), (32, 2, 32)):
        length, rows, block = cut
        batch, count, places = pack(items, length, rows, len(pairs), 0, block)
        undivided(batch, places)
        assert np.isclose(batch.weight.sum(), 1)
        logp = np.sin(batch.tokens.astype(np.float32)) - 2  # any function of the token
        parts = [dpo(logp[m], jax.tree.map(lambda a, m=m: a[m], batch), 0.1) for m in range(count)]
        values.append([sum(float(part[0]) for part in parts), sum(float(part[1]['margin']) for part in parts)])
    np.testing.assert_allclose(values[1:], [values[0]] * 2, rtol=1e-5)
