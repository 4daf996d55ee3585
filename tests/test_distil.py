"""Distillation: the divergence and its gradients against a plain computation, on meshes and cuts; a student that comes to say what its
teacher says, from stored texts and from its own samples.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import MODEL, params_of, random_items

from r1jax import sharding
from r1jax.config import Distil, MeshConfig
from r1jax.nn.transformer import forward, unembedding
from r1jax.rl import logprobs
from r1jax.rl.batch import pack
from r1jax.rl.distil import NAMES, divergence
from r1jax.train import step as compiled

TEACHER = dataclasses.replace(
    MODEL, layers=1, width=24, heads=2, kv_heads=2, hidden=40
)  # another shape, the same vocabulary


@functools.cache
def rows():
    """Hidden states of a student and a teacher [B,T,D], their unembeddings, sources, and which tokens are wanted."""
    rng = np.random.default_rng(3)
    f32 = lambda *shape: jnp.array(rng.normal(size=shape), jnp.float32)  # noqa: E731
    B, T, V = 4, 9, 14
    source = jnp.array(rng.integers(0, T, (B, T)))
    return f32(B, T, 6), f32(V, 6), f32(B, T, 4), f32(V, 4), source, jnp.array(rng.random((B, T)) < 0.6)


def plain(kl, temperature, hidden, unembed, theirs, head, source, where):
    """The definition, on the whole [B,T,V]."""
    logp, logq = (
        jax.nn.log_softmax(jnp.take_along_axis(h, source[..., None], 1) @ w.T / temperature)
        for h, w in ((hidden, unembed), (theirs, head))
    )
    a, b = (logq, logp) if kl == 'forward' else (logp, logq)
    return jnp.where(where, jnp.sum(jnp.exp(a) * (a - b), -1), 0), logp, logq


def ours(kl, temperature, hidden, unembed, theirs, head, source, where):
    return divergence((hidden, unembed, 'float32'), (theirs, head, 'float32'), source, temperature, kl, where)


def same(got, want, tolerance=1e-5):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert np.linalg.norm(np.asarray(a) - b) <= tolerance * np.linalg.norm(b)


@pytest.mark.parametrize('mesh', [None, (2, 2, 2)])
@pytest.mark.parametrize('temperature', [1.0, 2.5])
@pytest.mark.parametrize('kl', ['forward', 'reverse'])
def test_divergence_and_gradients_are_those_of_the_definition(monkeypatch, kl, temperature, mesh):
    monkeypatch.setattr(logprobs, '_LOGITS', 2 * 14 * 4 * 2)  # several chunks
    args, at = rows(), jnp.array(np.random.default_rng(0).random((4, 9)), jnp.float32)

    def loss(by, hidden, unembed):
        return jnp.sum(at * by(kl, temperature, hidden, unembed, *args[2:])[0])

    with jax.set_mesh(sharding.make_mesh(MeshConfig(*(mesh or (1, 1, 1))))):
        got = jax.jit(jax.value_and_grad(functools.partial(loss, ours), argnums=(0, 1)))(*args[:2])
        kls, measured = jax.jit(functools.partial(ours, kl, temperature))(*args)
    same(got, jax.value_and_grad(functools.partial(loss, plain), argnums=(0, 1))(*args[:2]))
    want, logp, logq = plain(kl, temperature, *args)
    same(kls, want)
    same(measured[f'distil/{kl}'], want)
    where = args[-1]
    same(measured['policy/entropy'], jnp.where(where, -jnp.sum(jnp.exp(logp) * logp, -1), 0))
    same(measured['distil/teacher_entropy'], jnp.where(where, -jnp.sum(jnp.exp(logq) * logq, -1), 0))
    np.testing.assert_array_equal(measured['distil/agreement'], where & (logp.argmax(-1) == logq.argmax(-1)))
    assert set(measured) == set(NAMES)


def test_no_gradient_reaches_the_teacher_and_equals_do_not_diverge():
    hidden, unembed, *_, source, where = rows()
    grads = jax.grad(lambda h, w: ours('reverse', 1.0, hidden, unembed, h, w, source, where)[0].sum(), argnums=(0, 1))
    assert all(not np.any(g) for g in grads(hidden + 1, unembed))
    kls, measured = ours('forward', 1.0, hidden, unembed, hidden, unembed, source, where)
    assert np.abs(kls).max() < 1e-6 and measured['distil/agreement'].sum() == where.sum()
    with pytest.raises(ValueError, match='a student of 14 tokens cannot learn from a teacher of 13'):
        ours('forward', 1.0, hidden, unembed, hidden, unembed[:13], source, where)


# --- the update


@functools.partial(jax.jit, static_argnums=(0,))
def _gradients(loss, params, taught, batch, count):
    return compiled.gradients(MODEL, loss, params, batch, count, 1.0, True, None, (TEACHER, taught))


def gradients(loss, length=64, rows=8, prompts=0, mesh=(1, 1, 1)):
    items = random_items(np.random.default_rng(5), weight=1 / 100)
    batch, count, _ = pack(items, length, rows, len(items), prompts)
    mesh = sharding.make_mesh(MeshConfig(*mesh))
    with jax.set_mesh(mesh):
        params, taught = (
            jax.device_put(params_of(cfg, seed), compiled.weight_shardings(cfg, mesh))
            for cfg, seed in ((MODEL, 0), (TEACHER, 9))
        )
        return jax.device_get(_gradients(loss, params, taught, compiled.place(batch, mesh), np.int32(count)))


@pytest.mark.parametrize(
    ('kl', 'temperature', 'cut'),
    [('forward', 1.0, {'length': 72, 'rows': 4, 'prompts': 32}), ('reverse', 2.0, {'mesh': (2, 2, 2)})],
)
def test_any_cut_and_any_mesh_give_the_same_update(kl, temperature, cut):
    loss = Distil('teacher', kl, temperature)
    one, other = gradients(loss), gradients(loss, **cut)
    assert other[0] == pytest.approx(one[0], rel=1e-5)
    same(other[3], one[3], 2e-5)
    assert other[1]['tokens'] == one[1]['tokens']
    for name in NAMES:
        assert other[1][name] == pytest.approx(one[1][name], rel=1e-4)
    # by the definition: both models read each response behind its prompt alone
    items = random_items(np.random.default_rng(5), weight=1 / 100)
    tokens = np.zeros((len(items), 32), np.int32)
    where = np.zeros(tokens.shape, bool)
    for i, item in enumerate(items):
        both = [*item.prompt, *item.response]
        tokens[i, : len(both)], where[i, len(item.prompt) : len(both)] = both, True
    place, zero = np.broadcast_to(np.arange(32), tokens.shape), np.zeros_like(tokens)
    read = []
    for cfg, seed in ((MODEL, 0), (TEACHER, 9)):
        hidden = jax.jit(forward, static_argnums=0)(cfg, params_of(cfg, seed), tokens, place, zero, zero - 1)[0]
        read += [hidden, unembedding(params_of(cfg, seed))]
    total = plain(kl, temperature, *read, np.maximum(place - 1, 0), where)[0].sum() / 100
    assert one[0] == pytest.approx(float(total), rel=1e-4)
