"""Adapters: the base as it was, gradients of a matrix's two factors, merged weights."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapters import CFG, ROWS, TARGETS, adapters, base, distance, logits
from tiny import MODEL, full_logits, random_items

from r1jax import sharding
from r1jax.config import GRPO, LoRA, MeshConfig, ModelConfig, OptimConfig
from r1jax.nn import lora
from r1jax.nn.layers import Int8, matmul
from r1jax.nn.transformer import unbox
from r1jax.rl.batch import pack
from r1jax.sample.sampler import Decode, Prompts, sample, sample_keys
from r1jax.train import optim
from r1jax.train import step as compiled

QWEN = ModelConfig(151936, 28, 1536, 12, 2, 128, 8960, 4096, qkv_bias=True)  # Qwen2.5-1.5B


# --- what is trained


@pytest.mark.parametrize(('rank', 'targets'), [(8, TARGETS), (32, ('q', 'v')), (16, ('o', 'down'))], ids=str)
def test_bytes_of_adapters_and_optimizer_are_as_computed(rank, targets):
    """r·(in + out) parameters a matrix, and Adam's two moments of each; of a 1.5B model, never allocated."""
    D, F, N, K = QWEN.width, QWEN.hidden, QWEN.heads * QWEN.head_dim, QWEN.kv_heads * QWEN.head_dim
    sides = {'q': (D, N), 'k': (D, K), 'v': (D, K), 'o': (N, D), 'gate': (D, F), 'up': (D, F), 'down': (F, D)}
    expected = QWEN.layers * sum(rank * sum(sides[t]) for t in targets)
    mesh = sharding.make_mesh(MeshConfig())
    cfg = LoRA(rank, 16.0, targets)
    state = compiled.described(QWEN, optim.transform(OptimConfig(1e-4, weight_decay=0.1)), mesh, cfg)
    assert sum(math.prod(a.shape) for a in jax.tree.leaves(state.params)) == expected

    def size(tree):
        return sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(tree))

    assert size(state.params) == 4 * expected
    assert size(state.opt_state) == 8 * expected + 4  # and Adam's count of steps
    if rank == 8:
        assert expected == 9_232_384


def test_new_adapters_are_the_base_and_a_is_of_unit_size():
    new = unbox(lora.init_boxed(MODEL, dataclasses.replace(CFG, rank=16), jax.random.key(1)))
    want = full_logits(MODEL, base(), ROWS)
    np.testing.assert_array_equal(logits(new), want)
    np.testing.assert_array_equal(logits(None), want)
    for targets in new.values():
        for name, pair in targets.items():
            size = 32 if name != 'down' else 48
            assert float(pair['a'].std()) * size**0.5 == pytest.approx(1, abs=0.1), name
            assert not pair['b'].any()
    a = [pair['a'] for pair in new['stack_0'].values()]
    assert not np.array_equal(a[0], a[1])  # q and k: a key each


@pytest.mark.slow
def test_every_option_changes_the_logits():
    plain = logits(adapters())
    assert distance(logits(adapters(), dataclasses.replace(CFG, alpha=4.0)), plain) > 1e-3
    for kind in ('bfloat16', 'int8'):
        assert 1e-5 < distance(logits(adapters(), dataclasses.replace(CFG, base=kind)), plain) < 0.1, kind
    for target in TARGETS:
        one = dataclasses.replace(CFG, targets=(target,))
        changed = logits({'stack_0': {target: adapters()['stack_0'][target]}}, one)
        assert distance(changed, logits(None)) > 1e-3, target


@pytest.mark.parametrize('kind', ['float32', 'bfloat16', 'int8'])
def test_merged_weights_give_the_same_logits(kind):
    cfg = dataclasses.replace(CFG, base=kind)
    whole = lora.attach(lora.frozen(base(), cfg), adapters(), cfg)
    merged = compiled.merge(lora.frozen(jax.tree.map(jnp.copy, base()), cfg), adapters(), cfg)
    assert jax.tree.structure(merged) == jax.tree.structure(base())
    assert all(a.dtype == jnp.float32 for a in jax.tree.leaves(merged))
    assert distance(full_logits(MODEL, merged, ROWS), full_logits(MODEL, whole, ROWS)) < 1e-5
    q, pair = merged['stack_0']['q'][1], adapters()['stack_0']['q']
    added = 2.0 * np.einsum('dr,rnh->dnh', pair['a'][1], pair['b'][1])
    want = np.asarray(lora.merged(lora.frozen(base(), cfg))['stack_0']['q'][1], np.float32) + added
    np.testing.assert_allclose(q, want, atol=1e-6)


