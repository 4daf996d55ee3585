"""How far a student's distribution is from a teacher's, token by token over the whole vocabulary, without ever holding [B,T,V].

With z and u the student's and the teacher's logits over a temperature τ, p = softmax z and q = softmax u:

    forward   KL(q ‖ p) = Σ q·(log q − log p)     gradient in z:  p − q                               (Hinton et al., arXiv 1503.02531)
    reverse   KL(p ‖ q) = Σ p·(log p − log q)     gradient in z:  p·(log p − log q − KL(p ‖ q))       (Gu et al., arXiv 2306.08543)

The same chunks of wanted tokens as in `r1jax.rl.logprobs`, each with the logits of both models, which the backward pass makes again. No
gradient reaches the teacher. Both pass over one batch, since they read the same tokens; their widths may differ.

Left out: mixtures of the two (the generalised Jensen–Shannon divergence of GKD, arXiv 2306.13649), and the factor τ² with which some
keep gradients comparable across temperatures: the learning rate is the place for it.

Axes: B rows, T tokens, D width of a model, V vocabulary, C tokens of a chunk.
"""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp

from r1jax import sharding
from r1jax.nn.layers import matmul, outer
from r1jax.rl.logprobs import IDS, ROWS, STATE, WEIGHT, Front, apart, at_temperature, chunk, cut, logits, vocab_sum

Head = tuple[
    jax.Array, jax.Array, str
]  # hidden f32[B,T,D], unembedding [V,D], and the type in which they are multiplied

NAMES = 'distil/forward', 'distil/reverse', 'policy/entropy', 'distil/teacher_entropy', 'distil/agreement'


def divergence(
    student: Head,
    teacher: Head,
    source: jax.Array,
    temperature: jax.Array | float,
    kl: Literal['forward', 'reverse'],
    where: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The divergence of each token's distribution, f32[B,T], nats, 0 outside `where`; gradients flow to the student's parts.

    source i32[B,T], the hidden state that predicts token t; where bool[B,T], the tokens to compute; temperature τ > 0. The second result
    holds f32[B,T] by `NAMES`, without gradients: both divergences, both entropies, and 1 where both find the same token the likeliest.

    Raises:
      ValueError: the two have different vocabularies.
    """
    (hidden, unembed, dtype), (theirs, head, their_dtype) = student, teacher
    if unembed.shape[0] != head.shape[0]:
        raise ValueError(f'a student of {unembed.shape[0]} tokens cannot learn from a teacher of {head.shape[0]}')
    C = chunk(where.shape, unembed.shape[0], kinds=2)
    with jax.named_scope('head'):
        hidden, theirs, where = apart(hidden, theirs, where)
        front = Front.of(where, C)
        x, y = front.states(hidden, source), jax.lax.stop_gradient(front.states(theirs, source))
        how = (dtype, their_dtype, C, kl)
        out = _head(how, x, unembed, y, jax.lax.stop_gradient(head), front.chunks, at_temperature(temperature))
        loss, *measured = front.back(*out)
        return loss, dict(zip(NAMES, map(jax.lax.stop_gradient, measured), strict=True))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _head(how, x, w, y, v, chunks, temperature):
    """Six of [B,T]: the divergence `how` names, and `NAMES`."""
    return _forward(how, x, w, y, v, chunks, temperature)[0]


def _distribution(h, w, dtype, temperature):
    """Of a chunk: log-probabilities and probabilities [B,C,V], where the largest is, and the logarithm of the sum, [B,C]."""
    z = logits(h, w, dtype) / temperature
    top = sharding.largest(z.max(-1), 'vocab')
    e = jnp.exp(z - top[..., None])
    mass = sharding.total(vocab_sum(e), 'vocab')
    total = top + jnp.log(mass)
    return z - total[..., None], e / mass[..., None], z == top[..., None], total


def _forward(how, x, w, y, v, chunks, temperature):
    dtype, their_dtype, C, kl = how

    def shard(x, w, y, v, chunks, temperature):
        w, v = (sharding.gather(a.astype(d), 'embed', 1) for a, d in ((w, dtype), (v, their_dtype)))

        def body(i, out):
            at = i * C
            logp, p, best, total = _distribution(cut(x, at, C), w, dtype, temperature)
            logq, q, same, their_total = _distribution(cut(y, at, C), v, their_dtype, temperature)
            terms = q * (logq - logp), p * (logp - logq), -p * logp, -q * logq, (best & same).astype(jnp.float32)
            sums = sharding.total(tuple(map(vocab_sum, terms)), 'vocab')
            new = *sums[:4], jnp.minimum(sums[4], 1), total, their_total
            return tuple(jax.lax.dynamic_update_slice_in_dim(a, b, at, 1) for a, b in zip(out, new, strict=True))

        return jax.lax.fori_loop(0, chunks, body, (jnp.zeros(x.shape[:2], jnp.float32),) * 7)

    run = sharding.by_shard(shard, (STATE, WEIGHT, STATE, WEIGHT, (), ()), (IDS,) * 7)
    *measured, total, their_total = run(x, w, y, v, chunks, temperature)
    loss = measured[0 if kl == 'forward' else 1]
    return (loss, *measured), (x, w, y, v, chunks, temperature, total, their_total, loss)


def _backward(how, kept, cotangents):
    dtype, their_dtype, C, kl = how
    x, w, y, v, chunks, temperature, *per_token = kept

    def shard(x, w, y, v, chunks, temperature, total, their_total, loss, g):
        w, v = (sharding.gather(a.astype(d), 'embed', 1) for a, d in ((w, dtype), (v, their_dtype)))

        def body(i, carry):
            dx, dw = carry
            at = i * C
            h = cut(x, at, C)
            logp = logits(h, w, dtype) / temperature - cut(total, at, C)[..., None]
            logq = logits(cut(y, at, C), v, their_dtype) / temperature - cut(their_total, at, C)[..., None]
            p = jnp.exp(logp)
            by = p - jnp.exp(logq) if kl == 'forward' else p * (logp - logq - cut(loss, at, C)[..., None])
            dz = by * cut(g, at, C)[..., None]
            dx = jax.lax.dynamic_update_slice_in_dim(dx, matmul(dz, w, dtype), at, 1)
            return dx, dw + outer(dz.reshape(-1, dz.shape[-1]), h.reshape(-1, h.shape[-1]), dtype)

        zero = jnp.zeros(x.shape, jnp.float32), jnp.zeros(w.shape, jnp.float32)
        dx, dw = jax.lax.fori_loop(0, chunks, body, zero)
        return sharding.total(dx, 'vocab'), sharding.scatter(dw, 'embed', 1, ROWS)

    run = sharding.by_shard(shard, (STATE, WEIGHT, STATE, WEIGHT, (), (), *(IDS,) * 4), (STATE, WEIGHT))
    dx, dw = run(x, w, y, v, chunks, temperature, *per_token, cotangents[0] / temperature)
    return dx.astype(x.dtype), dw.astype(w.dtype), None, None, None, jnp.zeros_like(temperature)


_head.defvjp(_forward, _backward)
