"""report.html: what a run did, in one file that can be mailed, put in a talk and opened without a network.

    write(workdir)
      workdir.read   config.json, metrics.jsonl, summary.json, lineage.json, data cards, as far as they are there
      graph          which stage starts from which, and reads what
      reached        a row a stage: what each of them reached
      findings       a card a stage: before and after, in words; does thinking pay in the base?
      evolution      accuracy, length, reflection, language and form over the steps of RL, as the R1 report draws them
      aha            responses that look back at their steps, found by search
      cards          what rejection sampling kept
      judges         what reward models know: held-out accuracy, calibration
      hacking        what to look at before the reward is believed
      curves, chart  every other logged number as inline SVG, with intervals and evaluations
      samples        the same questions' answers before and after
      page           style, script and shell; no address outside the file

Nothing here trains or samples, so a report may be written at any time, also of a run that is going on or was killed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from r1jax.report import aha, cards, curves, evolution, graph, hacking, judges, reached, samples
from r1jax.report.findings import EVALUATION_HEADS, evaluations, thinking, verdict
from r1jax.report.page import document, number, span, text
from r1jax.report.workdir import Run, StageRun, read, recipe_of

PAGE = 'report.html'


def write(workdir: str) -> str:
    """Writes WORKDIR/report.html anew and returns its path.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: metrics.jsonl is damaged before its last line.
    """
    path = os.path.join(workdir, PAGE)
    sides = samples.sides(workdir)
    newest = {stage: found for (stage, when), found in sides.items() if when == 'last'}
    html = render(read(workdir), samples.pairs(sides), newest, aha.search(workdir))
    with open(path + '.tmp', 'w', encoding='utf-8', errors='replace') as file:  # a lone surrogate becomes ?
        file.write(html)
    os.replace(path + '.tmp', path)
    return path


def render(
    run: Run,
    completions: dict[str, tuple[str, list[dict], list[dict]]],
    newest: Mapping[str, list[dict]] = MappingProxyType({}),
    reflecting: Mapping[str, aha.Found] = MappingProxyType({}),
) -> str:
    """The report as HTML. `completions` are `samples.read`'s; `newest` are each stage's records of its last rollout, `reflecting` what
    `aha.search` found.
    """
    pairs = [samples.section(name, *sides) for name, sides in completions.items()]
    verdicts = ''.join(f'<div id="{graph.anchor(stage.name)}">{verdict(stage)}</div>' for stage in run.stages)
    sampling = [stage.name for stage in run.stages if stage.reinforced]
    sections = [
        ('stages', 'Stages', graph.draw(run)),
        ('results', 'Results', reached.table(run) + verdicts if run.stages else ''),
        ('thinking', 'Does thinking pay in the base?', ''.join(map(thinking, run.stages))),
        ('evolution', 'Self-evolution', ''.join(map(evolution.section, run.stages))),
        ('aha', 'Aha', ''.join(aha.section(name, reflecting[name]) for name in sampling if name in reflecting)),
        ('data', 'Data that stages kept', ''.join(cards.section(*each) for each in run.cards.items())),
        ('judges', 'Reward models', ''.join(map(judges.section, run.stages))),
        (
            'hacking',
            'Can the reward be believed?',
            ''.join(hacking.monitor(s, newest.get(s.name, [])) for s in run.stages),
        ),
        ('curves', 'Curves', _curves(run)),
        ('samples', 'Samples before and after', ''.join(pairs)),
        ('evaluations', 'Evaluations', _evaluations(run)),
        ('configuration', 'Configuration', _configuration(run)),
    ]
    sections = [section for section in sections if section[2]]
    links = ''.join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in sections)
    body = ''.join(f'<section id="{anchor}"><h2>{title}</h2>{html}</section>' for anchor, title, html in sections)
    if not sections:
        body = '<div class="card"><p>This workdir holds no results yet.</p></div>'
    foot = 'Intervals are at 95 %; those of evaluations come from resampling whole questions.'
    return document(
        f'{run.name} · r1jax',
        f'<header><h1>{text(run.name)}</h1><p class="muted">{_subtitle(run)}</p><nav>{links}</nav></header>'
        f'<main>{body}</main><footer>{foot}</footer>',
    )


def _subtitle(run: Run) -> str:
    seconds = [stage.seconds for stage in run.stages if stage.seconds is not None]
    badge = (
        '<span class="badge good">finished</span>' if run.finished else '<span class="badge warn">not finished</span>'
    )
    facts = [
        ' → '.join(text(stage.name) for stage in run.stages),
        f'{span(sum(seconds))} of training' if seconds else '',
    ]
    seed = run.summary.get('seed', run.config.get('seed', recipe_of(run.config).get('seed')))
    facts.append(f'seed {text(seed)}' if seed is not None else '')
    return f'{badge} ' + ' · '.join(filter(None, facts))


def _curves(run: Run) -> str:
    html = ''
    for stage in reversed(run.stages):  # the last stage is what one came for
        if drawn := curves.draw(stage):
            html += f'<h3>{text(stage.name)} <small>{stage.done:,} steps</small></h3>{curves.skipped(stage)}{drawn}'
    how = 'Thin: as logged. Thick: mean over neighbouring steps. Band: 95 % interval of a step. Points: evaluations.'
    return f'<p class="muted">{how}</p>{html}' if html else ''


def _evaluations(run: Run) -> str:
    rows = ''.join(evaluations(stage) for stage in run.stages)
    head = ''.join(f'<th>{head}</th>' for head in EVALUATION_HEADS)
    return f'<div class="card scroll"><table><tr>{head}</tr>{rows}</table></div>' if rows else ''


def _configuration(run: Run) -> str:
    if not run.config:
        return ''
    recipe = recipe_of(run.config)
    rows = ''.join(_stage_row(stage) for stage in run.stages if stage.config)
    heads = ('stage', 'starts from', 'steps', 'learns from', 'loss', 'learning rate')
    head = ''.join(f'<th>{head}</th>' for head in heads)
    table = f'<div class="card scroll"><table><tr>{head}</tr>{rows}</table></div>' if rows else ''
    facts = dict(_flat({key: value for key, value in run.config.items() if value is not recipe and key != 'stages'}))
    if recipe is run.config:
        facts = {}  # a bare recipe says nothing but itself
    fact_rows = ''.join(
        f'<tr><td>{text(key)}</td><td class="wrap"><code>{text(value)}</code></td></tr>' for key, value in facts.items()
    )
    about = f'<div class="card scroll"><table>{fact_rows}</table></div>' if fact_rows else ''
    whole = text(json.dumps(run.config, indent=2, ensure_ascii=False))
    return f'{table}{about}<details><summary>config.json</summary><pre class="json">{whole}</pre></details>'


def _stage_row(stage: StageRun) -> str:
    source, loss = stage.part('source'), stage.part('loss')
    if 'problems' in source:
        sample = source.get('sample') or {}
        what = (
            f'{number(source.get("questions"))} questions × {number(source.get("samples"))} samples a rollout, up to '
            f'{number(sample.get("max_tokens"))} tokens at temperature {number(sample.get("temperature"))}'
        )
    else:
        what = f'stored texts, {number(source.get("batch"))} a step'
    goal = f'GRPO, β {number(loss.get("beta"))}, {text(loss.get("normalise"))}' if 'beta' in loss else stage.kind
    rate = stage.part('optim').get('learning_rate')
    epochs = source.get('epochs')
    steps = f'{number(epochs)} epochs' if epochs else number(stage.planned)
    cells = (text(stage.config.get('start', '–')), steps, what, goal, number(rate))
    return (
        f'<tr><td><b>{text(stage.name)}</b></td>' + ''.join(f'<td class="wrap">{cell}</td>' for cell in cells) + '</tr>'
    )


def _flat(value: Any, path: str = '') -> list[tuple[str, Any]]:
    """Nested settings as rows: 'versions.jax', '0.10.2'; lists joined by spaces, empty values left out."""
    if isinstance(value, dict):
        return [row for key, item in value.items() for row in _flat(item, f'{path}.{key}' if path else str(key))]
    if isinstance(value, list):
        value = ' '.join(str(item) for item in value)
    return [] if value in (None, '') else [(path, value)]
