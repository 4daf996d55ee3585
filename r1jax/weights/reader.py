"""From an opened file or folder to parameters: tensor by tensor, on the host or straight to its shards on a mesh.

A `Reader` has read everything but the weights, and has accounted for every tensor. `params` then takes one tensor at a time: reads
it, gives each device its slice as it is stored, and lets the devices rearrange and convert it into the leaf's place. So the host holds
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
from jax.sharding import NamedSharding

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

    def kind(self, piece: Piece) -> np.dtype:
        """The type of a piece: the one that holds all its tensors'."""
        return functools.reduce(np.promote_types, map(self.dtype, piece.names))

    def stored(self, piece: Piece, experts: slice = slice(None)) -> np.ndarray:
        """A piece as it is stored, some experts of it where they have tensors of their own."""
        if '{expert}' in piece.tensor.name:
            return np.stack([self.read(name) for name in piece.names[experts]])
        return self.read(piece.names[0])

    def leaf(self, piece: Piece) -> np.ndarray:
        """A piece as our parameters have it."""
        return piece.tensor.to_leaf(self.stored(piece), self.table.sizes)


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
        kind = safetensors.named(dtype) if dtype else functools.reduce(np.promote_types, map(reader.kind, pieces))
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
    axes = jax.sharding.PartitionSpec(*sharding.spec[1:]) if stacked else sharding.spec
    split = NamedSharding(sharding.mesh, tensor.stored_spec(axes))
    E = (len(pieces[0].names),) if '{expert}' in tensor.name else ()
    shape = (*E, *tensor.shape(sizes))
    used = slice(None)
    if E:  # the experts that devices of this process need
        ranges = [index[0].indices(*E)[:2] for index in split.addressable_devices_indices_map(shape).values()]
        used = slice(min(low for low, _ in ranges), max(high for _, high in ranges))

    def slices(stored: np.ndarray) -> jax.Array:
        def part(index):
            if E:
                low, high, _ = index[0].indices(*E)
                index = (slice(low - (used.start or 0), high - (used.start or 0)), *index[1:])
            return stored[index]

        return jax.make_array_from_callback(shape, split, part)

    place, empty = _placing(tensor, tuple(sizes.items()), kind, sharding, len(pieces) if stacked else None)
    out = empty()
    for piece, stored in _ahead(pieces, lambda piece: reader.stored(piece, used)):
        out = place(out, slices(stored), np.int32(piece.layer or 0))
        out.block_until_ready()  # else the host would run ahead with buffers that are still to be placed
    return out


@functools.lru_cache(maxsize=256)
def _placing(tensor, sizes, kind, sharding, layers: int | None):
    """Two compiled functions: the empty leaf, and the leaf with a stored tensor put at a layer."""
    sizes = dict(sizes)
    shape = tensor.leaf_shape(sizes)

    def place(out, stored, layer):
        piece = tensor.to_leaf(stored, sizes).astype(kind)
        return piece if layers is None else jax.lax.dynamic_update_index_in_dim(out, piece, layer, 0)

    def empty():
        return jnp.zeros(shape if layers is None else (layers, *shape), kind)

    # what belongs to no layer is the piece itself: there is nothing to put it into
    start = (lambda: None) if layers is None else jax.jit(empty, out_shardings=sharding)
    return jax.jit(place, donate_argnums=0, out_shardings=sharding), start


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
