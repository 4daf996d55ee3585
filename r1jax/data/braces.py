"""Braces of LaTeX, matched: what a box holds."""

from __future__ import annotations

import re

_BRACE = re.compile(r'[{}]')
_BOX = re.compile(r'\\f?box(?:ed)?(?=[ {])\s*')


def braced(text: str, start: int) -> str | None:
    """What stands from `start`, behind an opening brace, to the brace that closes it, stripped; None if none does."""
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += 1 if brace[0] == '{' else -1
        if not depth:
            return text[start : brace.start()].strip()
    return None


def boxed(text: str) -> str | None:
    r"""What the last box holds in a solution as MATH has them: `\boxed{…}`, `\fbox{…}`, or `\boxed 5`; None without any."""
    *_, last = [None, *_BOX.finditer(text)]
    if last is None:
        return None
    bare = re.match(r'[^\s${}]+', text[last.end() :])
    return bare[0] if bare else braced(text, last.end() + 1)
