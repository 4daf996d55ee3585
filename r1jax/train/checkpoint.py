"""Checkpoints: the only door to orbax.

WORKDIR/checkpoints/STAGE/STEP holds the parameters, the optimizer, the reference parameters (if the loss needs any), a cursor (JSON:
counters, data position, log lengths, evaluations done) and the rollout in flight, if one is. Of a stage with `lora`, parameters are
adapters, and the cursor has the fingerprint of their base. Beside its steps a stage has a stage.json, which says what it is made of
(`r1jax.train.inputs`), and a done.json once it is over.

Saving runs in the background: arrays are copied from the devices, and training goes on while they are written, to a temporary name. The
last file is a manifest with every file's digest (`r1jax.train.manifest`), and then the folder takes its name in one move. Before a run
uses a checkpoint, `mend` reads it against its manifest. One that is damaged is renamed to STEP.damaged, and the one before is used.
"""

from __future__ import annotations

import functools
import glob
import json
import logging
import os
import shutil
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from r1jax import distributed
from r1jax.settings import Failed
from r1jax.train import manifest
from r1jax.train.keeping import Keep
from r1jax.train.log import write_json
from r1jax.types import TrainState

BEGUN, DONE = 'stage.json', 'done.json'
FOLDER = 'checkpoints'
DAMAGED = '.damaged'

# What goes wrong is raised too, and said by who catches it: no traceback of orbax's in between
logging.getLogger('absl').addFilter(lambda record: 'orbax' not in record.pathname)


class Checkpoints:
    """The checkpoints of one stage; `keep` for who writes them. Saving runs in the background; `wait` and `close` wait for it."""

    def __init__(self, workdir: str, stage: str, keep: Keep | None = None):
        self.directory = stage_directory(workdir, stage)
        self.keep = keep
        many = distributed.count() > 1
        if many:
            distributed.told(lambda: os.makedirs(self.directory, exist_ok=True))
        options = ocp.CheckpointManagerOptions(
            create=not many,
            # Processes then meet without a program of all devices, of which some may be sampling
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                active_processes=set(range(distributed.count())) if many else None
            ),
            cleanup_tmp_directories=keep is not None,  # halves that a kill or a full disk has left
            enable_async_checkpointing=True,
            # Folders are made before `save` returns: where there is no room for one, what is written in the background would wait for it
            async_options=ocp.AsyncOptions(
                post_finalization_callback=self._seal, create_directories_asynchronously=False
            ),
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)
        self._metrics = {step: _metric(self._folder(step)) for step in self._manager.all_steps()} if keep else {}
        self._saving: tuple[int, float | None] | None = None

    def latest(self) -> int | None:
        return self._manager.latest_step()

    def save(
        self,
        step: int,
        state: TrainState,
        reference: Any,
        cursor: dict,
        flight: dict | None,
        metric: float | None = None,
    ) -> None:
        """Waits for the save before, and begins this one.

        metric: what `keep` makes of the step's metrics. Raises whatever went wrong with the save before; its half is removed.
        """
        items = {
            'params': ocp.args.StandardSave(state.params),
            'optimizer': ocp.args.StandardSave({'step': state.step, 'opt_state': state.opt_state}),
            'cursor': ocp.args.JsonSave(
                cursor | {'has_reference': reference is not None, 'has_flight': flight is not None}
            ),
        }
        if reference is not None:
            items['reference'] = ocp.args.StandardSave(reference)
        if flight is not None:
            items['flight'] = ocp.args.StandardSave({k: np.ascontiguousarray(v) for k, v in flight.items()})
        self.wait()
        self._saving = step, metric
        try:
            self._manager.save(step, args=ocp.args.Composite(**items))
        except Exception:
            self._sweep()
            raise

    def wait(self) -> None:
        """Until what was saved is on the disk; then those that are not to be kept are deleted. Raises what went wrong with it."""
        try:
            self._manager.wait_until_finished()
        except Exception:
            self._sweep()
            raise
        if self._saving:
            step, metric = self._saving
            self._saving, self._metrics[step] = None, metric
            for old in sorted(set(self._metrics) - self.keep(self._metrics)):
                self._manager.delete(old)
                del self._metrics[old]

    def _seal(self) -> None:
        """Called in the background by the process that commits, when all files are written and before they take their name."""
        step, metric = self._saving
        for folder in self._halves(step):
            manifest.write(folder, step, metric)

    def _halves(self, step: int) -> list[str]:
        return glob.glob(os.path.join(glob.escape(self.directory), f'{step}.*-tmp*'))

    def _sweep(self) -> None:
        """Removes what a failed save has left, so that its room is free again."""
        if self._saving is None:
            return
        step, _ = self._saving
        self._saving = None
        if distributed.first():
            for folder in self._halves(step):
                shutil.rmtree(folder, ignore_errors=True)

    def _folder(self, step: int) -> str:
        return os.path.join(self.directory, str(step))

    def cursor(self, step: int) -> dict:
        return self._manager.restore(step, args=ocp.args.Composite(cursor=ocp.args.JsonRestore()))['cursor']

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, Any, dict, dict | None]:
        """State, reference, cursor and rollout in flight. `like` holds ShapeDtypeStructs with shardings."""
        cursor = self.cursor(step)
        items = {
            'params': ocp.args.StandardRestore(like.params),
            'optimizer': ocp.args.StandardRestore({'step': like.step, 'opt_state': like.opt_state}),
        }
        if cursor['has_reference']:
            items['reference'] = ocp.args.StandardRestore(like.params)
        if cursor['has_flight']:
            items['flight'] = ocp.args.StandardRestore()
        got = self._manager.restore(step, args=ocp.args.Composite(**items))
        state = TrainState(step=got['optimizer']['step'], params=got['params'], opt_state=got['optimizer']['opt_state'])
        return state, got.get('reference'), cursor, got.get('flight')

    def params(self, step: int, like: Any) -> Any:
        """The parameters alone, placed as `like`: where a later stage starts."""
        return self._manager.restore(step, args=ocp.args.Composite(params=ocp.args.StandardRestore(like)))['params']

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        if kind and issubclass(kind, Exception) and distributed.count() > 1:
            return  # what is being saved would wait for the other processes, which may be gone
        self.close()


