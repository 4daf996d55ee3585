"""The key/value cache of long rows that come and go: a pool of pages, of which each row has as many as it has tokens to fill.

A page is `P` entries of every layer. A slot's row has a list of pages in the order of its tokens, and rows with the same prompt hold the
same pages of it (which pages are whose is decided on the host, `r1jax.sample.pool`). So memory is that of the tokens in flight, where
`r1jax.nn.slots` has the longest row's in every slot.

A token is written behind its row's last. A row is read page by page, each joined with what was read before by `merge`, up to its own end:
on a CPU one row after the other, elsewhere all rows side by side. So on a CPU a step costs what its rows' tokens cost; **and a row's bits
depend on its own entries alone**, by the argument of `r1jax.nn.slots`. On TPUs Pallas' paged attention reads them all in one call, where a
model's shape suits it.

Axes: S slots, M pages of a row at most, G pages of the pool, P entries of a page, A prompts, N query heads, K key/value heads, H head
dim, V value dim. Latent attention: see `r1jax.nn.cache`.
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

_LANES = 128  # of a TPU's registers: the kernel takes heads of a multiple of it
_TOGETHER = 8  # pages that the kernel reads at a time, about


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pages:
    """A cache as `r1jax.nn.cache.Cached` has it, of layers that are not stacked."""

    layers: tuple[KV, ...]  # keys [K,G,P,H] and values [K,G,P,V] of each layer
    table: jax.Array  # i32[S,M], pages of each slot's row in order; G behind the last, and where nobody is
    length: jax.Array  # i32[S], entries that hold keys

    def layer(self, i: int) -> KV:
        return self.layers[i]

    def attend(self, attend: Callable, q: Any, k: jax.Array, v: jax.Array, old: KV) -> tuple[jax.Array, KV]:
        """`Cached.attend`."""
        layer = write(old, k, v, self.table, self.length)
        if suits_kernel(q, layer):
            return by_kernel(q, layer, self.table, self.length), layer
        out, _ = by_pages(attend, q, layer, self.table, self.length)
        return out.swapaxes(1, 2), layer

    def grown(self, layers: tuple[KV, ...]) -> Pages:
        return dataclasses.replace(self, layers=layers, length=self.length + 1)

    def without(self, over: jax.Array) -> Pages:
        """Rows that are over, bool[S], leave: what they still write must not come into pages that others hold."""
        nowhere = self.layers[0][0].shape[1]
        table = jnp.where(over[:, None], nowhere, self.table)
        return dataclasses.replace(self, table=table, length=jnp.where(over, 0, self.length))


def write(kv: KV, k: jax.Array, v: jax.Array, table: jax.Array, at: jax.Array) -> KV:
    """A layer with a token's k [S,K,H,1] and v [S,K,1,V] in entry at[s] of each slot's row; nowhere if it has no page for it."""

    def own(kv, k, v, table, at, mine):
        (_, G, size, _) = kv[0].shape
        page = jnp.take_along_axis(table, (at // size)[:, None], 1, mode='fill', fill_value=-1)[:, 0] - mine[0]
        nowhere = G + jnp.arange(len(page))  # dropped, and each unlike the others
        page = jnp.where((page >= 0) & (page < G), page, nowhere)

        def put(pool, new):  # new [K,S,·]
            return pool.at[:, page, at % size].set(new, mode='drop', unique_indices=True)

        return put(kv[0], k[..., 0].swapaxes(0, 1)), put(kv[1], v[:, :, 0].swapaxes(0, 1))

    return sharding.by_rows(own, (1, 0, 0, 0, 0, 0), 1)(kv, k, v, table, at, jnp.arange(kv[0].shape[1]))


def by_pages(attend: Callable, q: Any, kv: KV, table: jax.Array, length: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Attention of each row to its entries 0 … length[s], page by page: q, an array [S,N,1,·] or several, as `attend` takes it.

    Returns out f32[S,N,1,V] and logsumexp f32[S,N,1]; nothing for a slot without pages.
    """

    def own(q, kv, table, length, mine):
        return _by_pages(attend, q, kv, table - mine[0], length)

    return sharding.by_rows(own, (0, 1, 0, 0, 0), (0, 0))(q, kv, table, length, jnp.arange(kv[0].shape[1]))


