"""Drawing one token a row.

One uniform number a row and a search in the cumulative distribution: a Gumbel for every vocabulary entry would cost more than the
model's last layer on a CPU. A large vocabulary is summed in two levels.

Axes: B rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

_BLOCK = 256  # entries summed at the lower level, about; vocabularies up to 4 blocks need no second one


def draw(
    logits: jax.Array, keys: jax.Array, temperature: jax.Array, top_p: float | jax.Array, top_k: int
) -> tuple[jax.Array, jax.Array]:
    """One token a row from softmax(logits / temperature), cut to the top k and then to the smallest set of mass ≥ top_p.

    logits f32[B,V]; keys key[B]; temperature f32[] or f32[B], 0 for the most likely token; top_p 1 and top_k 0 are off (static);
    or each row has a top_p of its own, f32[B].
    Returns token i32[B] and its log-probability f32[B], nats, *before* top-p and top-k (at temperature 0: of softmax(logits)).
    """
    greedy = temperature == 0
    scale = 1 / jnp.where(greedy, 1.0, temperature)
    top = logits.max(-1)

    def weight(z):  # ∝ probability: [B] or [B,…] scores of the vocabulary's parts
        return jnp.exp((z - by_row(top, z)) * by_row(scale, z))

    def by_row(a, z):
        return a.reshape(-1, *(1,) * (z.ndim - 1)) if a.ndim else a

    cut, own = logits, top_p if isinstance(top_p, jax.Array) else None
    same = 1.0 if isinstance(top_p, jax.Array) else top_p
    if top_k or same < 1:
        inside = nucleus(logits * by_row(scale, logits), same, top_k) > -jnp.inf
        cut = jnp.where(inside, logits, -jnp.inf)
    if own is not None:
        # where every row takes all, no pass over the logits
        cut = jax.lax.cond(
            (own < 1).any(), lambda z: jnp.where(heaviest(weight(z), own), z, -jnp.inf), lambda z: z, cut
        )
    u = jax.vmap(lambda k: jax.random.uniform(k, ()))(keys)
    token, total = search(cut, weight, u)
    # one branch runs: over a large vocabulary this is a pass over all logits
    token = jax.lax.cond(
        greedy.any(), lambda: jnp.where(greedy, jnp.argmax(logits, -1).astype(jnp.int32), token), lambda: token
    )
    if cut is not logits:
        total = _mass(logits, weight).sum(-1)
    return token, (jnp.take_along_axis(logits, token[:, None], -1)[:, 0] - top) * scale - jnp.log(total)


def nucleus(z: jax.Array, top_p: float, top_k: int) -> jax.Array:
    """Scores [B,V] with −inf outside the top k and the nucleus (Holtzman et al., arXiv 1904.09751)."""
    if top_k:
        least = jax.lax.top_k(z, min(top_k, z.shape[-1]))[0][:, -1:]
        z = jnp.where(z >= least, z, -jnp.inf)
    if top_p < 1:
        order = jnp.sort(z, -1, descending=True)
        p = jax.nn.softmax(order, -1)
        inside = jnp.cumsum(p, -1) - p < top_p  # mass before an entry: the first is always inside
        least = jnp.min(order, -1, keepdims=True, where=inside, initial=jnp.inf)
        z = jnp.where(z >= least, z, -jnp.inf)
    return z


def heaviest(weight: jax.Array, share: jax.Array) -> jax.Array:
    """bool[B,V], the least many of the heaviest entries whose weights sum to `share` f32[B] of all, with those as heavy as the last.

    The nucleus without a sort, which on a CPU costs more than a small model's whole step: weights f32[B,V] ≥ 0 are in the order of
    their bits, so that 32 halvings find the largest threshold above which there is enough.
    """
    bits = jax.lax.bitcast_convert_type(weight.astype(jnp.float32), jnp.int32)
    enough = share * weight.sum(-1)

    def halved(_, bounds):
        low, high = bounds  # with `low` there is enough, with `high` there is not
        middle = low + (high - low) // 2
        some = jnp.where(bits >= middle[:, None], weight, 0.0).sum(-1) >= enough
        return jnp.where(some, middle, low), jnp.where(some, high, middle)

    none = jnp.zeros(len(weight), jnp.int32), bits.max(-1) + 1
    low, _ = jax.lax.fori_loop(0, 32, halved, none)
    return (bits >= low[:, None]) | (share >= 1)[:, None]  # a sum of all but the lightest may round to that of all


def search(z: jax.Array, weight: Callable, u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The first index whose cumulative weight exceeds u·Σweight(z), never one of weight 0; and that sum.

    z f32[B,V]; `weight` takes scores of any shape [B,…] to their weights ≥ 0, −inf to 0; u f32[B] in [0,1). Returns i32[B], f32[B].
    """
    mass, blocks = _mass(z, weight), _blocks(z)
    total = mass.sum(-1)
    b = _search(mass, u * total)
    before = jnp.take_along_axis(jnp.cumsum(mass, -1) - mass, b[:, None], -1)[:, 0]
    inner = weight(jnp.take_along_axis(blocks, b[:, None, None], 1)[:, 0])
    index = b * blocks.shape[-1] + _search(inner, jnp.maximum(u * total - before, 0.0))
    return index.astype(jnp.int32), total


def _blocks(z):
    """[B,V] -> [B,blocks,entries]; padded with −inf only where the vocabulary's size has no useful divisor."""
    size = z.shape[-1] if z.shape[-1] <= 4 * _BLOCK else math.gcd(z.shape[-1], 2 * _BLOCK)
    if size < _BLOCK / 4:
        size, z = _BLOCK, jnp.pad(z, ((0, 0), (0, -z.shape[-1] % _BLOCK)), constant_values=-jnp.inf)
    return z.reshape(len(z), -1, size)


def _mass(z, weight):
    """Weight of each block, f32[B,blocks]. (As a product with ones, which a CPU computes in half the time, it would depend on where in
    the batch a row stands.)
    """
    return weight(_blocks(z)).sum(-1)


def _search(p, target):
    """First i with cumsum(p)[i] > target; rounding may leave none, then the last entry with mass."""
    first = (jnp.cumsum(p, -1) <= target[:, None]).sum(-1)
    last = p.shape[-1] - 1 - jnp.argmax(p[:, ::-1] > 0, -1)
    return jnp.minimum(first, last)
