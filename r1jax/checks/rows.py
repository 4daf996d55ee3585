"""What a check is, and what all kinds of checks use."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

Row = tuple[bool, str]


def under(path: str, rows: Iterable[Row]) -> Iterator[Row]:
    """Rows whose sentences begin with a path below `path`."""
    return ((holds, f'{path}.{sentence}') for holds, sentence in rows)


def naming(what: str, names: Sequence[str], reserved: Sequence[str] = ()) -> Iterator[Row]:
    """Names are parts of paths: of files, of metrics and of `--set`."""
    for i, name in enumerate(names):
        yield re.fullmatch(r'[\w-]+', name) is not None, f'{what}: the name {name!r} must be letters, digits, - and _'
        yield name not in reserved, f'{what}: the name {name!r} is taken'
        yield name not in names[:i], f'{what}: the name {name!r} occurs twice'
