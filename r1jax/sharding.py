"""Where arrays live: a mesh, and rules from logical axis names to mesh axes.

The model names its axes ('embed', 'heads', 'batch', …); this file alone says over which devices each is split. Rows are split over
data × fsdp, weights over fsdp (their width) and tensor (heads, hidden, vocabulary). XLA inserts the collectives (GSPMD).

`constrain` raises on a name it does not know: a misspelt axis would otherwise silently replicate an array.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from r1jax.config import MeshConfig

RULES: dict[str, str | tuple[str, ...] | None] = {
    'batch': ('data', 'fsdp'),
    'embed': 'fsdp',
    'vocab': 'tensor',
    'heads': 'tensor',
    'kv_heads': 'tensor',
    'hidden': 'tensor',
    'head_dim': None,
    'latent': None,
    'expert': None,  # experts are whole on each device of data × tensor, their width over fsdp; an axis of their own is left for pods
    'rank': None,
    'layers': None,
    'length': None,
    'micro': None,
    'norm': None,
}


def make_mesh(cfg: MeshConfig) -> Mesh:
    """Mesh of `cfg` over the first data·fsdp·tensor devices. ValueError if there are fewer."""
    shape = (cfg.data, cfg.fsdp, cfg.tensor)
    need, devices = int(np.prod(shape)), jax.devices()
    if need > len(devices):
        raise ValueError(f'mesh {cfg} needs {need} devices, {len(devices)} are here')
    # Auto, not the default Explicit: under Explicit an fsdp + tensor model fails at the embedding gather.
    return jax.make_mesh(shape, ('data', 'fsdp', 'tensor'), (AxisType.Auto,) * 3, devices=devices[:need])


def spec(*axes: str | None) -> PartitionSpec:
    """PartitionSpec of logical axes. ValueError on an unknown name."""
    for a in axes:
        if a is not None and a not in RULES:
            raise ValueError(f'unknown logical axis {a!r}; known: {", ".join(RULES)}')
    return PartitionSpec(*(None if a is None else RULES[a] for a in axes))


def named(mesh: Mesh, *axes: str | None) -> NamedSharding:
    return NamedSharding(mesh, spec(*axes))


def size(axis: str) -> int:
    """Devices along a mesh axis where this is traced; 1 outside a mesh."""
    return jax.sharding.get_abstract_mesh().shape.get(axis, 1)


def platform() -> str:
    """'cpu', 'gpu' or 'tpu': what the program that is traced here will run on, the mesh's devices or else the default one."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device else jax.default_backend()


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pins `x` to the sharding of `axes`, one name a dimension; outside a mesh only the names are checked."""
    p = spec(*axes)
    if len(axes) != x.ndim:
        raise ValueError(f'{len(axes)} axes {axes} for an array of shape {x.shape}')
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, p)


def by_shard(fn: Callable, inputs: Sequence[tuple], outputs: Sequence[tuple]) -> Callable:
    """`fn` on each device's own shards, its collectives written out (`gather`, `scatter`, `total`, `largest`): for loops in which XLA
    would repeat a collective that is needed once. A tuple of logical axes for each input and output. Outside a mesh `fn` itself.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return fn
    into, out = (tuple(spec(*axes) for axes in each) for each in (inputs, outputs))
    return jax.shard_map(fn, in_specs=into, out_specs=out, check_vma=False)


def rows_split() -> tuple[str, ...]:
    """The mesh axes that rows are really split over where this is traced; none on one device."""
    return tuple(a for a in RULES['batch'] if size(a) > 1)


def by_rows(fn: Callable, inputs: Sequence[int | None], outputs: int | tuple[int | None, ...] | None) -> Callable:
    """`fn` on each device's own rows, where the compiler would gather those of all; what is split over `tensor` is left to it.

    inputs, outputs: of each argument (a tree) and result, which axis of its arrays is the rows; None: it is whole on each device.
    """
    shards = rows_split()
    if not shards:
        return fn

    def split(axis):
        return PartitionSpec() if axis is None else PartitionSpec(*(None,) * axis, shards)

    out = tuple(map(split, outputs)) if isinstance(outputs, tuple) else split(outputs)
    return jax.shard_map(fn, in_specs=tuple(map(split, inputs)), out_specs=out, axis_names=set(shards), check_vma=False)


def gather(x: jax.Array, axis: str, along: int) -> jax.Array:
    """Within `by_shard`: the shards of a mesh axis, joined along a dimension."""
    return x if size(axis) == 1 else jax.lax.all_gather(x, axis, axis=along, tiled=True)


def scatter(x: jax.Array, axis: str, along: int) -> jax.Array:
    """Within `by_shard`: the sum over a mesh axis, each device keeping its part of a dimension."""
    return x if size(axis) == 1 else jax.lax.psum_scatter(x, axis, scatter_dimension=along, tiled=True)


def total(x: Any, axis: str) -> Any:
    """Within `by_shard`: the sum over a mesh axis, of an array or of each of a tree."""
    return x if size(axis) == 1 else jax.lax.psum(x, axis)


def largest(x: jax.Array, axis: str) -> jax.Array:
    """Within `by_shard`: the maximum over a mesh axis."""
    return x if size(axis) == 1 else jax.lax.pmax(x, axis)


def index(axis: str) -> jax.Array | int:
    """Within `by_shard`: which part of a mesh axis this device holds."""
    return 0 if size(axis) == 1 else jax.lax.axis_index(axis)
