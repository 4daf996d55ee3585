"""The lookup of tokens in an embedding whose width and vocabulary lie on several devices.

The table's width is split over the same devices as tokens are. Left to XLA, the rows of all tokens are made whole on each device as soon as
rows and tokens of rows are both split. So it is written out: every device looks up its columns for its neighbours' tokens too, and an
all-to-all gives each its own tokens' columns. What moves is the tokens' embeddings, and not the table.

Axes: B rows, T tokens, V vocabulary, D width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from r1jax import sharding


def lookup(table: jax.Array, tokens: jax.Array) -> jax.Array:
    """f32[B,T,D] of table [V,D] and tokens i32[B,T]."""
    batch, length = sharding.dividing('batch', tokens.shape[0]), sharding.dividing('length', tokens.shape[1])
    width, vocab = sharding.over('embed'), sharding.over('vocab')
    apart = sharding.over(*(name for name in (batch, length) if name))
    if not set(width) <= set(apart) or not (width or vocab):
        return sharding.constrain(table[tokens].astype(jnp.float32), batch, length, None)

    def shard(table, tokens):
        if width:
            tokens = jax.lax.all_gather(tokens, width)  # [n,B,T], of every device that has other columns
        own = tokens - sharding.index('vocab') * table.shape[0]
        here = (own >= 0) & (own < table.shape[0])
        x = jnp.where(here[..., None], table[jnp.clip(own, 0, table.shape[0] - 1)].astype(jnp.float32), 0.0)
        x = sharding.total(x, 'vocab')
        return (jax.lax.all_to_all(x, width, 0, 3, tiled=True)[0] if width else x,)

    return sharding.by_shard(shard, (('vocab', 'embed'), (batch, length)), ((batch, length, None),))(table, tokens)[0]
