"""The model: cached decoding equals the full pass, masks mean what they say, parameters carry their axes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import MODEL, full_logits, params_of

from r1jax.nn import attention
from r1jax.nn.attention import Rows, attend, attend_rows, heads_first, merge, visible
from r1jax.nn.cache import by_layer, with_suffix
from r1jax.nn.transformer import _slice, forward, init_boxed, logical_axes, stacks, unembedding, unstack


@pytest.mark.parametrize(
    'change',
    [{}, {'tied': False}, {'qkv_bias': True}, {'qk_norm': True}, {'kv_heads': 4}, {'rope_theta': 50.0}],
    ids=str,
)
def test_cached_decoding_equals_the_full_forward(change):
    cfg = dataclasses.replace(MODEL, **change)
    params, rng = params_of(cfg), np.random.default_rng(0)
    Q, G, P, N = 2, 3, 6, 5
    length = np.array([6, 3])
    prompt = rng.integers(0, cfg.vocab, (Q, P))
    response = rng.integers(0, cfg.vocab, (Q * G, N))

    place = jnp.broadcast_to(jnp.arange(P), (Q, P))
    segment = jnp.where(place < length[:, None], 0, -1)
    full = jax.jit(forward, static_argnums=0)
    _, prefix, _ = full(cfg, params, jnp.array(prompt), place, segment, jnp.full((Q, P), -1))
    single = unstack(params)
    assert stacks(single) == cfg.layers
    cache = with_suffix(by_layer(prefix), jnp.array(length), G, N)
    start = np.repeat(length, G)
    zero = jnp.zeros((Q * G, 1), jnp.int32)
    step = jax.jit(lambda tok, pos, cache: forward(cfg, single, tok, pos, zero, zero - 1, cache))
    got = []
    for t in range(N):
        hidden, cache, _ = step(jnp.array(response[:, t : t + 1]), jnp.array(start + t)[:, None], cache)
        got.append(hidden[:, 0] @ unembedding(params).T)
    for b in range(Q * G):
        row, n = np.zeros((1, P + N), np.int32), length[b // G]
        row[0, : n + N] = [*prompt[b // G, :n], *response[b]]
        want = full_logits(cfg, params, row)[0, n : n + N]
        np.testing.assert_allclose(jnp.stack([g[b] for g in got]), want, atol=2e-5)


def test_every_option_of_the_model_changes_its_output():
    rows = jnp.arange(24).reshape(2, 12) % MODEL.vocab

    def out(**change):
        cfg = dataclasses.replace(MODEL, **change)
        return full_logits(cfg, params_of(cfg), rows)

    base = out()
    for change in ({'tied': False}, {'qkv_bias': True}, {'qk_norm': True}, {'rope_theta': 50.0}, {'norm_eps': 0.1}):
        assert jnp.abs(out(**change) - base).max() > 1e-3, change
    low = out(dtype='bfloat16')
    assert 0 < jnp.abs(low - base).max() < 0.05 * jnp.abs(base).max()
    for remat in ('full', 'dots'):
        np.testing.assert_array_equal(out(remat=remat), base)  # remat changes the backward pass alone


def test_a_stack_in_bfloat16_is_read_layer_by_layer():
    """XLA's CPU backend, left alone, converts the stack to float32 before the loop: twice its memory, and more time than the rest."""
    cfg = dataclasses.replace(MODEL, layers=4, width=64, hidden=256, dtype='bfloat16')
    params = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params_of(cfg))
    rows, zero = jnp.arange(8)[None], jnp.zeros((1, 8), jnp.int32)
    full = jax.jit(lambda params: forward(cfg, params, rows, rows, zero, zero - 1)[0])
    stack = sum(a.nbytes for a in jax.tree.leaves(params['stack_0']))
    assert full.lower(params).compile().memory_analysis().temp_size_in_bytes < stack
    np.testing.assert_allclose(full(params), full(jax.tree.map(lambda a: a.astype(jnp.float32), params)), atol=2e-2)
    weights = jnp.arange(12.0).reshape(3, 4).astype(jnp.bfloat16)
    for i in range(3):
        taken, gradient = jax.value_and_grad(lambda w, i=i: _slice(w, i).astype(jnp.float32).sum())(weights)
        assert taken == weights[i].sum()
        np.testing.assert_array_equal(gradient, np.eye(3)[i][:, None] * np.ones(4))


@pytest.mark.parametrize('remat', ['dots', 'full', pytest.param('attention', marks=pytest.mark.slow)])
def test_rematerialisation_keeps_the_gradient_and_recomputes(remat):
    rows, params = jnp.arange(24).reshape(2, 12) % MODEL.vocab, params_of()

    def grad(remat):
        cfg = dataclasses.replace(MODEL, remat=remat)
        return jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(full_logits(cfg, p, rows))))).lower(params)

    none, some = grad('none').compile(), grad(remat).compile()
    for a, b in zip(jax.tree.leaves(none(params)), jax.tree.leaves(some(params)), strict=True):
        assert jnp.linalg.norm(a - b) <= 1e-5 * jnp.linalg.norm(a)
    assert some.memory_analysis().temp_size_in_bytes < none.memory_analysis().temp_size_in_bytes


