"""What a rollout gives to learn from: groups whose rewards differ, responses that end, grades that could be given.

With all rewards of a group equal its advantages are 0, and the group teaches nothing: most runs that do not learn stand here.
"""

from __future__ import annotations

from collections.abc import Iterator

from r1jax.report.diagnosis.finding import Course, Finding, course, percent
from r1jax.report.workdir import StageRun

# Of the groups of a rollout. DAPO (arXiv 2503.14476, section 3.2) found the share of groups without a gradient to be what wastes a rollout.
# At a quarter the gradient of 32 questions is that of 8. Healthy stages of this project went down to 0.28 (tiny_r1, reasoning_rl)
KEPT = 0.25
# Accuracy below which groups are equal because all fail, and from which because all are right
HARD, SOLVED = 0.05, 0.95
# Of the responses. A response that is cut off is graded as wrong whatever it was about to say (DAPO, section 3.4); healthy stages of
# this project cut off none, the one that was hacked 57 %
CUT, MOSTLY_CUT = 0.1, 0.5
ERRORS = 0.01  # of the samples ungraded, from which there is a warning: a grader's rare timeouts are below
UNGRADED = 0.1  # and from which the grader and not the policy decides what is learned
REPEATED = 0.5  # of a rollout's responses being one text; a healthy stage that greets came to 0.19
MALFORMED = 0.5  # share of well-formed responses below which the rules read hardly anything
SHRUNK, GROWN = 0.5, 2.0  # times the first length


def equal_groups(stage: StageRun) -> Iterator[Finding]:
    """Groups whose rewards are all the same: too hard, or solved, or not explored."""
    kept = course(stage, 'rollout/groups_kept')
    if not kept or kept.last >= KEPT:
        return
    right = course(stage, 'reward/accuracy')
    numbers = {'rollout/groups_kept': kept.last} | ({'reward/accuracy': right.last} if right else {})
    seen = f'only {percent(kept.last)} of the groups had rewards that differ; the others taught nothing'
    if right and right.last < HARD:
        yield Finding(stage.name, 'equal_groups', 'problem', f'{seen}. {percent(right.last)} of the responses were right: too hard',
                      'take easier questions or fewer kinds, more samples a question, a longer limit, or start from a model that is '
                      'right at times: a few examples in the prompt or a cold start bring it there', kept.end, numbers)  # fmt: skip
    elif right and right.last > SOLVED:
        yield Finding(stage.name, 'equal_groups', 'note', f'{seen}, since {percent(right.last)} of the responses were right: solved',
                      'stop here, or go on with harder questions', kept.end, numbers)  # fmt: skip
    else:
        yield Finding(stage.name, 'equal_groups', 'warning', seen,
                      'draw more samples a question, at temperature 1, and have equal groups replaced (source.max_refills); leave out '
                      'questions that are never or always answered right', kept.end, numbers)  # fmt: skip


def constant_reward(stage: StageRun) -> Iterator[Finding]:
    """Every response of every step got the same reward."""
    spread = course(stage, 'reward/std')
    if spread and not spread.values.any():
        mean = stage.column('reward/mean')[1]
        yield Finding(stage.name, 'constant_reward', 'problem', f'every response got the same reward ({mean[0]:.3g} at first)',
                      'call the reward on some lines of samples.jsonl (r1jax grade): does it read the answer where the template has '
                      'it written, and is the ground truth in the form that it compares with?', spread.whole,
                      {'reward/std': 0.0})  # fmt: skip


def truncated(stage: StageRun) -> Iterator[Finding]:
    cut = course(stage, 'rollout/truncated')
    if not cut or cut.last < CUT:
        return
    grave = cut.last >= MOSTLY_CUT
    limit = (stage.part('source').get('sample') or {}).get('max_tokens')
    at = f' at {limit:,} tokens' if isinstance(limit, int) else ''
    yield Finding(stage.name, 'truncated', 'problem' if grave else 'warning',
                  f'{percent(cut.last)} of the responses were cut off{at} ({percent(cut.first)} at first), and graded as they stood',
                  'raise source.sample.max_tokens; or take the length out of the reward (source.overlong mask or soft). If length grew '
                  'without accuracy, read the longest samples: a policy that never ends, or that is paid by the word',
                  cut.end, {'rollout/truncated': cut.last})  # fmt: skip


