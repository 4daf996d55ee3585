"""Log-probabilities of given tokens, without ever holding [B,T,V].

The head runs over chunks of the wanted tokens only: each row's are moved to its front, and as many chunks are computed as the
fullest row needs. Each chunk's logits are recomputed in the backward pass. Chunks are cut along T, never along B or V, which may
be sharded: each device loops over its own rows and its part of V, gathers the unembedding's width once a pass, in the type it is
multiplied in, and scatters its gradient once. (Left to XLA, both happen in every chunk.)

Where the tokens of a row lie on several devices (context parallelism), each device's are rows of their own from here on.

Axes: B rows, T tokens, D width, V vocabulary, C tokens of a chunk; of S devices' parts of rows R = S·B and t = T/S.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from r1jax import sharding
from r1jax.nn.layers import matmul, outer, product_t

# Logits that exist at once on a device, 134 MB: memory does not grow with V, and 680 rows of V = 50k fill a matmul.
_LOGITS = 2**25
ROWS = ('length', 'batch')  # what rows are split over here, where each device's tokens are rows of their own


def token_logprobs(
    hidden: jax.Array,
    unembed: jax.Array,
    tokens: jax.Array,
    source: jax.Array,
    temperature: jax.Array | float,
    dtype: str = 'float32',
    where: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """log softmax(hidden[source]·unembedᵀ / temperature)[tokens], and the entropy of that distribution.

    hidden f32[B,T,D]; unembed [V,D]; tokens, source i32[B,T]; where bool[B,T], the tokens to compute (None: all). temperature 0
    stands for greedy sampling, whose log-probabilities are those of temperature 1. Returns logp and entropy, f32[B,T], nats, 0
    outside `where`; gradients flow from logp to hidden and unembed, and none through the entropy.
    """
    temperature = at_temperature(temperature)
    where = jnp.ones(tokens.shape, bool) if where is None else where
    C = chunk(tokens.shape, unembed.shape[0])
    with jax.named_scope('head'):
        hidden, where = apart(hidden, where)
        front = Front.of(where, C)
        x, y = front.states(hidden, source), front.ids(tokens)
        logp, entropy = front.back(*_head(dtype, C, x, unembed, y, front.chunks, temperature))
        return logp, entropy


def at_temperature(temperature: jax.Array | float) -> jax.Array:
    """f32[], what logits are divided by."""
    return jnp.where(temperature == 0, 1.0, temperature).astype(jnp.float32)


def chunk(shape: tuple[int, ...], vocab: int, kinds: int = 1) -> int:
    """C for rows [B,T], where so many kinds of logits exist at a time."""
    rows, columns = _rows(shape[0]), vocab / sharding.ways('vocab')
    return max(1, min(-(-shape[1] // sharding.ways('length')), int(_LOGITS / (rows * columns * kinds))))


def _rows(B: int) -> float:
    """Of B rows, those of one device."""
    return B / sharding.ways('batch')


def apart(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """The arrays [B,…], with what is computed of them kept from running beside what they are computed of: collectives that wait for
    each other starve the threads of virtual CPU devices.
    """
    return jax.lax.optimization_barrier(arrays) if sharding.over(*ROWS) else arrays


@dataclasses.dataclass(frozen=True)
class Front:
    """The wanted tokens of each row moved to its front, in whole chunks, and back again.

    Where the tokens of a row lie on S devices, each device's part becomes a row of its own: R = S·B rows of t = T/S tokens.
    """

    shape: tuple[int, ...]  # B, T
    where: jax.Array  # bool[R,t]
    order: jax.Array  # i32[R,t], wanted tokens first
    chunks: jax.Array  # i32[], that hold the wanted tokens of the fullest row
    pad: int  # columns that make t whole chunks

    @classmethod
    def of(cls, where: jax.Array, C: int) -> Front:
        shape, where = where.shape, _parts(where)
        order = jnp.argsort(~where, axis=1, stable=True)
        return cls(shape, where, order, -(-where.sum(1).max() // C), -where.shape[1] % C)

    def states(self, hidden: jax.Array, source: jax.Array) -> jax.Array:
        """f32[R,t+pad,D]: the hidden states that the tokens are predicted from."""
        if sharding.ways('length') > 1:
            x = jnp.take_along_axis(_parts(_taken(hidden, source)), self.order[..., None], 1)
        else:
            x = jnp.take_along_axis(hidden, jnp.take_along_axis(source, self.order, 1)[..., None], 1)
        return jnp.pad(x, ((0, 0), (0, self.pad), (0, 0)))

    def ids(self, tokens: jax.Array) -> jax.Array:
        """i32[R,t+pad]."""
        return jnp.pad(jnp.take_along_axis(_parts(tokens), self.order, 1), ((0, 0), (0, self.pad)))

    def back(self, *values: jax.Array) -> tuple[jax.Array, ...]:
        """[B,T] each of [R,t+pad]: a token's value at its place, 0 where it was not wanted."""
        back = jnp.argsort(self.order, axis=1)
        return tuple(_joined(jnp.where(self.where, jnp.take_along_axis(a, back, 1), 0.0), self.shape) for a in values)


