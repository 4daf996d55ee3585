"""From a recipe to a workdir: which stages are to be run, in which order, and what is left of each. The one entrance is `run`.

A stage whose inputs are as they were is not run again (`r1jax.train.inputs`); what another had is set aside first. A stage is begun when
those before it are over. What runs it goes by its source: `RUNNERS`. Of several processes the first looks after the workdir
(`r1jax.distributed`).
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from r1jax import distributed, report, sharding
from r1jax.checks import validate
from r1jax.config import Collect, OnPolicy, Recipe, Stored
from r1jax.pulse import Watchdog
from r1jax.record import to_json
from r1jax.rewards.environment import Called
from r1jax.settings import BadInput, Failed, as_bad_input, chosen
from r1jax.train import aside, board, checkpoint, disk, events, learned, restore, shared
from r1jax.train import profile as profiles
from r1jax.train.collect import Collecting
from r1jax.train.inputs import Book, Changes, needs
from r1jax.train.interrupt import Signals, Stopped
from r1jax.train.jobs import Job
from r1jax.train.live import Live
from r1jax.train.log import METRICS, Log, Unwritten, read, write_summary
from r1jax.train.loop import Context, Training
from r1jax.train.prepare import prepare
from r1jax.workdir import open_workdir, write_config

HANGS = 'hangs'  # a folder of stacks

__all__ = ['RUNNERS', 'Stopped', 'run']

# A kind of source -> what runs a stage of it: made of (Context, Job); its `run()` goes on from what the workdir holds of the stage, and
# returns the stage's entry in summary.json; then `outputs()` says what it ended with, besides the files WORKDIR/data/STAGE.*
RUNNERS: dict[type, Callable] = {Stored: Training, OnPolicy: Training, Collect: Collecting}


def run(
    recipe: Recipe,
    workdir: str | os.PathLike[str],
    stage: str | None = None,
    first: str | None = None,
    profile: str | None = None,
) -> dict:
    """Runs (or goes on with) a recipe's stages; returns what summary.json holds.

    Args:
      stage: run only this one.
      first: run from this one on.
      profile: STEP or STAGE:STEP, which is traced (`r1jax.train.profile`).

    Raises:
      BadInput: before anything is compiled; of data that a stage has written, when the turn of the stage that reads them comes.
      Stopped: after a signal, state saved.
      RuntimeError: too many skipped steps in a row, state saved.
      Failed: the disk is full, with what was saved before kept; no checkpoint of a stage is whole.
    """
    workdir = os.fspath(workdir)
    disk.quiet()
    try:
        return _stages(recipe, workdir, stage, first, profile)
    except Exception as error:
        if not disk.full(error):
            raise
        sentence = disk.sentence(workdir, error)
        events.note(workdir, '', None, 'disk full', sentence)
        raise Failed(sentence) from error


def _stages(recipe: Recipe, workdir: str, stage: str | None, first: str | None, profile: str | None) -> dict:
    stages = chosen(recipe, stage, first)
    wanted = [s.name for s in stages]
    with as_bad_input():
        validate(recipe, jax.device_count())
        traced = profiles.wanted(profile, stages) if profile else None
        _refuse_idle(recipe)
        if recipe.wandb:
            distributed.told(lambda: bool(board.package()))
        status = distributed.told(lambda: open_workdir(workdir, recipe))
        distributed.same_folder(workdir)
        for folder in distributed.told(lambda: aside.recover(workdir)):
            _say(f'a run was killed while it set something aside, which is now in {folder}')
    with (
        sharding.using(recipe.mesh) as mesh,
        shared.pool(recipe.grading.workers, recipe.grading.memory_mb << 20) as pool,
        Signals() as signals,
    ):
        with as_bad_input():
            warmed = pool.warm(_graders(recipe, wanted))  # they start while data are read
            ready = prepare(recipe, workdir, wanted, jax.device_count(), pool)
            book = Book(workdir, ready)
            _refuse_unmet(book, wanted)
            if status == 'changed':
                distributed.told(lambda: write_config(workdir, recipe))
            distributed.told(lambda: restore.write(workdir, ready.tokenizer))
            for each in warmed:
                each.result()
        for note in _set_aside_early(book, wanted):
            _say(note)
        if traced and book.finished(traced.stage):
            raise BadInput(f'--profile {profile}: {traced.stage} is finished in {workdir}, and takes no step any more')
        if _nothing_to_do(book, wanted):
            _say(f'{", ".join(wanted)}: finished in {workdir}; see {os.path.join(workdir, report.PAGE)}')
            book.write()
            return _summary(recipe, workdir)
        mended = _mended(book, wanted)
        with _log(workdir, recipe) as log, Live(recipe.name, dict.fromkeys(wanted, 0)) as view:

            def summarise(running):
                _summary(recipe, workdir, running)

            context = Context(workdir, ready, mesh, log, view, signals, pool, summarise, traced)
            for name, sentence in mended:
                context.tell(name, None, 'damaged', sentence)
            try:
                for name in wanted:
                    with as_bad_input():
                        job = ready.job(name)
                    for note in _set_aside(book, {name: book.changes(name, job)}, log):
                        view.note(note)
                    if book.finished(name):
                        view.note(f'{name} is finished')
                        continue
                    book.begin(job)
                    book.write()
                    entry, outputs = _run(context, job)
                    book.finish(name, log.cut(name), entry, outputs)
                    book.write()
                    _summary(recipe, workdir)
            finally:
                if distributed.first():  # and tells nobody: the others may be gone
                    try:
                        log.sync()
                        view.note(f'report: {report.write(workdir)}')
                    except (ValueError, OSError) as error:  # must not hide what ended the run
                        view.note(f'no report: {error}')
    return _summary(recipe, workdir)


def _run(context: Context, job: Job) -> tuple[dict, dict]:
    """Runs a stage on its mesh: its entry in summary.json, and what it ended with."""
    with sharding.using(job.stage.mesh or context.ready.recipe.mesh) as mesh:
        with as_bad_input():
            if job.stage.offload:
                sharding.refuse_without_host_memory(mesh, f'{job.stage.name}.offload={job.stage.offload}')
            if job.stage.model.remat == 'offload':
                sharding.refuse_without_host_memory(mesh, f"{job.stage.name}.model.remat='offload'")
        context = dataclasses.replace(context, mesh=mesh)
        job = learned.bound(job, context.lineage(), mesh, context.ready.tokenizer)
        runner = RUNNERS[type(job.stage.source)](context, job)
        limit, folder = context.ready.recipe.hang_after, os.path.join(context.workdir, HANGS)
        with Watchdog(limit, folder, distributed.index()):
            return runner.run(), runner.outputs()


def _refuse_idle(recipe: Recipe) -> None:
    """Raises BadInput where a process would have no device in a mesh, and so no part in what all do together, or fewer than another."""
    count, total = distributed.count(), jax.device_count()
    if count == 1:
        return
    meshes = [('mesh', recipe.mesh), *((f'{s.name}.mesh', s.mesh) for s in recipe.stages)]
    for stage in recipe.stages:
        if split := getattr(stage.source, 'split', None):
            meshes.append((f'{stage.name}.source.split.mesh', split.mesh))
    for where, mesh in meshes:
        here = f'{where} takes {mesh.devices if mesh else 0} devices, and {count} processes have {total}: of several processes'
        if mesh and mesh.devices % count:
            raise BadInput(f'{here} it has to take as many of each')
        if mesh and mesh.devices != total and jax.default_backend() == 'tpu':
            raise BadInput(
                f'{here} with TPUs it has to take all, since no program of theirs runs on a part of each host'
            )


def _refuse_unmet(book: Book, wanted: Sequence[str]) -> None:
    """Raises BadInput where a stage needs another that is neither finished nor going to be run, or not as the recipe has it now."""
    for name in wanted:
        for up in needs(book.recipe, book.ready.stage(name)):
            if up in wanted:
                continue
            how = 'starts from' if book.ready.stage(name).start == up else 'reads what was made by'
            if not book.finished(up):
                raise BadInput(f'stage {name} {how} {up}, which is not finished in {book.workdir}: run it first')
            changes = book.changes(up)
            if lines := [*changes.made, *changes.gone]:  # with other evaluations it would end as it did
                raise BadInput(f'stage {name} {how} {up}, which is to be run again first: {lines[0]}')


def _mended(book: Book, wanted: Sequence[str]) -> list[tuple[str, str]]:
    """Has every stage that is gone on with, or that such a one needs, have a whole checkpoint; a sentence each of what was damaged.

    A finished stage whose end is damaged is not finished any more: it goes on from the checkpoint before, and ends with the same bits.

    Raises:
      BadInput: that stage is not to be run.
      Failed: no checkpoint of a stage is whole.
    """
    open_ = [name for name in wanted if not book.finished(name)]
    read = {up: name for name in open_ for up in needs(book.recipe, book.ready.stage(name)) if book.finished(up)}
    told = []
    for name in [*read, *open_]:
        step, sentences = checkpoint.mend(book.workdir, name)
        told += [(name, f'{each}; step {step} is used') for each in sentences if checkpoint.DAMAGED in each]
        told += [(name, each) for each in sentences if checkpoint.DAMAGED not in each]
        if name in read and any(checkpoint.DAMAGED in each for each in sentences):
            checkpoint.reopen(book.workdir, name)
            if name not in wanted:
                raise BadInput(f'stage {read[name]} needs {name}: {told[-1][1]}. Run it first, it goes on from there')
    return told


def _set_aside_early(book: Book, wanted: Sequence[str]) -> list[str]:
    """Sets aside what can be known to be stale before any stage is run; a note each."""
    gone = [name for name in distributed.told(lambda: checkpoint.stages(book.workdir)) if name not in book.ready.models]
    changes = {name: Changes([f'{name}: the recipe has no such stage any more'], [], []) for name in gone}
    return _set_aside(book, changes | {name: book.changes(name) for name in wanted})


def _set_aside(book: Book, changes: Mapping[str, Changes], log: Log | None = None) -> list[str]:
    """Sets aside the stages that have changed, with those that were made of them; a note each. `log`: where it is open.

    A stage that was not made of something else will end as it did. So those after it stay, until its end is known.
    """
    why = {name: '; '.join(each.all) for name, each in changes.items() if each.all}
    for name in book.downstream([name for name in why if changes[name].made]):
        made_of = [up for up in needs(book.recipe, book.ready.stage(name)) if up in why]
        why.setdefault(name, f'{name} was made of {" and ".join(made_of)}')
    notes = []
    for name, reason in why.items():
        folder = distributed.told(functools.partial(aside.set_aside, book.workdir, name))
        if log:
            log.drop(name)
        notes.append(f'{reason}: what it had is set aside in {folder}')
    if notes:
        _summary(book.recipe, book.workdir)
        book.write()
    return notes


def _nothing_to_do(book: Book, wanted: Sequence[str]) -> bool:
    """Whether all are finished, and of what they would be made of now. Only then are data read that stages have written."""
    if not all(map(book.finished, wanted)):
        return False
    with as_bad_input():
        return not any(book.changes(name, book.ready.job(name)).all for name in wanted)


def _graders(recipe: Recipe, wanted: Sequence[str]) -> list:
    """The reward functions and environments of the stages named in `wanted` that worker processes call."""
    found: dict[int, Any] = {}
    for s in (s for s in recipe.stages if s.name in wanted):
        mixes = [
            getattr(s.source, 'rewards', ()),
            *(phase.rewards or () for phase in s.phases),
            *(getattr(e, 'rewards', ()) for e in s.evals),
        ]
        found |= {id(part.fn): part.fn for parts in mixes for part in parts if part.deadline}
        if s.environment and s.environment.deadline:
            found[id(s.environment)] = Called(s.environment)
    return list(found.values())


@distributed.by_first
def _summary(recipe: Recipe, workdir: str, running: dict | None = None) -> dict:
    """Writes summary.json from the records of the finished stages, which outlive a kill between two writes, and of a running one."""
    done = {s.name: checkpoint.read_done(workdir, s.name) for s in recipe.stages}
    stages = {name: record['entry'] for name, record in done.items() if record} | (running or {})
    summary = {'recipe': recipe.name, 'seed': recipe.seed, 'stages': stages}
    if happened := events.sentences(workdir):
        summary['events'] = happened
    write_summary(workdir, summary)
    return summary


def _log(workdir: str, recipe: Recipe) -> Log:
    known = _known(workdir)  # by all: they open checkpoints together
    if not distributed.first():
        return Unwritten()
    log = Log(workdir, known)
    if recipe.wandb:
        lines = read(os.path.join(workdir, METRICS))
        log.board = board.Board(workdir, recipe.wandb, to_json(recipe), lines)
    return log


def _say(text: str) -> None:
    if distributed.first():
        print(text)


def _known(workdir: str) -> dict[str, dict[str, int]]:
    """Of each stage the lines of the logs that its end or its newest checkpoint knows of."""
    cuts = {}
    for name in checkpoint.stages(workdir):
        if done := checkpoint.read_done(workdir, name):
            cuts[name] = done['cut']
            continue
        with checkpoint.Checkpoints(workdir, name) as saved:
            if (latest := saved.latest()) is not None:
                cuts[name] = saved.cursor(latest)['cut']
    return cuts
