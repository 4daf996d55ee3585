"""Products of rows with one matrix a group: rows sorted by group, `sizes` of them in each.

`jax.lax.ragged_dot` is that product where the platform has a kernel for it (TPU, GPU). XLA's CPU backend computes it as one dense
product for each group and all rows, E times the work, forward and backward. There a loop over blocks of rows takes its place: as many
steps as blocks hold rows, each a product with the block's own matrix. For TPUs XLA has a kernel for the product, but computes the
gradient of the matrices in that dense way; Pallas' megablox has a kernel for it. Tests compare them all.

Axes: M rows, E groups, D in, F out, N rows of a block.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from r1jax import sharding

_TILE = 512  # rows and columns that megablox takes at a time, at most


def grouped(x: jax.Array, w: jax.Array, sizes: jax.Array, dtype: str) -> jax.Array:
    """f32[M,F]: row i of x [M,D] times the matrix of its group, w [E,D,F]; sizes i32[E], rows of each group in order.

    Rows behind the last group give 0, and have gradient 0. Inputs of products in `dtype`, as in `r1jax.nn.layers.matmul`. Whole numbers
    for weights have no gradient.
    """
    return _grouped(dtype, x, w, sizes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _grouped(dtype, x, w, sizes):
    return _product(x.astype(dtype), w.astype(dtype), sizes)


def _forward(dtype, x, w, sizes):
    return _grouped(dtype, x, w, sizes), (x, w, sizes)


def _backward(dtype, kept, g):
    x, w, sizes = kept
    g = g.astype(dtype)
    dx = _product(g, w.astype(dtype).swapaxes(1, 2), sizes)
    if jnp.issubdtype(w.dtype, jnp.integer):
        return dx.astype(x.dtype), None, None
    dw = _outer(x.astype(dtype), g, sizes)
    return dx.astype(x.dtype), dw.astype(w.dtype), None


_grouped.defvjp(_forward, _backward)


def _product(x, w, sizes):
    return jax.lax.platform_dependent(x, w, sizes, cpu=product_by_blocks, default=product_by_kernel)


def _outer(x, g, sizes):
    if sharding.platform() == 'tpu':
        return outer_by_megablox(x, g, sizes)
    return jax.lax.platform_dependent(x, g, sizes, cpu=outer_by_blocks, default=outer_by_kernel)


def product_by_kernel(x: jax.Array, w: jax.Array, sizes: jax.Array) -> jax.Array:
    """f32[M,F] of x [M,D] and w [E,D,F], by the platform's grouped product."""
    out = jax.lax.ragged_dot(x, w, sizes, preferred_element_type=jnp.float32)
    return jnp.where(jnp.arange(x.shape[0])[:, None] < sizes.sum(), out, 0.0)  # kernels leave what is behind undefined


def outer_by_kernel(x: jax.Array, g: jax.Array, sizes: jax.Array) -> jax.Array:
    """f32[E,D,F]: the sum of xᵀg over each group's rows; x [M,D], g [M,F]."""
    real = jnp.arange(x.shape[0])[:, None] < sizes.sum()
    numbers = jax.lax.RaggedDotDimensionNumbers((((0,), (0,)), ((), ())), (0,), ())
    x, g = jnp.where(real, x, 0), jnp.where(real, g, 0)
    return jax.lax.ragged_dot_general(x, g, sizes, numbers, preferred_element_type=jnp.float32)


def outer_by_megablox(x: jax.Array, g: jax.Array, sizes: jax.Array, interpret: bool = False) -> jax.Array:
    """As `outer_by_kernel`, on TPUs. `interpret` runs the kernel on any platform, slowly."""
    from jax.experimental.pallas.ops.tpu.megablox.gmm import tgmm

    (M, D), F = x.shape, g.shape[1]
    rows = min(_TILE, -(-M // 128) * 128)
    x, g = (jnp.pad(a, ((0, -M % rows), (0, 0))) for a in (x, g))
    return tgmm(x.T, g, sizes, jnp.float32, (rows, min(_TILE, D), min(_TILE, F)), interpret=interpret)


def product_by_blocks(x: jax.Array, w: jax.Array, sizes: jax.Array) -> jax.Array:
    """As `product_by_kernel`. A group's last block reaches into the next one's rows, which overwrites them after it."""
    (M, D), F = x.shape, w.shape[2]
    N, steps, block = _blocks(M, sizes)
    x = jnp.pad(x, ((0, N), (0, 0)))

    def body(i, out):
        e, start, _ = block(i)
        rows = jax.lax.dynamic_slice(x, (start, 0), (N, D))
        matrix = jax.lax.dynamic_index_in_dim(w, e, 0, keepdims=False)
        y = jnp.dot(rows, matrix, preferred_element_type=jnp.float32)
        return jax.lax.dynamic_update_slice(out, y, (start, 0))

    out = jax.lax.fori_loop(0, steps, body, jnp.zeros((M + N, F), jnp.float32))[:M]
    return jnp.where(jnp.arange(M)[:, None] < sizes.sum(), out, 0.0)


def outer_by_blocks(x: jax.Array, g: jax.Array, sizes: jax.Array) -> jax.Array:
    """As `outer_by_kernel`."""
    (M, D), F = x.shape, g.shape[1]
    N, steps, block = _blocks(M, sizes)
    x, g = (jnp.pad(a, ((0, N), (0, 0))) for a in (x, g))

    def body(i, out):
        e, start, own = block(i)
        rows = jax.lax.dynamic_slice(x, (start, 0), (N, D))
        rows = jnp.where(jnp.arange(N)[:, None] < own, rows, 0)
        add = jnp.dot(rows.T, jax.lax.dynamic_slice(g, (start, 0), (N, F)), preferred_element_type=jnp.float32)
        old = jax.lax.dynamic_index_in_dim(out, e, 0, keepdims=False)
        return jax.lax.dynamic_update_index_in_dim(out, old + add, e, 0)

    return jax.lax.fori_loop(0, steps, body, jnp.zeros((sizes.shape[0], D, F), jnp.float32))


def _blocks(M, sizes):
    """Rows of a block, how many blocks hold rows, and of block i its group, its first row and how many rows are its group's."""
    E = sizes.shape[0]
    N = max(8, min(512, 1 << max(M // E - 1, 1).bit_length()))  # about a group's rows, were they even
    blocks = -(-sizes // N)
    last = jnp.cumsum(blocks)
    ends = jnp.cumsum(sizes)

    def block(i):
        e = (last <= i).sum()
        start = ends[e] - sizes[e] + (i - (last[e] - blocks[e])) * N
        return e, start, ends[e] - start

    return N, last[-1], block
