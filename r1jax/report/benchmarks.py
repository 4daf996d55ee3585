"""The papers' benchmark tables, laid out as they print them, with what was measured here beside.

In: `r1jax.evals.paper.TABLES`, results.json of `r1jax eval`, and evaluations of a run that are called as a benchmark. A row (or, where
models are columns, a column) of ours has what was measured and nothing else: its figure with the 95 % interval, of how many questions
and samples, and how many of the responses were cut off.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from r1jax.evals import paper, results
from r1jax.evals.harness_tasks import HARNESS
from r1jax.report.page import number, text
from r1jax.report.workdir import Run, figure_of

KNOWN = frozenset(metric.partition(' ')[0] for table in paper.TABLES for metric in table.metrics)


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """A model of ours: a run's stage, or a checkpoint that `r1jax eval` measured."""

    name: str
    entries: Mapping[str, Mapping[str, Any]]  # benchmark -> its figures, as in results.json
    colour: str = ''  # its run's, as a class


def stages(run: Run, name: str, colour: str = '') -> list[Measured]:
    """Of a run the stages after which an evaluation called as a benchmark was taken; of the first of them also before."""
    found: list[Measured] = []
    for stage in run.stages:
        for when in ('before', 'after') if not found else ('after',):
            entries = {key: both[when] for key, both in stage.measured.items() if key in KNOWN and when in both}
            if entries:
                label = ', '.join(filter(None, (name, f'{"before " if when == "before" else ""}{stage.name}')))
                found.append(Measured(label, entries, colour))
    return found


def folder(path: str, colour: str = '') -> list[Measured]:
    """What a folder of `r1jax eval` has, called by its checkpoint; [] if it has nothing of the tables.

    Raises:
      ValueError: results.json is damaged.
    """
    checkpoint, entries = read(path)
    known = {key: entry for key, entry in entries.items() if key in KNOWN}
    return [Measured(short(checkpoint), known, colour)] if known else []


def read(path: str) -> tuple[str, dict[str, Any]]:
    """The checkpoint of a results.json, in words, and its entries.

    Raises:
      ValueError: it is damaged.
    """
    file = os.path.join(path, results.RESULTS)
    try:
        with open(file, encoding='utf-8') as opened:
            whole = json.load(opened)
        what, entries = whole['checkpoint']['what'], whole['benchmarks']
        if not isinstance(entries, dict):
            raise TypeError('benchmarks are no object')
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{file} is no results.json of r1jax eval ({error!r}): remove it, or measure anew') from error
    return str(what), {name: entry for name, entry in entries.items() if isinstance(entry, dict)}


def short(checkpoint: str) -> str:
    """A checkpoint without the folders that lead to it: 'a, stage zero, step 100' of 'runs/a, stage zero, step 100'."""
    place, comma, stage = checkpoint.partition(', stage ')
    return (os.path.basename(place.rstrip('/')) or place) + comma + stage


def listed(path: str) -> str:
    """All figures of a folder of `r1jax eval`, also of benchmarks that the papers' tables do not have."""
    checkpoint, entries = read(path)
    head, *rows = results.table(entries)
    body = ''.join('<tr>' + ''.join(f'<td>{text(cell)}</td>' for cell in row) + '</tr>' for row in rows)
    heads = ''.join(f'<th scope="col">{text(cell)}</th>' for cell in head)
    return (
        f'<div class="card scroll"><p><b>{text(short(checkpoint))}</b></p><table><tr>{heads}</tr>{body}</table></div>'
    )


def section(measured: Sequence[Measured]) -> str:
    """All tables; those are folded of which nothing was measured, all in one where that is so of all."""
    drawn = [_table(printed, measured) for printed in paper.TABLES]
    html = ''.join(
        table if ours else _folded(f'{title}: nothing of it was measured here', table) for title, table, ours in drawn
    )
    if not any(ours for *_, ours in drawn):
        whole = ''.join(f'<p>{title}</p>{table}' for title, table, _ in drawn)
        html = _folded("Nothing of the papers' tables was measured here: their figures alone", whole)
    said = (
        'Figures of the papers, as they print them: per cent, a CodeForces rating in points. '
        'Shaded: measured here, with 95 % intervals, questions × samples; empty where nothing was measured.'
    )
    return f'<p class="muted">{said}</p>{html}'


def _folded(title: str, html: str) -> str:
    return f'<details class="card"><summary>{title}</summary>{html}</details>'


