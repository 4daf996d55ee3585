"""Attention in packed rows whose tokens lie on several devices: keys and values travel round the ring, and queries stay (Liu et al.,
arXiv 2310.01889).

Each device holds an equal part of every row, in order. In each of S steps it reads the part that is with it, joins what it read by
`merge`, and hands the part on to its neighbour, while it already reads the next. The backward pass goes round once more, with the gradients
of keys and values that travel beside them; as in `r1jax.nn.attention.attend_rows` it keeps nothing of the size of scores, since the
logsumexp over all of a query's keys makes each part's weights those of the whole.

A ring, not an exchange of heads for tokens (DeepSpeed-Ulysses, arXiv 2309.14509), whose devices are at most as many as key/value heads,
of which four or eight are usual, and which `tensor` has taken already. Parts that no query sees are not computed: those behind, and those
of other prompts and blocks. So of one causal sequence the last device computes twice the mean; a row of several blocks is even.

Rows need not divide: they are padded here. On TPUs each part is read by splash attention, elsewhere by XLA's operations.

Axes: B rows, T tokens of the row, t of a device's part, N query heads, K key/value heads, H head dim, V value dim, S parts.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from r1jax import sharding
from r1jax.nn import attention, flash
from r1jax.nn.attention import CHUNK, NONE, Seen, merge

_FAR = 2**30  # beyond every segment


def attend_ring(
    q: jax.Array, k: jax.Array, v: jax.Array, rows: attention.Rows, dtype: str, kernel: str = ''
) -> jax.Array:
    """`attend_rows` where 'length' is split: q [B,T,N,H]; k [B,T,K,H]; v [B,T,K,V]. Returns f32[B,T,N,V].

    kernel: 'splash' on TPUs, 'splash-interpreted' anywhere, slowly; '': XLA's operations.
    """
    T, parts = q.shape[1], sharding.ways('length')
    whole = parts * (flash.TILE if kernel else 1)
    pad = -T % whole
    q, k, v = (jnp.pad(a, ((0, 0), (0, pad), (0, 0), (0, 0))) for a in (q, k, v))
    segment, parent = (jnp.pad(a, ((0, 0), (0, pad)), constant_values=-1) for a in (rows.segment, rows.parent))
    return _ring((dtype, kernel), q, k, v, segment, parent)[:, :T]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _ring(static, q, k, v, segment, parent):
    return _forward(static, q, k, v, segment, parent)[0]


def _shapes(q, k):
    """Logical axes of q and the output, of k and v, of ids, and of the logsumexp; what does not divide is whole on each device."""
    batch = sharding.dividing('batch', q.shape[0])
    heads = sharding.dividing('kv_heads', k.shape[2])
    return (batch, 'length', heads, None), (batch, 'length', heads, None), (batch, 'length'), (batch, 'length', heads)


def _forward(static, q, k, v, segment, parent):
    wide, narrow, ids, total = _shapes(q, k)
    run = sharding.by_shard(functools.partial(_read_all, static), (wide, narrow, narrow, ids, ids), (wide, total))
    out, logsumexp = (checkpoint_name(a, 'attention') for a in run(q, k, v, segment, parent))
    return out, (q, k, v, segment, parent, out, logsumexp)


def _backward(static, kept, g):
    q, k, v = kept[:3]
    wide, narrow, ids, total = _shapes(q, k)
    run = sharding.by_shard(
        functools.partial(_learn_all, static),
        (wide, narrow, narrow, ids, ids, wide, total, wide),
        (wide, narrow, narrow),
    )
    return *(d.astype(a.dtype) for d, a in zip(run(*kept, g), (q, k, v), strict=True)), None, None


_ring.defvjp(_forward, _backward)


# --- on one device: its own queries, and the keys of one part after the other


def _read_all(static, q, k, v, segment, parent):
    dtype, kernel = static
    if kernel:
        q = (q * q.shape[-1] ** -0.5).astype(dtype)
    k, v = (a.astype(dtype) for a in (k, v))
    read = functools.partial((_read_splash if kernel else _read), static, q, segment, parent)
    own = k, v, segment, parent
    found = read(own, sharding.index('length'), True)

    def step(i, carry):
        found, part = carry
        coming = _handed_on(part)  # while this one is read
        return merge(found, read(part, _owner(i), False)), coming

    found, _ = jax.lax.fori_loop(1, sharding.ways('length'), step, (found, _handed_on(own)))
    return found


def _learn_all(static, q, k, v, segment, parent, out, total, g):
    dtype, kernel = static
    scale = q.shape[-1] ** -0.5 if kernel else 1.0
    k, v = (a.astype(dtype) for a in (k, v))
    if kernel:
        q = (q * scale).astype(dtype)
        learn = functools.partial(_learn_splash, static, q, segment, parent, out, total, g.astype(dtype))
    else:
        delta = jnp.einsum('btnh,btnh->btn', g, out, precision=jax.lax.Precision.HIGHEST)  # a sum: float32 everywhere
        learn = functools.partial(_learn, static, q, segment, parent, g, total, delta)
    own = k, v, segment, parent
    dq, *dkv = learn(own, sharding.index('length'), True)

    def step(i, carry):
        dq, dkv, part = carry
        coming, dkv = _handed_on(part), _handed_on(dkv)  # the gradients follow one step behind their keys
        more = learn(part, _owner(i), False)
        return dq + more[0], tuple(a + b for a, b in zip(dkv, more[1:], strict=True)), coming

    dq, dkv, _ = jax.lax.fori_loop(1, sharding.ways('length'), step, (dq, tuple(dkv), _handed_on(own)))
    return dq * scale, *_handed_on(dkv)  # home


def _handed_on(part: Any) -> Any:
    """What the device before held."""
    axes, parts = sharding.over('length'), sharding.ways('length')
    ring = [(i, (i + 1) % parts) for i in range(parts)]
    return jax.tree.map(lambda a: jax.lax.ppermute(a, axes, ring), part)


def _owner(i):
    """Whose part is here after i steps."""
    return (sharding.index('length') - i) % sharding.ways('length')


def _reach(segment):
    """The first and the last segment among some tokens; none overlaps that of padding alone."""
    return jnp.where(segment < 0, _FAR, segment).min(), segment.max()


def _meet(a, b):
    """Whether some segment may be among both: conservative, by their ranges."""
    (first, last), (start, end) = _reach(a), _reach(b)
    return (jnp.maximum(last, end) >= 0) & (first <= end) & (start <= last)


def _seen(segment, parent, keys, owner):
    """Which keys of a part the queries see, and whether there may be any."""
    t, me = segment.shape[1], sharding.index('length')
    place = jnp.broadcast_to((me - owner) * t + jnp.arange(t), segment.shape)
    some = (_meet(segment, keys) & (owner <= me)) | _meet(parent, keys)
    seen = Seen(segment, parent, place, keys)
    return (seen if t > CHUNK else seen.mask()), some


def _read(static, q, segment, parent, part, owner, own):
    """out f32[B,t,N,V] and logsumexp f32[B,t,N] over the keys of a part."""
    k, v, keys, _ = part
    mask, some = _seen(segment, parent, keys, owner)

    def compute():
        read = attention.attend_part(*attention.heads_first(q, k, v), mask, static[0])
        return tuple(a.swapaxes(1, 2) for a in read)

    return jax.lax.cond(some, compute, lambda: _nothing(q, v))


def _nothing(q, v):
    return jnp.zeros((*q.shape[:3], v.shape[-1]), jnp.float32), jnp.full(q.shape[:3], NONE, jnp.float32)


def _learn(static, q, segment, parent, g, total, delta, part, owner, own):
    """Gradients f32 of q, k and v through the keys of a part."""
    k, v, keys, _ = part
    mask, some = _seen(segment, parent, keys, owner)
    compute = functools.partial(attention.part_backward, q, g, total, delta, k, v, mask, static[0])
    return jax.lax.cond(some, compute, lambda: _zeros(q, k, v))


def _zeros(*arrays):
    return tuple(jnp.zeros(a.shape, jnp.float32) for a in arrays)


# --- the same by splash attention. Its causal kernel serves the device's own part; the keys of another are all before the queries. As it
# reads keys of one id, there are two calls: to what continues the query's own piece, and to its prompt where that is another piece


def _calls(call, segment, parent, keys, of_keys, owner, own, join, nothing):
    mine, up, _ = flash.ids(segment, parent, 0)
    theirs, _, _ = flash.ids(keys, of_keys, 0)
    before = owner <= sharding.index('length')
    first = before & _meet(mine, theirs)
    found = jax.lax.cond(first, lambda: call(mine, theirs, own), nothing)
    again = before & _meet(up, keys)
    return jax.lax.cond(again, lambda found: join(found, call(up, keys, own)), lambda found: found, found)


def _read_splash(static, q, segment, parent, part, owner, own):
    k, v, keys, of_keys = part

    def call(ids, theirs, causal):
        return flash.part(q, k, v, ids, theirs, causal, interpret=static[1] != 'splash')

    return _calls(call, segment, parent, keys, of_keys, owner, own, merge, lambda: _nothing(q, v))


def _learn_splash(static, q, segment, parent, out, total, g, part, owner, own):
    k, v, keys, of_keys = part

    def call(ids, theirs, causal):
        interpret = static[1] != 'splash'
        return flash.part_backward(q, k, v, out, total, g, ids, theirs, causal, interpret=interpret)

    def join(found, more):
        return tuple(a + b for a, b in zip(found, more, strict=True))

    return _calls(call, segment, parent, keys, of_keys, owner, own, join, lambda: _zeros(q, k, v))
