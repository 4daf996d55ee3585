"""The update: any cut of a batch, any mesh and any remat policy give the same loss and gradients; every option changes something."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import MODEL, full_logits, packed_logprobs, params_of, random_items, row_logprobs

from r1jax import sharding
from r1jax.config import GRPO, NLL, MeshConfig, OptimConfig
from r1jax.rl.batch import Item, pack, unpack
from r1jax.train import optim
from r1jax.train import step as compiled

LOSS = GRPO(clip_low=0.2, clip_high=0.3, beta=0.05)
GROUPS, SAMPLES = 6, 4


@pytest.fixture(scope='module')
def params():
    return params_of()


@functools.cache
def items():
    """Responses whose old and reference log-probabilities lie around the policy's, some within the clip range."""
    rng = np.random.default_rng(5)
    plain = random_items(rng, GROUPS, SAMPLES)
    out = []
    for item, logp in zip(plain, packed_logprobs(MODEL, params_of(), plain, 64, 4), strict=True):
        near = {
            n: logp + rng.normal(0, 0.3, len(logp)).astype(np.float32) for n in ('old_logp', 'ref_logp', 'sampler_logp')
        }
        out.append(dataclasses.replace(item, **near))
    return out


@functools.partial(jax.jit, static_argnums=(0, 1))
def _gradients(model, loss, params, batch, count, temperature, fresh):
    return compiled.gradients(model, loss, params, batch, count, temperature, fresh)


def gradients(
    params,
    length=64,
    rows=8,
    prompts=0,
    block=0,
    *,
    mesh=(1, 1, 1),
    model=MODEL,
    loss=LOSS,
    temperature=1.0,
    fresh=False,
):
    mesh = sharding.make_mesh(MeshConfig(*mesh))
    batch, count, _ = pack(items(), length, rows, len(items()), prompts, block)
    tx = optim.transform(OptimConfig(1e-3))
    with jax.set_mesh(mesh):
        params = jax.device_put(params, compiled.shardings(model, tx, mesh).params)
        out = _gradients(
            model, loss, params, compiled.place(batch, mesh), np.int32(count), np.float32(temperature), np.bool_(fresh)
        )
    return jax.tree.map(np.asarray, out)


def assert_same(a, b, tolerance=1e-5):
    assert abs(a[0] - b[0]) <= tolerance * max(1, abs(b[0]))
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a[3]), jax.tree.leaves(b[3]), strict=True):
        assert np.linalg.norm(x - y) <= tolerance * np.linalg.norm(y), path
    assert a[1]['tokens'] == b[1]['tokens']
    for n in b[1] | b[2]:
        np.testing.assert_allclose((a[1] | a[2])[n], (b[1] | b[2])[n], rtol=1e-4, err_msg=n)


@pytest.fixture(scope='module')
def base(params):
    return gradients(params)


@pytest.mark.parametrize(
    'cut',  # length, rows[, prompts, block]
    [(64, 1), (64, 2), (28, 8), (96, 24), (84, 2, 0, 28), (72, 2, 12, 20), (40, 8, 20)],
)
def test_any_cut_of_a_batch_gives_the_same_gradient(params, base, cut):
    assert_same(gradients(params, *cut), base)


# Devices along data, fsdp, tensor, expert and sequence
@pytest.mark.parametrize(
    'mesh',
    [
        (2, 2, 2),
        (1, 1, 2, 2, 2),
        (1, 2, 1, 1, 4),
        *(pytest.param(mesh, marks=pytest.mark.slow) for mesh in ((8, 1, 1), (1, 4, 2), (1, 8, 1))),
    ],
)
@pytest.mark.parametrize('cut', [pytest.param((64, 8), marks=pytest.mark.slow), (72, 8, 12, 20)])
def test_any_mesh_gives_the_same_gradient(params, base, mesh, cut):
    assert_same(gradients(params, *cut, mesh=mesh), base)


def test_weights_and_moments_are_split_over_the_mesh():
    mesh = sharding.make_mesh(MeshConfig(1, 4, 2))
    with jax.set_mesh(mesh):
        state = compiled.init_state(MODEL, optim.transform(OptimConfig(1e-3)), jax.random.key(0), mesh)
    gate = state.params['stack_0']['gate']
    assert gate.addressable_shards[0].data.size == gate.size // 8
    moments = [a for a in jax.tree.leaves(state.opt_state) if a.shape == gate.shape]
    assert len(moments) == 4 and all(m.sharding == gate.sharding for m in moments)  # gate's and up's


