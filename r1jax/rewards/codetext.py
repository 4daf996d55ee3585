"""The text side of code rewards: which program a response gives, and whether what it printed is right.

Nothing here runs anything.
"""

from __future__ import annotations

import math
import re
from typing import Any

LONGEST = 1 << 18  # characters of a program; longer text is none

_LABELS = {
    **dict.fromkeys(('python', 'py', 'python3', 'py3', 'pypy', 'pypy3'), 'python'),
    **dict.fromkeys(('cpp', 'c++', 'cc', 'cxx', 'c++17', 'c++20', 'cpp17', 'cpp20', 'g++', 'gcc', 'c'), 'cpp'),
    **dict.fromkeys(('javascript', 'js', 'node', 'nodejs', 'mjs'), 'javascript'),
}
_FENCE = re.compile(r'[ \t]{0,3}(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^`\n]*')
_NUMBER = re.compile(r'[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,4})?', re.ASCII | re.IGNORECASE)


def program(text: str) -> tuple[str, str] | None:
    """(language, source) of the program that a response ends with, or None.

    In order: what follows the last `</think>` (a response that opens `<think>` and does not close it has no answer);
    in it the inside of the last `<answer>…</answer>`, if there is one; in that the last closed fenced block whose label
    is a language that we run, else the last without a label; and where there is no fence at all, everything.

    The language is 'python', 'cpp', 'javascript', or '' where no label says it.
    """
    _, closed, rest = text.rpartition('</think>')
    if not closed and '<think>' in rest:
        return None
    end = rest.rfind('</answer>')
    start = rest.rfind('<answer>', 0, end) if end >= 0 else -1
    if start >= 0:
        rest = rest[start + len('<answer>') : end]
    blocks, fenced = _blocks(rest)
    chosen: tuple[str, str] | None = None
    if not fenced:
        chosen = ('', rest)
    for label, source in blocks:
        if label in _LABELS:
            chosen = (_LABELS[label], source)
        elif not label and not (chosen and chosen[0]):
            chosen = ('', source)
    if chosen is None or not chosen[1].strip() or len(chosen[1]) > LONGEST:
        return None
    return chosen


def _blocks(text: str) -> tuple[list[tuple[str, str]], bool]:
    """(label, content) of the closed fenced blocks, and whether a fence was seen at all."""
    found: list[tuple[str, str]] = []
    inside: list[str] = []
    opened = label = ''
    seen = False
    for line in text.splitlines(keepends=True):
        match = _FENCE.fullmatch(line.rstrip('\r\n'))
        if opened and match and not match[2] and match[1][0] == opened[0] and len(match[1]) >= len(opened):
            found.append((label, ''.join(inside)))
            opened = ''
        elif opened:
            inside.append(line)
        elif match:
            opened, label, inside, seen = match[1], match[2].lower(), [], True
    return found, seen


def language(label: str, source: str) -> str:
    """The language of a program, its label being '' where it has none."""
    return label or ('cpp' if '#include' in source else 'python')


def same_output(given: bytes, expected: str, tolerance: float | None) -> bool:
    """Whether a program printed what was expected.

    Without a tolerance, line by line, spaces at a line's end and empty lines at the end apart. With one, word by word:
    numbers may differ by tolerance · max(1, |expected|), other words may not.
    """
    text = given.decode(errors='replace')
    if tolerance is None:
        return _lines(text) == _lines(expected)
    words, wanted = text.split(), expected.split()
    return len(words) == len(wanted) and all(
        a == b or (_NUMBER.fullmatch(a) and _NUMBER.fullmatch(b) and _close(float(a), float(b), tolerance))
        for a, b in zip(words, wanted, strict=True)
    )


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split('\n')]


def _close(a: float, b: float, tolerance: float) -> bool:
    return math.isfinite(a) and abs(a - b) <= tolerance * max(1.0, abs(b))


def same_value(given: Any, expected: Any, tolerance: float | None) -> bool:
    """Whether plain data is what was expected: as Python compares it, a tuple being as good as a list.

    With a tolerance, numbers may differ by tolerance · max(1, |expected|).
    """
    if isinstance(given, (list, tuple)) and isinstance(expected, (list, tuple)):
        return len(given) == len(expected) and all(map(same_value, given, expected, [tolerance] * len(given)))
    if isinstance(given, dict) and isinstance(expected, dict):
        return given.keys() == expected.keys() and all(same_value(given[k], expected[k], tolerance) for k in given)
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (given, expected))
    if numbers and tolerance is not None:
        try:
            return _close(float(given), float(expected), tolerance)
        except OverflowError:
            return given == expected
    return given == expected
