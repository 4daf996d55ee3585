"""The compiled functions of training: `init_state`, `logprobs`, `update`. Pure; jitted here and nowhere else.

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
from jax.sharding import Mesh

from r1jax import sharding
from r1jax.config import GRPO, NLL, ModelConfig
from r1jax.nn import moe, transformer
from r1jax.rl import loss as losses
from r1jax.rl.logprobs import token_logprobs
from r1jax.train import optim
from r1jax.types import Batch, TrainState


def shardings(model: ModelConfig, tx, mesh: Mesh) -> TrainState:
    """NamedSharding of every leaf of the train state, found without allocating it.

    The whole state is described while parameters are boxed with their logical axes, so that optimizer moments inherit them.
    """

    def boxed():
        params = transformer.init_boxed(model, jax.random.key(0))
        return TrainState(step=jnp.int32(0), params=params, opt_state=tx.init(params))

    return transformer.placed(jax.eval_shape(boxed), mesh)


def init_state(model: ModelConfig, tx, key: jax.Array, mesh: Mesh, params: Any = None) -> TrainState:
    """A sharded train state at step 0: random parameters, or `params` (host or device arrays) placed on the mesh."""
    where = shardings(model, tx, mesh)
    if params is None:
        init = jax.jit(lambda k: transformer.unbox(transformer.init_boxed(model, k)), out_shardings=where.params)
        params = init(key)
    else:
        params = jax.device_put(params, where.params)
    opt_state = jax.jit(tx.init, out_shardings=where.opt_state)(params)
    return TrainState(step=jax.device_put(jnp.int32(0), where.step), params=params, opt_state=opt_state)


def place(batch: Batch, mesh: Mesh) -> Batch:
    """A host batch [M,R,T] on the mesh, rows split over data × fsdp."""
    return jax.device_put(batch, sharding.named(mesh, 'micro', 'batch', 'length'))


def _logprobs(model, params, batch, temperature):
    where = batch.tokens, batch.position, batch.segment, batch.parent
    routes = batch.routes if model.replays else None
    hidden, _, aux = transformer.forward(model, params, *where, prompts=batch.prompts, block=batch.block, routes=routes)
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


def loss_and_metrics(model: ModelConfig, loss: NLL | GRPO, params, batch: Batch, temperature, fresh):
    """The loss of one microbatch [R,T], with (sums, maxima) of its metrics. `fresh`: see `build_update`."""
    logp, entropy, aux = _logprobs(model, params, batch, temperature)
    load = {'load': aux['load']} if aux else {}
    if isinstance(loss, NLL):
        tokens = jnp.sum(batch.weight > 0, dtype=jnp.float32)
        return losses.nll(logp, batch), ({'tokens': tokens} | load, {})
    clip = (loss.clip_low, loss.clip_high)
    old = jnp.where(fresh, jax.lax.stop_gradient(logp), batch.old_logp)
    batch = dataclasses.replace(batch, old_logp=old, ref_logp=batch.ref_logp if loss.beta else old)
    value = losses.grpo(logp, batch, clip, loss.beta, loss.kl, loss.importance_cap)
    sums, tops = losses.grpo_metrics(logp, entropy, batch, clip)
    if not loss.beta:
        del sums['policy/kl']  # there is no reference to be far from
    return value, (sums | load, tops)


def gradients(model: ModelConfig, loss: NLL | GRPO, params, batch: Batch, count, temperature, fresh):
    """Loss, metrics and gradients of a whole batch, summed over its first `count` microbatches."""

    def one(params, micro):
        return loss_and_metrics(model, loss, params, micro, temperature, fresh)

    def body(i, carry):
        value, sums, tops, grads = carry
        (v, (s, t)), g = jax.value_and_grad(one, has_aux=True)(params, _micro(batch, i))
        add = functools.partial(jax.tree.map, jnp.add)
        return value + v, add(sums, s), jax.tree.map(jnp.maximum, tops, t), add(grads, g)

    _, (sums, tops) = jax.eval_shape(one, params, _micro(batch, 0))
    zeros = functools.partial(jax.tree.map, lambda a: jnp.zeros(a.shape, a.dtype))
    return jax.lax.fori_loop(0, count, body, (jnp.float32(0), zeros(sums), zeros(tops), zeros(params)))


def build_update(model: ModelConfig, loss: NLL | GRPO, tx, where: TrainState) -> Callable:
    """update(state, batch, count, rate, temperature, fresh) -> state, metrics. `state` is donated.

    batch [M,R,T] with `count` microbatches in use; rate f32[]; temperature f32[] of the distribution that was sampled;
    fresh bool[]: the parameters are still those that sampled the rollout, so π_old is this very forward pass (else batch.old_logp).
    A step whose loss or gradient is not finite, or whose batch is empty, leaves parameters and optimizer as they were
    and reports `policy/skipped` 1. `where` holds the shardings of the state.

    Routers of a model with experts: their bias has no gradient, and stays ('frozen') or moves by the step's loads ('balance'), which is
    no part of the optimizer; where the batch holds the experts that sampling chose, every pass of a stage takes them (policy, π_old and
    reference alike, so that the KL of equal weights is 0).
    """

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=(where, None))
    def update(state, batch, count, rate, temperature, fresh):
        value, sums, tops, grads = gradients(model, loss, state.params, batch, count, temperature, fresh)
        norm = optim.global_norm(grads)
        good = jnp.isfinite(value) & jnp.isfinite(norm) & (count > 0)
        grads = jax.tree.map(lambda g: jnp.where(good, g, 0.0), grads)
        new = optim.apply(tx, grads, state.opt_state, state.params, rate)
        params, opt_state = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, (state.params, state.opt_state))
        tokens, load = sums.pop('tokens'), sums.pop('load', None)
        metrics = {k: v / jnp.maximum(tokens, 1) for k, v in sums.items()} | tops
        if load is not None:
            metrics['router/overload'] = moe.overload(load)
            if model.moe.router_bias == 'balance':
                params = jax.tree.map(
                    lambda n, o: jnp.where(good, n, o), moe.rebalanced(model.moe, params, load), params
                )
        metrics |= {'loss': value, 'grad_norm': norm, 'tokens': tokens, 'policy/skipped': 1.0 - good}
        return TrainState(step=state.step + 1, params=params, opt_state=opt_state), metrics

    return update
