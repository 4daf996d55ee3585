"""Signs that a policy has found a hole in its reward, for each stage that samples.

A number from a reward is believed if what it stands for moves with it. So: did held-out accuracy, or what the rule behind a learned
reward says, fall somewhere while the reward rose; which parts paid, in the first and in the last steps; the longest responses; the text
that came most often; and what could not be graded at all. Warnings follow 95 % intervals, as everywhere in the report.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence

import numpy as np

from r1jax.report.curves import WINDOW, Z, first_steps, last_steps
from r1jax.report.findings import apart
from r1jax.report.page import number, text
from r1jax.report.samples import Record, completion
from r1jax.report.workdir import Point, StageRun

REPEATED = 0.5  # of a rollout's responses being one text, from which there is a warning
ERRORS = 0.01  # of the samples ungraded, from which there is a warning


def monitor(stage: StageRun, newest: list[Record]) -> str:
    """The stage's card, '' for stages that learn from no rewards. `newest` are records of its last rollout, as far as they were logged."""
    if not stage.reinforced:
        return ''
    findings = [*_apart(stage), *filter(None, (_errors(stage), _repeated(stage, newest)))]
    warned = any(warning for warning, _ in findings)
    items = ''.join(f'<li class="{"warn" if warning else ""}">{words}</li>' for warning, words in findings)
    badge = (
        '<span class="badge warn">look here</span>' if warned else '<span class="badge good">nothing suspicious</span>'
    )
    card = f'<p><b>{text(stage.name)}</b> {badge}</p><ul>{items}</ul>{_fired(stage)}{_longest(stage, newest)}'
    return f'<div class="card{" warn" if warned else ""}">{card}</div>'


def _apart(stage: StageRun) -> list[tuple[bool, str]]:
    """Whether a figure of the evaluations fell between any two of them while the reward that stands for it rose.

    That of accuracy is the sum of all rewards. That of another part of an evaluation, such as the rule that a preference model was
    trained to know, is the part of the same name in training where there is one.
    """
    found, most = [], 0
    capped = stage.course('capped_at')
    parts = {name for both in stage.measured.values() for result in both.values() for name in result.get('parts') or {}}
    for key in ('pass@1', *(f'part/{name}' for name in sorted(parts))):
        path = key.replace('part/', 'reward/') if key != 'pass@1' else 'reward/mean'
        path = path if stage.column(path)[1].size else 'reward/mean'
        courses = {name: points for name, points in stage.course(key).items() if name not in capped}
        most = max(most, *map(len, courses.values())) if courses else most
        _, words = max((_worst(stage, path, key, *each) for each in courses.items()), default=(0.0, ''))
        found += [(True, words)] if words else []
    if found:
        return found
    if most < 2:
        words = 'Accuracy was not measured on held-out questions more than once: whether it follows the reward is not known.'
    else:
        words = 'Nowhere did held-out accuracy fall, beyond its 95 % intervals, while the reward rose.'
    return [(False, words)]


def _worst(stage: StageRun, path: str, key: str, name: str, points: Sequence[Point]) -> tuple[float, str]:
    """The deepest fall of an evaluation's figure while the reward `path` rose, and what to say of it; (0, '') if there is none."""
    steps, _ = stage.column(path)
    worst = 0.0, ''
    for i, first in enumerate(points):
        for later in points[i + 1 :]:
            if later.value >= first.value or not apart(first.ci, later.ci) or first.step < steps[0] - 1:
                continue  # a reward that was not given yet cannot have risen meanwhile
            low, high = _reward_at(stage, path, first.step), _reward_at(stage, path, later.step)
            if not low or not high or high[0] <= low[1]:
                continue
            figure = key.removeprefix('part/')
            was, then = (number(point.value, percent=key == 'pass@1') for point in (first, later))
            reward = 'the reward' if path == 'reward/mean' else text(path)
            subject = 'held-out accuracy' if key == 'pass@1' else f'the held-out {text(figure)}'
            words = (
                f'<b>{reward[0].upper()}{reward[1:]} rose while {subject} fell</b>: on {text(name)}, {text(figure)} went from '
                f'{was} at step {first.step:,} to {then} at step {later.step:,}, the reward up by '
                f'{sum(high) / 2 - sum(low) / 2:.3g}.'
            )
            worst = max(worst, (first.value - later.value, words))
    return worst


def _reward_at(stage: StageRun, path: str, step: int) -> tuple[float, float] | None:
    """95 % interval of a reward's mean in the fifth of its steps around `step`."""
    steps, values = stage.column(path)
    if values.size < 4:
        return None
    near = np.argsort(np.abs(steps - step), kind='stable')[: max(2, int(WINDOW * values.size))]
    half = Z * values[near].std(ddof=1) / np.sqrt(near.size)
    return values[near].mean() - half, values[near].mean() + half


def _errors(stage: StageRun) -> tuple[bool, str] | None:
    errors, samples = stage.column('rollout/grader_errors')[1].sum(), stage.column('rollout/samples')[1].sum()
    if not samples:
        return None
    if not errors:
        return False, 'Every sample was graded.'
    causes = {path for line in stage.lines for path in line if path.startswith('grader/')}
    counts = ((path.removeprefix('grader/'), stage.column(path)[1].sum()) for path in sorted(causes))
    named = ', '.join(f'{text(cause)} {count:,.0f}' for cause, count in counts)
    words = f'{errors:,.0f} samples of {samples:,.0f} could not be graded{f" ({named})" if named else ""}: they taught nothing.'
    return errors > ERRORS * samples, words


def _repeated(stage: StageRun, newest: list[Record]) -> tuple[bool, str] | None:
    shares = stage.column('rollout/repeated')[1]
    if not shares.size:
        return None
    end = last_steps(shares).mean()
    words = f'At the end the most frequent text was {number(float(end), percent=True)} of a rollout'
    texts = collections.Counter(str(record.get('completion', '')) for record in newest)
    most, count = max(texts.items(), key=lambda item: item[1], default=('', 0))
    shown = _folded(f'{count} of the {len(newest)} that were logged last', most) if count > 1 else ''
    return bool(end > REPEATED), f'{words}.{shown}'


def _fired(stage: StageRun) -> str:
    """A table of how often each part gave more than nothing, at the beginning and at the end."""
    rows = ''
    paths = dict.fromkeys(path for line in stage.lines for path in line if path.startswith('fired/'))
    for path in paths:
        values = stage.column(path)[1]
        cells = [number(float(part.mean()), percent=True) for part in (first_steps(values), last_steps(values))]
        rows += (
            f'<tr><td>{text(path.removeprefix("fired/"))}</td>'
            + ''.join(f'<td>{cell}</td>' for cell in cells)
            + '</tr>'
        )
    head = '<tr><th>responses that a part rewarded</th><th>first steps</th><th>last steps</th></tr>'
    return f'<div class="scroll"><table>{head}{rows}</table></div>' if rows else ''


def _longest(stage: StageRun, newest: list[Record]) -> str:
    lengths = stage.column('rollout/longest')[1]
    if not lengths.size:
        return ''
    first, last = (number(float(part(lengths).max())) for part in (first_steps, last_steps))
    shown = max(newest, key=lambda record: record.get('tokens') or 0, default=None)
    example = _folded('the longest that was logged last', str(shown.get('completion', ''))) if shown else ''
    return f'<p>Longest response: {first} tokens in the first steps, {last} in the last.</p>{example}'


def _folded(title: str, response: str) -> str:
    return f'<details><summary>{title}</summary><pre>{completion(response)}</pre></details>'
