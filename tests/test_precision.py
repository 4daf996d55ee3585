"""bfloat16: every product takes its inputs in it and adds up in float32; weights, their gradients and the optimizer stay float32."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapters import CFG, adapters
from test_experts import LATENT
from tiny import MODEL, params_of, random_items

from r1jax import sharding
from r1jax.config import GRPO, Distil, MeshConfig, OptimConfig
from r1jax.nn import lora
from r1jax.nn.layers import matmul
from r1jax.plan import hlo
from r1jax.rl.batch import pack
from r1jax.sample import Decode, Prompts, programs, sample, sample_keys
from r1jax.train import optim
from r1jax.train import step as compiled

NARROW = dataclasses.replace(MODEL, dtype='bfloat16')
MODELS = {'dense': NARROW, 'latent, experts': dataclasses.replace(LATENT, dtype='bfloat16')}


def rounded(a):
    return np.asarray(jnp.asarray(a).astype(jnp.bfloat16), np.float64)


def test_a_product_and_its_gradients_round_their_inputs_and_nothing_else():
    rng = np.random.default_rng(0)
    x, w, g = (jnp.array(rng.normal(size=s), jnp.float32) for s in ((5, 7, 24), (24, 3, 8), (5, 7, 3, 8)))
    out, back = jax.vjp(lambda x, w: matmul(x, w, 'bfloat16'), x, w)
    dx, dw = back(g)
    want = (
        np.einsum('abi,ino->abno', rounded(x), rounded(w)),
        np.einsum('abno,ino->abi', rounded(g), rounded(w)),
        np.einsum('abi,abno->ino', rounded(x), rounded(g)),
    )
    for got, each in zip((out, dx, dw), want, strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, each, atol=1e-5 * np.abs(each).max())
        assert (
            np.abs(rounded(got) - each).max() > 1e-4 * np.abs(each).max()
        )  # rounded once more it would be this far off


def products(jaxpr):
    """Of every product in a jaxpr and all that it calls: the types of its inputs, what it contracts, and its output's type."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ('dot_general', 'ragged_dot_general'):
            a, b = (v.aval for v in eqn.invars[:2])
            yield (a.dtype.name, b.dtype.name, eqn.outvars[0].aval.dtype.name), a.shape, b.shape, eqn.params
        for value in eqn.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                if isinstance(inner, jax.extend.core.ClosedJaxpr):
                    yield from products(inner.jaxpr)
                elif isinstance(inner, jax.extend.core.Jaxpr):
                    yield from products(inner)


def assert_narrow(jaxpr, router=0):
    """Every product is bfloat16 · bfloat16 -> float32, but sums that are written as products (nothing of the second is left), and a
    router's, which are float32 on every platform.
    """
    seen = list(products(jaxpr))
    assert len(seen) > 10
    for types, a, b, params in seen:
        exact = types == ('float32',) * 3 and 'HIGHEST' in str(params['precision'])
        contracted, batched = params.get('dimension_numbers', (((), ()), ((), ())))
        if exact and (len(contracted[1]) + len(batched[1]) == len(b) or router in (*a, *b)):
            continue
        assert types == ('bfloat16', 'bfloat16', 'float32'), (types, a, b)


def packed(cfg):
    items = random_items(np.random.default_rng(5), 3, 4)
    batch, count, _ = pack(items, 64, 8, len(items))
    return batch, np.int32(count)


@pytest.mark.parametrize('kind', [*MODELS, 'adapters', 'teacher'])
def test_every_product_of_an_update_is_narrow(kind):
    cfg = MODELS.get(kind, NARROW)
    batch, count = packed(cfg)
    params, whole, teacher, loss = params_of(cfg), None, None, GRPO(beta=0.05, importance_cap=2.0)
    if kind == 'adapters':
        how = dataclasses.replace(CFG, base='int8')
        params, whole = adapters(), functools.partial(lora.attach, lora.frozen(params, how), cfg=how)
    if kind == 'teacher':
        teacher, loss = (cfg, params_of(cfg, seed=3)), Distil('teacher')

    def step(params):
        return compiled.gradients(cfg, loss, params, batch, count, 1.0, False, whole, teacher)

    router = cfg.moe.experts if cfg.moe else 0
    assert_narrow(jax.make_jaxpr(step)(params).jaxpr, router)


@pytest.mark.parametrize('name', MODELS)
def test_every_product_of_sampling_is_narrow(name):
    cfg = MODELS[name]
    prompts = Prompts(jnp.zeros((2, 6), jnp.int32), jnp.full(2, 4), jnp.arange(2))
    keys = sample_keys(0, 0, jnp.repeat(jnp.arange(2), 2), jnp.tile(jnp.arange(2), 2))
    run = functools.partial(sample, cfg=Decode(cfg, 8, (1,), 0))
    jaxpr = jax.make_jaxpr(run)(params_of(cfg), prompts, keys, jnp.full(4, 8))
    assert_narrow(jaxpr.jaxpr, cfg.moe.experts if cfg.moe else 0)


