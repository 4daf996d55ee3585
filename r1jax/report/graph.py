"""The stages of a run as a graph: which starts from which, and which reads what another has written. Inline SVG with links.

Laid out in layers (Sugiyama, Tagawa and Toda 1981, in brief): a stage stands one layer below the lowest that it starts from or reads; a
line that passes a layer has a place in it; and the places of a layer are ordered by where their neighbours stand. A full line is where
weights start, a dashed one what is read. The same stands in words below, for those who do not see it.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Callable, Sequence

from r1jax.report.page import number, text
from r1jax.report.workdir import COLLECTS, Run, StageRun, figure_of

WIDTH, HEIGHT = 192, 62  # of a stage's box, user units
LINE = 14  # room for a line that passes a layer
ACROSS, DOWN = 24, 42  # between places
SWEEPS = 12  # of ordering and of placing
MARGIN = 6
FITS = 29  # characters of a box's line


@dataclasses.dataclass(eq=False)
class _Place:
    """A box, or where a line passes a layer."""

    layer: int
    width: float
    x: float = 0.0  # of its middle
    above: list[_Place] = dataclasses.field(default_factory=list)
    below: list[_Place] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class _Line:
    """From a stage, or the weights a run began with, to a stage."""

    kind: str  # 'start' or 'read'
    places: list[_Place]  # from top to bottom, boxes at both ends


def draw(run: Run) -> str:
    """The graph's card, '' for less than two stages."""
    if len(run.stages) < 2:
        return ''
    boxes, lines = _layered(run.stages)
    layers = _arranged(boxes, lines)
    left = min(place.x - place.width / 2 for layer in layers for place in layer) - MARGIN
    width = max(place.x + place.width / 2 for layer in layers for place in layer) + MARGIN - left
    height = len(layers) * (HEIGHT + DOWN) - DOWN + 2 * MARGIN
    stages = {stage.name: stage for stage in run.stages}
    parts = [_drawn(line) for line in lines]
    parts += [_box(stages.get(name), name, place) for name, place in boxes.items()]
    svg = (
        f'<svg class="graph" style="width:{width:.0f}px" viewBox="{left:.0f} 0 {width:.0f} {height:.0f}" role="group" '
        f'aria-label="Graph of the {len(stages)} stages">{"".join(parts)}</svg>'
    )
    said = ''.join(f'<li>{_in_words(stage)}</li>' for stage in run.stages)
    return (
        f'<div class="card"><div class="scroll">{svg}</div><p class="muted">Full line: the weights start there. Dashed line: what it '
        f'wrote is read. Each box leads to its results.</p><details><summary>In words</summary><ul>{said}</ul></details></div>'
    )


def _layered(stages: Sequence[StageRun]) -> tuple[dict[str, _Place], list[_Line]]:
    """Boxes by name and the lines between them, layer by layer."""
    names = {stage.name for stage in stages}
    edges = [(stage.start, stage.name, 'start') for stage in stages if stage.start not in ('', 'init', stage.name)]
    edges += [(name, stage.name, 'read') for stage in stages for name in stage.reads if name in names]
    boxes = {start: _Place(0, WIDTH) for start, *_ in edges if start not in names}  # weights that a run began with
    for stage in stages:  # in the recipe's order, so that those above have their layer
        above = [boxes[parent].layer for parent, child, _ in edges if child == stage.name and parent in boxes]
        boxes[stage.name] = _Place(max(above, default=-1) + 1, WIDTH)
    lines = []
    for parent, child, kind in edges:
        first, last = boxes[parent], boxes[child]
        chain = [first, *(_Place(layer, LINE) for layer in range(first.layer + 1, last.layer)), last]
        if first.layer >= last.layer:
            continue  # a stage that comes after: no recipe has that, but a file may say so
        for upper, lower in itertools.pairwise(chain):
            upper.below.append(lower)
            lower.above.append(upper)
        lines.append(_Line(kind, chain))
    return boxes, lines


def _arranged(boxes: dict[str, _Place], lines: Sequence[_Line]) -> list[list[_Place]]:
    """The places of each layer from left to right, with their `x` set."""
    every = [*boxes.values(), *(place for line in lines for place in line.places[1:-1])]
    layers: list[list[_Place]] = [[] for _ in range(1 + max(place.layer for place in every))]
    for place in every:
        layers[place.layer].append(place)
    for layer in layers:
        _spread(layer, [0.0] * len(layer))
    for sweep in range(SWEEPS):
        near: Callable = (lambda place: place.below) if sweep % 2 else (lambda place: place.above)
        for layer in layers[::-1] if sweep % 2 else layers:
            wanted = [statistics.fmean(n.x for n in near(place)) if near(place) else place.x for place in layer]
            order = sorted(range(len(layer)), key=wanted.__getitem__)
            layer[:] = [layer[i] for i in order]
            _spread(layer, [wanted[i] for i in order])
    return layers


