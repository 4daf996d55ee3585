"""What a stage had before it is run again: set aside under WORKDIR/stale, never deleted.

    stale/STAGE.N/checkpoints        what was WORKDIR/checkpoints/STAGE: the state, stage.json, done.json
    stale/STAGE.N/data               what it had collected: WORKDIR/data/STAGE.*
    stale/STAGE.N/metrics.jsonl      its lines of the logs; samples.jsonl likewise

N counts from 1. The folder is called STAGE.N.part until everything is in it: that name is the promise to go on, which `recover` keeps
after a kill. Each step can be done again, and the checkpoints, by which a stage is known, are moved last. The lines then stand in the
logs without a checkpoint that knows of them, so `r1jax.train.log` removes them when it opens the files next.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Sequence

from r1jax.train import checkpoint, log

STALE, PART = 'stale', '.part'
DATA = 'data'


def set_aside(workdir: str, stage: str) -> str:
    """Moves everything that a stage has left; returns the folder where it is."""
    number = 1
    while os.path.exists(folder := os.path.join(workdir, STALE, f'{stage}.{number}')):
        number += 1
    os.makedirs(folder + PART)
    return _finish(workdir, folder + PART)


def recover(workdir: str) -> Sequence[str]:
    """Ends what a kill has interrupted; returns the folders."""
    return [_finish(workdir, part) for part in sorted(glob.glob(os.path.join(glob.escape(workdir), STALE, '*' + PART)))]


def left(workdir: str, stage: str) -> list[str]:
    """The folders in which what a stage had is set aside, the last first."""
    found = glob.glob(os.path.join(glob.escape(workdir), STALE, f'{stage}.*'))
    numbers = [(int(end), folder) for folder in found if (end := folder.rpartition('.')[2]).isdecimal()]
    return [folder for _, folder in sorted(numbers, reverse=True)]


def begun(folder: str) -> dict | None:
    """What a stage that was set aside had been made of (`checkpoint.read_begun`)."""
    path = os.path.join(folder, checkpoint.FOLDER, checkpoint.BEGUN)
    if not os.path.exists(path):
        return None
    with open(path, encoding='utf-8') as file:
        return json.load(file)


def _finish(workdir: str, part: str) -> str:
    folder = part.removesuffix(PART)
    stage = os.path.basename(folder).rpartition('.')[0]
    moved = os.path.join(part, checkpoint.FOLDER)
    if not os.path.exists(moved):
        for name in (log.METRICS, log.SAMPLES):
            with open(os.path.join(part, name), 'wb') as file:
                file.writelines(line for whose, line in log.lines_of(os.path.join(workdir, name)) if whose == stage)
        os.makedirs(os.path.join(part, DATA), exist_ok=True)
        for path in glob.glob(os.path.join(glob.escape(workdir), DATA, stage + '.*')):
            os.replace(path, os.path.join(part, DATA, os.path.basename(path)))
        if os.path.exists(here := checkpoint.stage_directory(workdir, stage)):
            os.rename(here, moved)
    os.rename(part, folder)
    return folder
