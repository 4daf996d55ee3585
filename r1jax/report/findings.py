"""What a stage did, in words: did pass@1 rise, and did thinking pay in the base.

Words follow intervals. "Rose" needs 95 % intervals that do not overlap; otherwise the difference is given and called
unsure. R1-Zero can only find that thinking pays if it does in its base model, so a base where it does not gets a
warning before anyone wonders at the curves.
"""

from __future__ import annotations

from typing import Any

from r1jax.report.chart import interval_bar
from r1jax.report.page import number, span, text
from r1jax.report.workdir import StageRun, is_number

Eval = dict[str, Any]
EVALUATION_HEADS = (
    'evaluation',
    '○ before ● after',
    'pass@1 [95 %]',
    'majority',
    'tokens',
    'cut off',
    'format',
    'if well-formed',
)


def verdict(stage: StageRun) -> str:
    """The stage's card: one sentence, then the figures before and after."""
    if not stage.evals:
        return f'<div class="card"><p class="verdict">{_title(stage)} {_course(stage)}</p></div>'
    name, both = next(iter(stage.evals.items()))
    before, after = both.get('before'), both.get('after')
    if before and after:
        change = 100 * (after['pass@1'] - before['pass@1'])
        points = f'<b>{abs(change):.1f} points</b>'
        if not apart(before.get('pass@1_ci'), after.get('pass@1_ci')):
            tone, badge = 'warn', 'unsure'
            words = f'went {"up" if change >= 0 else "down"} by {points}, but the 95 % intervals overlap: unsure.'
        else:
            tone, badge, word = ('good', 'better', 'rose') if change > 0 else ('warn', 'worse', 'fell')
            words = f'{word} by {points}; the 95 % intervals do not overlap.'
        words = f'<span class="badge {tone}">{badge}</span><br>On {text(name)}, pass@1 {words}'
    else:
        words = f'{_course(stage)} Measured on {text(name)} {"before" if before else "after"} the stage only.'
    tiles = f'<div class="tiles">{_tiles(stage, before, after)}</div>'
    return f'<div class="card"><p class="verdict">{_title(stage)} {words}</p>{tiles}</div>'


def thinking(stage: StageRun) -> str:
    """'Does thinking pay in the base?' for a stage of RL whose evaluation before was split by mode; '' for others."""
    if stage.kind not in ('GRPO', ''):
        return ''
    both = next((both for both in stage.evals.values() if both.get('before', {}).get('by_mode')), None)
    if not both:
        return ''
    modes = {mode: result for mode, result in both['before']['by_mode'].items() if is_number(result.get('accuracy'))}
    if len(modes) < 2:
        return ''
    by_length = sorted(modes, key=lambda mode: modes[mode].get('response_tokens') or 0)
    long = 'worked' if 'worked' in modes else by_length[-1]
    rest = [mode for mode in by_length if mode != long]
    brief = 'direct' if 'direct' in rest else rest[0]
    gain = modes[long]['accuracy'] - modes[brief]['accuracy']
    numbers = (
        f'Before {text(stage.name)}, {text(long)} answers were right {_with_interval(modes[long], "accuracy")} of the '
        f'time, {text(brief)} answers {_with_interval(modes[brief], "accuracy")}: {100 * gain:+.1f} points. '
        f'{number(modes[long].get("share"), percent=True)} of the answers were {text(long)}.'
    )
    if gain <= 0:
        tone, word = 'warn', 'Warning: no.'
        meaning = (
            'RL rewards what is right more often, so expect answers to get shorter: the base needs more worked '
            'examples, or more training to follow its own steps.'
        )
    elif apart(modes[long].get('accuracy_ci'), modes[brief].get('accuracy_ci')):
        tone, word, meaning = 'good', 'Yes.', 'Pure RL has something to find.'
    else:
        tone, word = 'warn', 'Perhaps.'
        meaning = 'The 95 % intervals overlap: evaluate more questions to be sure.'
    answer = f'<p><b>{word}</b> {numbers} {meaning}</p>{_beyond(both, long)}{_modes_table(both)}'
    return f'<div class="card {tone}">{answer}</div>'


def evaluations(stage: StageRun) -> str:
    """A table row for each evaluation, before and after; `EVALUATION_HEADS` are its columns."""
    rows = []
    for name, both in stage.evals.items():
        before, after = both.get('before'), both.get('after')
        newest = after or before
        cons = next((key for key in newest if key.startswith('cons@')), None)
        size = f'{number(newest.get("questions"))} questions × {number(newest.get("samples"))}'
        facts = [f'{text(stage.name)} · {size}']
        facts += [f'at most {number(newest["capped_at"])} tokens'] if newest.get('capped_at') else []
        facts += [f'{number(newest["grader_errors"])} grader errors'] if newest.get('grader_errors') else []
        cells = [
            f'<b>{text(name)}</b><br><small>{"<br>".join(facts)}</small>',
            interval_bar(before, after),
            '<br>→ '.join(_with_interval(result, 'pass@1') for result in (before, after) if result),
            _change(before, after, cons, True),
            _change(before, after, 'response_tokens', False),
            *(_change(before, after, key, True) for key in ('truncated', 'format', 'accuracy_well_formed')),
        ]
        rows.append('<tr>' + ''.join(f'<td>{cell}</td>' for cell in cells) + '</tr>')
    return ''.join(rows)