def _by_pages(attend, q, kv, table, length):
    S, (_, G, size, _) = table.shape[0], kv[0].shape
    N = jax.tree.leaves(q)[0].shape[1]
    used = jnp.where(table[:, 0] < G, length // size + 1, 0)
    together = 1 if sharding.platform() == 'cpu' else S

    def rows(i, read):
        def mine(a):
            return jax.lax.dynamic_slice_in_dim(a, i * together, together)

        q_, table_, length_, used_ = jax.tree.map(mine, (q, table, length, used))

        def join(m, read):
            page = jnp.minimum(jax.lax.dynamic_index_in_dim(table_, m, 1, keepdims=False), G - 1)
            keys, values = (jnp.take(a, page, 1, mode='clip').swapaxes(0, 1) for a in kv)  # [rows,K,P,·]
            here = (m < used_)[:, None] & (m * size + jnp.arange(size) <= length_[:, None])
            return merge(read, attend(q_, keys.swapaxes(2, 3), values, here[:, None]))

        out = jax.lax.fori_loop(0, used_.max(), join, jax.tree.map(mine, nothing))
        put = jax.lax.dynamic_update_slice_in_dim
        return tuple(put(a, b, i * together, 0) for a, b in zip(read, out, strict=True))

    nothing = jnp.zeros((S, N, 1, kv[1].shape[-1]), jnp.float32), jnp.full((S, N, 1), NONE, jnp.float32)
    return jax.lax.fori_loop(0, S // together, rows, nothing)


def suits_kernel(q: Any, kv: KV) -> bool:
    """Whether this will run on TPUs, and Pallas' kernel takes a model of this shape: heads of a multiple of 128, and keys apart from
    values (latent attention has one for both).
    """
    keys, values = kv
    if sharding.platform() != 'tpu' or not isinstance(q, jax.Array):
        return False
    return keys.shape == values.shape and keys.shape[-1] % _LANES == 0 and not keys.shape[0] % sharding.ways('kv_heads')


def by_kernel(q: jax.Array, kv: KV, table: jax.Array, length: jax.Array) -> jax.Array:
    """f32[S,1,N,V] as `by_pages` by Pallas' paged attention: q [S,N,1,H]."""
    from jax.experimental.pallas.ops.tpu.paged_attention import paged_attention

    M = table.shape[1]
    together = next(n for n in range(min(_TOGETHER, M), 0, -1) if M % n == 0)

    def heads(q, keys, values, table, length, mine):
        table = jnp.minimum(table - mine[0], keys.shape[1] - 1)
        return (paged_attention(q, keys, values, length + 1, table, pages_per_compute_block=together),)

    pool, rows = ('kv_heads', 'batch', None, None), ('batch', 'heads', None)
    run = sharding.by_shard(heads, (rows, pool, pool, ('batch', None), ('batch',), ('batch',)), (rows,))
    scaled = (q[:, :, 0] * q.shape[-1] ** -0.5).astype(kv[0].dtype)  # the kernel does not
    return run(scaled, *kv, table, length, jnp.arange(kv[0].shape[1]))[0][:, None].astype(jnp.float32)


def empty(prompts: Sequence[tuple[Like, Like]], pages: int, size: int) -> tuple[KV, ...]:
    """Layers of so many pages of `size` entries for keys and values like those of `prompts`, keys [A,K,H,P] and values [A,K,P,V]
    (arrays or their shapes), on the mesh.
    """

    def zeros(k, v):
        (_, K, H, _), V = k.shape, v.shape[-1]
        return jnp.zeros((K, pages, size, H), k.dtype), jnp.zeros((K, pages, size, V), v.dtype)

    return placed(tuple(zeros(k, v) for k, v in prompts))


def placed(layers: tuple[KV, ...]) -> tuple[KV, ...]:
    """The layers where they live on the mesh: pages with the rows that hold them, heads as far as they divide."""

    def place(a):
        heads = 'kv_heads' if a.shape[0] % sharding.ways('kv_heads') == 0 else None
        return sharding.constrain(a, heads, 'batch', None, None)

    return jax.tree.map(place, layers)


def admit(
    layers: tuple[KV, ...],
    prompts: tuple[KV, ...],
    page: jax.Array,
    source: jax.Array,
    first: jax.Array,
    count: jax.Array,
) -> tuple[KV, ...]:
    """The layers with parts of prompts copied into pages: of prompt source[i] (keys [A,K,H,P'] and values [A,K,P',V] of each layer) the
    entries from first[i] on into page[i], for i < count. page, source, first: i32[n].
    """
    size = layers[0][0].shape[2]

    def own(layers, whole, mine, page, source, first, count):
        def copy(i, layers):
            at = page[i] - mine[0]
            here = (at >= 0) & (at < mine.shape[0])  # on a mesh another device's pages are passed over
            place = 0, jnp.where(here, at, 0), 0, 0

            def put(pool, prompt):  # prompt [A,K,P',·], so long that no part reaches beyond it
                part = (1, *prompt.shape[1:2], size, prompt.shape[-1])
                new = jax.lax.dynamic_slice(prompt, (source[i], 0, first[i], 0), part).swapaxes(0, 1)
                before = jax.lax.dynamic_slice(pool, place, new.shape)
                return jax.lax.dynamic_update_slice(pool, jnp.where(here, new, before), place)

            return tuple((put(a, k), put(b, v)) for (a, b), (k, v) in zip(layers, whole, strict=True))

        return jax.lax.fori_loop(0, count, copy, layers)

    def padded(a):
        return jnp.pad(a, ((0, 0), (0, 0), (0, -a.shape[2] % size), (0, 0)))

    whole = tuple((padded(k.swapaxes(2, 3)), padded(v)) for k, v in prompts)
    mine, inputs = jnp.arange(layers[0][0].shape[1]), (1, None, 0, None, None, None, None)
    return placed(sharding.by_rows(own, inputs, 1)(layers, whole, mine, page, source, first, count))


def lifted(layers: tuple[KV, ...], page: jax.Array) -> tuple[KV, ...]:
    """What pages i32[n] hold, in their order and as `admit` takes it: keys [1,K,H,n·P] and values [1,K,n·P,V] of each layer, whole on each
    device.
    """

    def own(layers, mine, page):
        at = page - mine[0]
        here = (at >= 0) & (at < mine.shape[0])

        def take(pool):  # [K,G,P,·] -> [1,K,n·P,·]
            some = jnp.where(here[:, None, None], jnp.take(pool, at, 1, mode='clip'), 0)
            some = sharding.total(some, 'batch')  # one device has it, the others nothing
            return some.reshape(1, some.shape[0], -1, some.shape[-1])

        return tuple((take(k).swapaxes(2, 3), take(v)) for k, v in layers)

    out = sharding.by_rows(own, (1, 0, None), None)(layers, jnp.arange(layers[0][0].shape[1]), page)
    return jax.tree.map(lambda a: sharding.constrain(a, *(None,) * 4), out)
