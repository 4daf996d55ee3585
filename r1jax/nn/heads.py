"""The value head: one number for a sequence, read off the hidden state of its last token.

A reward model is the language model with `value` [D] and `value_bias` [] in place of its unembedding. `with_value_head` makes one
from a trained language model, `init_boxed(cfg, key, scalar=True)` a random one; `scores` is what training differentiates, and
`r1jax.nn.scorer` what a trained one is asked through.

The score stands at the last token because it is the only one that has seen the whole sequence.

Axes: B rows, T tokens, D width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from r1jax.config import ModelConfig
from r1jax.nn.transformer import Params, forward


def with_value_head(params: Params, key: jax.Array) -> Params:
    """A language model's parameters with a new value head: w ~ N(0, 1/(D+1)), b = 0 (Stiennon et al., arXiv 2009.01325)."""
    width = params['norm'].shape[-1]
    body = {name: leaf for name, leaf in params.items() if name not in ('unembed', 'value', 'value_bias')}
    value = jax.random.normal(key, (width,), jnp.float32) * (width + 1) ** -0.5
    return body | {'value': value, 'value_bias': jnp.zeros((), jnp.float32)}


def values(params: Params, hidden: jax.Array) -> jax.Array:
    """hidden·w + b: f32[…,D] -> f32[…]. A product of vectors, in float32 on every device: scores are compared by differences."""
    return jnp.sum(hidden * params['value'], -1) + params['value_bias']


def scores(cfg: ModelConfig, params: Params, tokens: jax.Array, length: jax.Array) -> jax.Array:
    """f32[B]: the value at the last token of each row.

    tokens i32[B,T], padded on the right; length i32[B], at least 1 (a row of length 0 is all padding, and its score means nothing).
    """
    place = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    segment = jnp.where(place < length[:, None], 0, -1)
    hidden, _, _ = forward(cfg, params, tokens, place, segment, jnp.full_like(segment, -1))
    last = jnp.maximum(length - 1, 0)
    with jax.named_scope('value'):
        return values(params, jnp.take_along_axis(hidden, last[:, None, None], 1)[:, 0])
