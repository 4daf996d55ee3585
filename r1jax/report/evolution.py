"""Self-evolution: what a stage of RL brought forth that nobody asked it for, drawn as the R1 report draws it.

    accuracy             pass@1 and the majority vote on held-out questions over steps (report, Figure 2; Nature, Fig. 1a)
    response length      mean over a rollout (Figure 3; Fig. 1b)
    reflective words     a response, all of them and the most frequent ones (Nature, Extended Data Fig. 1); the share of the responses
                         that have one; and how many there are in a thousand tokens, since longer responses have more of every word
    language             consistency: the share of the reasoning that is in the question's language
    format               well-formed answers

Lines are rollouts and points evaluations, but for accuracy, which is of evaluations alone. `course` is the same as a table.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from r1jax.report.chart import Plot, Series, figure
from r1jax.report.curves import draw_plot, first_steps, last_steps, marks
from r1jax.report.page import number, text
from r1jax.report.workdir import Point, StageRun

LENGTH = Plot('Response length', ('rollout/tokens',), 'tokens a response, mean and 95 % interval')
LANGUAGE = Plot('Language', ('reward/language',), 'reasoning in the language asked', percent=True, whole=True)
FORMAT = Plot('Format', ('reward/format',), 'well-formed answers', percent=True, whole=True)
REFLECTION = Plot('Reflective words', (), 'a response')
REFLECTING = Plot('Reflecting', (), 'responses with a reflective word', percent=True)
DENSITY = Plot('Reflective words by length', (), 'in a thousand tokens')
WORDS_DRAWN = 3  # besides their sum
Column = tuple[np.ndarray, np.ndarray]  # steps, values
COLUMNS = (  # key of EVAL, heading, whether it is a share
    ('pass@1', 'pass@1 [95 %]', True),
    ('cons', 'majority [95 %]', True),
    ('response_tokens', 'tokens', False),
    ('language_consistency', 'language', True),
    ('format', 'format', True),
    ('reflective_words', 'reflective words', False),
)


def density(stage: StageRun) -> Column:
    """Reflective words in a thousand tokens, of the steps that logged both."""
    steps, words = stage.column('reflection/mean')
    at, tokens = stage.column('rollout/tokens')
    both, i, j = np.intersect1d(steps, at, return_indices=True)
    some = tokens[j] > 0
    return both[some], 1000 * words[i][some] / tokens[j][some]


ROLLOUTS: tuple[tuple[Plot, Callable[[StageRun], Column]], ...] = (  # what is drawn of rollouts, a line a stage
    (LENGTH, lambda stage: stage.column('rollout/tokens')),
    (REFLECTION, lambda stage: stage.column('reflection/mean')),
    (REFLECTING, lambda stage: stage.column('reflection/share')),
    (DENSITY, density),
    (LANGUAGE, lambda stage: stage.column('reward/language')),
    (FORMAT, lambda stage: stage.column('reward/format')),
)


def section(stage: StageRun) -> str:
    """The figures and tables of a stage, '' if it is not one of RL."""
    if not stage.reinforced:
        return ''
    drawn = [
        accuracy(stage),
        draw_plot(stage, LENGTH),
        _reflection(stage),
        figure(REFLECTING, [Series('share', *stage.column('reflection/share'))]),
        figure(DENSITY, [Series('words', *density(stage))]),
        _language(stage),
        draw_plot(stage, FORMAT),
    ]
    if not any(drawn):
        return ''
    title = f'<h3>{text(stage.name)} <small>{stage.done:,} steps</small></h3>'
    return f'{title}<div class="charts">{"".join(drawn)}</div>{_course(stage)}{_words(stage)}'


def accuracy(stage: StageRun) -> str:
    """pass@1 and the majority vote of the stage's main evaluation, with their intervals; '' where it was measured less than twice."""
    name = next(iter(stage.course('pass@1')), None)
    vote = vote_of(stage)
    series = []
    for key in filter(None, ('pass@1', vote)):
        points = stage.course(key).get(name, [])
        if len(points) > 1:
            series.append(measured(key, points))
    plot = Plot('Accuracy over steps', (), f'on {name}', percent=True, whole=True)
    return figure(plot, series) if series else ''


