"""The tests of published code problems, in the form that `rewards.code.Code` runs.

In: what a row has: a mapping with lists `inputs` and `outputs` (APPS, TACO; with `fn_name` they are calls), one with `input` and
`output` (CodeContests), a list of mappings with those two (LiveCodeBench), one with `test_cases` (PrimeIntellect), or any of
them as a text in JSON or Python literals. Out: the entries `tests`, `entry_point`, `language` of a problem's `meta`.

LiveCodeBench's private tests are such a text too, but pickled, compressed and in base 64. To open a pickle is to run it, so it is not
opened: the one text that it is read for is taken from its opcodes, and a pickle of anything else is refused.
"""

from __future__ import annotations

import ast
import base64
import json
import pickletools
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

_LANGUAGES = {
    'python': 'python',
    'python3': 'python',
    'py': 'python',
    'cpp': 'cpp',
    'c++': 'cpp',
    'javascript': 'javascript',
}


_PACKED = re.compile(r'e[AFJN][A-Za-z0-9+/]+={0,2}', re.ASCII)  # how the base 64 of what zlib wrote begins
_LARGEST = 1 << 30  # bytes of tests that were packed
_OF_ONE_TEXT = {'PROTO', 'FRAME', 'MEMOIZE', 'BINPUT', 'LONG_BINPUT', 'PUT', 'STOP'}  # opcodes besides the text's own


def collected(values: Sequence[Any], entry_point: str | None = None) -> dict[str, Any]:
    """The tests of all values together.

    Args:
      values: what the fields with tests hold; None and '' are none.
      entry_point: the function to call, where a field of its own names it.

    Returns:
      `tests`, a list of {'input', 'output'}, empty if there are none; with calls `entry_point`; `language` where it is said.

    Raises:
      ValueError: something in another form, or functions and programs mixed.
    """
    found: list[tuple[Any, Any, str | None]] = []
    meta: dict[str, Any] = {}
    for value in values:
        value = _read(value)
        if isinstance(value, Mapping) and 'test_cases' in value:
            if value.get('language'):
                meta['language'] = _language(value['language'])
            value = _read(value['test_cases'])
        found += _listed(value, entry_point)
    names = {name for _, _, name in found}
    if len(names) > 1:
        raise ValueError(f'tests of one problem call one function or run the program, not {sorted(map(str, names))}')
    name = names.pop() if names else None
    if name:
        meta['entry_point'] = name
    return {'tests': [_test(given, wanted, name) for given, wanted, _ in found]} | meta


def _read(value: Any) -> Any:
    if not isinstance(value, str) or not value.strip():
        return value or None
    if _PACKED.fullmatch(value):
        value = unpacked(value)
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise ValueError(f'tests are neither JSON nor a Python literal: {value[:40]!r}') from error


def unpacked(text: str) -> str:
    """The text that was pickled, compressed and written in base 64; nothing of the pickle is run.

    Raises:
      ValueError: it is no such thing, or a pickle of anything but a text, or larger than 1 GiB.
    """
    try:
        unzip = zlib.decompressobj()
        data = unzip.decompress(base64.b64decode(text, validate=True), _LARGEST)
        if not unzip.eof:
            raise ValueError(f'cut off, or more than {_LARGEST:,} bytes')
        operations = [(operation.name, given) for operation, given, _ in pickletools.genops(data)]
    except (ValueError, zlib.error) as error:
        raise ValueError(f'packed tests cannot be read: {error}') from error
    found = [
        given for name, given in operations if name in ('BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8', 'UNICODE')
    ]
    other = (
        {name for name, _ in operations} - _OF_ONE_TEXT - {'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8', 'UNICODE'}
    )
    if len(found) != 1 or other:
        raise ValueError(
            f'packed tests hold a pickle of something else than one text ({", ".join(sorted(other)) or len(found)})'
        )
    return found[0]


def _listed(value: Any, entry_point: str | None) -> list[tuple[Any, Any, str | None]]:
    """(input, output, function or None) of each test."""
    if not value:
        return []
    if isinstance(value, Mapping):
        for one, two in (('inputs', 'outputs'), ('input', 'output')):
            if isinstance(value.get(one), list) and isinstance(value.get(two), list):
                if len(value[one]) != len(value[two]):
                    raise ValueError(f'{len(value[one])} inputs of tests have {len(value[two])} outputs')
                name = value.get('fn_name') or entry_point
                return [(given, wanted, name) for given, wanted in zip(value[one], value[two], strict=True)]
    if isinstance(value, list) and all(isinstance(t, Mapping) and 'input' in t and 'output' in t for t in value):
        return [(t['input'], t['output'], _called(t, entry_point)) for t in value]
    raise ValueError(f'tests have none of the forms that are known: {value!r:.80}')


def _called(test: Mapping[str, Any], entry_point: str | None) -> str | None:
    """The function that a test calls: PrimeIntellect's say it each, LiveCodeBench's only that there is one."""
    form = test.get('type') or test.get('testtype')
    if form in ('stdin_stdout', 'stdin'):
        return None
    name = test.get('fn_name') or entry_point
    if form in ('function_call', 'functional') and not name:
        raise ValueError('a test calls a function, and nothing names it')
    return name


def _test(given: Any, wanted: Any, name: str | None) -> dict[str, Any]:
    if name:  # the result is often wrapped in a list, as APPS' own harness allows for
        unwrapped = isinstance(given, list) and isinstance(wanted, list) and len(wanted) == 1
        return {'input': given, 'output': wanted[0] if unwrapped else wanted}
    return {'input': _lines(given), 'output': _lines(wanted)}


def _lines(value: Any) -> str:
    """Text for stdin and from stdout; some sets have it as a list of lines."""
    return '\n'.join(map(str, value)) if isinstance(value, list) else str(value)


def _language(said: str) -> str:
    if said.lower() not in _LANGUAGES:
        raise ValueError(f'tests are for programs in {said!r}, and python, cpp and javascript are run')
    return _LANGUAGES[said.lower()]
