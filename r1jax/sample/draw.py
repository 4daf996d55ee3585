"""Drawing one token a row.

One uniform number a row and a search in the cumulative distribution: a Gumbel for every vocabulary entry would cost more than the
model's last layer on a CPU. A large vocabulary is summed in two levels.

Axes: B rows, V vocabulary.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

_BLOCK = 256  # entries summed at the lower level; vocabularies up to 4 blocks need no second one


def draw(
    logits: jax.Array, keys: jax.Array, temperature: jax.Array, top_p: float, top_k: int
) -> tuple[jax.Array, jax.Array]:
    """One token a row from softmax(logits / temperature), cut to the top k and then to the smallest set of mass ≥ top_p.

    logits f32[B,V]; keys key[B]; temperature f32[], 0 for the most likely token; top_p 1 and top_k 0 are off (static).
    Returns token i32[B] and its log-probability f32[B], nats, *before* top-p and top-k (at temperature 0: of softmax(logits)).
    """
    greedy = temperature == 0
    z = logits / jnp.where(greedy, 1.0, temperature)
    top = z.max(-1)
    e = jnp.exp(z - top[:, None])
    p = jnp.where(nucleus(z, top_p, top_k) > -jnp.inf, e, 0.0) if top_k or top_p < 1 else e
    u = jax.vmap(lambda k: jax.random.uniform(k, ()))(keys)
    # one branch runs: over a large vocabulary each is a pass over all logits
    token = jax.lax.cond(greedy, lambda: jnp.argmax(z, -1), lambda: search(p, u)).astype(jnp.int32)
    return token, jnp.take_along_axis(z, token[:, None], -1)[:, 0] - top - jnp.log(e.sum(-1))


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


def search(p: jax.Array, u: jax.Array) -> jax.Array:
    """The first index whose cumulative mass exceeds u·Σp: p f32[B,V] ≥ 0, u f32[B] in [0,1). Never an index of mass 0."""
    B, V = p.shape
    if V <= 4 * _BLOCK:
        return _search(p, u * p.sum(-1))
    blocks = jnp.pad(p, ((0, 0), (0, -V % _BLOCK))).reshape(B, -1, _BLOCK)
    mass = blocks.sum(-1)
    target = u * mass.sum(-1)
    b = _search(mass, target)
    before = jnp.take_along_axis(jnp.cumsum(mass, -1) - mass, b[:, None], -1)[:, 0]
    inner = jnp.take_along_axis(blocks, b[:, None, None], 1)[:, 0]
    return b * _BLOCK + _search(inner, jnp.maximum(target - before, 0.0))


def _search(p, target):
    """First i with cumsum(p)[i] > target; rounding may leave none, then the last entry with mass."""
    first = (jnp.cumsum(p, -1) <= target[:, None]).sum(-1)
    last = p.shape[-1] - 1 - jnp.argmax(p[:, ::-1] > 0, -1)
    return jnp.minimum(first, last)
