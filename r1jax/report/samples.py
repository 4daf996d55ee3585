"""The same questions' answers before and after a stage, for the eye.

From the samples of an evaluation where it logged some, else from the first and the last rollout. Not chosen for beauty:
the first questions that were logged, and the first samples of each. Everything here was written by a model and is
escaped.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

from r1jax.report.page import number, text
from r1jax.train import log

QUESTIONS = 6  # shown a stage
SAMPLES = 2  # shown a question and side
LONGEST = 4000  # characters of a completion
KEPT = 512  # lines read of each side
# `Log.samples` begins a line so; other lines have to be parsed to know what they are.
HEAD = re.compile(rb'\{"stage": ("(?:[^"\\]|\\.)*"), "step": (\d+), "when": "(\w+)"')
TAG = re.compile(r'</?[A-Za-z_]\w*>')

Record = dict[str, Any]


def read(workdir: str) -> dict[str, tuple[str, list[Record], list[Record]]]:
    """Stage -> (what the sides are, records before, records after)."""
    return pairs(sides(workdir))


def sides(workdir: str) -> dict[tuple[str, str], list[Record]]:
    """(stage, when) -> records: of evaluations 'before' and 'after', and of each stage's 'first' and 'last' rollout.

    One pass that parses only what it keeps.
    """
    path = os.path.join(workdir, log.SAMPLES)
    kept: dict[tuple[str, str], list[bytes]] = {}
    first: dict[str, int] = {}  # stage -> step of its first rollout
    last: dict[str, int] = {}  # and of the newest
    with open(path if os.path.exists(path) else os.devnull, 'rb') as file:
        for line in file:
            if not (known := head_of(line)):
                continue
            stage, step, when = known
            if when == 'rollout':
                when = 'first' if step == first.setdefault(stage, step) else 'last'
                if when == 'last' and step != last.get(stage):
                    last[stage] = step
                    kept[stage, 'last'] = []
            lines = kept.setdefault((stage, when), [])
            if len(lines) < KEPT:
                lines.append(line)
    return {key: records for key, lines in kept.items() if (records := [r for line in lines if (r := _parse(line))])}


def pairs(sides: dict[tuple[str, str], list[Record]]) -> dict[str, tuple[str, list[Record], list[Record]]]:
    """Of each stage an evaluation before and after it, or else its first and its last rollout."""
    found = {}
    for stage in dict.fromkeys(stage for stage, _ in sides):
        if (stage, 'before') in sides:
            before, after = sides[stage, 'before'], sides.get((stage, 'after'), [])
            main = before[0].get('eval')  # a stage's first evaluation is its main one
            after = [record for record in after if record.get('eval') == main]
            found[stage] = (
                f'evaluation {main}' if main else 'evaluation',
                [r for r in before if r.get('eval') == main],
                after,
            )
        elif (stage, 'first') in sides:
            before, after = sides[stage, 'first'], sides.get((stage, 'last'), [])
            steps = f'rollouts of step {before[0].get("step")}' + (f' and {after[0].get("step")}' if after else '')
            found[stage] = steps, before, after
    return found


def section(name: str, what: str, before: list[Record], after: list[Record]) -> str:
    """Question by question, before on the left and after on the right."""
    left, right = _by_question(before), _by_question(after)
    both = [question for question in left if question in right]
    begin = shared([*before, *after])
    parts = [f'<h3>{text(name)} <small>{text(what)}; the first that were logged, not chosen</small></h3>']
    if both or not right:
        for question in (both or list(left))[:QUESTIONS]:
            pair = _column('Before', left[question]) + _column('After', right.get(question, []))
            parts.append(f'<div class="card">{_prompt(left[question][0], begin)}<div class="pair">{pair}</div></div>')
    else:
        parts.append('<p class="muted">No question was logged on both sides: these are different ones.</p>')
        for one, other in list(zip(left.values(), right.values(), strict=False))[:QUESTIONS]:
            pair = _column('Before', one, _prompt(one[0], begin)) + _column('After', other, _prompt(other[0], begin))
            parts.append(f'<div class="card"><div class="pair">{pair}</div></div>')
    return ''.join(parts)


def _column(title: str, records: list[Record], prompt: str = '') -> str:
    cards = ''.join(card(record) for record in records[:SAMPLES]) or '<p class="muted">Not there yet.</p>'
    return f'<div><h4>{title}</h4>{prompt}{cards}</div>'


def completion(value: str) -> str:
    """A completion as HTML: what stands inside <think> dimmed, tags marked.

    The part before a lone </think> counts as thinking, since a template may have opened it; so does all after an
    unclosed <think>.
    """
    shown = value[:LONGEST]
    opened = shown.find('<think>')
    closed = shown.find('</think>')
    thinking = closed >= 0 and (opened < 0 or closed < opened)
    parts, at = [], 0

    def add(piece: str) -> None:
        if piece:
            parts.append(f'<span class="think">{text(piece)}</span>' if thinking else text(piece))

    for tag in TAG.finditer(shown):
        add(shown[at : tag.start()])
        parts.append(f'<span class="tag">{text(tag[0])}</span>')
        thinking = tag[0] == '<think>' or (thinking and tag[0] != '</think>')
        at = tag.end()
    add(shown[at:])
    if len(value) > LONGEST:
        parts.append(f'<span class="note"> … {len(value) - LONGEST:,} more characters</span>')
    return ''.join(parts)


def card(record: Record) -> str:
    """A response with its rewards."""
    facts = []
    if record.get('outcome') == 'grader_error':
        facts.append(f'<b class="warn">grader error: {text(record.get("cause"))}</b>')
    if record.get('reward') is not None:
        facts.append(f'reward <b>{number(record["reward"])}</b>')
    for part, value in (record.get('parts') or {}).items():
        colour = '' if value is None else ' class="good"' if value >= 1 else ' class="warn"' if value <= 0 else ''
        facts.append(f'{text(part)} <b{colour}>{number(value)}</b>')
    if record.get('tokens') is not None:
        facts.append(f'{number(record["tokens"])} tokens')
    if record.get('finished') is False:
        facts.append('<b class="warn">cut off</b>')
    header = ''.join(f'<span>{fact}</span>' for fact in facts)
    return f'<div class="sample"><p>{header}</p><pre>{conversation(record)}</pre></div>'


def conversation(record: Record) -> str:
    """A completion, or its turns with what the environment said between them, which is nobody's answer."""
    if not (turns := record.get('turns')):
        return completion(str(record.get('completion', '')))
    return ''.join(
        f'<i class="note">{text(str(said))}</i>' if i % 2 else completion(str(said)) for i, said in enumerate(turns)
    )


