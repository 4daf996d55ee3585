"""What `r1jax diagnose` finds in a run, as a section of the page: why a stage does not learn, or why not to believe that it does."""

from __future__ import annotations

from collections.abc import Sequence

from r1jax.report.diagnosis import Finding
from r1jax.report.page import number, text

TONES = {'problem': 'warn', 'warning': 'warn', 'note': 'muted'}  # severity -> class of its badge


def section(findings: Sequence[Finding], whose: str = '') -> str:
    """A card with the findings, the gravest first, each with its evidence folded; `whose` is HTML. '' where there is none."""
    if not findings:
        return ''
    items = ''.join(f'<li>{_finding(each)}</li>' for each in findings)
    grave = any(each.severity == 'problem' for each in findings)
    head = f'<p>{whose}</p>' if whose else ''
    return f'<div class="card{" warn" if grave else ""}">{head}<ul class="advice">{items}</ul></div>'


def _finding(each: Finding) -> str:
    first, last = each.steps or (0, 0)
    where = f', steps {first:,} to {last:,}' if each.steps else ''
    evidence = ''.join(f'<li>{text(name)}: {number(value)}</li>' for name, value in each.numbers.items())
    folded = f'<details><summary>evidence</summary><ul>{evidence}</ul></details>' if evidence else ''
    return (
        f'<span class="badge {TONES[each.severity]}">{each.severity}</span> <b>{text(each.stage)}</b> '
        f'<span class="muted">{text(each.check)}{where}</span><p>{text(each.seen)}</p><p>→ {text(each.todo)}</p>{folded}'
    )
