"""`r1jax grade`: a file of problems with completions, graded in worker processes as training would, with explanations.

A line in is a JSON object with id, kind, prompt, answer, completion, and where the kind needs it meta (the tests of a code problem, the
entry of a reasoning-gym one). A line out has its id, accuracy (null where it could not be graded) and outcome ('graded', or
'grader_error' with its cause). What each kind means stands in `KINDS`, the one table of it.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from r1jax.columns import aligned
from r1jax.data.datasets import field
from r1jax.data.rows import json_lines
from r1jax.rewards import accuracy
from r1jax.rewards.combine import marked
from r1jax.rewards.pool import Pool
from r1jax.rewards.queue import Grade
from r1jax.settings import BadInput, nearest
from r1jax.types import Problem, Response

WIDTH = 100  # characters of an explanation in the table


@dataclasses.dataclass(frozen=True)
class Kind:
    """How a kind of problem is graded: a function or class of a module, which is imported only where the kind is met."""

    module: str
    name: str
    deadline: float  # seconds an answer

    def reward(self) -> Callable:
        found = getattr(importlib.import_module(self.module), self.name)
        return found() if isinstance(found, type) else found


KINDS: Mapping[str, Kind] = {
    'math': Kind('r1jax.rewards.mathematics', 'Math', 10.0),
    'code': Kind('r1jax.rewards.code', 'Code', 300.0),  # each test has a limit of its own
    'choice': Kind('r1jax.rewards.choice', 'choice', 5.0),
    'number': Kind('r1jax.rewards.accuracy', 'numeric', 5.0),
    'text': Kind('r1jax.rewards.accuracy', 'exact', 5.0),
    'reasoning_gym': Kind('r1jax.rewards.accuracy', 'reasoning_gym', 10.0),
}


@dataclasses.dataclass(frozen=True)
class Explained:
    """A reward that says why: by its `judge`, which counts tests, or by the answer that was found."""

    fn: Any  # (problem, response) -> float

    def warm(self) -> None:
        getattr(self.fn, 'warm', bool)()

    def __call__(self, problem: Problem, response: Response) -> tuple[float, str]:
        if judge := getattr(self.fn, 'judge', None):
            verdict = judge(problem, response)
            failed = f': {verdict.reason}' if verdict.reason else ''
            return float(verdict.right), f'{verdict.passed} of {verdict.total} tests passed{failed}'
        value, given = self.fn(problem, response), accuracy.answer(response.text)
        return value, 'no answer found' if given is None else f'answered {given}, expected {problem.answer}'


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the file."""

    id: Any
    problem: Problem
    response: Response


def read(path: str | os.PathLike) -> list[Row]:
    """The lines of a file.

    Raises:
      FileNotFoundError: there is no such file.
      BadInput: a line is no JSON object, lacks a field, or has one of a wrong kind; the message has file and line.
    """
    rows = []
    for line, row in json_lines(str(path)):
        where = f'{path}:{line}'
        texts = {name: row.get(name, 'en') if name == 'language' else field(row, name, where)
                 for name in ('kind', 'prompt', 'answer', 'completion', 'language')}  # fmt: skip
        for name, value in texts.items():
            if not isinstance(value, str):
                raise BadInput(f'{where}: {name} must be a text, not {value!r:.80}')
        meta = row.get('meta', {})
        if not isinstance(meta, dict):
            raise BadInput(f'{where}: meta must be an object, not {meta!r:.80}')
        if texts['kind'] not in KINDS:
            raise BadInput(f'{where}: there is no kind {texts["kind"]!r}{nearest(texts["kind"], KINDS)}')
        completion = texts.pop('completion')
        rows.append(Row(field(row, 'id', where), Problem(line - 1, meta=meta, **texts), Response(completion, 0, True)))
    return rows


def grade(rows: Sequence[Row], pool: Pool, deadline: float | None = None) -> list[Grade]:
    """A grade a row, in order. `deadline` seconds an answer; None: by its kind.

    Raises:
      ImportError, ValueError: a kind cannot be graded here, as a package or a sandbox is missing.
    """
    waiting = {}
    for name in dict.fromkeys(row.problem.kind for row in rows):
        mine = [i for i, row in enumerate(rows) if row.problem.kind == name]
        items = [(rows[i].problem, rows[i].response) for i in mine]
        fn = Explained(KINDS[name].reward())
        waiting[name] = mine, pool.submit(fn, items, KINDS[name].deadline if deadline is None else deadline)
    grades: list[Grade | None] = [None] * len(rows)
    for mine, later in waiting.values():
        for i, each in zip(mine, later.result(), strict=True):
            grades[i] = each
    return grades


def as_json(row: Row, grade: Grade) -> str:
    value = grade.value if math.isfinite(grade.value) else None
    line = {'id': row.id, 'accuracy': value, **marked(grade.outcome), 'detail': grade.detail}
    # a lone surrogate, which UTF-8 cannot hold, becomes the \udXXX that JSON has for it
    return json.dumps(line, ensure_ascii=False).encode('utf-8', 'backslashreplace').decode()


def _shown(value: Any) -> str:
    """A text of the file in one line, without what a terminal would obey."""
    words = ' '.join(str(value).split())
    return ''.join(c if c.isprintable() else '�' for c in words[:WIDTH]) + '…' * (len(words) > WIDTH)


def as_table(rows: Sequence[Row], grades: Sequence[Grade]) -> str:
    """A line a row, and what they come to."""
    cells = [('id', 'kind', 'accuracy', 'outcome', 'explanation')]
    for row, each in zip(rows, grades, strict=True):
        shown = f'{each.value:g}' if each.outcome == 'graded' else '–'
        outcome = each.outcome if each.outcome == 'graded' else f'grader error, {each.outcome}'
        cells.append((_shown(row.id), row.problem.kind, shown, outcome, _shown(each.detail)))
    right = [each.value for each in grades if each.outcome == 'graded']
    mean = f'accuracy {100 * sum(right) / len(right):.1f} % of {len(right)} graded' if right else 'none graded'
    errors = len(grades) - len(right)
    return '\n'.join([*aligned(cells), '', mean + (f', {errors} grader error{"s" * (errors > 1)}' if errors else '')])


def run(path: pathlib.Path, lines: bool, workers: int, deadline: float | None) -> Iterator[str]:
    """What the command prints: JSON lines or a table."""
    rows = read(path)
    with Pool(workers) as pool:
        grades = grade(rows, pool, deadline)
    yield from map(as_json, rows, grades) if lines else [as_table(rows, grades)]
