"""What a run leaves behind: metrics.jsonl, samples.jsonl, TensorBoard events, summary.json.

A line of metrics.jsonl is `{"stage", "step", "seconds", metric path: number, …}`; a line of samples.jsonl one
completion with its rewards. Both files only grow while a run is alive. A checkpoint keeps how many lines of its stage they
had (`Log.cut`); on resume every stage is cut back to the lines that its newest checkpoint knows of, so a killed run and an
unbroken one leave the same lines, and those of a stage that is run again vanish (`r1jax.train.aside` keeps a copy).
TensorBoard's files are a copy of metrics.jsonl: they are thrown away and written anew from it when a log is opened, which
leaves no step twice and needs no cursor; a `board` (`r1jax.train.board`) is given each line as it is written. TensorBoard's
are written by this thread: tensorboardX's own would die unseen on a full disk, and the run would then wait for it for ever.

Each call is one `write` to the kernel, so a SIGKILL loses nothing that was logged. It may tear the last line of a long
write: what lies behind the last checkpoint is cut anyway, and `read` passes over a torn last line.

One process writes; with many, the others keep an `Unwritten`.
"""

from __future__ import annotations

import collections
import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.summary import scalar

METRICS = 'metrics.jsonl'
SAMPLES = 'samples.jsonl'
SUMMARY = 'summary.json'
TENSORBOARD = 'tensorboard'


class Log:
    """The open logs of a workdir.

    Args:
      workdir: made if missing.
      known: stage -> what `cut` returned of it at its newest checkpoint. Lines of a stage beyond those are removed: leftovers of a run
        that was killed. Of other stages no line stays.
      board: what else is given each line of metrics, and closed with the log.

    Raises:
      ValueError: a file has fewer lines of a stage than at its checkpoint, or lines that no log wrote.
    """

    def __init__(self, workdir: str, known: Mapping[str, Mapping[str, int]] | None = None, board: Any = None):
        os.makedirs(workdir, exist_ok=True)
        self.board = board
        self._workdir, self._directory = workdir, os.path.join(workdir, TENSORBOARD)
        self._open(known or {})

    def _open(self, known: Mapping[str, Mapping[str, int]]) -> None:
        self._files, self._lines = {}, {}
        for name in (METRICS, SAMPLES):
            path, limit = os.path.join(self._workdir, name), {stage: cut[name] for stage, cut in known.items()}
            lines = self._lines[name] = _cut(path, limit)
            for stage, count in limit.items():
                if lines[stage] < count:
                    raise ValueError(
                        f'{path} has {lines[stage]} lines of stage {stage}, at its checkpoint it had {count}: lines are missing'
                    )
            # Unbuffered: a write goes to the kernel at once.
            self._files[name] = open(path, 'ab', buffering=0)  # noqa: SIM115, `close` closes it
        shutil.rmtree(self._directory, ignore_errors=True)
        self._boards: dict[str, EventsWriter] = {}
        for line in read(os.path.join(self._workdir, METRICS)):
            self._emit(line)

    def drop(self, stage: str, cut: Mapping[str, int] | None = None) -> None:
        """Removes all lines of a stage, or those after its `cut`."""
        names = {name for lines in self._lines.values() for name in lines} - {stage}
        known = {name: self.cut(name) for name in names} | ({stage: cut} if cut else {})
        self._close()
        self._open(known)

    def metrics(self, stage: str, step: int, seconds: float, values: Mapping[str, Any]) -> None:
        """Adds a line to metrics.jsonl, and its numbers to TensorBoard as run `stage`, at `step`.

        Args:
          stage, step: steps are counted from the start of the stage.
          seconds: of wall-clock time since the start of the stage.
          values: metric path -> number, 0-d array, or list of numbers (an interval). Paths are written sorted.

        Raises:
          ValueError: a metric is called stage, step or seconds.
        """
        own = {'stage': stage, 'step': int(step), 'seconds': float(seconds)}
        if taken := own.keys() & values.keys():
            raise ValueError(f'a metric may not be called {sorted(taken)[0]!r}')
        line = plain(own | {path: values[path] for path in sorted(values)})
        self._append(METRICS, [line])
        self._emit(line)
        if self.board:
            self.board.metrics(line)

    def samples(self, stage: str, step: int, records: Sequence[Mapping[str, Any]]) -> None:
        """Adds a line to samples.jsonl for each record: `{"stage", "step", "when", "question", "prompt", …}`, `when`
        third if there.

        Args:
          records: one a completion; JSON values, numbers may be 0-d arrays.
        """
        own = {'stage': stage, 'step': int(step)}
        ordered = [sorted(record.items(), key=lambda item: item[0] != 'when') for record in records]
        self._append(SAMPLES, [plain(own | dict(items) | own) for items in ordered])

    def cut(self, stage: str) -> dict[str, int]:
        """Brings both files to the disk and returns how many lines of a stage they have, to be kept in its checkpoint."""
        self.sync()
        return {name: lines[stage] for name, lines in self._lines.items()}

    def sync(self) -> None:
        """Brings both files to the disk."""
        for file in self._files.values():
            os.fsync(file.fileno())
        for board in self._boards.values():
            board.flush()

    def close(self) -> None:
        self._close()
        if self.board:
            self.board.close()

    def _close(self) -> None:
        for file in self._files.values():
            file.close()
        for board in self._boards.values():
            board.close()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _append(self, name: str, lines: list[dict]) -> None:
        append(self._files[name], lines)
        self._lines[name].update(line['stage'] for line in lines)

    def _emit(self, line: Mapping[str, Any]) -> None:
        stage = line['stage']
        if stage not in self._boards:
            os.makedirs(folder := os.path.join(self._directory, stage), exist_ok=True)
            self._boards[stage] = EventsWriter(os.path.join(folder, 'events'))
        for path, value in line.items():
            if path not in ('stage', 'step', 'seconds') and isinstance(value, (int, float)):
                tag = path.replace('@', '_at_')  # TensorBoard allows no @ in a tag
                event = Event(wall_time=time.time(), step=line['step'], summary=scalar(tag, value))
                self._boards[stage].write_event(event)