def grader_errors(stage: StageRun) -> Iterator[Finding]:
    """Samples that could not be graded; counted, and never taken for wrong."""
    (steps, errors), (_, samples) = stage.column('rollout/grader_errors'), stage.column('rollout/samples')
    if not errors.sum() or not samples.sum() or (share := errors.sum() / samples.sum()) < ERRORS:
        return
    causes = sorted({path for line in stage.lines for path in line if path.startswith('grader/')})
    counts = {path: float(stage.column(path)[1].sum()) for path in causes}
    named = ', '.join(f'{path.removeprefix("grader/")} {count:,.0f}' for path, count in counts.items())
    hit = steps[errors > 0]
    yield Finding(stage.name, 'grader_errors', 'problem' if share >= UNGRADED else 'warning',
                  f'{errors.sum():,.0f} samples of {samples.sum():,.0f} could not be graded{f" ({named})" if named else ""}',
                  'timeout: a longer Part.deadline or fewer grading.workers; died: more grading.memory_mb; raised: call the reward on '
                  'such a line of samples.jsonl ("outcome": "grader_error") and mend it', (int(hit[0]), int(hit[-1])),
                  {'share': float(share)} | counts)  # fmt: skip


def malformed(stage: StageRun) -> Iterator[Finding]:
    """Most responses have not the form that the rules read."""
    form = course(stage, 'reward/format')
    if (
        not form or form.last >= MALFORMED or form.last < 0 or form.values.max() > 1
    ):  # a format reward may be scaled, or a penalty
        return
    yield Finding(stage.name, 'malformed', 'warning', f'{percent(form.last)} of the responses were well-formed at the end',
                  'look at samples: is the template the one that the model was tuned with, does a stop token end the response, and does '
                  'the format reward want the tags that the template asks for?', form.end, {'reward/format': form.last})  # fmt: skip


def length(stage: StageRun) -> Iterator[Finding]:
    """Length that halved, or doubled without accuracy: R1-Zero's grows because it pays."""
    tokens, right = course(stage, 'rollout/tokens'), course(stage, 'reward/accuracy')
    if not tokens or not tokens.first:
        return
    ratio = tokens.last / tokens.first
    told = f'{tokens.first:.3g} tokens a response at first, {tokens.last:.3g} at the end'
    numbers = {'first': tokens.first, 'last': tokens.last}
    if ratio <= SHRUNK:
        yield Finding(stage.name, 'length', 'note' if _better(right) else 'warning', told,
                      'does a short answer pay as much as a long one (format alone, a penalty by length)? In a base where thinking does '
                      'not pay, RL removes it', tokens.whole, numbers)  # fmt: skip
    elif ratio >= GROWN and right and right.change <= 0 and right.last < SOLVED:
        yield Finding(stage.name, 'length', 'warning', f'{told}, and accuracy did not rise',
                      'read the longest samples; 1/length in the loss favours long wrong answers (loss.normalise dr_grpo or token_mean), '
                      'and so does a reward of reflection or of steps', tokens.whole, numbers)  # fmt: skip


def one_text(stage: StageRun) -> Iterator[Finding]:
    """One and the same text to different questions."""
    same = course(stage, 'rollout/repeated')
    if same and same.last > REPEATED:
        yield Finding(stage.name, 'one_text', 'problem', f'{percent(same.last)} of a rollout were one and the same text at the end',
                      'read it in samples.jsonl: it is what the reward pays best. Pay for what cannot be said to every question',
                      same.end, {'rollout/repeated': same.last})  # fmt: skip


def _better(right: Course | None) -> bool:
    return right is not None and right.change > 0


CHECKS = (equal_groups, constant_reward, truncated, grader_errors, malformed, length, one_text)