def apart(one: Any, other: Any) -> bool:
    """Whether two intervals [low, high] share no point; False where one is missing."""
    if not all(isinstance(ci, (list, tuple)) and len(ci) == 2 and all(map(is_number, ci)) for ci in (one, other)):
        return False
    return one[1] < other[0] or other[1] < one[0]


def _title(stage: StageRun) -> str:
    start = stage.config.get('start')
    return f'<b>{text(stage.name)}</b>' + (
        f' <span class="muted">from {text(start)}</span>' if start and start != 'init' else ''
    )


def _course(stage: StageRun) -> str:
    """'60 steps in 3 min; loss 2.31 → 0.65.', or how far a running stage has come."""
    loss = stage.column('loss')[1]
    losses = f'; loss {number(loss[0])} → {number(loss[-min(20, loss.size) :].mean())}' if loss.size > 1 else ''
    if stage.collected and stage.finished:
        kept, sampled = stage.collected
        return f'<span class="muted">· kept {kept:,} of {sampled:,} samples, in {span(stage.seconds)}.</span>'
    if not stage.done:
        words = f'is done, in {span(stage.seconds)}' if stage.finished else 'has not begun'
        return f'<span class="muted">· {words}.</span>'
    steps = (
        f'· {stage.done:,} steps'
        if stage.finished or not stage.planned
        else f'· step {stage.done:,} of {stage.planned:,}'
    )
    return f'<span class="muted">{steps} in {span(stage.seconds)}{losses}.</span>'


def _tiles(stage: StageRun, before: Eval | None, after: Eval | None) -> str:
    newest = after or before
    cons = next((key for key in newest if key.startswith('cons@')), None)
    tiles = [('pass@1', _change(before, after, 'pass@1', True), _intervals(before, after))]
    if cons:
        tiles.append((f'majority, {cons}', _change(before, after, cons, True), 'most frequent answer'))
    lengths = [result.get('response_tokens') for result in (before, after) if result]
    grown = f'tokens, × {lengths[1] / lengths[0]:.2f}' if len(lengths) == 2 and all(lengths) else 'tokens'
    tiles.append(('response length', _change(before, after, 'response_tokens', False), grown))
    tiles.append(('format', _change(before, after, 'format', True), 'well-formed answers'))
    tiles.append(('stage', f'{stage.done:,} steps', f'in {span(stage.seconds)}'))
    return ''.join(
        f'<div class="tile"><span>{label}</span><b>{value}</b><span>{note}</span></div>' for label, value, note in tiles
    )


def _change(before: Eval | None, after: Eval | None, key: str | None, percent: bool) -> str:
    """'29.1 → 93.4 %', the unit once; one value where there is only one side."""
    values = [number(result.get(key), percent) for result in (before, after) if result and key]
    if len(values) == 2:
        return f'<i>{values[0].removesuffix(" %")} →</i> {values[1]}'
    return values[0] if values else '–'


def _with_interval(result: Eval, key: str) -> str:
    ci = result.get(f'{key}_ci')
    ends = f' [{100 * ci[0]:.1f}, {100 * ci[1]:.1f}]' if ci and all(map(is_number, ci)) else ''
    return f'<b>{number(result.get(key), percent=True)}</b>{ends}'


def _intervals(before: Eval | None, after: Eval | None) -> str:
    shown = [result['pass@1_ci'] for result in (before, after) if result and result.get('pass@1_ci')]
    return ' → '.join(f'[{100 * low:.1f}, {100 * high:.1f}]' for low, high in shown)


def _beyond(both: dict[str, Eval], long: str) -> str:
    """Whether the stage beat the base's own long answers, so that it did more than switch mode."""
    if 'after' not in both:
        return ''
    base, after = both['before']['by_mode'][long], both['after']
    above = 100 * (after['pass@1'] - base['accuracy'])
    if above <= 0:
        meaning = 'switching to the longer mode would explain all of it.'
    elif apart(after.get('pass@1_ci'), base.get('accuracy_ci')):
        meaning = 'it did not only switch to its longer mode, it got better at it.'
    else:
        meaning = 'the 95 % intervals overlap, so switching to the longer mode might explain it.'
    return f'<p>Afterwards pass@1 is {above:+.1f} points against the base’s own {text(long)} answers: {meaning}</p>'


def _modes_table(both: dict[str, Eval]) -> str:
    rows = ''
    for when, result in both.items():
        for mode, figures in (result.get('by_mode') or {}).items():
            bar = f'<i class="{when}" style="width:{100 * (figures.get("accuracy") or 0):.1f}%"></i>'
            cells = (
                when,
                f'<b>{text(mode)}</b>',
                number(figures.get('share'), percent=True),
                _with_interval(figures, 'accuracy'),
                f'<div class="meter">{bar}</div>',
                number(figures.get('response_tokens')),
            )
            rows += '<tr>' + ''.join(f'<td>{cell}</td>' for cell in cells) + '</tr>'
    heads = ('when', 'mode', 'share of answers', 'accuracy [95 %]', '', 'tokens')
    head = ''.join(f'<th>{head}</th>' for head in heads)
    return f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'
