"""Data cards: what stages of rejection sampling kept, and why they did not keep the rest (`r1jax.curate.card` writes them).

Read as they are found: what a card does not have is left out.
"""

from __future__ import annotations

import json
from typing import Any

from r1jax.report.page import number, text


def section(stage: str, card: dict[str, Any]) -> str:
    """A card's figures as tables with bars."""
    file, prompts, samples = (_dict(card.get(name)) for name in ('file', 'prompts', 'samples'))
    total, kept = samples.get('sampled'), samples.get('kept')
    facts = [f'{number(file["examples"])} examples' if 'examples' in file else '']
    facts += [f'{number(kept / total, percent=True)} of {number(total)} samples' if total and kept is not None else '']
    facts += [f'sampled from {text(card["start"])}' if 'start' in card else '']
    facts += [f'<code>{text(file["name"])}</code>' if 'name' in file else '']
    parts = [f'<p class="verdict"><b>{text(stage)}</b> kept {", ".join(filter(None, facts)) or "something"}.</p>']
    parts.append(_bars('Prompts', prompts))
    parts.append(_bars('Samples: each once, under the first reason why it was not kept', samples))
    parts.append(
        _bars(
            'Prompts by pass rate: the share of a prompt’s graded samples that are correct',
            _dict(card.get('pass_rate')),
        )
    )
    parts.append(_groups(card.get('groups')))
    parts.append(_lengths(_dict(card.get('tokens'))))
    parts.append(_contamination(_dict(card.get('contamination'))))
    if settings := card.get('settings'):
        shown = text(json.dumps(settings, indent=2, ensure_ascii=False))
        parts.append(f'<details><summary>Settings</summary><pre class="json">{shown}</pre></details>')
    return f'<div class="card">{"".join(parts)}</div>'


def _bars(title: str, counts: dict[str, Any]) -> str:
    """Counts as rows with a bar each, those that are 0 left out; '' of nothing."""
    shown = {name: count for name, count in counts.items() if isinstance(count, int) and count > 0}
    if not shown:
        return ''
    most = max(shown.values())
    rows = ''
    for name, count in shown.items():
        bar = f'<div class="meter"><i class="after" style="width:{100 * count / most:.1f}%"></i></div>'
        rows += f'<tr><td>{text(name.replace("_", " "))}</td><td>{number(count)}</td><td>{bar}</td></tr>'
    return f'<h4>{title}</h4><div class="scroll"><table>{rows}</table></div>'


def _groups(groups: Any) -> str:
    rows = [group for group in groups if isinstance(group, dict)] if isinstance(groups, list) else []
    if not rows:
        return ''
    heads = ('kind', 'language', 'prompts', 'with a correct sample', 'kept of', 'samples', 'correct', 'kept')
    body = ''
    for group in rows:
        counts = [*_dict(group.get('prompts')).values(), *_dict(group.get('samples')).values()]
        cells = [text(group.get('kind')), text(group.get('language')), *map(number, counts)]
        body += '<tr>' + ''.join(f'<td>{cell}</td>' for cell in cells) + '</tr>'
    head = ''.join(f'<th>{head}</th>' for head in heads)
    return f'<h4>By kind and language</h4><div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _lengths(tokens: dict[str, Any]) -> str:
    """What so many percent of the responses do not exceed."""
    rows = {name: quantiles for name, quantiles in tokens.items() if _dict(quantiles)}
    if not rows:
        return ''
    percents = list(next(iter(rows.values())))
    head = ''.join(f'<th>{text(percent)} %</th>' for percent in percents)
    body = ''
    for name, quantiles in rows.items():
        body += (
            f'<tr><td>{text(name)}</td>' + ''.join(f'<td>{number(quantiles.get(p))}</td>' for p in percents) + '</tr>'
        )
    title = '<h4>Tokens a response: what so many percent do not exceed</h4>'
    return f'{title}<div class="scroll"><table><tr><th></th>{head}</tr>{body}</table></div>'


def _contamination(found: dict[str, Any]) -> str:
    sets = [each for each in found.get('sets') or () if isinstance(each, dict)]
    if not sets:
        return ''
    rows = ''.join(
        f'<tr><td class="wrap">{text(each.get("set"))}</td><td>{number(each.get("questions"))}</td>'
        f'<td>{number(each.get("prompts"))}</td></tr>'
        for each in sets
    )
    title = f'<h4>Contamination: {number(found.get("words"))} words in a row, or a whole question, shared</h4>'
    head = '<tr><th>with the evaluation set</th><th>questions</th><th>prompts removed</th></tr>'
    return f'{title}<div class="scroll"><table>{head}{rows}</table></div>'


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
