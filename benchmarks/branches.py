"""Runs of one experiment that differ in its last stage only: what comes before it is run once a seed, and copied.

parser = branches.parser(__doc__)          # WORKDIR, --seeds, --experiment, --steps; a benchmark adds its own
args, recipe = branches.asked(parser)
ends = branches.by_seed(args.workdir, recipe, args.seeds, lasts)
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import shutil
from collections.abc import Mapping, Sequence

from r1jax.config import Recipe, Stage
from r1jax.settings import load_recipe


def parser(doc: str) -> argparse.ArgumentParser:
    """What every benchmark of this kind takes."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument('workdir', type=pathlib.Path, help='where the runs are kept; finished ones are not run again')
    made.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    made.add_argument('--experiment', default='experiments/tiny_zero.py')
    made.add_argument('--steps', type=int, default=0, help='of the last stage (default: as the experiment says)')
    return made


def asked(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, Recipe]:
    """The arguments, and the experiment with so many steps."""
    args = parser.parse_args()
    if len(args.seeds) < 2:
        parser.error(f'--seeds {args.seeds}: an interval over seeds needs two')
    recipe = load_recipe(args.experiment)
    *before, last = recipe.stages
    last = dataclasses.replace(last, steps=args.steps or last.steps)
    return args, dataclasses.replace(recipe, stages=(*before, last))


def by_seed(
    workdir: pathlib.Path,
    recipe: Recipe,
    seeds: Sequence[int],
    lasts: Mapping[str, Stage],
    traces: Mapping[str, str] | None = None,
) -> dict[str, dict[int, dict]]:
    """Of each of `lasts` by its name and of each seed, the evaluation at its end; the run is in workdir/seedN/NAME. traces: as `run`'s."""
    ends: dict[str, dict[int, dict]] = {}
    for seed in seeds:
        whole = dataclasses.replace(recipe, seed=seed)
        for name, entry in run(workdir / f'seed{seed}', whole, lasts, traces).items():
            ends.setdefault(name, {})[seed] = entry['after']
    return ends


def run(
    workdir: pathlib.Path, recipe: Recipe, lasts: Mapping[str, Stage], traces: Mapping[str, str] | None = None
) -> dict[str, dict]:
    """Runs `recipe` with each of `lasts` in place of its last stage, in workdir/NAME; finished runs are not run again.

    traces: by name, the STAGE:STEP of which a run writes a trace.
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
        trace = (traces or {}).get(name) if not (path / 'profile').exists() else None
        summary = stage.run(dataclasses.replace(recipe, stages=(*before, last)), str(path), profile=trace)
        results[name] = summary['stages'][last.name]
    return results
