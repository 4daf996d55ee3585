"""The compiled functions of training: `init_state`, `logprobs`, `update`. Pure; jitted here and nowhere else.

With `lora` the parameters of the state are adapters. The base travels beside the state: it is neither donated nor changed. So does the
teacher of a distillation. With `scalar` they are those of a reward model, which has a value head in place of the unembedding.

A batch arrives as [M,R,T] microbatches of which the first `count` are in use. The loop over them has a dynamic trip count, so a
rollout of any length runs the same program, and cutting a batch differently changes nothing but rounding.

Axes: M microbatches, R rows of one, T tokens of a row, D width.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from r1jax import sharding
from r1jax.config import DPO, GRPO, NLL, REWARD_MODELS, BradleyTerry, Distil, LoRA, ModelConfig, Pointwise
from r1jax.nn import heads, moe, transformer
from r1jax.nn import lora as adapters
from r1jax.rl import distil
from r1jax.rl import loss as losses
from r1jax.rl.logprobs import token_logprobs
from r1jax.train import optim
from r1jax.types import Batch, TrainState

Loss = NLL | GRPO | DPO | BradleyTerry | Pointwise | Distil
Teacher = tuple[ModelConfig, Any]  # with its weights


def _init_boxed(model: ModelConfig, key: jax.Array, lora: LoRA | None, scalar: bool):
    return adapters.init_boxed(model, lora, key) if lora else transformer.init_boxed(model, key, scalar)


def shardings(
    model: ModelConfig, tx, mesh: Mesh, lora: LoRA | None = None, scalar: bool = False, offload: bool = False
) -> TrainState:
    """NamedSharding of every leaf of the train state, found without allocating it. offload: of the optimizer's in the host's memory.

    The whole state is described while parameters are boxed with their logical axes, so that optimizer moments inherit them.
    """

    def boxed():
        params = _init_boxed(model, jax.random.key(0), lora, scalar)
        return TrainState(step=jnp.int32(0), params=params, opt_state=tx.init(params))

    state = jax.eval_shape(boxed)
    where = transformer.placed(state, mesh)
    return (
        dataclasses.replace(where, opt_state=_waiting(transformer.unbox(state).opt_state, where.opt_state))
        if offload
        else where
    )


def _waiting(arrays, where):
    """Shardings in the host's memory; counts of steps stay where they are."""
    return jax.tree.map(lambda a, s: sharding.in_memory(s, sharding.HOST) if a.ndim else s, arrays, where)


def described(
    model: ModelConfig, tx, mesh: Mesh, lora: LoRA | None = None, scalar: bool = False, offload: bool = False
) -> TrainState:
    """The train state as ShapeDtypeStructs with their shardings."""

    def plain():
        params = transformer.unbox(_init_boxed(model, jax.random.key(0), lora, scalar))
        return TrainState(step=jnp.int32(0), params=params, opt_state=tx.init(params))

    return _structs(jax.eval_shape(plain), shardings(model, tx, mesh, lora, scalar, offload))


def weight_shardings(model: ModelConfig, mesh: Mesh, lora: LoRA | None = None, scalar: bool = False) -> Any:
    """NamedSharding of every weight, or with `lora` of every adapter."""
    return transformer.placed(jax.eval_shape(lambda: _init_boxed(model, jax.random.key(0), lora, scalar)), mesh)


def described_params(model: ModelConfig, mesh: Mesh, lora: LoRA | None = None, scalar: bool = False) -> Any:
    """The weights, or with `lora` the adapters, as ShapeDtypeStructs with their shardings."""
    plain = jax.eval_shape(lambda: transformer.unbox(_init_boxed(model, jax.random.key(0), lora, scalar)))
    return _structs(plain, weight_shardings(model, mesh, lora, scalar))


def _structs(tree, where):
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), tree, where)


def init_params(model: ModelConfig, key: jax.Array, mesh: Mesh, lora: LoRA | None = None) -> Any:
    """Random weights, or with `lora` new adapters, on the mesh."""
    return build_init(model, mesh, lora)(key)


