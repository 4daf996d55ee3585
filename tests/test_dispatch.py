"""Experts on several devices: what one device computes, by either form of the dispatch, for any loads; no token is dropped."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_experts import EXPERTS, LATENT
from tiny import params_of

from r1jax import sharding
from r1jax.config import GRPO, MeshConfig, OptimConfig
from r1jax.nn import dispatch, moe
from r1jax.rl.batch import Item, pack
from r1jax.train import optim
from r1jax.train import step as compiled

CFG = dataclasses.replace(LATENT, moe=dataclasses.replace(EXPERTS, experts=8, active=3))
B, T = 8, 16


def ragged_all_to_all(x, out, start, sent, landing, taken, *, axis_name):
    """What `jax.lax.ragged_all_to_all` is defined to do, by gathers: XLA's CPU backend has none."""
    everyone = functools.partial(jax.lax.all_gather, axis_name=axis_name)
    xs, starts, sents, landings = map(everyone, (x, start, sent, landing))
    me, row = jax.lax.axis_index(axis_name), jnp.arange(out.shape[0])
    for s in range(xs.shape[0]):
        at = row - landings[s, me]
        here = (at >= 0) & (at < sents[s, me])
        out = jnp.where(here[:, None], xs[s][jnp.clip(starts[s, me] + at, 0, x.shape[0] - 1)], out)
    return out


@pytest.fixture
def ragged(monkeypatch):
    monkeypatch.setattr(jax.lax, 'ragged_all_to_all', ragged_all_to_all)
    monkeypatch.setattr(dispatch, 'by_gather', dispatch.by_ragged)


def layer():
    weights = params_of(CFG)['stack_1']
    return {n: weights[n][0] for n in ('router', 'router_bias', *moe.NAMES)}


@functools.cache
def case(loads):
    """Tokens, what is real, choices, and the gradient of the output. All to two experts, or as the router has it."""
    rng = np.random.default_rng(1)
    h, g = (jnp.asarray(rng.normal(size=(B, T, CFG.width)), jnp.float32) for _ in range(2))
    real = jnp.asarray(rng.random((B, T)) < 0.8)
    replay = None if loads == 'routed' else jnp.broadcast_to(jnp.array([0, 1, 2]), (B, T, 3))
    return h, g, real, replay


def computed(mesh, loads):
    """Output, choices, loads and gradients of h and of each weight."""
    h, g, real, replay = case(loads)

    def loss(w, h):
        out, choice, load = moe.experts(CFG, w, h, real, replay)
        return jnp.vdot(out, g), (out, choice, load)

    with jax.set_mesh(sharding.make_mesh(mesh)):
        (_, out), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(layer(), h)
        return jax.device_get((out, gradients))


@functools.cache
def alone(loads):
    return computed(MeshConfig(), loads)


def assert_same(got, expected):
    (out, choice, load), gradients = got
    (out_, choice_, load_), gradients_ = expected
    np.testing.assert_array_equal(choice, choice_)
    np.testing.assert_array_equal(load, load_)
    np.testing.assert_allclose(out, out_, rtol=0, atol=1e-5 * np.abs(out_).max())
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(gradients), jax.tree.leaves(gradients_), strict=True):
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b), path


@pytest.mark.parametrize('loads', ['routed', 'uneven'])
@pytest.mark.parametrize(
    'mesh',
    [MeshConfig(expert=8), pytest.param(MeshConfig(fsdp=2, tensor=2, expert=2), marks=pytest.mark.slow)],
    ids=str,
)
def test_gathered_experts_compute_what_one_device_does(mesh, loads):
    assert_same(computed(mesh, loads), alone(loads))


@pytest.mark.parametrize('room', [dispatch._ROOM, 1], ids=['one chunk', 'chunks'])
@pytest.mark.parametrize(
    'mesh',
    [MeshConfig(expert=4, sequence=2), pytest.param(MeshConfig(data=2, expert=2, tensor=2), marks=pytest.mark.slow)],
    ids=str,
)
@pytest.mark.parametrize('loads', ['uneven', pytest.param('routed', marks=pytest.mark.slow)])
def test_experts_by_ragged_all_to_all_compute_what_one_device_does(ragged, monkeypatch, mesh, room, loads):
    monkeypatch.setattr(dispatch, '_ROOM', room)
    assert_same(computed(mesh, loads), alone(loads))


def test_chunks_bound_what_may_meet_at_a_device():
    with jax.set_mesh(sharding.make_mesh(MeshConfig(expert=8))):
        for M, k, count in (4096, 8, 256), (4096, 8, 16), (100, 3, 8), (5, 8, 256):
            n = dispatch.chunks(M, k, count)
            assert 8 * -(-M // n) * min(k, count // 8) <= max(2 * M * k, dispatch._ROOM) + 8 * k
        assert dispatch.chunks(5, 8, 256) == 1  # decoding reads its experts once
    assert dispatch.chunks(4096, 8, 256) == 1


@pytest.mark.parametrize(
    'mesh',
    [MeshConfig(fsdp=2, expert=2, sequence=2), MeshConfig(tensor=2, sequence=4)],
    ids=str,
)
@pytest.mark.slow
def test_a_whole_update_is_that_of_one_device(mesh):
    """Latent attention by the ring, experts by their axis: parameters, optimizer state and metrics after a step."""
    rng = np.random.default_rng(3)
    items = [Item(rng.integers(3, 61, 4), rng.integers(3, 61, 12), 1 / 96, g // 2) for g in range(16)]
    params, tx = jax.device_get(params_of(CFG)), optim.transform(OptimConfig(1e-3, eps=1e-3))

    def updated(cfg):
        mesh = sharding.make_mesh(cfg)
        with jax.set_mesh(mesh):
            where = compiled.shardings(CFG, tx, mesh)
            state = compiled.init_state(CFG, tx, jax.random.key(0), mesh, params)
            for leaf, into in zip(jax.tree.leaves(state), jax.tree.leaves(where), strict=True):
                assert leaf.sharding.is_equivalent_to(into, leaf.ndim)
            gate = state.params['stack_1']['expert_gate']
            assert gate.addressable_shards[0].data.size == gate.size // 8
            moments = [a for a in jax.tree.leaves(state.opt_state) if a.shape == gate.shape]
            assert len(moments) >= 2 and all(a.sharding == gate.sharding for a in moments)
            update = compiled.build_update(CFG, GRPO(beta=0.0), tx, where)
            batch = compiled.place(pack(items, 32, 8, 16)[0], mesh)
            args = np.int32(1), np.float32(1e-3), np.float32(1), np.bool_(True)
            state, metrics = update(state, batch, *args)
            return jax.device_get((state.params, metrics))

    (one, first), (many, second) = alone_update(items, params, tx), updated(mesh)
    for name, value in first.items():
        assert second[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    for (path, a), b, p in zip(
        jax.tree_util.tree_leaves_with_path(one), *map(jax.tree.leaves, (many, params)), strict=True
    ):
        assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(a - p), path  # of the step itself


def alone_update(items, params, tx):
    mesh = sharding.make_mesh(MeshConfig())
    with jax.set_mesh(mesh):
        state = compiled.init_state(CFG, tx, jax.random.key(0), mesh, params)
        update = compiled.build_update(CFG, GRPO(beta=0.0), tx, compiled.shardings(CFG, tx, mesh))
        args = np.int32(1), np.float32(1e-3), np.float32(1), np.bool_(True)
        state, metrics = update(state, compiled.place(pack(items, 32, 8, 16)[0], mesh), *args)
        return jax.device_get((state.params, metrics))
