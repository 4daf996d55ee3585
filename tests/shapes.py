"""What a recipe's stages would hold and compute, described: no array is made, and no device is asked for.

    training(recipe, stage)     train state before and after an update, its metrics
    sampling(recipe, stage)     what the policy's sampler gives where rows are one batch
    in_slots(recipe, stage)     and where they take slots in turn

trace what a stage would compile, at its sizes and on a mesh of as many devices as the recipe wants, of which none needs to be there. So a
recipe of 671 billion parameters is checked on a laptop. They find what does not fit together; XLA compiles nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh

from r1jax import sharding
from r1jax.checks import model_of
from r1jax.config import REWARD_MODELS, Distil, MeshConfig, ModelConfig, OnPolicy, Recipe, RowConfig, Stage
from r1jax.nn import lora
from r1jax.presets import PRESETS
from r1jax.sample import programs
from r1jax.sample.sampler import Prompts, sample, sample_keys
from r1jax.sample.step import Decode
from r1jax.train import optim
from r1jax.train import step as compiled
from r1jax.train.phases import longest
from r1jax.types import Batch, Rollout, TrainState

number = functools.partial(jax.ShapeDtypeStruct, ())


@dataclasses.dataclass(frozen=True)
class Trained:
    """A stage's training: ShapeDtypeStructs, with shardings but for what comes out."""

    weights: Any  # of the whole model
    state: TrainState
    after: TrainState  # as the update gives it back
    metrics: dict[str, Any]

    @property
    def parameters(self) -> int:
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self.state.params))

    @property
    def weights_a_device(self) -> int:
        return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(self.weights))

    @property
    def bytes_a_device(self) -> int:
        """Of what is trained, its moments and its gradients, and of the base of adapters, in bfloat16."""
        leaves, whole = jax.tree.leaves(self.state), jax.tree.leaves(self.state.params)
        held = sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in [*leaves, *whole])
        return held + (2 * self.weights_a_device if self.parameters < self.weights_a_device else 0)


@contextlib.contextmanager
def on(cfg: MeshConfig) -> Iterator[AbstractMesh]:
    """Within it, what is traced is for such a mesh, of devices that need not be here, and goes by its rules."""
    mesh = sharding.abstract_mesh(cfg)
    with sharding.ruled(cfg.rules), jax.sharding.use_abstract_mesh(mesh):
        yield mesh


def model(recipe: Recipe, stage: Stage) -> ModelConfig:
    return model_of(recipe, stage) or PRESETS[stage.start]


