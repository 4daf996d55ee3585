"""Experts in sampling and updates: choices are recorded, replay closes the sampler gap, the bias moves by policy, meshes agree."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smallest
from test_experts import EXPERTS, LATENT
from tiny import params_of

from r1jax import sharding
from r1jax.config import GRPO, MeshConfig, MoE, OptimConfig, RowConfig
from r1jax.rl.batch import Item, pack
from r1jax.sample import Decode, Prompts, sample, sample_keys
from r1jax.train import optim, stage
from r1jax.train import step as compiled
from r1jax.train.log import read

Q, G, P, N = 4, 4, 6, 24
LENGTH = np.array([6, 3, 4, 1], np.int32)


def rollout(cfg, params, buckets=1):
    rng = np.random.default_rng(0)
    prompts = Prompts(rng.integers(3, 61, (Q, P)).astype(np.int32), LENGTH, np.arange(Q))
    keys = sample_keys(0, 0, np.repeat(np.arange(Q), G), np.tile(np.arange(G), Q))
    decode = Decode(cfg, N, (1, 2), 0, buckets=buckets, routes=True)
    return jax.tree.map(np.asarray, sample(params, prompts, keys, np.full(Q * G, N), decode, np.float32(1)))


def items_of(r):
    out = []
    for b in range(Q * G):
        on, first = r.sampled[b], int(np.argmax(r.sampled[b]))
        routes = r.routes[b, : first + on.sum()]
        out.append(
            Item(
                r.tokens[b, :first],
                r.tokens[b][on],
                1 / Q / G / on.sum(),
                b // G,
                sampler_logp=r.logp[b][on],
                routes=routes,
            )
        )
    return out


def packed(cfg, items):
    return pack(items, P * Q + 2 * N, 4, len(items), P * Q, N, (cfg.expert_layers, cfg.moe.active))


def gap(cfg, params, items):
    """|log π − log π_sampler| of every sampled token, as the update computes it."""
    batch, count, places = packed(cfg, items)
    logp = np.asarray(compiled.logprobs(cfg, params, batch, np.int32(count), np.float32(1)))
    return np.concatenate(
        [
            np.abs(logp[m, r, t : t + len(i.response)] - i.sampler_logp)
            for i, (m, r, t) in zip(items, places, strict=True)
        ]
    )


@pytest.fixture(scope='module')
def low():
    """A bfloat16 model whose experts differ much and are chosen narrowly, and its rollout."""
    cfg = dataclasses.replace(LATENT, dtype='bfloat16')
    params = params_of(cfg, scale=0.25)
    return cfg, params, rollout(cfg, params, buckets=2)


def test_the_sampler_records_the_choices_of_every_token_but_the_last(low):
    cfg, params, r = low
    assert r.routes.shape == (Q * G, P + N, 1, 3) and r.routes.dtype == np.int16
    for b in range(Q * G):
        last = np.flatnonzero(r.sampled[b])[-1]
        assert (r.routes[b, :last] >= 0).all() and (r.routes[b, last:] == -1).all()
    exact = dataclasses.replace(cfg, dtype='float32')  # in float32 a full pass chooses the same
    r = rollout(exact, params)
    tokens = jnp.array(r.tokens)
    place = jnp.broadcast_to(jnp.arange(P + N), tokens.shape)
    zero = jnp.zeros_like(place)
    choices = compiled.transformer.forward(exact, params, tokens, place, zero, zero - 1)[2]['choices']
    known = r.routes >= 0
    np.testing.assert_array_equal(np.sort(r.routes, -1)[known], np.sort(choices, -1)[known])


def test_replay_closes_the_sampler_gap_in_bfloat16(low):
    """Routing anew in bfloat16 meets another expert now and then, and then log-probabilities are far off."""
    cfg, params, r = low
    items = items_of(r)
    replayed = gap(cfg, params, items)
    anew = gap(dataclasses.replace(cfg, moe=dataclasses.replace(EXPERTS, replay=False)), params, items)
    none = gap(cfg, params, [dataclasses.replace(i, routes=None) for i in items])
    np.testing.assert_array_equal(anew, none)
    assert replayed.max() < 0.5 * anew.max() and replayed.mean() < anew.mean()


@pytest.mark.slow
@pytest.mark.parametrize('policy', ['frozen', 'balance'])
def test_the_bias_moves_by_policy_and_never_by_gradient(low, policy):
    cfg, params, r = low
    cfg = dataclasses.replace(cfg, moe=dataclasses.replace(EXPERTS, router_bias=policy, bias_speed=0.01))
    items = [dataclasses.replace(i, advantage=1.0) for i in items_of(r)]
    mesh, tx = sharding.make_mesh(MeshConfig()), optim.transform(OptimConfig(1e-2, weight_decay=0.5))
    with jax.set_mesh(mesh):
        update = compiled.build_update(cfg, GRPO(beta=0.0), tx, compiled.shardings(cfg, tx, mesh))
        state = compiled.init_state(cfg, tx, jax.random.key(0), mesh, params)
        batch, count, _ = packed(cfg, items)
        args = np.int32(count), np.float32(1e-2), np.float32(1), np.bool_(True)
        before = jax.tree.map(np.asarray, state.params)
        state, metrics = update(state, compiled.place(batch, mesh), *args)
    moved = jax.tree.map(lambda a, b: np.asarray(a) - b, state.params, before)
    assert all(np.abs(a).max() > 0 for name, a in moved['stack_1'].items() if name != 'router_bias')
    load = np.bincount(batch.routes[batch.routes >= 0], minlength=8)  # the last token of each response has none
    bias = moved['stack_1']['router_bias'][0]
    assert metrics['router/overload'] == pytest.approx(load.max() / load.mean() - 1, abs=0.2)
    if policy == 'frozen':
        np.testing.assert_array_equal(bias, 0)
    else:
        sure = np.abs(load - load.mean()) > Q * G * 3 / 2  # whatever the last tokens chose
        assert sure.sum() > 2
        np.testing.assert_allclose(bias[sure], 0.01 * np.sign(load.mean() - load)[sure], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize('mesh', [(2, 2, 2), (1, 8, 1)], ids=str)
def test_any_mesh_gives_the_same_gradient(mesh):
    params = params_of(LATENT)
    rng = np.random.default_rng(3)
    items = [Item(rng.integers(3, 61, 4), rng.integers(3, 61, 12), 1 / 96, g // 2) for g in range(16)]

    def gradients(shape):
        mesh = sharding.make_mesh(MeshConfig(*shape))
        tx = optim.transform(OptimConfig(1e-3))
        with jax.set_mesh(mesh):
            here = jax.device_put(params, compiled.shardings(LATENT, tx, mesh).params)
            batch = compiled.place(pack(items, 32, 8, 16)[0], mesh)
            run = jax.jit(lambda p, b: compiled.gradients(LATENT, GRPO(beta=0.0), p, b, 1, 1.0, True))
            return jax.tree.map(np.asarray, run(here, batch))

    one, many = gradients((1, 1, 1)), gradients(mesh)
    np.testing.assert_array_equal(one[1]['load'], many[1]['load'])
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one[3]), jax.tree.leaves(many[3]), strict=True):
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(a), path


@pytest.mark.slow
def test_a_stage_with_experts_runs_and_resumes_with_its_routes(tmp_path):
    """Several updates a rollout, the reference and dynamic sampling; the second run begins in the middle of a rollout."""
    recipe = smallest.recipe()
    zero = dataclasses.replace(
        recipe.stages[1], steps=3, start='init', evals=(), phases=(), checkpoint_every=1, rows=RowConfig(64, 8)
    )
    moe = MoE(4, 2, 16, router_bias='balance')
    recipe = dataclasses.replace(recipe, model=dataclasses.replace(smallest.MODEL, moe=moe), stages=(zero,))
    stage.run(recipe, tmp_path)
    lines = timeless(tmp_path)
    assert len(lines) == 3 and all(line['router/overload'] >= 0 for line in lines)
    assert lines[0]['policy/sampler_gap_max'] < 1e-4
    shutil.rmtree(tmp_path / 'checkpoints' / 'zero' / '3')
    (tmp_path / 'checkpoints' / 'zero' / 'done.json').unlink()
    stage.run(recipe, tmp_path)
    assert timeless(tmp_path) == lines


def timeless(workdir):
    """The metrics, times apart."""
    drop = ('seconds', 'tokens_per_second')
    lines = read(str(workdir / 'metrics.jsonl'))
    return [{k: v for k, v in line.items() if k not in drop and not k.startswith('time/')} for line in lines]
