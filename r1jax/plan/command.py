"""`r1jax plan`: from a recipe and a topology's name to what is printed, and the exit status."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import jax

from r1jax import plan
from r1jax.config import Recipe
from r1jax.plan import chips, table


def run(recipe: Recipe, topology: str, stages: Sequence[str], mean: int, search: bool, as_json: bool) -> int:
    """Prints the plan, and on the way to standard error what has been compiled; returns 0 if all stages fit, else 1.

    Raises:
      BadInput: what cannot be planned. ImportError: libtpu is missing.
    """
    where = chips.parse(topology)
    recipe = plan.resolved(recipe)
    plan.wanted(recipe, stages)
    if where.estimated:
        jax.config.update('jax_num_cpu_devices', where.chips)
    made = plan.of(recipe, where, stages, mean, lambda line: print(line, file=sys.stderr, flush=True))
    print(json.dumps(table.to_json(made), indent=1) if as_json else table.text(made), end='\n' if as_json else '')
    return 0 if made.fits else 1