def vote_of(stage: StageRun) -> str | None:
    """The name of the stage's majority vote, 'cons@16', None if it has none."""
    results = [result for both in stage.evals.values() for result in both.values()]
    found = (key for result in results for key in result if key.startswith('cons@') and not key.endswith('_ci'))
    return next(found, None)


def cell(point: Point | None, share: bool) -> str:
    """A figure with its interval as a table has it."""
    if point is None:
        return '–'
    value = f'<b>{number(point.value, share)}</b>'
    if not point.ci:
        return value
    low, high = (number(end, share).removesuffix(' %') for end in point.ci)
    return f'{value} <small>[{low}, {high}]</small>'


def measured(name: str, points: list[Point], colour: int | None = None) -> Series:
    """A line through evaluations, with their intervals."""
    x, y = (np.array([getattr(point, field) for point in points], float) for field in ('step', 'value'))
    known = all(point.ci for point in points)
    low, high = (np.array([point.ci[end] for point in points]) if known else None for end in (0, 1))
    return Series(name, x, y, low, high, exact=True, colour=colour)


def _by_word(stage: StageRun) -> list[Series]:
    """How often each reflective word came in a response, those first that came most often; 0 where a rollout did not log it."""
    steps = stage.column('reflection/mean')[0]
    paths = {path for line in stage.lines for path in line if path.startswith('reflection/')}
    found = []
    for path in sorted(paths - {'reflection/mean', 'reflection/share'}):
        x, y = stage.column(path)
        every = np.zeros(steps.size)
        every[np.searchsorted(steps, x)] = y
        found.append(Series(path.removeprefix('reflection/'), steps, every))
    return sorted(found, key=lambda series: -series.y.sum())


def _reflection(stage: StageRun) -> str:
    """All reflective words a response, and the most frequent ones."""
    series = [Series('all', *stage.column('reflection/mean')), *_by_word(stage)[:WORDS_DRAWN]]
    return figure(REFLECTION, series, marks(stage, 'reflective_words'))


def _words(stage: StageRun) -> str:
    """How often each word came, a thousand responses, in the first and in the last steps."""
    rows = ''
    for series in _by_word(stage):
        first, last = (1000 * float(part(series.y).mean()) for part in (first_steps, last_steps))
        cells = (text(series.name), number(first), number(last))
        rows += '<tr>' + ''.join(f'<td>{value}</td>' for value in cells) + '</tr>'
    if not rows:
        return ''
    head = '<tr><th>word</th><th>first steps</th><th>last steps</th></tr>'
    return (
        '<details><summary>Reflective words, by word: how many in a thousand responses</summary>'
        f'<div class="card scroll"><table>{head}{rows}</table></div></details>'
    )


def _language(stage: StageRun) -> str:
    """Consistency over steps: of rollouts where it is a reward, else of evaluations, as R1-Zero's, which mixes languages unrewarded."""
    if stage.column('reward/language')[1].size:
        return draw_plot(stage, LANGUAGE)
    courses = stage.course('language_consistency').items()
    return figure(LANGUAGE, [measured(name, points) for name, points in courses if len(points) > 1])


def _course(stage: StageRun) -> str:
    """The main evaluation at each step at which it was taken; '' where it was not taken during the stage."""
    name = next(iter(stage.course('pass@1')), None)
    vote = vote_of(stage)
    columns = [(vote if key == 'cons' else key, head, share) for key, head, share in COLUMNS if key != 'cons' or vote]
    values = {key: {point.step: point for point in stage.course(key).get(name, [])} for key, _, _ in columns}
    steps = sorted(values['pass@1'])
    if len(steps) < 3:
        return ''
    columns = [column for column in columns if values[column[0]]]
    head = ''.join(f'<th>{head}</th>' for head in ('step', *(head for _, head, _ in columns)))
    rows = ''
    for step in steps:
        cells = [f'{step:,}', *(cell(values[key].get(step), share) for key, _, share in columns)]
        rows += '<tr>' + ''.join(f'<td>{value}</td>' for value in cells) + '</tr>'
    return (
        f'<details><summary>{text(name)} at {len(steps)} checkpoints</summary>'
        f'<div class="card scroll"><table><tr>{head}</tr>{rows}</table></div></details>'
    )
