"""Where arrays live: a mesh, and rules from logical axis names to mesh axes.

The model names its axes ('embed', 'heads', 'batch', …); `r1jax.config.Rules` alone says over which devices each is split. By default rows
are split over data × fsdp × expert and their tokens over sequence; weights over fsdp × expert × sequence (their width), tensor (heads,
hidden, vocabulary) and expert (experts). XLA inserts the collectives (GSPMD), but where a file writes them out.

`constrain` raises on a name it does not know: a misspelt axis would otherwise silently replicate an array.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from r1jax.config import AXES, MeshConfig, Rules

Logical = (
    str | tuple[str, ...] | None
)  # what a dimension is: one logical axis, several (the first the slowest), or nothing that is split

HOST, DEVICE = 'pinned_host', 'device'  # kinds of memory

_DEFAULT = Rules()
_rules: contextvars.ContextVar[Rules] = contextvars.ContextVar('rules', default=_DEFAULT)
_traced = [_DEFAULT]  # the rules that what is compiled was traced under
_NAMES = tuple(field.name for field in dataclasses.fields(Rules))
_TYPES = (AxisType.Auto,) * len(
    AXES
)  # not the default Explicit, under which an fsdp + tensor model fails at the embedding gather


def make_mesh(cfg: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Mesh of `cfg` over the first of `devices`, those that are here or those of a topology; where they are not all and it divides, over
    the first of each process, so that none stands idle.

    With `slices` each slice holds an equal part of the data axis; devices that do not say which slice is theirs are cut in order.

    Raises:
      ValueError: there are fewer devices or slices than asked for, or the slices are of unequal size.
    """
    shape, devices = _shape(cfg), list(jax.devices() if devices is None else devices)
    if cfg.devices > len(devices):
        raise ValueError(f'mesh {_told(cfg)} needs {cfg.devices} devices, {len(devices)} are here')
    if cfg.data % cfg.slices:
        raise ValueError(f'mesh.data={cfg.data} must be a multiple of mesh.slices={cfg.slices}, which it spans')
    slices: dict[int, list] = {}
    for each in devices:
        slices.setdefault(getattr(each, 'slice_index', 0), []).append(each)
    if cfg.slices > 1 and len(slices) > 1:
        chosen = [_first(slices[i], cfg.devices // cfg.slices) for i in sorted(slices)[: cfg.slices]]
        sizes = [len(each) for each in chosen]
        if len(sizes) < cfg.slices or sum(sizes) < cfg.devices:
            raise ValueError(
                f'mesh.slices={cfg.slices} of {cfg.devices // cfg.slices} devices each: here are {len(slices)} slices of '
                f'{", ".join(str(len(each)) for each in slices.values())} devices'
            )
        inner = (cfg.data // cfg.slices, *shape[1:])
        outer = (cfg.slices, *(1 for _ in shape[1:]))
        flat = [each for part in chosen for each in part]
        return Mesh(
            mesh_utils.create_hybrid_device_mesh(inner, outer, flat, allow_split_physical_axes=True),
            AXES,
            axis_types=_TYPES,
        )
    if cfg.slices == 1 and len(slices) > 1:  # one slice is enough, or it is not one network
        devices = slices[min(slices)]
        if cfg.devices > len(devices):
            raise ValueError(
                f'mesh {_told(cfg)} needs {cfg.devices} devices, but a slice has {len(devices)}: give mesh.slices, of {len(slices)} here'
            )
    # An axis may be a part of a side of the machine's torus, as 4 of 8
    placed = mesh_utils.create_device_mesh(shape, _first(devices, cfg.devices), allow_split_physical_axes=True)
    return Mesh(placed, AXES, axis_types=_TYPES)


def _first(devices: list[Any], count: int) -> list[Any]:
    by: dict[int, list] = {}
    for each in devices:
        by.setdefault(each.process_index, []).append(each)
    share, over = divmod(count, len(by))
    on_tpus = devices[0].platform == 'tpu'  # which compile nothing for a part of each host
    if on_tpus or over or any(len(part) < share for part in by.values()):
        return devices[:count]
    chosen = {each for part in by.values() for each in part[:share]}
    return [each for each in devices if each in chosen]


def abstract_mesh(cfg: MeshConfig) -> AbstractMesh:
    """The mesh of `cfg` without devices, to trace and to describe for."""
    return AbstractMesh(_shape(cfg), AXES, _TYPES)


def _shape(cfg):
    return tuple(getattr(cfg, axis) for axis in AXES)


def _told(cfg):
    return ', '.join(f'{axis}={getattr(cfg, axis)}' for axis in AXES if getattr(cfg, axis) > 1)


@contextlib.contextmanager
def using(cfg: MeshConfig) -> Iterator[Mesh]:
    """Within it arrays live on the mesh of `cfg`, by its rules."""
    mesh = make_mesh(cfg)
    with ruled(cfg.rules), jax.set_mesh(mesh):
        yield mesh


@contextlib.contextmanager
def ruled(rules: Rules) -> Iterator[None]:
    """Within it, what is traced goes by these rules. jax remembers under which mesh it traced a function, but not by which rules: where
    they change, it is made to forget what it traced.
    """
    before = _rules.set(rules)
    _retrace(rules)
    try:
        yield
    finally:
        _rules.reset(before)
        _retrace(_rules.get())


def _retrace(rules):
    if _traced[0] != rules:
        jax.clear_caches()
        _traced[0] = rules


def over(*logical: str, mesh: Mesh | AbstractMesh | None = None) -> tuple[str, ...]:
    """The mesh axes of more than one device that logical axes are split over, on `mesh` or where this is traced; none on one device.

    Raises:
      ValueError: an unknown name.
    """
    for name in logical:
        if name not in _NAMES:
            raise ValueError(f'unknown logical axis {name!r}; known: {", ".join(_NAMES)}')
    sizes = (jax.sharding.get_abstract_mesh() if mesh is None else mesh).shape
    rules = _rules.get()
    axes = dict.fromkeys(axis for name in logical for axis in getattr(rules, name))
    return tuple(axis for axis in axes if sizes.get(axis, 1) > 1)


def ways(*logical: str, mesh: Mesh | AbstractMesh | None = None) -> int:
    """Into how many parts logical axes are split together, on `mesh` or where this is traced."""
    sizes = (jax.sharding.get_abstract_mesh() if mesh is None else mesh).shape
    return math.prod(sizes[axis] for axis in over(*logical, mesh=mesh))


def dividing(logical: str, count: int, mesh: Mesh | AbstractMesh | None = None) -> str | None:
    """The logical axis for a dimension of so many entries: None where they do not divide over its devices, and are whole on each."""
    return None if count % ways(logical, mesh=mesh) else logical


def spec(*axes: Logical, mesh: Mesh | AbstractMesh | None = None) -> PartitionSpec:
    """PartitionSpec of logical axes, one entry a dimension, on `mesh` or where this is traced. A mesh axis goes to the first dimension
    that is split over it. ValueError on an unknown name.
    """
    taken: set[str] = set()
    parts: list[str | tuple[str, ...] | None] = []
    for each in axes:
        names = () if each is None else (each,) if isinstance(each, str) else each
        here = tuple(axis for axis in over(*names, mesh=mesh) if axis not in taken)
        taken.update(here)
        parts.append(here if len(here) > 1 else here[0] if here else None)
    return PartitionSpec(*parts)


def named(mesh: Mesh | AbstractMesh, *axes: Logical) -> NamedSharding:
    return NamedSharding(mesh, spec(*axes, mesh=mesh))


def in_memory(tree: Any, kind: str) -> Any:
    """A tree of NamedShardings of arrays in a kind of memory."""
    return jax.tree.map(lambda where: where.with_memory_kind(kind), tree)


def refuse_without_host_memory(mesh: Mesh, asking: str) -> None:
    """ValueError where devices cannot keep arrays in the host's memory, as `asking` wants it."""
    kinds = [each.kind for each in mesh.devices.flat[0].addressable_memories()]
    if HOST not in kinds:
        raise ValueError(
            f'{asking} needs devices with memory of the kind {HOST!r}; those of {mesh.devices.flat[0].platform!r} here have '
            f'{", ".join(kinds) or "none"}: leave it out'
        )


def size(axis: str) -> int:
    """Devices along a mesh axis where this is traced; 1 outside a mesh."""
    return jax.sharding.get_abstract_mesh().shape.get(axis, 1)


def platform() -> str:
    """'cpu', 'gpu' or 'tpu': what the program that is traced here will run on, the mesh's devices or else the default one."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device else jax.default_backend()


def constrain(x: jax.Array, *axes: Logical) -> jax.Array:
    """Pins `x` to the sharding of `axes`, one name a dimension; outside a mesh only the names are checked."""
    p = spec(*axes)
    if len(axes) != x.ndim:
        raise ValueError(f'{len(axes)} axes {axes} for an array of shape {x.shape}')
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, p)


def by_shard(fn: Callable, inputs: Sequence[tuple], outputs: Sequence[tuple]) -> Callable:
    """`fn` on each device's own shards, its collectives written out (`gather`, `scatter`, `total`, `largest`): for loops in which XLA
    would repeat a collective that is needed once. A tuple of `Logical` for each input and output, empty where it is whole on each device.
    Outside a mesh `fn` itself.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return fn
    into, out = (tuple(spec(*axes) for axes in each) for each in (inputs, outputs))
    return jax.shard_map(fn, in_specs=into, out_specs=out, check_vma=False)


def by_rows(fn: Callable, inputs: Sequence[int | None], outputs: int | tuple[int | None, ...] | None) -> Callable:
    """`fn` on each device's own rows, where the compiler would gather those of all; what is split over `tensor` is left to it.

    inputs, outputs: of each argument (a tree) and result, which axis of its arrays is the rows; None: it is whole on each device.
    """
    shards = over('batch')
    if not shards:
        return fn

    def split(axis):
        return PartitionSpec() if axis is None else PartitionSpec(*(None,) * axis, shards)

    out = tuple(map(split, outputs)) if isinstance(outputs, tuple) else split(outputs)
    return jax.shard_map(fn, in_specs=tuple(map(split, inputs)), out_specs=out, axis_names=set(shards), check_vma=False)


# Within `by_shard`. `logical`: the logical axis whose devices take part; without one that is split, nothing is done


def gather(x: jax.Array, logical: str, along: int, besides: str = '') -> jax.Array:
    """The shards along a logical axis, joined along a dimension. besides: another, which has the mesh axes that are its own too."""
    taken = over(besides) if besides else ()
    axes = tuple(axis for axis in over(logical) if axis not in taken)
    return jax.lax.all_gather(x, axes, axis=along, tiled=True) if axes else x


def scatter(x: jax.Array, logical: str, along: int, summed: Sequence[str]) -> jax.Array:
    """The sum over the logical axes `summed`, each device keeping its part of a dimension that is split as `logical`."""
    rest = over(*summed)
    for axis in over(logical):
        if axis in rest:
            x = jax.lax.psum_scatter(x, axis, scatter_dimension=along, tiled=True)
        else:  # each of its devices holds the same
            part = x.shape[along] // size(axis)
            x = jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(axis) * part, part, along)
    rest = tuple(axis for axis in rest if axis not in over(logical))
    return jax.lax.psum(x, rest) if rest else x


def total(x: Any, *logical: str) -> Any:
    """The sum over logical axes, of an array or of each of a tree."""
    return jax.lax.psum(x, axes) if (axes := over(*logical)) else x


def largest(x: jax.Array, logical: str) -> jax.Array:
    """The maximum over a logical axis."""
    return jax.lax.pmax(x, axes) if (axes := over(logical)) else x


def index(logical: str) -> jax.Array | int:
    """Which part along a logical axis this device holds."""
    return jax.lax.axis_index(axes) if (axes := over(logical)) else 0


def put(tree: Any, where: Any) -> Any:
    """Host arrays on the mesh, the same ones on every process, each of which hands over its own devices' parts alone.

    where: a sharding for all leaves, or a tree of them like `tree`. Arrays that are on a mesh already are moved.
    """
    if isinstance(where, jax.sharding.Sharding):
        where = jax.tree.map(lambda _: where, tree)
    if all(each.is_fully_addressable for each in jax.tree.leaves(where)):
        return jax.device_put(tree, where)

    def one(a, s):
        if isinstance(a, jax.Array) and not a.is_fully_addressable:
            return jax.device_put(a, s)
        a = np.asarray(a)
        return jax.make_array_from_callback(a.shape, s, lambda part: a[part])

    return jax.tree.map(one, tree, where)


def fetch(tree: Any) -> Any:
    """Arrays as whole NumPy arrays on every process. With many processes all have to ask, for the same and in the same order."""

    def one(a):
        whole = not isinstance(a, jax.Array) or a.is_fully_addressable or a.is_fully_replicated
        return np.asarray(a) if whole else multihost_utils.process_allgather(a, tiled=True)

    return jax.tree.map(one, tree)
