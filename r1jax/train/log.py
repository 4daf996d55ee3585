"""What a run leaves behind: metrics.jsonl, samples.jsonl, TensorBoard events, summary.json.

A line of metrics.jsonl is `{"stage", "step", "seconds", metric path: number, …}`; a line of samples.jsonl one
completion with its rewards. Both files only grow while a run is alive. A checkpoint keeps their lengths (`Log.cut`); on
resume they are cut back to these lengths, so a killed run and an unbroken one leave the same lines. TensorBoard's files
are a copy of metrics.jsonl: they are thrown away and written anew from it when a log is opened, which leaves no step
twice and needs no cursor.

Each call is one `write` to the kernel, so a SIGKILL loses nothing that was logged. It may tear the last line of a long
write: what lies behind the last checkpoint is cut anyway, and `read` passes over a torn last line.

One process writes; with many, the others keep no Log.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from tensorboardX import SummaryWriter

METRICS = 'metrics.jsonl'
SAMPLES = 'samples.jsonl'
SUMMARY = 'summary.json'
TENSORBOARD = 'tensorboard'


class Log:
    """The open logs of a workdir.

    Args:
      workdir: made if missing.
      resume: what `cut` returned when the checkpoint was taken; both files are cut back to it. None starts from
        nothing: leftovers of a run that was killed before its first checkpoint are removed.

    Raises:
      ValueError: a file is shorter than at the checkpoint, so lines are missing.
    """

    def __init__(self, workdir: str, resume: Mapping[str, int] | None = None):
        os.makedirs(workdir, exist_ok=True)
        self._directory = os.path.join(workdir, TENSORBOARD)
        self._files = {}
        for name in (METRICS, SAMPLES):
            length = 0 if resume is None else resume[name]
            # Unbuffered: a write goes to the kernel at once.
            file = open(os.path.join(workdir, name), 'ab', buffering=0)  # noqa: SIM115, `close` closes it
            if (size := file.tell()) < length:
                raise ValueError(f'{file.name} has {size} bytes, at the checkpoint it had {length}: lines are missing')
            file.truncate(length)
            file.seek(length)
            self._files[name] = file
        shutil.rmtree(self._directory, ignore_errors=True)
        self._boards: dict[str, SummaryWriter] = {}
        for line in read(os.path.join(workdir, METRICS)):
            self._emit(line)

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

    def samples(self, stage: str, step: int, records: Sequence[Mapping[str, Any]]) -> None:
        """Adds a line to samples.jsonl for each record: `{"stage", "step", "when", "question", "prompt", …}`, `when`
        third if there.

        Args:
          records: one a completion; JSON values, numbers may be 0-d arrays.
        """
        own = {'stage': stage, 'step': int(step)}
        ordered = [sorted(record.items(), key=lambda item: item[0] != 'when') for record in records]
        self._append(SAMPLES, [plain(own | dict(items) | own) for items in ordered])

    def cut(self) -> dict[str, int]:
        """Brings both files to the disk and returns their lengths in bytes, to be kept in a checkpoint."""
        for file in self._files.values():
            os.fsync(file.fileno())
        for board in self._boards.values():
            board.flush()
        return {name: file.tell() for name, file in self._files.items()}

    def close(self) -> None:
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

    def _emit(self, line: Mapping[str, Any]) -> None:
        stage = line['stage']
        if stage not in self._boards:
            self._boards[stage] = SummaryWriter(os.path.join(self._directory, stage))
        for path, value in line.items():
            if path not in ('stage', 'step', 'seconds') and isinstance(value, (int, float)):
                tag = path.replace('@', '_at_')  # TensorBoard allows no @ in a tag
                self._boards[stage].add_scalar(tag, value, line['step'])


def write_summary(workdir: str, summary: Mapping[str, Any]) -> None:
    """Replaces summary.json in one move: a reader sees the old one or the new one, never a part."""
    path = os.path.join(workdir, SUMMARY)
    with open(path + '.tmp', 'w', encoding='utf-8') as file:
        file.write(_dump(plain(summary), indent=2) + '\n')
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + '.tmp', path)


def append(file: BinaryIO, lines: Sequence[Mapping[str, Any]]) -> None:
    """Adds objects of JSON values to an unbuffered file, a line each, in one write."""
    # A lone surrogate, which UTF-8 cannot hold, becomes the \udXXX that JSON has for it.
    data = memoryview(''.join(_dump(line) + '\n' for line in lines).encode('utf-8', 'backslashreplace'))
    while data:  # one turn, unless the disk takes less than it was given
        data = data[file.write(data) :]


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
