"""Whether a reward that rises stands for anything: against held-out figures, against its own parts, against the answers themselves.

A policy finds what a reward pays for, which need not be what it was meant for. Two things tell: a figure that no reward reads falls, or
stays, while the reward rises; and different questions get one answer.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.report.curves import WINDOW
from r1jax.report.diagnosis.finding import Finding, course, interval, percent, rewards_since
from r1jax.report.diagnosis.rollouts import SOLVED
from r1jax.report.findings import apart
from r1jax.report.samples import head_of
from r1jax.report.workdir import Point, StageRun
from r1jax.rewards.accuracy import answer
from r1jax.train import log

Record = Mapping[str, Any]

# Of the answers to questions that expect other things: half of them the same, and twice as many as it is the right one for
CONSTANT, TIMES = 0.5, 2.0
QUESTIONS, EXPECTED = 8, 3  # questions, and different right answers among them, below which nothing is said of that
KEPT = 4096  # records of a stage's end that are looked at, the last ones


@dataclasses.dataclass(frozen=True)
class Fall:
    """A held-out figure that fell while the reward that stands for it rose."""

    evaluation: str
    figure: str  # 'pass@1', or the name of a part of the evaluation
    path: str  # the metric that rose
    before: Point
    after: Point
    gain: float  # of the metric, meanwhile


def falls(stage: StageRun) -> list[Fall]:
    """Of each figure of the evaluations its deepest fall, beyond 95 % intervals, between any two of them while the reward rose.

    For accuracy the reward is the sum of all parts. For another part of an evaluation, such as the rule that a preference model was
    trained to know, it is the part of the same name in training, where there is one.
    """
    found = []
    for key, courses in courses_of(stage).items():
        path = key.replace('part/', 'reward/') if key != 'pass@1' else 'reward/mean'
        path = path if stage.column(path)[1].size else 'reward/mean'
        each = [fall for name, points in courses.items() for fall in _falls(stage, path, key, name, points)]
        found += [max(each, key=lambda fall: fall.before.value - fall.after.value)] if each else []
    return found


def courses_of(stage: StageRun) -> dict[str, dict[str, list[Point]]]:
    """'pass@1', and 'part/NAME' of every part of the evaluations -> their courses by evaluation; of none that cuts responses."""
    capped = stage.course('capped_at')
    parts = {name for both in stage.measured.values() for result in both.values() for name in result.get('parts') or {}}
    keys = 'pass@1', *(f'part/{name}' for name in sorted(parts))
    return {key: {name: each for name, each in stage.course(key).items() if name not in capped} for key in keys}


def _falls(stage: StageRun, path: str, key: str, name: str, points: Sequence[Point]) -> Iterator[Fall]:
    steps, values = stage.column(path)
    given = steps > (rewards_since(stage) if path == 'reward/mean' else 0)  # sums of other parts cannot be compared
    steps, values = steps[given], values[given]
    for i, first in enumerate(points):
        for later in points[i + 1 :]:
            if (
                later.value >= first.value
                or not apart(first.ci, later.ci)
                or not steps.size
                or first.step < steps[0] - 1
            ):
                continue  # a reward that was not given yet cannot have risen meanwhile
            low, high = (_reward_at(steps, values, point.step) for point in (first, later))
            if low and high and high[0] > low[1]:
                gain = sum(high) / 2 - sum(low) / 2
                yield Fall(name, key.removeprefix('part/'), path, first, later, gain)


def _reward_at(steps: np.ndarray, values: np.ndarray, step: int) -> tuple[float, float] | None:
    """95 % interval of a reward's mean in the fifth of its steps around `step`."""
    if values.size < 4:
        return None
    near = np.argsort(np.abs(steps - step), kind='stable')[: max(2, int(WINDOW * values.size))]
    return interval(values[near])


_SEE = 'read samples of high reward (report.html, or samples.jsonl by reward)'


def held_out(stage: StageRun) -> Iterator[Finding]:
    """A reward that rises while what it stands for falls."""
    for fall in falls(stage):
        rose = 'the reward' if fall.path == 'reward/mean' else fall.path
        yield Finding(stage.name, 'hacked', 'problem',
                      f'{rose} rose by {fall.gain:.3g} while {fall.figure} of {fall.evaluation}, which no reward reads, fell from '
                      f'{fall.before.value:.3g} to {fall.after.value:.3g}',
                      f'{_SEE}: what do they share that is no part of the task? Mend that reward, or stop at step {fall.before.step:,}; '
                      'with a reward model fewer steps, a larger loss.beta, or new pairs of what it was hacked by',
                      (fall.before.step, fall.after.step),
                      {'before': fall.before.value, 'after': fall.after.value, fall.path: fall.gain})  # fmt: skip