@functools.cache
def gradient(cfg):
    batch, count = packed(cfg)
    step = jax.jit(lambda p: compiled.gradients(cfg, GRPO(beta=0.05), p, batch, count, 1.0, False))
    return jax.device_get(step(params_of(cfg)))


@pytest.mark.parametrize('remat', ['none', 'dots', pytest.param('full', marks=pytest.mark.slow)])
def test_the_gradient_is_near_that_in_float32(remat):
    value, _, _, want = gradient(MODEL)
    low, _, _, got = gradient(dataclasses.replace(NARROW, remat=remat))
    assert low == pytest.approx(value, rel=0.02)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == np.float32, path
        assert np.linalg.norm(a - b) < 0.05 * np.linalg.norm(b), path
    none = gradient(NARROW)[3]
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(none), strict=True):
        assert np.linalg.norm(a - b) < 0.01 * np.linalg.norm(b)


def test_steps_below_bfloat16_s_resolution_add_up_in_the_master_weights():
    mesh, tx = sharding.make_mesh(MeshConfig()), optim.transform(OptimConfig(1e-6))
    batch, count = packed(NARROW)
    with jax.set_mesh(mesh):
        update = compiled.build_update(NARROW, GRPO(beta=0.0), tx, compiled.shardings(NARROW, tx, mesh))
        state = compiled.init_state(NARROW, tx, jax.random.key(0), mesh, params_of())
        before = np.asarray(state.params['stack_0']['gate'])
        for _ in range(4):
            args = np.int32(count), np.float32(1e-6), np.float32(1), np.bool_(False)
            state, metrics = update(state, compiled.place(batch, mesh), *args)
    assert {a.dtype.name for a in jax.tree.leaves((state.params, state.opt_state))} <= {'float32', 'int32'}
    moved = np.abs(np.asarray(state.params['stack_0']['gate']) - before)
    assert metrics['policy/skipped'] == 0 and 3e-6 < np.median(moved) < 5e-6
    assert (rounded(before) == rounded(before + np.float32(1e-6))).mean() > 0.95  # narrow, most would have stayed


# --- what XLA makes of it


def operand_types(compiled):
    """Of every `dot` in a compiled program: the types of its inputs."""
    program = hlo.Program(compiled.as_text())
    for instruction, *_ in program.walk():
        if instruction.op == 'dot':
            yield tuple(hlo.dims(program.shapes[o])[0][0] for o in instruction.operands[:2]), instruction.shape


def plain_dot():
    a = jax.ShapeDtypeStruct((64, 64), jnp.bfloat16)
    return jax.jit(functools.partial(jnp.dot, preferred_element_type=jnp.float32)).lower(a, a).compile()


def engine_s(cfg, params):
    """The program that decodes in slots."""
    table = programs.Table.empty(4, 2)
    weights = jax.eval_shape(lambda p: programs.prepared(p, cfg), params)
    entry = jax.ShapeDtypeStruct((1, cfg.kv_heads, cfg.head_dim, 8), cfg.dtype)
    kv = entry, jax.ShapeDtypeStruct((1, cfg.kv_heads, 8, cfg.head_dim), cfg.dtype)
    layers = programs.empty.eval_shape((kv,) * cfg.layers, 4, 16)
    count = jax.ShapeDtypeStruct((), jnp.int32)
    return programs.chunk.lower(weights, layers, table, count, count, Decode(cfg, 8, (1,), 0), 8).compile()


@pytest.mark.parametrize('what', ['update', 'sample', 'engine'])
def test_no_product_is_widened_where_the_compiler_has_narrow_ones(what):
    if next(operand_types(plain_dot()))[0] != ('bf16', 'bf16'):
        pytest.skip('XLA widens every bfloat16 product on this platform (CPUs before jax 0.12)')
    cfg = dataclasses.replace(NARROW, remat='dots', width=64, hidden=128, head_dim=16)
    params = jax.eval_shape(lambda: compiled.init_params(cfg, jax.random.key(0), sharding.make_mesh(MeshConfig())))
    if what == 'update':
        batch, count, _ = pack(random_items(np.random.default_rng(5), 3, 4), 12 + 2 * 24, 2, 12, 12, 24)

        def step(params):
            return compiled.gradients(cfg, GRPO(beta=0.05), params, batch, np.int32(count), 1.0, False)

        program = jax.jit(step).lower(params).compile()
    elif what == 'engine':
        program = engine_s(cfg, params)
    else:
        prompts = Prompts(jnp.zeros((2, 6), jnp.int32), jnp.full(2, 4), jnp.arange(2))
        keys = sample_keys(0, 0, jnp.repeat(jnp.arange(2), 2), jnp.tile(jnp.arange(2), 2))
        program = sample.lower(params, prompts, keys, jnp.full(4, 8), Decode(cfg, 8, (1,), 0)).compile()
    seen = list(operand_types(program))
    wide = [(types, shape) for types, shape in seen if types != ('bf16', 'bf16')]
    assert len(seen) > 10 and all(shape.split('{')[0].endswith(',1]') for _, shape in wide), (
        wide
    )  # sums, by vectors of ones
