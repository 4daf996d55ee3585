"""Log-probabilities of given tokens, without ever holding [B,T,V].

The head runs over chunks of tokens; each chunk's logits are recomputed in the backward pass. Chunks are cut along T, never along B
or V, which may be sharded.

Axes: B rows, T tokens, D width, V vocabulary, C tokens of a chunk.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from r1jax.nn.layers import matmul

_ROWS_A_CHUNK = 1024  # hidden states whose logits exist at once: enough to fill a matmul, 200 MB at V = 50k


def token_logprobs(
    hidden: jax.Array,
    unembed: jax.Array,
    tokens: jax.Array,
    source: jax.Array,
    temperature: jax.Array | float,
    dtype: str = 'float32',
) -> tuple[jax.Array, jax.Array]:
    """log softmax(hidden[source]·unembedᵀ / temperature)[tokens], and the entropy of that distribution.

    hidden f32[B,T,D]; unembed [V,D]; tokens, source i32[B,T]. temperature 0 stands for greedy sampling, whose log-probabilities
    are those of temperature 1. Returns logp and entropy, f32[B,T], nats; no gradient flows through the entropy.
    """
    B, T, _ = hidden.shape
    temperature = jnp.where(temperature == 0, 1.0, temperature)
    C = max(1, min(T, _ROWS_A_CHUNK // B))
    pad = -T % C
    x = jnp.take_along_axis(hidden, source[..., None], 1)

    def cut(a):
        a = jnp.pad(a, ((0, 0), (0, pad)) + ((0, 0),) * (a.ndim - 2))
        return a.reshape(B, -1, C, *a.shape[2:]).swapaxes(0, 1)

    @jax.checkpoint
    def chunk(x, y):
        z = matmul(x, unembed.T, dtype) / temperature
        total = jax.nn.logsumexp(z, -1)
        logp = jnp.take_along_axis(z, y[..., None], -1)[..., 0] - total
        z, total = jax.lax.stop_gradient((z, total))
        entropy = total - (jnp.exp(z - total[..., None]) * z).sum(-1)
        return logp, entropy

    with jax.named_scope('head'):
        logp, entropy = jax.lax.map(lambda a: chunk(*a), (cut(x), cut(tokens)))
    return tuple(a.swapaxes(0, 1).reshape(B, -1)[:, :T] for a in (logp, entropy))
