"""Every experiment loads, passes the checks and can be written to config.json; those of real models are traced at their real size."""

import math
import pathlib

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding

from r1jax import presets, sharding
from r1jax.checks import model_of, validate
from r1jax.config import MeshConfig
from r1jax.nn import transformer
from r1jax.record import difference, to_json
from r1jax.settings import load_recipe
from r1jax.train import optim
from r1jax.train import step as compiled
from r1jax.types import Batch

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
    mesh = recipe.mesh
    validate(recipe, devices=mesh.data * mesh.fsdp * mesh.tensor)
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


@pytest.mark.parametrize('path', REAL, ids=name)
def test_the_state_of_a_real_recipe_divides_over_its_chips(path):
    """Shapes alone: of each weight and moment what a chip holds, which must divide evenly and leave room beside it."""
    recipe = load_recipe(path)
    (stage,) = recipe.stages
    model, mesh = model_of(recipe, stage), recipe.mesh
    chips = AbstractMesh((mesh.data, mesh.fsdp, mesh.tensor), ('data', 'fsdp', 'tensor'), (AxisType.Auto,) * 3)
    boxed = jax.eval_shape(lambda: transformer.init_boxed(model, jax.random.key(0)))

    def held(leaf, axes):
        return math.prod(NamedSharding(chips, sharding.spec(*axes)).shard_shape(leaf.shape))

    leaves, axes = jax.tree.leaves(transformer.unbox(boxed)), jax.tree.leaves(transformer.logical_axes(boxed))
    here = sum(held(a, tuple(p)) for a, p in zip(leaves, axes, strict=True))
    assert here * mesh.fsdp * mesh.tensor == pytest.approx(sum(math.prod(a.shape) for a in leaves), rel=0.05)
    assert (2 if stage.lora else 16) * here < 20.5e9  # bytes: weights, two moments and gradients, or the base alone


@pytest.mark.parametrize('path', REAL, ids=name)
def test_an_update_of_a_real_recipe_traces(path):
    """A microbatch of its own size through forward, loss, backward and optimizer, nothing of it allocated."""
    recipe = load_recipe(path)
    (stage,) = recipe.stages
    model, mesh, cut = model_of(recipe, stage), sharding.make_mesh(MeshConfig()), stage.rows
    tx = optim.transform(stage.optim)
    shape = 1, cut.per_microbatch, cut.length
    ids = {n: jax.ShapeDtypeStruct(shape, np.int32) for n in ('tokens', 'position', 'segment', 'parent', 'source')}
    names = ('weight', 'advantage', 'sampler_logp', 'old_logp', 'ref_logp')
    batch = Batch(
        **ids, **{n: jax.ShapeDtypeStruct(shape, np.float32) for n in names}, prompts=cut.prompts, block=cut.block
    )
    where = compiled.shardings(model, tx, mesh, stage.lora)
    state = compiled.described(model, tx, mesh, stage.lora)
    update = compiled.build_update(model, stage.loss, tx, where, stage.lora)
    base = ()
    if stage.lora:
        plain = jax.eval_shape(lambda: transformer.unbox(transformer.init_boxed(model, jax.random.key(0))))
        base = (jax.eval_shape(lambda p: compiled.freeze(p, stage.lora), plain),)
    after, metrics = jax.eval_shape(
        update, state, batch, np.int32(1), np.float32(1), np.float32(1), np.bool_(False), *base
    )
    assert jax.tree.map(lambda a: a.shape, after) == jax.tree.map(lambda a: a.shape, state)
    assert 'loss' in metrics
