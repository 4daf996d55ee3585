"""Problems of programming contests in the forms in which two benchmarks are released: LiveCodeBench and Codeforces.

Both are tables (`r1jax.data.table`) whose prompt is put together from several fields. Problems that no tests decide are left out and
counted in the `notes` of what `load` returns: interactive ones, and those without tests.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from r1jax.data import table
from r1jax.data.table import Fields, Source
from r1jax.types import Problem

_DATE = re.compile(r'\d{4}-\d\d-\d\d')
MB = 1_000_000
# LeetCode's judge has names such as List there already; LiveCodeBench's own harness puts these imports before a solution
_NAMES = 'typing collections heapq bisect itertools functools math string operator copy re random statistics datetime json sys'.split()
IMPORTS = ''.join(f'import {name}\n' for name in _NAMES) + ''.join(
    f'from {name} import *\n' for name in _NAMES if name not in ('re', 'json', 'sys', 'random', 'copy', 'operator')
)


@dataclasses.dataclass(frozen=True)
class _Contests(Source):
    since: str = ''  # only problems of contests from this day on, YYYY-MM-DD
    until: str = ''  # and before this one
    split: str = 'test'
    config: str = ''
    limit: int = 0

    def load(self) -> Sequence[Problem]:
        """The problems, read when asked for; ids are rows. Raises as `Table.load`, and ValueError for a date that is none."""
        for name in ('since', 'until'):
            if (day := getattr(self, name)) and not _DATE.fullmatch(day):
                raise ValueError(f'{name}={day!r} must be a day, as 2024-08-01')
        return table.kept(self, self._values, lambda value: Problem(*value), (__file__,))

    def _within(self, when: str) -> bool:
        return (not self.since or when[:10] >= self.since) and (not self.until or when[:10] < self.until)


@dataclasses.dataclass(frozen=True)
class LiveCodeBench(_Contests):
    """Rows of livecodebench/code_generation_lite, public and private tests together (Jain et al., arXiv 2403.07974).

    `meta` keeps platform, difficulty and contest_date.
    """

    FIELDS = Fields(
        'question_content',
        '',
        kind='code',
        tests=('public_test_cases', 'private_test_cases'),
        entry_point='metadata.func_name',
        meta=('starter_code', 'platform', 'difficulty', 'contest_date'),
    )

    def _values(self, files: Sequence[Path], notes: dict[str, Any]) -> Iterator[list]:
        for i, place, row in table.selected(files, (), self.FIELDS.names, notes):
            if not self._within(table.text_at(row, 'contest_date', place)):
                continue
            value = table.problem_of(i, row, self.FIELDS, place)
            if code := value[5].pop('starter_code'):
                value[1] = f'{value[1]}\n\n```python\n{code}\n```'
            if 'entry_point' in value[5]:
                value[5]['setup'] = IMPORTS
            yield value


@dataclasses.dataclass(frozen=True)
class Codeforces(_Contests):
    """Rows of open-r1/codeforces. `meta` keeps contest_id, index and rating, the problem's difficulty (None: it was never rated).

    Where several outputs are right, the row's own checker decides: a Python program that is run with the files of the input, the
    expected and the printed output, and prints 1 or more.
    """

    FIELDS = Fields(
        'description',
        '',
        kind='code',
        tests=('official_tests',),
        time_limit='time_limit',
        meta=('contest_id', 'index', 'rating'),
        skip=('',),
    )
    _ALSO = (
        'title',
        'contest_start',
        'memory_limit',
        'input_format',
        'output_format',
        'interaction_format',
        'input_mode',
        'note',
        'examples',
        'generated_checker',
    )

    def _values(self, files: Sequence[Path], notes: dict[str, Any]) -> Iterator[list]:
        notes |= {'skipped': 0}
        for i, place, row in table.selected(files, (), [*self.FIELDS.names, *self._ALSO], notes):
            if (self.since or self.until) and not self._within(_day(table.value_at(row, 'contest_start', place))):
                continue
            # What a program reads has to come by standard input, and all at once
            plain = not row['interaction_format'] and row['input_mode'] != 'file'
            value = table.problem_of(i, row, self.FIELDS, place) if plain else None
            if value is None:
                notes['skipped'] += 1
                continue
            value[1], meta = _statement(row), value[5]
            if row['memory_limit']:
                meta['memory_limit'] = int(row['memory_limit'] * MB)
            if row['generated_checker']:
                meta['checker'] = {'source': row['generated_checker'], 'arguments': ['input', 'answer', 'output']}
            yield value


def _day(seconds: float | None) -> str:
    """The day, UTC, of seconds since 1970; '' for a contest without a start, which is in no window."""
    import datetime

    return '' if seconds is None else datetime.datetime.fromtimestamp(seconds, datetime.UTC).date().isoformat()


def _statement(row: dict[str, Any]) -> str:
    """A problem as its page shows it."""
    limits = [f'{row["time_limit"]:g} seconds a test' if row['time_limit'] else '',
              f'{row["memory_limit"]:g} megabytes' if row['memory_limit'] else '']  # fmt: skip
    parts = [
        ('', row['title']),
        ('Limits', ', '.join(filter(None, limits))),
        ('', row['description']),
        ('Input', row['input_format']),
        ('Output', row['output_format']),
    ]
    for each in row['examples'] or ():
        parts.append(('Example', f'Input:\n{each["input"].rstrip()}\nOutput:\n{each["output"].rstrip()}'))
    parts.append(('Note', row['note']))
    return '\n\n'.join(
        f'{head}: {text}' if head == 'Limits' else f'{head}\n{text}'.strip() for head, text in parts if text
    )