def not_general(stage: StageRun) -> Iterator[Finding]:
    """A reward that rises while held-out accuracy does not."""
    reward = course(stage, 'reward/mean')
    if not reward or reward.change <= 0 or rewards_since(stage) or falls(stage):
        return
    ends = {name: (each[0], each[-1]) for name, each in courses_of(stage)['pass@1'].items() if len(each) > 1}
    rose = (b.value >= SOLVED or (b.value > a.value and apart(a.ci, b.ci)) for a, b in ends.values())
    if not ends or any(rose):  # one evaluation that rose is enough: others may be of harder questions
        return
    name, (before, after) = next(iter(ends.items()))
    yield Finding(stage.name, 'not_general', 'warning',
                  f'the reward rose from {reward.first:.3g} to {reward.last:.3g}, but pass@1 of {name} went from {before.value:.3g} to '
                  f'{after.value:.3g}, within its 95 % intervals',
                  'which part of the reward rose (fired/PART)? If it is form or length, accuracy may follow later; if it is accuracy, '
                  'questions are learned by heart: more of them, fewer epochs', reward.whole,
                  {'before': before.value, 'after': after.value, 'reward/mean': reward.last - reward.first})  # fmt: skip


def parts(stage: StageRun) -> Iterator[Finding]:
    """Accuracy in training that falls while the reward rises: another part pays better."""
    reward, right = course(stage, 'reward/mean'), course(stage, 'reward/accuracy')
    if not reward or not right or reward.change <= 0 or right.change >= 0:
        return
    paths = {path for line in stage.lines for path in line if path.startswith('reward/')}
    others = {path: course(stage, path) for path in sorted(paths - {'reward/mean', 'reward/std', 'reward/accuracy'})}
    rose = {path: each.last - each.first for path, each in others.items() if each and each.change > 0}
    named = ', '.join(f'{path} by {gain:.3g}' for path, gain in rose.items())
    yield Finding(stage.name, 'parts', 'problem',
                  f'the reward rose from {reward.first:.3g} to {reward.last:.3g} while accuracy in training fell from '
                  f'{percent(right.first)} to {percent(right.last)}{f"; what rose: {named}" if named else ""}',
                  'have the other part pay for right answers alone, or weigh it less: within a group it decides wherever accuracy is equal',
                  reward.whole, {'first': right.first, 'last': right.last} | rose)  # fmt: skip


def constant_answers(stage: StageRun, records: Sequence[Record]) -> Iterator[Finding]:
    """One answer to questions that expect different ones. `records`: of samples.jsonl, of the end of the stage."""
    asked = [
        r for r in records if r.get('answer') and r.get('finished') is not False
    ]  # what is cut off has no answer yet
    expected = collections.Counter({(r.get('question'), r['answer']): 1 for r in asked})
    right = collections.Counter(truth for _, truth in expected)
    if len({question for question, _ in expected}) < QUESTIONS or len(right) < EXPECTED:
        return
    given = collections.Counter(' '.join((answer(str(r.get('completion', ''))) or '').split()) for r in asked)
    most, count = given.most_common(1)[0]
    share, due = count / len(asked), right[most] / right.total()
    if share <= CONSTANT or share < TIMES * due:
        return
    steps = [r['step'] for r in asked if isinstance(r.get('step'), int)]
    what = f'answered {most!r}' if most else 'gave no final answer'
    yield Finding(stage.name, 'constant_answers', 'problem',
                  f'{count:,} of {len(asked):,} logged responses of the end {what}, to {len(right)} different right answers',
                  'does the reward pay for that answer, or for no answer at all? Balance the questions by their answers' if most else
                  'is the place where the answer is looked for (answer tags, a box) the one that the template asks for?',
                  (min(steps), max(steps)) if steps else None, {'share': share, 'due': due})  # fmt: skip


def at_the_end(workdir: str, stages: Sequence[StageRun]) -> dict[str, list[Record]]:
    """Stage -> the records of samples.jsonl from the last fifth of its steps, the last `KEPT` of them; one pass over the file."""
    since = {stage.name: (1 - WINDOW) * stage.done for stage in stages}
    kept: dict[str, collections.deque[bytes]] = {name: collections.deque(maxlen=KEPT) for name in since}
    path = os.path.join(workdir, log.SAMPLES)
    with open(path if os.path.exists(path) else os.devnull, 'rb') as file:
        for line in file:
            known = head_of(line)
            if known and known[2] != 'before' and known[1] >= since.get(known[0], np.inf):
                kept[known[0]].append(line)
    return {name: list(_parsed(lines)) for name, lines in kept.items()}


def _parsed(lines: Iterable[bytes]) -> Iterator[Record]:
    for line in lines:
        with contextlib.suppress(ValueError):  # torn
            yield json.loads(line)


CHECKS = (held_out, not_general, parts)
