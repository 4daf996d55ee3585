"""From an opened file or folder to parameters: tensor by tensor, on the host or straight to its shards on a mesh.

A `Reader` has read everything but the weights, and has accounted for every tensor. `params` then takes one tensor at a time: reads
it, gives each device its slice, rearranged, and lets the devices convert it and put it into the leaf's place. So the host holds
two tensors (one is read ahead) beside what the devices hold; layers are stacked on the devices, in place.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from r1jax.config import ModelConfig
from r1jax.weights import safetensors
from r1jax.weights.table import Piece, Table


class Reader(abc.ABC):
    """An opened weights file or folder."""

    path: str
    config: ModelConfig
    table: Table
    skipped: Sequence[str] = ()  # kinds of tensors that were left out on purpose

    @property
    @abc.abstractmethod
    def tokenizer(self) -> Any:
        """A `r1jax.data.tokenizer.Tokenizer`, or None if there is none. ValueError if it is broken."""

    @property
    def generation(self) -> dict[str, Any]:
        """How responses are drawn by default, as generation_config.json has it."""
        return {}

    @abc.abstractmethod
    def dtype(self, name: str) -> np.dtype:
        """The type of a tensor as `read` gives it."""

    @abc.abstractmethod
    def read(self, name: str) -> np.ndarray:
        """A tensor, by its name in the file."""

    def stored(self, piece: Piece, experts: slice = slice(None)) -> np.ndarray:
        """A piece as it is stored, some experts of it where they have tensors of their own."""
        if '{expert}' in piece.tensor.name:
            return np.stack([self.read(name) for name in piece.names[experts]])
        return self.read(piece.names[0])

    def kind(self, path: tuple[str, ...], layer: int | None) -> np.dtype:
        """The type of a leaf's layer (None: of a leaf that has no layers): the one that holds all its tensors'."""
        return functools.reduce(np.promote_types, map(self.dtype, self._leaves[path][layer or 0].names))

    def leaf(self, path: tuple[str, ...], layer: int | None) -> np.ndarray:
        """A leaf's layer, as our parameters have it."""
        piece = self._leaves[path][layer or 0]
        return piece.tensor.to_leaf(self.stored(piece), self.table.sizes)

    @functools.cached_property
    def _leaves(self) -> dict[tuple[str, ...], list[Piece]]:
        return self.table.leaves()


def params(reader: Reader, shardings: Any = None, dtype: str | None = 'float32') -> dict[str, Any]:
    """The parameter tree.

    Args:
      shardings: a tree of NamedSharding like the parameters, see `r1jax.nn.transformer.shardings`; None: NumPy arrays on the host.
      dtype: of every parameter; None: as stored. float16 and bfloat16 are exact in float32.

    Raises:
      ValueError: a file changed since it was opened.
    """
    out: dict[str, Any] = {}
    for path, pieces in reader.table.leaves().items():
        kinds = [safetensors.named(dtype)] if dtype else [reader.kind(path, piece.layer) for piece in pieces]
        kind = functools.reduce(np.promote_types, kinds)
        inner = out
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        where = shardings
        for name in path if shardings is not None else ():
            where = where[name]
        inner[path[-1]] = _on_host(reader, pieces, kind) if where is None else _on_devices(reader, pieces, kind, where)
    return out


def _shape(reader: Reader, pieces: Sequence[Piece]) -> tuple[int, ...]:
    shape = pieces[0].tensor.leaf_shape(reader.table.sizes)
    return shape if pieces[0].layer is None else (len(pieces), *shape)


def _on_host(reader: Reader, pieces: Sequence[Piece], kind: np.dtype) -> np.ndarray:
    out = np.empty(_shape(reader, pieces), kind)
    for piece, stored in _ahead(pieces, reader.stored):
        out[() if piece.layer is None else piece.layer] = piece.tensor.to_leaf(stored, reader.table.sizes)
    return out


def _on_devices(reader: Reader, pieces: Sequence[Piece], kind: np.dtype, sharding: NamedSharding) -> jax.Array:
    tensor, sizes, stacked = pieces[0].tensor, reader.table.sizes, pieces[0].layer is not None
    split = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:])) if stacked else sharding
    shape, used = tensor.leaf_shape(sizes), slice(None)
    if '{expert}' in tensor.name:  # those that devices of this process need; they are the leaf's first axis
        ranges = [index[0].indices(shape[0]) for index in split.addressable_devices_indices_map(shape).values()]
        used = slice(min(low for low, _, _ in ranges), max(high for _, high, _ in ranges))

    def slices(stored: np.ndarray) -> jax.Array:
        """One layer on the mesh. A slice is a transposed view; the runtime copies it as fast as one that is not."""
        here = tensor.to_leaf(stored, sizes | ({'E': len(stored)} if used.stop else {}))

        def part(index):
            if used.stop:
                low, high, _ = index[0].indices(shape[0])
                index = (slice(low - used.start, high - used.start), *index[1:])
            return here[index]

        return jax.make_array_from_callback(shape, split, part)

    out = _empty((len(pieces), *shape), kind, sharding) if stacked else None
    for piece, stored in _ahead(pieces, lambda piece: reader.stored(piece, used)):
        layer = slices(stored)
        out = _placing(sharding)(out, layer, np.int32(piece.layer)) if stacked else layer.astype(kind)
        out.block_until_ready()  # else the host would run ahead with buffers that are still to be placed
    return out


def _empty(shape: tuple[int, ...], kind: np.dtype, sharding: NamedSharding) -> jax.Array:
    return jax.jit(lambda: jnp.zeros(shape, kind), out_shardings=sharding)()


@functools.lru_cache(maxsize=64)
def _placing(sharding: NamedSharding):
    """The leaf with a layer put at its place; on the devices, and in place."""

    def place(out, layer, i):
        put = jax.lax.dynamic_update_index_in_dim
        if layer.dtype == out.dtype and out.dtype.itemsize == 2:  # a CPU copies bits ten times as fast as bfloat16
            bits = functools.partial(jax.lax.bitcast_convert_type, new_dtype=jnp.uint16)
            return jax.lax.bitcast_convert_type(put(bits(out), bits(layer), i, 0), out.dtype)
        return put(out, layer.astype(out.dtype), i, 0)

    return jax.jit(place, donate_argnums=0, out_shardings=sharding)


def _ahead(pieces: Iterable[Piece], read) -> Iterator[tuple[Piece, np.ndarray]]:
    """Each piece with what is read for it; the next one is read meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        waiting: Any = None
        for piece in pieces:
            coming = piece, pool.submit(read, piece)
            if waiting:
                yield waiting[0], waiting[1].result()
            waiting = coming
        if waiting:
            yield waiting[0], waiting[1].result()
