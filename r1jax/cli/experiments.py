"""Commands that take an experiment, or write one: run, plan, new."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Annotated, ClassVar

from r1jax import runtime
from r1jax.cli.arguments import FlagCreatePairsOff, Positional, Unsandboxed, UseAppendAction, arg


@dataclasses.dataclass(frozen=True)
class Run:
    """Run an experiment. On a workdir that holds its state, the same command goes on from there.

    A stage that is finished is not run again, unless its settings, its data or what it starts from have changed: then it is, with those
    that were made of it, and what they had is set aside in DIR/stale. To have a stage run again all the same, remove DIR/checkpoints/NAME.
    """

    afterwards: ClassVar[str] = 'the same command goes on from the last checkpoint'

    experiment: Annotated[Positional[Path], arg('EXPERIMENT')]
    """Path of a Python module that defines recipe()."""
    workdir: Annotated[Path | None, arg('DIR', '(default: runs/NAME, by the recipe)')] = None
    """Where everything is written."""
    stage: Annotated[str | None, arg('NAME')] = None
    """Run this stage only; those that it needs must be finished."""
    first: Annotated[str | None, arg('NAME', name='from')] = None
    """Run from this stage on, as far as these are not finished."""
    set: Annotated[
        tuple[tuple[str, ...], ...], UseAppendAction, arg('STAGE.FIELD=VALUE', '(several, or repeated)')
    ] = ()
    """Change settings, such as zero.optim.learning_rate=1e-4 or mesh.data=8."""
    seed: Annotated[int | None, arg('N')] = None
    """The recipe's seed, as --set seed=N."""
    profile: Annotated[str | None, arg('STEP', '(or STAGE:STEP)')] = None
    """Trace this optimizer step into DIR/profile, for XProf, TensorBoard and Perfetto."""
    coordinator: Annotated[str | None, arg('HOST:PORT', '(default: found, under TPU pods, GKE and SLURM)')] = None
    """Of several processes started by hand: where the first one is, on a free port."""
    processes: Annotated[int | None, arg('N')] = None
    """Of several processes started by hand: how many. 1: this one alone, whatever cluster it runs on."""
    process: Annotated[int | None, arg('I')] = None
    """Of several processes started by hand: which this is, from 0."""
    allow_unsandboxed: Unsandboxed = False
    """Run model code without a sandbox where this system has none: it can then do whatever you can."""

    def __call__(self) -> None:
        from r1jax import distributed, settings

        runtime.allow_unsandboxed(self.allow_unsandboxed)
        with settings.as_bad_input():
            distributed.start(distributed.by_hand(self.coordinator, self.processes, self.process))
            recipe = settings.load_recipe(self.experiment)
            seed = () if self.seed is None else (f'recipe.seed={self.seed}',)
            recipe = settings.override(recipe, [*(each for group in self.set for each in group), *seed])
            settings.chosen(recipe, self.stage, self.first)

        from r1jax.train import stage

        workdir = self.workdir or Path('runs', recipe.name)
        stage.run(recipe, workdir, stage=self.stage, first=self.first, profile=self.profile)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Say what an experiment needs of chips that need not be here: memory, time and chip-hours, of every program that it compiles.

    Neither weights nor data are read. Exit status 0: every stage fits; 1: one does not.
    """

    afterwards: ClassVar[str] = ''

    experiment: Annotated[Positional[Path], arg('EXPERIMENT')]
    """Path of a Python module that defines recipe()."""
    topology: Annotated[str, arg('NAME')]
    """Chips, such as v5p:4x4x8, 2*v5p:4x4x8 for two slices of them, or h100:16 (estimates)."""
    stage: Annotated[tuple[str, ...], UseAppendAction, arg('NAME', '(repeated; default: all)')] = ()
    """Plan this stage."""
    set: Annotated[
        tuple[tuple[str, ...], ...], UseAppendAction, arg('STAGE.FIELD=VALUE', '(several, or repeated)')
    ] = ()
    """Change settings, such as mesh.fsdp=16 or zero.rows.per_microbatch=16."""
    tokens: Annotated[int, arg('N', '(default: as many as it may have)')] = 0
    """Mean length of a response: lengths decide on time, and are not known before."""
    search: Annotated[int, arg('N', '(default: the mesh of the recipe)')] = 0
    """Weigh all meshes, rows a microbatch and slots by their shapes, and compile the best until N fit."""
    json: Annotated[bool, FlagCreatePairsOff] = False
    """Print JSON."""

    def __call__(self) -> None:
        from r1jax import settings

        os.environ['JAX_PLATFORMS'] = 'cpu'  # it compiles for chips that need not be here
        with settings.as_bad_input():
            for name, value in ('tokens', self.tokens), ('search', self.search):
                if value < 0:
                    raise settings.BadInput(f'--{name} {value} must be 0 or more')
            recipe = settings.load_recipe(self.experiment)
            recipe = settings.override(recipe, [each for group in self.set for each in group])
        from r1jax.plan import command

        if status := command.run(recipe, self.topology, self.stage, self.tokens, self.search, self.json):
            sys.exit(status)


@dataclasses.dataclass(frozen=True)
class New:
    """Write a small experiment with a reward of its own, and a test of it, to change."""

    afterwards: ClassVar[str] = ''

    name: Annotated[Positional[str], arg('NAME')]
    """Of the experiment: DIR/NAME.py and DIR/test_NAME.py are written."""
    directory: Annotated[Path, arg('DIR', '(default: here)')] = Path('.')
    """Where they are written."""

    def __call__(self) -> None:
        from r1jax import new

        experiment, test = new.write(self.name, self.directory)
        print(f'{experiment}: r1jax run {experiment} --workdir runs/{self.name}')
        print(f'{test}: pytest {test}')
