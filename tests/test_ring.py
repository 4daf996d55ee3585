"""Context parallelism: attention, log-probabilities and whole updates with the tokens of a row on several devices, against one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import sharding
from r1jax.config import MeshConfig
from r1jax.nn import attention, ring
from r1jax.nn.attention import Rows, attend_rows
from r1jax.rl.batch import Item, pack

EIGHT = MeshConfig(sequence=8)
GROUPS = [(0, 9, 11), (0, 9, 3), (1, 5, 13), (1, 5, 1), (-1, 4, 9), (2, 3, 12), (2, 3, 12)]


def rows_of(prompts, block, blocks):
    """Two packed rows or more, of prompts set apart or in their blocks, several responses after one."""
    items = [Item(np.arange(p, dtype=np.int32), np.arange(n, dtype=np.int32), 1.0, g) for g, p, n in GROUPS]
    batch, _, _ = pack(items, prompts + block * blocks, 2, 8, prompts, block)
    return (jnp.asarray(a[0]) for a in (batch.segment, batch.parent))


def inputs(T, heads=4, kv_heads=2, head=8, value=6, rows=2):
    rng = np.random.default_rng(0)
    shapes = (rows, T, heads, head), (rows, T, kv_heads, head), (rows, T, kv_heads, value), (rows, T, heads, value)
    return [jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes]


def value_and_gradient(attend, q, k, v, g, segment, parent, prompts, block):
    def loss(q, k, v):
        out = attend(q, k, v, Rows.create(segment, parent, prompts, block), 'float32')
        return jnp.vdot(out, g), out

    (_, out), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(q, k, v)
    return jax.device_get((out, *gradients))


def off(a, b):
    """‖Δ‖/‖g‖ a leaf."""
    return [np.linalg.norm(x - y) / max(np.linalg.norm(y), 1e-30) for x, y in zip(a, b, strict=True)]


@pytest.mark.parametrize(
    ('mesh', 'prompts', 'block', 'blocks'),
    [
        pytest.param(EIGHT, 16, 24, 2, marks=pytest.mark.slow),
        (EIGHT, 15, 23, 2),  # 61 tokens
        pytest.param(MeshConfig(data=2, sequence=4), 17, 22, 3, marks=pytest.mark.slow),
        (MeshConfig(fsdp=2, tensor=2, sequence=2), 14, 25, 1),
    ],
    ids=str,
)
def test_the_ring_gives_attention_and_its_gradient(mesh, prompts, block, blocks, monkeypatch):
    segment, parent = rows_of(prompts, block, blocks)
    args = (*inputs(segment.shape[1]), segment, parent, prompts, block)
    expected = value_and_gradient(attend_rows, *args)
    for chunk in (attention.CHUNK, 4) if mesh is EIGHT and block == 23 else (attention.CHUNK,):
        for module in attention, ring:
            monkeypatch.setattr(module, 'CHUNK', chunk)
        with jax.set_mesh(sharding.make_mesh(mesh)):
            got = value_and_gradient(ring.attend_ring, *args)
        assert max(off(got, expected)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(('prompts', 'block', 'blocks'), [(40, 87, 4), (0, 250, 1)])
def test_the_ring_by_splash_attention_gives_the_same(prompts, block, blocks):
    """The kernels of TPUs, interpreted: pieces that go on from one device to the next, prompts here and there, padding."""
    segment, parent = rows_of(prompts, block, blocks)
    args = (*inputs(segment.shape[1], value=8), segment, parent, prompts, block)
    expected = value_and_gradient(attend_rows, *args)
    attend = functools.partial(ring.attend_ring, kernel='splash-interpreted')
    with jax.set_mesh(sharding.make_mesh(MeshConfig(sequence=2))):
        assert max(off(value_and_gradient(attend, *args), expected)) < 1e-5


def test_what_nobody_sees_is_not_computed(monkeypatch):
    """Of one causal sequence half of all pairs of parts and the diagonal, whichever device; of rows of padding none."""
    segment = jnp.zeros((1, 32), jnp.int32)
    computed = []
    whole = ring.attention.attend_part

    def counted(q, *args):
        jax.debug.callback(lambda: computed.append(1))
        return whole(q, *args)

    monkeypatch.setattr(ring.attention, 'attend_part', counted)
    q, k, v, _ = inputs(32, rows=1)
    with jax.set_mesh(sharding.make_mesh(EIGHT)):
        for ids, parts in ((segment, 36), (segment - 1, 0), (segment + jnp.arange(32) // 4, 8)):
            computed.clear()
            rows = Rows.create(ids, jnp.full_like(ids, -1))
            jax.block_until_ready(jax.jit(lambda q, rows=rows: ring.attend_ring(q, k, v, rows, 'float32'))(q))
            jax.effects_barrier()
            assert len(computed) == parts
