"""Reward models on what they were not trained on: how often they judge as those did who judged, and whether their probabilities hold.

`r1jax.evals.agreement` measures it. A policy that is optimised against a reward model finds out what it does not know, so these figures
stand beside the monitor's.
"""

from __future__ import annotations

from typing import Any

from r1jax.report.evolution import cell
from r1jax.report.page import number, text
from r1jax.report.workdir import Point, StageRun, figure_of


def section(stage: StageRun) -> str:
    """A card for each evaluation of agreement, '' if the stage has none."""
    html = ''
    for name, both in stage.measured.items():
        result = both.get('after') or both.get('before')
        if figure_of(result, 'accuracy') and result.get('pass@1') is None:
            html += _card(stage, name, both, result)
    return html


def _card(stage: StageRun, name: str, both: dict[str, dict], result: dict[str, Any]) -> str:
    size = ' '.join(f'{number(result[what])} {what}' for what in ('pairs', 'labels') if what in result)
    steps = [
        cell(Point(0, *point), True)
        for when in ('before', 'after')
        if (point := figure_of(both.get(when) or {}, 'accuracy'))
    ]
    words = f'<b>{text(stage.name)}</b> on {text(name)}, {size}: judges as its data {" → ".join(steps)} of the time.'
    rows = [('all', result)]
    for split in ('by_length', 'by_label'):
        rows += [(part, figures) for part, figures in (result.get(split) or {}).items() if isinstance(figures, dict)]
    table = ''
    for part, figures in rows if len(rows) > 1 else ():
        count = number(figures.get('pairs', figures.get('labels')))
        point = figure_of(figures, 'accuracy')
        table += f'<tr><td>{text(part)}</td><td>{count}</td><td>{cell(point and Point(0, *point), True)}</td></tr>'
    head = '<tr><th></th><th>count</th><th>accuracy [95 %]</th></tr>'
    split = f'<div class="scroll"><table>{head}{table}</table></div>' if table else ''
    return f'<div class="card"><p class="verdict">{words}</p>{split}{_calibration(result)}</div>'


def _calibration(result: dict[str, Any]) -> str:
    """What the model said and what was so, bin by bin."""
    rows = ''
    for each in result.get('reliability') or ():
        bars = ''.join(
            f'<div class="meter"><i class="{colour}" style="width:{100 * (each.get(key) or 0):.1f}%"></i></div>'
            for key, colour in (('said', 'before'), ('was', 'after'))
        )
        shares = (number(each.get(key), percent=True) for key in ('said', 'was'))
        cells = [f'{number(each.get("count"))}', *shares, bars]
        rows += '<tr>' + ''.join(f'<td>{value}</td>' for value in cells) + '</tr>'
    if not rows:
        return ''
    error = number(result.get('calibration_error'), percent=True)
    head = '<tr><th>answers</th><th>said</th><th>was</th><th></th></tr>'
    return (
        f'<details><summary>Calibration: what it says is off by {error} in the mean</summary>'
        f'<div class="scroll"><table>{head}{rows}</table></div></details>'
    )