@pytest.mark.parametrize('contract', [1, 2])
def test_int8_rounds_each_column_by_its_own_scale(contract):
    """Symmetric, so that no entry is further from its weight than half a step, the column's largest / 127 / 2."""
    rng = np.random.default_rng(0)
    w = jnp.array(rng.normal(size=(3, 6, 4, 5)) * np.exp(rng.normal(size=5)), jnp.float32).at[..., 0].set(0)
    held = Int8.of(w, contract, lead=1)
    inside = tuple(range(1, 1 + contract))
    step = jnp.abs(w).max(inside, keepdims=True) / 127
    assert held.values.dtype == jnp.int8 and held.scale.size == w.size // math.prod(w.shape[1 : 1 + contract])
    assert (jnp.abs(held.plain() - w) <= step / 2 + 1e-7).all() and not held.plain()[..., 0].any()
    x = jnp.array(rng.normal(size=(2, *w.shape[1 : 1 + contract])), jnp.float32)
    one = jax.tree.map(lambda a: a[1], held)
    got, want = matmul(x, one, 'float32', contract), jnp.tensordot(x, held.plain()[1], contract)
    np.testing.assert_allclose(got, want, atol=1e-5)


# --- sampling


@pytest.mark.parametrize(
    ('mesh', 'kind'),
    [
        ((1, 1, 1), 'float32'),
        pytest.param((1, 1, 1), 'int8', marks=pytest.mark.slow),
        pytest.param((2, 2, 2), 'float32', marks=pytest.mark.slow),
        pytest.param((2, 2, 2), 'int8', marks=pytest.mark.slow),
    ],
)
def test_sampling_is_that_of_the_merged_weights(mesh, kind):
    cfg = dataclasses.replace(CFG, base=kind)
    whole = lora.attach(lora.frozen(base(), cfg), adapters(), cfg)
    rng = np.random.default_rng(0)
    prompts = Prompts(rng.integers(3, 60, (4, 6)).astype(np.int32), np.array([6, 3, 5, 1]), np.arange(4))
    keys = sample_keys(0, 0, jnp.repeat(jnp.arange(4), 4), jnp.tile(jnp.arange(4), 4))
    decode = Decode(MODEL, 8, (1,), 0)
    with jax.set_mesh(sharding.make_mesh(MeshConfig(*mesh))):
        a, b, off = (sample(p, prompts, keys, jnp.full(16, 8), decode) for p in (whole, lora.merged(whole), base()))
    np.testing.assert_array_equal(a.tokens, b.tokens)
    np.testing.assert_allclose(a.logp, b.logp, atol=1e-5)
    assert np.any(a.tokens != off.tokens)
    want = jax.nn.log_softmax(full_logits(MODEL, whole, a.tokens))  # the pass that the update makes
    want = np.take_along_axis(np.asarray(want)[:, :-1], np.asarray(a.tokens)[:, 1:, None], 2)[..., 0]
    on = np.asarray(a.sampled)[:, 1:]
    np.testing.assert_allclose(np.asarray(a.logp)[:, 1:][on], want[on], atol=1e-4)


# --- gradients


@functools.partial(jax.jit, static_argnums=(0, 1))
def _gradients(model, cfg, base, params, batch, count):
    whole = cfg and functools.partial(lora.attach, base, cfg=cfg)
    return compiled.gradients(model, GRPO(beta=0.05), params, batch, count, 1.0, False, whole)


def gradients(cfg, frozen, params, mesh=(1, 1, 1), model=MODEL):
    mesh = sharding.make_mesh(MeshConfig(*mesh))
    items = random_items(np.random.default_rng(5), 6, 4)
    batch, count, _ = pack(items, 64, 8, len(items))
    with jax.set_mesh(mesh):
        params = jax.device_put(params, compiled.weight_shardings(model, mesh, cfg))
        frozen = frozen and jax.device_put(frozen, compiled.weight_shardings(model, mesh))
        return jax.device_get(_gradients(model, cfg, frozen, params, compiled.place(batch, mesh), np.int32(count)))


@pytest.fixture(scope='module')
def by_adapters():
    return gradients(CFG, base(), adapters())


