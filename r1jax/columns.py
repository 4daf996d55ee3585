"""Tables of text: for the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

Rows = Sequence[Sequence[str]]  # the first has the columns' names


def aligned(rows: Rows) -> list[str]:
    """A line a row, columns two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ['  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def markdown(rows: Rows) -> list[str]:
    """A line a row, and the rule below the first."""
    escaped = [[cell.replace('|', r'\|') for cell in row] for row in rows]
    lines = [f'| {" | ".join(row)} |' for row in escaped]
    return [lines[0], '|' + '---|' * len(rows[0]), *lines[1:]]