def training(recipe: Recipe, stage: Stage) -> Trained:
    """Traces the train state and an update of a stage that trains. Stages that are alike are traced once."""
    named, loss, source, rows = {each.name: each for each in recipe.stages}, stage.loss, stage.source, stage.rows
    teacher = model(recipe, named[loss.teacher]) if isinstance(loss, Distil) else None
    on_policy = isinstance(source, OnPolicy)
    items = -(-source.questions * source.samples // source.minibatches) if on_policy else source.batch
    return _training(
        model(recipe, stage), teacher, stage.mesh or recipe.mesh, loss, stage.optim, rows, items, on_policy, stage.lora
    )


@functools.cache
def _training(cfg, teacher, mesh, loss, optimizer, rows, items, on_policy, adapters) -> Trained:
    also = {}
    with on(mesh) as mesh:
        tx = optim.transform(optimizer)
        weights = compiled.described_params(cfg, mesh)
        state = compiled.described(cfg, tx, mesh, adapters, isinstance(loss, REWARD_MODELS))
        if teacher:
            also['taught'] = compiled.described_params(teacher, mesh)
        if adapters:
            also['base'] = jax.eval_shape(functools.partial(lora.frozen, cfg=adapters), weights)
        where = jax.tree.map(lambda leaf: leaf.sharding, state)
        update = compiled.build_update(cfg, loss, tx, where, adapters, teacher)
        scalars = number(np.int32), number(np.float32), number(np.float32), number(np.bool_)
        batch = _batch(cfg, mesh, rows, items, on_policy)
        after, metrics = jax.eval_shape(update, state, batch, *scalars, **also)
    return Trained(weights, state, after, metrics)


def sampling(recipe: Recipe, stage: Stage) -> Rollout:
    """Traces the call that draws the responses of a stage that samples, at its longest, where all rows fit into the slots."""
    cfg, source = model(recipe, stage), stage.source
    drawn, rows, decode = source.sample, source.sample.slots, _decode(recipe, stage)
    ids = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.int32)
    questions = (rows // source.samples,)
    prompts = Prompts(ids((*questions, drawn.max_prompt)), ids(questions), ids(questions))
    with on(stage.mesh or recipe.mesh) as mesh:
        keys = jax.eval_shape(lambda: sample_keys(0, 0, jnp.zeros(rows, jnp.int32), jnp.zeros(rows, jnp.int32)))
        params = compiled.described_params(cfg, mesh)
        drawing = functools.partial(sample, cfg=decode)
        return jax.eval_shape(drawing, params, prompts, keys, ids((rows,)), temperature=number(np.float32))


def in_slots(recipe: Recipe, stage: Stage) -> programs.Chunk:
    """Traces the engine's programs for a stage that samples: prompts in, into slots, a chunk of tokens."""
    cfg, decode, drawn = model(recipe, stage), _decode(recipe, stage), stage.source.sample
    ids, count = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.int32), number(np.int32)
    rows, prompts = (drawn.slots,), ((stage.mesh or recipe.mesh).ways('batch'),)
    with on(stage.mesh or recipe.mesh) as mesh:
        params = compiled.described_params(cfg, mesh)
        weights = jax.eval_shape(functools.partial(programs.prepared, model=cfg), params)
        prefill = functools.partial(programs.prefill, cfg=decode)
        block, _ = jax.eval_shape(prefill, params, ids((*prompts, drawn.max_prompt)), ids(prompts))
        size = drawn.max_prompt + decode.max_tokens
        empty = jax.eval_shape(lambda: programs.empty(programs.shapes(block), drawn.slots, size))
        filled = jax.eval_shape(programs.admit, empty, block, ids(rows), ids(rows), count)
        chunk = functools.partial(programs.chunk, cfg=decode, columns=32)
        after, out = jax.eval_shape(chunk, weights, filled, programs.Table.empty(drawn.slots, 2), count, count)
    assert jax.tree.map(lambda a: a.shape, after) == jax.tree.map(lambda a: a.shape, empty)
    return out


def _decode(recipe: Recipe, stage: Stage) -> Decode:
    cfg, source, drawn = model(recipe, stage), stage.source, stage.source.sample
    new = longest(stage) if isinstance(source, OnPolicy) else drawn.max_tokens
    routes = isinstance(source, OnPolicy) and cfg.replays
    return Decode(cfg, new, (0,), 0, drawn.top_p, drawn.top_k, drawn.buckets, routes)


def _batch(cfg: ModelConfig, mesh: AbstractMesh, rows: RowConfig, items: int, on_policy: bool) -> Batch:
    """The packed batch of an optimizer step of so many items."""
    shape = (-(-items // rows.per_microbatch), rows.per_microbatch, rows.length)
    place = sharding.named(mesh, 'micro', 'batch', 'length')
    kinds = dict.fromkeys(('tokens', 'position', 'segment', 'parent', 'source'), jnp.int32)
    kinds |= dict.fromkeys(('weight', 'advantage', 'sampler_logp', 'old_logp', 'ref_logp'), jnp.float32)
    arrays = {name: jax.ShapeDtypeStruct(shape, kind, sharding=place) for name, kind in kinds.items()}
    if on_policy and cfg.replays:
        arrays['routes'] = jax.ShapeDtypeStruct((*shape, cfg.expert_layers, cfg.moe.active), jnp.int16)
    return Batch(**arrays, prompts=rows.prompts, block=rows.block or rows.length - rows.prompts)
