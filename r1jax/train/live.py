"""The terminal's view of a run: a panel that lives on a terminal, plain lines anywhere else.

The loop tells it what happens (`stage`, `step`, `note`, `evaluation`); it decides what is worth a line. On a terminal a
panel shows progress, time left and the newest numbers with the recent course of the reward; notes and evaluations
scroll by above it. Elsewhere (a file, CI) a step is a short line, one at most every five seconds, and the first and
last of a stage always.

A metric that is missing is left out, one that is not finite is shown as such: the view never stops a run. The only
import of rich.
"""

from __future__ import annotations

import itertools
import math
import re
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live as Panels
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from r1jax import distributed

EVERY = 5.0  # seconds between plain lines
BARS = '▁▂▃▄▅▆▇█'

short, fixed, count, length = '{:.3g}'.format, '{:.3f}'.format, '{:,.0f}'.format, '{:.1f}'.format


def share(value: float) -> str:
    return f'{100 * value:.1f} %'


# What is shown of a step's metrics, in this order: label, metric path, format, and whether plain lines have it too.
FIELDS: tuple[tuple[str, str, Callable[[float], str], bool], ...] = (
    ('reward', 'reward/mean', fixed, True),
    ('accuracy', 'reward/accuracy', share, True),
    ('judged right', 'score/accuracy', share, True),
    ('as the teacher', 'distil/agreement', share, True),
    ('format', 'reward/format', share, True),
    ('length', 'rollout/tokens', length, True),
    ('cut off', 'rollout/truncated', share, False),
    ('grader errors', 'rollout/grader_errors', count, False),
    ('KL', 'policy/kl', short, True),
    ('entropy', 'policy/entropy', short, True),
    ('clipped', 'policy/clip_fraction', share, False),
    ('sampler gap', 'policy/sampler_gap_max', short, False),
    ('loss', 'loss', fixed, True),
    ('gradient', 'grad_norm', short, False),
    ('rate', 'learning_rate', short, False),
    ('tokens/s', 'tokens_per_second', count, True),
)


