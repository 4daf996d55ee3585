"""Weights & Biases beside TensorBoard, where a recipe names a project (`Recipe.wandb`): a copy of metrics.jsonl, line by line.

The run there has the workdir's name, and the same id each time the workdir is run: WORKDIR/wandb.json keeps it. What a kill made a run
repeat is sent again, at the same step of the stage, with the same values. `WANDB_MODE=offline` writes into WORKDIR/wandb, to be sent later
by `wandb sync`; an account and its key are the package's own affair.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from r1jax.settings import BadInput

KEPT = 'wandb.json'


class Board:
    """A run of Weights & Biases.

    Args:
      workdir: where its id is kept, and what it writes offline.
      project: there.
      config: the recipe, as config.json has it.
      lines: of metrics.jsonl so far, for a run that is not known yet.

    Raises:
      ImportError: the package is not installed.
      BadInput: a run cannot be begun, such as without an account.
    """

    def __init__(self, workdir: str, project: str, config: Mapping[str, Any], lines: Iterable[Mapping[str, Any]] = ()):
        wandb = package()
        path = os.path.join(workdir, KEPT)
        known = None
        if os.path.exists(path):
            with open(path, encoding='utf-8') as file:
                known = json.load(file)['id']
        name = os.path.basename(os.path.abspath(workdir))
        try:
            self._run = wandb.init(
                project=project, name=name, id=known, resume='allow', dir=workdir, config=dict(config),
                settings=wandb.Settings(silent=True, console='off'),
            )  # fmt: skip
        except Exception as error:  # of many kinds, and none says what to do here
            raise BadInput(
                f'wandb={project!r}: no run of Weights & Biases ({error}): run `wandb login`, or set WANDB_MODE=offline'
            ) from error
        self._stages: set[str] = set()
        if known is None:
            with open(path, 'w', encoding='utf-8') as file:
                json.dump({'id': self._run.id}, file)
            for line in lines:
                self.metrics(line)

    def metrics(self, line: Mapping[str, Any]) -> None:
        """Sends the numbers of a line of metrics.jsonl, under the stage's name and by its steps."""
        stage, step = line['stage'], f'{line["stage"]}/step'
        if stage not in self._stages:
            self._stages.add(stage)
            self._run.define_metric(step)
            self._run.define_metric(f'{stage}/*', step_metric=step)
        numbers = {path: value for path, value in line.items() if isinstance(value, (int, float)) and path != 'step'}
        self._run.log({f'{stage}/{path}': value for path, value in numbers.items()} | {step: line['step']})

    def close(self) -> None:
        """Sends what is left."""
        self._run.finish()


def package() -> Any:
    """The module. Raises ImportError, with what to install."""
    try:
        import wandb
    except ImportError as error:
        raise ImportError("the recipe names a project of Weights & Biases: run pip install 'r1jax[wandb]'") from error
    return wandb
