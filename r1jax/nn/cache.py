"""The key/value cache of decoding: one prompt a question, one suffix a sample.

The prompt's keys are computed once a question and read by its G samples; each sample appends its own. All rows decode in lockstep:
entry t of every suffix is response token t.

Axes: L layers of a stack, Q questions, B = Q·G rows, P prompt tokens, S suffix entries, K key/value heads, H head dim.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

KV = tuple[jax.Array, jax.Array]  # keys, values


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    prefix: tuple[KV, ...]  # a pair of [L,Q,K,P,H] a stack
    prefix_length: jax.Array  # i32[Q]
    suffix: tuple[KV, ...]  # a pair of [L,B,K,S,H] a stack
    filled: jax.Array  # i32[], entries of every suffix that hold keys
    # suffix entries attended to: at least filled + 1
    read: int = dataclasses.field(metadata={'static': True}, default=0)


def with_suffix(prefix: tuple[KV, ...], prefix_length: jax.Array, samples: int, size: int) -> Cache:
    """A cache whose prompts are `prefix` and whose suffixes, `samples` a question and `size` long, are empty."""

    def empty(x):
        L, Q, K, _, H = x.shape
        return jnp.zeros((L, Q * samples, K, size, H), x.dtype)

    return Cache(prefix, prefix_length, jax.tree.map(empty, prefix), jnp.int32(0), size)