def test_visible_sees_own_past_and_parent():
    segment = jnp.array([[0, 0, 1, 1, 2, 3, -1]])
    parent = jnp.array([[-1, -1, 0, 0, 0, -1, -1]])
    want = np.zeros((7, 7), bool)
    for q, keys in enumerate([(0,), (0, 1), (0, 1, 2), (0, 1, 2, 3), (0, 1, 4), (5,), ()]):
        want[q, list(keys)] = True
    np.testing.assert_array_equal(visible(segment, parent)[0], want)


def test_attention_in_parts_merges_to_the_whole():
    rng = np.random.default_rng(0)
    q = jnp.array(rng.normal(size=(2, 4, 3, 8)), jnp.float32)
    k, v = (jnp.array(rng.normal(size=(2, 2, *s)), jnp.float32) for s in ((8, 10), (10, 8)))
    mask = (
        jnp.array(rng.random((2, 3, 10)) < 0.6).at[:, :, 4:].set(False).at[1, 0].set(False)
    )  # a part, and a row, without keys
    whole, total = attend(q, k, v, mask, 'float32')
    cut = [attend(q, k[..., s], v[:, :, s], mask[:, :, s], 'float32') for s in (slice(0, 4), slice(4, 10))]
    out, lse = merge(*cut)
    np.testing.assert_allclose(out, whole, atol=1e-6)
    some = mask.any(-1)[:, None].repeat(4, 1)
    np.testing.assert_allclose(lse[some], total[some], atol=1e-6)
    np.testing.assert_array_equal(whole[1, :, 0], 0)  # a fully masked query has a defined answer …
    grads = jax.grad(lambda k: attend(q, k, v, mask, 'float32')[0].sum())(k)
    assert jnp.isfinite(grads).all()  # … and a defined gradient


@pytest.mark.parametrize(('prompts', 'block', 'chunk'), [(8, 16, 1024), (0, 0, 1024), (8, 16, 5), (0, 0, 28)])
def test_rows_attend_and_differentiate_as_the_whole_square_of_scores(prompts, block, chunk, monkeypatch):
    """Its gradient is written by hand: against autodiff of all scores at once, padding and lone segments included."""
    monkeypatch.setattr(attention, 'CHUNK', chunk)  # queries by chunks, also such as do not divide them
    rng = np.random.default_rng(0)
    segment = np.tile(np.r_[[0] * 4, [1] * 4, np.repeat([2, 3, 4], 16)], (2, 1))
    parent = np.where(segment > 1, segment % 2, -1)
    parent[0, segment[0] == 3] = -1  # a segment that brought its own prompt
    for row, cut in ((0, slice(-4, None)), (1, slice(5, 8)), (1, slice(-20, None))):
        segment[row, cut] = parent[row, cut] = -1
    q, k, v, g = (jnp.array(rng.normal(size=(2, 56, n, 4)), jnp.float32) for n in (6, 3, 3, 6))
    segment, parent = jnp.array(segment), jnp.array(parent)

    def rows(q, k, v):
        return jnp.vdot(g, attend_rows(q, k, v, Rows.create(segment, parent, prompts, block), 'float32'))

    def square(q, k, v):
        out, _ = attend(*heads_first(q, k, v), visible(segment, parent), 'float32')
        return jnp.vdot(g, out.swapaxes(1, 2))

    a, b = (jax.value_and_grad(f, (0, 1, 2))(q, k, v) for f in (rows, square))
    np.testing.assert_allclose(a[0], b[0], rtol=1e-5)
    for x, y in zip(a[1], b[1], strict=True):
        assert jnp.linalg.norm(x - y) <= 1e-5 * jnp.linalg.norm(y)


def test_memory_of_attention_is_linear_in_length():
    """As compiled, backward included; a square of scores would take four times as much for twice the length."""

    def temporary(T):
        ids = jnp.zeros((1, T), jnp.int32)
        given = [jax.ShapeDtypeStruct((1, T, n, 8), jnp.float32) for n in (2, 1, 1)]

        def total(q, k, v, segment):
            return attend_rows(q, k, v, Rows.create(segment, segment - 1), 'float32').sum()

        memory = jax.jit(jax.grad(total, (0, 1, 2))).lower(*given, ids).compile().memory_analysis()
        return memory.temp_size_in_bytes

    short, long = temporary(8192), temporary(16384)
    assert long < 2.2 * short and long < 2 * 4 * 16384**2 / 4  # bytes: a quarter of the scores of two heads


def test_every_parameter_names_its_axes():
    boxed = jax.eval_shape(
        lambda: init_boxed(dataclasses.replace(MODEL, tied=False, qkv_bias=True, qk_norm=True), jax.random.key(0))
    )
    axes = jax.tree.leaves(logical_axes(boxed), is_leaf=lambda p: isinstance(p, jax.sharding.PartitionSpec))
    shapes = jax.tree.leaves(boxed)
    assert len(axes) == len(shapes) and all(len(a) == s.ndim for a, s in zip(axes, shapes, strict=True))