def test_the_gradient_is_that_of_the_factors_and_of_nothing_else(by_adapters):
    """With W' = W + s·A·B: dA = s·dW'·Bᵀ and dB = s·Aᵀ·dW', where dW' is the gradient of the merged weights."""
    value, _, _, got = by_adapters
    assert jax.tree.structure(got) == jax.tree.structure(adapters())
    plain_value, _, _, want = gradients(None, None, lora.merged(lora.attach(base(), adapters(), CFG)))
    assert value == pytest.approx(plain_value, rel=1e-4)
    for target, pair in adapters()['stack_0'].items():
        a, b = np.asarray(pair['a']), np.asarray(pair['b'])
        L, r = a.shape[0], a.shape[-1]
        a, b = a.reshape(L, -1, r), b.reshape(L, r, -1)
        dw = want['stack_0'][target].reshape(L, a.shape[1], b.shape[2])
        by_hand = {'a': 2.0 * np.einsum('lio,lro->lir', dw, b), 'b': 2.0 * np.einsum('lir,lio->lro', a, dw)}
        for n in 'ab':
            assert distance(got['stack_0'][target][n].reshape(by_hand[n].shape), by_hand[n]) < 1e-4, (target, n)


@pytest.mark.parametrize(
    'mesh', [*(pytest.param(m, marks=pytest.mark.slow) for m in ((8, 1, 1), (1, 8, 1))), (2, 2, 2)]
)
def test_any_mesh_gives_the_same_gradient(by_adapters, mesh):
    other = gradients(CFG, base(), adapters(), mesh)
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(other[3]), jax.tree.leaves(by_adapters[3]), strict=True
    ):
        assert distance(x, y) < 1e-4, path


@pytest.mark.slow
def test_rematerialisation_keeps_the_gradient(by_adapters):
    for remat in ('dots', 'full'):
        other = gradients(CFG, base(), adapters(), model=dataclasses.replace(MODEL, remat=remat))
        for x, y in zip(jax.tree.leaves(other[3]), jax.tree.leaves(by_adapters[3]), strict=True):
            assert distance(x, y) < 1e-5


def test_adapters_are_split_like_the_weights_beside_them():
    mesh = sharding.make_mesh(MeshConfig(1, 4, 2))
    with jax.set_mesh(mesh):
        where = compiled.shardings(MODEL, optim.transform(OptimConfig(1e-3)), mesh, CFG)
    names = {t: [tuple(where.params['stack_0'][t][n].spec) for n in 'ab'] for t in ('q', 'o', 'down')}
    assert names == {
        'q': [(None, 'fsdp', None), (None, None, 'tensor', None)],
        'o': [(None, 'tensor', None, None), (None, None, 'fsdp')],
        'down': [(None, 'tensor', None), (None, None, 'fsdp')],
    }
    assert [s.spec for s in jax.tree.leaves(where.opt_state)][1] == where.params['stack_0']['down']['a'].spec


@pytest.mark.parametrize(
    'kind', ['float32', 'int8']
)  # XLA for CPUs widens all of a bfloat16 stack before it takes a layer of it
def test_an_update_holds_no_second_base(kind):
    """Compiled for a model whose matrices are most of it: what a step needs besides its inputs is less than half of it."""
    model = dataclasses.replace(MODEL, layers=8, width=128, hidden=512, remat='full')
    cfg, tx, mesh = (
        dataclasses.replace(CFG, base=kind),
        optim.transform(OptimConfig(1e-3)),
        sharding.make_mesh(MeshConfig()),
    )
    items = [dataclasses.replace(i, response=i.response[:4]) for i in random_items(np.random.default_rng(5), 1, 4)]
    items = [
        dataclasses.replace(i, **{n: getattr(i, n)[:4] for n in ('old_logp', 'ref_logp', 'sampler_logp')})
        for i in items
    ]
    batch, _, _ = pack(items, 32, 1, len(items))
    with jax.set_mesh(mesh):
        state = compiled.described(model, tx, mesh, cfg)
        frozen = jax.eval_shape(functools.partial(lora.frozen, cfg=cfg), compiled.described_params(model, mesh))
        update = compiled.build_update(model, GRPO(), tx, compiled.shardings(model, tx, mesh, cfg), cfg)
        scalars = np.int32(1), np.float32(1), np.float32(1), np.bool_(True)
        memory = update.lower(state, batch, *scalars, frozen).compile().memory_analysis()

    def size(tree):
        return sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(tree))

    everything = size(compiled.described_params(model, mesh))
    assert memory.argument_size_in_bytes > size(frozen) > everything / 5
    assert memory.output_size_in_bytes < size(state) + 4096 < size(frozen)  # the state and the metrics
    assert memory.temp_size_in_bytes < everything / 2  # not a float32 base, of which an eighth is used at once
