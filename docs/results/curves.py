"""Curves of finished experiments as one SVG: rows of charts for each stage of RL, a line for each seed.

Lines are means over a few rollouts, dots evaluations. Drawn by the report's own charts (`r1jax.report.chart`).
"""

import re
from collections.abc import Sequence

import numpy as np

from r1jax.report.chart import HEIGHT, WIDTH, Mark, Plot, Series, figure

ROLLOUTS = (
    Plot('accuracy', ('reward/accuracy',), percent=True, whole=True),
    Plot('answered by its environment', ('environment/asked',), percent=True, whole=True),
    Plot('language consistency', ('reward/language',), percent=True, whole=True),
    Plot('tokens a response', ('rollout/tokens',)),
)
EVALUATED = ('pass@1', 'language_consistency')
TITLE = 24  # user units above a chart
ACROSS = 3  # charts
STYLE = """
svg { background: #fff } text { font: 12px sans-serif; fill: #5c6673 } .title { fill: #1a1f27; font-weight: 600 }
.grid { stroke: #dfe3e8 } .s0 { --c: #0072b2 } .s1 { --c: #009e73 } .s2 { --c: #b8589a } .s3 { --c: #7a6a00 }
polyline { fill: none; stroke: var(--c); stroke-width: 2 } .raw { opacity: .3; stroke-width: 1 } .dot { fill: var(--c) }
"""


def draw(runs: list[dict]) -> str:
    """`runs`: as `collect.run` makes them, of the same recipe. '' where no stage is one of RL."""
    return laid([_charts(runs, stage) for stage in runs[0]['stages']])


def laid(groups: list[list[tuple[str, str]]]) -> str:
    """Charts, each a title with what `drawn` gives of it, in rows; each group begins a row."""
    rows = [charts[i : i + ACROSS] for charts in groups for i in range(0, len(charts), ACROSS)]
    if not rows:
        return ''
    across = max(map(len, rows))
    body = []
    for i, row in enumerate(rows):
        for j, (title, chart) in enumerate(row):
            x, y = j * WIDTH, i * (HEIGHT + TITLE)
            body.append(f'<text class="title" x="{x + 12}" y="{y + 18}">{title}</text>')
            body.append(f'<svg x="{x}" y="{y + TITLE}" width="{WIDTH}" height="{HEIGHT}">{chart}</svg>')
    box = f'0 0 {across * WIDTH} {len(rows) * (HEIGHT + TITLE)}'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}"><style>{STYLE}</style>{"".join(body)}</svg>\n'


def _charts(runs, stage) -> list[tuple[str, str]]:
    """Title and drawing of each chart of a stage."""
    if 'policy/kl' not in runs[0]['stages'][stage]['curve']:
        return []
    found = []
    for plot in ROLLOUTS:
        curves = [(r['seed'], r['stages'][stage]['curve']) for r in runs]
        series = [_series(seed, c['step'], c[plot.paths[0]]) for seed, c in curves if plot.paths[0] in c]
        found.append((f'{stage}: {plot.title}', plot, series))
    names = dict.fromkeys(k for m in runs[0]['stages'][stage]['measured'] for k in m)
    for name in filter(lambda k: _drawn(k, names), names):
        courses = [(r['seed'], _course(r['stages'][stage], name)) for r in runs]
        series = [_series(seed, *zip(*course, strict=True), exact=True) for seed, course in courses]
        share = all(0 <= s.y.min() and s.y.max() <= 1 for s in series)
        found.append((f'{stage}: {name}, evaluated', Plot(name, (), percent=share, whole=share), series))
    return [(title, svg) for title, plot, series in found if (svg := drawn(plot, series))]


def drawn(plot: Plot, series: list[Series], marks: Sequence[Mark] = ()) -> str:
    """What is inside the SVG of a chart; '' where there is nothing to draw."""
    html = figure(plot, series, marks)
    return re.search(r'<svg[^>]*>(.*)</svg>', html, re.DOTALL)[1] if html else ''


def _course(entry: dict, name: str) -> list[tuple[int, float]]:
    """(step, value) of an evaluation's figure, before and after the stage too."""
    evaluation, _, key = name.partition('/')
    part = key.removeprefix('part/')

    def of(result: dict) -> float:
        return result[key] if part == key else result['parts'][part]['mean']

    ends = entry['evals'][evaluation]
    during = [(m['step'], m[name]) for m in entry['measured'] if name in m]
    return [(0, of(ends['before'])), *during, (entry['steps'], of(ends['after']))]


def _drawn(name: str, names) -> bool:
    evaluation, _, key = name.partition('/')
    if key.startswith('part/'):
        return not key.endswith('_ci')
    return key in EVALUATED and f'{evaluation}/pass@1' in names


def _series(seed, steps, values, exact=False) -> Series:
    return Series(f'seed {seed}', np.array(steps, float), np.array(values, float), exact=exact)
