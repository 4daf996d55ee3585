"""report.html: what runs did, in one file that can be mailed, put in a talk and opened without a network.

    of(paths)                      of what is named: `write` or `compare`
    write(workdir)                 of one run
      workdir.read   config.json, metrics.jsonl, summary.json, lineage.json, data cards, as far as they are there
      graph          which stage starts from which, and reads what
      reached        a row a stage: what each of them reached
      findings       a card a stage: before and after, in words; does thinking pay in the base?
      diagnosis      why a stage does not learn, or why not to believe that it does; `advice` has it on the page
      evolution      accuracy, length, reflection, language and form over the steps of RL, as the R1 report draws them
      aha            responses that look back at their steps, found by search
      cards          what rejection sampling kept
      judges         what reward models know: held-out accuracy, calibration
      hacking        what to look at before the reward is believed
      benchmarks     the papers' tables, with what was measured here beside
      curves, chart  every other logged number as inline SVG, with intervals and evaluations
      samples        the same questions' answers before and after
      browser        all samples, to search and filter
    compare(paths, file)           of several runs, and of folders of `r1jax eval`
      given          which is which, and what they are called
      several        settings that differ, results and curves beside each other; benchmarks and browser as above
    page, web/       style, scripts and shell; no address outside the file

`SECTIONS` and `COMPARED` are the pages: a section more is a line more there, with a function of what was read.

Nothing here trains or samples, so a report may be written at any time, also of a run that is going on or was killed.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence

from r1jax.report import (
    advice,
    aha,
    benchmarks,
    browser,
    cards,
    curves,
    evolution,
    given,
    graph,
    hacking,
    judges,
    reached,
    samples,
    several,
)
from r1jax.report.chart import colour
from r1jax.report.diagnosis import Finding, diagnose
from r1jax.report.findings import EVALUATION_HEADS, evaluations, thinking, verdict
from r1jax.report.page import document, number, span, text
from r1jax.report.workdir import Run, StageRun, read, recipe_of

PAGE = 'report.html'
SCRIPTS = ('chart.js', 'browser.js')


@dataclasses.dataclass(frozen=True)
class Material:
    """What a page is made of."""

    workdirs: Sequence[str]
    names: Sequence[str]  # of the runs, as the page calls them
    runs: Sequence[Run]
    measured: Sequence[benchmarks.Measured] = ()  # models of ours, with figures of benchmarks
    evaluated: Sequence[str] = ()  # folders of `r1jax eval`
    kept: Sequence[browser.Source] = ()  # files of samples
    whose: Sequence[str] = ()  # names that those files have by place: the runs, then checkpoints of no run
    most: int = browser.MOST  # samples of the browser
    # of one run only: each stage's samples before and after, of its last rollout, and those that look back
    pairs: Mapping[str, tuple[str, list[dict], list[dict]]] = dataclasses.field(default_factory=dict)
    newest: Mapping[str, list[dict]] = dataclasses.field(default_factory=dict)
    reflecting: Mapping[str, aha.Found] = dataclasses.field(default_factory=dict)
    found: Sequence[Sequence[Finding]] = ()  # of each run, what its diagnosis found

    @property
    def run(self) -> Run:
        """The one run."""
        (run,) = self.runs
        return run


Section = tuple[str, str, Callable[[Material], str]]  # anchor, title, and its HTML, '' where there is nothing to say

SECTIONS: tuple[Section, ...] = (  # of one run
    ('stages', 'Stages', lambda m: graph.draw(m.run)),
    ('results', 'Results', lambda m: _results(m.run)),
    ('diagnosis', 'Diagnosis', lambda m: ''.join(map(advice.section, m.found))),
    ('thinking', 'Does thinking pay in the base?', lambda m: ''.join(map(thinking, m.run.stages))),
    ('evolution', 'Self-evolution', lambda m: ''.join(map(evolution.section, m.run.stages))),
    ('aha', 'Aha', lambda m: ''.join(aha.section(*each) for each in m.reflecting.items())),
    ('data', 'Data that stages kept', lambda m: ''.join(cards.section(*each) for each in m.run.cards.items())),
    ('judges', 'Reward models', lambda m: ''.join(map(judges.section, m.run.stages))),
    (
        'hacking',
        'Can the reward be believed?',
        lambda m: ''.join(hacking.monitor(s, m.newest.get(s.name, [])) for s in m.run.stages),
    ),
    ('measured', 'Measured by r1jax eval', lambda m: ''.join(map(benchmarks.listed, m.evaluated))),
    ('benchmarks', 'Benchmarks', lambda m: benchmarks.section(m.measured) if m.run.stages else ''),
    ('curves', 'Curves', lambda m: _curves(m.run)),
    ('samples', 'Samples before and after', lambda m: ''.join(samples.section(n, *p) for n, p in m.pairs.items())),
    ('browser', 'All samples', lambda m: browser.section(m.whose, m.kept, m.most)),
    ('evaluations', 'Evaluations', lambda m: _evaluations(m.run)),
    ('configuration', 'Configuration', lambda m: _configuration(m.run)),
)
COMPARED: tuple[Section, ...] = (  # of several
    ('runs', 'Runs', lambda m: several.overview(m.names, m.runs) if m.runs else ''),
    ('results', 'Results', lambda m: several.results(m.names, m.runs)),
    ('diagnosis', 'Diagnosis', lambda m: ''.join(map(advice.section, m.found, several.keys(m.names)))),
    ('measured', 'Measured by r1jax eval', lambda m: ''.join(map(benchmarks.listed, m.evaluated))),
    ('benchmarks', 'Benchmarks', lambda m: benchmarks.section(m.measured)),
    ('evolution', 'Self-evolution', lambda m: several.self_evolution(m.names, m.runs)),
    ('curves', 'Curves', lambda m: several.training(m.names, m.runs)),
    ('browser', 'All samples', lambda m: browser.section(m.whose, m.kept, m.most)),
)


def of(paths: Sequence[str], path: str | None = None, most: int = browser.MOST) -> str:
    """Writes the report of a workdir, or of several and of folders of `r1jax eval`; returns where it is.

    Args:
      path: where to; None: WORKDIR/report.html of one, report.html here of several.
      most: samples that it holds to browse.

    Raises:
      FileNotFoundError: one of them is not there.
      ValueError: one is neither, or damaged.
    """
    found = given.given(paths)
    return write(paths[0], path, most) if len(paths) == 1 and found.runs else compare(paths, path or PAGE, most)


def write(workdir: str, path: str | None = None, most: int = browser.MOST) -> str:
    """Writes the report of a workdir anew, to WORKDIR/report.html or `path`, with `most` samples to browse; returns where it is.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: metrics.jsonl is damaged before its last line.
    """
    run, sides = read(workdir), samples.sides(workdir)
    newest = {stage: found for (stage, when), found in sides.items() if when == 'last'}
    searched, sampling = aha.search(workdir), [stage.name for stage in run.stages if stage.reinforced]
    evaluated = dict.fromkeys(given.of_run(workdir), 0)
    kept, _ = _kept([workdir], evaluated)
    material = Material(
        [workdir], [run.name], [run], _measured([run], [''], evaluated), [*evaluated], kept, [run.name], most, samples.pairs(sides), newest,
        {name: searched[name] for name in sampling if name in searched}, [diagnose(workdir)],
    )  # fmt: skip
    if not run.stages and not kept:
        html = _page(run.name, _subtitle(run), [('', '', '<p class="card">This workdir holds no results yet.</p>')])
    else:
        html = _page(run.name, _subtitle(run), _drawn(SECTIONS, material))
    return _write(path or os.path.join(workdir, PAGE), html)


def compare(paths: Sequence[str], path: str, most: int = browser.MOST) -> str:
    """Writes the report of several workdirs and folders of `r1jax eval` to `path`, and returns it.

    Raises:
      FileNotFoundError: one of them is not there.
      ValueError: one is neither, or damaged.
    """
    found = given.given(paths)
    runs = [read(workdir) for workdir in found.runs]
    kept, others = _kept(found.runs, found.results)
    measured = _measured(runs, found.names, found.results)
    names, findings = [*found.names, *others], [diagnose(workdir) for workdir in found.runs]
    material = Material(found.runs, found.names, runs, measured, [*found.results], kept, names, most, found=findings)
    title = ', '.join(names[:3]) + (f' and {len(names) - 3} more' if len(names) > 3 else '')
    keys = ' '.join(f'<span>{each}</span>' for each in several.keys(found.names))
    return _write(path, _page(title, f'<span class="legend">{keys}</span>', _drawn(COMPARED, material)))


def _drawn(sections: Sequence[Section], material: Material) -> list[tuple[str, str, str]]:
    """(anchor, title, HTML) of those that have something to say."""
    drawn = [(anchor, title, draw(material)) for anchor, title, draw in sections]
    return [section for section in drawn if section[2]]


def _page(title: str, subtitle: str, sections: Sequence[tuple[str, str, str]]) -> str:
    links = ''.join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in sections)
    body = ''.join(f'<section id="{anchor}"><h2>{title}</h2>{html}</section>' for anchor, title, html in sections)
    foot = 'Intervals are at 95 %; those of evaluations come from resampling whole questions.'
    return document(
        f'{title} · r1jax',
        f'<header><h1>{text(title)}</h1><p class="muted">{subtitle}</p><nav aria-label="Sections">{links}</nav></header>'
        f'<main>{body}</main><footer>{foot}</footer>',
        SCRIPTS,
    )


def _write(path: str, html: str) -> str:
    with open(f'{path}.tmp', 'w', encoding='utf-8', errors='replace') as file:  # a lone surrogate becomes ?
        file.write(html)
    os.replace(f'{path}.tmp', path)
    return path


def _measured(
    runs: Sequence[Run], names: Sequence[str], results: Mapping[str, int | None]
) -> list[benchmarks.Measured]:
    """What the runs measured on the way, and what was measured of them or of other checkpoints afterwards."""
    colours = [colour(i) if len(runs) > 1 else '' for i in range(len(runs))]
    found = [each for run, *own in zip(runs, names, colours, strict=True) for each in benchmarks.stages(run, *own)]
    for folder, run in results.items():
        found += benchmarks.folder(folder, '' if run is None else colours[run])
    return found


def _kept(workdirs: Sequence[str], results: Mapping[str, int | None]) -> tuple[list[browser.Source], list[str]]:
    """All files of samples, and the names of the checkpoints that belong to none of the workdirs."""
    found = [source for i, workdir in enumerate(workdirs) for source in browser.sources(i, workdir)]
    others: list[str] = []
    for folder, run in results.items():
        checkpoint, entries = benchmarks.read(folder)
        own = browser.evaluated(len(workdirs) + len(others) if run is None else run, folder, entries)
        found += own
        others += [benchmarks.short(checkpoint)] if own and run is None else []
    return found, others


def _results(run: Run) -> str:
    verdicts = ''.join(f'<div id="{graph.anchor(stage.name)}">{verdict(stage)}</div>' for stage in run.stages)
    return reached.table(run) + verdicts if run.stages else ''


def _subtitle(run: Run) -> str:
    seconds = [stage.seconds for stage in run.stages if stage.seconds is not None]
    badge = (
        '<span class="badge good">finished</span>' if run.finished else '<span class="badge warn">not finished</span>'
    )
    facts = [
        ' → '.join(text(stage.name) for stage in run.stages),
        f'{span(sum(seconds))} of training' if seconds else '',
    ]
    seed = several.seed_of(run)
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
    about = {key: value for key, value in run.config.items() if value is not recipe and key != 'stages'}
    facts = {path: value for path, value in several.flat(about) if value not in ('', 'None')}
    if recipe is run.config:
        facts = {}  # a bare recipe says nothing but itself
    fact_rows = ''.join(
        f'<tr><td>{text(key)}</td><td class="wrap"><code>{text(value)}</code></td></tr>' for key, value in facts.items()
    )
    facts_table = f'<div class="card scroll"><table>{fact_rows}</table></div>' if fact_rows else ''
    whole = text(json.dumps(run.config, indent=2, ensure_ascii=False))
    return f'{table}{facts_table}<details><summary>config.json</summary><pre class="json">{whole}</pre></details>'


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
