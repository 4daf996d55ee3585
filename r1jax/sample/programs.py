"""The engine's compiled programs, pure: prompts in (`prefill`), prompts into slots (`admit`), some tokens of every slot (`chunk`), more or
fewer slots (`resized`). What is decided between them is `r1jax.sample.engine`'s.

The device keeps the cache alone. What else is known of the rows is a table of the host's (`Table`), which goes in with every chunk.

Axes: S slots, A prompts, P tokens of a prompt, C columns of a chunk, M layers with experts, k experts of a token.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import sharding
from r1jax.config import ModelConfig
from r1jax.nn import pages, slots
from r1jax.nn.cache import KV, by_layer
from r1jax.nn.transformer import forward
from r1jax.sample.step import Decode, Rows, Weights, step

Layers = tuple[KV, ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Table:
    """What the host knows of each slot's row; see `r1jax.sample.step.Rows`."""

    key: np.ndarray  # u32[S,·], key data
    start: np.ndarray  # i32[S]
    limit: np.ndarray  # i32[S]
    temperature: np.ndarray  # f32[S]
    drawn: np.ndarray  # i32[S]
    last: np.ndarray  # i32[S], before the first token the prompt's last: a step reads it
    length: np.ndarray  # i32[S]
    done: np.ndarray  # bool[S], and where nobody is
    top_p: np.ndarray  # f32[S]
    show: np.ndarray  # bool[S]
    pages: np.ndarray | None = None  # i32[S,M], of `r1jax.nn.pages.Pages`; None: a slot's keys stand together

    @classmethod
    def empty(cls, slots: int, key: int) -> Table:
        zero = functools.partial(np.zeros, slots, np.int32)
        ones, done = np.ones(slots, np.float32), np.ones(slots, bool)
        rest = done, np.ones(slots, np.float32), np.zeros(slots, bool)
        return cls(np.zeros((slots, key), np.uint32), zero(), zero(), ones, zero(), zero(), zero(), *rest)

    def moved(self, slot: Sequence[int], slots: int) -> Table:
        """So many slots, the first with the rows of slots slot[i]."""
        out = Table.empty(slots, self.key.shape[1])
        for new, old in zip(*map(jax.tree.leaves, (out, self)), strict=True):
            new[: len(slot)] = old[list(slot)]
        return out


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Chunk:
    """What the host gets of a chunk. A row's new tokens stand in the first columns."""

    tokens: jax.Array  # i32[S,C]
    logp: jax.Array  # f32[S,C]
    length: jax.Array  # i32[S], of the whole row
    finished: jax.Array  # bool[S]
    done: jax.Array  # bool[S]
    steps: jax.Array  # i32[], columns in use
    routes: jax.Array | None = (
        None  # i16[S,C,M,k], experts of the token that was read in a step: the one before the step's own
    )
    likely: jax.Array | None = None  # i32[S,C,K], see `Rows`
    likely_logp: jax.Array | None = None  # f32[S,C,K]


@functools.partial(jax.jit, static_argnames='model')
def prepared(params: Any, model: ModelConfig) -> Weights:
    """The weights in the form that decoding takes, on the mesh."""
    return Weights.of(params, model)


@functools.partial(jax.jit, static_argnames='cfg')
def prefill(params: Any, tokens: jax.Array, length: jax.Array, cfg: Decode) -> tuple[Layers, jax.Array | None]:
    """Keys [A,K,H,P] and values [A,K,P,V] of each layer for prompts i32[A,P] of length i32[A], padded on the right; and with
    `cfg.routes` the experts that each token passed, i16[A,P,M,k].
    """
    with jax.named_scope('prefill'):
        place = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        segment = jnp.where(place < length[:, None], 0, -1)
        _, kept, aux = forward(cfg.model, params, tokens, place, segment, jnp.full(tokens.shape, -1))
        routes = sharding.constrain(aux['choices'].astype(jnp.int16), *(None,) * 4) if cfg.routes else None
        return by_layer(kept), routes