class Unwritten(Log):
    """What the processes have that do not write: takes everything and keeps nothing."""

    def __init__(self):
        self._files, self._boards, self._lines, self.board = {}, {}, {}, None

    def drop(self, *_) -> None:
        pass

    def metrics(self, *_) -> None:
        pass

    def samples(self, *_) -> None:
        pass


def write_summary(workdir: str, summary: Mapping[str, Any]) -> None:
    """Replaces summary.json in one move: a reader sees the old one or the new one, never a part."""
    write_json(os.path.join(workdir, SUMMARY), plain(summary))


def write_json(path: str, value: Any) -> None:
    """Replaces a file of one JSON value in one move."""
    with open(path + '.tmp', 'w', encoding='utf-8') as file:
        file.write(_dump(value, indent=2) + '\n')
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + '.tmp', path)


def append(file: BinaryIO, lines: Sequence[Mapping[str, Any]]) -> None:
    """Adds objects of JSON values to an unbuffered file, a line each, in one write."""
    # A lone surrogate, which UTF-8 cannot hold, becomes the \udXXX that JSON has for it.
    data = memoryview(''.join(_dump(line) + '\n' for line in lines).encode('utf-8', 'backslashreplace'))
    while data:  # one turn, unless the disk takes less than it was given
        data = data[file.write(data) :]


_STAGE = re.compile(rb'\{"stage": "([^"]*)"')  # how each line begins: a stage's name has nothing to escape


def lines_of(path: str) -> Iterator[tuple[str, bytes]]:
    """The whole lines of a log, each with its stage; a torn last line is passed over. A missing file is an empty one.

    Raises:
      ValueError: a line that no log wrote.
    """
    if not os.path.exists(path):
        return
    with open(path, 'rb') as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b'\n'):
                return
            if not (found := _STAGE.match(line)):
                raise ValueError(f'{path}:{number}: not a line of a log, which begins with its stage: {line[:60]!r}')
            yield found[1].decode(), line


def _cut(path: str, limit: Mapping[str, int]) -> collections.Counter[str]:
    """Keeps only the first `limit[stage]` lines of each stage; returns how many there are. The file changes in one move."""

    def marked() -> Iterator[tuple[str, bytes, bool]]:
        seen: collections.Counter[str] = collections.Counter()
        for stage, line in lines_of(path):
            seen[stage] += 1
            yield stage, line, seen[stage] <= limit.get(stage, 0)

    kept: collections.Counter[str] = collections.Counter()
    end, size, gaps = 0, 0, False  # bytes up to the last line to keep; read so far; whether others stand before it
    for stage, line, keep in marked():
        size += len(line)
        if keep:
            kept[stage] += 1
            gaps |= end + len(line) != size
            end = size
    if gaps:
        with open(path + '.part', 'wb') as file:
            file.writelines(line for _, line, keep in marked() if keep)
            file.flush()
            os.fsync(file.fileno())
        os.replace(path + '.part', path)
    elif os.path.exists(path):
        os.truncate(path, end)
    return kept


def read(path: str) -> Iterator[dict]:
    """The objects of a JSON lines file, one by one. A missing file is an empty one; a torn last line is passed over.

    Raises:
      ValueError: a line other than the last is not JSON; names the file and the line.
    """
    if not os.path.exists(path):
        return
    with open(path, 'rb') as file:  # bytes: only \n ends a line, whatever a completion holds
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except ValueError as error:
                if file.read(1):
                    raise ValueError(f'{path}:{number}: not a JSON object: {error}') from error


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: arrays become numbers and lists, NaN and infinities become None."""
    if hasattr(value, 'tolist'):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def _dump(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
