"""Draws docs/img/tiny_zero.svg, the figure of the README, from the curves and evaluations in docs/results/tiny_zero.json.

    python docs/img/make.py

docs/results/collect.py writes that file from the workdirs of finished runs, one a seed; nothing is typed in here.
"""

import json
import pathlib
import re
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
RESULTS = HERE.parent / 'results'
sys.path.append(str(RESULTS))

from curves import STYLE, TITLE  # noqa: E402

from r1jax.report.chart import HEIGHT, WIDTH, Mark, Plot, Series, figure  # noqa: E402

CHARTS = (
    ('reward/accuracy', 'right answers', 'pass@1', True),
    ('rollout/tokens', 'tokens a response', 'response_tokens', False),
)
LEGEND = 24


def draw(runs: list[dict]) -> str:
    """Curves are of rollouts; marks are held-out evaluations before and after, with their intervals where they are stored."""
    body = []
    for column, (path, title, key, share) in enumerate(CHARTS):
        series, marks = [], []
        for run in runs:
            stage = run['stages']['zero']
            x, y = (np.array(stage['curve'][name], float) for name in ('step', path))
            series.append(Series(f'seed {run["seed"]}', x, y))
            for when, step in (('before', 0), ('after', stage['steps'])):
                found = stage['evals']['held_out'][when]
                marks.append(Mark(f'seed {run["seed"]}', step, found[key], *found.get(f'{key}_ci', ())))
        html = figure(Plot(title, (path,), percent=share, whole=share), series, marks)
        chart = re.search(r'<svg[^>]*>(.*)</svg>', html, re.DOTALL)[1]
        x = column * WIDTH
        body.append(f'<text class="title" x="{x + 12}" y="18">{title}</text>')
        body.append(f'<svg x="{x}" y="{TITLE}" width="{WIDTH}" height="{HEIGHT}">{chart}</svg>')
    for i, run in enumerate(runs):
        x, y = 60 + 110 * i, TITLE + HEIGHT + 14
        body.append(
            f'<path class="s{i % 4} key" d="M{x} {y - 4} h20"/><text x="{x + 26}" y="{y}">seed {run["seed"]}</text>'
        )
    note = 'lines: rollouts, smoothed · marks: 128 held-out questions × 16 samples, before and after'
    body.append(f'<text x="{60 + 110 * len(runs)}" y="{TITLE + HEIGHT + 14}">{note}</text>')
    box = f'0 0 {len(CHARTS) * WIDTH} {TITLE + HEIGHT + LEGEND}'
    style = (
        STYLE
        + '.key { stroke: var(--c); stroke-width: 3 } .m0 { --c: #0072b2 } .m1 { --c: #009e73 } .m2 { --c: #b8589a }\n'
    )
    style += '.mark { fill: var(--c); stroke: #fff } .error { stroke: var(--c); stroke-width: 1.5 }\n'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}"><style>{style}</style>{"".join(body)}</svg>\n'


if __name__ == '__main__':
    told = json.loads((RESULTS / 'tiny_zero.json').read_text(encoding='utf-8'))['runs']
    (HERE / 'tiny_zero.svg').write_text(draw(told), encoding='utf-8')
