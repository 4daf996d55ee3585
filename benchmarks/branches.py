"""Runs of one experiment that differ in its last stage only: what comes before it is run once, and copied."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from collections.abc import Mapping

from r1jax.config import Recipe, Stage


def run(workdir: pathlib.Path, recipe: Recipe, lasts: Mapping[str, Stage]) -> dict[str, dict]:
    """Runs `recipe` with each of `lasts` in place of its last stage, in workdir/NAME; finished runs are not run again.

    Returns, by name, the last stage's entry in summary.json.
    """
    from r1jax.train import stage

    before = recipe.stages[:-1]
    base = workdir / 'base'
    if before:
        stage.run(dataclasses.replace(recipe, stages=before), str(base))
    results = {}
    for name, last in lasts.items():
        path = workdir / name
        if before and not path.exists():  # its logs too: the run goes on from where they end
            shutil.copytree(base, path, ignore=shutil.ignore_patterns('config.json', 'summary.json', 'report.html'))
        summary = stage.run(dataclasses.replace(recipe, stages=(*before, last)), str(path))
        results[name] = summary['stages'][last.name]
    return results