def _spread(layer: list[_Place], wanted: Sequence[float]) -> None:
    """Sets `x` as near to what is wanted as the order and the distances allow, in the mean."""
    at = 0.0
    for i, (place, want) in enumerate(zip(layer, wanted, strict=True)):
        room = (layer[i - 1].width + place.width) / 2 + ACROSS if i else 0.0
        at = max(want, at + room) if i else want
        place.x = at
    shift = statistics.fmean(want - place.x for place, want in zip(layer, wanted, strict=True)) if layer else 0.0
    for place in layer:
        place.x += shift


def _top(place: _Place) -> float:
    return MARGIN + place.layer * (HEIGHT + DOWN)


def _drawn(line: _Line) -> str:
    """A curve from the first box's lower edge to the last one's upper edge, with an arrow's head."""
    first, *between, last = line.places
    x, y = first.x, _top(first) + HEIGHT
    path = f'M{x:.1f} {y:.1f}'
    for place in (*between, last):
        end = _top(place)
        bend = (end - y) / 2
        path += f'C{x:.1f} {y + bend:.1f} {place.x:.1f} {end - bend:.1f} {place.x:.1f} {end:.1f}'
        x, y = place.x, end
        if place is not last:
            y += HEIGHT
            path += f'V{y:.1f}'
    head = f'<path class="head" d="M{x:.1f} {y:.1f}l-4.5-8h9z"/>'
    return f'<g class="edge {line.kind}"><path d="{path}"/>{head}</g>'


def _box(stage: StageRun | None, name: str, place: _Place) -> str:
    """A stage with what it does and what it reached, or the weights where a run began."""
    x, y = place.x - WIDTH / 2, _top(place)
    state = 'weights' if stage is None else 'done' if stage.finished else 'open'
    box = f'<rect x="{x:.1f}" y="{y:.1f}" width="{WIDTH}" height="{HEIGHT}" rx="9"/>'
    lines = [_short(name)]
    if stage is None:
        lines.append('weights')
    else:
        steps = f'{stage.done:,} steps' if stage.done and stage.kind != COLLECTS else ''
        label = ' · '.join(filter(None, (stage.kind, steps)))
        lines += [label if len(label) <= FITS else stage.kind, _reached(stage)]
    rows = ''.join(
        f'<text class="{"name" if i == 0 else ""}" x="{place.x:.1f}" y="{y + 20 + 17 * i:.1f}" text-anchor="middle">{text(row)}</text>'
        for i, row in enumerate(filter(None, lines))
    )
    node = f'<g class="stage {state}">{box}{rows}<title>{text(name)}</title></g>'
    return node if stage is None else f'<a href="#{anchor(name)}">{node}</a>'


def anchor(name: str) -> str:
    """The id of a stage's card, escaped."""
    return f'stage-{text(name)}'


def _reached(stage: StageRun) -> str:
    """A stage's main result in a few words, or that there is none yet."""
    if stage.collected and stage.finished:
        return f'kept {stage.collected[0]:,} of {stage.collected[1]:,}'
    both = next(iter(stage.evals.values()), {})
    if after := both.get('after'):
        return f'pass@1 {number(after["pass@1"], percent=True)}'
    judged = (figure_of(both['after'], 'accuracy') for both in stage.measured.values() if 'after' in both)
    if agreement := next(filter(None, judged), None):
        return f'agreement {number(agreement[0], percent=True)}'
    return '' if stage.finished else 'going on' if stage.done or both else 'not begun'


def _short(name: str) -> str:
    """The end of a path, cut to what a box holds."""
    name = name.rstrip('/').rpartition('/')[2] or name
    return name if len(name) <= 22 else f'{name[:21]}…'


def _in_words(stage: StageRun) -> str:
    start = f'starts from {stage.start}' if stage.start else ''
    reads = f'reads {" and ".join(stage.reads)}' if stage.reads else ''
    facts = [stage.kind, start, reads, '' if stage.finished else 'not finished']
    return f'<b>{text(stage.name)}</b>: {text(", ".join(filter(None, facts)))}.'
