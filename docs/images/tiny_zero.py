"""Draws docs/images/tiny_zero.svg, the figure of the README, from the curves and evaluations in docs/results/tiny_zero.json.

    python docs/images/tiny_zero.py

docs/results/collect.py writes that file from the workdirs of finished runs, one a seed; nothing is typed in here.
"""

import json
import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
RESULTS = HERE.parent / 'results'
sys.path.append(str(RESULTS))

from curves import drawn, laid  # noqa: E402

from r1jax.report.chart import Mark, Plot, Series  # noqa: E402

CHARTS = (
    (Plot('right answers', ('reward/accuracy',), percent=True, whole=True), 'pass@1'),
    (Plot('tokens a response', ('rollout/tokens',)), 'response_tokens'),
)
STYLE = '.mark { fill: var(--c); stroke: #fff } .error { stroke: var(--c); stroke-width: 1.5 } ' + ' '.join(
    f'.m{i} {{ --c: {colour} }}' for i, colour in enumerate(('#0072b2', '#009e73', '#b8589a', '#7a6a00'))
)


def draw(runs: list[dict]) -> str:
    """Lines are rollouts, smoothed, a colour a seed; marks are held-out evaluations before and after, with their intervals where they
    are stored.
    """
    charts = []
    for plot, key in CHARTS:
        series, marks = [], []
        for run in runs:
            stage, seed = run['stages']['zero'], f'seed {run["seed"]}'
            x, y = (np.array(stage['curve'][name], float) for name in ('step', plot.paths[0]))
            series.append(Series(seed, x, y))
            for when, step in (('before', 0), ('after', stage['steps'])):
                found = stage['evals']['held_out'][when]
                marks.append(Mark(seed, step, found[key], *found.get(f'{key}_ci', ())))
        charts.append((plot.title, drawn(plot, series, marks)))
    return laid([charts]).replace('</style>', f'{STYLE}\n</style>')


if __name__ == '__main__':
    told = json.loads((RESULTS / 'tiny_zero.json').read_text(encoding='utf-8'))['runs']
    (HERE / 'tiny_zero.svg').write_text(draw(told), encoding='utf-8')
