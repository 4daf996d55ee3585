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

import dataclasses
import functools
import math
from collections.abc import Callable, Generator, Mapping
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
    Eval,
    ModelConfig,
    OnPolicy,
    RowConfig,
    SampleConfig,
    Stage,
    stages_read,
)
from r1jax.nn.lora import attach
from r1jax.nn.slots import BLOCK
from r1jax.plan import work
from r1jax.plan.hlo import Instruction
from r1jax.rl import logprobs
from r1jax.sample import Prompts, Sampler, programs, quantised, sample
from r1jax.sample.memory import InPages
from r1jax.sample.programs import Table
from r1jax.train import optim
from r1jax.train import step as compiled
from r1jax.train.phases import longest
from r1jax.types import Batch, TrainState

I32, F32 = (functools.partial(jax.ShapeDtypeStruct, dtype=t) for t in (np.int32, np.float32))
PER_TOKEN = {
    **dict.fromkeys(('tokens', 'position', 'segment', 'parent', 'source'), np.int32),
    **dict.fromkeys(('weight', 'advantage', 'sampler_logp', 'old_logp', 'ref_logp'), np.float32),
}


@dataclasses.dataclass(frozen=True)
class Program:
    """What is compiled once."""

    name: str
    fn: Any  # jitted
    args: tuple
    memory: Mapping[str, Any]  # kind -> arrays that lie in memory meanwhile, its arguments among them or not
    gives: str = ''  # the kind of what it gives; '': what it was given, changed in place
    calls: float = 0.0  # between two rollouts, or of a step; 0: not in the loop
    trips: Callable[[Instruction], float | None] = lambda loop: None
    gradients: Any = None  # what it forms gradients of
    activations: int = 0  # bytes a chip that are kept for them, by shapes
    useful: float = 0.0  # operations of all chips that a call cannot do without
    settings: Any = None  # what decides on the program, besides its arguments

    @property
    def dynamic(self) -> tuple:
        """The arguments that are no part of what is compiled."""
        return tuple(a for i, a in enumerate(self.args) if i not in _STATIC.get(self.name.partition(' (')[0], ()))

    @property
    def key(self) -> str:
        """Equal of programs that are compiled to the same."""
        leaves, tree = jax.tree.flatten(self.args)
        return repr((self.name, self.settings, tree, [_told(a) for a in leaves]))


# Which arguments are compiled in
_STATIC = {
    'freeze': (1,),
    'weights': (1,),
    'prefill': (3,),
    'slots': (0, 1, 2),
    'decode': (5, 6),
    'sample': (4,),
    'logprobs': (0,),
}


def _told(a):
    return (a.shape, a.dtype, getattr(a, 'sharding', None)) if hasattr(a, 'shape') else a


Making = Generator[Program, Any, None]


@dataclasses.dataclass(frozen=True)
class Setting:
    """A stage with what it is planned for."""

    stage: Stage  # with its model
    mesh: Mesh
    models: Mapping[str, ModelConfig]  # of the recipe's stages, by name
    mean: int = 0  # tokens of a response; 0: as long as they may be

    @property
    def work(self) -> work.Work:
        return work.of(self.stage, self.mean)


def of_stage(setting: Setting) -> Making:
    """All programs of a stage. Within the stage's mesh and rules."""
    stage, mesh = setting.stage, setting.mesh
    model, lora, scalar = stage.model, stage.lora, isinstance(stage.loss, REWARD_MODELS)
    key, memory = jax.eval_shape(lambda: jax.random.key(0)), {}
    if isinstance(stage.source, Collect):
        params = compiled.described_params(model, mesh)
        yield Program('init', compiled.build_init(model, mesh), (key,), {}, 'parameters', settings=model)
        yield from _sampling(setting, {'parameters': params}, params)
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
    yield from _sampling(setting, memory, policy)
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


# --- sampling


class _Stops:
    """Stands for a tokenizer: which token ends a response changes no size."""

    eos = pad = 0


def _sampling(setting: Setting, memory: Mapping[str, Any], policy: Any) -> Making:
    """Of the rollouts, and of the evaluation whose slots take most, if they take more than theirs."""
    stage, model, source = setting.stage, setting.stage.model, setting.stage.source
    most = 0
    if isinstance(source, (OnPolicy, Collect)):
        tokens = longest(stage) if isinstance(source, OnPolicy) else source.sample.max_tokens
        fixed, routes = isinstance(source, Collect), isinstance(source, OnPolicy) and model.replays
        sampler = Sampler.create(model, source.sample, source.samples, _Stops, 0, tokens, routes, fixed)
        many = source.questions * source.samples > sampler.slots
        turns = many or fixed or getattr(source, 'budget', 0) or sampler.pool  # as `Sampler` decides
        most = _held(dataclasses.replace(source.sample, max_tokens=tokens))
        yield from _drawing(setting, sampler, memory, policy, bool(turns))
    larger = [e for e in stage.evals if isinstance(e, Eval) and e.sample and _held(e.sample) > most]
    if larger:
        e = max(larger, key=lambda e: _held(e.sample))
        sampler = Sampler.create(model, e.sample, e.samples, _Stops, 0)
        yield from _drawing(setting, sampler, memory, policy, True, f' ({e.name})')


