"""The key/value cache of decoding: one prompt a question, one suffix a sample.

The prompt's keys are computed once a question and read by its G samples; each sample appends its own. All rows decode in lockstep:
entry t of every suffix is response token t. (Rows that come and go have another: `r1jax.nn.slots`. The model reads either through
`Cached`.)

Axes: L layers of a stack (no axis where layers are not stacked, as in decoding), Q questions, B rows (Q·G, question-major, while no
row has left), P prompt tokens, S suffix entries, N query heads, K key/value heads, H head dim, V value dim.

Multi-head latent attention (`r1jax.nn.mla`) keeps a token's rotary key and latent in the places of key and value, with K = 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from r1jax.nn.attention import merge

KV = tuple[jax.Array, jax.Array]  # keys, values
Like = jax.Array | jax.ShapeDtypeStruct  # an array, or the shape of one

_LEAST = 64  # entries of a suffix that are read at least


class Cached(Protocol):
    """What a decoding pass asks of a cache, whatever its layout."""

    def layer(self, i: int) -> Any:
        """What layer (or stack) i holds, a tree."""

    def attend(self, attend: Callable, q: Any, k: jax.Array, v: jax.Array, old: Any) -> tuple[jax.Array, Any]:
        """One new token a row, written to what its layer holds and reading all that its row sees, itself included.

        attend(q, k, v, mask) -> (out, logsumexp) as `r1jax.nn.attention.attend`, of q, an array [B,N,1,·] or several; k [B,K,H,1] and
        v [B,K,1,V] of the new token; `old`: what the layer holds. Returns out f32[B,1,N,V] and what it holds then.
        """

    def grown(self, layers: tuple) -> Any:
        """The cache with a token more, given what `attend` returned of each layer."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    prefix: tuple[KV, ...]  # keys [L,Q,K,H,P] and values [L,Q,K,P,V] of each stack
    prefix_length: jax.Array  # i32[Q]
    suffix: tuple[KV, ...]  # keys [L,B,K,H,S] and values [L,B,K,S,V] of each stack
    filled: jax.Array  # i32[], entries of every suffix that hold keys

    def layer(self, i: int) -> tuple[KV, KV]:
        return self.prefix[i], self.suffix[i]

    def attend(self, attend: Callable, q: Any, k: jax.Array, v: jax.Array, old: tuple[KV, KV]) -> tuple[jax.Array, KV]:
        """`Cached.attend`: the question's prompt, shared by its G rows, merged with the row's own suffix."""
        (pk, pv), (sk, sv) = old
        B, N = jax.tree.leaves(q)[0].shape[:2]
        Q, _, P, _ = pv.shape
        at = self.filled
        sk = jax.lax.dynamic_update_slice(sk, k, (0, 0, 0, at))
        sv = jax.lax.dynamic_update_slice(sv, v, (0, 0, at, 0))
        # the G samples are G queries of one row
        grouped = jax.tree.map(lambda a: a.reshape(Q, B // Q, N, -1).swapaxes(1, 2), q)
        known = (jnp.arange(P) < self.prefix_length[:, None])[:, None]
        out, total = attend(grouped, pk, pv, known)
        prompt = out.swapaxes(1, 2).reshape(B, N, 1, -1), total.swapaxes(1, 2).reshape(B, N, 1)
        sizes = reads(sv.shape[2])
        which = (at >= jnp.array(sizes[:-1], jnp.int32)).sum()

        def read(n):
            return lambda: attend(q, sk[..., :n], sv[:, :, :n], (jnp.arange(n) <= at)[None, None])

        own = jax.lax.switch(which, [read(n) for n in sizes])
        return merge(prompt, own)[0].swapaxes(1, 2), (sk, sv)

    def grown(self, layers: tuple[KV, ...]) -> Cache:
        return dataclasses.replace(self, suffix=layers, filled=self.filled + 1)


def by_layer(stacks: tuple[KV, ...]) -> tuple[KV, ...]:
    """Keys and values of each stack [L,…], as one pair […] a layer."""
    return tuple((k[i], v[i]) for k, v in stacks for i in range(k.shape[0]))


def with_suffix(prefix: tuple[KV, ...], prefix_length: jax.Array, samples: int, size: int) -> Cache:
    """A cache whose prompts are `prefix` and whose suffixes, `samples` a question and `size` long, are empty."""

    def empty(kv):
        k, v = kv
        *L, Q, K, H, _ = k.shape
        rows = *L, Q * samples, K
        return jnp.zeros((*rows, H, size), k.dtype), jnp.zeros((*rows, size, v.shape[-1]), v.dtype)

    return Cache(prefix, prefix_length, tuple(map(empty, prefix)), jnp.int32(0))


def take(cache: Cache, rows: jax.Array) -> Cache:
    """The cache of some rows, i32[b], each with a copy of its prompt: rows that are left do not stand in groups any more."""
    B, Q = cache.suffix[0][0].shape[-4], cache.prefix_length.shape[0]
    question = rows // (B // Q)
    prefix, suffix = (
        jax.tree.map(lambda a, at=at: jnp.take(a, at, axis=-4), part)
        for part, at in ((cache.prefix, question), (cache.suffix, rows))
    )
    return Cache(prefix, cache.prefix_length[question], suffix, cache.filled)


def reads(size: int) -> tuple[int, ...]:
    """How much of a suffix of `size` entries may be read, ascending: quadrupling, up to half of it and then all.

    A CPU copies the part that it reads, so that a smaller part is worth it only where it is much smaller.
    """
    out = [_LEAST]
    while 4 * out[-1] <= size:
        out.append(4 * out[-1])
    return (*(n for n in out if 2 * n < size), size)
