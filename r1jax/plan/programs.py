"""The programs of a stage, each with its arguments described but not made: what a run would compile, in the order in which it would.

    making = programs(stage, …)
    given = None
    while True:
        program = making.send(given)          # StopIteration at the end
        given = …                             # what it gives, described: shapes with the shardings that the compiler chose; None: unknown

One is described with what the ones before it give, as the weights of decoding are with what they were made into. Besides a program's
arguments, `memory` says what else lies there while it runs.

Axes: M microbatches, R rows of one, T tokens of a row, S slots, A prompts, P tokens of a prompt.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from r1jax import sharding
from r1jax.config import (
    DPO,
    GRPO,
    REWARD_MODELS,
    Collect,
    Distil,
    ModelConfig,
    OnPolicy,
    RowConfig,
    Stage,
    stages_read,
)
from r1jax.nn.lora import attach
from r1jax.plan import work
from r1jax.plan.hlo import Instruction
from r1jax.plan.program import F32, I32, Making, Program, Setting
from r1jax.plan.sampling import of_sampling
from r1jax.rl import logprobs
from r1jax.train import optim
from r1jax.train import step as compiled
from r1jax.train.phases import longest
from r1jax.types import Batch, TrainState

PER_TOKEN = {
    **dict.fromkeys(('tokens', 'position', 'segment', 'parent', 'source'), np.int32),
    **dict.fromkeys(('weight', 'advantage', 'sampler_logp', 'old_logp', 'ref_logp'), np.float32),
}


def of_stage(setting: Setting) -> Making:
    """All programs of a stage. Within the stage's mesh and rules."""
    stage, mesh = setting.stage, setting.mesh
    model, lora, scalar = stage.model, stage.lora, isinstance(stage.loss, REWARD_MODELS)
    key, memory = jax.eval_shape(lambda: jax.random.key(0)), {}
    if isinstance(stage.source, Collect):
        params = compiled.described_params(model, mesh)
        yield Program('init', compiled.build_init(model, mesh), (key,), {}, 'parameters', settings=model)
        yield from of_sampling(setting, {'parameters': params}, params)
        return
    tx = optim.transform(stage.optim)
    offload = 'optimizer' in stage.offload
    where = compiled.shardings(model, tx, mesh, lora, scalar, offload)
    state, base = compiled.described(model, tx, mesh, lora, scalar, offload), None
    if lora:
        whole = compiled.described_params(model, mesh)
        yield Program('init base', compiled.build_init(model, mesh), (key,), {}, 'frozen', settings=model)
        base = yield Program('freeze', compiled.freeze, (whole, lora), {'frozen': whole}, 'frozen')
        if base is None:
            return
        memory = {'frozen': base}
    made = compiled.build_init(model, mesh, lora, scalar)
    yield Program('init', made, (key,), memory, 'parameters', settings=(model, lora, scalar))
    memory = {'parameters': state.params} | memory
    fill = jax.jit(tx.init, out_shardings=where.opt_state)
    yield Program('optimizer', fill, (state.params,), memory, 'optimizer', settings=stage.optim)
    taught, frozen = None, [base] if lora else []
    if isinstance(stage.loss, GRPO | DPO) and stage.loss.beta:
        frozen.append(
            _copy(state.params, 'reference' in stage.offload)
        )  # the reference: weights, or with lora adapters once it is refreshed
    if isinstance(stage.loss, Distil):
        taught = compiled.described_params(setting.models[stage.loss.teacher], mesh)
        frozen.append(taught)
    frozen += [compiled.described_params(setting.models[name], mesh, scalar=True) for name in _judges(stage)]
    memory = {'parameters': state.params, 'optimizer': state.opt_state, 'frozen': frozen}
    policy = attach(base, state.params, lora) if lora else state.params
    yield from of_sampling(setting, memory, policy)
    yield from _learning(setting, memory, state, where, tx, base, taught, policy)


def _copy(tree, waiting=False):
    """Another of the same, or with `waiting` in the host's memory."""

    def copied(a):
        where = a.sharding.with_memory_kind(sharding.HOST) if waiting else a.sharding
        return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where)

    return jax.tree.map(copied, tree)


