"""Everything that can go wrong cheaply, before anything is compiled: weights and tokenizer read, data loaded and encoded, sizes checked.

In: a recipe that passed `r1jax.checks`. Out: `Prepared`, in which every stage has its model, and which makes its job. Whatever is wrong
with files or data raises here, but for data that earlier stages have yet to write.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from r1jax import distributed, weights
from r1jax.checks import from_weights, model_differences, validate
from r1jax.config import ModelConfig, Recipe, Stage
from r1jax.presets import PRESETS
from r1jax.rewards.pool import Pool
from r1jax.settings import BadInput
from r1jax.train.jobs import Job, Jobs, blamed


@dataclasses.dataclass(frozen=True)
class Prepared:
    recipe: Recipe  # with each stage's model and template filled in
    tokenizer: Any
    jobs: Jobs
    files: dict[str, Any]  # where a stage starts -> the opened `r1jax.weights.Reader`; None: a preset, drawn at random

    @property
    def models(self) -> dict[str, ModelConfig]:
        """By the stage's name."""
        return {stage.name: stage.model for stage in self.recipe.stages}

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.recipe.stages if stage.name == name)

    def job(self, name: str) -> Job:
        """A stage with its data, when those that it reads are finished."""
        return self.jobs.job(self.stage(name))


def prepare(recipe: Recipe, workdir: str, wanted: Sequence[str], devices: int, pool: Pool) -> Prepared:
    """Loads what the stages named in `wanted` need; of weights everything but the weights. `pool` grades for their measures, and checks
    problems of rewards with a deadline.

    Raises:
      BadInput: empty or ill-formed data, a prompt or an example that does not fit, weights of another shape, problems that no reward
        grades.
    """
    files: dict[str, Any] = {}
    tokenizer = None
    for start in dict.fromkeys(s.start for s in recipe.stages if from_weights(s.start)):
        reader = files[start] = _opened(start)
        if tokenizer is None and reader is not None and recipe.tokenizer is None:
            tokenizer = blamed(f'weights {start}', lambda: reader.tokenizer)
    if recipe.tokenizer is not None:
        tokenizer = blamed('tokenizer', lambda: distributed.after_first(lambda: recipe.tokenizer.load(workdir)))
    stages = _resolved(recipe, {start: PRESETS[start] if r is None else r.config for start, r in files.items()})
    if tokenizer is None:
        raise BadInput(
            'a recipe needs a model and a tokenizer, or a first stage that starts from weights that have both'
        )
    for stage in stages:
        if tokenizer.vocab_size > stage.model.vocab:
            size = f'model.vocab={stage.model.vocab} of stage {stage.name}'
            raise BadInput(f'the tokenizer has {tokenizer.vocab_size} tokens, more than {size}')
    for start, reader in files.items():
        if reader is not None:
            _refuse_other_tokens(start, reader, tokenizer)
    recipe = dataclasses.replace(recipe, model=recipe.model or stages[0].model, stages=stages)
    validate(recipe, devices)  # what depends on the models' sizes
    jobs = Jobs(workdir, recipe, tokenizer, pool)
    for stage in stages:
        if stage.name in wanted:
            jobs.early(stage)
    return Prepared(recipe, tokenizer, jobs, files)


def _refuse_other_tokens(start: str, reader: Any, tokenizer: Any) -> None:
    """Raises BadInput where a token's id means another token to weights than to the recipe: they would read another text.

    Ids that only one of them knows are no reason: a recipe may use spare ones for tokens of its own.
    """
    try:
        theirs = reader.tokenizer
    except ValueError:
        return  # it cannot be read, which may be why the recipe brings one
    if theirs is None or theirs is tokenizer:
        return
    for i in range(min(theirs.vocab_size, tokenizer.vocab_size)):
        if (a := theirs.piece(i)) != (b := tokenizer.piece(i)):
            raise BadInput(
                f"weights {start} were trained with another tokenizer than the recipe's: token {i} is {a!r} to them, but {b!r} to "
                'the recipe. Leave the recipe without a tokenizer to take that of its weights, or start from others'
            )


def _opened(start: str) -> Any:
    return None if start in PRESETS else blamed(f'weights {start}', lambda: weights.opened(start))


def _resolved(recipe: Recipe, theirs: dict[str, ModelConfig]) -> tuple[Stage, ...]:
    """The stages with their models and templates. `theirs`: the models of the weights that stages start from, in the recipe's order."""
    models: dict[str, ModelConfig] = {}
    for stage in recipe.stages:
        model = stage.model
        if stage.start in models:
            model = model or models[stage.start]
        elif stage.start in theirs:
            model = model or recipe.model or theirs[stage.start]
            if differ := model_differences(model, theirs[stage.start]):
                whose = f'model of stage {stage.name}' if stage.model else "recipe's model"
                raise BadInput(f'{stage.start} has another shape than the {whose}: {differ}')
        else:
            model = model or recipe.model or next(iter(theirs.values()), None)
        if model is None:
            raise BadInput(f'stage {stage.name} has no model: give the recipe or the stage one, or start from weights')
        models[stage.name] = model
    return tuple(
        dataclasses.replace(s, model=models[s.name], template=s.template or recipe.template) for s in recipe.stages
    )
