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
    other ones: each piece of the fewer is then copied to, or from, as many devices of its process.

    Raises:
      ValueError: the two meshes share some devices and not all, their numbers do not divide, or a process has more than its share of one.
    """
    return received(sent(tree, where), where)


def sent(tree: Any, where: Any) -> Any:
    """The first half of `moved`, all that runs on the devices of the tree: it is on those of `where` then, if not cut as it should be."""
    if not (leaves := jax.tree.leaves(tree)):
        return tree
    old, mesh = leaves[0].sharding.mesh, jax.tree.leaves(where)[0].mesh
    ours, theirs = list(mesh.devices.flat), list(old.devices.flat)
    if set(ours) == set(theirs):
        return tree
    n, m, shared = len(ours), len(theirs), len(set(ours) & set(theirs))
    if shared or max(n, m) % min(n, m):
        raise ValueError(
            f'{m} devices cannot hand arrays to {n}, of which they share {shared}: all or none must be the same, and one number a multiple '
            'of the other'
        )
    if n >= m:  # copied as they are cut, and cut anew where they arrive
        return _copied(tree, _mirrored(jax.tree.map(lambda a: a.sharding, tree), ours))
    return _copied(received(tree, _mirrored(where, theirs)), where)


def received(tree: Any, where: Any) -> Any:
    """The second half, all that runs on the devices of `where`: the tree is on them already, and is cut as `where` says."""
    if not (leaves := jax.tree.leaves(tree)):
        return tree
    old, mesh = leaves[0].sharding.mesh, jax.tree.leaves(where)[0].mesh
    if old == mesh:
        return tree
    with jax.set_mesh(mesh):
        if list(old.devices.flat) != list(mesh.devices.flat):
            return jax.device_put(tree, where)  # which runs a program that exchanges the pieces
        return jax.jit(_same, out_shardings=where)(tree)  # the same by collectives


def _mirrored(where: Any, devices: list[Any]) -> Any:
    """The same shardings on other devices, several times if they are more: each piece on as many of the process that has it."""
    mesh = jax.tree.leaves(where)[0].mesh
    left: dict[int, list[Any]] = {}
    for each in devices:
        left.setdefault(each.process_index, []).append(each)
    mirrors = np.empty((len(devices) // mesh.size, mesh.size), object)
    for copy, i in np.ndindex(*mirrors.shape):
        here = left.get(mesh.devices.flat[i].process_index)
        if not here:
            raise ValueError('each process must have its equal share of both meshes, which hand arrays to each other')
        mirrors[copy, i] = here.pop(0)
    names = ('copy', *mesh.axis_names)
    mirror = Mesh(mirrors.reshape(-1, *mesh.devices.shape), names, axis_types=(AxisType.Auto,) * len(names))
    return jax.tree.map(lambda s: NamedSharding(mirror, s.spec), where)


def _copied(tree: Any, where: Any) -> Any:
    """On other devices, cut alike: each piece goes from a device to another of the same process, and no program runs."""

    def one(a, s):
        pieces = {_bounds(each.index, a.shape): each.data for each in a.addressable_shards}
        parts = s.addressable_devices_indices_map(a.shape)
        there = jax.device_put([pieces[_bounds(index, a.shape)] for index in parts.values()], list(parts))
        return jax.make_array_from_single_device_arrays(a.shape, s, there)

    return jax.tree.map(one, tree, where)


def _bounds(index: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    return tuple(part.indices(size) for part, size in zip(index, shape, strict=True))


def _same(tree: Any) -> Any:
    return tree


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