class Live:
    """A context manager around a run.

    Args:
      name: of the recipe.
      stages: name -> steps, in the order they run.
      console: where to; the default is standard output, or nowhere in a process that is not the first.
      clock: seconds, monotonic.
    """

    def __init__(
        self,
        name: str,
        stages: Mapping[str, int],
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._name = name
        self._stages = list(stages)
        self._console = console or _console()
        self._clock = clock
        self._printed = -math.inf  # when the last plain line was
        self.stage('', 0, 0)
        self._panels = None
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._panels = Panels(get_renderable=self._panel, console=self._console, refresh_per_second=4)

    def __enter__(self) -> Live:
        if self._panels:
            self._panels.start()
        return self

    def __exit__(self, *_) -> None:
        if self._panels:
            self._panels.refresh()
            self._panels.stop()

    def stage(self, name: str, steps: int, done: int) -> None:
        """A stage begins, or goes on after `done` of its `steps`."""
        self._stage, self._steps, self._done, self._first = name, steps, done, True
        self._values: dict[str, float] = {}
        self._curve: list[float] = []
        self._skipped = 0
        self._began = self._last = self._clock()
        self._durations: list[float] = []  # of the last steps, seconds; replaced, never changed: rich's thread reads it
        if name:
            self.note(f'{self._title()}, {steps:,} steps' + (f', {done:,} of them done' if done else ''))

    def step(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
        """Step number `step`, from 1, has been taken.

        Args:
          values: metrics as logged. 'policy/skipped' counts this step's skips, and is summed here.
        """
        if stage != self._stage:
            self.stage(stage, 0, step - 1)
        now = self._clock()
        if not self._first:  # the first step of a process compiles, and says nothing about the next
            self._durations = [*self._durations[-19:], now - self._last]
        self._values = {path: number for path, value in values.items() if (number := _number(value)) is not None}
        self._curve.append(self._values.get('reward/mean', self._values.get('loss', math.nan)))
        skipped = self._values.get('policy/skipped', 0)
        self._skipped += round(skipped) if math.isfinite(skipped) else 0
        self._done, self._last = step, now
        if not self._panels and (self._first or step == self._steps or now - self._printed >= EVERY):
            self._printed = now
            self._print(self._line())
        self._first = False

    def note(self, text: str) -> None:
        """Something worth a line: a resume, a checkpoint kept, a phase, a warning."""
        self._print(text)

    def evaluation(self, stage: str, name: str, when: str, result: Mapping[str, Any]) -> None:
        """An evaluation's result (`r1jax.evals.metrics.summarise`), `when` it was: 'before', 'after' or 'step 20'."""
        parts = []
        for key in ('pass@1', 'accuracy'):  # accuracy: of a reward model
            if (value := _number(result.get(key))) is not None:
                ci = [_number(bound) for bound in result.get(f'{key}_ci') or ()]
                wide = f' [{100 * ci[0]:.1f}, {100 * ci[1]:.1f}]' if len(ci) == 2 and None not in ci else ''
                parts.append(f'{key} {share(value)}{wide}')
        votes = [key for key in result if re.fullmatch(r'cons@\d+', key)]
        for key, label, form in [(key, key, share) for key in votes] + [
            ('response_tokens', 'length', length),
            ('format', 'format', share),
            ('language_consistency', 'language', share),
            ('calibration_error', 'calibration error', share),
        ]:
            if (value := _number(result.get(key))) is not None:
                parts.append(f'{label} {form(value)}')
        for part, figures in (result.get('parts') or {}).items():
            if (value := _number(figures.get('mean'))) is not None:
                parts.append(f'{part} {fixed(value)}')
        for mode, figures in (result.get('by_mode') or {}).items():
            right, whole = _number(figures.get('accuracy')), _number(figures.get('share'))
            if right is not None and whole is not None:
                parts.append(f'{mode} {share(right)} right in {share(whole)} of answers')
        self._print(f'{stage}, {when}, {name}: ' + ' · '.join(parts or ['no figures']))

    def _title(self) -> str:
        if self._stage not in self._stages:
            return f'{self._name} · {self._stage}' if self._stage else self._name
        return f'{self._name} · stage {self._stages.index(self._stage) + 1} of {len(self._stages)}: {self._stage}'

    def _figures(self, plain: bool = False) -> list[tuple[str, str]]:
        shown = [
            (label, form(self._values[path]) if math.isfinite(self._values[path]) else str(self._values[path]))
            for label, path, form, everywhere in FIELDS
            if path in self._values and (everywhere or not plain)
        ]
        if self._skipped or ('policy/skipped' in self._values and not plain):
            shown.append(('skipped', count(self._skipped)))
        return shown

    def _pace(self) -> tuple[float | None, str]:
        """Seconds a step of late (median), and the time left of the stage as text, '' while unknown."""
        if not self._durations:
            return None, ''
        pace = statistics.median(self._durations)
        return pace, duration(pace * max(0, self._steps - self._done)) if self._steps else ''

    def _line(self) -> str:
        pace, left = self._pace()
        words = [self._stage, f'{self._done}/{self._steps}' if self._steps else str(self._done)]
        words += [f'{label} {value}' for label, value in self._figures(plain=True)]
        words += [f'{pace:.2f} s/step'] if pace is not None else []
        words += [f'{left} left'] if left else []
        return '  '.join(words)

    def _print(self, text: str) -> None:
        # No markup: a note may hold brackets. No wrapping: a line stays a line for grep.
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _panel(self) -> Panel:
        """The panel for the console's present width; called by rich, four times a second."""
        inside = max(10, self._console.width - 4)
        _, left = self._pace()
        progress = Table.grid(padding=(0, 1), expand=True)
        progress.add_column(ratio=1)
        progress.add_column(no_wrap=True, justify='right')
        where = f'{self._done:,}/{self._steps:,}' if self._steps else f'{self._done:,}' if self._stage else 'starting'
        where += f' · {left} left' if left else ''
        # The bar's total is at least 1: rich divides by it.
        bar = ProgressBar(total=max(1, self._steps), completed=self._done) if inside >= 50 else Text(self._stage)
        progress.add_row(bar, f'{where} · {duration(self._clock() - self._began)} gone' if inside >= 50 else where)

        columns = max(1, inside // 24)
        figures = Table.grid(padding=(0, 2))
        cells = [Text.assemble((f'{label} ', 'dim'), (value, 'bold')) for label, value in self._figures()]
        for start in range(0, len(cells), columns):
            figures.add_row(*cells[start : start + columns])

        parts: list[Any] = [progress, figures] if cells else [progress]
        if curve := sparkline(self._curve, inside - 8):
            label = 'reward' if 'reward/mean' in self._values else 'loss'
            parts.append(Text.assemble((f'{label:<7}', 'dim'), (curve, 'green'), no_wrap=True))
        return Panel(
            Group(*parts), title=Text(self._title(), overflow='ellipsis'), title_align='left', border_style='dim'
        )


def _console() -> Console:
    """Standard output, or nowhere in a process that is not the first."""
    console = Console(quiet=not distributed.first())
    if console.is_jupyter:  # a notebook knows no cursor, and rich's own form for it is a block of HTML a line
        return Console(quiet=console.quiet, force_jupyter=False, force_terminal=False)
    return console


def sparkline(values: list[float], width: int) -> str:
    """The course of `values` in at most `width` block characters, the lowest and highest value spanning their height.

    Longer courses are averaged into `width` pieces. Values that are not finite are blanks; '' without two finite
    values.
    """
    width = max(1, width)
    if len(values) > width:
        edges = [round(i * len(values) / width) for i in range(width + 1)]
        pieces = [[v for v in values[a:b] if math.isfinite(v)] for a, b in itertools.pairwise(edges)]
        values = [sum(piece) / len(piece) if piece else math.nan for piece in pieces]
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return ''
    low, span = min(finite), (max(finite) - min(finite)) or 1.0
    return ''.join(BARS[int((v - low) / span * (len(BARS) - 1) + 0.5)] if math.isfinite(v) else ' ' for v in values)


def duration(seconds: float) -> str:
    """'0:07', '12:30', '3:02:00'."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{seconds:02}' if hours else f'{minutes}:{seconds:02}'


def _number(value: Any) -> float | None:
    """`value` as a float, None where it is not a number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