def build_init(model: ModelConfig, mesh: Mesh, lora: LoRA | None = None, scalar: bool = False) -> Callable:
    """init(key) -> random weights, or with `lora` new adapters."""

    def init(key):
        return transformer.unbox(_init_boxed(model, key, lora, scalar))

    return jax.jit(init, out_shardings=weight_shardings(model, mesh, lora, scalar))


def with_value_head(model: ModelConfig, params: Any, key: jax.Array, mesh: Mesh) -> Any:
    """Weights with a new value head in place of their unembedding; those of a reward model as they are. On the mesh."""
    if 'value' in params:
        return params
    return sharding.put(heads.with_value_head(params, key), weight_shardings(model, mesh, scalar=True))


def init_state(
    model: ModelConfig,
    tx,
    key: jax.Array,
    mesh: Mesh,
    params: Any = None,
    lora: LoRA | None = None,
    scalar: bool = False,
    offload: bool = False,
) -> TrainState:
    """A sharded train state at step 0: random parameters, or `params` (host or device arrays) placed on the mesh.

    With `scalar` there must be `params`: a reward model begins as a language model (`with_value_head`).
    """
    where = shardings(model, tx, mesh, lora, scalar, offload)
    params = init_params(model, key, mesh, lora) if params is None else sharding.put(params, where.params)
    opt_state = jax.jit(tx.init, out_shardings=where.opt_state)(params)
    return TrainState(step=sharding.put(np.int32(0), where.step), params=params, opt_state=opt_state)


@functools.partial(jax.jit, static_argnums=1)
def freeze(params: Any, lora: LoRA) -> Any:
    """Weights as the base of `lora`."""
    return adapters.frozen(params, lora)


def merge(base: Any, params: Any, lora: LoRA) -> Any:
    """A base and its adapters as plain float32 weights. A float32 base is donated: the weights take its place."""
    return (_merge_in_place if lora.base == 'float32' else _merge)(base, params, lora)


def _merged(base, params, lora):
    whole = adapters.merged(adapters.attach(base, params, lora))
    return jax.tree.map(lambda a: a.astype(jnp.float32), whole)


_merge = jax.jit(_merged, static_argnums=2)
_merge_in_place = jax.jit(_merged, static_argnums=2, donate_argnums=0)


@jax.jit
def fingerprint(params: Any) -> jax.Array:
    """u32[]: a number that other weights, or the same ones elsewhere in their arrays, hardly have. Sums of integers: no order matters."""
    total = jnp.uint32(0)
    for leaf in jax.tree.leaves(params):
        bits = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f'uint{8 * leaf.dtype.itemsize}')).astype(jnp.uint32)
        at = jnp.uint32(1)
        for axis, size in enumerate(leaf.shape):
            at = at * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
        total = total * jnp.uint32(1000003) + jnp.sum(bits * (2 * at + 1), dtype=jnp.uint32)
    return total


def to_host(params: Any) -> Any:
    """A copy of weights, split as they are, in the host's memory."""
    return jax.device_put(params, sharding.in_memory(jax.tree.map(lambda a: a.sharding, params), sharding.HOST))


def to_device(params: Any) -> Any:
    """Weights in the devices' memory; those that are there already are themselves."""
    where = jax.tree.map(lambda a: a.sharding, params)
    waiting = any(each.memory_kind == sharding.HOST for each in jax.tree.leaves(where))
    return jax.device_put(params, sharding.in_memory(where, sharding.DEVICE)) if waiting else params


def place(batch: Batch, mesh: Mesh) -> Batch:
    """A host batch [M,R,T] on the mesh, rows split over data × fsdp."""
    return sharding.put(batch, sharding.named(mesh, 'micro', 'batch', 'length'))


def _hidden(model, params, batch, replays=False):
    where = batch.tokens, batch.position, batch.segment, batch.parent
    routes = batch.routes if replays else None
    hidden, _, aux = transformer.forward(model, params, *where, prompts=batch.prompts, block=batch.block, routes=routes)
    return hidden, aux


def _logprobs(model, params, batch, temperature):
    hidden, aux = _hidden(model, params, batch, model.replays)
    head, on = transformer.unembedding(params), batch.weight != 0
    return *token_logprobs(hidden, head, batch.tokens, batch.source, temperature, model.dtype, on), aux