@pytest.mark.parametrize(('fsdp', 'tensor'), [(1, 1), (4, 2)])
def test_initial_parameters_do_not_depend_on_the_mesh(fsdp, tensor):
    def norms(mesh):
        with jax.set_mesh(mesh):
            state = compiled.init_state(MODEL, optim.transform(OptimConfig(1e-3)), jax.random.key(0), mesh)
        return [np.asarray(a) for a in jax.tree.leaves(state.params)]

    for a, b in zip(
        norms(sharding.make_mesh(MeshConfig())), norms(sharding.make_mesh(MeshConfig(1, fsdp, tensor))), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_the_gradient_is_that_of_plain_rows(params, base):
    """Packing, sharing, chunks and microbatches against the definition, one row a response."""
    longest = max(len(i.prompt) + len(i.response) for i in items())
    rows = np.zeros((len(items()), longest), np.int32)
    for row, i in zip(rows, items(), strict=True):
        row[: len(i.prompt) + len(i.response)] = [*i.prompt, *i.response]

    def loss(params):
        logits = jax.nn.log_softmax(full_logits(MODEL, params, jnp.array(rows)))
        total = 0.0
        for b, i in enumerate(items()):
            P, N = len(i.prompt), len(i.response)
            logp = logits[b, np.arange(P - 1, P + N - 1), i.response]
            ratio = jnp.exp(logp - i.old_logp)
            gain = jnp.minimum(ratio * i.advantage, jnp.clip(ratio, 0.8, 1.3) * i.advantage)
            x = i.ref_logp - logp
            total -= i.weight * jnp.sum(gain - 0.05 * (jnp.exp(x) - x - 1))
        return total

    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(base[0], value, rtol=1e-4)
    for a, b in zip(jax.tree.leaves(base[3]), jax.tree.leaves(grads), strict=True):
        assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(b)


@pytest.mark.slow
@pytest.mark.parametrize(
    'change',
    [
        {'clip_low': 0.05},
        {'clip_high': 0.05},
        {'beta': 0.5},
        {'beta': 0.0},
        {'kl': 'k1'},
        {'kl': 'k2'},
        {'importance_cap': 1.5},
    ],
    ids=str,
)
def test_every_option_of_the_loss_changes_the_gradient(params, base, change):
    other = gradients(params, loss=dataclasses.replace(LOSS, **change))
    assert any(
        np.linalg.norm(a - b) > 1e-3 * np.linalg.norm(b)
        for a, b in zip(*map(jax.tree.leaves, (other[3], base[3])), strict=True)
    )


def test_temperature_and_freshness_change_the_gradient(params, base):
    for other in (gradients(params, temperature=0.7), gradients(params, fresh=True)):
        assert abs(other[0] - base[0]) > 1e-3


def test_fresh_takes_old_logp_from_the_forward_pass(params):
    """On a fresh rollout the ratio is 1: nothing is clipped, and the gradient is that of −Σ w·A·log π."""
    loss = dataclasses.replace(LOSS, beta=0.0)
    got = gradients(params, loss=loss, fresh=True)
    assert got[1]['policy/clip_fraction'] == 0
    np.testing.assert_allclose(got[0], -sum(i.weight * i.advantage * len(i.response) for i in items()), rtol=1e-4)
    plain = gradients(params, loss=NLL())
    assert plain[1].keys() == {'tokens'}


def test_logprobs_of_a_packed_batch(params):
    batch, count, places = pack(items(), 64, 4, len(items()))
    out = compiled.logprobs(MODEL, params, batch, np.int32(count), np.float32(0.7))
    for item, got in list(zip(items(), unpack(np.asarray(out), items(), places), strict=True))[::5]:
        np.testing.assert_allclose(got, row_logprobs(MODEL, params, item.prompt, item.response, 0.7), atol=2e-5)


def test_batches_of_any_length_run_one_program(params):
    rng, sizes = np.random.default_rng(0), set()
    for _ in range(20):
        some = [Item(i.prompt, i.response[: rng.integers(1, 20)], i.weight, i.group) for i in items()]
        batch, count, _ = pack(some, 72, 2, len(some), 12, 20)
        compiled.logprobs(MODEL, params, batch, np.int32(count), np.float32(1))
        sizes.add(compiled.logprobs._cache_size())
    assert len(sizes) == 1


# --- the optimizer step


def updated(change=None, steps=1, poison=False, cfg=None, count=None, rate=1e-2):
    mesh = sharding.make_mesh(MeshConfig())
    cfg = cfg or OptimConfig(1e-2)
    tx = optim.transform(cfg)
    batch, used, _ = pack(items(), 64, 8, len(items()))
    if poison:
        batch.advantage[0, 0] = np.nan
    with jax.set_mesh(mesh):
        update = compiled.build_update(MODEL, LOSS, tx, compiled.shardings(MODEL, tx, mesh))
        state = compiled.init_state(MODEL, tx, jax.random.key(0), mesh, params_of())
        for _ in range(steps):
            state, metrics = update(
                state,
                compiled.place(batch, mesh),
                np.int32(used if count is None else count),
                np.float32(rate),
                np.float32(1),
                np.bool_(False),
            )
    return state, jax.device_get(metrics)


def test_update_moves_parameters_and_lowers_the_loss():
    state, first = updated()
    assert state.step == 1 and first['policy/skipped'] == 0 and first['grad_norm'] > 0
    assert first['tokens'] == sum(len(i.response) for i in items())
    _, later = updated(steps=8, rate=1e-3)
    assert later['loss'] < first['loss']


@pytest.mark.parametrize('how', [{'poison': True}, {'count': 0}], ids=['not finite', 'empty'])
def test_a_bad_step_is_skipped_and_counted(how):
    state, metrics = updated(**how)
    assert metrics['policy/skipped'] == 1 and state.step == 1
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(params_of()), strict=True):
        np.testing.assert_array_equal(a, b)
    assert all((np.asarray(a) == 0).all() for a in jax.tree.leaves(state.opt_state))


