"""From an opened file or folder to parameters: by blocks of rows, on the host or straight to their shards on a mesh.

A `Reader` has read everything but the weights, and has accounted for every tensor. `params` then fills arrays, some layers at once in
threads. A block of rows of a stored tensor, small enough for a core's cache, is read, converted, and put, rearranged, into each array
whose part of the leaf it belongs to. So next to nothing is held beside the parameters, and they are written once.

On CPUs those arrays are the devices' memory: they are handed over without a copy. Other devices get a layer at a time, which is put
into the leaf's place on the device, in place; the next layers are filled meanwhile.
"""

from __future__ import annotations

import abc
import collections
import functools
import math
import mmap
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from r1jax.config import ModelConfig
from r1jax.weights import safetensors
from r1jax.weights.table import Piece, Table

Index = tuple[tuple[int, int], ...]  # a part of a leaf's layer: from where to where along each axis

_THREADS = 8  # at most; what they do is copy
_AHEAD = 2  # layers that are filled beside the one that is placed
_LINE = 64  # bytes of a line of a CPU's cache


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

    def rows(self, name: str, unit: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        """The tensor by blocks of rows, each a multiple of `unit` rows, with the index of its first; the next may overwrite it."""
        yield 0, self.read(name)

    def kind(self, path: tuple[str, ...], layer: int | None) -> np.dtype:
        """The type of a leaf's layer (None: of a leaf that has no layers): the one that holds all its tensors'."""
        return functools.reduce(np.promote_types, map(self.dtype, self._leaves[path][layer or 0].names))

    def leaf(self, path: tuple[str, ...], layer: int | None) -> np.ndarray:
        """A leaf's layer, as our parameters have it."""
        piece = self._leaves[path][layer or 0]
        experts = '{expert}' in piece.tensor.name
        stored = np.stack([self.read(name) for name in piece.names]) if experts else self.read(piece.names[0])
        return piece.tensor.to_leaf(stored, self.table.sizes)

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
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        coming = {}
        try:
            for leaf in _leaves(reader, shardings, dtype):
                coming[leaf.path] = (_in_place if leaf.in_place else _by_layers)(pool, reader, leaf)
            return _tree({path: made() for path, made in coming.items()})
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def described(reader: Reader, shardings: Any = None, dtype: str | None = 'float32') -> dict[str, Any]:
    """What `params` will give, as ShapeDtypeStructs: enough to compile for."""
    leaves = _leaves(reader, shardings, dtype)
    return _tree({leaf.path: jax.ShapeDtypeStruct(leaf.shape, leaf.kind, sharding=leaf.sharding) for leaf in leaves})


class _Leaf(NamedTuple):
    """A leaf that will be read."""

    path: tuple[str, ...]
    pieces: Sequence[Piece]
    one: tuple[int, ...]  # shape of one layer of it; of all where it has no layers
    kind: np.dtype
    sharding: NamedSharding | None  # None: a NumPy array

    @property
    def stacked(self) -> bool:
        return self.pieces[0].layer is not None

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.pieces), *self.one) if self.stacked else self.one

    @property
    def in_place(self) -> bool:
        """Whether it will lie in the host's memory."""
        return self.sharding is None or all(
            device.platform == 'cpu'  # type: ignore[attr-defined]  # jax has no types of devices
            for device in self.sharding.device_set
        )

    @property
    def of_layer(self) -> NamedSharding:
        """As `sharding`, of one layer."""
        where = self.sharding
        return NamedSharding(where.mesh, PartitionSpec(*where.spec[1:])) if self.stacked else where

    def parts(self) -> dict[Any, Index]:
        """Which part of each layer a device of this process holds; the host (None) holds it whole."""
        if self.sharding is None:
            return {None: tuple((0, n) for n in self.one)}
        indices = self.of_layer.addressable_devices_indices_map(self.one)
        return {
            device: tuple(each.indices(n)[:2] for each, n in zip(index, self.one, strict=True))
            for device, index in indices.items()
        }


def _leaves(reader: Reader, shardings: Any, dtype: str | None) -> Iterator[_Leaf]:
    for path, pieces in reader.table.leaves().items():
        kinds = [safetensors.named(dtype)] if dtype else [reader.kind(path, piece.layer) for piece in pieces]
        where = shardings
        for name in path if shardings is not None else ():
            where = where[name]
        one = pieces[0].tensor.leaf_shape(reader.table.sizes)
        yield _Leaf(path, pieces, one, functools.reduce(np.promote_types, kinds), where)


def _tree(leaves: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for path, leaf in leaves.items():
        inner = out
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        inner[path[-1]] = leaf
    return out


def _size(index: Index) -> tuple[int, ...]:
    return tuple(high - low for low, high in index)


def _in_place(pool: ThreadPoolExecutor, reader: Reader, leaf: _Leaf) -> Callable[[], Any]:
    """Begins to fill a leaf in the host's memory; returns a function that waits until it is there."""
    parts, layers = leaf.parts(), leaf.shape[: leaf.stacked]
    memory = {index: _new((*layers, *_size(index)), leaf.kind) for index in set(parts.values())}
    filling = [
        pool.submit(
            _fill, reader, piece, {i: array[piece.layer] if leaf.stacked else array for i, array in memory.items()}
        )
        for piece in leaf.pieces
    ]

    def made():
        for each in filling:
            each.result()
        if leaf.sharding is None:
            return memory[parts[None]]
        # Devices that hold the same part share its memory. It is not theirs: one that is asked to donate it makes a copy
        arrays = [jax.device_put(memory[index], device) for device, index in parts.items()]
        return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, arrays)

    return made


