"""From a recipe to a workdir: which stages are to be run, in which order, and what is left of each. The one entrance is `run`.

A stage is begun when those before it are over. What runs it goes by its source: `RUNNERS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import jax

from r1jax import report, sharding
from r1jax.checks import validate
from r1jax.config import Collect, OnPolicy, Recipe, Stored
from r1jax.rewards.pool import Pool
from r1jax.settings import as_bad_input, chosen
from r1jax.train import checkpoint, restore
from r1jax.train.collect import Collecting
from r1jax.train.interrupt import Signals, Stopped
from r1jax.train.live import Live
from r1jax.train.log import Log, write_summary
from r1jax.train.loop import Context, Training
from r1jax.train.prepare import prepare
from r1jax.workdir import open_workdir

__all__ = ['RUNNERS', 'Stopped', 'run']

# A kind of source -> what runs a stage of it: made of (Context, Job); its `run()` goes on from what the workdir holds of the stage, and
# returns the stage's entry in summary.json
RUNNERS: dict[type, Callable] = {Stored: Training, OnPolicy: Training, Collect: Collecting}


def run(recipe: Recipe, workdir: str, stage: str | None = None, first: str | None = None) -> dict:
    """Runs (or goes on with) a recipe's stages; returns what summary.json holds.

    Args:
      stage: run only this one.
      first: run from this one on.

    Raises:
      BadInput: before anything is compiled.
      Stopped: after a signal, state saved.
      RuntimeError: too many skipped steps in a row, state saved.
    """
    workdir = os.fspath(workdir)
    wanted = [s.name for s in chosen(recipe, stage, first)]
    with as_bad_input():
        validate(recipe, jax.device_count())
        open_workdir(workdir, recipe)
    if all(checkpoint.read_done(workdir, name) for name in wanted):
        print(f'{", ".join(wanted)}: finished in {workdir}; see {os.path.join(workdir, report.PAGE)}')
        return _summary(recipe, workdir)
    mesh = sharding.make_mesh(recipe.mesh)
    with jax.set_mesh(mesh), Pool(recipe.grading.workers, recipe.grading.memory_mb << 20) as pool, Signals() as signals:
        with as_bad_input():
            warmed = pool.warm(_graders(recipe, wanted))  # they start while data are read
            ready = prepare(recipe, workdir, wanted, jax.device_count(), pool)
            restore.write(workdir, ready.models, ready.tokenizer)
            for each in warmed:
                each.result()
        resume = _resume_point(recipe, workdir)
        steps = {s.name: s.steps for s in recipe.stages if s.name in wanted}
        with Log(workdir, resume) as log, Live(recipe.name, steps) as view:

            def summarise(running):
                _summary(recipe, workdir, running)

            context = Context(workdir, ready, mesh, log, view, signals, pool, summarise)
            try:
                for name in wanted:
                    if checkpoint.read_done(workdir, name):
                        view.note(f'{name} is finished')
                        continue
                    with as_bad_input():
                        job = ready.job(name)
                    entry = RUNNERS[type(job.stage.source)](context, job).run()
                    checkpoint.write_done(workdir, name, {'cut': log.cut(), 'entry': entry})
                    _summary(recipe, workdir)
            finally:
                log.cut()
                try:
                    view.note(f'report: {report.write(workdir)}')
                except ValueError as error:  # must not hide what ended the run
                    view.note(f'no report: {error}')
    return _summary(recipe, workdir)


def _graders(recipe: Recipe, wanted: Sequence[str]) -> list:
    """The reward functions of the stages named in `wanted` that worker processes call."""
    found = {}
    for s in (s for s in recipe.stages if s.name in wanted):
        mixes = [
            getattr(s.source, 'rewards', ()),
            *(phase.rewards or () for phase in s.phases),
            *(e.rewards for e in s.evals),
        ]
        found |= {id(part.fn): part.fn for parts in mixes for part in parts if part.deadline}
    return list(found.values())


def _summary(recipe: Recipe, workdir: str, running: dict | None = None) -> dict:
    """Writes summary.json from the records of the finished stages, which outlive a kill between two writes, and of a running one."""
    done = {s.name: checkpoint.read_done(workdir, s.name) for s in recipe.stages}
    stages = {name: record['entry'] for name, record in done.items() if record} | (running or {})
    summary = {'recipe': recipe.name, 'seed': recipe.seed, 'stages': stages}
    write_summary(workdir, summary)
    return summary


def _resume_point(recipe: Recipe, workdir: str) -> dict | None:
    """Log lengths at the newest checkpoint, or at the end of the newest finished stage: the longest of them all."""
    cuts = []
    for s in recipe.stages:
        if done := checkpoint.read_done(workdir, s.name):
            cuts.append(done['cut'])
        elif os.path.isdir(checkpoint.stage_directory(workdir, s.name)):
            with checkpoint.Checkpoints(workdir, s.name) as saved:
                if (latest := saved.latest()) is not None:
                    cuts.append(saved.cursor(latest)['cut'])
    return max(cuts, key=lambda c: tuple(c.values())) if cuts else None
