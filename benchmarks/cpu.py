"""Ratios behind two choices that r1jax makes for CPUs, measured on their own: how weights lie for few rows, and how keys lie for one
query.

    python benchmarks/cpu.py

Prints one JSON line; each figure is the time of the plain form over that of ours.
"""

import functools

import jax
import jax.numpy as jnp
from ceilings import seconds
from workload import emit

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


if __name__ == '__main__':
    ratios = {f'columns_{rows}_rows': columns(rows) for rows in (16, 32, 64, 128)}
    ratios |= {'keys': keys()}
    emit(jax=jax.__version__, **{k: round(v, 2) for k, v in ratios.items()})
