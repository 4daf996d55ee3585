"""Aha: logged responses that look back at their own steps, and are right in the end.

"Wait, wait. Wait. That's an aha moment I can flag here" (R1 report, Table 3). Found by a search over samples.jsonl, not chosen: a correct
response counts if its reasoning has a reflective word after a step, which is an equation or a finished sentence. Those that then give
the left side of an earlier equation another value *correct themselves*, and are shown first. What is searched is what was logged: a few
questions of each rollout, and of these `PARSED` correct responses a step.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import re

from r1jax.report.page import number, text
from r1jax.report.samples import Record, card, head_of
from r1jax.rewards.language import reasoning
from r1jax.rewards.reflection import PATTERN, plain
from r1jax.train import log

PARSED = 16  # correct responses read a step, so that a log of gigabytes takes seconds
ASKED = 200  # characters of a prompt that are shown, its last ones
SHOWN = 3  # a stage: the first, and the newest of those that correct themselves
WINDOW = 0.2  # of a stage's logged steps that counts as its beginning, and as its end
CORRECT = re.compile(rb'"accuracy": 1(?:\.0)?[,}]')
STEP = re.compile(r'=\s*\S|[.!?。\n]')
EQUATION = re.compile(r'([\w+\-*/×÷^()]+)\s*=\s*(-?\w+)', re.ASCII)


@dataclasses.dataclass
class Found:
    """What the search found in a stage."""

    steps: dict[int, collections.Counter] = dataclasses.field(
        default_factory=dict
    )  # step -> 'read', 'reflect', 'correct themselves'
    first: tuple[int, Record] | None = None
    corrected: list[tuple[int, Record]] = dataclasses.field(default_factory=list)  # the first of each step


def word(response: str) -> str | None:
    """The reflective word with which a response's reasoning looks back at a step; None if it does not."""
    thought = plain(reasoning(response))
    return next((match[0] for match in PATTERN.finditer(thought) if STEP.search(thought, 0, match.start())), None)


def corrects_itself(response: str) -> bool:
    """Whether after a reflective word the left side of an earlier equation is given another value."""
    thought = plain(reasoning(response))
    for match in PATTERN.finditer(thought):
        before = dict(EQUATION.findall(thought[: match.start()]))
        if any(before.get(left, right) != right for left, right in EQUATION.findall(thought[match.end() :])):
            return True
    return False


def search(workdir: str) -> dict[str, Found]:
    """Stage -> what was found in its samples. One pass, which parses only correct responses, and few of a step."""
    found: dict[str, Found] = {}
    path = os.path.join(workdir, log.SAMPLES)
    with open(path if os.path.exists(path) else os.devnull, 'rb') as file:
        for line in file:
            if not CORRECT.search(line) or not (known := head_of(line)):
                continue
            stage, step, _ = known
            here = found.setdefault(stage, Found())
            counts = here.steps.setdefault(step, collections.Counter())
            if counts['read'] >= PARSED or not (record := _correct(line)):
                continue
            counts['read'] += 1
            response = str(record.get('completion', ''))
            if word(response) is None:
                continue
            counts['reflect'] += 1
            here.first = here.first or (step, record)
            if corrects_itself(response):
                counts['correct themselves'] += 1
                if not here.corrected or here.corrected[-1][0] != step:
                    here.corrected.append((step, record))
    return found


def section(stage: str, found: Found) -> str:
    """A stage's card, '' if none of its correct responses was read."""
    if not found.steps:
        return ''
    steps = sorted(found.steps)
    many = max(1, int(WINDOW * len(steps)))
    ends = [sum((found.steps[step] for step in part), collections.Counter()) for part in (steps[:many], steps[-many:])]
    rows = ''
    for name in ('reflect', 'correct themselves'):
        shares = (number(count[name] / count['read'], percent=True) if count['read'] else '–' for count in ends)
        rows += f'<tr><td>{name}</td>' + ''.join(f'<td>{share}</td>' for share in shares) + '</tr>'
    head = '<tr><th>correct responses that</th><th>first steps</th><th>last steps</th></tr>'
    if found.first is None:
        said = 'None of the correct responses that were logged looks back at a step.'
    else:
        said = f'The first correct response that looks back at a step was logged <b>{_when(found.first[0])}</b>'
        first = found.corrected[0][0] if found.corrected else None
        said += (
            '.'
            if first is None
            else f', the first that corrects itself <b>{f"at step {first:,}" if first else "before the stage"}</b>.'
        )
    chosen = ([found.first] if found.first else []) + found.corrected[::-1]
    shown = ''
    seen: set[str] = set()
    for step, record in chosen:
        if len(seen) < SHOWN and (key := str(record.get('completion'))) not in seen:
            seen.add(key)
            note = f'{_when(step)} · “{text(word(key))}”'
            prompt = text(str(record.get('prompt', ''))[-ASKED:])
            shown += f'<p class="note">{note}</p><pre class="prompt question">{prompt}</pre>{card(record)}'
    samples = f'<details><summary>{len(seen)} of them, found by search</summary>{shown}</details>' if shown else ''
    table = f'<div class="scroll"><table>{head}{rows}</table></div>'
    return f'<div class="card"><p><b>{text(stage)}</b> {said}</p>{table}{samples}</div>'


def _when(step: int) -> str:
    return f'at step {step:,}' if step else 'before the stage'


def _correct(line: bytes) -> Record | None:
    """The record of a finished response that is right; None for others, torn lines included."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    right = isinstance(record.get('parts'), dict) and record['parts'].get('accuracy') == 1
    return record if right and record.get('finished') is not False else None
