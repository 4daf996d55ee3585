"""The files of a stage that collects, WORKDIR/data/STAGE.*, and what their lines say; `r1jax.train.collect` makes them.

STAGE.all.jsonl has a line a sample: the fields of samples.jsonl, the sample's number among its prompt's, and the verdict. It only grows,
call by call, so that what a kill leaves is whole calls and perhaps a part of one. STAGE.jsonl has a line an example.
"""

from __future__ import annotations

import array
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

import numpy as np

from r1jax.config import Threshold
from r1jax.curate.choose import Sample, Verdict, text_of
from r1jax.data.kept import collected
from r1jax.rewards.combine import Scores
from r1jax.settings import BadInput
from r1jax.train import log
from r1jax.types import Problem, Response


def path(workdir: str, stage: str, kind: str = 'jsonl') -> str:
    """A file of a collecting stage: 'all.jsonl' every sample, 'jsonl' what was kept, 'card.json' and 'card.md' the data card."""
    return os.fspath(collected(workdir, stage).with_suffix(f'.{kind}'))


def whole_calls(file: BinaryIO, problems: Sequence[Problem], questions: int, samples: int) -> Iterator[list[dict]]:
    """The lines of STAGE.all.jsonl, call by call; then it is cut behind the last of which every line is there, and ready to grow.

    Args:
      file: unbuffered, for appending.
      problems, questions, samples: each call has `samples` of each of the next `questions` problems, the last perhaps of fewer.

    Raises:
      BadInput: it holds samples of other problems.
    """
    done = end = 0
    file.seek(0)
    with os.fdopen(os.dup(file.fileno()), 'rb') as reading:
        while done < len(problems):
            size = min(questions, len(problems) - done)
            data = list(itertools.islice(reading, size * samples))
            lines = _parsed(data)
            for i, line in enumerate(lines):
                problem = problems[done + i // samples]
                ours = problem.id, problem.prompt, i % samples
                if tuple(line.get(name) for name in ('question', 'prompt', 'sample')) != ours:
                    raise BadInput(f'{file.name} holds samples of other problems than the stage has now: remove it')
            if len(lines) < size * samples:
                break
            yield lines
            done, end = done + size, end + sum(map(len, data))
    file.truncate(end)
    file.seek(end)


class Lines:
    """The file of examples while it is written: numbered in the order in which they were chosen, to be read again."""

    def __init__(self, file: BinaryIO):
        self.file, self.size = file, 0
        self.starts = array.array('Q')  # of the line of each number, bytes
        self.sizes = array.array('Q')

    def write(self, lines: Sequence[dict], order: Sequence[int]) -> None:
        """Appends lines, which have the next numbers, sorted by `order`."""
        first = len(self.starts)
        self.starts.extend([0] * len(lines))
        self.sizes.extend([0] * len(lines))
        for i in sorted(range(len(lines)), key=lambda i: (order[i], i)):
            log.append(self.file, [lines[i]])
            end = self.file.tell()
            self.starts[first + i], self.sizes[first + i], self.size = self.size, end - self.size, end

    def text(self, number: int) -> str:
        line = json.loads(os.pread(self.file.fileno(), self.sizes[number], self.starts[number]))
        return text_of(line['problem'], line['response'])


def verdict(correct: Sequence[Threshold], scores: Scores, i: int, slack: dict[str, float] | None = None) -> Verdict:
    """What the thresholds say of response `i`. `slack`: name of a part -> how far below, relatively, still counts."""
    if not scores.valid[i]:
        return 'ungraded'
    for each in correct:
        value, bound = scores.parts[each.part][i], np.float32(each.value)
        if slack and each.part in slack:
            bound -= np.float32(slack[each.part] * max(1.0, abs(each.value)))
        if value < bound:  # NaN where the part does not apply
            return 'wrong'
    return 'correct'


def measured(lines: Sequence[dict]) -> dict[str, float]:
    """Metrics of a call's lines of STAGE.all.jsonl."""
    graded = [line for line in lines if line['verdict'] != 'ungraded']
    out = {
        'rollout/samples': len(lines),
        'rollout/tokens': float(np.mean([line['tokens'] for line in lines])),
        'rollout/longest': max(line['tokens'] for line in lines),
        'rollout/truncated': float(np.mean([not line['finished'] for line in lines])),
        'rollout/grader_errors': len(lines) - len(graded),
        'collect/correct': sum(line['verdict'] == 'correct' for line in graded) / max(len(graded), 1),
    }
    if graded:
        out['reward/mean'] = float(np.mean([line['reward'] for line in graded]))
        for name in graded[0]['parts']:
            values = [line['parts'][name] for line in graded if line['parts'][name] is not None]
            if values:
                out[f'reward/{name}'] = float(np.mean(values))
    return out


def sample(line: dict) -> Sample:
    """A line of STAGE.all.jsonl as it is chosen from."""
    return Sample(line['sample'], Response(line['completion'], line['tokens'], line['finished']), line['verdict'])


def _parsed(data: Iterable[bytes]) -> list[dict]:
    """The objects of lines up to the first that is torn, or that a crash of the machine left unwritten."""
    lines = []
    for each in data:
        try:
            lines.append(json.loads(each if each.endswith(b'\n') else b''))
        except ValueError:
            break
    return lines


def write(name: str, text: str) -> None:
    """Replaces a file in one move."""
    with open(name + '.part', 'w', encoding='utf-8') as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(name + '.part', name)
