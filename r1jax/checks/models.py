"""Models: which one a stage has, whether it fits the mesh and the weights it starts from, and whether it is used for what it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from r1jax.checks.rows import Row
from r1jax.config import (
    AXES,
    DPO,
    GRPO,
    NLL,
    REWARD_MODELS,
    Agreement,
    Distil,
    Eval,
    LoRA,
    MeshConfig,
    ModelConfig,
    Recipe,
    Stage,
)
from r1jax.presets import PRESETS


def from_weights(start: str) -> bool:
    """Whether a stage's `start` is a folder, a file or a preset rather than 'init' or another stage. A folder has a slash in it."""
    return start.endswith('.gguf') or '/' in start or start in PRESETS


def model_of(recipe: Recipe, stage: Stage) -> ModelConfig | None:
    """A stage's model: its own, else that of the stage it starts from, else the recipe's. None: it is read from weights."""
    named = {each.name: each for each in recipe.stages}
    while stage.model is None and stage.start in named:
        stage = named[stage.start]
    return stage.model or recipe.model


def model_differences(ours: ModelConfig, theirs: ModelConfig) -> str:
    """What tells a stage's model from that of the weights where it starts, '' if it can start there."""
    free = {'context', 'remat', 'dtype', 'attention'}  # a run may choose these for any weights
    pairs: list[tuple[str, Any, Any, set[str]]] = [('', ours, theirs, free)]
    if ours.moe and theirs.moe:
        routing = {'bias_speed', 'replay'}
        if 'none' not in (ours.moe.router_bias, theirs.moe.router_bias):
            routing.add('router_bias')  # where there is a bias, whether it moves; weights without one get none
        pairs = [('', ours, theirs, free | {'moe'}), ('moe.', ours.moe, theirs.moe, routing)]
    found = [
        f'{at}{f.name} {getattr(b, f.name)} != {getattr(a, f.name)}'
        for at, a, b, free in pairs
        for f in dataclasses.fields(a)
        if f.name not in free and getattr(a, f.name) != getattr(b, f.name)
    ]
    return ', '.join(found)


def split(model: ModelConfig, mesh: MeshConfig) -> Iterator[Row]:
    sizes = [(field, getattr(model, field), field) for field in ('heads', 'kv_heads', 'hidden', 'vocab')]
    sizes.append(('width', model.width, 'embed'))
    if model.moe:
        sizes += [('moe.hidden', model.moe.hidden, 'hidden'), ('moe.experts', model.moe.experts, 'expert')]
    if model.mla:
        sizes += [('mla.kv_rank', model.mla.kv_rank, 'latent'), ('mla.q_rank', model.mla.q_rank, 'latent')]
    for field, size, axis in sizes:
        fits = size % mesh.ways(axis) == 0
        yield fits, f'{field}={size} is split over {parts(mesh, axis)}, so it must be a multiple of it'


def parts(mesh: MeshConfig, *logical: str) -> str:
    """The devices that logical axes are split over, in words: `mesh.fsdp=2`, or `mesh data×fsdp = 6`."""
    over = mesh.over(*logical)
    if len(over) == 1:
        return ''.join(f'mesh.{axis}={n}' for axis, n in over.items())
    return f'mesh {"×".join(over)} = {mesh.ways(*logical)}'


def rows_over(mesh: MeshConfig) -> str:
    """The axes that rows are split over, by name; those of one device only where they usually are not."""
    return '×'.join(a for a in mesh.rules.batch if a in ('data', 'fsdp') or getattr(mesh, a) > 1)


def devices(mesh: MeshConfig, here: int) -> Iterator[Row]:
    """Of a mesh, whose name is the path to it."""
    sizes = {axis: getattr(mesh, axis) for axis in AXES}
    told = [axis for axis in AXES if axis in ('data', 'fsdp', 'tensor') or sizes[axis] > 1]
    axes, product = '×'.join(told), '×'.join(str(sizes[axis]) for axis in told)
    there = f'{here} {"is" if here == 1 else "are"} here'
    yield mesh.devices <= here, f' {axes} = {product} needs {mesh.devices} devices, {there}'
    whole = mesh.data % mesh.slices == 0
    yield (
        whole,
        f'.data={mesh.data} must be a multiple of mesh.slices={mesh.slices}: each slice has an equal part of it',
    )


def adapters(lora: LoRA, model: ModelConfig | None) -> Iterator[Row]:
    yield bool(lora.targets), 'targets is empty: nothing would be trained'
    twice = next((t for i, t in enumerate(lora.targets) if t in lora.targets[:i]), None)
    yield twice is None, f'targets has {twice!r} twice'
    if model:
        moving = model.moe is not None and model.moe.router_bias == 'balance'
        yield not moving, "base is frozen, and the routers with it: model.moe.router_bias='balance' must be 'frozen'"
        yield (
            lora.rank <= model.width,
            f'rank={lora.rank} must be at most model.width={model.width}: no update has more',
        )


def roles(stage: Stage, recipe: Recipe) -> Iterator[Row]:
    """Reward models and policies are told apart: where a stage starts, how it is measured, whose scores it takes, who teaches it."""
    named = {each.name: each for each in recipe.stages}
    judges, loss = isinstance(stage.loss, REWARD_MODELS), stage.loss
    begins = stage.start in named and isinstance(named[stage.start].loss, REWARD_MODELS)
    yield judges or not begins, f'start={stage.start!r} is a reward model, which says no words'
    yield (
        not (judges and stage.lora),
        f'lora: with loss={type(loss).__name__} all weights are trained, for the new head',
    )
    wanted = Agreement if judges else Eval
    wrong = next((each for each in stage.evals if not isinstance(each, wanted)), None)
    yield wrong is None, f'evals.{getattr(wrong, "name", "")} must be {wanted.__name__} with loss={type(loss).__name__}'
    mixes = [stage.source, *stage.phases, *stage.evals]
    for part in (part for mix in mixes for part in getattr(mix, 'rewards', None) or ()):
        for name in getattr(part.fn, 'stages', ()):
            theirs, needs = named[name].loss, part.fn.loss
            said = f'reward {part.name} takes the scores of {name}, whose loss={type(theirs).__name__}'
            yield isinstance(theirs, needs), f'{said} must be {needs.__name__}'
    if isinstance(loss, Distil):
        teacher, model = named[loss.teacher], model_of(recipe, stage)
        policy = isinstance(teacher.loss, (NLL, GRPO, DPO, Distil))
        yield policy, f'loss.teacher={loss.teacher!r} ends with no policy: its loss={type(teacher.loss).__name__}'
        other = model_of(recipe, teacher)
        same = not (model and other) or model.vocab == other.vocab
        yield (
            same,
            f'model.vocab={model and model.vocab} must be that of its teacher {loss.teacher}, {other and other.vocab}',
        )
