"""The samples of a benchmark on disk, each with its grade: what every figure is computed from, and where a stopped run goes on.

    OUT/NAME.json       what the samples were drawn from and how: another checkpoint, prompt or temperature is refused
    OUT/NAME.jsonl      a line a sample

A line is written when its grade is there, in one write, so a kill loses nothing that was graded; in a run that is whole the lines are in
the order of (question, sample). k, --limit and the metrics are no part of what a sample is: a later run with a larger k adds to what an
earlier one drew, and one with a smaller k reads a part of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from r1jax.settings import BadInput
from r1jax.train.log import append, plain, read, write_json

Key = tuple[int, int]  # question, sample


class Kept:
    """The file of one benchmark, open for more lines.

    Args:
      folder: made where it is not there.
      name: of the benchmark.
      settings: all that decides what the samples are, as JSON values.

    Raises:
      BadInput: the folder holds samples of other settings; the message has those that differ.
    """

    def __init__(self, folder: str | os.PathLike, name: str, settings: Mapping[str, Any]):
        self.path, self._head = Path(folder, f'{name}.jsonl'), Path(folder, f'{name}.json')
        Path(folder).mkdir(parents=True, exist_ok=True)
        refuse_other(folder, name, settings)
        write_json(str(self._head), plain(settings))
        _whole_lines(self.path)
        self.done: set[Key] = {(line['question'], line['sample']) for line in self.lines()}
        self._file = open(self.path, 'ab', buffering=0)  # noqa: SIM115, `close` closes it

    def lines(self) -> Iterator[dict]:
        """What is stored, in the order of the file."""
        return read(str(self.path))

    def add(self, line: Mapping[str, Any]) -> None:
        """Stores a sample, which has a `question` and a `sample`; a second line of the same is an error of the caller's."""
        key = line['question'], line['sample']
        if key in self.done:
            raise ValueError(f'sample {key[1]} of question {key[0]} is stored already in {self.path}')
        append(self._file, [plain(line)])
        self.done.add(key)

    def order(self) -> None:
        """Brings the lines into the order of (question, sample), in one move."""
        lines = sorted(self.lines(), key=lambda line: (line['question'], line['sample']))
        self._file.close()
        part = self.path.with_suffix('.part')
        with open(part, 'wb', buffering=0) as file:
            append(file, lines)
            os.fsync(file.fileno())
        part.replace(self.path)
        self._file = open(self.path, 'ab', buffering=0)  # noqa: SIM115

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *_) -> None:
        self.close()


NEUTRAL = ('what',)  # where weights were found says nothing of them: `weights` does


def refuse_other(folder: str | os.PathLike, name: str, settings: Mapping[str, Any]) -> None:
    """Raises BadInput where the folder holds samples of a benchmark that were drawn by other settings than these, as far as named."""
    path, head = Path(folder, f'{name}.jsonl'), Path(folder, f'{name}.json')
    if not path.exists():
        return
    if not head.exists():
        raise BadInput(f'{path} has samples, and no {head.name} says of what: take another --out')
    old, new = json.loads(head.read_text(encoding='utf-8')), plain(settings)
    differ = [
        f'{each} {old.get(each)!r:.60}, now {new[each]!r:.60}'
        for each in new
        if old.get(each) != new[each] and each not in NEUTRAL
    ]
    if differ:
        raise BadInput(
            f'{path} holds samples of other settings ({"; ".join(differ)}): take another --out, or remove it'
        )


def grid(lines: Iterator[dict] | Collection[dict], questions: Collection[int], k: int, where: str) -> list[list[dict]]:
    """The lines of Q questions by k samples.

    Raises:
      BadInput: a question has fewer than k.
    """
    wanted: dict[int, list[Any]] = {question: [None] * k for question in questions}
    for line in lines:
        if line['question'] in wanted and line['sample'] < k:
            wanted[line['question']][line['sample']] = line
    for question, row in wanted.items():
        if None in row:
            have = sum(each is not None for each in row)
            raise BadInput(
                f'{where} has {have} of the first {k} samples of question {question}: run it to its end, or ask for a smaller k'
            )
    return list(wanted.values())


def _whole_lines(path: Path) -> None:
    """Cuts off a last line that a kill tore."""
    if not path.exists():
        return
    with open(path, 'rb+') as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - (1 << 16))
            file.seek(start)
            at = file.read(end - start).rfind(b'\n')
            if at >= 0:
                file.truncate(start + at + 1)
                return
            end = start
        file.truncate(0)