def _prompt(record: Record, begin: int) -> str:
    """The question, without the first `begin` characters that a template gives every prompt; all of it folded."""
    prompt = str(record.get('prompt', ''))
    shown = prompt[begin:].strip() or prompt
    answer = f' · expected <b>{text(record["answer"])}</b>' if record.get('answer') is not None else ''
    label = f'<span class="note">question {text(record.get("question", "?"))}{answer}</span>'
    whole = f'<details><summary>the whole prompt</summary><pre class="prompt">{text(prompt)}</pre></details>'
    return f'{label}<pre class="prompt question">{text(shown[:LONGEST])}</pre>{whole if shown != prompt else ""}'


def shared(records: list[Record]) -> int:
    """Length of what all prompts begin with, back to the end of a line, sentence or label; 0 if all are the same."""
    prompts = sorted({str(record.get('prompt', '')) for record in records})
    low, high = prompts[0], prompts[-1]  # in order, the outermost two share what all share
    same = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    start = low[:same] if low != high else ''
    return max((match.end() for match in re.finditer(r'[.:>]\s|\n', start)), default=0)


def _by_question(records: list[Record]) -> dict[Any, list[Record]]:
    groups: dict[Any, list[Record]] = {}
    for record in records:
        groups.setdefault(record.get('question'), []).append(record)
    return groups


def head_of(line: bytes) -> tuple[str, int, str] | None:
    """(stage, step, when) of a line, None if it is torn or has no stage."""
    if match := HEAD.match(line):
        name = match[1]  # nearly always as it stands
        return json.loads(name) if b'\\' in name else name[1:-1].decode(), int(match[2]), match[3].decode()
    record = _parse(line)
    return (
        (str(record['stage']), record.get('step', 0), record.get('when', 'rollout'))
        if record and 'stage' in record
        else None
    )


def _parse(line: bytes) -> Record | None:
    try:
        return json.loads(line)
    except ValueError:
        return None