def _padded(a):
    """[B,T,…] with T a multiple of the devices that it is split over."""
    return jnp.pad(a, ((0, 0), (0, -a.shape[1] % sharding.ways('length')), *((0, 0),) * (a.ndim - 2)))


def _parts(a):
    """[B,T,…] -> [S·B,T/S,…], the first part of every row before the second: so nothing moves between devices."""
    S = sharding.ways('length')
    if S == 1:
        return a
    a = _padded(a)
    a = a.reshape(a.shape[0], S, -1, *a.shape[2:]).swapaxes(0, 1).reshape(-1, a.shape[1] // S, *a.shape[2:])
    return sharding.constrain(a, ROWS, *(None,) * (a.ndim - 1))


def _joined(a, shape):
    """The way back from `_parts`, of [S·B,T/S]."""
    S = sharding.ways('length')
    return a if S == 1 else a.reshape(S, shape[0], -1).swapaxes(0, 1).reshape(shape[0], -1)[:, : shape[1]]


def _taken(hidden, source):
    """f32[B,T',D]: hidden[source], where the tokens of a row lie on several devices; T' as `_padded` makes it. The states go round the
    devices, so that none holds more than two parts of them.
    """

    def shard(hidden, source):
        t, parts = source.shape[1], sharding.ways('length')
        ring = [(i, (i + 1) % parts) for i in range(parts)]

        def step(i, carry):
            out, here = carry
            at = source - (sharding.index('length') - i) % parts * t
            found = jnp.take_along_axis(here, jnp.clip(at, 0, t - 1)[..., None], 1)
            out = jnp.where(((at >= 0) & (at < t))[..., None], found, out)
            return out, jax.lax.ppermute(here, sharding.over('length'), ring)

        return jax.lax.fori_loop(0, parts, step, (jnp.zeros_like(hidden), hidden))[:1]

    batch = sharding.dividing('batch', hidden.shape[0])
    run = sharding.by_shard(shard, ((batch, 'length', None), (batch, 'length')), ((batch, 'length', None),))
    return run(*map(_padded, (hidden, source)))[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _head(dtype, C, x, unembed, y, chunks, temperature):
    """logp and entropy [B,T] of the first `chunks` chunks of C columns: a loop of dynamic length, hence its own gradient."""
    return _forward(dtype, C, x, unembed, y, chunks, temperature)[0]


STATE, IDS, WEIGHT = (ROWS, None, None), (ROWS, None), ('vocab', 'embed')


def _forward(dtype, C, x, unembed, y, chunks, temperature):
    def shard(x, unembed, y, chunks, temperature):
        w = sharding.gather(unembed.astype(dtype), 'embed', 1)
        first = sharding.index('vocab') * w.shape[0]

        def body(i, out):
            at = i * C
            z = logits(cut(x, at, C), w, dtype) / temperature
            top = sharding.largest(z.max(-1), 'vocab')
            e = jnp.exp(z - top[..., None])
            own = cut(y, at, C) - first
            picked = jnp.take_along_axis(z, jnp.clip(own, 0, w.shape[0] - 1)[..., None], -1)[..., 0]
            picked = jnp.where((own >= 0) & (own < w.shape[0]), picked, 0.0)
            mass, mean, picked = sharding.total((vocab_sum(e), vocab_sum(e * z), picked), 'vocab')
            total = top + jnp.log(mass)
            new = picked - total, total - mean / mass, total
            return tuple(jax.lax.dynamic_update_slice_in_dim(a, b, at, 1) for a, b in zip(out, new, strict=True))

        zero = jnp.zeros(y.shape, jnp.float32)
        return jax.lax.fori_loop(0, chunks, body, (zero, zero, zero))

    run = sharding.by_shard(shard, (STATE, WEIGHT, IDS, (), ()), (IDS,) * 3)
    logp, entropy, total = run(x, unembed, y, chunks, temperature)
    return (logp, entropy), (x, unembed, y, chunks, temperature, total)


def _backward(dtype, C, kept, cotangents):
    x, unembed, y, chunks, temperature, total = kept

    def shard(x, unembed, y, chunks, temperature, total, g):
        w = sharding.gather(unembed.astype(dtype), 'embed', 1)
        ids = jnp.arange(w.shape[0]) + sharding.index('vocab') * w.shape[0]

        def body(i, carry):
            dx, dw = carry
            at = i * C
            h = cut(x, at, C)
            z = logits(h, w, dtype) / temperature
            hit = ids == cut(y, at, C)[..., None]
            dz = (hit - jnp.exp(z - cut(total, at, C)[..., None])) * cut(g, at, C)[..., None]
            dx = jax.lax.dynamic_update_slice_in_dim(dx, matmul(dz, w, dtype), at, 1)
            return dx, dw + outer(dz.reshape(-1, dz.shape[-1]), h.reshape(-1, h.shape[-1]), dtype)

        zero = jnp.zeros(x.shape, jnp.float32), jnp.zeros(w.shape, jnp.float32)
        dx, dw = jax.lax.fori_loop(0, chunks, body, zero)
        return sharding.total(dx, 'vocab'), sharding.scatter(dw, 'embed', 1, ROWS)

    run = sharding.by_shard(shard, (STATE, WEIGHT, IDS, (), (), IDS, IDS), (STATE, WEIGHT))
    dx, dw = run(x, unembed, y, chunks, temperature, total, cotangents[0] / temperature)
    return dx.astype(x.dtype), dw.astype(unembed.dtype), None, None, jnp.zeros_like(temperature)


def logits(h: jax.Array, w: jax.Array, dtype: str) -> jax.Array:
    """f32[B,C,V] of hidden states [B,C,D] and an unembedding [V,D]."""
    return product_t(h.reshape(-1, h.shape[-1]), w, dtype).reshape(*h.shape[:-1], -1)


def vocab_sum(a):
    """f32[B,C] of a [B,C,V], as products of pieces with ones, in float32 on every backend: XLA's CPU backend folds a plain sum into
    what computes its terms and takes three times as long. Pieces keep the rounding of a sum.
    """
    piece = math.gcd(a.shape[-1], 512)
    pieces = a.reshape(*a.shape[:-1], -1, piece)
    return jnp.dot(pieces, jnp.ones(piece, a.dtype), precision=jax.lax.Precision.HIGHEST).sum(-1)


def cut(a, at, C):
    return jax.lax.dynamic_slice_in_dim(a, at, C, 1)


_head.defvjp(_forward, _backward)
