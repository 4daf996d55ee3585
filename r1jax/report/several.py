"""Several runs on one page: what they are, where their settings differ, what each reached, and their curves, a colour a run.

Stages are compared by name. A run that has no stage of a name has no line there, so runs of different recipes may stand together; a run
that has logged nothing yet is in the first table alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r1jax.report import curves, evolution, reached
from r1jax.report.chart import Plot, Series, colour, figure, key
from r1jax.report.page import number, span, text
from r1jax.report.workdir import Point, Run, StageRun, recipe_of

SHOWN = 12  # settings that differ, before they are folded
LONGEST = 80  # characters of a setting
STAGE = 'a stage'  # what a stage's name is set to where a run has it
Stages = list[tuple[int, StageRun]]  # the runs that have a stage, by place


def keys(names: Sequence[str]) -> list[str]:
    """The runs' names, each with its colour."""
    return [key(colour(i), name) for i, name in enumerate(names)]


def overview(names: Sequence[str], runs: Sequence[Run]) -> str:
    """A row a run."""
    rows = ''
    for name, run in zip(keys(names), runs, strict=True):
        done = sum(stage.finished for stage in run.stages)
        steps = sum(stage.done for stage in run.stages)
        seconds = [stage.seconds for stage in run.stages if stage.seconds is not None]
        cells = [
            f'<b>{name}</b>',
            text(run.name),
            _state(run),
            f'{done} of {len(run.stages)}',
            number(steps),
            span(sum(seconds)) if seconds else '–',
            text(seed) if (seed := seed_of(run)) is not None else '–',
            _newest(run),
        ]
        rows += '<tr>' + ''.join(f'<td>{cell}</td>' for cell in cells) + '</tr>'
    heads = ('run', 'recipe', 'state', 'stages finished', 'steps', 'training', 'seed', 'newest pass@1 [95 %]')
    head = ''.join(f'<th scope="col">{head}</th>' for head in heads)
    return f'<div class="card scroll"><table class="compared"><tr>{head}</tr>{rows}</table></div>{_differences(names, runs)}'


def results(names: Sequence[str], runs: Sequence[Run]) -> str:
    """What each stage reached in each run, those of a stage one below the other; '' where nothing was measured."""
    groups: list[tuple[str, list[tuple[int, reached.Row]]]] = []
    for name, having in by_stage(runs).items():
        for when in ('after',) if groups else ('before', 'after'):
            if rows := [(i, row) for i, stage in having if (row := reached.reached(stage, when))]:
                groups.append((f'{"before " if when == "before" else ""}{name}', rows))
    if not groups:
        return ''
    columns = reached.columns(row for _, rows in groups for _, row in rows)
    body = ''
    for stage, rows in groups:
        for j, (i, row) in enumerate(rows):
            first = f'<td rowspan="{len(rows)}"><b>{text(stage)}</b></td>' if j == 0 else ''
            cells = ''.join(f'<td>{row.get(column, "–")}</td>' for column in columns)
            body += f'<tr>{first}<td>{keys(names)[i]}</td>{cells}</tr>'
    head = ''.join(f'<th scope="col">{text(head)}</th>' for head in ('stage', 'run', *columns))
    return f'<div class="card scroll"><table class="compared reached"><tr>{head}</tr>{body}</table></div>'


def self_evolution(names: Sequence[str], runs: Sequence[Run]) -> str:
    """What RL brought forth, as the papers draw it, stage by stage; '' where no run has a stage of RL."""
    html = ''
    for name, having in by_stage(runs).items():
        having = [(i, stage) for i, stage in having if stage.reinforced]
        drawn = [_accuracy(names, having)] if having else []
        for plot, pick in evolution.ROLLOUTS:
            drawn.append(_together(names, having, plot, pick))
        html += _stage(name, having, ''.join(drawn))
    return html


def training(names: Sequence[str], runs: Sequence[Run]) -> str:
    """Every other metric, stage by stage: the known ones, and folded whatever else was logged."""
    html = ''
    for name, having in reversed(by_stage(runs).items()):
        drawn = ''
        for plot in curves.PLOTS:
            for path in plot.paths:
                short = path.rpartition('/')[2]
                one = plot if len(plot.paths) == 1 else Plot(f'{plot.title}, {short}', (path,), plot.note, log=plot.log)
                drawn += _together(names, having, one, _column(path))
        others = sorted({path for _, stage in having for path in curves.others(stage)})
        more = [_together(names, having, Plot(path, (path,)), _column(path)) for path in others]
        folded = (
            f'<details><summary>{len(more)} more metrics</summary><div class="charts">{"".join(more)}</div></details>'
        )
        html += _stage(name, having, drawn, folded if any(more) else '')
    how = 'A colour a run, the same in every chart. Thin: as logged. Thick: mean over neighbouring steps.'
    return f'<p class="muted">{how}</p>{html}' if html else ''


def by_stage(runs: Sequence[Run]) -> dict[str, Stages]:
    """Stage -> the runs that have one of this name; in the order in which they are first met, run by run."""
    found: dict[str, Stages] = {}
    for i, run in enumerate(runs):
        for stage in run.stages:
            found.setdefault(stage.name, []).append((i, stage))
    return found


