"""Curves as inline SVG: numbers in, a `<figure>` out.

A chart shows each series as it was (thin) and smoothed (thick), a band where an interval is known, and evaluations as
points with error bars. Everything is drawn here; the script of `page` only reads the figure's data to show values under
the pointer. Long series are thinned to the lowest and highest value of each of 200 pieces, so that no spike is lost and
a page of 10,000 steps stays small.

Axes: N points of a series, P <= N of them drawn.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Sequence

import numpy as np

from r1jax.report.page import number, text

PIECES = 200
COLOURS = 8  # of lines, before they are dashed
CROWDED = 5  # lines of which only the smoothed ones are drawn
WIDTH, HEIGHT = 460, 210  # user units; the page scales them
LEFT, RIGHT, TOP, BOTTOM = 50, 20, 10, 26  # margins


@dataclasses.dataclass(frozen=True)
class Series:
    """A metric over steps, finite values only."""

    name: str
    x: np.ndarray  # f[N], steps, ascending
    y: np.ndarray  # f[N]
    low: np.ndarray | None = None  # f[N], lower end of the 95 % interval of each step's value
    high: np.ndarray | None = None  # f[N]
    exact: bool = False  # each point is a measurement of its own: no smoothing, and a dot
    colour: int | None = (
        None  # of which colour, where others stand in other charts; None: by its place among the series
    )


@dataclasses.dataclass(frozen=True)
class Mark:
    """An evaluation's result at a step."""

    name: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True)
class Plot:
    """What a chart is of."""

    title: str
    paths: tuple[str, ...]  # metric paths, one line each
    note: str = ''  # unit and meaning, in a few words
    percent: bool = False  # values are shares
    whole: bool = False  # the axis spans 0 to 100 %
    log: bool = False  # logarithmic axis; values that are not positive are left out


def figure(plot: Plot, series: Sequence[Series], marks: Sequence[Mark] = ()) -> str:
    """The figure of a plot, '' if there is nothing to draw."""
    if plot.log:
        series = [Series(s.name, s.x[s.y > 0], s.y[s.y > 0], exact=s.exact, colour=s.colour) for s in series]
    lines = [_Line(s) for s in series if s.y.size]
    if not lines:
        return ''
    frame = _Frame(plot, lines, marks)
    names = list(dict.fromkeys(mark.name for mark in marks))
    body = frame.axes()
    colours = [colour(i if line.colour is None else line.colour) for i, line in enumerate(lines)]
    for line, name in zip(lines, colours, strict=True):
        body += line.draw(frame, name, len(lines) < CROWDED)
    body += [_mark(frame, mark, names.index(mark.name) % 4) for mark in marks]
    several = len(lines) > 1 or any(line.colour is not None for line in lines)
    legend = [key(name, line.name) for line, name in zip(lines, colours, strict=True) if several]
    legend += [f'<i class="key m{i % 4}"></i>{text(name)}' for i, name in enumerate(names)]
    legend_html = f'<span class="legend">{" ".join(f"<span>{item}</span>" for item in legend)}</span>' if legend else ''
    return (
        f'<figure class="chart" data-chart="{text(json.dumps(frame.data(lines, marks), separators=(",", ":")))}">'
        f'<figcaption><b>{text(plot.title)}</b> <span class="note">{text(plot.note)}</span>{legend_html}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" tabindex="0" aria-label="{text(_in_words(plot, lines))}">'
        f'{"".join(body)}<g class="cursor"></g></svg><div class="tip" role="status"></div></figure>'
    )


