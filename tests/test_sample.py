"""The sampler: its log-probabilities are the model's, its draws follow the distribution, and a row depends on its key alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from tiny import MODEL, params_of, row_logprobs

from r1jax.nn import cache
from r1jax.sample import Decode, Prompts, Sampler, sample, sample_keys
from r1jax.sample.draw import draw, heaviest, nucleus, search
from r1jax.sample.sampler import smaller

DECODE = Decode(MODEL, max_tokens=12, stop=(1, 2), pad=0)
Q, G, P = 3, 4, 6
LENGTH = np.array([6, 3, 4], np.int32)
PROMPTS = np.random.default_rng(0).integers(3, 61, (Q, P)).astype(np.int32)


@pytest.fixture(scope='module')
def params():
    return params_of(scale=0.15)


def rollout(params, decode=DECODE, order=(0, 1, 2), limit=12, temperature=1.0, seed=0, number=0):
    order = np.array(order)
    question = np.repeat(10 + order, G)
    keys = sample_keys(seed, number, question, np.tile(np.arange(G), len(order)))
    limits = np.broadcast_to(np.int32(limit), question.shape)
    prompts = Prompts(PROMPTS[order], LENGTH[order], 10 + order)
    return jax.tree.map(np.asarray, sample(params, prompts, keys, limits, decode, np.float32(temperature)))


@pytest.mark.parametrize('temperature', [1.0, 0.7, 0.0])
def test_logprobs_are_those_of_the_full_pass(params, temperature):
    r = rollout(params, temperature=temperature)
    assert r.sampled.sum(-1).max() == 12 and r.finished.any()
    for b in range(Q * G):
        on = r.sampled[b]
        prompt, response = r.tokens[b, : np.argmax(on)], r.tokens[b][on]
        np.testing.assert_array_equal(prompt, PROMPTS[b // G, : LENGTH[b // G]])
        want = row_logprobs(MODEL, params, prompt, response, temperature or 1.0)
        np.testing.assert_allclose(r.logp[b][on], want, atol=1e-4)
        assert (r.logp[b][~on] == 0).all()
        stops = np.isin(response, DECODE.stop)
        assert not stops[:-1].any() and stops[-1] == r.finished[b]
        assert (r.tokens[b, np.argmax(on) + on.sum() :] == 0).all()


def test_a_sample_does_not_depend_on_its_neighbours(params):
    a, b = rollout(params), rollout(params, order=(2, 0, 1))
    for q, slot in ((0, 1), (1, 2), (2, 0)):
        np.testing.assert_array_equal(a.tokens[q * G : q * G + G], b.tokens[slot * G : slot * G + G])
        np.testing.assert_array_equal(a.logp[q * G : q * G + G], b.logp[slot * G : slot * G + G])


def test_seed_rollout_question_and_sample_all_change_the_draws(params):
    base = rollout(params)
    assert (rollout(params).tokens == base.tokens).all()
    assert (rollout(params, seed=1).tokens != base.tokens).any()
    assert (rollout(params, number=1).tokens != base.tokens).any()
    twins = rollout(params, order=(0, 0, 0))
    assert (twins.tokens[0] != twins.tokens[1]).any()  # two samples of one question
    keys = sample_keys(0, 0, np.array([1, 2, 1, 2]), np.array([1, 1, 2, 2]))
    assert len({tuple(k) for k in np.asarray(jax.random.key_data(keys))}) == 4


def test_limits_hold_row_by_row(params):
    limit = np.arange(Q * G) % 5
    r = rollout(params, limit=limit)
    full = rollout(params)
    assert (r.sampled.sum(-1) <= limit).all() and not r.sampled[limit == 0].any()
    for b in range(Q * G):
        n = r.sampled[b].sum()
        np.testing.assert_array_equal(r.tokens[b][r.sampled[b]], full.tokens[b][full.sampled[b]][:n])


def test_the_read_part_of_the_cache_changes_nothing(params, monkeypatch):
    want = rollout(params)
    monkeypatch.setattr(cache, '_LEAST', 3)
    got = rollout(params, dataclasses.replace(DECODE, stop=(1, 2, 99)))  # a stop that never comes: compiled anew
    np.testing.assert_array_equal(got.tokens, want.tokens)
    np.testing.assert_allclose(got.logp, want.logp, atol=1e-5)


def test_a_batch_that_shrinks_as_rows_finish_draws_the_same(params):
    want = rollout(params)
    got = rollout(params, dataclasses.replace(DECODE, buckets=4))
    assert smaller(Q * G, 4) == [7, 4, 2]
    np.testing.assert_array_equal(got.tokens, want.tokens)
    np.testing.assert_array_equal(got.finished, want.finished)
    np.testing.assert_allclose(got.logp, want.logp, atol=1e-5)
    limit = np.arange(1, Q * G + 1)  # one row ends at every token
    r = rollout(params, dataclasses.replace(DECODE, buckets=4, stop=(99,)), limit=limit)
    np.testing.assert_array_equal(r.sampled.sum(-1), limit)
    for b in range(Q * G):
        on = r.sampled[b]
        want = row_logprobs(MODEL, params, r.tokens[b, : np.argmax(on)], r.tokens[b][on])
        np.testing.assert_allclose(r.logp[b][on], want, atol=1e-4)


def test_rollouts_of_any_length_run_one_program(params):
    decode = dataclasses.replace(DECODE, buckets=3, stop=(98,))
    rng = np.random.default_rng(0)
    rollout(params, decode)
    compiled = sample._cache_size()
    for number in range(20):
        rollout(params, decode, number=number, limit=rng.integers(0, 13, Q * G))
    assert sample._cache_size() == compiled


def test_sampler_cuts_questions_into_calls_and_never_repeats_a_sample(params):
    sampler = Sampler(DECODE, P, G, questions=2, seed=3)
    prompts = [PROMPTS[i, : LENGTH[i]].tolist() for i in range(Q)]
    whole = dataclasses.replace(sampler, questions=5)
    a = sampler(params, [7, 8, 9], prompts, 4, 12, 1.0)
    b = whole(params, [7, 8, 9], prompts, 4, 12, 1.0)
    assert a.tokens.shape == (Q * G, P + 12)
    np.testing.assert_array_equal(a.tokens, b.tokens)
    twice = sampler(params, [7, 7], [prompts[0]] * 2, 4, 12, 1.0)
    assert twice.sample.tolist() == list(range(2 * G))
    np.testing.assert_array_equal(twice.tokens[:G], a.tokens[:G])
    assert (twice.tokens[:G] != twice.tokens[G:]).any()


# --- draws


def frequencies(logits, n=20_000, temperature=1.0, top_p=1.0, top_k=0):
    keys = jax.random.split(jax.random.key(7), n)
    token, logp = jax.jit(draw, static_argnums=(3, 4))(
        jnp.broadcast_to(logits, (n, len(logits))), keys, temperature, top_p, top_k
    )
    return np.bincount(np.asarray(token), minlength=len(logits)), np.asarray(token), np.asarray(logp)


@pytest.mark.parametrize('vocab', [37, 1500], ids=['one level', 'two levels'])
@pytest.mark.parametrize('temperature', [1.0, 0.5])
def test_draws_follow_the_distribution(vocab, temperature):
    logits = jax.random.normal(jax.random.key(0), (vocab,)) * 1.5
    seen, token, logp = frequencies(logits, temperature=temperature)
    want = np.asarray(jax.nn.softmax(logits / temperature), np.float64)
    np.testing.assert_allclose(logp, np.log(want)[token], atol=1e-5)
    rare = want * seen.sum() < 5  # pooled, as the test asks
    if rare.any():
        seen, want = np.append(seen[~rare], seen[rare].sum()), np.append(want[~rare], want[rare].sum())
    assert stats.chisquare(seen, want / want.sum() * seen.sum()).pvalue > 1e-3


@pytest.mark.parametrize('vocab', [37, 1500])
def test_nothing_outside_top_k_and_top_p_is_drawn(vocab):
    logits = jax.random.normal(jax.random.key(1), (vocab,)) * 1.5
    p = np.asarray(jax.nn.softmax(logits), np.float64)
    order = np.argsort(-p)
    inside = order[: np.searchsorted(np.cumsum(p[order]), 0.8) + 1]
    seen, token, logp = frequencies(logits, top_p=0.8)
    assert set(np.flatnonzero(seen)) <= set(inside) and seen[inside[-1]] >= 0
    np.testing.assert_allclose(logp, np.log(p)[token], atol=1e-5)  # before top-p, as stated
    want = p[inside] / p[inside].sum()
    assert stats.chisquare(seen[inside], want * seen.sum()).pvalue > 1e-3
    seen, _, _ = frequencies(logits, top_k=5)
    assert set(np.flatnonzero(seen)) == set(order[:5])
    seen, _, _ = frequencies(logits, temperature=0.0)
    assert set(np.flatnonzero(seen)) == {order[0]}
    both = np.flatnonzero(jnp.isfinite(nucleus(logits[None], 0.8, 3))[0])  # top-p of what top-k left
    assert 0 < len(both) <= 3 and set(both) <= set(order[:3])


@pytest.mark.parametrize('vocab', [37, 1500, 1536], ids=['one level', 'padded', 'two levels'])
def test_search_minds_the_edges(vocab):
    p = np.zeros((4, vocab), np.float32)
    p[0, [3, 30]] = 1  # mass 0 before, between and after
    p[1, 0] = 1
    p[2, vocab - 1] = 1
    p[3] = 1e-3
    near = np.nextafter(np.float32(1), np.float32(0))
    for u, want in ((0.0, (3, 0, vocab - 1, 0)), (near, (30, 0, vocab - 1, vocab - 1))):
        got, total = search(jnp.log(p), jnp.exp, jnp.full(4, u))
        got = np.asarray(got)
        np.testing.assert_allclose(total, p.sum(-1), rtol=1e-5)
        assert (got[:3] == want[:3]).all() and abs(got[3] - want[3]) <= 1


def test_each_row_has_its_own_nucleus():
    rng, B = np.random.default_rng(0), 16
    logits = jnp.asarray(rng.normal(0, 2, (B, 700)), jnp.float32).at[:, 3:6].set(1.5)  # ties
    share = np.tile(np.array([0.0, 0.5, 0.9, 1.0], np.float32), B // 4)
    keys = jax.random.split(jax.random.key(1), B)
    one = jax.jit(draw, static_argnums=(3, 4))
    inside = np.asarray(jax.jit(heaviest)(jnp.exp(logits), share))
    token, logp = jax.jit(draw, static_argnums=4)(logits, keys, 1.0, share, 0)
    for each in (0.5, 0.9, 1.0):  # as with one setting for all
        rows = share == each
        np.testing.assert_array_equal(inside[rows], np.isfinite(nucleus(logits, each, 0))[rows])
        want, want_logp = one(logits, keys, 1.0, each, 0)
        np.testing.assert_array_equal(token[rows], want[rows])
        np.testing.assert_allclose(logp[rows], want_logp[rows], atol=1e-5)
    np.testing.assert_array_equal(inside[::4], logits[::4] == logits[::4].max(-1, keepdims=True))
    np.testing.assert_array_equal(token[::4], logits[::4].argmax(-1))