def _judges(stage: Stage) -> tuple[str, ...]:
    """The reward models that a stage asks: stages that it reads, but for those that it reads data of."""
    parts = [part for mix in (stage.source, *stage.phases) for part in getattr(mix, 'rewards', None) or ()]
    return tuple(dict.fromkeys(name for part in parts for name in stages_read(part.fn)))


# --- learning


def batch(stage: Stage, mesh: Mesh, capacity: int) -> Batch:
    """The Batch [M,R,T] that holds `capacity` items of an optimizer step, described."""
    rows, model = stage.rows, stage.model
    shape = (-(-capacity // rows.per_microbatch), rows.per_microbatch, rows.length)
    place = sharding.named(mesh, 'micro', 'batch', 'length')
    fields: dict[str, Any] = {n: jax.ShapeDtypeStruct(shape, t, sharding=place) for n, t in PER_TOKEN.items()}
    if isinstance(stage.source, OnPolicy) and model.replays:
        routes = (*shape, model.expert_layers, model.moe.active)
        fields['routes'] = jax.ShapeDtypeStruct(routes, np.int16, sharding=place)
    return Batch(**fields, prompts=rows.prompts, block=rows.block or rows.length - rows.prompts)


def _learning(setting, memory, state: TrainState, where, tx, base, taught, policy) -> Making:
    stage, mesh, w = setting.stage, setting.mesh, setting.work
    source, model, rows = stage.source, stage.model, stage.rows
    most = source.batch if not isinstance(source, OnPolicy) else source.questions * source.samples
    if isinstance(source, OnPolicy):
        if source.budget and not source.max_refills:
            most *= math.ceil(longest(stage) / source.budget)
        most = math.ceil(most / source.minibatches)
    packed = batch(stage, mesh, most)
    wanted = min(
        rows.length - rows.prompts, -(-rows.length // sharding.ways('length', mesh=mesh))
    )  # of the fullest part
    chunk = logprobs.chunk((rows.per_microbatch, rows.length), model.vocab)
    trips = _learned(w.microbatches, math.ceil(wanted / chunk))
    n = min(w.mean, work.cut(rows)[1])
    seen = (rows.prompts if rows.prompts else 0) + n / 2
    passed = w.microbatches * work.forward(model, rows.per_microbatch * rows.length, seen)
    if w.passes:
        asked = model, policy, packed, I32(()), F32(())
        there = memory
        if 'reference' in stage.offload:  # it comes for its pass
            there = memory | {'frozen': [memory['frozen'], _copy(state.params)]}
        yield Program('logprobs', compiled.logprobs, asked, there, '', w.passes, trips, useful=passed)
    update = compiled.build_update(
        model, stage.loss, tx, where, stage.lora, setting.models[stage.loss.teacher] if taught else None
    )
    scalars = I32(()), F32(()), F32(()), jax.ShapeDtypeStruct((), np.bool_)
    args = (state, packed, *scalars, base, taught)
    kept = activations(model, mesh, rows)
    settings = model, stage.loss, stage.optim, stage.lora
    yield Program('update', update, args, memory, '', w.updates, trips, state.params, kept, 3 * passed, settings)


def activations(model: ModelConfig, mesh: Mesh, rows: RowConfig) -> int:
    """Bytes a chip that the layers keep of a microbatch for the backward pass, by shapes: what goes into each, unless that waits in the
    host's memory, and with other policies than 'full' what attention or all its products give.
    """
    tokens = rows.per_microbatch * rows.length / sharding.ways('batch', 'length', mesh=mesh)
    if model.remat == 'offload':
        return 0
    if model.remat == 'full':
        return int(4 * tokens * model.width * model.layers)
    if model.remat == 'attention':
        value = model.mla.value if model.mla else model.head_dim
        out = model.heads * (value + 1) / sharding.ways('heads', mesh=mesh)  # and the logsumexp
        return int(4 * tokens * model.layers * (model.width + out))
    heads = (2 * model.heads + 2 * model.kv_heads) * model.head_dim
    split = sharding.ways('heads', mesh=mesh)
    return int(4 * tokens * model.layers * (model.width + (heads + 3 * model.hidden) / split))


def _learned(microbatches: float, chunks: float):
    """Of the loop over microbatches, and within it the head's over chunks of tokens."""

    def trips(loop: Instruction) -> float | None:
        if 'head' in loop.scope:
            return float(chunks)
        return float(microbatches) if loop.scope.count('while') == 1 else None

    return trips
