"""Problems and examples of tables that need not fit in memory.

    Table('data/deepscaler.json', Fields('problem', 'answer'), where=(('difficulty', 'hard'),)).load()

At the first use every row is read once: mapped, checked, filtered, and what is left is stored in the cache folder, from
where items are read one by one (`r1jax.data.stored`). So a broken row is found before training, memory stays small, and
later runs start at once. An id is the row's number in its source, before filters: limits and filters change no id.

What is read: see `r1jax.data.rows`. A field is named by its dotted path, 'reward_model.ground_truth' or 'prompt.0.content';
where a path goes on into a text, the text is read as JSON, since many datasets keep objects so.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from r1jax.data import braces, codetests, rows, stored
from r1jax.types import Example, Problem

LETTERS = 'ABCDEFGHIJ'


@dataclasses.dataclass(frozen=True)
class Fields:
    """How a row becomes a problem. Names are dotted paths."""

    # a text; or chat messages: the last of the user's is the prompt, all go to meta['messages']
    prompt: str = 'problem'
    answer: str = 'answer'  # '': there is none, as where tests in `meta` decide
    answer_after: str = ''  # the answer is what follows the last of these marks
    answer_boxed: bool = False  # the answer is in the last \\boxed{…}, as in MATH's solutions
    wrong: tuple[str, ...] = ()  # further fields with wrong answers: a question of choice, answered by a letter
    without: tuple[str, ...] = ()  # texts that are taken off the prompt's start and end where they are there
    skip: tuple[
        str, ...
    ] = ()  # rows with these answers are left out, as 'proof'; '' stands for a missing one, and for no tests that can be run
    kind: str = 'math'  # of all problems, or
    kind_field: str = ''  # its field, and
    kinds: tuple[
        tuple[str, str], ...
    ] = ()  # what its values mean: (value, kind); values not listed are kinds themselves
    language: str = 'en'  # of all problems, or
    language_field: str = ''  # its field
    tests: tuple[
        str, ...
    ] = ()  # fields with a code problem's tests, which go to `meta` as `rewards.code.Code` reads them
    check: str = ''  # instead: a field with Python that defines check(candidate), as HumanEval's; goes with entry_point
    setup: str = ''  # a field with Python that comes before the answer and before `check`
    entry_point: str = ''  # field that names the function they call, where there is one
    time_limit: str = ''  # field with seconds a test, or {seconds, nanos}; null leaves it to the reward
    meta: tuple[str, ...] = ()  # fields that are kept in Problem.meta by their name

    @property
    def names(self) -> list[str]:
        """All fields that are read."""
        named = (self.prompt, self.answer, *self.wrong, self.kind_field, self.language_field, *self.meta, *self.tests)
        return [name for name in (*named, self.check, self.setup, self.entry_point, self.time_limit) if name]


@dataclasses.dataclass(frozen=True)
class Source(abc.ABC):
    """Items of a table. A subclass says with `_values(files, notes)` what is stored of each row."""

    path: str  # a file, a pattern or a folder: see `r1jax.data.rows`

    @abc.abstractmethod
    def load(self) -> Sequence[Any]:
        """The items, read when asked for."""

    @abc.abstractmethod
    def _values(self, files: Sequence[Path], notes: dict[str, Any]) -> Iterator[list]:
        """What is stored of each row that is kept; notes: what there is to say of the others."""


@dataclasses.dataclass(frozen=True)
class Table(Source):
    """Problems of a table."""

    fields: Fields = Fields()
    split: str = ''  # of a folder
    config: str = ''  # of a folder
    where: tuple[tuple[str, Any], ...] = ()  # (field, value): only rows in which all hold; a tuple: any of its values
    kinds: tuple[str, ...] = ()  # only problems of these; (): all
    languages: tuple[str, ...] = ()
    unique: bool = False  # of problems with one prompt only the first
    limit: int = 0  # the first so many of what is left; 0: all

    def load(self) -> Sequence[Problem]:
        """The problems, read when asked for.

        Raises:
          FileNotFoundError: there is nothing at `path`.
          ImportError: pyarrow is missing and the files need it.
          ValueError: a broken file, a missing field or answer, with file, row and field; no such split; or nothing is left.
        """
        return kept(self, self._values, lambda value: Problem(*value))

    def _values(self, files: Sequence[Path], notes: dict[str, Any]) -> Iterator[list]:
        notes |= {'rows': 0, 'skipped': 0, 'repeated': 0}
        seen: set[bytes] = set()
        for i, place, row in selected(files, self.where, self.fields.names, notes):
            value = problem_of(i, row, self.fields, place)
            if value is None:
                notes['skipped'] += 1
                continue
            _, prompt, _, kind, language, _ = value
            if (self.kinds and kind not in self.kinds) or (self.languages and language not in self.languages):
                continue
            if self.unique:
                digest = hashlib.sha256(prompt.encode()).digest()[:16]
                if digest in seen:
                    notes['repeated'] += 1
                    continue
                seen.add(digest)
            yield value


@dataclasses.dataclass(frozen=True)
class TableExamples(Source):
    """Stored texts of a table: a prompt and its response, or chat messages of one exchange."""

    prompt: str = 'prompt'  # field names; '' for plain text, all of which is learned
    response: str = 'response'
    messages: str = ''  # instead of the two: a field with one message of the user and the assistant's answer
    split: str = ''
    config: str = ''
    where: tuple[tuple[str, Any], ...] = ()
    limit: int = 0
    asked: str = '{prompt}'  # what the model is shown: a text in which the prompt stands at this mark
    at_most: tuple[tuple[str, float], ...] = ()  # (field, number): only rows whose field is at most that, as a length

    def load(self) -> Sequence[Example]:
        """The examples, read when asked for; raises as `Table.load`."""
        return kept(self, self._values, lambda value: Example(*value))

    def _values(self, files: Sequence[Path], notes: dict[str, Any]) -> Iterator[list]:
        if '{prompt}' not in self.asked:
            raise ValueError(f"asked={self.asked!r} has no '{{prompt}}' where a row's prompt could stand")
        names = [self.messages] if self.messages else [n for n in (self.prompt, self.response) if n]
        for _, place, row in selected(files, self.where, [*names, *(name for name, _ in self.at_most)], notes):
            if any(_number(row, name, place) > most for name, most in self.at_most):
                continue
            if self.messages:
                turns = [(turn['role'], turn['content']) for turn in messages_at(row, self.messages, place)]
                if [role for role, _ in turns] != ['user', 'assistant']:
                    said = f'has the roles {[role for role, _ in turns]}'
                    raise ValueError(
                        f"{place}: field {self.messages!r} {said}, and an example is ['user', 'assistant']"
                    )
                yield [self.asked.replace('{prompt}', turns[0][1]), turns[1][1]]
            else:
                prompt = self.asked.replace('{prompt}', text_at(row, self.prompt, place)) if self.prompt else ''
                yield [prompt, text_at(row, self.response, place)]


def kept(source: Any, values: Any, decode: Any, readers: Sequence[str] = ()) -> stored.Stored:
    """The items of a source: `values(files, notes)` as they are stored, which is done once, each made an item by `decode`."""
    files = rows.files(source.path, source.split, source.config)
    readers = (__file__, rows.__file__, codetests.__file__, braces.__file__, *readers)  # one changes: all is read anew
    code = [Path(module).read_bytes() for module in readers]

    def limited(notes: dict[str, Any]) -> Iterator[Any]:
        for kept, value in enumerate(values(files, notes), 1):
            yield value
            if kept == source.limit:
                return

    digest = hashlib.sha256(b''.join(code)).hexdigest()
    items = stored.stored([digest, source, *files], limited, decode)
    if not len(items):
        raise ValueError(f'{source.path} has no row that {source} asks for, of {items.notes.get("rows")}')
    return items


def selected(
    files: Sequence[Path], where, names: Sequence[str], notes: dict[str, Any]
) -> Iterator[tuple[int, str, rows.Row]]:
    """Rows for which `where` holds, with their number over all files and their place."""
    wanted = [*names, *(name for name, _ in where)]
    number = 0
    for file in files:
        for place, row in rows.read(file, wanted):
            if all(_is(value_at(row, name, place), value) for name, value in where):
                yield number, place, row
            number += 1
            notes['rows'] = number


def _number(row: Any, name: str, place: str) -> float:
    value = value_at(row, name, place)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ValueError(f'{place}: field {name!r} is no number: {value!r:.80}')
    return value


def _is(found: Any, wanted: Any) -> bool:
    return found in wanted if isinstance(wanted, tuple) else found == wanted


def value_at(row: Any, name: str, place: str) -> Any:
    """The value at a dotted path."""
    if name in row:  # a column's own name may have dots
        return row[name]
    value = row
    for i, part in enumerate(name.split('.')):
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except json.JSONDecodeError as error:
                before = '.'.join(name.split('.')[:i])
                raise ValueError(f'{place}: no field {name!r}: {before!r} is no JSON: {error}') from error
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            has = ', '.join(map(repr, value)) if isinstance(value, Mapping) else type(value).__name__
            raise ValueError(f'{place}: no field {name!r}: it has {has}')
    return value


def text_at(row: rows.Row, name: str, place: str) -> str:
    value = value_at(row, name, place)
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, (list, dict)):
        raise ValueError(f'{place}: field {name!r} is {type(value).__name__}, and a text or a number was expected')
    return str(value)


def messages_at(row: rows.Row, name: str, place: str) -> list[dict[str, str]]:
    value = value_at(row, name, place)
    shaped = isinstance(value, list) and all(
        isinstance(turn, Mapping) and isinstance(turn.get('role'), str) and isinstance(turn.get('content'), str)
        for turn in value
    )
    if not shaped:
        raise ValueError(f"{place}: field {name!r} has no messages: a list of {{'role': …, 'content': …}} was expected")
    return [{'role': turn['role'], 'content': turn['content']} for turn in value]


def problem_of(number: int, row: rows.Row, fields: Fields, place: str) -> list | None:
    """What a row gives by its fields: those of a Problem in their order, or None if its answer is one to skip."""
    meta: dict[str, Any] = {name: value_at(row, name, place) for name in fields.meta}
    if isinstance(value_at(row, fields.prompt, place), list):
        turns = messages_at(row, fields.prompt, place)
        asked = [turn['content'] for turn in turns if turn['role'] == 'user']
        if not asked:
            raise ValueError(f'{place}: field {fields.prompt!r} has no message of the user')
        prompt = asked[-1]
        if len(turns) > 1:
            meta['messages'] = turns
    else:
        prompt = text_at(row, fields.prompt, place)
    for text in fields.without:
        prompt = prompt.removeprefix(text).removesuffix(text)
    answer = _answer(row, fields, place)
    if fields.answer and answer in fields.skip:
        return None
    if fields.answer and not answer:
        raise ValueError(
            f"{place}: field {fields.answer!r} has no answer: {value_at(row, fields.answer, place)!r:.80}; add '' to skip"
        )
    if fields.wrong:
        prompt, answer, meta['choices'] = _choice(prompt, answer, [text_at(row, name, place) for name in fields.wrong])
    if fields.tests:
        found = _tests(row, fields, place)
        if found is None:
            return None
        meta |= found
    if fields.check:
        meta |= {'tests': text_at(row, fields.check, place), 'entry_point': text_at(row, fields.entry_point, place)}
    if fields.setup:
        meta['setup'] = text_at(row, fields.setup, place)
    kind = text_at(row, fields.kind_field, place) if fields.kind_field else fields.kind
    language = text_at(row, fields.language_field, place) if fields.language_field else fields.language
    return [number, prompt, answer, dict(fields.kinds).get(kind, kind), language, meta]


def _answer(row: rows.Row, fields: Fields, place: str) -> str:
    if not fields.answer:
        return ''
    value = value_at(row, fields.answer, place)
    if value is None:
        return ''
    answer = text_at(row, fields.answer, place)
    if fields.answer_after:
        answer = answer.rpartition(fields.answer_after)[2]
    if fields.answer_boxed:
        answer = braces.boxed(answer) or ''
    return answer.strip()


def _tests(row: rows.Row, fields: Fields, place: str) -> dict[str, Any] | None:
    """What `meta` holds of a code problem, or None if it has no tests that can be run and such rows are to be skipped."""
    name = None
    if fields.entry_point:
        with contextlib.suppress(ValueError):  # a program has none
            name = value_at(row, fields.entry_point, place)
    values = [value_at(row, field, place) for field in fields.tests]
    try:
        found = codetests.collected(values, name)
        if not found['tests']:
            raise ValueError(f'there are no tests in {", ".join(map(repr, fields.tests))}')
    except ValueError as error:
        if '' in fields.skip:
            return None
        raise ValueError(f"{place}: {error}; add '' to skip") from error
    limit = value_at(row, fields.time_limit, place) if fields.time_limit else None
    if isinstance(limit, Mapping):
        limit = (limit.get('seconds') or 0) + (limit.get('nanos') or 0) / 1e9
    return found | ({'time_limit': float(limit)} if limit else {})


def _choice(question: str, right: str, wrong: Sequence[str]) -> tuple[str, str, list[str]]:
    """A question with lettered options, the letter of the right one, and the options. Their order is by a hash: the same in
    every run, and the right one is at no place more often than at another.
    """
    options = sorted(
        {right, *(text.strip() for text in wrong)}, key=lambda o: hashlib.sha256(f'{question}\0{o}'.encode()).digest()
    )
    lines = [f'{letter}. {option}' for letter, option in zip(LETTERS, options, strict=False)]
    return '\n'.join([question.strip(), '', *lines]), LETTERS[options.index(right)], options