def seed_of(run: Run) -> Any:
    """As the summary or the configuration has it, None if neither does."""
    return run.summary.get('seed', run.config.get('seed', recipe_of(run.config).get('seed')))


def _state(run: Run) -> str:
    if run.finished:
        return '<span class="badge good">finished</span>'
    if any(stage.lines or stage.summary for stage in run.stages):
        return '<span class="badge warn">not finished</span>'
    return '<span class="badge warn">nothing logged yet</span>'


def _newest(run: Run) -> str:
    """The main result of the last stage that was measured."""
    for stage in reversed(run.stages):
        name, both = next(iter(stage.evals.items()), ('', {}))
        if result := both.get('after'):
            point = Point(0, result['pass@1'], tuple(ci) if (ci := result.get('pass@1_ci')) else None)
            return f'{evolution.cell(point, True)} <small>{text(stage.name)}, {text(name)}</small>'
    return '–'


def _differences(names: Sequence[str], runs: Sequence[Run]) -> str:
    """The settings that are not the same in all runs that have any, a column a run; '' where all are."""
    per_run = [settings(run) for run in runs]
    differ = differing(per_run)
    if not differ:
        return ''
    rows = ''
    for path in differ:
        cells = ''.join(f'<td class="wrap"><code>{text(each.get(path, "–")[:LONGEST])}</code></td>' for each in per_run)
        rows += f'<tr><td><code>{text(path)}</code></td>{cells}</tr>'
    head = ''.join(f'<th scope="col">{name}</th>' for name in keys(names))
    title = f'{len(differ)} setting{"" if len(differ) == 1 else "s"} that differ{"s" if len(differ) == 1 else ""}'
    table = f'<div class="scroll"><table class="compared"><tr><th>setting</th>{head}</tr>{rows}</table></div>'
    return f'<details class="card"{" open" if len(differ) <= SHOWN else ""}><summary>{title}</summary>{table}</details>'


def settings(run: Run) -> dict[str, str]:
    """A run's recipe as paths ('zero.optim.learning_rate', as `--set` has them), and the code and versions it ran with."""
    recipe = recipe_of(run.config)
    stages = {str(stage.get('name')): stage for stage in recipe.get('stages') or [] if isinstance(stage, dict)}
    found = dict(flat({name: value for name, value in recipe.items() if name not in ('stages', 'command')} | stages))
    found |= dict.fromkeys(stages, STAGE)
    if recipe is not run.config:
        found |= dict(flat({name: run.config[name] for name in ('git_commit', 'versions') if name in run.config}))
    return found


def differing(per_run: Sequence[Mapping[str, str]]) -> list[str]:
    """The paths whose values differ among the runs that have settings. Those of a stage are compared among the runs that have it."""
    known = [each for each in per_run if each]
    paths = dict.fromkeys(path for each in known for path in each)
    stages = {path for each in known for path, value in each.items() if value == STAGE}
    found = []
    for path in paths:
        stage = path.partition('.')[0]
        among = [each for each in known if stage in each] if stage in stages and path != stage else known
        if len({each.get(path) for each in among}) > 1:
            found.append(path)
    return found


def flat(value: Any, path: str = '') -> list[tuple[str, str]]:
    """Nested settings as rows, ('versions.jax', '0.10.2'); a list of plain values is one, with spaces between."""
    if isinstance(value, dict):
        return [row for name, inner in value.items() for row in flat(inner, f'{path}.{name}' if path else str(name))]
    if isinstance(value, list) and any(isinstance(each, (dict, list)) for each in value):
        return [row for i, inner in enumerate(value) for row in flat(inner, f'{path}.{i}')]
    return [(path, ' '.join(map(str, value)) if isinstance(value, list) else str(value))]


def _column(path: str) -> Callable[[StageRun], evolution.Column]:
    return lambda stage: stage.column(path)


def _together(names: Sequence[str], having: Stages, plot: Plot, pick: Callable[[StageRun], evolution.Column]) -> str:
    """One chart, a line a run."""
    series = [Series(names[i], *pick(stage), colour=i) for i, stage in having]
    if plot.whole and any(s.y.size and (s.y.min() < 0 or s.y.max() > 1) for s in series):
        plot = Plot(plot.title, plot.paths, plot.note)  # a scaled reward is no share
    return figure(plot, series)


def _accuracy(names: Sequence[str], having: Stages) -> str:
    """pass@1 of the main evaluation over steps, where a run took it more than once, and on what: runs may differ in that."""
    series, measured = [], []
    for i, stage in having:
        name, points = next(iter(stage.course('pass@1').items()), ('', []))
        if len(points) > 1:
            series.append(evolution.measured(names[i], points, i))
            measured.append(name)
    plot = Plot('Accuracy over steps', (), f'pass@1 on {", ".join(dict.fromkeys(measured))}', percent=True, whole=True)
    return figure(plot, series)


def _stage(name: str, having: Stages, charts: str, more: str = '') -> str:
    if not charts and not more:
        return ''
    steps = ', '.join(dict.fromkeys(f'{stage.done:,}' for _, stage in having))
    return f'<h3>{text(name)} <small>{steps} steps</small></h3><div class="charts">{charts}</div>{more}'
