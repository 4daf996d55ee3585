"""Experts on several devices: each token goes to the devices that hold its experts, and what they make of it comes back.

`passed` is that one function, and drops no token. Two forms of it:

- `by_ragged`, on TPUs and GPUs: a ragged all-to-all sends each row where it belongs, and a second one back. What comes is at most all rows
  of all devices, and a buffer of that size would be as large as the experts' axis is long. So tokens go in chunks: those of one chunk may
  all meet at one device and yet need but twice the room that its own tokens take (`chunks`).
- `by_gather`, where XLA has no ragged all-to-all (CPUs): everybody gets all tokens, computes those of its experts, and a reduce-scatter
  adds them up. The tests compare the two, the first with a ragged all-to-all written in other collectives.

Both are called within `sharding.by_shard`, with what lies on one device. Rows travel in the type that products take.

Axes: M tokens of a device, k experts of a token, E experts, of which e are on a device, X devices along `expert`, D width.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from r1jax import sharding

# What the experts of a device do with rows in their order: (rows [n,D], sizes i32[e], of_row i32[n]) -> f32[n,D]; rows of each expert, the
# expert of each row, and e for rows that are nobody's, which stand behind all others and give 0
Experts = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

_ROOM = 8192  # rows that may meet at a device however few tokens there are: decoding has its tokens in one chunk


def passed(
    h: jax.Array, to: jax.Array, weight: jax.Array, count: int, through: Experts, dtype: str, ragged: bool
) -> jax.Array:
    """f32[M,D]: the sum of each token's experts, weighted. h [M,D]; to i32[M,k], an expert below `count`, or `count` for none; weight
    [M,k]. ragged: whether the platform has a ragged all-to-all.
    """
    if sharding.ways('expert') == 1:
        return mixed(h, to, weight, count, through)
    form = by_ragged if ragged else by_gather
    one = functools.partial(form, count=count, through=through, dtype=dtype)
    n = chunks(to.shape[0], to.shape[1], count)
    if n == 1:
        return one(h, to, weight)
    M = h.shape[0]
    pad = ((0, -M % n), (0, 0))
    padded = jnp.pad(h, pad), jnp.pad(to, pad, constant_values=count), jnp.pad(weight, pad)
    parts = tuple(a.reshape(n, -1, a.shape[-1]) for a in padded)
    # Kept for the backward pass, the rooms of all chunks would be what chunks are there to avoid
    out = jax.lax.map(jax.checkpoint(lambda a: one(*a)), parts)
    return out.reshape(-1, h.shape[-1])[:M]


def chunks(M: int, k: int, count: int) -> int:
    """In how many chunks M tokens go, so that what may meet at a device is at most twice its own rows."""
    X = sharding.ways('expert')
    most = X * M * min(k, count // X)
    return max(1, min(M, -(-most // max(2 * M * k, _ROOM))))


def mixed(h: jax.Array, to: jax.Array, weight: jax.Array, count: int, through: Experts) -> jax.Array:
    """`passed` by experts that are all here."""
    k = to.shape[1]
    order, back, sizes, of_row = _sorted(to.reshape(-1), count)
    y = through(deal(h, order, back, k), sizes, of_row)
    return jnp.sum(deal(y, back, order, 1).reshape(-1, k, h.shape[-1]) * weight[..., None], 1)


def _sorted(to, count):
    """The order of rows by expert, the way back, rows of each expert, and the expert of each row in order."""
    order = jnp.argsort(to, stable=True)
    back = jnp.zeros_like(order).at[order].set(jnp.arange(order.size, dtype=order.dtype), unique_indices=True)
    return order, back, jnp.bincount(to, length=count).astype(jnp.int32), to[order]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def deal(x: jax.Array, order: jax.Array, back: jax.Array, k: int) -> jax.Array:
    """Row order[i] // k of x [M,D] as row i, [M·k,D]. `back` inverts `order`, so that the gradient is a gather too, not a scatter."""
    return x[order // k]


def _deal_backward(k, back, g):
    return g[back].reshape(-1, k, g.shape[-1]).sum(1), None, None


deal.defvjp(lambda x, order, back, k: (deal(x, order, back, k), back), _deal_backward)


# --- by gather and reduce-scatter


def by_gather(h: jax.Array, to: jax.Array, weight: jax.Array, *, count: int, through: Experts, dtype: str) -> jax.Array:
    """`passed` of one chunk."""
    h, to, weight = (sharding.gather(a, 'expert', 0) for a in (h.astype(dtype), to, weight))
    here = count // sharding.ways('expert')
    mine = to - sharding.index('expert') * here
    out = mixed(h, jnp.where((mine >= 0) & (mine < here), mine, here), weight, here, through)
    return sharding.scatter(out, 'expert', 0, ('expert',))


# --- by ragged all-to-all


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Route:
    """What goes from each device along `expert` to each: i32[X] each, as `jax.lax.ragged_all_to_all` takes them."""

    start: jax.Array  # where this device's rows for d begin
    sent: jax.Array  # and how many they are
    landing: jax.Array  # where they begin at d
    taken: jax.Array  # rows from s

    @classmethod
    def of(cls, moved: jax.Array, me: jax.Array | int) -> Route:
        """moved i32[X,X]: rows from s to d. Here they stand by destination, there by origin."""
        return cls(_before(moved[me]), moved[me], _before(moved.T)[:, me], moved[:, me])

    @classmethod
    def back(cls, moved: jax.Array, me: jax.Array | int) -> Route:
        """The way back."""
        return cls(_before(moved[:, me]), moved[:, me], _before(moved)[:, me], moved[me])


def _before(sizes):
    """Exclusive sums along the last axis."""
    return jnp.cumsum(sizes, -1, dtype=jnp.int32) - sizes


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def exchange(rooms: tuple[int, int], x: jax.Array, there: Route, back: Route) -> jax.Array:
    """Rows [n,D] sent by `there`, as they come to stand, [room,D], 0 behind them. Their gradient goes `back`. rooms: n and room."""
    out = jnp.zeros((rooms[1], x.shape[1]), x.dtype)
    where = there.start, there.sent, there.landing, there.taken
    axes = sharding.over('expert')
    return jax.lax.ragged_all_to_all(x, out, *where, axis_name=axes[0] if len(axes) == 1 else axes)


exchange.defvjp(
    lambda rooms, x, there, back: (exchange(rooms, x, there, back), (there, back)),
    lambda rooms, ways, g: (exchange(rooms[::-1], g, *ways[::-1]), None, None),
)


def by_ragged(h: jax.Array, to: jax.Array, weight: jax.Array, *, count: int, through: Experts, dtype: str) -> jax.Array:
    """`passed` of one chunk."""
    (M, k), X, me = to.shape, sharding.ways('expert'), sharding.index('expert')
    e = count // X
    order, back, sizes, _ = _sorted(to.reshape(-1), count)  # by expert, and so by the device that has it; nobody's stay
    sizes = jax.lax.all_gather(sizes, sharding.over('expert')).reshape(X, X, e)  # rows from s for each expert of d
    moved, coming = sizes.sum(2), sizes[:, me]
    there, home = Route.of(moved, me), Route.back(moved, me)
    room = X * M * min(k, e)
    x = exchange((M * k, room), deal(h.astype(dtype), order, back, k), there, home)
    # They stand by where they come from, and by expert within: now by expert
    ends = jnp.cumsum(coming.reshape(-1))
    piece = jnp.searchsorted(ends, jnp.arange(room), side='right')
    of_row = jnp.where(piece < X * e, piece % e, e)
    order_here, back_here, mine, of_row = _sorted(of_row, e)
    y = through(deal(x, order_here, back_here, 1), mine, of_row).astype(dtype)
    y = exchange((room, M * k), deal(y, back_here, order_here, 1), home, there)
    y = deal(y, back, order, 1).reshape(M, k, -1).astype(jnp.float32)
    return jnp.sum(y * weight[..., None], 1)
