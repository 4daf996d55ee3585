"""Attention as a pair: what was read, and how much weight was there to read.

`attend` returns `(out, logsumexp)`, so that attention over a set of keys can be computed in parts and joined by `merge`:
a prompt shared by G samples and each sample's own suffix are two calls and one merge, in decoding and (`attend_rows`) in a
packed row.

Axes: B rows, T queries, S keys, N query heads, K key/value heads, R = N/K, H head dim. In `attend` heads stand before tokens and keys
are transposed, so that both products are plain batched matmuls, which a CPU computes faster for one query (benchmarks/cpu.py).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

_NONE = -1e30  # the logsumexp of no key at all; finite, so that differences of two stay defined


def visible(segment: jax.Array, parent: jax.Array) -> jax.Array:
    """bool[B,T,T]: which keys (last axis) a query sees: earlier ones of its segment, and all of its parent segment."""
    t = jnp.arange(segment.shape[-1])
    own = (segment[:, :, None] == segment[:, None, :]) & (t[:, None] >= t[None, :])
    shared = (parent[:, :, None] == segment[:, None, :]) & (parent[:, :, None] >= 0)
    return (own | shared) & (segment[:, :, None] >= 0)


@dataclasses.dataclass(frozen=True)
class Rows:
    """Who sees whom in packed rows of `prompts` prompt tokens and blocks of `block` tokens (see `r1jax.types.Batch`)."""

    prompts: int
    block: int
    among_prompts: jax.Array  # bool[B,P,P]
    to_prompts: jax.Array  # bool[B,T-P,P]
    in_block: jax.Array  # bool[B·blocks,block,block]

    @classmethod
    def create(cls, segment: jax.Array, parent: jax.Array, prompts: int = 0, block: int = 0) -> Rows:
        """segment, parent: i32[B,T]."""
        P, N = prompts, block or segment.shape[1] - prompts
        s, p = (a[:, P:].reshape(-1, N) for a in (segment, parent))
        to = (parent[:, P:, None] == segment[:, None, :P]) & (parent[:, P:, None] >= 0)
        return cls(P, N, visible(segment[:, :P], parent[:, :P]), to, visible(s, p))


def attend_rows(q: jax.Array, k: jax.Array, v: jax.Array, rows: Rows, dtype: str) -> jax.Array:
    """Attention within packed rows: q [B,T,N,H]; k, v [B,T,K,H]. Returns f32[B,T,N,H].

    No score is computed between two blocks, nor from a prompt to a block.
    """
    B, _, N, H = q.shape
    P, L = rows.prompts, rows.block

    def blocks(a):  # [B,T,heads,H] -> [B·blocks,L,heads,H]
        return a[:, P:].reshape(-1, L, *a.shape[2:])

    own, total = attend(*heads_first(blocks(q), blocks(k), blocks(v)), rows.in_block, dtype)
    own = own.swapaxes(1, 2).reshape(B, -1, N, H)
    if not P:
        return own
    total = total.swapaxes(1, 2).reshape(B, -1, N)
    q, k, v = heads_first(q, k[:, :P], v[:, :P])
    prompt, _ = attend(q[:, :, :P], k, v, rows.among_prompts, dtype)
    read, weight = attend(q[:, :, P:], k, v, rows.to_prompts, dtype)
    joined, _ = merge((read.swapaxes(1, 2), weight.swapaxes(1, 2)), (own, total))
    return jnp.concatenate([prompt.swapaxes(1, 2), joined], 1)


def heads_first(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """[B,T,heads,H] each -> as `attend` takes them."""
    return q.swapaxes(1, 2), k.transpose(0, 2, 3, 1), v.swapaxes(1, 2)


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, dtype: str) -> tuple[jax.Array, jax.Array]:
    """softmax(q·kᵀ/√H)·v over the unmasked keys.

    q [B,N,T,H]; k [B,K,H,S]; v [B,K,S,H]; mask bool, broadcastable to [B,T,S].
    Returns out f32[B,N,T,H] and logsumexp f32[B,N,T] of the scaled scores. A query without keys gives out 0.
    """
    B, N, T, H = q.shape
    K = k.shape[1]
    q = (q * H**-0.5).astype(dtype).reshape(B, K, N // K * T, H)
    s = jnp.einsum('bkqh,bkhs->bkqs', q, k.astype(dtype), preferred_element_type=jnp.float32)
    s = s.reshape(B, N, T, -1)
    s = jnp.where(mask[:, None], s, _NONE)
    top = jax.lax.stop_gradient(s.max(-1, keepdims=True))
    e = jnp.exp(s - top)  # exactly 0 at masked keys, unless every key is masked
    some = top > _NONE / 2
    total = e.sum(-1, keepdims=True)
    e = e.astype(dtype).reshape(B, K, N // K * T, -1)
    out = jnp.einsum('bkqs,bksh->bkqh', e, v.astype(dtype), preferred_element_type=jnp.float32)
    out = jnp.where(some, out.reshape(B, N, T, H) / total, 0.0)
    return out, jnp.where(some, top + jnp.log(total), _NONE)[..., 0]


def merge(a: tuple[jax.Array, jax.Array], b: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Joins attention over two disjoint sets of keys: (out [...,H], logsumexp [...]) each."""
    (x, p), (y, q) = a, b
    top = jnp.maximum(p, q)
    u, w = jnp.exp(p - top), jnp.exp(q - top)
    return (x * u[..., None] + y * w[..., None]) / (u + w)[..., None], top + jnp.log(u + w)
