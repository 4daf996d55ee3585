"""Experts: each token passes k of E small SwiGLUs, and those that are shared by all tokens.

In order: the router scores the experts and chooses k a token → tokens go where their experts are, sorted by expert (`dispatch`) → two
grouped products (`grouped`: rows of one expert after the other, each with its expert's matrix) → back in their order, weighted by the
scores and summed. No token is dropped, whatever the loads; padding goes to no expert and costs nothing.

Two routers. DeepSeek-V3's (arXiv 2412.19437 §2.1.2): sigmoid scores, a bias that counts in choosing alone, experts from the best few
groups. Qwen3's: softmax, the k best. Choosing is not differentiable and a rounding apart from choosing otherwise: an update that routes
anew computes another function than was sampled. So choices are returned, recorded by the sampler and replayed by the update
(arXiv 2510.11370), with weights from the current scores.

Axes: B rows, T tokens, M = B·T, D width, E experts, k of a token, F of one expert, L layers with experts.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from r1jax import sharding
from r1jax.config import ModelConfig, MoE
from r1jax.nn import dispatch
from r1jax.nn.grouped import grouped
from r1jax.nn.layers import Int8

Weights = dict[str, Any]  # of one layer
NAMES = ('expert_gate', 'expert_up', 'expert_down')  # [E,D,F], [E,D,F], [E,F,D]


def experts(
    cfg: ModelConfig, w: Weights, h: jax.Array, real: jax.Array, replay: jax.Array | None, whole: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The routed experts' output f32[B,T,D] for h [B,T,D], the choices i32[B,T,k] and the loads f32[E], tokens an expert.

    real bool[B,T], False on padding: output 0, not in the loads. replay i[B,T,k]: choices to take in place of the router's; −1: none.
    whole: the experts' width is not split, as in decoding.
    """
    routers = {n: w[n] for n in ('router', 'router_bias') if n in w}
    matrices, tree = jax.tree.flatten({n: w[n] for n in NAMES})
    kinds = jax.tree.leaves({n: jax.tree.map(lambda _, n=n: n, w[n]) for n in NAMES})
    axes = [_axes(n, a, whole) for n, a in zip(kinds, matrices, strict=True)]
    if not sharding.over('batch', 'length', 'expert', 'hidden'):
        return _experts(cfg, w, h, real, replay)
    batch, length = sharding.dividing('batch', h.shape[0]), sharding.dividing('length', h.shape[1])
    tokens, ragged = (batch, length), sharding.platform() != 'cpu'

    def local(routers, h, real, replay, *matrices):
        """On one device, with its own tokens, its experts, and its part of each."""
        matrices = [_gathered(a, each) for a, each in zip(matrices, axes, strict=True)]
        out, choice, load = _experts(cfg, routers | jax.tree.unflatten(tree, matrices), h, real, replay, ragged)
        return sharding.total(out, 'hidden'), choice, sharding.total(load, *filter(None, tokens))

    run = sharding.by_shard(local, ((), *(tokens,) * 3, *axes), (tokens, tokens, ()))
    return run(routers, h, real, replay, *matrices)


def _axes(name, leaf, whole):
    """The logical axes of a leaf of the experts' matrices [E,·,·]; those of scales have entries of 1."""
    axes = ('expert', 'hidden', 'embed') if name == 'expert_down' else ('expert', 'embed', 'hidden')
    return tuple(None if n == 1 or (whole and a == 'embed') else a for a, n in zip(axes, leaf.shape, strict=True))


def _gathered(leaf, axes):
    """A device's experts with their whole width. Its gradient is scattered as it is summed."""
    return sharding.gather(leaf, 'embed', axes.index('embed'), besides='expert') if 'embed' in axes else leaf