def _micro(batch, i):
    return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, i, 0, keepdims=False), batch)


@functools.partial(jax.jit, static_argnums=0)
def logprobs(model: ModelConfig, params, batch: Batch, count: jax.Array, temperature: jax.Array) -> jax.Array:
    """f32[M,R,T]: the log-probability of every token with a weight in the first `count` microbatches; 0 elsewhere."""

    def body(i, out):
        logp, _, _ = _logprobs(model, params, _micro(batch, i), temperature)
        return jax.lax.dynamic_update_index_in_dim(out, logp, i, 0)

    return jax.lax.fori_loop(0, count, body, jnp.zeros(batch.weight.shape, jnp.float32))


def loss_and_metrics(
    model: ModelConfig, loss: Loss, params, batch: Batch, temperature, fresh, teacher: Teacher | None = None
):
    """The loss of one microbatch [R,T], with (sums, maxima) of its metrics: sums over the `tokens` among them, and `weighted` ones, which
    are means. `fresh`, `teacher`: see `build_update`.
    """
    if isinstance(loss, REWARD_MODELS):
        return _judged(model, loss, params, batch)
    if isinstance(loss, Distil):
        return _distilled(model, loss, params, batch, teacher)
    logp, entropy, aux = _logprobs(model, params, batch, temperature)
    load = {'load': aux['load']} if aux else {}
    if isinstance(loss, NLL):
        tokens = jnp.sum(batch.weight > 0, dtype=jnp.float32)
        return losses.nll(logp, batch), ({'tokens': tokens} | load, {})
    if isinstance(loss, DPO):
        value, metrics = losses.dpo(logp, batch, loss.beta)
        tokens = jnp.sum(batch.weight > 0, dtype=jnp.float32)
        return value, ({'tokens': tokens, 'weighted': {f'preference/{k}': x for k, x in metrics.items()}} | load, {})
    clip = (loss.clip_low, loss.clip_high)
    old = jnp.where(fresh, jax.lax.stop_gradient(logp), batch.old_logp)
    batch = dataclasses.replace(batch, old_logp=old, ref_logp=batch.ref_logp if loss.beta else old)
    value = losses.grpo(logp, batch, clip, loss.beta, loss.kl, loss.importance_cap, loss.ratio)
    sums, tops = losses.grpo_metrics(logp, entropy, batch, clip, loss.importance_cap, loss.ratio)
    if not loss.beta:
        del sums['policy/kl']  # there is no reference to be far from
    return value, (sums | load, tops)


def _judged(model, loss, params, batch):
    """Of a batch of `r1jax.rl.judged`, whose weights stand at the last tokens of sequences."""
    hidden, aux = _hidden(model, params, batch)
    with jax.named_scope('value'):
        score = heads.values(params, hidden)  # f32[R,T]
    if isinstance(loss, BradleyTerry):
        rejected = jnp.take_along_axis(score, batch.source, 1)
        value, metrics = losses.bradley_terry(score, rejected, batch.weight)
    else:
        value, metrics = losses.pointwise(score, batch.advantage, batch.weight)
    sums = {'tokens': jnp.sum(batch.segment >= 0, dtype=jnp.float32)} | ({'load': aux['load']} if aux else {})
    return value, (sums | {'weighted': {f'score/{name}': x for name, x in metrics.items()}}, {})


def _distilled(model, loss, params, batch, teacher):
    """Of a batch as any policy learns from; the teacher reads it too, by its own experts if it has any."""
    hidden, aux = _hidden(model, params, batch, model.replays)
    theirs, weights = teacher
    seen, _ = _hidden(theirs, weights, batch)
    both = (
        (hidden, transformer.unembedding(params), model.dtype),
        (jax.lax.stop_gradient(seen), transformer.unembedding(weights), theirs.dtype),
    )
    on = batch.weight > 0
    kl, measured = distil.divergence(*both, batch.source, loss.temperature, loss.kl, on)
    sums = {name: jnp.sum(x, where=on, dtype=jnp.float32) for name, x in measured.items()}
    sums |= {'tokens': jnp.sum(on, dtype=jnp.float32)} | ({'load': aux['load']} if aux else {})
    return jnp.sum(batch.weight * kl), (sums, {})