def _held(sample: SampleConfig) -> int:
    """Tokens that the cache has room for."""
    return sample.pool or sample.slots * (sample.max_prompt + sample.max_tokens)


def _drawing(
    setting: Setting, sampler: Sampler, memory: Mapping[str, Any], policy: Any, in_slots: bool, label=''
) -> Making:
    """`label` ends the names of programs that are no rollout's, and whose time does not count."""
    memory, w = dict(memory), setting.work
    once = 0.0 if label else 1.0
    if sampler.weights == 'int8':
        policy = yield Program('quantise' + label, quantised, (policy,), memory, 'decoding', once)
        if policy is None:
            return
        memory['decoding'] = policy
    if not in_slots:
        yield _together(setting, sampler, memory, policy)
        return
    S, P, size = sampler.slots, sampler.max_prompt, sampler.max_prompt + sampler.decode.max_tokens
    engine, model = sampler.engine, sampler.decode.model
    weights = yield Program('weights' + label, programs.prepared, (policy, model), memory, 'decoding', once)
    if weights is None:
        return
    memory['decoding'] = [memory.get('decoding'), weights]
    A = engine.prompts.together(P)
    calls, useful = once * math.ceil(w.prompts / A), work.forward(model, A * P, P / 2)
    args = policy, I32((A, P)), I32((A,)), engine.decode
    like = jax.eval_shape(lambda *dynamic: programs.prefill(*dynamic, engine.decode)[0], *args[:3])
    cache = engine.seats.memory
    empty, made = cache.empty(programs.shapes(like), S)
    layers = yield Program('slots' + label, empty, made, memory, 'cache')
    if layers is None:
        return
    memory['cache'] = layers
    prompts = yield Program('prefill' + label, programs.prefill, args, memory, 'cache', calls, useful=useful)
    if prompts is None:
        return
    memory['cache'] = [layers, prompts[0]]
    in_pages = isinstance(cache, InPages)
    admit, many = (programs.admit_pages, (cache.copied,) * 3) if in_pages else (programs.admit, (S,) * 2)
    ids, parts = (*(I32((n,)) for n in many), I32(())), A * (-(-P // cache.pool.page) if in_pages else 1)
    yield Program('admit' + label, admit, (layers, prompts[0], *ids), memory, '', calls, lambda loop: float(parts))
    table = cache.seen(Table.empty(S, engine.key_words))
    table = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), table)
    columns = engine.columns
    args = weights, layers, table, I32(()), I32(()), engine.decode, columns
    useful = columns * work.forward(model, S, (w.deepest or size) / 2)
    trips = _decoding(columns, w.deepest or size, cache.pool.page if in_pages else BLOCK)
    yield Program(
        'decode' + label, programs.chunk, args, memory, '', once * w.tokens / S / columns, trips, useful=useful
    )
    if len(engine.sizes) > 1 and not in_pages:
        yield Program('resize' + label, programs.resized, (layers, I32((engine.sizes[1],))), memory, 'cache', once)


def _together(setting: Setting, sampler: Sampler, memory: Mapping[str, Any], policy: Any) -> Program:
    Q, S, P, n = sampler.questions, sampler.slots, sampler.max_prompt, setting.work.mean
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), S))
    args = policy, Prompts(I32((Q, P)), I32((Q,)), I32((Q,))), keys, I32((S,)), sampler.decode, F32(()), I32((S,))
    model = sampler.decode.model
    useful = work.forward(model, Q * P, P / 2) + work.forward(model, S * n, P + n / 2)
    return Program('sample', sample, args, memory, '', 1.0, _decoding(n, n, BLOCK), useful=useful)


# --- learning


def batch(stage: Stage, mesh: Mesh, capacity: int) -> Batch:
    """The Batch [M,R,T] that holds `capacity` items of an optimizer step, described."""
    rows, model = stage.rows, stage.model
    shape = (-(-capacity // rows.per_microbatch), rows.per_microbatch, rows.length)
    place = sharding.named(mesh, 'micro', 'batch', 'length')
    fields = {n: jax.ShapeDtypeStruct(shape, t, sharding=place) for n, t in PER_TOKEN.items()}
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
        args = model, policy, packed, I32(()), F32(())
        there = memory
        if 'reference' in stage.offload:  # it comes for its pass
            there = memory | {'frozen': [memory['frozen'], _copy(state.params)]}
        yield Program('logprobs', compiled.logprobs, args, there, '', w.passes, trips, useful=passed)
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


# --- how often loops run that do not know it themselves


def _depth(scope: str) -> int:
    return scope.count('while')


def _decoding(columns: float, deepest: float, block: int):
    """Of `decode/while`, and within it blocks of a cache."""

    def trips(loop: Instruction) -> float | None:
        scope = loop.scope
        if scope.endswith('decode/while'):
            return float(columns)
        if 'attention' in scope or 'decode/while' in scope:
            return max(deepest / block, 1.0)
        return None

    return trips


def _learned(microbatches: float, chunks: float):
    """Of the loop over microbatches, and within it the head's over chunks of tokens."""

    def trips(loop: Instruction) -> float | None:
        if 'head' in loop.scope:
            return float(chunks)
        return float(microbatches) if _depth(loop.scope) == 1 else None

    return trips
