"""A plan as text, in Markdown, and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from r1jax.config import AXES, MeshConfig
from r1jax.plan import Planned, StagePlan
from r1jax.plan.measure import KINDS, Measured


def text(plan: Planned) -> str:
    """Several lines, tables among them."""
    top = plan.topology
    head = f'# {plan.recipe} on {top.text}: ' + ('fits' if plan.fits else 'DOES NOT FIT')
    about = (
        f'{top.chips} chips of {top.chip.memory / 1e9:.1f} GB, {top.chip.flops / 1e12:.0f} TFLOP/s and '
        f'{top.chip.bandwidth / 1e9:.0f} GB/s each ({top.chip.source}). Responses are taken to have '
        + (f'{plan.mean} tokens.' if plan.mean else 'as many tokens as they may.')
    )
    if top.estimated:
        about += ' ESTIMATES: compiled for virtual CPUs, since GPUs cannot be compiled for without one.'
    parts = [head, about, *(part for stage in plan.stages for part in _stage(stage))]
    if plan.others:
        parts += ['## Meshes that were compiled', _ranking(plan)]
    if plan.disagree:
        parts.append(f'Shapes and compiler disagree by more than 1 % on bytes of: {", ".join(plan.disagree)}.')
    return '\n\n'.join(parts) + '\n'


def _stage(s: StagePlan) -> list[str]:
    told = [f'mesh {mesh(s.mesh)}']
    told += [f'{s.rows} rows a microbatch'] * bool(s.rows) + [f'{s.slots} slots'] * bool(s.slots)
    out = [f'## {s.name}: {", ".join(told)}', 'GB of a chip by kind, at the peak of each program:', _memory(s)]
    out += ['What a call does on a chip, and takes at least:', _time(s)]
    if moved := _collectives(s):
        out += ['What a call sends through a chip, by the axes of the mesh:', moved]
    what = f'{s.updates} steps and what is sampled for them' if s.updates > 1 or s.slots else 'a step'
    facts = [f'{what}: {_seconds(s.loop)} at least' if s.loop else 'not timed']
    if s.tokens_a_day:
        facts.append(f'{s.tokens_a_day:,.3g} tokens of responses a day at most')
    facts.append(f'model FLOP utilisation {100 * s.utilisation:.1f} % at most')
    facts.append(f'{s.hours:,.0f} chip-hours at least' if s.hours is not None else 'its data say how long it takes')
    if s.largest:
        facts.append('would fit: ' + ', '.join(f'{n} {_NAMES[name]}' for name, n in s.largest.items()))
    out.append(f'{"; ".join(facts)}.')
    notes = [f'- {m.name}: {note}' for m in s.programs for note in (m.error, *m.notes) if note]
    return [*out, '\n'.join(notes)] if notes else out


def _ranking(plan: Planned) -> str:
    rows = [
        [
            s.name,
            mesh(s.mesh),
            str(s.rows or ''),
            str(s.slots or ''),
            'yes' if s.fits else 'no',
            _gb(s.peak.total),
            _seconds(s.loop),
            f'{100 * s.utilisation:.1f} %',
        ]
        for s in sorted((*plan.stages, *plan.others), key=lambda s: (s.name, not s.fits, s.loop))
    ]
    return _table(['stage', 'mesh', 'rows', 'slots', 'fits', 'GB', 'at least', 'utilisation'], rows)


_NAMES = {'rows': 'rows a microbatch', 'slots': 'slots'}


def mesh(cfg: MeshConfig) -> str:
    """`fsdp=16 tensor=8`."""
    axes = ' '.join(f'{axis}={getattr(cfg, axis)}' for axis in (*AXES, 'slices') if getattr(cfg, axis) > 1)
    return axes or 'of one chip'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    wide = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(row):
        cells = [cell.rjust(n) if i else cell.ljust(n) for i, (cell, n) in enumerate(zip(row, wide, strict=True))]
        return f'| {" | ".join(cells)} |'

    rule = '|'.join('-' * (n + 1) + (':' if i else '-') for i, n in enumerate(wide))
    return '\n'.join([line(head), f'|{rule}|', *map(line, rows)])


def _memory(s: StagePlan) -> str:
    kinds = [kind for kind in KINDS if any(m.bytes.get(kind) for m in s.programs)]
    rows = [
        [m.name, *(_gb(m.bytes.get(kind, 0)) for kind in kinds), _gb(m.total), f'{100 * m.total / s.memory:.0f} %']
        for m in s.programs
    ]
    return _table(['program', *kinds, 'in all', 'of a chip'], rows)


def _time(s: StagePlan) -> str:
    head = [
        'program',
        'TFLOP',
        'GB of memory',
        'at least',
        'bound by',
        'calls',
        'of the time',
        'shapes against compiler',
    ]
    rows = [
        [
            m.name,
            f'{m.flops / 1e12:,.2f}',
            f'{m.traffic / 1e9:,.1f}',
            _seconds(m.seconds),
            m.bound,
            f'{m.calls:,.0f}' if m.calls else 'once',
            f'{100 * m.calls * m.seconds / s.loop:.1f} %' if s.loop else '',
            f'{100 * m.off:.2f} %',
        ]
        for m in s.programs
        if not m.error
    ]
    return _table(head, rows)


def _collectives(s: StagePlan) -> str:
    rows = [
        [m.name, c.kind, '×'.join(c.axes), _size(c.bytes), f'{c.times:,.0f}', _seconds(c.seconds)]
        for m in s.programs
        for c in m.collectives
        if m.calls and c.bytes > 1e6
    ]
    return _table(['program', 'collective', 'over', 'bytes', 'times', 'takes'], rows) if rows else ''


def _gb(n: float) -> str:
    return f'{n / 1e9:.2f}' if n else ''


def _size(n: float) -> str:
    return f'{n / 1e9:,.2f} GB' if n >= 1e8 else f'{n / 1e6:,.1f} MB'


def _seconds(n: float) -> str:
    if n >= 120:
        return f'{n / 60:,.1f} min'
    return f'{n:.2f} s' if n >= 1 else f'{1e3 * n:.2f} ms'


def to_json(plan: Planned) -> dict[str, Any]:
    """All figures, in bytes, seconds and operations."""
    top = plan.topology
    return {
        'recipe': plan.recipe,
        'topology': top.text,
        'chips': top.chips,
        'chip': {k: v for k, v in dataclasses.asdict(top.chip).items() if k != 'options'},
        'estimated': top.estimated,
        'mean_tokens': plan.mean,
        'fits': plan.fits,
        'disagree': plan.disagree,
        'stages': {stage.name: _stage_json(stage) for stage in plan.stages},
        'others': [{'stage': stage.name} | _stage_json(stage) for stage in plan.others],
    }


def _stage_json(s: StagePlan) -> dict[str, Any]:
    return {
        'mesh': {axis: getattr(s.mesh, axis) for axis in (*AXES, 'slices')},
        'rows': s.rows,
        'slots': s.slots,
        'fits': s.fits,
        'memory': s.memory,
        'peak': {'program': s.peak.name, 'bytes': s.peak.total},
        'seconds': s.loop,
        'updates': s.updates,
        'tokens_a_day': s.tokens_a_day,
        'utilisation': s.utilisation,
        'chip_hours': s.hours,
        'largest': dict(s.largest),
        'programs': {m.name: _program_json(m) for m in s.programs},
    }


def _program_json(m: Measured) -> dict[str, Any]:
    return dataclasses.asdict(m) | {'total': m.total}