def _table(printed: paper.Printed, measured: Sequence[Measured]) -> tuple[str, str, bool]:
    """The title of a table of the papers; its HTML, with our rows below or our columns on the right; and whether there are any."""
    cells = {m: {metric: cell for metric in printed.metrics if (cell := _cell(m, metric))} for m in measured}
    ours = [each for each in measured if cells[each]]
    heads = [text(paper.LABELS[metric]) for metric in printed.metrics]
    rows = {model: [_theirs(printed.of(model).get(metric)) for metric in printed.metrics] for model in printed.models}
    grid = [['', *heads], *([f'{text(model)}', *row] for model, row in rows.items())]
    grid += [[_name(each), *(cells[each].get(metric, '–') for metric in printed.metrics)] for each in ours]
    html = _rows(grid, len(ours)) if printed.by_model else _columns(grid, len(ours))
    title = f'<b>{text(printed.name)}</b> {text(printed.title)} <span class="muted">({text(printed.where)})</span>'
    note = f'<p class="note">{text(printed.note)}</p>' if printed.note else ''
    table = f'<div class="scroll"><table class="printed">{html}</table></div>{note}{_differs(printed, ours)}'
    return title, f'<div class="card"><p>{title}</p>{table}</div>' if ours else table, bool(ours)


def _rows(grid: Sequence[Sequence[str]], ours: int) -> str:
    html = '<tr>' + ''.join(f'<th scope="col">{cell}</th>' for cell in grid[0]) + '</tr>'
    for i, (head, *cells) in enumerate(grid[1:], 1):
        mark = ' class="ours"' if i >= len(grid) - ours else ''
        html += f'<tr{mark}><td>{head}</td>' + ''.join(f'<td>{cell}</td>' for cell in cells) + '</tr>'
    return html


def _columns(grid: Sequence[Sequence[str]], ours: int) -> str:
    """The same, a row a metric."""
    html = ''
    for i, (head, *cells) in enumerate(zip(*grid, strict=True)):
        tag = 'td' if i else 'th'
        first = len(cells) - ours
        marked = (f'<{tag}{_ours(j >= first)}>{cell}</{tag}>' for j, cell in enumerate(cells))
        html += f'<tr><{tag}>{head}</{tag}>{"".join(marked)}</tr>'
    return html


def _ours(so: bool) -> str:
    return ' class="ours"' if so else ''


def _name(each: Measured) -> str:
    dot = f'<i class="key {each.colour}"></i>' if each.colour else ''
    return f'{dot}<b>{text(each.name)}</b>'


def _theirs(value: float | None) -> str:
    return '–' if value is None else f'{value:,.0f}' if value > 100 else f'{value:.1f}'


def _cell(measured: Measured, metric: str) -> str:
    """Our figure of a metric, '' where it was not measured. A vote over other numbers of samples is named."""
    benchmark, _, key = metric.partition(' ')
    entry = measured.entries.get(benchmark)
    if entry is None:
        return ''
    found = figure_of(entry, key)
    facts = [f'{number(entry.get("questions"))} × {number(entry.get("samples"))}']
    if found is None and key.startswith('cons@'):
        votes = [name for name in entry if name.startswith('cons@') and name.removeprefix('cons@').isdigit()]
        key = max(votes, key=lambda name: int(name.removeprefix('cons@')), default=key)
        found = figure_of(entry, key)
        facts.insert(0, key)
    if found is None:
        return ''
    value, ci = found
    if ci:
        facts.insert(0, f'[{results.number(key, ci[0])}, {results.number(key, ci[1])}]')
    if entry.get('truncated'):
        facts.append(f'{100 * entry["truncated"]:.0f} % cut off')
    return f'<b>{results.number(key, value)}</b><small>{"<br>".join(map(text, facts))}</small>'


def _differs(printed: paper.Printed, ours: Sequence[Measured]) -> str:
    """Where a benchmark of a harness was measured otherwise than the report does it."""
    measured = {name for each in ours for name, entry in each.entries.items() if 'harness' in entry}
    named = (metric.partition(' ')[0] for metric in printed.metrics)
    notes = [(name, HARNESS[name].note) for name in dict.fromkeys(named) if name in HARNESS and name in measured]
    said = '; '.join(f'{text(name)}: {text(note)}' for name, note in notes if note)
    return f'<p class="note">Measured here otherwise than in the report: {said}.</p>' if said else ''