def _by_layers(pool: ThreadPoolExecutor, reader: Reader, leaf: _Leaf) -> Callable[[], jax.Array]:
    """As `_in_place`, for devices with memory of their own; nothing is begun before it is waited for."""
    parts = leaf.parts()

    def filled(piece: Piece) -> list[jax.Array]:
        memory = {index: np.empty(_size(index), leaf.kind) for index in set(parts.values())}
        _fill(reader, piece, memory)
        return [jax.device_put(memory[index], device) for device, index in parts.items()]

    def made():
        out = _empty(leaf.shape, leaf.kind, leaf.sharding) if leaf.stacked else None
        for piece, arrays in _ahead(pool, filled, leaf.pieces):
            layer = jax.make_array_from_single_device_arrays(leaf.one, leaf.of_layer, arrays)
            out = _placing(leaf.sharding)(out, layer, np.int32(piece.layer)) if leaf.stacked else layer
            out.block_until_ready()  # else the host would run ahead with buffers that are still to be placed
        return out

    return made


def _new(shape: tuple[int, ...], kind: np.dtype) -> np.ndarray:
    """Memory that a CPU device takes over without a copy: it begins with a page.

    Mapped at once, since a page fault for each page would cost as much as filling it.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, 'MAP_POPULATE', 0)
    size = math.prod(shape) * kind.itemsize
    return np.frombuffer(mmap.mmap(-1, max(size, 1), flags), np.uint8, size).view(kind).reshape(shape)


def _fill(reader: Reader, piece: Piece, memory: Mapping[Index, np.ndarray]) -> None:
    """Reads what one layer of a leaf is made of, into an array for each part of the layer."""
    tensor, sizes, kind = piece.tensor, reader.table.sizes, next(iter(memory.values())).dtype
    turned = tensor.stored != tensor.leaf
    for expert, name in enumerate(piece.names):
        if '{expert}' in tensor.name and not any(low <= expert < high for (low, high), *_ in memory):
            continue  # the leaf's first axis: another process has it
        for first, rows in reader.rows(name, tensor.unit(sizes)):
            part, where = tensor.part(_converted(rows, kind, turned), first, sizes, expert)
            for index, array in memory.items():
                _put(part, where, array, index)


def _put(part: np.ndarray, where: Index, array: np.ndarray, index: Index) -> None:
    """What `part`, at `where`, and `array`, at `index`, have in common, from the one into the other."""
    common = [(max(a, b), min(c, d)) for (a, c), (b, d) in zip(where, index, strict=True)]
    if all(low < high for low, high in common):
        source, target = (
            tuple(slice(low - start, high - start) for (low, high), (start, _) in zip(common, each, strict=True))
            for each in (where, index)
        )
        _bits(array)[target] = _bits(part)[source]


def _converted(rows: np.ndarray, kind: np.dtype, turned: bool) -> np.ndarray:
    """Rows in another type; `turned`: about to be read by columns. Then they must not begin a power of two apart: a column's entries
    would share a few places of the cache, and its reading take four times as long.
    """
    if rows.dtype == kind and not turned:
        return rows
    lead, width = len(rows), math.prod(rows.shape[1:])
    lines = -(-width * kind.itemsize // _LINE) | turned
    out = np.empty((lead, lines * _LINE // kind.itemsize), kind)[:, :width]
    flat = rows.reshape(lead, width)
    if rows.dtype == kind:
        _bits(out)[...] = _bits(flat)
    elif rows.dtype == jnp.bfloat16 and kind == np.float32:  # its upper half; NumPy would convert one by one
        wide = _bits(out)
        wide[...] = _bits(flat)
        wide <<= 16
    else:
        out[...] = flat
    return out.reshape(rows.shape)


def _bits(array: np.ndarray) -> np.ndarray:
    """NumPy copies integers ten times as fast as types that it does not know."""
    return array.view(f'u{array.itemsize}')


def _empty(shape: tuple[int, ...], kind: np.dtype, sharding: NamedSharding) -> jax.Array:
    return jax.jit(lambda: jnp.zeros(shape, kind), out_shardings=sharding)()


@functools.lru_cache(maxsize=64)
def _placing(sharding: NamedSharding):
    """The leaf with a layer put at its place; on the devices, and in place."""

    def place(out, layer, i):
        return jax.lax.dynamic_update_index_in_dim(out, layer, i, 0)

    return jax.jit(place, donate_argnums=0, out_shardings=sharding)


def _ahead(pool: ThreadPoolExecutor, work, pieces: Sequence[Piece]) -> Iterator[tuple[Piece, Any]]:
    """Each piece with what `work` makes of it; of the next ones it is made meanwhile."""
    waiting: collections.deque[tuple[Piece, Future]] = collections.deque()
    for piece in pieces:
        waiting.append((piece, pool.submit(work, piece)))
        if len(waiting) > _AHEAD:
            piece, coming = waiting.popleft()
            yield piece, coming.result()
    for piece, coming in waiting:
        yield piece, coming.result()
