"""What a recipe and its stages ask of several fields together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from r1jax.checks import models
from r1jax.checks.environment import environment
from r1jax.checks.fields import fields
from r1jax.checks.layout import layouts, split_off
from r1jax.checks.models import adapters, from_weights, model_differences, model_of, roles, split
from r1jax.checks.rows import Row, naming, under
from r1jax.checks.sampling import collect, evaluation, on_policy, rewards
from r1jax.config import (
    DPO,
    GRPO,
    NLL,
    REWARD_MODELS,
    Agreement,
    Collect,
    Distil,
    MeshConfig,
    OnPolicy,
    Recipe,
    Stage,
    Stored,
    stages_read,
)
from r1jax.presets import PRESETS
from r1jax.settings import BadInput, nearest

_FITTING = {
    Stored: (NLL, DPO, *REWARD_MODELS, Distil),
    OnPolicy: (GRPO, Distil),
}  # the losses that each kind of source can feed


def validate(recipe: Recipe, devices: int) -> None:
    """Refuses a recipe that cannot run on so many devices.

    Sizes of models that are read from weights are checked once they are known: call this again with them filled in, in the recipe
    and in its stages.

    Raises:
      BadInput: the first thing that is wrong, with its path, its value and what it must be.
    """
    for table in (fields(recipe, ''), _recipe(recipe, devices)):
        for holds, sentence in table:
            if not holds:
                raise BadInput(sentence)


def _recipe(recipe: Recipe, devices: int) -> Iterator[Row]:
    names = [stage.name for stage in recipe.stages]
    yield bool(names), 'the recipe has no stages'
    yield from naming('recipe', [recipe.name])
    yield from naming('stages', names, reserved=('init', 'recipe', *PRESETS))
    meshes = {'mesh': recipe.mesh} | {f'{s.name}.mesh': s.mesh for s in recipe.stages if s.mesh}
    for path, mesh in meshes.items():
        yield from ((holds, path + sentence) for holds, sentence in models.devices(mesh, devices))
    first = recipe.stages[0]
    for field in ('model', 'tokenizer'):
        read = from_weights(first.start) and not (field == 'tokenizer' and first.start in PRESETS)  # a preset has none
        given = getattr(recipe, field) is not None or read or (field == 'model' and first.model is not None)
        yield given, f'{field}=None is read from weights, but {first.name}.start={first.start!r} is no weights file'
    if recipe.model:
        yield from under('model', split(recipe.model, recipe.mesh))
    for i, stage in enumerate(recipe.stages):
        known = ['init', *names[:i]]
        hint = f': {stage.start} does not come before it' if stage.start in names else nearest(stage.start, known)
        hint += '; a folder of weights is written with a slash, as in ./NAME' if stage.start not in names else ''
        yield stage.start in known or from_weights(stage.start), f'{stage.name} cannot start from {stage.start!r}{hint}'
        trains = next((each.source for each in recipe.stages if each.name == stage.start), None)
        fix = f'{stage.start!r}, which trains nothing: it has no weights of its own'
        yield not isinstance(trains, Collect), f'{stage.name} cannot start from {fix}'
        yield from under(stage.name, _reads(stage, names[:i], names))
        yield from under(stage.name, roles(stage, recipe))
        place = stage, model_of(recipe, stage), stage.mesh or recipe.mesh
        yield from under(stage.name, layouts(*place))
        yield from under(stage.name, split_off(*place, devices))
        yield from under(stage.name, _stage(stage, recipe))


def _reads(stage: Stage, before: Sequence[str], names: Sequence[str]) -> Iterator[Row]:
    """The stages whose output a stage reads, by its data, its rewards or its loss, are earlier ones."""
    for name in stages_read(stage):
        hint = ', which does not come before it' if name in names else f', which is no stage{nearest(name, before)}'
        yield name in before, f'source, rewards or loss read what {name!r} ends with{hint}'


def _stage(stage: Stage, recipe: Recipe) -> Iterator[Row]:
    mesh = stage.mesh or recipe.mesh
    if (model := stage.model or (model_of(recipe, stage) if stage.mesh else None)) is not None:
        yield from under('model', split(model, mesh))
    if stage.model:
        theirs = next((model_of(recipe, each) for each in recipe.stages if each.name == stage.start), None)
        differ = model_differences(stage.model, theirs) if theirs else ''
        yield not differ, f'model has another shape than that of {stage.start}, where it starts: {differ}'
    yield from _kept(stage)
    yield from environment(stage)
    if isinstance(stage.source, Collect):
        yield from collect(stage, model_of(recipe, stage), mesh)
    else:
        yield from _trained(stage, recipe, mesh)


def _trained(stage: Stage, recipe: Recipe, mesh: MeshConfig) -> Iterator[Row]:
    for field in ('loss', 'optim', 'rows'):
        yield getattr(stage, field) is not None, f'{field}=None: only a stage that collects trains nothing'
    source, loss, phases, rows = stage.source, stage.loss, stage.phases, stage.rows.per_microbatch
    fitting, model = _FITTING[type(source)], model_of(recipe, stage)
    needs = ' or '.join(each.__name__ for each in fitting)
    yield isinstance(loss, fitting), f'loss={type(loss).__name__}: {type(source).__name__} needs {needs}'
    yield from _duration(stage)
    cut, block = stage.rows, stage.rows.block or stage.rows.length - stage.rows.prompts
    whole = block > 0 and (cut.length - cut.prompts) % block == 0
    yield whole, f'rows.length={cut.length} must be rows.prompts={cut.prompts} and a multiple of rows.block={cut.block}'
    stored = isinstance(source, Stored)
    yield not (stored and cut.prompts), f'rows.prompts={cut.prompts} has no effect: stored examples share no prompts'
    shards = mesh.ways('batch')
    over = f'mesh {models.rows_over(mesh)} = {shards}'
    yield rows % shards == 0, f'rows.per_microbatch={rows} must be a multiple of {over}'
    even = cut.length % mesh.ways('length') == 0
    yield even, f'rows.length={cut.length} is split over {models.parts(mesh, "length")}, so it must be a multiple of it'
    twice = next((each for i, each in enumerate(stage.offload) if each in stage.offload[:i]), None)
    yield twice is None, f'offload has {twice!r} twice'
    compared = isinstance(loss, DPO) or (isinstance(loss, GRPO) and loss.beta > 0)
    why = 'adapters keep no copy of it' if stage.lora else f'loss={type(loss).__name__} with beta > 0 alone has one'
    compared = compared and stage.lora is None
    yield compared or 'reference' not in stage.offload, f"offload has 'reference', which has no effect: {why}"
    if stage.lora:
        yield from under('lora', adapters(stage.lora, model))
    for before, after in itertools.pairwise(phase.step for phase in phases):
        yield before < after, f'phases must ascend: one at step {after} follows one at step {before}'
    for i, phase in enumerate(phases):
        samples = phase.max_tokens or phase.temperature or phase.rewards is not None
        yield isinstance(source, OnPolicy) or not samples, f'phases.{i} is about sampling, but a Stored source has none'
        yield from rewards(f'phases.{i}.rewards', phase.rewards) if phase.rewards is not None else ()
    if isinstance(source, OnPolicy):
        yield from on_policy(stage, model, mesh)
    names = [each.name for each in stage.evals]
    yield from naming('evals', names)
    for i, each in enumerate(stage.evals):
        if isinstance(each, Agreement):
            continue
        own = each.sample or getattr(source, 'sample', None)
        yield from under(f'evals.{each.name}', evaluation(each, own, names[:i], model, mesh))


def _kept(stage: Stage) -> Iterator[Row]:
    """Which checkpoints stay, as far as it can be said before there are metrics, and what may be rolled back to them."""
    for field, off in (('keep_every', 0), ('keep_best', ''), ('on_nan', 'skip'), ('spike', 0)):
        value = getattr(stage, field)
        trains = not isinstance(stage.source, Collect)
        yield trains or value == off, f'{field}={value!r} has no effect: a stage that collects takes no steps'
    yield stage.spike == 0 or stage.spike > 1, f'spike={stage.spike} must be above 1, or 0: it multiplies a median'
    every = stage.checkpoint_every
    fits = stage.keep_every % every == 0
    yield (
        fits,
        f'keep_every={stage.keep_every} must be a multiple of checkpoint_every={every}: there are no others to keep',
    )
    room, name, *rest = [*stage.keep_best.removeprefix('-').split('/'), '']
    if room == 'eval' and rest:
        found = next((each for each in stage.evals if each.name == name), None)
        hint = nearest(name, [each.name for each in stage.evals])
        yield found is not None, f'keep_best={stage.keep_best!r}: the stage has no evaluation {name!r}{hint}'
        both = math.lcm(found.every or stage.steps, every)
        said = f'evals.{name}.every={found.every} and checkpoint_every={every} never meet before step {stage.steps}'
        yield bool(found.every) and both < stage.steps, f'keep_best={stage.keep_best!r}: {said}'


def _duration(stage: Stage) -> Iterator[Row]:
    epochs = getattr(stage.source, 'epochs', 0)
    by_source = ', or 0 with source.epochs' if isinstance(stage.source, Stored) else ''
    yield stage.steps >= 1 or epochs > 0, f'steps={stage.steps} must be in [1, inf){by_source}'
    yield not (stage.steps and epochs), f'steps={stage.steps} and source.epochs={epochs} both say how long: make one 0'
