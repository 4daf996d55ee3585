"""Which model each stage of a recipe has, without reading weights: shapes are enough."""

from __future__ import annotations

import dataclasses
import os

from r1jax import weights
from r1jax.checks import from_weights
from r1jax.config import ModelConfig, Recipe
from r1jax.presets import PRESETS
from r1jax.settings import BadInput


def resolved(recipe: Recipe) -> Recipe:
    """The recipe with each stage's model and template filled in, as `r1jax.train.prepare` does where weights are there.

    A model that neither the recipe nor the stage has is that of the weights where it starts: of a preset, of a file or folder that is
    here, or of a preset that the folder has the name of.

    Raises:
      BadInput: none of these says what a stage's model is.
    """
    models: dict[str, ModelConfig] = {}
    for stage in recipe.stages:
        model = stage.model or models.get(stage.start) or recipe.model
        if model is None and from_weights(stage.start):
            model = _of_weights(stage.start)
        model = model or next(iter(models.values()), None)
        if model is None:
            raise BadInput(
                f'stage {stage.name} has no model: give the recipe or the stage one (r1jax.presets has the released ones)'
            )
        models[stage.name] = model
    stages = (
        dataclasses.replace(s, model=models[s.name], template=s.template or recipe.template) for s in recipe.stages
    )
    return dataclasses.replace(recipe, model=recipe.model or next(iter(models.values())), stages=tuple(stages))


def _of_weights(start: str) -> ModelConfig | None:
    if start in PRESETS:
        return PRESETS[start]
    if os.path.exists(start):
        return weights.opened(start).config
    return PRESETS.get(os.path.basename(start.rstrip('/')))
