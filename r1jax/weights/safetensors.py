"""The safetensors format: a length, a JSON header, and the tensors' bytes. Read one tensor at a time, written as a stream.

Plain reads into a buffer rather than a memory map, because the pages of a mapped file that were touched count as the process's memory
until they are dropped, which doubles what loading takes. The format is described at https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

DTYPES: dict[str, np.dtype] = {
    'F32': np.dtype(np.float32),
    'F16': np.dtype(np.float16),
    'BF16': np.dtype(jnp.bfloat16),
    'F8_E4M3': np.dtype(jnp.float8_e4m3fn),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_BY_WORD = {'float32': 'F32', 'float16': 'F16', 'bfloat16': 'BF16'}
_LONGEST = 100_000_000  # bytes of a header that is believed
_BLOCK, _FEWEST = 1 << 20, 64  # bytes of a block of rows, about, and the least rows: columns become rows on the way
_POINTER = b'version https://git-lfs'


class Entry(NamedTuple):
    """Where a tensor lies."""

    file: str
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int  # first byte in the file

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def entries(path: str) -> dict[str, Entry]:
    """The tensors of a file, from its header.

    Raises:
      ValueError: it is no safetensors file, it is not complete, or it holds a type that no weight has.
    """
    size = os.path.getsize(path)
    with open(path, 'rb') as file:
        first = file.read(8)
        if first + file.read(len(_POINTER) - 8) == _POINTER:
            raise ValueError(f"{path} is Git LFS's pointer to the weights, not the weights: run git lfs pull")
        length = int.from_bytes(first, 'little')
        if size < 8 or 8 + min(length, _LONGEST) > size:
            raise _broken(path, f'{size} bytes, fewer than its header takes' if length <= _LONGEST else 'no header')
        file.seek(8)
        try:
            header = json.loads(file.read(length))
            header.pop('__metadata__', None)
            out, spans = {}, []
            for name, each in header.items():
                (low, high), shape = each['data_offsets'], tuple(each['shape'])
                if not all(isinstance(n, int) and n >= 0 for n in (*shape, low, high)):
                    raise _broken(path, f'tensor {name} has shape {shape} and bytes {low} to {high}')
                if each['dtype'] not in DTYPES:
                    raise ValueError(f'{path}: tensor {name} is {each["dtype"]}; supported: {", ".join(DTYPES)}')
                out[name] = Entry(path, DTYPES[each['dtype']], shape, 8 + length + low)
                if out[name].size != high - low:
                    raise _broken(path, f'tensor {name} of shape {shape} has {high - low} bytes')
                spans.append((low, high))
        except (UnicodeDecodeError, json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
            raise _broken(path, f'its header is not one: {error!r:.80}') from None
    end = 0
    for low, high in sorted(spans):
        if low != end:
            raise _broken(path, f'its tensors leave a gap, or overlap, at byte {end}')
        end = high
    if size != 8 + length + end:
        raise _broken(path, f'{size} bytes, but its header says {8 + length + end}')
    return out


def named(word: str) -> np.dtype:
    """The type called bfloat16, float16 or float32. ValueError if it is none of them."""
    if word not in _BY_WORD:
        raise ValueError(f'no dtype {word!r} of weights (known: {", ".join(_BY_WORD)})')
    return DTYPES[_BY_WORD[word]]


def _broken(path: str, why: str) -> ValueError:
    return ValueError(f'{path} is not a complete safetensors file ({why}); download it again')


def read(entry: Entry) -> np.ndarray:
    """The tensor, in its own type, in memory of its own."""
    ((_, whole),) = rows(entry, entry.shape[0])
    return whole


def rows(entry: Entry, unit: int = 1) -> Iterator[tuple[int, np.ndarray]]:
    """The tensor by blocks of rows, with the index of each block's first. A block has a multiple of `unit` rows, and is overwritten by
    the next one: it is small enough to stay in a core's cache until it has been put where it belongs.
    """
    count = entry.shape[0]
    width = entry.size // count
    at_once = min(count, -(-max(_BLOCK // width, _FEWEST) // unit) * unit)
    buffer = np.empty(at_once * width, np.uint8)
    with open(entry.file, 'rb', buffering=0) as file:
        file.seek(entry.start)
        for low in range(0, count, at_once):
            n = min(at_once, count - low)
            at, view = 0, buffer.data[: n * width]
            while at < n * width:
                got = file.readinto(view[at:])
                if not got:
                    raise _broken(entry.file, 'it became shorter while it was read')
                at += got
            yield low, buffer[: n * width].view(entry.dtype).reshape(n, *entry.shape[1:])


class Spec(NamedTuple):
    """A tensor that will be written."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def write(path: str, specs: Sequence[Spec], arrays: Iterable[np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes a file whose tensors, in the order of `specs`, come one after the other from `arrays`."""
    header: dict = {'__metadata__': dict(metadata)}
    at = 0
    for s in specs:
        header[s.name] = {'dtype': _NAMES[np.dtype(s.dtype)], 'shape': s.shape, 'data_offsets': [at, at + s.size]}
        at += s.size
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)  # so that the tensors are aligned
    with open(path, 'wb') as file:
        file.write(len(text).to_bytes(8, 'little'))
        file.write(text)
        for s, array in zip(specs, arrays, strict=True):
            if (array.dtype, array.shape) != (np.dtype(s.dtype), s.shape):
                raise AssertionError(f'{s} was announced, {array.dtype} {array.shape} came')
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())
