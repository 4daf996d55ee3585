"""The value head and its losses: equations by hand, scores that depend on nothing but their sequence, few programs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import MODEL, full_logits, params_of

from r1jax import sharding
from r1jax.config import MeshConfig
from r1jax.nn import heads, scorer
from r1jax.nn.scorer import Scorer
from r1jax.nn.transformer import forward, init_boxed, logical_axes, unbox, unembedding
from r1jax.rl.loss import bradley_terry, pointwise

# --- losses

scores = st.lists(st.tuples(st.floats(-20, 20, width=32), st.floats(-20, 20, width=32)), min_size=5, max_size=5)


def test_bradley_terry_by_hand():
    loss, metrics = bradley_terry(jnp.array([2.0, 0.0, 1.0]), jnp.array([1.0, 0.5, 1.0]))
    want = (np.log(1 + np.exp(-1)) + np.log(1 + np.exp(0.5)) + np.log(2)) / 3
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    np.testing.assert_allclose(metrics['accuracy'], (1 + 0 + 0.5) / 3, rtol=1e-6)
    np.testing.assert_allclose(metrics['margin'], 0.5 / 3, rtol=1e-6)


def test_pointwise_by_hand():
    loss, metrics = pointwise(jnp.array([2.0, -1.0, 3.0]), jnp.array([1.0, 0.0, 0.0]))
    s = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    np.testing.assert_allclose(loss, -(np.log(s(2.0)) + np.log(1 - s(-1.0)) + np.log(1 - s(3.0))) / 3, rtol=1e-6)
    np.testing.assert_allclose(metrics['accuracy'], 2 / 3, rtol=1e-6)
    np.testing.assert_allclose(metrics['margin'], (2 + 1 - 3) / 3, atol=1e-6)


@given(scores, st.floats(-50, 50, width=32))
def test_only_differences_of_scores_matter_to_a_pair(pairs, shift):
    chosen, rejected = jnp.array(pairs, jnp.float32).T
    loss, metrics = bradley_terry(chosen, rejected)
    assert loss >= 0
    np.testing.assert_allclose(bradley_terry(chosen + shift, rejected + shift)[0], loss, rtol=1e-4, atol=1e-4)
    swapped, other = bradley_terry(rejected, chosen)
    np.testing.assert_allclose(
        swapped, loss + metrics['margin'], rtol=1e-4, atol=1e-4
    )  # softplus(x) − softplus(−x) = x
    np.testing.assert_allclose(other['accuracy'], 1 - metrics['accuracy'], atol=1e-6)


@given(scores)
def test_pointwise_is_bradley_terry_against_nothing(pairs):
    """A response that is safe beats a score of 0, one that is not loses to it."""
    score, label = jnp.array([p for p, _ in pairs], jnp.float32), jnp.array([q > 0 for _, q in pairs], jnp.float32)
    sign = 2 * label - 1
    np.testing.assert_allclose(pointwise(score, label)[0], bradley_terry(sign * score, 0 * score)[0], atol=1e-5)


@pytest.mark.parametrize('loss', [bradley_terry, pointwise])
def test_cuts_add_up_and_padding_cannot_poison_a_gradient(loss):
    rng = np.random.default_rng(0)
    a, b = jnp.array(rng.normal(size=6), jnp.float32), jnp.array(rng.random(6) < 0.5, jnp.float32)
    whole = jax.value_and_grad(loss, has_aux=True)(a, b)
    weight = jnp.full(3, 1 / 6)
    parts = [jax.value_and_grad(loss, has_aux=True)(a[s], b[s], weight) for s in (slice(3), slice(3, 6))]
    np.testing.assert_allclose(sum(v for (v, _), _ in parts), whole[0][0], rtol=1e-6)
    for name in ('accuracy', 'margin'):
        np.testing.assert_allclose(sum(m[name] for (_, m), _ in parts), whole[0][1][name], rtol=1e-5)
    np.testing.assert_allclose(jnp.concatenate([g for _, g in parts]), whole[1], rtol=1e-5)
    bad = jnp.array([0.5, jnp.nan, jnp.inf])
    (value, metrics), grad = jax.value_and_grad(loss, has_aux=True)(bad, jnp.zeros(3), jnp.array([1.0, 0, 0]))
    assert jnp.isfinite(value) and jnp.isfinite(grad).all() and all(jnp.isfinite(m) for m in metrics.values())


# --- the head


@pytest.fixture(scope='module')
def params():
    return heads.with_value_head(params_of(dataclasses.replace(MODEL, tied=False)), jax.random.key(7))


@jax.jit
def plain_hidden(params, row):
    zero = jnp.zeros_like(row)
    return forward(MODEL, params, row, jnp.arange(row.shape[1])[None], zero, zero - 1)[0][0]


def plain_score(params, sequence):
    """From a row of its own, by the hidden states that the language model would read (padded behind, so that it compiles once)."""
    row = np.zeros((1, 96), np.int32)
    row[0, : len(sequence)] = sequence
    return float(plain_hidden(params, row)[len(sequence) - 1] @ params['value'] + params['value_bias'])


def test_a_value_head_replaces_the_unembedding(params):
    language = params_of(dataclasses.replace(MODEL, tied=False))
    assert set(language) - set(params) == {'unembed'} and set(params) - set(language) == {'value', 'value_bias'}
    boxed = jax.eval_shape(lambda: init_boxed(MODEL, jax.random.key(0), scalar=True))
    fresh = unbox(init_boxed(MODEL, jax.random.key(0), scalar=True))
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, params)
    axes = jax.tree.leaves(logical_axes(boxed), is_leaf=lambda p: isinstance(p, jax.sharding.PartitionSpec))
    assert all(len(a) == s.ndim for a, s in zip(axes, jax.tree.leaves(boxed), strict=True))
    assert 0.5 < fresh['value'].std() * (MODEL.width + 1) ** 0.5 < 1.5 and fresh['value_bias'] == 0
    with pytest.raises(ValueError, match='value head in place of the unembedding'):
        unembedding(params)
    full_logits(MODEL, {k: v for k, v in params.items() if 'value' not in k}, jnp.ones((1, 4), jnp.int32))  # a tied one


def test_the_score_is_the_value_at_the_last_token_and_padding_says_nothing(params):
    rng = np.random.default_rng(0)
    length = np.array([5, 12, 1])
    tokens = rng.integers(0, MODEL.vocab, (3, 12))
    got = scorer.scores(MODEL, params, jnp.array(tokens), jnp.array(length))
    np.testing.assert_allclose(
        got, [plain_score(params, t[:n]) for t, n in zip(tokens, length, strict=True)], atol=1e-5
    )
    noise = np.where(np.arange(12) < length[:, None], tokens, rng.integers(0, MODEL.vocab, (3, 12)))
    np.testing.assert_array_equal(scorer.scores(MODEL, params, jnp.array(noise), jnp.array(length)), got)


def test_a_scalar_model_learns_a_preference(params):
    """Gradients reach the head and the body: the pair that was preferred comes to score higher."""
    tokens, length = jnp.array([[1, 2, 3, 4], [1, 2, 5, 6]]), jnp.array([4, 4])

    @jax.jit
    def step(params):
        def loss(params):
            s = heads.scores(MODEL, params, tokens, length)
            return bradley_terry(s[1:], s[:1])

        (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 0.01 * g, params, grads), metrics, grads

    first, margins = params, []
    for _ in range(8):
        first, metrics, grads = step(first)
        margins.append(float(metrics['margin']))
    assert margins[-1] > margins[0] + 0.5
    moved = {jax.tree_util.keystr(p) for p, g in jax.tree_util.tree_leaves_with_path(grads) if jnp.abs(g).max() > 0}
    assert {"['value']", "['embed']", "['stack_0']['q']"} <= moved


# --- the scorer


def sequences(count, longest=90, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, MODEL.vocab, n).tolist() for n in rng.integers(1, longest, count)]


def test_scores_are_those_of_plain_rows(params):
    ask, texts = Scorer.create(MODEL, params, lengths=(16, 40, 96), tokens=256), sequences(9)
    np.testing.assert_allclose(ask(texts), [plain_score(params, t) for t in texts], atol=2e-5)


def test_a_score_depends_on_its_sequence_alone_and_few_programs_serve_all(params):
    ask, texts = Scorer.create(MODEL, params, lengths=(16, 40, 96), tokens=192), sequences(60)
    compiled = scorer.scores._cache_size()
    whole = ask(texts)
    assert {min(n for n in ask.lengths if n >= len(t)) for t in texts} == {16, 40, 96}
    rng = np.random.default_rng(3)
    for cut in (1, 7, 60):
        order = rng.permutation(len(texts))
        got = np.empty_like(whole)
        for at in range(0, len(texts), cut):
            chosen = order[at : at + cut]
            got[chosen] = ask([texts[i] for i in chosen])
        np.testing.assert_array_equal(got, whole)  # to the bit
    ask(sequences(200, seed=5))
    assert scorer.scores._cache_size() - compiled <= 3  # a program a length, however many sequences


@pytest.mark.parametrize('mesh', [(4, 2, 1), (1, 4, 2)])
def test_every_mesh_gives_the_same_scores(params, mesh):
    mesh, texts = sharding.make_mesh(MeshConfig(*mesh)), sequences(11)
    ask = Scorer.create(MODEL, params, mesh, lengths=(48, 96), tokens=100)
    split = mesh.shape['fsdp'] * mesh.shape['tensor']
    gate = ask.params['stack_0']['gate']
    assert gate.addressable_shards[0].data.size == gate.size // split
    want = Scorer.create(MODEL, params, lengths=(48, 96), tokens=100)(texts)
    with jax.set_mesh(mesh):  # as within a run
        np.testing.assert_allclose(ask(texts), want, atol=2e-5)


def test_what_does_not_fit_is_not_scored(params):
    ask = Scorer.create(MODEL, params, lengths=(16,))
    got = ask([[], [1] * 16, [1] * 17])
    assert np.isnan(got).tolist() == [True, False, True]
    assert ask([]).shape == (0,)
    assert Scorer.create(MODEL, params).lengths == (64, 96)
    with pytest.raises(ValueError, match=r'lengths=\(8, 97\) must lie in 1 to the context of the model, 96'):
        Scorer.create(MODEL, params, lengths=(8, 97))
    with pytest.raises(ValueError, match='no value head'):
        Scorer.create(MODEL, params_of())
