"""Kernels for packed rows against XLA's attention: outputs and gradients, on meshes, and which of them serves what."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import MODEL, params_of

from r1jax import sharding
from r1jax.config import MeshConfig
from r1jax.nn import flash
from r1jax.nn.attention import Rows, attend_rows
from r1jax.nn.transformer import forward
from r1jax.rl.batch import Item, pack

# Rows of two blocks of 128: prompts set apart, responses behind their prompt in a block (several, and one each), and both
APART, TOGETHER = 128, 0


def rows_of(prompts, groups, length=None):
    """A packed row of some (group, prompt tokens, response tokens)."""
    items = [Item(np.arange(p, dtype=np.int32), np.arange(n, dtype=np.int32), 1.0, g) for g, p, n in groups]
    batch, _, _ = pack(items, length or prompts + 256, 1, len(items), prompts, 128)
    return batch


CASES = {
    'apart': (APART, [(0, 30, 90), (0, 30, 20), (1, 50, 60), (1, 50, 100)]),
    'together': (TOGETHER, [(0, 20, 30), (0, 20, 25), (0, 20, 40), (1, 10, 60), (-1, 5, 50)]),
    'single': (TOGETHER, [(-1, 20, 30), (-1, 1, 70), (-1, 40, 88)]),
    'both': (APART, [(0, 30, 60), (0, 30, 50), (-1, 20, 60), (-1, 9, 40)]),
}


def inputs(batch, heads=4, kv_heads=2, head=16, value=16):
    rng = np.random.default_rng(0)
    B, T = batch.tokens.shape[1:]
    shapes = (B, T, heads, head), (B, T, kv_heads, head), (B, T, kv_heads, value), (B, T, heads, value)
    return [jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes]


def value_and_gradient(attend, q, k, v, g, segment, parent, prompts, dtype='float32'):
    def loss(q, k, v):
        out = attend(q, k, v, Rows.create(segment, parent, prompts, 128), dtype)
        return jnp.vdot(out, g), out

    (_, out), gradients = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(q, k, v)
    return out, *gradients


interpreted = functools.partial(flash.splash, interpret=True)
arranged = functools.partial(flash.cudnn, implementation='xla')  # what cuDNN is asked, computed by XLA


@pytest.mark.parametrize('kernel', [interpreted, arranged], ids=['splash', 'cudnn'])
@pytest.mark.parametrize('case', CASES)
def test_kernels_give_the_function_and_the_gradient_of_attend_rows(kernel, case):
    prompts, groups = CASES[case]
    batch = rows_of(prompts, groups)
    run = jax.jit(value_and_gradient, static_argnums=(0, 7))
    given = *inputs(batch), batch.segment[0], batch.parent[0], prompts
    for got, want in zip(run(kernel, *given), run(attend_rows, *given), strict=True):
        assert jnp.linalg.norm(got - want) < 1e-5 * jnp.linalg.norm(want)
    out = run(kernel, *given)[0]
    assert not out[batch.segment[0] < 0].any()  # padding reads nothing


@pytest.mark.slow
def test_splash_in_bfloat16_with_values_narrower_than_keys():
    prompts, groups = CASES['apart']
    batch = rows_of(prompts, groups)
    given = *inputs(batch, kv_heads=4, head=24, value=16), batch.segment[0], batch.parent[0], prompts
    run = jax.jit(value_and_gradient, static_argnums=(0, 7, 8))
    for got, want in zip(run(interpreted, *given, 'bfloat16'), run(attend_rows, *given, 'float32'), strict=True):
        assert jnp.linalg.norm(got - want) < 2e-2 * jnp.linalg.norm(want)


@pytest.mark.parametrize('kernel', [interpreted, arranged], ids=['splash', 'cudnn'])
def test_kernels_on_a_mesh(kernel):
    """Rows over data × fsdp, heads over tensor; each device decides for itself whether a block has siblings."""
    each = [rows_of(*CASES[c], length=384) for c in ('apart', 'both', 'apart', 'both')]
    segment, parent = (jnp.concatenate([getattr(b, n)[0] for b in each]) for n in ('segment', 'parent'))
    q, k, v, g = (jnp.concatenate([a] * 4) for a in inputs(each[0]))
    given = q, k, v, g, segment, parent, APART
    run = jax.jit(value_and_gradient, static_argnums=(0, 7))
    want = run(attend_rows, *given)
    with jax.set_mesh(sharding.make_mesh(MeshConfig(2, 2, 2))):
        got = run(kernel, *given)
    for a, b in zip(got, want, strict=True):
        assert jnp.linalg.norm(a - np.asarray(b)) < 1e-5 * jnp.linalg.norm(b)


@pytest.mark.slow
@pytest.mark.parametrize('remat', [pytest.param('none', marks=pytest.mark.slow), 'dots'])
def test_a_model_by_kernels(remat, monkeypatch):
    """Through `forward`, scanned and rematerialised, as where the platform is a TPU."""
    batch = rows_of(*CASES['apart'])
    cfg = dataclasses.replace(MODEL, remat=remat, context=512)

    @functools.partial(jax.jit, static_argnums=0)
    def gradient(cfg, params):
        def loss(params):
            ids = (getattr(batch, n)[0] for n in ('tokens', 'position', 'segment', 'parent'))
            hidden, _, _ = forward(cfg, params, *ids, prompts=batch.prompts, block=batch.block)
            return jnp.where(batch.segment[0] >= 0, hidden.sum(-1) ** 2, 0).mean()

        return jax.value_and_grad(loss)(params)

    params = params_of(cfg)
    want = gradient(dataclasses.replace(cfg, attention='xla'), params)
    monkeypatch.setattr(sharding, 'platform', lambda: 'tpu')
    monkeypatch.setattr(flash, 'splash', interpreted)
    got = gradient(cfg, params)
    assert 'splash' in str(jax.make_jaxpr(gradient, static_argnums=0)(cfg, params))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert jnp.linalg.norm(a - b) <= 1e-4 * jnp.linalg.norm(b)


SERVED = [
    # platform, heads, key/value heads, head, value, prompts, block, dtype; which
    ('cpu', 4, 2, 64, 64, 128, 128, 'bfloat16', None),
    ('tpu', 4, 2, 64, 64, 128, 256, 'bfloat16', 'splash'),
    ('tpu', 4, 2, 64, 64, 0, 256, 'float32', 'splash'),
    ('tpu', 4, 4, 192, 128, 0, 256, 'bfloat16', 'splash'),
    ('tpu', 4, 2, 64, 64, 100, 128, 'bfloat16', None),
    ('tpu', 4, 2, 64, 64, 128, 200, 'bfloat16', None),
    ('gpu', 4, 2, 64, 64, 100, 200, 'bfloat16', 'cudnn'),
    ('gpu', 4, 2, 64, 64, 100, 201, 'bfloat16', None),
    ('gpu', 4, 2, 64, 64, 100, 200, 'float32', None),
    ('gpu', 4, 2, 60, 60, 100, 200, 'bfloat16', None),
    ('gpu', 4, 4, 192, 128, 100, 200, 'bfloat16', None),
]


@pytest.mark.parametrize('case', SERVED, ids=str)
def test_which_kernel_serves_what(case, monkeypatch):
    platform, N, K, H, V, prompts, block, dtype, kernel = case
    monkeypatch.setattr(sharding, 'platform', lambda: platform)
    q, k, v = (jax.ShapeDtypeStruct((2, prompts + block, *s), dtype) for s in ((N, H), (K, H), (K, V)))
    served = flash.serving(q, k, v, prompts, block, dtype)
    assert served is (kernel and getattr(flash, kernel))
    with jax.set_mesh(sharding.make_mesh(MeshConfig(4))):  # two rows do not divide over four devices
        assert flash.serving(q, k, v, prompts, block, dtype) is None


def test_the_platform_is_that_of_the_mesh():
    assert sharding.platform() == 'cpu'
    with jax.set_mesh(sharding.make_mesh(MeshConfig())):
        assert jax.jit(lambda: jnp.int32(sharding.platform() == 'cpu'))() == 1


def test_what_cudnn_is_asked_lowers_for_gpus(monkeypatch):
    """As far as can be seen without one: jax takes the shapes, types and masks, forward and backward."""
    from jax._src.cudnn import fused_attention_stablehlo as stablehlo

    monkeypatch.setattr(stablehlo, 'check_cudnn_version', lambda: 91000)
    batch = rows_of(*CASES['apart'])
    given = *inputs(batch, head=64, value=64), batch.segment[0], batch.parent[0], APART, 'bfloat16'
    run = jax.jit(value_and_gradient, static_argnums=(0, 7, 8))
    text = run.trace(flash.cudnn, *given).lower(lowering_platforms=('cuda',)).as_text()
    assert text.count('__cudnn$fmhaScaleBiasSoftmax(') == text.count('__cudnn$fmhaScaleBiasSoftmaxBackward(') == 2
