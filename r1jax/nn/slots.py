"""The key/value cache of rows that come and go: so many slots, each with a prompt and its response one after the other.

A slot is M blocks of C entries and knows how many of them hold keys. A token is written behind the last; a new row takes a slot by
writing its prompt over what was there (`admit`). A step reads block by block up to the longest row's: memory holds the first block of
every slot, then the second, so that a block is read where it lies. (A CPU copies slices of one long buffer before it reads
them; benchmarks/cpu.py measures what that costs.)

Within a block, a head's entries stand together, as products read them. On a TPU an entry's heads do: a scatter there writes whole rows,
and XLA would turn the cache around before the decoding loop and back after it, and so hold it twice.

**A row's bits depend on its own entries alone**, whatever other slots hold and however long they are: where a row's keys end before a
block, the block is weighed exp(NONE − …) = 0 beside what the row has read, and `merge` gives back the same bits. (A read of just as much
as the longest row needs would sum a row's scores in another order when a neighbour grows.) The number of slots is the batch's size,
which does decide the last bits.

Axes: S slots, M blocks, C entries of a block, P entries of a prompt, A prompts, N query heads, K key/value heads, H head dim, V value
dim. Latent attention: see `r1jax.nn.cache`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from r1jax import sharding
from r1jax.nn.attention import NONE, merge
from r1jax.nn.cache import KV, Like

BLOCK = 64  # entries of a block, C; fewer where a slot is shorter


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Slots:
    """A cache as `r1jax.nn.cache.Cached` has it, of layers that are not stacked."""

    # keys [M,S,K,H,C] and values [M,S,K,C,V] of each layer; on a TPU [M,S,C,K,H] and [M,S,C,K,V]
    layers: tuple[KV, ...]
    length: jax.Array  # i32[S], entries that hold keys; 0 where nobody is

    def layer(self, i: int) -> KV:
        return self.layers[i]

    def attend(self, attend: Callable, q: Any, k: jax.Array, v: jax.Array, old: KV) -> tuple[jax.Array, KV]:
        """`Cached.attend`."""
        keys, values = write(old, k, v, self.length)
        C = values.shape[_entries()]

        def join(i, read):
            here = (i * C + jnp.arange(C) <= self.length[:, None])[:, None]
            return merge(read, attend(q, *block(i), here))

        def block(i):
            return by_head(*(jax.lax.dynamic_index_in_dim(a, i, 0, keepdims=False) for a in (keys, values)))

        like = jax.eval_shape(lambda: attend(q, *block(0), jnp.ones((1, 1, C), bool)))
        nothing = jnp.zeros(like[0].shape), jnp.full(like[1].shape, NONE)
        out, _ = jax.lax.fori_loop(0, self.length.max() // C + 1, join, nothing)
        return out.swapaxes(1, 2), (keys, values)

    def grown(self, layers: tuple[KV, ...]) -> Slots:
        return Slots(layers, self.length + 1)

    def without(self, over: jax.Array) -> Slots:
        """Rows that are over, bool[S], hold no keys any more: what they still write is overwritten by the next."""
        return dataclasses.replace(self, length=jnp.where(over, 0, self.length))


def _entries() -> int:
    """The axis of values [M,S,·,·,V] with a block's entries; heads have the other."""
    return 2 if sharding.platform() == 'tpu' else 3


def by_head(k: jax.Array, v: jax.Array) -> KV:
    """Blocks as they are stored, as keys [*,K,H,C] and values [*,K,C,V]."""
    return (jnp.moveaxis(k, -3, -1), v.swapaxes(-3, -2)) if _entries() == 2 else (k, v)


def stored(k: jax.Array, v: jax.Array) -> KV:
    """Keys [*,K,H,C] and values [*,K,C,V] as blocks are stored."""
    return (jnp.moveaxis(k, -1, -3), v.swapaxes(-3, -2)) if _entries() == 2 else (k, v)


