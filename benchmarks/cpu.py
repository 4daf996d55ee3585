"""Ratios behind three choices that r1jax makes for CPUs, measured on their own: how weights lie for few rows, how keys lie for one query,
and how a cache of slots lies.

    python benchmarks/cpu.py

Prints one JSON line; each figure is the time of the plain form over that of ours.
"""

import functools

import jax
import jax.numpy as jnp
from ceilings import seconds
from workload import emit

from r1jax.nn import slots
from r1jax.nn.attention import NONE, attend, merge
from r1jax.nn.layers import Columns, matmul

LAYERS = 30  # weights do not stay in a cache, as they do not in a model


def draw(i: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(i), shape)


def chain(product, x, weights):
    for up, down in weights:
        x = product(product(x, up), down) * 0.01
    return x


def columns(rows: int) -> float:
    x = draw(0, rows, 576)
    weights = [(draw(i, 576, 1536), draw(i, 1536, 576)) for i in range(LAYERS)]
    laid = [tuple(Columns.of(w, 'float32') for w in pair) for pair in weights]
    run = jax.jit(functools.partial(chain, lambda x, w: matmul(x, w, 'float32')))
    return seconds(lambda: run(x, weights)) / seconds(lambda: run(x, laid))


def keys() -> float:
    """One query a row on 64 keys, 32 rows of 9 heads on 3."""
    q, k = draw(0, 32, 3, 3, 64), draw(1, 32, 3, 64, 64)
    plain = jax.jit(lambda q, k: jnp.einsum('bkqh,bksh->bkqs', q, k))
    laid = jax.jit(lambda q, k: jnp.einsum('bkqh,bkhs->bkqs', q, k))
    return seconds(lambda: plain(q, k)) / seconds(lambda: laid(q, k))


def blocks() -> float:
    """32 slots of 320 entries, of which the longest row fills 160: slices of one long buffer a layer, over blocks where they lie."""
    S, size, C = 32, 320, slots.BLOCK
    shapes = jax.ShapeDtypeStruct((1, 3, 64, 1), 'float32'), jax.ShapeDtypeStruct((1, 3, 1, 64), 'float32')
    laid = slots.empty([shapes] * LAYERS, S, size)
    long = [(jnp.zeros((S, 3, 64, size)), jnp.zeros((S, 3, size, 64))) for _ in laid]
    q, k, v = draw(0, S, 9, 1, 64), draw(1, S, 3, 64, 1), draw(2, S, 3, 1, 64)
    length = jnp.linspace(100, 159, S).astype(jnp.int32)
    read = functools.partial(attend, dtype='float32')

    def sliced(q, k, v, old):
        keys, values = old
        row = jnp.arange(S)
        keys, values = keys.at[row, :, :, length].set(k[..., 0]), values.at[row, :, length].set(v[:, :, 0])
        out = jnp.zeros((S, 9, 1, 64)), jnp.full((S, 9, 1), NONE)
        for first in range(0, size, C):

            def block(first=first):
                seen = (jnp.arange(first, first + C) <= length[:, None])[:, None]
                return read(q, keys[..., first : first + C], values[:, :, first : first + C], seen)

            nothing = jnp.zeros_like(out[0]), jnp.full_like(out[1], NONE)
            out = merge(out, jax.lax.cond(length.max() >= first, block, lambda nothing=nothing: nothing))
        return out[0].swapaxes(1, 2), (keys, values)

    def whole(q, k, v, old):
        return slots.Slots((), length).attend(read, q, k, v, old)

    def step(layer):
        @functools.partial(jax.jit, donate_argnums=0)
        def run(cache, q):
            kept = []
            for old in cache:
                out, new = layer(q, k, v, old)
                q, kept = q + 1e-3 * out.swapaxes(1, 2), [*kept, new]
            return kept, q

        return run

    def timed(run, cache):
        held = [list(cache)]

        def once():
            held[0], out = run(held[0], q)
            return out

        return seconds(once)

    return timed(step(sliced), long) / timed(step(whole), laid)


if __name__ == '__main__':
    ratios = {f'columns_{rows}_rows': columns(rows) for rows in (16, 32, 64, 128)}
    ratios |= {'keys': keys(), 'blocks': blocks()}
    emit(jax=jax.__version__, **{k: round(v, 2) for k, v in ratios.items()})
