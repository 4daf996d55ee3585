"""Bytes of arrays on one chip, known from their shapes and from how they are split."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np


def on_chip(tree: Any) -> int:
    """Bytes of a tree of arrays, or of their shapes, in one chip's memory; what has no sharding is whole on each, and what is kept in the
    host's memory takes none.
    """
    return sum(map(_bytes, jax.tree.leaves(tree)))


def _bytes(a: Any) -> int:
    where = getattr(a, 'sharding', None)
    if where is not None and where.memory_kind not in (None, 'device'):
        return 0
    shape = where.shard_shape(a.shape) if where is not None else np.shape(a)
    if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
        data = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct((), a.dtype))
        return math.prod(shape) * math.prod(data.shape) * data.dtype.itemsize
    return math.prod(shape) * a.dtype.itemsize


def described(outputs: Any, where: Any) -> Any:
    """Shapes of what a program gives, with the shardings that it gives them."""
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), outputs, where)


def used(args: Iterable[Any], where: Any) -> int:
    """Bytes on a chip of the arguments that a program has not dropped as unused: `where`, their shardings, is None for those."""

    def none(x):
        return x is None

    pairs = zip(*(jax.tree.leaves(tree, is_leaf=none) for tree in (args, where)), strict=True)
    return sum(_bytes(_placed(a, s)) for a, s in pairs if a is not None and s is not None)


def _placed(a, where):
    """As an array is described: by its own sharding, or by that which the compiler chose."""
    own = getattr(a, 'sharding', None)
    return a if own is not None else jax.ShapeDtypeStruct(np.shape(a), a.dtype, sharding=where)
