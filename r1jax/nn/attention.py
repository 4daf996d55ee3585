"""Attention as a pair: what was read, and how much weight was there to read.

`attend` returns `(out, logsumexp)`, so that attention over a set of keys can be computed in parts and joined by `merge`:
a prompt shared by G samples and each sample's own suffix are two calls and one merge, in decoding and (`attend_rows`) in a
packed row. `r1jax.nn.packed` says what computes packed rows
where: `attend_rows`, a platform's kernels (`r1jax.nn.flash`), or a ring of devices (`r1jax.nn.ring`).

Axes: B rows, T queries, S keys, N query heads, K key/value heads, R = N/K, H head dim, V value dim (H but in latent
attention). In `attend` heads stand before tokens and keys
are transposed, so that both products are plain batched matmuls, which a CPU computes faster for one query (benchmarks/cpu.py).
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from r1jax.nn.layers import laid, outer

NONE = -1e30  # the logsumexp of no key at all; finite, so that differences of two stay defined
CHUNK = 1024  # queries whose scores are held at once: beyond it memory is linear in a row's length


def visible(segment: jax.Array, parent: jax.Array) -> jax.Array:
    """bool[B,T,T]: which keys (last axis) a query sees: earlier ones of its segment, and all of its parent segment."""
    t = jnp.arange(segment.shape[-1])
    own = (segment[:, :, None] == segment[:, None, :]) & (t[:, None] >= t[None, :])
    shared = (parent[:, :, None] == segment[:, None, :]) & (parent[:, :, None] >= 0)
    return (own | shared) & (segment[:, :, None] >= 0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Seen:
    """Which keys queries see, where a mask of all would be too large: `mask` forms that of some queries."""

    segment: jax.Array  # i32[B,T], of the queries
    parent: jax.Array  # i32[B,T]
    place: jax.Array  # i32[B,T], index among the keys; −1: its segment's keys are not among them
    keys: jax.Array  # i32[B,S], segment of each key

    @classmethod
    def create(cls, segment: jax.Array, parent: jax.Array, keys: jax.Array, own: bool) -> Seen:
        """`own`: the keys are the queries' own tokens; otherwise they are prompts set apart."""
        place = jnp.arange(segment.shape[1]) if own else jnp.full(segment.shape[1], -1)
        return cls(segment, parent, jnp.broadcast_to(place, segment.shape), keys)

    def mask(self) -> jax.Array:
        """bool[B,T,S]."""
        segment, parent, place = (a[:, :, None] for a in (self.segment, self.parent, self.place))
        own = (segment == self.keys[:, None, :]) & (place >= jnp.arange(self.keys.shape[1]))
        shared = (parent == self.keys[:, None, :]) & (parent >= 0)
        return (own | shared) & (segment >= 0)

    def chunks(self) -> Seen:
        """The same of each chunk of queries, [chunks,B,CHUNK], −1 behind the last; the keys' [chunks,B,S]."""
        count = -(-self.segment.shape[1] // CHUNK)
        segment, parent, place = (_chunked(a, 1, -1) for a in (self.segment, self.parent, self.place))
        return Seen(segment, parent, place, jnp.broadcast_to(self.keys, (count, *self.keys.shape)))


Mask = jax.Array | Seen  # a mask, or what forms it


def as_mask(mask: Mask) -> jax.Array:
    """bool[B,T,S]."""
    return mask.mask() if isinstance(mask, Seen) else mask


@dataclasses.dataclass(frozen=True)
class Rows:
    """Who sees whom in packed rows of `prompts` prompt tokens and blocks of `block` tokens (see `r1jax.types.Batch`)."""

    prompts: int
    block: int
    among_prompts: Mask  # bool[B,P,P]
    to_prompts: Mask  # bool[B,T-P,P]
    in_block: Mask  # bool[B·blocks,block,block]
    segment: jax.Array  # i32[B,T]
    parent: jax.Array  # i32[B,T]

    @classmethod
    def create(cls, segment: jax.Array, parent: jax.Array, prompts: int = 0, block: int = 0) -> Rows:
        """segment, parent: i32[B,T]."""
        P, N = prompts, block or segment.shape[1] - prompts
        s, p = (a[:, P:].reshape(-1, N) for a in (segment, parent))
        to: Mask
        if segment.shape[1] - P > CHUNK:
            to = Seen.create(segment[:, P:], parent[:, P:], segment[:, :P], own=False)
        else:
            to = (parent[:, P:, None] == segment[:, None, :P]) & (parent[:, P:, None] >= 0)
        among, inside = (
            Seen.create(a, b, a, own=True) if a.shape[1] > CHUNK else visible(a, b)
            for a, b in ((segment[:, :P], parent[:, :P]), (s, p))
        )
        return cls(P, N, among, to, inside, segment, parent)


def attend_rows(q: jax.Array, k: jax.Array, v: jax.Array, rows: Rows, dtype: str) -> jax.Array:
    """Attention within packed rows: q [B,T,N,H]; k [B,T,K,H]; v [B,T,K,V]. Returns f32[B,T,N,V].

    No score is computed between two blocks, nor from a prompt to a block. The gradient needs nothing of the size of the scores: they
    are computed again, and the logsumexp over all of a query's keys makes each part's weights those of the whole (FlashAttention-2,
    arXiv 2307.08691, algorithm 2). What it keeps is named 'attention', for rematerialisation policies. More than `CHUNK` queries are
    taken by chunks, one after another.
    """
    return _attend_rows(
        (rows.prompts, rows.block, dtype), q, k, v, (rows.among_prompts, rows.to_prompts, rows.in_block)
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend_rows(static, q, k, v, masks):
    return _rows_forward(static, q, k, v, masks)[0]


def _rows_forward(static, q, k, v, masks):
    P, L, dtype = static
    among, to, inside = masks
    out, total = attend_part(*heads_first(*(_blocks(a, P, L) for a in (q, k, v))), inside, dtype)
    out, total = (_rows(a.swapaxes(1, 2), q.shape[0]) for a in (out, total))
    if P:
        shared = heads_first(q, k[:, :P], v[:, :P])
        read = _read(shared, slice(P, None), to, dtype)
        prompt = _read(shared, slice(0, P), among, dtype)
        out, total = (jnp.concatenate(pair, 1) for pair in zip(prompt, merge(read, (out, total)), strict=True))
    out, total = (checkpoint_name(a, 'attention') for a in (out, total))
    return out, (q, k, v, masks, out, total)


def _read(heads, queries, mask, dtype):
    q, k, v = heads
    return tuple(a.swapaxes(1, 2) for a in attend_part(q[:, :, queries], k, v, mask, dtype))


def attend_part(q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, dtype: str) -> tuple[jax.Array, jax.Array]:
    """`attend`, by chunks of queries where the mask comes in them."""
    if not isinstance(mask, Seen):
        return attend(q, k, v, mask, dtype)
    out = jax.lax.map(lambda a: attend(a[0], k, v, a[1].mask(), dtype), (_chunked(q, 2), mask.chunks()))
    return tuple(_joined(a, 2, q.shape[2]) for a in out)


def _chunked(a, axis, padding=0):
    """[…,T,…] -> [chunks,…,CHUNK,…], padded behind the last."""
    count = -(-a.shape[axis] // CHUNK)
    pad = [(0, count * CHUNK - a.shape[axis] if i == axis else 0) for i in range(a.ndim)]
    a = jnp.pad(a, pad, constant_values=padding)
    return jnp.moveaxis(a.reshape(*a.shape[:axis], count, CHUNK, *a.shape[axis + 1 :]), axis, 0)


def _joined(a, axis, length):
    """The way back from `_chunked`."""
    a = jnp.moveaxis(a, 0, axis)
    a = a.reshape(*a.shape[:axis], -1, *a.shape[axis + 2 :])
    return jax.lax.slice_in_dim(a, 0, length, axis=axis)


def _rows_backward(static, kept, g):
    P, L, dtype = static
    q, k, v, (among, to, inside), out, total = kept
    B = q.shape[0]
    delta = jnp.einsum('btnh,btnh->btn', g, out, precision=jax.lax.Precision.HIGHEST)  # a sum: float32 everywhere
    by_block = [_blocks(a, P, L) for a in (q, g, total, delta, k, v)]
    dq, dk, dv = (_rows(a, B) for a in part_backward(*by_block, inside, dtype))
    if not P:
        return dq, dk, dv, None
    shared = k[:, :P], v[:, :P]
    read = part_backward(*(a[:, P:] for a in (q, g, total, delta)), *shared, to, dtype)
    prompt = part_backward(*(a[:, :P] for a in (q, g, total, delta)), *shared, among, dtype)
    dq = jnp.concatenate([prompt[0], read[0] + dq], 1)
    return dq, *(jnp.concatenate([x + y, z], 1) for x, y, z in zip(prompt[1:], read[1:], (dk, dv), strict=True)), None


_attend_rows.defvjp(_rows_forward, _rows_backward)


def _blocks(a, prompts, block):
    """[B,T,...] -> [B·blocks,block,...], without the prompts."""
    return a[:, prompts:].reshape(-1, block, *a.shape[2:])


def _rows(a, rows):
    """[B·blocks,block,...] -> [B,blocks·block,...]."""
    return a.reshape(rows, -1, *a.shape[2:])


def part_backward(
    q: jax.Array,
    g: jax.Array,
    total: jax.Array,
    delta: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: Mask,
    dtype: str,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients f32 of q [B,T,N,H], k [B,S,K,H] and v [B,S,K,V] through some of the queries' keys: g [B,T,N,V] is that of the output;
    total, the logsumexp over all keys, and delta, output · g, are [B,T,N].
    """
    if isinstance(mask, Seen):

        def chunk(sums, of):
            *queries, seen = of
            dq, *more = part_backward(*queries, k, v, seen.mask(), dtype)
            return tuple(a + b for a, b in zip(sums, more, strict=True)), dq

        zero = tuple(jnp.zeros(a.shape, jnp.float32) for a in (k, v))
        chunks = [_chunked(a, 1) for a in (q, g, total, delta)]
        (dk, dv), dq = jax.lax.scan(chunk, zero, (*chunks, mask.chunks()))
        return _joined(dq, 1, q.shape[1]), dk, dv
    B, T, N, H = q.shape
    S, K = k.shape[1:3]
    q, k, v = heads_first(q * H**-0.5, k, v)
    q, g = (laid(a.astype(dtype).reshape(B, K, N // K * T, a.shape[-1])) for a in (q, g.swapaxes(1, 2)))
    k, v = (laid(a.astype(dtype)) for a in (k, v))

    def product(equation, a, b):
        return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)

    def by_head(a):
        return a.reshape(B, N, T, S)

    s, dp = by_head(product('bkqh,bkhs->bkqs', q, k)), by_head(product('bkqh,bksh->bkqs', g, v))
    total, delta = (a.swapaxes(1, 2)[..., None] for a in (total, delta))
    p = jnp.where(mask[:, None], jnp.exp(s - total), 0.0)
    ds = (p * (dp - delta)).astype(dtype).reshape(B, K, -1, S)
    p = p.astype(dtype).reshape(B, K, -1, S)
    dq = product('bkqs,bkhs->bkqh', ds, k).reshape(B, N, T, H).swapaxes(1, 2) * H**-0.5
    dk, dv = (outer(a, b, dtype).transpose(0, 3, 1, 2) for a, b in ((q, ds), (g, p)))
    return dq, dk, dv


def heads_first(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """[B,T,heads,H] each -> as `attend` takes them."""
    return q.swapaxes(1, 2), k.transpose(0, 2, 3, 1), v.swapaxes(1, 2)


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, dtype: str) -> tuple[jax.Array, jax.Array]:
    """softmax(q·kᵀ/√H)·v over the unmasked keys.

    q [B,N,T,H]; k [B,K,H,S]; v [B,K,S,V]; mask bool, broadcastable to [B,T,S].
    Returns out f32[B,N,T,V] and logsumexp f32[B,N,T] of the scaled scores. A query without keys gives out 0.
    """
    return read(score(q * q.shape[-1] ** -0.5, k, dtype), v, mask, dtype)


def score(q: jax.Array, k: jax.Array, dtype: str) -> jax.Array:
    """q·k, f32[B,N,T,S]: q [B,N,T,H]; k [B,K,H,S]."""
    B, N, T, H = q.shape
    K = k.shape[1]
    q, k = laid(q.astype(dtype).reshape(B, K, N // K * T, H)), laid(k.astype(dtype))
    s = jnp.einsum('bkqh,bkhs->bkqs', q, k, preferred_element_type=jnp.float32)
    return s.reshape(B, N, T, -1)


def read(s: jax.Array, v: jax.Array, mask: jax.Array, dtype: str) -> tuple[jax.Array, jax.Array]:
    """softmax(s)·v and the logsumexp, as `attend` returns them: s f32[B,N,T,S]; v [B,K,S,V]."""
    B, N, T, _ = s.shape
    K = v.shape[1]
    s = jnp.where(mask[:, None], s, NONE)
    top = jax.lax.stop_gradient(s.max(-1, keepdims=True))
    e = jnp.exp(s - top)  # exactly 0 at masked keys, unless every key is masked
    some = top > NONE / 2
    total = e.sum(-1, keepdims=True)
    e = e.astype(dtype).reshape(B, K, N // K * T, -1)
    out = jnp.einsum('bkqs,bksv->bkqv', e, laid(v.astype(dtype)), preferred_element_type=jnp.float32)
    out = jnp.where(some, out.reshape(B, N, T, -1) / total, 0.0)
    return out, jnp.where(some, top + jnp.log(total), NONE)[..., 0]


def merge(a: tuple[jax.Array, jax.Array], b: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Joins attention over two disjoint sets of keys: (out [...,H], logsumexp [...]) each."""
    (x, p), (y, q) = a, b
    top = jnp.maximum(p, q)
    u, w = jnp.exp(p - top), jnp.exp(q - top)
    return (x * u[..., None] + y * w[..., None]) / (u + w)[..., None], top + jnp.log(u + w)
