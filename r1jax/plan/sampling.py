"""The programs that sample: of the engine, prompt by prompt and chunk by chunk, or of the one call that takes all rows together.

Axes: Q questions, S slots, A prompts, P tokens of a prompt, N new tokens.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax

from r1jax.config import Collect, Eval, OnPolicy, SampleConfig
from r1jax.nn.slots import BLOCK
from r1jax.plan import work
from r1jax.plan.hlo import Instruction
from r1jax.plan.program import F32, I32, Making, Program, Setting
from r1jax.sample import Prompts, Sampler, programs, quantised, sample
from r1jax.sample.memory import InPages
from r1jax.sample.programs import Table
from r1jax.train.phases import longest


class _Stops:
    """Stands for a tokenizer: which token ends a response changes no size."""

    eos = pad = 0


def of_sampling(setting: Setting, memory: Mapping[str, Any], policy: Any) -> Making:
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
    args: tuple = (policy, I32((A, P)), I32((A,)), engine.decode)
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
    in_pages = cache if isinstance(cache, InPages) else None
    admit, many = (programs.admit_pages, (in_pages.copied,) * 3) if in_pages else (programs.admit, (S,) * 2)
    ids, parts = (*(I32((n,)) for n in many), I32(())), A * (-(-P // in_pages.pool.page) if in_pages else 1)
    yield Program('admit' + label, admit, (layers, prompts[0], *ids), memory, '', calls, lambda loop: float(parts))
    table = cache.seen(Table.empty(S, engine.key_words))
    table = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), table)
    columns = engine.columns
    args = weights, layers, table, I32(()), I32(()), engine.decode, columns
    useful = columns * work.forward(model, S, (w.deepest or size) / 2)
    trips = _trips(columns, w.deepest or size, in_pages.pool.page if in_pages else BLOCK)
    yield Program(
        'decode' + label, programs.chunk, args, memory, '', once * w.tokens / S / columns, trips, useful=useful
    )
    if len(engine.sizes) > 1 and not in_pages:
        moved, count = layers[:1], once * len(layers)  # layer by layer
        yield Program('resize' + label, programs.resized, (moved, I32((engine.sizes[1],))), memory, 'cache', count)


def _together(setting: Setting, sampler: Sampler, memory: Mapping[str, Any], policy: Any) -> Program:
    Q, S, P, n = sampler.questions, sampler.slots, sampler.max_prompt, setting.work.mean
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), S))
    args = policy, Prompts(I32((Q, P)), I32((Q,)), I32((Q,))), keys, I32((S,)), sampler.decode, F32(()), I32((S,))
    model = sampler.decode.model
    useful = work.forward(model, Q * P, P / 2) + work.forward(model, S * n, P + n / 2)
    return Program('sample', sample, args, memory, '', 1.0, _trips(n, n, BLOCK), useful=useful)


def _trips(columns: float, deepest: float, block: int):
    """Of `decode/while`, and within it blocks of a cache."""

    def trips(loop: Instruction) -> float | None:
        scope = loop.scope
        if scope.endswith('decode/while'):
            return float(columns)
        if 'attention' in scope or 'decode/while' in scope:
            return max(deepest / block, 1.0)
        return None

    return trips
