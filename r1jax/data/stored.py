"""Many items on disk in a form that can be read in any order: what makes a table of any size a sequence.

In: an iterator of JSON values, once. Out: a sequence whose items are read one by one when asked for, so that memory holds
eight bytes an item at most (the offsets, which the system may also drop) and none of the items. Shuffling and resuming
(`r1jax.data.store`) need nothing else. Parquet has no such access: to read one row is to decode its whole row group.

The files lie in the user's cache folder (XDG_CACHE_HOME, else ~/.cache) under r1jax/data, about as large as the texts
themselves. They are found again by a digest of what they were made of, and may be deleted between runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

Item = TypeVar('Item')


class Stored(Sequence, Generic[Item]):
    """The items of a folder that `write` made.

    Args:
      folder: where it is.
      decode: makes an item of its JSON value.
    """

    def __init__(self, folder: str | os.PathLike, decode: Callable[[Any], Item]):
        self.folder, self.decode = Path(folder), decode
        self.notes: dict[str, Any] = json.loads((self.folder / 'notes.json').read_text(encoding='utf-8'))
        self._open()

    def _open(self) -> None:
        self._ends = np.load(self.folder / 'ends.npy', mmap_mode='r')  # u64[N], bytes: item i ends there
        self._file = open(self.folder / 'items.jsonl', 'rb', buffering=0)  # noqa: SIM115 - open as long as we are

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ('_ends', '_file')}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = int(index) + len(self) * (index < 0)
        if not 0 <= i < len(self):
            raise IndexError(f'item {index} of {len(self)}')
        start = int(self._ends[i - 1]) if i else 0
        return self.decode(json.loads(os.pread(self._file.fileno(), int(self._ends[i]) - start, start)))

    def __iter__(self):
        return (self[i] for i in range(len(self)))


class Made(Sequence, Generic[Item]):
    """What a function makes of each item of a sequence, made when it is asked for and not kept."""

    def __init__(self, items: Sequence[Any], make: Callable[[Any], Item]):
        self.items, self.make = items, make

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self.make(item) for item in self.items[index]]
        return self.make(self.items[index])


def stored(
    made_of: Sequence[Any],
    values: Callable[[dict[str, Any]], Iterable[Any]],
    decode: Callable[[Any], Item],
) -> Stored[Item]:
    """The stored values, written first if they are not there yet.

    Args:
      made_of: all that the values depend on, by its repr; paths among it stand for their files' size and time.
      values: makes the values, in their order; it may leave notes in the dictionary, which `Stored.notes` then has.
      decode: as in `Stored`.

    Raises:
      ValueError: the folder cannot be written; or whatever `values` raises.
    """
    facts = [_fact(each) for each in made_of]
    folder = _cache() / hashlib.sha256('\n'.join(facts).encode()).hexdigest()[:24]
    if not (folder / 'notes.json').is_file():
        try:
            _write(folder, values)
        except OSError as error:
            if (
                isinstance(error, FileNotFoundError)
                and error.filename
                and not str(error.filename).startswith(str(folder))
            ):
                raise  # of the data themselves
            raise ValueError(
                f'cannot store the data in {folder} (XDG_CACHE_HOME sets another place): {error}'
            ) from error
    return Stored(folder, decode)


def _write(folder: Path, values: Callable[[dict[str, Any]], Iterable[Any]]) -> None:
    # aside, then renamed, so that no run trusts what a killed one left
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f'{folder.name}.', dir=folder.parent))
    try:
        ends, end = [np.zeros(0, np.uint64)], 0
        notes: dict[str, Any] = {}
        block: list[int] = []
        with open(aside / 'items.jsonl', 'wb') as file:
            for value in values(notes):
                end += file.write(json.dumps(value, ensure_ascii=False, separators=(',', ':')).encode() + b'\n')
                block.append(end)
                if len(block) == 65536:  # eight bytes an item instead of forty
                    ends, block = [*ends, np.array(block, np.uint64)], []
        np.save(aside / 'ends.npy', np.concatenate([*ends, np.array(block, np.uint64)]))
        (aside / 'notes.json').write_text(json.dumps(notes), encoding='utf-8')
        try:
            aside.rename(folder)
        except OSError:
            if not (
                folder / 'notes.json'
            ).is_file():  # else a run beside this one was faster, and its data are the same
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _fact(each: Any) -> str:
    if not isinstance(each, Path):
        return repr(each)
    status = each.stat()
    return f'{each.resolve()} {status.st_size} {status.st_mtime_ns}'


def _cache() -> Path:
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'r1jax' / 'data'
