"""All stages of experiments/tiny_r1.py in seconds, as an experiment of its own: nothing is learned."""

import pathlib
import sys

from r1jax.config import Recipe

sys.path.append(str(pathlib.Path(__file__).parents[1] / 'experiments'))  # as `load_recipe` does

from tiny_r1_small import NOTHING, SMALL, nothing_learned

__all__ = ['NOTHING', 'SMALL', 'nothing_learned', 'recipe']


def recipe() -> Recipe:
    return nothing_learned()