Shapes = tuple[tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct], ...]


def shapes(layers: Layers) -> Shapes:
    """What `empty` asks of prompts."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), layers)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def empty(prompts: Shapes, slots_: int, size: int) -> Layers:
    """Empty slots, so many and so long, for keys and values as those of prompts."""
    return slots.empty(prompts, slots_, size)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def empty_pages(prompts: Shapes, count: int, size: int) -> Layers:
    """As `empty`, so many empty pages of `size` entries."""
    return pages.empty(prompts, count, size)


@functools.partial(jax.jit, donate_argnums=0)
def admit_pages(
    layers: Layers, prompts: Layers, page: jax.Array, source: jax.Array, first: jax.Array, count: jax.Array
) -> Layers:
    """`r1jax.nn.pages.admit`."""
    return pages.admit(layers, prompts, page, source, first, count)


@jax.jit
def lifted(layers: Layers, page: jax.Array) -> Layers:
    """`r1jax.nn.pages.lifted`."""
    return pages.lifted(layers, page)


@functools.partial(jax.jit, donate_argnums=0)
def admit(layers: Layers, prompts: Layers, slot: jax.Array, source: jax.Array, count: jax.Array) -> Layers:
    """`r1jax.nn.slots.admit`."""
    return slots.admit(layers, prompts, slot, source, count)


@jax.jit
def resized(layers: Layers, slot: jax.Array) -> Layers:
    """Slots slot i32[n] alone, in this order."""
    return slots.take(layers, slot)


@functools.partial(jax.jit, static_argnames=('cfg', 'columns'), donate_argnums=1)
def chunk(
    weights: Weights, layers: Layers, table: Table, free: jax.Array, steps: jax.Array, cfg: Decode, columns: int
) -> tuple[Layers, Chunk]:
    """At most `steps` (i32[], up to `columns`) tokens of every slot's row. Ends before where `free` (i32[]) slots or more have no row
    that goes on.
    """
    S, m = table.start.shape[0], cfg.model
    now: Any = table  # traced: what the host has as NumPy's arrays are jax's here
    pad, zero = jnp.full((S, columns), cfg.pad, jnp.int32), jnp.zeros((S, columns), jnp.float32)
    routes = jnp.full((S, columns, m.expert_layers, m.moe.active), -1, jnp.int16) if cfg.routes else None
    keys, no = jax.random.wrap_key_data(now.key), jnp.zeros(S, bool)
    known = now.start, now.limit, now.temperature, now.drawn, now.last, now.length
    top_p = now.top_p if cfg.top_p is None else None
    likely = (jnp.zeros((S, columns, cfg.shown), kind) for kind in (jnp.int32, jnp.float32))
    shown: tuple[Any, ...] = (now.show, *likely) if cfg.shown else ()
    rows = Rows(keys, *known, no, now.done, pad, zero, routes, top_p, *shown)
    rows = jax.tree.map(lambda a: sharding.constrain(a, 'batch', *(None,) * (a.ndim - 1)), rows)
    held = rows.start + rows.length - 1
    cache = slots.Slots(layers, held) if table.pages is None else pages.Pages(layers, jnp.asarray(table.pages), held)

    def going(carry):
        t, _, rows = carry
        return (t < steps) & (rows.done.sum() < free)

    def one(carry):
        t, cache, rows = carry
        cache, rows = step(cfg, weights, cache, rows, t, t)
        return t + 1, cache.without(rows.done), rows

    with jax.named_scope('decode'):
        t, cache, rows = jax.lax.while_loop(going, one, (jnp.int32(0), cache.without(rows.done), rows))
    out = Chunk(
        rows.tokens, rows.logp, rows.length, rows.finished, rows.done, t, rows.routes, rows.likely, rows.likely_logp
    )
    out = jax.tree.map(lambda a: sharding.constrain(a, *(None,) * a.ndim), out)  # whole, for the host
    return (slots if table.pages is None else pages).placed(cache.layers), out
