"""What each stage reached: one row a stage, so that the whole recipe is seen at once.

A row has the newest result of the stage's main evaluation (the first whose questions have right answers), and of its other evaluations
one figure each: pass@1, or every reward part that they measure, such as helpfulness as the rule behind the preferences has it.
"""

from __future__ import annotations

from collections.abc import Iterable

from r1jax.report.evolution import COLUMNS, cell, vote_of
from r1jax.report.graph import anchor
from r1jax.report.page import text
from r1jax.report.workdir import Point, Run, StageRun, figure_of

Row = dict[str, str]  # column -> cell


def table(run: Run) -> str:
    """The table, '' where nothing was measured."""
    rows: list[tuple[str, Row]] = []
    for stage in run.stages:
        if not any(row for _, row in rows) and (before := reached(stage, 'before')):  # where the run began
            rows.append((f'before {text(stage.name)}', before))
        link = f'<a href="#{anchor(stage.name)}"><b>{text(stage.name)}</b></a>'
        rows.append((link, reached(stage, 'after')))
    if not any(row for _, row in rows):
        return ''
    heads = columns(row for _, row in rows)
    head = ''.join(f'<th>{text(each)}</th>' for each in ('stage', *heads))
    body = ''
    for name, row in rows:
        body += f'<tr><td>{name}</td>' + ''.join(f'<td>{row.get(each, "–")}</td>' for each in heads) + '</tr>'
    return f'<div class="card scroll"><table class="reached"><tr>{head}</tr>{body}</table></div>'


def columns(rows: Iterable[Row]) -> list[str]:
    """The columns that rows have, those of the main evaluation first."""
    found = dict.fromkeys(column for row in rows for column in row)
    first = [head for _, head, _ in COLUMNS if head in found]
    return [*first, *(column for column in found if column not in first)]


def reached(stage: StageRun, when: str) -> Row:
    """The figures of a stage before or after it; {} where it was not measured then."""
    row: Row = {}
    main = next(iter(stage.evals), None)
    vote = vote_of(stage)
    for name, both in stage.measured.items():
        if not (result := both.get(when)):
            continue
        if name == main:
            keys = [(vote if key == 'cons' else key, head, share) for key, head, share in COLUMNS]
        else:
            keys = [('pass@1', name, True), ('accuracy', f'{name}: agreement', True)]
        parts = [(f'part/{part}', f'{name}: {part}', False) for part in result.get('parts') or {}]
        for key, head, share in [*keys, *parts]:
            if key and (point := figure_of(result, key)):
                row[head] = cell(Point(0, *point), share)
    return row
