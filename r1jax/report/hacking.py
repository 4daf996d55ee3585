"""Signs that a policy has found a hole in its reward, for each stage that samples.

A number from a reward is believed if what it stands for moves with it. So: did held-out accuracy fall somewhere while the reward rose;
which parts paid, in the first and in the last steps; the longest responses; the text that came most often; and what could not be graded
at all. Warnings follow 95 % intervals, as everywhere in the report.
"""

from __future__ import annotations

import collections
import re
from typing import Any

import numpy as np

from r1jax.report.curves import Z
from r1jax.report.findings import apart
from r1jax.report.page import number, text
from r1jax.report.samples import Record, completion
from r1jax.report.workdir import StageRun, is_number

WINDOW = 0.2  # share of a stage's steps that counts as its beginning, and as its end
REPEATED = 0.5  # of a rollout's responses being one text, from which there is a warning
ERRORS = 0.01  # of the samples ungraded, from which there is a warning


def monitor(stage: StageRun, newest: list[Record]) -> str:
    """The stage's card, '' for stages without rewards. `newest` are records of its last rollout, as far as they were logged."""
    if not stage.column('reward/mean')[1].size:
        return ''
    findings = [found for found in (_apart(stage), _errors(stage), _repeated(stage, newest)) if found]
    warned = any(warning for warning, _ in findings)
    items = ''.join(f'<li class="{"warn" if warning else ""}">{words}</li>' for warning, words in findings)
    badge = (
        '<span class="badge warn">look here</span>' if warned else '<span class="badge good">nothing suspicious</span>'
    )
    card = f'<p><b>{text(stage.name)}</b> {badge}</p><ul>{items}</ul>{_fired(stage)}{_longest(stage, newest)}'
    return f'<div class="card{" warn" if warned else ""}">{card}</div>'


def _apart(stage: StageRun) -> tuple[bool, str] | None:
    """Whether held-out accuracy fell between any two evaluations while the reward rose."""
    worst: tuple[float, str] | None = None
    measured = 0
    for name, points in _held_out(stage).items():
        measured = max(measured, len(points))
        for i, (step, before, ci) in enumerate(points):
            for later, after, later_ci in points[i + 1 :]:
                low, high = _reward_at(stage, step), _reward_at(stage, later)
                if low and high and after < before and apart(ci, later_ci) and high[0] > low[1]:
                    fall = 100 * (before - after)
                    words = (
                        f'<b>The reward rose while held-out accuracy fell</b>: on {text(name)}, pass@1 went from {100 * before:.1f} % at '
                        f'step {step:,} to {100 * after:.1f} % at step {later:,}, the reward up by {sum(high) / 2 - sum(low) / 2:.3g}.'
                    )
                    worst = max(worst or (0.0, ''), (fall, words))
    if worst:
        return True, worst[1]
    if measured < 2:
        return (
            False,
            'Accuracy was not measured on held-out questions more than once: whether it follows the reward is not known.',
        )
    return False, 'Nowhere did held-out accuracy fall, beyond its 95 % intervals, while the reward rose.'


def _held_out(stage: StageRun) -> dict[str, list[tuple[int, float, Any]]]:
    """Evaluation -> (step, pass@1, its interval), in order of steps."""
    found: dict[str, dict[int, tuple[int, float, Any]]] = {}
    for name, both in stage.evals.items():
        for when, step in (('before', 0), ('after', stage.done)):
            if when in both and not both[when].get('capped_at'):
                found.setdefault(name, {})[step] = step, both[when]['pass@1'], both[when].get('pass@1_ci')
    for line in stage.lines:
        for path, value in line.items():
            if (match := re.fullmatch(r'eval/(.+)/pass@1', path)) and is_number(value):
                point = line['step'], value, line.get(f'{path}_ci')
                found.setdefault(match[1], {}).setdefault(line['step'], point)
    return {name: [points[step] for step in sorted(points)] for name, points in found.items()}


def _reward_at(stage: StageRun, step: int) -> tuple[float, float] | None:
    """95 % interval of the mean reward in the fifth of the stage's steps around `step`."""
    steps, values = stage.column('reward/mean')
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
    end = _end(shares).mean()
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
        cells = [number(float(part.mean()), percent=True) for part in (_end(values[::-1]), _end(values))]
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
    first, last = (number(float(_end(part).max())) for part in (lengths[::-1], lengths))
    shown = max(newest, key=lambda record: record.get('tokens') or 0, default=None)
    example = _folded('the longest that was logged last', str(shown.get('completion', ''))) if shown else ''
    return f'<p>Longest response: {first} tokens in the first steps, {last} in the last.</p>{example}'


def _folded(title: str, response: str) -> str:
    return f'<details><summary>{title}</summary><pre>{completion(response)}</pre></details>'


def _end(values: np.ndarray) -> np.ndarray:
    """The last fifth of a column, at least one value."""
    return values[-max(1, int(WINDOW * values.size)) :]
