"""From one mesh to another: the layout that trains and the one that samples hold the same arrays, each split in its own way.

The rules are the same (`r1jax.sharding`), but another mesh gives another split: by fsdp 8 each chip holds an eighth of a weight's width, by
data 4 × tensor 2 half of its heads. Arrays go from device to device. `device_put` alone would read those whole to the host whose pieces
are cut otherwise (jax 0.10 and 0.12), so here it only ever meets pieces that are cut alike.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from r1jax import sharding
from r1jax.config import MeshConfig

T = TypeVar('T')


def relaid(mesh: Mesh, cfg: MeshConfig) -> Mesh:
    """The devices of a mesh in another shape. ValueError: it has another number of them."""
    devices = list(mesh.devices.flat)
    if cfg.devices != len(devices):
        raise ValueError(
            f'{cfg} lays out {cfg.devices} devices, and the mesh that it takes them from has {len(devices)}'
        )
    return sharding.make_mesh(cfg, devices)


def moved(tree: Any, where: Any) -> Any:
    """The arrays of a tree on another mesh, with these NamedShardings; the tree itself where it is on that mesh.

    The devices are those of the tree's mesh, or all others. If they are others, the number of the ones must be a multiple of that of the
    other ones: each piece of the fewer is then copied to, or from, as many devices.

    Raises:
      ValueError: the two meshes share some devices and not all, or their numbers do not divide.
    """
    leaves = jax.tree.leaves(tree)
    if not leaves:
        return tree
    old, mesh = leaves[0].sharding.mesh, jax.tree.leaves(where)[0].mesh
    if old == mesh:
        return tree
    ours, theirs = list(mesh.devices.flat), list(old.devices.flat)
    if ours == theirs:
        return _resharded(tree, where)
    if set(ours) == set(theirs):  # in another order: `device_put` then runs a program that exchanges the pieces
        with jax.set_mesh(mesh):
            return jax.device_put(tree, where)
    n, m, shared = len(ours), len(theirs), len(set(ours) & set(theirs))
    if shared or max(n, m) % min(n, m):
        raise ValueError(
            f'{m} devices cannot hand arrays to {n}, of which they share {shared}: all or none must be the same, and one number a multiple '
            'of the other'
        )
    if n >= m:  # copied as they are cut, and cut anew where they arrive
        as_cut = jax.tree.map(lambda a: a.sharding, tree)
        return _resharded(jax.device_put(tree, _mirrored(as_cut, ours)), where)
    return jax.device_put(_resharded(tree, _mirrored(where, theirs)), where)


def _mirrored(where: Any, devices: list[Any]) -> Any:
    """The same shardings on other devices, several times if they are more."""
    mesh = jax.tree.leaves(where)[0].mesh
    shape = (len(devices) // mesh.size, *mesh.devices.shape)
    names = ('copy', *mesh.axis_names)
    mirror = Mesh(np.array(devices).reshape(shape), names, axis_types=(AxisType.Auto,) * len(names))
    return jax.tree.map(lambda s: NamedSharding(mirror, s.spec), where)


def _same(tree: Any) -> Any:
    return tree


def _resharded(tree: Any, where: Any) -> Any:
    """On the same devices in the same order: one program, of the collectives that exchange what has to be elsewhere."""
    with jax.set_mesh(jax.tree.leaves(where)[0].mesh):
        return jax.jit(_same, out_shardings=where)(tree)


def on(mesh: Mesh, rows: Generator[T]) -> Iterator[T]:
    """What an iterator gives, with the mesh set while it works and not between."""
    end: Any = object()
    with contextlib.closing(rows):
        while True:
            with jax.set_mesh(mesh):
                row = next(rows, end)
            if row is end:
                return
            yield row
