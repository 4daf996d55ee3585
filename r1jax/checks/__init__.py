"""Whether a recipe can run: all that can be said without data or weights, before anything compiles.

A check is a row, `(holds, sentence)`, and `validate` raises the sentence of the first that does not hold. The tables,
in order: each field against its annotation and its range; then what a recipe, its model, each stage and each evaluation
ask of several fields together. A row may rely on those before it, as divisions rely on sizes being positive.
"""

from __future__ import annotations

from r1jax.checks.models import from_weights, model_differences, model_of
from r1jax.checks.recipe import validate

__all__ = ['from_weights', 'model_differences', 'model_of', 'validate']
