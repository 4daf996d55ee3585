"""Every experiment loads, passes the checks and can be written to config.json; those of real models are traced at their real size."""

import dataclasses
import math
import pathlib

import jax
import pytest
import shapes
from test_presets import COUNTS

from r1jax import presets
from r1jax.checks import validate
from r1jax.config import OnPolicy
from r1jax.record import difference, to_json
from r1jax.settings import load_recipe

EXPERIMENTS = sorted((pathlib.Path(__file__).parents[1] / 'experiments').glob('*.py'))
REAL = [path for path in EXPERIMENTS if path.stem.startswith(('zero_', 'distill_'))]

PAPER = {  # a student's base and learning rate (R1 report §2.4; Methods)
    'distill_qwen_1_5b': ('Qwen2.5-Math-1.5B', 1e-4),
    'distill_qwen_7b': ('Qwen2.5-Math-7B', 8e-5),
    'distill_qwen_14b': ('Qwen2.5-14B', 7e-5),
    'distill_qwen_32b': ('Qwen2.5-32B', 6e-5),
    'distill_llama_8b': ('Llama-3.1-8B', 5e-5),
    'distill_llama_70b': ('Llama-3.3-70B-Instruct', 2e-5),
}


def name(path):
    return path.stem


@pytest.mark.parametrize('path', EXPERIMENTS, ids=name)
def test_experiment_can_run(path):
    recipe = load_recipe(path)
    meshes = recipe.mesh, *(stage.mesh for stage in recipe.stages if stage.mesh)
    validate(recipe, devices=max(mesh.devices for mesh in meshes))
    assert recipe.name == path.stem
    assert not difference(to_json(recipe), to_json(load_recipe(path)))


@pytest.mark.parametrize('path', REAL, ids=name)
def test_real_recipes_say_what_they_need_and_that_they_were_not_run(path):
    told = load_recipe(path) and path.read_text(encoding='utf-8').split('"""')[1]
    (stage,) = load_recipe(path).stages
    base = stage.start.removeprefix('weights/').rstrip('/')
    assert base in presets.PRESETS
    assert 'Hardware:' in told and 'NOT YET RUN. Expected:' in told and f'r1jax run experiments/{path.name}' in told
    assert f'--local-dir weights/{base}' in told or 'zero_qwen_1_5b.py' in told
    if path.stem.startswith('distill_'):
        assert PAPER[path.stem] == (base, stage.optim.learning_rate)
        assert (stage.optim.schedule, stage.optim.final, stage.source.batch) == ('cosine', 0.1, 64)
        assert f'{stage.optim.learning_rate:.0e}'.replace('e-0', 'e-') in told


def test_every_student_has_a_recipe():
    assert {path.stem for path in REAL if path.stem.startswith('distill_')} == PAPER.keys()
    assert {base for base, _ in PAPER.values()} == set(presets.STUDENTS.values())


TRAINING = [  # every stage of every recipe of real models that trains
    pytest.param(path, stage.name, id=f'{path.stem}-{stage.name}')
    for path in EXPERIMENTS
    if path.stem.startswith(('zero_', 'distill_', 'r1_'))
    for stage in load_recipe(path).stages
    if stage.loss
]


@pytest.mark.parametrize('path, stage', TRAINING)
def test_a_stage_of_a_real_recipe_divides_over_its_chips_and_traces(path, stage):
    """An optimizer step at its own size through forward, loss, backward and optimizer, on its own mesh; nothing of it is allocated."""
    recipe = load_recipe(path)
    stage = next(each for each in recipe.stages if each.name == stage)
    traced, mesh = shapes.training(recipe, stage), stage.mesh or recipe.mesh
    whole = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(traced.weights))
    assert whole <= traced.weights_a_device * (mesh.devices // mesh.data) < 1.05 * whole
    assert traced.bytes_a_device < (22e9 if path.stem == 'r1_671b' else 20.5e9)  # before activations and the cache

    def like(tree):
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)

    assert like(traced.after) == like(traced.state) and 'loss' in traced.metrics
    base = stage.start.removeprefix('weights/').rstrip('/')
    if base in presets.PRESETS and not stage.lora:
        assert traced.parameters == COUNTS[base]


def of_few_layers(model):
    """The sampler has each layer apart: 61 of them take a minute to trace, and show what two of each kind show."""
    return model and dataclasses.replace(model, layers=(model.moe.dense_layers if model.moe else 0) + 2)


@pytest.mark.slow
@pytest.mark.parametrize('path', [path for path in EXPERIMENTS if path.stem.startswith('r1_')], ids=name)
def test_the_sampler_of_a_real_recipe_traces(path):
    recipe = load_recipe(path)
    stages = tuple(dataclasses.replace(stage, model=of_few_layers(stage.model)) for stage in recipe.stages)
    recipe = dataclasses.replace(recipe, model=of_few_layers(recipe.model), stages=stages)
    for stage in recipe.stages:
        if hasattr(stage.source, 'sample'):
            rollout, drawn = shapes.sampling(recipe, stage), stage.source.sample
            longest = max(drawn.max_tokens, *(phase.max_tokens or 0 for phase in stage.phases), 0)
            assert rollout.tokens.shape == (drawn.slots, drawn.max_prompt + longest)
            assert shapes.in_slots(recipe, stage).tokens.shape == (drawn.slots, 32)
            assert (rollout.routes is not None) == (recipe.model.replays and isinstance(stage.source, OnPolicy))
