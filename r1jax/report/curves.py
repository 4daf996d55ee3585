"""Which curves a stage has, with what interval, and which evaluations lie on them.

The known metrics come first, in the order in which one looks at a run; any other number that was logged follows in a
folded list, so that a new metric is in the report without a change here.
"""

from __future__ import annotations

import numpy as np

from r1jax.report.chart import Mark, Plot, Series, figure
from r1jax.report.workdir import StageRun, is_number

PLOTS = (
    Plot('Reward', ('reward/mean',), 'mean of the weighted sum'),
    Plot('Accuracy', ('reward/accuracy',), 'of the samples in training', percent=True, whole=True),
    Plot('KL', ('policy/kl',), 'to the reference, nats a token'),
    Plot('Entropy', ('policy/entropy',), 'nats a token'),
    Plot('Clip fraction', ('policy/clip_fraction',), 'tokens with a clipped ratio', percent=True),
    Plot('Loss', ('loss',)),
    Plot('Gradient norm', ('grad_norm',), 'before clipping'),
    Plot(
        'Sampler gap', ('policy/sampler_gap_max', 'policy/sampler_gap_mean'), '|Δ log p|, sampler and update', log=True
    ),
    Plot('Cut off', ('rollout/truncated',), 'responses that met the length limit', percent=True),
    Plot('Grader errors', ('rollout/grader_errors',), 'samples a rollout that could not be graded'),
    Plot('Longest', ('rollout/longest',), 'tokens of the longest response'),
    Plot('Repeated', ('rollout/repeated',), 'share of a rollout that is one and the same text', percent=True),
    Plot('Groups kept', ('rollout/groups_kept',), 'questions whose rewards differ', percent=True),
    Plot('Speed', ('tokens_per_second',), 'tokens a second'),
)
# An evaluation's figures that are drawn on a plot: metric path of the plot -> key of EVAL.
EVALUATED = {
    'reward/accuracy': 'pass@1',
    'rollout/tokens': 'response_tokens',
    'reward/format': 'format',
    'reward/language': 'language_consistency',
}
Z = 1.96  # of a 95 % interval
WINDOW = 0.2  # share of a stage's steps that counts as its beginning, and as its end
# What `evolution` draws of a stage of RL
ELSEWHERE = ('rollout/tokens', 'rollout/tokens_std', 'reward/format', 'reward/language')


def draw(stage: StageRun) -> str:
    """The charts of a stage but those of its self-evolution, '' if it has logged nothing."""
    drawn = [draw_plot(stage, plot) for plot in PLOTS]
    more = [draw_plot(stage, Plot(path, (path,))) for path in others(stage)]
    html = ''.join(drawn)
    html = f'<div class="charts">{html}</div>' if html else ''
    if any(more):
        html += (
            f'<details><summary>{len(more)} more metrics</summary><div class="charts">{"".join(more)}</div></details>'
        )
    return html


def others(stage: StageRun) -> list[str]:
    """The metrics that were logged and that no known chart has."""
    known = {*(ELSEWHERE if stage.reinforced else ()), *(path for plot in PLOTS for path in plot.paths)}
    logged = {path for line in stage.lines for path, value in line.items() if is_number(value)} - {'step', 'seconds'}
    return sorted(path for path in logged - known if not path.startswith(('eval/', 'reflection/')))


def draw_plot(stage: StageRun, plot: Plot) -> str:
    """A chart of logged metrics, with the evaluations that belong to the first of them; '' if none was logged."""
    series = []
    for path in plot.paths:
        x, y = stage.column(path)
        # Shares above 1 are not shares: a format reward may be scaled or be a penalty.
        if plot.whole and y.size and (y.min() < 0 or y.max() > 1):
            plot = Plot(plot.title, plot.paths, plot.note)
        low, high = _band(stage, path, y)
        series.append(Series(path.rsplit('/', 1)[-1] if len(plot.paths) > 1 else plot.title, x, y, low, high))
    return figure(plot, series, marks(stage, EVALUATED[plot.paths[0]]) if plot.paths[0] in EVALUATED else [])


def marks(stage: StageRun, key: str) -> list[Mark]:
    """An EVAL figure before, during and after the stage."""
    courses = stage.course(key).items()
    return [Mark(name, p.step, p.value, *(p.ci or (None, None))) for name, points in courses for p in points]


def _band(stage: StageRun, path: str, y: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """95 % interval of each step's mean, its samples taken as independent; None where it cannot be known.

    Reward and length: mean ± 1.96 std / √n. Accuracy and format: Wilson's binomial interval, which stays inside 0..1.
    """
    samples = stage.column('rollout/samples')[1]
    if samples.size == 0:
        source = stage.part('source')
        planned = (source.get('questions') or 0) * (source.get('samples') or 0)
        samples = np.full(y.shape, float(planned))
    if samples.shape != y.shape or not y.size or samples.min() < 1:
        return None, None
    if path in ('reward/mean', 'rollout/tokens'):
        std = stage.column('reward/std' if path == 'reward/mean' else 'rollout/tokens_std')[1]
        if std.shape != y.shape:
            return None, None
        half = Z * std / np.sqrt(samples)
        return y - half, y + half
    if path in ('reward/accuracy', 'reward/format') and y.min() >= 0 and y.max() <= 1:
        scale = 1 + Z**2 / samples
        centre = (y + Z**2 / (2 * samples)) / scale
        half = Z * np.sqrt(y * (1 - y) / samples + Z**2 / (4 * samples**2)) / scale
        return centre - half, centre + half
    return None, None


def first_steps(values: np.ndarray) -> np.ndarray:
    """The first fifth of a column, at least one value."""
    return values[: max(1, int(WINDOW * values.size))]


def last_steps(values: np.ndarray) -> np.ndarray:
    """The last fifth of a column, at least one value."""
    return values[-max(1, int(WINDOW * values.size)) :]


def skipped(stage: StageRun) -> str:
    """A warning about steps that changed nothing, '' if there is none."""
    count = int(stage.column('policy/skipped')[1].sum())
    badge = f'<span class="badge warn">{count} skipped</span>'
    why = 'Loss or gradient not finite, or nothing to learn from: the parameters stayed as they were.'
    return f'<p>{badge} {why}</p>' if count else ''
