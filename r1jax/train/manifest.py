"""What a finished checkpoint consists of: its manifest.json, written before the checkpoint takes its name, and read before it is used.

    {"step", "metric": the value of `Stage.keep_best` there or null, "files": {path: [bytes, sha256]}, "seal"}

Orbax writes two files between the manifest and the move: one with the time of the move, of which it is asked that it is there and is JSON,
and commit_success.txt. Nothing is read from either.

`seal` is a digest of all the rest, so that a manifest that has lost a byte is known as one. A digest reads a file once, a megabyte at a
time, several files at once (SHA-256: 1.7 GB a second and core on the machine of docs/performance.md).
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from r1jax.train.log import write_json

NAME = 'manifest.json'
_DATED = '_CHECKPOINT_METADATA'
_THREADS = 8  # hashing leaves the interpreter free


def write(folder: str, step: int, metric: float | None) -> None:
    """Writes the manifest of a folder in which everything else is finished."""
    paths = sorted(_inside(folder))
    files = {path: [size, digest] for path, (size, digest) in zip(paths, _digests(folder, paths), strict=True)}
    record = {'step': step, 'metric': metric, 'files': files}
    write_json(os.path.join(folder, NAME), record | {'seal': _seal(record)})


def read(folder: str) -> dict[str, Any]:
    """A folder's manifest.

    Raises:
      FileNotFoundError: it has none.
      ValueError: it is not what was written.
    """
    with open(os.path.join(folder, NAME), encoding='utf-8') as file:
        record = json.load(file)
    if not isinstance(record, dict) or record.pop('seal', None) != _seal(record):
        raise ValueError('its digest is another')
    return record


def damage(folder: str, part: int = 0, parts: int = 1) -> list[str]:
    """What is wrong with a folder, a sentence a file with the file's path; none if it is what was written.

    Every file's presence and size are looked at; of `parts` processes that share the reading, number `part` looks into its share.
    """
    try:
        files = read(folder)['files']
    except FileNotFoundError:
        return [f'{os.path.join(folder, NAME)} is missing']
    except (ValueError, OSError) as error:
        return [f'{os.path.join(folder, NAME)} is broken: {error}']
    wrong, whole = {}, []
    if not _is_json(os.path.join(folder, _DATED)):
        wrong[_DATED] = 'is missing or broken'
    for path, (size, _) in files.items():
        full = os.path.join(folder, path)
        if not os.path.isfile(full):
            wrong[path] = 'is missing'
        elif (found := os.path.getsize(full)) != size:
            wrong[path] = f'has {found} bytes and had {size}'
        else:
            whole.append(path)
    mine = whole[part::parts]
    for path, (_, digest) in zip(mine, _digests(folder, mine), strict=True):
        if digest != files[path][1]:
            wrong[path] = 'has other bytes than were written'
    return [f'{os.path.join(folder, path)} {what}' for path, what in sorted(wrong.items())]


def _inside(folder: str) -> Iterator[str]:
    for at, _, names in os.walk(folder):
        for name in names:
            if (path := os.path.relpath(os.path.join(at, name), folder)) not in (NAME, _DATED):
                yield path


def _is_json(path: str) -> bool:
    try:
        with open(path, encoding='utf-8') as file:
            json.load(file)
    except (OSError, ValueError):
        return False
    return True


def _digests(folder: str, paths: Iterable[str]) -> list[tuple[int, str]]:
    """Bytes and digest of each."""

    def one(path: str) -> tuple[int, str]:
        try:
            with open(os.path.join(folder, path), 'rb') as file:
                return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, 'sha256').hexdigest()
        except OSError as error:  # a disk that cannot read a block says so here
            return -1, f'unreadable: {error.strerror}'

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(one, paths))


def _seal(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]
