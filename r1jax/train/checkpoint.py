"""Checkpoints: the only door to orbax.

WORKDIR/checkpoints/STAGE/STEP holds the parameters, the optimizer, the reference parameters (if the loss needs any), a cursor (JSON:
counters, data position, log lengths, evaluations done) and the rollout in flight, if one is. Of a stage with `lora`, parameters are
adapters, and the cursor has the fingerprint of their base. Beside its steps a stage has a stage.json, which says what it is made of
(`r1jax.train.inputs`), and a done.json once it is over. Orbax writes to a temporary name and renames, so what has a step's name is whole.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from r1jax import distributed
from r1jax.train.log import write_json
from r1jax.types import TrainState

BEGUN, DONE = 'stage.json', 'done.json'
FOLDER = 'checkpoints'


class Checkpoints:
    """The checkpoints of one stage. Saving runs in the background; `close` waits for it."""

    def __init__(self, workdir: str, stage: str, keep: int = 2):
        self.directory = stage_directory(workdir, stage)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def latest(self) -> int | None:
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, reference: Any, cursor: dict, flight: dict | None) -> None:
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
        self._manager.save(step, args=ocp.args.Composite(**items))

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
        self._manager.wait_until_finished()
        self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        if kind and issubclass(kind, Exception) and distributed.count() > 1:
            return  # what is being saved would wait for the other processes, which may be gone
        self.close()


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


def _write(workdir: str, stage: str, name: str, record: dict) -> None:
    path = os.path.join(stage_directory(workdir, stage), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    write_json(path, record)


def _read(workdir: str, stage: str, name: str) -> dict | None:
    path = os.path.join(stage_directory(workdir, stage), name)
    if not os.path.exists(path):
        return None
    with open(path, encoding='utf-8') as file:
        return json.load(file)