@pytest.mark.slow
@pytest.mark.parametrize(
    'change',
    [
        {'b1': 0.5},
        {'b2': 0.5},
        {'eps': 0.1},
        {'weight_decay': 0.5},
        {'clip_norm': 1e-3, 'eps': 1e-3},
        {'clip_norm': 0.0, 'eps': 1e-3},
    ],
    ids=str,
)
def test_every_option_of_the_optimizer_changes_the_update(change):
    plain = OptimConfig(1e-2, eps=change['eps'] if 'clip_norm' in change else 1e-8)
    base, _ = updated(cfg=plain, steps=2)
    other, _ = updated(cfg=dataclasses.replace(plain, **change), steps=2)
    moved = [
        np.linalg.norm(a - b) for a, b in zip(jax.tree.leaves(base.params), jax.tree.leaves(other.params), strict=True)
    ]
    assert max(moved) > 1e-4


def test_matrices_are_decayed_and_norms_are_not():
    base, _ = updated()
    other, _ = updated(cfg=OptimConfig(1e-2, weight_decay=0.5))
    np.testing.assert_array_equal(other.params['norm'], base.params['norm'])
    want = base.params['embed'] - 1e-2 * 0.5 * params_of()['embed']
    np.testing.assert_allclose(other.params['embed'], want, rtol=1e-5, atol=1e-7)


def test_learning_rate_by_hand():
    cfg = OptimConfig(1.0, warmup=4, schedule='cosine', final=0.1)
    rates = [optim.learning_rate(cfg, 1.0, s, 15) for s in range(15)]
    np.testing.assert_allclose(rates[:5], [0.25, 0.5, 0.75, 1.0, 1.0])
    np.testing.assert_allclose([rates[9], rates[14]], [0.55, 0.1])
    assert all(optim.learning_rate(OptimConfig(1.0), 0.5, s, 15) == 0.5 for s in range(15))


def test_constrain_raises_on_an_unknown_axis():
    with pytest.raises(ValueError, match="'bach'"):
        sharding.constrain(jnp.zeros((2, 2)), 'bach', None)
    with pytest.raises(ValueError, match='needs 16 devices'):
        sharding.make_mesh(MeshConfig(16))