def colour(i: int) -> str:
    """The i-th colour, as a class of the style sheet; beyond `COLOURS` the same ones, dashed."""
    return f's{i % COLOURS}' + (' dashed' if i // COLOURS % 2 else '')


def key(colour: str, name: str) -> str:
    """A colour with what it stands for."""
    return f'<i class="key {colour}"></i>{text(name)}'


class _Line:
    """A series, smoothed and thinned to the points that are drawn."""

    def __init__(self, series: Series):
        n = series.y.size
        half = max(1, n // 25) if n >= 8 and not series.exact else 0  # 60 steps: means over 5; 1,000 steps: over 81
        keep = _thin(series.y)

        def smooth(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else _smooth(values, half)[keep]

        self.name, self.count, self.exact, self.colour = series.name, n, series.exact, series.colour
        self.first, self.last = (series.x[0], series.y[0]), (series.x[-1], series.y[-1])
        self.x, self.y = series.x[keep], series.y[keep]
        self.mean, self.low, self.high = smooth(series.y), smooth(series.low), smooth(series.high)

    def draw(self, frame: _Frame, colour: str, raw: bool) -> list[str]:
        parts = []
        if self.low is not None and self.high is not None:
            outline = frame.path(np.append(self.x, self.x[::-1]), np.append(self.high, self.low[::-1]))
            parts.append(f'<polygon class="band {colour}" points="{outline}"/>')
        if self.exact or self.x.size == 1:
            places = zip(*frame.at(self.x, self.y), strict=True)
            parts += [f'<circle class="dot {colour}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places]
        if self.x.size == 1:
            return parts
        if raw and self.count >= 8 and not self.exact:
            parts.append(f'<polyline class="raw {colour}" points="{frame.path(self.x, self.y)}"/>')
        return [*parts, f'<polyline class="smooth {colour}" points="{frame.path(self.x, self.mean)}"/>']


class _Frame:
    """The scales of a chart: from steps and values to user units."""

    def __init__(self, plot: Plot, lines: Sequence[_Line], marks: Sequence[Mark]):
        self.plot = plot
        xs = np.concatenate([line.x for line in lines] + [[mark.x for mark in marks]])
        ys = np.concatenate(
            [a for line in lines for a in (line.y, line.low, line.high) if a is not None]
            + [[v for mark in marks for v in (mark.y, mark.low, mark.high) if v is not None]]
        )
        ys = np.log10(ys[ys > 0]) if plot.log else ys
        self.x0, self.x1 = float(xs.min()), float(max(xs.max(), xs.min() + 1))
        low, high = (0.0, 1.0) if plot.whole else (float(ys.min()), float(ys.max()))
        if plot.percent and not plot.whole:
            low = min(0.0, low)
        pad = 0.0 if plot.whole else 0.06 * (high - low) or abs(high) * 0.05 or 0.5
        floor = 0.0 if low >= 0 and not plot.log else -math.inf  # padding does not take a positive metric below 0
        self.y0, self.y1 = max(low - pad, floor), high + pad

    def at(self, x, y):
        """User units of a point or of arrays of points; values outside are drawn at the edge."""
        y = np.log10(y) if self.plot.log else y
        right = (x - self.x0) / (self.x1 - self.x0)
        up = np.clip((y - self.y0) / (self.y1 - self.y0), 0, 1)
        return LEFT + right * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def path(self, x: np.ndarray, y: np.ndarray) -> str:
        return ' '.join(f'{a:.1f},{b:.1f}' for a, b in zip(*self.at(x, y), strict=True))

    def axes(self) -> list[str]:
        parts = []
        for value in self._levels():
            _, y = self.at(self.x0, value)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{LEFT - 7}" y="{y + 3.5:.1f}" text-anchor="end">{self._label(value)}</text>')
        for step in filter(float.is_integer, ticks(self.x0, self.x1, 5)):
            x, _ = self.at(step, 1.0)
            parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{number(step)}</text>')
        return parts

    def _label(self, value: float) -> str:
        return number(value, self.plot.percent).replace('.0 %', ' %')

    def _levels(self) -> list[float]:
        if not self.plot.log:
            return ticks(self.y0, self.y1, 5)
        decades = range(math.ceil(self.y0), math.floor(self.y1) + 1)
        if len(decades) < 2:  # within one decade: plain steps
            return ticks(10**self.y0, 10**self.y1, 3)
        return [10.0**d for d in decades][:: math.ceil(len(decades) / 5)]

    def data(self, lines: Sequence[_Line], marks: Sequence[Mark]) -> dict:
        """What the page's script needs to show values: scales, drawn points and evaluations."""

        def rounded(values: np.ndarray) -> list[float]:
            return [float(f'{v:.4g}') for v in values]

        return {
            'box': [LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM, TOP],
            'scale': [self.x0, self.x1, self.y0, self.y1],
            'percent': self.plot.percent,
            'log': self.plot.log,
            'lines': [
                {'name': s.name, 'x': [round(float(v), 1) for v in s.x], 'y': rounded(s.y), 'mean': rounded(s.mean)}
                | ({'low': rounded(s.low), 'high': rounded(s.high)} if s.low is not None else {})
                | ({'exact': True} if s.exact else {})
                for s in lines
            ],
            'marks': [dataclasses.asdict(mark) for mark in marks],
        }


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) between low and high, about so many."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((factor * power for factor in (1, 2, 5, 10)), key=lambda step: abs(math.log(step / rough)))
    return [float(f'{i * step:.10g}') for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def interval_bar(before: dict | None, after: dict | None) -> str:
    """A row's pass@1 before (ring) and after (disc) on a scale of 0 to 100 %, each with its interval."""

    def x(share: float) -> float:
        return 6 + 188 * share

    parts = ['<line class="grid" x1="6" x2="194" y1="11" y2="11"/>']
    parts += [f'<line class="grid" x1="{x(s):.0f}" x2="{x(s):.0f}" y1="8" y2="14"/>' for s in (0, 0.5, 1)]
    for kind, result in (('before', before), ('after', after)):
        if not result:
            continue
        low, high = result.get('pass@1_ci') or (result['pass@1'],) * 2
        parts.append(f'<line class="ci {kind}" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="11" y2="11"/>')
        parts.append(f'<circle class="{kind}" cx="{x(result["pass@1"]):.1f}" cy="11" r="4"/>')
    return f'<svg class="bar" viewBox="0 0 200 22" aria-hidden="true">{"".join(parts)}</svg>'


def _mark(frame: _Frame, mark: Mark, colour: int) -> str:
    x, y = frame.at(mark.x, mark.y)
    bar = ''
    if mark.low is not None and mark.high is not None:
        (_, low), (_, high) = frame.at(mark.x, mark.low), frame.at(mark.x, mark.high)
        bar = f'<line class="error m{colour}" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
    shapes = (  # shape as well as colour, for those who do not see the colour
        f'<circle class="mark m{colour}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>',
        f'<rect class="mark m{colour}" x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7"/>',
        f'<path class="mark m{colour}" d="M{x:.1f} {y - 5:.1f}l5 5-5 5-5-5z"/>',
        f'<path class="mark m{colour}" d="M{x:.1f} {y - 5:.1f}l5 9h-10z"/>',
    )
    return bar + shapes[colour]


def _smooth(values: np.ndarray, half: int) -> np.ndarray:
    """Mean over the `half` neighbours on each side; f[N] to f[N], fewer neighbours at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(values.size)
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, values.size)
    return (sums[high] - sums[low]) / (high - low)


def _thin(values: np.ndarray) -> np.ndarray:
    """Indices, ascending, of the points that are drawn: all, or the extremes of each piece and both ends."""
    n = values.size
    if n <= 2 * PIECES:
        return np.arange(n)
    edges = np.linspace(0, n, PIECES + 1).astype(int)
    extremes = [a + pick(values[a:b]) for a, b in itertools.pairwise(edges) for pick in (np.argmin, np.argmax)]
    return np.unique([0, *extremes, n - 1])


def _in_words(plot: Plot, lines: Sequence[_Line]) -> str:
    """The chart for those who do not see it."""

    def say(value: float) -> str:
        return number(value, plot.percent)

    return f'{plot.title}. ' + '. '.join(
        f'{line.name}: {say(line.first[1])} at step {number(line.first[0])}, {say(line.last[1])} at step '
        f'{number(line.last[0])}; lowest {say(line.y.min())}, highest {say(line.y.max())}'
        for line in lines
    )
