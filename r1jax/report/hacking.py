"""Signs that a policy has found a hole in its reward, for each stage that samples.

A number from a reward is believed if what it stands for moves with it. So: did held-out accuracy, or what the rule behind a learned
reward says, fall somewhere while the reward rose; which parts paid, in the first and in the last steps; the longest responses; the text
that came most often; and what could not be graded at all. Warnings follow 95 % intervals, as everywhere in the report.
"""

from __future__ import annotations

import collections

from r1jax.report.curves import first_steps, last_steps
from r1jax.report.diagnosis.hacked import Fall, courses_of, falls
from r1jax.report.diagnosis.rollouts import ERRORS, REPEATED
from r1jax.report.page import number, text
from r1jax.report.samples import Record, completion
from r1jax.report.workdir import StageRun


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
    """Whether a figure of the evaluations fell between any two of them while the reward that stands for it rose (`falls`)."""
    if found := falls(stage):
        return [(True, _told(fall)) for fall in found]
    most = max((len(points) for courses in courses_of(stage).values() for points in courses.values()), default=0)
    if most < 2:
        words = 'Accuracy was not measured on held-out questions more than once: whether it follows the reward is not known.'
    else:
        words = 'Nowhere did held-out accuracy fall, beyond its 95 % intervals, while the reward rose.'
    return [(False, words)]


def _told(fall: Fall) -> str:
    rated = fall.figure == 'pass@1'
    was, then = (number(point.value, percent=rated) for point in (fall.before, fall.after))
    reward = 'the reward' if fall.path == 'reward/mean' else text(fall.path)
    subject = 'held-out accuracy' if rated else f'the held-out {text(fall.figure)}'
    return (
        f'<b>{reward[0].upper()}{reward[1:]} rose while {subject} fell</b>: on {text(fall.evaluation)}, {text(fall.figure)} went from '
        f'{was} at step {fall.before.step:,} to {then} at step {fall.after.step:,}, the reward up by {fall.gain:.3g}.'
    )


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