def _experts(cfg, w, h, real, replay, ragged=False):
    B, T, D = h.shape
    E, k = cfg.moe.experts, cfg.moe.active
    h, real = h.reshape(-1, D), real.reshape(-1)
    with jax.named_scope('route'):
        replay = None if replay is None else replay.reshape(-1, k)
        choice, weight = route(cfg.moe, h, w['router'], w.get('router_bias'), replay)
        to = jnp.where(real[:, None], choice, E)  # padding goes to none, and sorts behind all experts

    def through(x, sizes, of_row):
        def product(x, w):
            if not isinstance(w, Int8):
                return grouped(x, w, sizes, cfg.dtype)
            scale = w.scale[:, 0][
                jnp.minimum(of_row, w.scale.shape[0] - 1)
            ]  # nobody's rows are 0, whatever multiplies them
            return grouped(x, w.values, sizes, cfg.dtype) * scale

        gate, up = (product(x, w[n]) for n in NAMES[:2])
        return product(jax.nn.silu(gate) * up, w['expert_down'])

    with jax.named_scope('experts'):
        out = dispatch.passed(h, to, weight, E, through, cfg.dtype, ragged)
    load = jnp.bincount(to.reshape(-1), length=E).astype(jnp.float32)
    return out.reshape(B, T, D), choice.reshape(B, T, k), load


def for_few_rows(name: str, w: jax.Array | Int8, dtype: str) -> jax.Array | Int8:
    """Experts [E, in, out] of one of `NAMES` made ready for decoding: whole along their width, so that the loop gathers none."""
    ready = w.widened(dtype) if isinstance(w, Int8) else w.astype(dtype)
    return jax.tree.map(lambda a: sharding.constrain(a, *_axes(name, a, True)), ready)


def route(
    cfg: MoE, h: jax.Array, router: jax.Array, bias: jax.Array | None, replay: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Which experts each token passes, i32[M,k], and their weights, f32[M,k] (DeepSeek-V3 eq. 12–16).

    h [M,D]; router [D,E]; bias [E], which counts in choosing alone and has no gradient; replay i[M,k] as in `experts`. In float32 with
    full precision: two scores a rounding apart would choose another expert.
    """
    logits = jnp.dot(h.astype(jnp.float32), router.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
    scores = jax.nn.sigmoid(logits) if cfg.score == 'sigmoid' else jax.nn.softmax(logits, -1)
    ranked = jax.lax.stop_gradient(scores if bias is None else scores + bias)
    if cfg.groups > 1:
        ranked = _in_best_groups(cfg, ranked)
    choice = jax.lax.top_k(ranked, cfg.active)[1]
    if replay is not None:
        choice = jnp.where(replay >= 0, replay, choice).astype(choice.dtype)
    weight = jnp.take_along_axis(scores, choice, -1)
    if cfg.normalise:
        weight = weight / (weight.sum(-1, keepdims=True) + 1e-20)
    return choice, weight * cfg.scale


def _in_best_groups(cfg, ranked):
    """Scores [M,E] with −inf outside the best groups, by the sum of a group's two best (DeepSeek-V3's node-limited routing)."""
    by_group = ranked.reshape(-1, cfg.groups, cfg.experts // cfg.groups)
    rank = jax.lax.top_k(by_group, 2)[0].sum(-1)
    best = jax.nn.one_hot(jax.lax.top_k(rank, cfg.top_groups)[1], cfg.groups, dtype=bool).any(1)
    return jnp.where(best[..., None], by_group, -jnp.inf).reshape(ranked.shape)


def rebalanced(cfg: MoE, params: Any, load: jax.Array) -> Any:
    """Parameters with each router's bias moved by bias_speed towards experts below the mean load (arXiv 2408.15664, algorithm 1).

    load f32[L,E]: tokens each expert had in the optimizer step. The gradient never touches the bias.
    """
    out, at = dict(params), 0
    for name in sorted(n for n in params if n.startswith('stack_')):
        stack = params[name]
        if 'router_bias' in stack:
            here = load[at : (at := at + stack['router_bias'].shape[0])]
            step = cfg.bias_speed * jnp.sign(here.mean(-1, keepdims=True) - here)
            out[name] = stack | {'router_bias': stack['router_bias'] + step}
    return out


def overload(load: jax.Array) -> jax.Array:
    """How uneven loads f32[L,E] are: the largest expert's load over the mean, less 1, mean over layers (arXiv 2408.15664 eq. 4)."""
    return jnp.mean(load.max(-1) / jnp.maximum(load.mean(-1), 1e-9)) - 1
