"""Rollouts on the disk as they are sampled: what a run that is killed need not sample again.

    WORKDIR/checkpoints/STAGE/rollouts/NUMBER     a file a call to the sampler, since the newest checkpoint

A file begins with what its samples depend on (`key`): the weights' fingerprint, the questions, the seed and settings. Each sample is
appended when it is over, and the grades when all are there. A run that goes on from a checkpoint meets the same calls again, by the same
weights; it takes what stands there over, and has the same bits as if it had sampled it. Where the key is another, the file is thrown
away. Grades are taken over too: deadlines are wall-clock.

A call whose samples are all there is taken over whole. Of one that was cut short, the samples that were over are taken over where the rest
has the same bits without them: where samples take slots in turn, and their number does not shrink in the tail (`SampleConfig.buckets=1`;
see `Sampler.separable`). Where all samples of a call share one batch they end together, and a call that was cut short has none.

Of several processes the first reads and writes, and tells the others what there is.

A record is its length and its CRC-32, and then arrays: their names, types and shapes as JSON, and their bytes. What a kill has torn at the
end is cut off.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence, Set
from typing import Any

import numpy as np

from r1jax import distributed
from r1jax.rewards.combine import Scores
from r1jax.sample import Row

FOLDER = 'rollouts'
_HEAD = struct.Struct('<II')


class Page:
    """What is known of one call."""

    def __init__(self, path: str, key: str):
        self.rows: dict[int, Row] = {}
        self.scores: Scores | None = None
        records, end = distributed.told(lambda: _records(path))
        if not records or bytes(records[0]['key']).decode() != key:
            records, end = [], 0
        for record in records[1:]:
            if 'reward' in record:
                self.scores = _scores(record)
            else:
                row = _row(record)
                self.rows[row.index] = row
        self._file = None
        if not distributed.first():
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self._file = open(path, 'r+b' if os.path.exists(path) else 'w+b', buffering=0)  # noqa: SIM115, `close` closes it
        self._file.truncate(end)
        self._file.seek(end)
        if not end:
            self._append({'key': np.frombuffer(key.encode(), np.uint8)})

    def through(self, total: int, separable: bool, sample: Callable[[Set[int]], Iterator[Row]]) -> Iterator[Row]:
        """The rows of a call: those that are there, as far as they can be taken over, and then what `sample` gives without these."""
        if len(self.rows) < total and not separable:
            self.rows = {}
        yield from list(self.rows.values())
        if len(self.rows) < total:
            for row in sample(frozenset(self.rows)):
                named = {
                    'index': row.index,
                    'tokens': row.tokens,
                    'logp': row.logp,
                    'why': row.why,
                    'routes': row.routes,
                    'own': row.own,
                    'outcomes': row.outcomes,
                }
                self._append({name: value for name, value in named.items() if value is not None})
                yield row

    def graded(self, scores: Scores) -> None:
        """Keeps the grades of all rows."""
        parts = {f'part {name}': values for name, values in scores.parts.items()}
        self._append({'reward': scores.reward, 'valid': scores.valid, 'outcome': scores.outcome, **parts})
        self.close()

    def close(self) -> None:
        if self._file:
            self._file.close()

    def _append(self, arrays: dict[str, Any]) -> None:
        if not self._file:
            return
        data = _packed(arrays)
        left = memoryview(_HEAD.pack(len(data), zlib.crc32(data)) + data)
        while left:
            left = left[self._file.write(left) :]


class Journal:
    """The pages of a stage.

    Args:
      stage: its folder, `checkpoint.stage_directory`.
      about: what samples depend on and no call says: settings, seed.
      fingerprint: of weights, a number.
    """

    def __init__(self, stage: str, about: str, fingerprint: Callable[[Any], Any]):
        self.folder, self.about, self.fingerprint = os.path.join(stage, FOLDER), about, fingerprint
        self._mark: int | None = None  # the checkpoint that is being saved knows all rollouts before this one

    def page(self, number: int, params: Any, questions: Sequence[int], *settings: Any) -> Page:
        """Of call `number`, which samples `questions` by `params` under `settings`."""
        known = [number, int(self.fingerprint(params)), list(map(int, questions)), settings, self.about]
        key = hashlib.sha256(json.dumps(known, default=str).encode()).hexdigest()
        return Page(os.path.join(self.folder, str(number)), key)

    def saved(self, number: int) -> None:
        """A checkpoint is being saved that knows all calls before `number`; the one before is on the disk: forgets what that one knows."""
        if distributed.first() and self._mark is not None and os.path.isdir(self.folder):
            for name in os.listdir(self.folder):
                if name.isdecimal() and int(name) < self._mark:
                    os.remove(os.path.join(self.folder, name))
        self._mark = number

    def clear(self) -> None:
        """Forgets everything."""
        if distributed.first():
            shutil.rmtree(self.folder, ignore_errors=True)


def _records(path: str) -> tuple[list[dict[str, np.ndarray]], int]:
    """The whole records of a file, and where they end."""
    found: list[dict[str, np.ndarray]] = []
    end = 0
    if not os.path.exists(path):
        return found, end
    with open(path, 'rb') as file:
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            size, crc = _HEAD.unpack(head)
            data = file.read(size)
            if len(data) < size or zlib.crc32(data) != crc:
                break
            try:
                found.append(_unpacked(data))
            except (ValueError, TypeError, struct.error):
                break  # of another version: drawn again
            end = file.tell()
    return found, end


def _packed(arrays: dict[str, Any]) -> bytes:
    """Arrays as bytes. A zip, as NumPy has for several, takes seven times as long, and a rollout's rows wait for it."""
    whole = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    head = json.dumps({name: [a.dtype.str, np.shape(arrays[name])] for name, a in whole.items()}).encode()
    return b''.join([struct.pack('<I', len(head)), head, *(a.tobytes() for a in whole.values())])


def _unpacked(data: bytes) -> dict[str, np.ndarray]:
    at = 4 + struct.unpack_from('<I', data)[0]
    found = {}
    for name, (kind, shape) in json.loads(data[4:at]).items():
        count = math.prod(shape)
        found[name] = np.frombuffer(data, kind, count, at).reshape(shape).copy()
        at += count * np.dtype(kind).itemsize
    return found


def _row(record: dict[str, np.ndarray]) -> Row:
    several = {name: record.get(name) for name in ('routes', 'own', 'outcomes')}
    return Row(int(record['index']), record['tokens'], record['logp'], str(record['why']), **several)


def _scores(record: dict[str, np.ndarray]) -> Scores:
    parts = {name.removeprefix('part '): values for name, values in record.items() if name.startswith('part ')}
    return Scores(record['reward'], parts, record['valid'], record['outcome'].tolist())