def write(kv: KV, k: jax.Array, v: jax.Array, at: jax.Array) -> KV:
    """A layer's keys and values with a token's k [S,K,H,1] and v [S,K,1,V] in entry at[s] of each slot s; nowhere if there is none."""

    def own(kv, k, v, at):
        keys, values = kv
        slot, (block, entry) = jnp.arange(at.shape[0]), jnp.divmod(at, values.shape[_entries()])
        heads = widths = (slice(None),) * (_entries() - 2)  # what stands before a block's entries
        keys = keys.at[(block, slot, *heads, *widths, entry)].set(k[..., 0], mode='drop', unique_indices=True)
        values = values.at[(block, slot, *heads, entry)].set(v[:, :, 0], mode='drop', unique_indices=True)
        return keys, values

    return sharding.by_rows(own, (1, 0, 0, 0), 1)(kv, k, v, at)


def empty(prompts: Sequence[tuple[Like, Like]], slots: int, size: int) -> tuple[KV, ...]:
    """Layers of so many empty slots of `size` entries at least, for keys and values like those of `prompts` (arrays or their shapes), on
    the mesh.
    """
    C = min(BLOCK, size)
    lead = -(-size // C), slots

    def zeros(k, v):
        (_, K, H, _), V = k.shape, v.shape[-1]
        return stored(jnp.zeros((*lead, K, H, C), k.dtype), jnp.zeros((*lead, K, C, V), v.dtype))

    return placed(tuple(zeros(k, v) for k, v in prompts))


def placed(layers: tuple[KV, ...]) -> tuple[KV, ...]:
    """The layers where they live on the mesh: slots over its rows, heads as far as they divide."""

    def place(a):
        at = 5 - _entries()
        heads = 'kv_heads' if a.shape[at] % sharding.ways('kv_heads') == 0 else None
        return sharding.constrain(a, None, 'batch', *(heads if i == at else None for i in (2, 3, 4)))

    return jax.tree.map(place, layers)


def admit(
    layers: tuple[KV, ...], prompts: tuple[KV, ...], slot: jax.Array, source: jax.Array, count: jax.Array
) -> tuple[KV, ...]:
    """The layers with prompts copied into slots: entry source[i] of the prompts, keys [A,K,H,P] and values [A,K,P,V] of each layer, to
    the front of slot slot[i], for i < count. slot, source: i32[n].
    """
    C = layers[0][1].shape[_entries()]

    def blocked(a, axis):
        """[A,…] with entries along an axis -> [A,M',…], block by block: one copy a layer, however long the prompt."""
        pad = [(0, -a.shape[axis] % C if i == axis else 0) for i in range(4)]
        a = jnp.pad(a, pad)
        return jnp.moveaxis(a.reshape(*a.shape[:axis], -1, C, *a.shape[axis + 1 :]), axis, 1)

    def own(layers, prompts, mine, slot, source, count):
        def copy(i, layers):
            at = slot[i] - mine[0]
            here = (at >= 0) & (at < mine.shape[0])  # on a mesh another device's slots are passed over
            place = 0, jnp.where(here, at, 0), 0, 0, 0

            def put(a, new):
                new = jax.lax.dynamic_index_in_dim(new, source[i], 0, keepdims=False)[:, None]
                before = jax.lax.dynamic_slice(a, place, new.shape)
                return jax.lax.dynamic_update_slice(a, jnp.where(here, new, before), place)

            return tuple((put(k, pk), put(v, pv)) for (k, v), (pk, pv) in zip(layers, prompts, strict=True))

        return jax.lax.fori_loop(0, count, copy, layers)

    prompts = tuple(stored(blocked(k, 3), blocked(v, 2)) for k, v in prompts)
    mine = jnp.arange(layers[0][0].shape[1])
    return placed(sharding.by_rows(own, (1, None, 0, None, None, None), 1)(layers, prompts, mine, slot, source, count))


def take(layers: tuple[KV, ...], slot: jax.Array) -> tuple[KV, ...]:
    """The layers of slots slot i32[n], in this order: fewer of them, or more."""
    return placed(jax.tree.map(lambda a: jnp.take(a, slot, axis=1, mode='clip'), layers))
