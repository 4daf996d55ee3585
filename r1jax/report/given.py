"""What a report is asked to be of: the workdirs and the folders of `r1jax eval` that a command line names, told apart and called.

A workdir is known by metrics.jsonl, by summary.json, or by a config.json with a recipe; a folder of results by results.json, its own or
those of the folders in it, so that `r1jax report runs/*` takes runs/evals as well. With a workdir come the results that lie in it, in
WORKDIR/evals, and beside it, in evals/, where their checkpoint is the workdir's: where `r1jax eval` writes them by itself.
"""

from __future__ import annotations

import dataclasses
import glob
import json
import os
from collections.abc import Iterable, Mapping, Sequence

from r1jax.evals.results import RESULTS
from r1jax.report import benchmarks
from r1jax.report.workdir import recipe_of
from r1jax.train import log


@dataclasses.dataclass(frozen=True)
class Given:
    """What a report is of. Paths as they were given."""

    runs: tuple[str, ...]
    # folder of results -> the place of the run whose checkpoint it measured, None of no run here
    results: Mapping[str, int | None]
    names: tuple[str, ...]  # of runs: the end of their paths, as much as tells them apart


def given(paths: Sequence[str]) -> Given:
    """Told apart. A folder that is named twice counts once.

    Raises:
      FileNotFoundError: a path is no folder.
      ValueError: a folder is neither, or a results.json that was named is damaged.
    """
    runs: dict[str, str] = {}
    results: dict[str, str] = {}
    for path in paths:
        if not os.path.isdir(path):
            why = 'is no folder' if os.path.exists(path) else 'is not there'
            raise FileNotFoundError(f'{path} {why}: name workdirs of r1jax run, or folders of r1jax eval')
        found = [path] if is_results(path) else [each for each in _inside(path) if is_results(each)]
        if is_run(path):
            runs.setdefault(os.path.realpath(path), path)
        elif found:
            for each in found:
                benchmarks.read(each)
                results.setdefault(os.path.realpath(each), each)
        else:
            raise ValueError(_neither(path))
    places = list(runs)
    for workdir in places:
        for each in of_run(workdir):
            results.setdefault(os.path.realpath(each), each)
    owners = {path: _owner(path, places) for path in results.values()}
    return Given(tuple(runs.values()), owners, tuple(called(list(runs.values()))))


def is_run(path: str) -> bool:
    """Whether a folder is a workdir."""
    if any(os.path.isfile(os.path.join(path, name)) for name in (log.METRICS, log.SUMMARY)):
        return True
    try:
        with open(os.path.join(path, 'config.json'), encoding='utf-8') as file:
            config = json.load(file)
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and 'stages' in recipe_of(config)


def is_results(path: str) -> bool:
    """Whether a folder is one of `r1jax eval`."""
    return os.path.isfile(os.path.join(path, RESULTS))


def of_run(workdir: str) -> list[str]:
    """Folders of results that go with a workdir; those that cannot be read count as not there."""
    workdir = os.path.realpath(workdir)
    own = [
        path for path in (workdir, *_inside(os.path.join(workdir, 'evals'))) if is_results(path) and _checkpoint(path)
    ]
    beside = [path for path in _inside(os.path.join(os.path.dirname(workdir), 'evals')) if is_results(path)]
    return own + [path for path in beside if _owner(path, [workdir]) is not None]


def called(paths: Sequence[str]) -> list[str]:
    """For each path its end, as many folders of it as tell it from the others."""
    parts = [os.path.abspath(path).strip(os.sep).split(os.sep) for path in paths]
    names = []
    for mine in parts:
        count = 1
        while count < len(mine) and sum(other[-count:] == mine[-count:] for other in parts) > 1:
            count += 1
        names.append('/'.join(mine[-count:]))
    return names


def _owner(results: str, runs: Sequence[str]) -> int | None:
    """The place of the run whose checkpoint was measured. It is known by its path, or, beside the results, by its name."""
    checkpoint = _checkpoint(results)
    if checkpoint is None:
        return None
    place = checkpoint.partition(', stage ')[0]
    around = os.path.dirname(os.path.dirname(os.path.realpath(results)))  # runs, of runs/evals/a
    for i, run in enumerate(runs):
        beside = os.path.join(around, os.path.basename(place.rstrip('/')))
        if os.path.realpath(run) in (
            os.path.realpath(place),
            os.path.realpath(beside),
            around,
            os.path.realpath(results),
        ):
            return i
    return None


def _checkpoint(results: str) -> str | None:
    try:
        return benchmarks.read(results)[0]
    except ValueError:
        return None


def _inside(path: str) -> Iterable[str]:
    """The folders in a folder, in order."""
    return sorted(each.rstrip(os.sep) for each in glob.glob(os.path.join(glob.escape(path), '*', '')))


def _neither(path: str) -> str:
    if os.path.isfile(os.path.join(path, 'config.json')):
        why = 'its config.json has no recipe, as that of a model: name the folder that r1jax run wrote'
    elif not os.listdir(path):
        why = 'it is empty'
    else:
        why = f'it has neither {log.METRICS}, {log.SUMMARY} nor a config.json with a recipe, and no {RESULTS} of r1jax eval'
    return f'{path} is no workdir: {why}'