def mend(workdir: str, stage: str) -> tuple[int | None, list[str]]:
    """Has the newest checkpoint of a stage be one that is whole: damaged ones are set aside.

    Returns its step, None where the stage has none, and a sentence for each that was set aside. Every process of a run calls this; they
    share the reading and agree on what was found. A stage none of whose checkpoints has a manifest was written by an earlier r1jax:
    what it has is taken as it is, with a sentence that says so.

    Raises:
      Failed: all are damaged.
    """
    folder = stage_directory(workdir, stage)
    notes: list[str] = []
    names = distributed.told(lambda: os.listdir(folder) if os.path.isdir(folder) else [])
    steps = sorted((int(name) for name in names if name.isdecimal()), reverse=True)
    seals = [os.path.join(folder, str(step), manifest.NAME) for step in steps]
    sealed = distributed.told(lambda: any(map(os.path.exists, seals)))
    damaged = [os.path.join(folder, name) for name in sorted(names) if name.endswith(DAMAGED)]
    if steps and not sealed and not damaged:
        return steps[0], [
            f'{stage}: {os.path.join(folder, str(steps[0]))} has no {manifest.NAME}, so it cannot be checked'
        ]
    for step in steps:
        here = os.path.join(folder, str(step))
        found = distributed.exchange(manifest.damage(here, distributed.index(), distributed.count()))
        if not (wrong := sorted({line for lines in found for line in lines})):
            return step, notes
        to = distributed.told(functools.partial(_put_aside, here))
        some = '; '.join(wrong[:3]) + (f'; and {len(wrong) - 3} more files' if len(wrong) > 3 else '')
        notes.append(f'{stage}: the checkpoint of step {step} is damaged ({some}), and was set aside as {to}')
    if steps or damaged:
        which = '; '.join(notes or damaged)
        raise Failed(
            f'stage {stage} has no whole checkpoint left: {which}. Put back the files from a copy (and the names without '
            f'{DAMAGED}), or remove {folder} to have the stage run again from its start'
        )
    return None, []


def _put_aside(folder: str) -> str:
    """Gives a damaged checkpoint another name, and returns it."""
    to, count = folder + DAMAGED, 1
    while os.path.exists(to):
        to, count = f'{folder}.{count}{DAMAGED}', count + 1
    os.rename(folder, to)
    return to


def damage(workdir: str, stage: str, step: int) -> list[str]:
    """What is wrong with a checkpoint, a sentence a file; none too where there is no manifest to tell (an earlier r1jax wrote none)."""
    folder = os.path.join(stage_directory(workdir, stage), str(step))
    return manifest.damage(folder) if os.path.exists(os.path.join(folder, manifest.NAME)) else []


def _metric(folder: str) -> float | None:
    try:
        return manifest.read(folder)['metric']
    except (OSError, ValueError):
        return None


def stage_directory(workdir: str, stage: str) -> str:
    return os.path.join(os.path.abspath(workdir), FOLDER, stage)


def has_begun(workdir: str, stage: str) -> bool:
    """Whether there is anything of a stage."""
    folder = stage_directory(workdir, stage)
    return os.path.isdir(folder) and not all(name.endswith('.tmp') for name in os.listdir(folder))


def stages(workdir: str) -> list[str]:
    """The stages of which there is anything."""
    folder = os.path.join(workdir, FOLDER)
    return (
        sorted(name for name in os.listdir(folder) if os.path.isdir(os.path.join(folder, name)))
        if os.path.isdir(folder)
        else []
    )


def write_begun(workdir: str, stage: str, record: dict) -> None:
    """Says what a stage is made of, before it makes anything."""
    _write(workdir, stage, BEGUN, record)


def read_begun(workdir: str, stage: str) -> dict | None:
    return _read(workdir, stage, BEGUN)


def write_done(workdir: str, stage: str, record: dict) -> None:
    """Marks a stage as over, with what a resumed run needs to know of it."""
    _write(workdir, stage, DONE, record)


def read_done(workdir: str, stage: str) -> dict | None:
    return _read(workdir, stage, DONE)


def reopen(workdir: str, stage: str) -> None:
    """Takes the mark back: the stage goes on from its newest checkpoint."""
    distributed.told(lambda: os.remove(os.path.join(stage_directory(workdir, stage), DONE)))


def _write(workdir: str, stage: str, name: str, record: dict) -> None:
    path = os.path.join(stage_directory(workdir, stage), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    write_json(path, record)


def _read(workdir: str, stage: str, name: str) -> dict | None:
    path = os.path.join(stage_directory(workdir, stage), name)
    if not os.path.exists(path):
        return None
    with open(path, encoding='utf-8') as file:
        try:
            return json.load(file)
        except ValueError as error:
            then = 'goes on from its last checkpoint' if name == DONE else 'is run again from its start'
            raise ValueError(f'{path} is broken ({error}): remove it, and the stage {then}') from error