def gradients(
    model: ModelConfig, loss: Loss, params, batch: Batch, count, temperature, fresh, whole=None, teacher=None
):
    """Loss, metrics and gradients of a whole batch, summed over its first `count` microbatches.

    `whole` makes weights of the parameters that are trained, where those are not the weights themselves.
    """

    def one(params, micro):
        weights = whole(params) if whole else params
        return loss_and_metrics(model, loss, weights, micro, temperature, fresh, teacher)

    def body(i, carry):
        value, sums, tops, grads = carry
        (v, (s, t)), g = jax.value_and_grad(one, has_aux=True)(params, _micro(batch, i))
        add = functools.partial(jax.tree.map, jnp.add)
        return value + v, add(sums, s), jax.tree.map(jnp.maximum, tops, t), add(grads, g)

    _, (sums, tops) = jax.eval_shape(one, params, _micro(batch, 0))
    zeros = functools.partial(jax.tree.map, lambda a: jnp.zeros(a.shape, a.dtype))
    return jax.lax.fori_loop(0, count, body, (jnp.float32(0), zeros(sums), zeros(tops), zeros(params)))


def build_update(
    model: ModelConfig,
    loss: Loss,
    tx,
    where: TrainState,
    lora: LoRA | None = None,
    teacher: ModelConfig | None = None,
) -> Callable:
    """update(state, batch, count, rate, temperature, fresh[, base][, taught]) -> state, metrics. `state` alone is donated.

    batch [M,R,T] with `count` microbatches in use; rate f32[]; temperature f32[] of the distribution that was sampled;
    fresh bool[]: the parameters are still those that sampled the rollout, so π_old is this very forward pass (else batch.old_logp).
    A step whose loss or gradient is not finite, or whose batch is empty, leaves parameters and optimizer as they were
    and reports `policy/skipped` 1. `where` holds the shardings of the state. `base`, with `lora`: the frozen weights. `taught`, with the
    loss `Distil`: the weights of the `teacher`.

    Routers of a model with experts: their bias has no gradient, and stays ('frozen') or moves by the step's loads ('balance'), which is
    no part of the optimizer; where the batch holds the experts that sampling chose, every pass of a stage takes them (policy, π_old and
    reference alike, so that the KL of equal weights is 0).
    """

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=(where, None))
    def update(state, batch, count, rate, temperature, fresh, base=None, taught=None):
        whole = lora and functools.partial(adapters.attach, base, cfg=lora)
        also = whole, teacher and (teacher, taught)
        value, sums, tops, grads = gradients(model, loss, state.params, batch, count, temperature, fresh, *also)
        norm = optim.global_norm(grads)
        good = jnp.isfinite(value) & jnp.isfinite(norm) & (count > 0)
        grads = jax.tree.map(lambda g: jnp.where(good, g, 0.0), grads)
        old = state.opt_state
        if any(each.memory_kind == sharding.HOST for each in jax.tree.leaves(where.opt_state)):
            old = jax.device_put(old, sharding.in_memory(where.opt_state, sharding.DEVICE))  # and back, as an output
        with jax.named_scope('optimizer'):
            new = optim.apply(tx, grads, old, state.params, rate)
        params, opt_state = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, (state.params, old))
        tokens, load, weighted = sums.pop('tokens'), sums.pop('load', None), sums.pop('weighted', {})
        metrics = {k: v / jnp.maximum(tokens, 1) for k, v in sums.items()} | tops | weighted
        if load is not None:
            metrics['router/overload'] = moe.overload(load)
            if model.moe.router_bias == 'balance':
                params = jax.tree.map(
                    lambda n, o: jnp.where(good, n, o), moe.rebalanced(model.moe, params, load), params
                )
        metrics |= {'loss': value, 'grad_norm': norm, 'tokens': tokens, 'policy/skipped': 1.0 - good}
        return TrainState(step=state.step + 1, params=params, opt_state=opt_state), metrics

    return update
