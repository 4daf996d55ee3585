"""Whether anything is learned at all: a learning rate that is none, steps that change nothing, a loss or a reward that stays."""

from __future__ import annotations

from collections.abc import Iterator

from r1jax.report.diagnosis.finding import Finding, course, percent, rewards_since
from r1jax.report.diagnosis.rollouts import SOLVED
from r1jax.report.workdir import StageRun

DEAD = 1e-9  # a learning rate below which float32 weights of about 0.02 stay the same bits under Adam, whose steps are of its size
WARM = 0.5  # of a stage's steps spent on warm-up, from which most of it is not trained at its rate
# Of the steps changed nothing; one or two after a bad batch are in order, as `Stage.on_nan` says
SKIPPED, MOSTLY_SKIPPED = 0.02, 0.2
NEAR = 0.02  # relative: a loss that ends within this of where it began has not moved


def rate(stage: StageRun) -> Iterator[Finding]:
    """A learning rate of nothing, or one that is warming up to the end."""
    steps, values = stage.column('learning_rate')
    if not values.size:
        return
    dead = values < DEAD
    if dead.mean() > 0.5:
        hit = steps[dead]
        yield Finding(stage.name, 'dead_rate', 'problem',
                      f'the learning rate was {values[dead].max():.1g} or less in {percent(dead.mean())} of the steps',
                      'set optim.learning_rate; for cosine see that optim.final is above 0, and that no phase sets another rate',
                      (int(hit[0]), int(hit[-1])), {'learning_rate': float(values.max())})  # fmt: skip
        return
    warmup, planned = stage.part('optim').get('warmup') or 0, stage.planned or stage.done
    if planned and warmup > WARM * planned:
        yield Finding(stage.name, 'warmup', 'warning', f'warm-up takes {warmup:,} of {planned:,} steps',
                      'lower optim.warmup: it need not be more than some tens of steps', (int(steps[0]), int(steps[-1])),
                      {'warmup': float(warmup), 'steps': float(planned)})  # fmt: skip


def skipped(stage: StageRun) -> Iterator[Finding]:
    steps, values = stage.column('policy/skipped')
    if not values.size or (share := float((values > 0).mean())) <= SKIPPED:  # a run may end of them within a few steps
        return
    hit = steps[values > 0]
    broken = sum(any(line.get(name, 0) is None for name in ('loss', 'grad_norm')) for line in stage.lines)
    why = f'in {broken:,} of them loss or gradient was not finite' if broken else 'there was nothing to learn from'
    todo = (
        'lower the learning rate, set optim.clip_norm, have such steps rolled back (on_nan rollback); look at the first batch'
        if broken
        else 'see equal_groups: no group of these rollouts had rewards that differ'
    )
    yield Finding(stage.name, 'skipped', 'problem' if share > MOSTLY_SKIPPED else 'warning',
                  f'{hit.size:,} of {values.size:,} steps changed nothing; {why}', todo, (int(hit[0]), int(hit[-1])),
                  {'share': share, 'not_finite': float(broken)})  # fmt: skip


def gradient(stage: StageRun) -> Iterator[Finding]:
    """A gradient of zero."""
    norm = course(stage, 'grad_norm')
    if norm and not norm.values.any():
        yield Finding(stage.name, 'no_gradient', 'problem', 'the gradient was exactly 0 in every step',
                      'see equal_groups and constant_reward; with supervised data see that responses are not empty',
                      norm.whole, {'grad_norm': 0.0})  # fmt: skip


def loss(stage: StageRun) -> Iterator[Finding]:
    """Of a stage that learns from stored data: does its loss fall? (GRPO's is near 0 whatever happens.)"""
    if stage.column('reward/mean')[1].size or not (values := course(stage, 'loss')):
        return
    if values.change < 0 and values.last < (1 - NEAR) * values.first:
        return
    grave = values.change > 0
    numbers = {'first': values.first, 'last': values.last}
    yield Finding(stage.name, 'loss', 'problem' if grave else 'warning',
                  f'the loss {"rose" if grave else "did not fall"}: {values.first:.4g} at first, {values.last:.4g} at the end',
                  'lower the learning rate if it rose, raise it if it stays; see that examples are of the template that the model knows, '
                  'and that responses are not cut or empty', values.whole, numbers)  # fmt: skip


def no_gain(stage: StageRun) -> Iterator[Finding]:
    """The symptom itself: a reward that did not rise."""
    reward, right = course(stage, 'reward/mean'), course(stage, 'reward/accuracy')
    if not reward or reward.change > 0 or (right and right.last >= SOLVED) or rewards_since(stage):
        return
    fell = reward.change < 0
    yield Finding(stage.name, 'no_gain', 'problem' if fell else 'warning',
                  f'the reward {"fell" if fell else "did not rise"}: {reward.first:.3g} at first, {reward.last:.3g} at the end',
                  'the other findings of this stage may say why; with none, more steps or a higher learning rate; where it fell, a lower '
                  'one', reward.whole, {'first': reward.first, 'last': reward.last})  # fmt: skip


CHECKS = (rate, skipped, gradient, loss, no_gain)
