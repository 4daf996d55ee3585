"""`r1jax plan`: from a recipe and a topology's name to what is printed, and the exit status."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax

from r1jax import plan
from r1jax.config import MeshConfig, Recipe
from r1jax.plan import chips, table
from r1jax.plan import search as find
from r1jax.settings import as_bad_input


def run(recipe: Recipe, topology: str, stages: Sequence[str], mean: int, search: int, as_json: bool) -> int:
    """Prints the plan, and on the way to standard error what has been compiled; returns 0 if all stages fit, else 1.

    Raises:
      BadInput: what cannot be planned, or libtpu is missing.
    """
    with as_bad_input():
        where = chips.parse(topology)
        recipe = plan.resolved(recipe)
        plan.wanted(recipe, stages)
        if where.estimated:
            jax.config.update('jax_num_cpu_devices', where.chips)
        where.devices()  # without them nothing below makes sense
    jax.config.update('jax_enable_compilation_cache', False)  # what is kept was compiled for devices that are here

    def say(line):
        print(line, file=sys.stderr, flush=True)

    made = searched(recipe, where, stages, mean, search, say) if search else plan.of(recipe, where, stages, mean, say)
    print(json.dumps(table.to_json(made), indent=1) if as_json else table.text(made), end='\n' if as_json else '')
    return 0 if made.fits else 1


def searched(
    recipe: Recipe, where: chips.Topology, stages: Sequence[str], mean: int, count: int, say: Callable[[str], None]
) -> plan.Planned:
    """The plan in which each stage has the best mesh of so many that fit, with the others beside it."""
    known: dict[MeshConfig, dict[str, Any]] = {}
    ranked = [find.best(recipe, stage, where, mean, count, known, say) for stage in plan.wanted(recipe, stages)]
    return plan.Planned(recipe.name, where, mean, tuple(r[0] for r in ranked), tuple(p for r in ranked for p in r[1:]))
