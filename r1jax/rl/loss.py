"""The losses. Each takes log-probabilities or scores, not models, and is `Σ weight · per_token` (of a reward model: per pair, per
label): what the weights add up to is decided in `r1jax.rl.batch`, so microbatches add and no loss depends on how a batch was cut.

Axes: B rows (for a reward model: pairs or labelled responses), T tokens. Metrics stand beside the loss, so that the equation stays visible.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from r1jax.types import Array, Batch


def nll(logp: jax.Array, batch: Batch) -> jax.Array:
    """−Σ w·log π. logp f32[B,T]; returns f32[]."""
    return -jnp.sum(batch.weight * logp)


def grpo(
    logp: jax.Array,
    batch: Batch,
    clip: tuple[float, float],
    beta: float,
    kl: str = 'k3',
    importance_cap: float = 0.0,
    ratio: str = 'token',
) -> jax.Array:
    """−Σ w·( c·min(ρA, clip(ρ, 1−ε_low, 1+ε_high)A) − β·KL ) (DeepSeekMath eq. 3; R1 report eq. 1).

    logp f32[B,T] under the policy being trained; ρ = π/π_old (`ratios`); w = batch.weight. KL is estimated against the reference at the
    sampled tokens. c = min(π_old/π_sampler, importance_cap) corrects a sampler that differs from the trainer (truncated importance
    weights); importance_cap 0 leaves it out. Returns f32[].
    """
    rho = ratios(logp, batch, ratio)
    clipped = jnp.clip(rho, 1 - clip[0], 1 + clip[1])
    gain = jnp.minimum(rho * batch.advantage, clipped * batch.advantage)
    if importance_cap:
        gain *= importance(batch, importance_cap)
    if beta:
        gain -= beta * kl_estimate(logp, batch.ref_logp, kl)
    return -jnp.sum(batch.weight * gain, where=batch.weight > 0)


def ratios(logp: jax.Array, batch: Batch, kind: str) -> jax.Array:
    """ρ, f32[B,T]: π/π_old of each token; of kind 'sequence' the geometric mean over the trained tokens of its response, at each of them
    (GSPO, arXiv 2507.18071 eq. 7), so that a response is clipped as a whole.
    """
    change = logp - batch.old_logp
    if kind == 'token':
        return jnp.exp(change)
    if kind == 'sequence':
        on = batch.weight > 0
        sums, counts = (summed(jnp.where(on, x, 0.0), batch.segment) for x in (change, jnp.ones_like(change)))
        return jnp.exp(sums / jnp.maximum(counts, 1.0))
    raise ValueError(f'unknown ratio {kind!r}: token or sequence')


def summed(x: jax.Array, among: Array) -> jax.Array:
    """f32[B,T]: at each token the sum of `x` over those of its row that have the same number in `among`, i32[B,T]; 0 where that is −1."""
    rows = jnp.arange(x.shape[0])[:, None]
    place = jnp.where(among >= 0, among, x.shape[1])  # beyond the last: left out
    sums = jnp.zeros_like(x).at[rows, place].add(x, mode='drop')
    return sums.at[rows, place].get(mode='fill', fill_value=0.0)


def importance(batch: Batch, cap: float) -> jax.Array:
    """f32[B,T]: min(π_old/π_sampler, cap), at the sampled tokens (Yao et al., Your Efficient RL Framework Secretly Brings You Off-Policy
    RL Training, 2025; truncation: Ionides, Truncated Importance Sampling, 2008). Nothing of it is differentiated.
    """
    return jnp.minimum(jnp.exp(batch.old_logp - batch.sampler_logp), cap)


def kl_estimate(logp: jax.Array, ref_logp: Array, kind: str) -> jax.Array:
    """KL(π ‖ π_ref) from samples of π (Schulman, "Approximating KL divergence"), per token, nats.

    With x = log π_ref − log π: k1 = −x (unbiased, but its gradient is zero in expectation), k2 = x²/2, and the paper's
    k3 = eˣ − x − 1, written with expm1: eˣ − x − 1 goes below zero in float32.
    """
    x: Any = ref_logp - logp
    if kind == 'k1':
        return -x
    if kind == 'k2':
        return x * x / 2
    if kind == 'k3':
        return jnp.expm1(x) - x
    raise ValueError(f'unknown KL estimator {kind!r}: k1, k2 or k3')


def grpo_metrics(
    logp: jax.Array,
    entropy: jax.Array,
    batch: Batch,
    clip: tuple[float, float],
    importance_cap: float = 0.0,
    ratio: str = 'token',
) -> tuple[dict, dict]:
    """Sums and maxima over the trained tokens; sums divided by `tokens` are means."""
    on = batch.weight > 0
    rho = ratios(logp, batch, ratio)
    outside = jnp.where(batch.advantage > 0, rho > 1 + clip[1], rho < 1 - clip[0]) & (batch.advantage != 0)
    gap = jnp.abs(batch.old_logp - batch.sampler_logp)

    def total(x):
        return jnp.sum(x, where=on, dtype=jnp.float32)

    sums = {
        'tokens': total(jnp.ones_like(logp)),
        'policy/kl': total(kl_estimate(logp, batch.ref_logp, 'k3')),
        'policy/entropy': total(entropy),
        'policy/clip_fraction': total(outside),
        'policy/sampler_gap_mean': total(gap),
    }
    if importance_cap:
        weight = importance(batch, importance_cap)
        sums |= {'policy/importance_mean': total(weight), 'policy/importance_capped': total(weight >= importance_cap)}
    return sums, {'policy/sampler_gap_max': jnp.max(gap, where=on, initial=0.0)}


def dpo(logp: jax.Array, batch: Batch, beta: float) -> tuple[jax.Array, dict]:
    """−Σ w·log σ(β·(Δ_chosen − Δ_rejected)) with Δ = log π(answer) − log π_ref(answer) (Rafailov et al., arXiv 2305.18290 eq. 7).

    logp f32[B,T]. A pair is two segments that share a prompt: batch.advantage is 1 on the tokens of the chosen one and −1 on those of the
    rejected one, and batch.weight, the same on all tokens of both, sums to one over the number of pairs. Returns the loss, f32[], nats,
    and weighted sums that are means over pairs: `accuracy` and `margin` (`pair_metrics`), and `chosen` and `rejected`, β·Δ of each.
    """
    on = batch.weight > 0
    gain = beta * jnp.where(on, logp - batch.ref_logp, 0.0)
    chosen, rejected = (
        summed(jnp.where(on & (side * batch.advantage > 0), gain, 0.0), batch.parent) for side in (1, -1)
    )
    weight = jnp.where(on, batch.weight, 0.0)
    metrics = {'chosen': jnp.sum(weight * chosen), 'rejected': jnp.sum(weight * rejected)}
    return jnp.sum(weight * jax.nn.softplus(rejected - chosen)), metrics | pair_metrics(chosen - rejected, weight)


def bradley_terry(chosen: jax.Array, rejected: jax.Array, weight: jax.Array | None = None) -> tuple[jax.Array, dict]:
    """−Σ w·log σ(r_chosen − r_rejected): helpfulness (R1 Methods; Bradley & Terry 1952, as in Ouyang et al., arXiv 2203.02155 eq. 1).

    chosen, rejected: f32[B], scores of the two responses of each pair. weight: f32[B], which sums to 1 over an optimizer step and is
    0 on padding (None: 1/B). Returns the loss, f32[], nats, and `pair_metrics`.
    """
    weight = jnp.full(chosen.shape, 1 / chosen.size) if weight is None else weight
    margin = _real(chosen - rejected, weight)
    return jnp.sum(weight * jax.nn.softplus(-margin)), pair_metrics(margin, weight)


def pointwise(score: jax.Array, label: jax.Array, weight: jax.Array | None = None) -> tuple[jax.Array, dict]:
    """−Σ w·( y·log σ(r) + (1−y)·log σ(−r) ): safety, safe against unsafe (R1 Methods).

    score f32[B], the log-odds that a response is safe; label f32[B], y: 1 safe, 0 unsafe. weight, returns: as `bradley_terry`, with the
    score's log-odds for the right label as the margin.
    """
    weight = jnp.full(score.shape, 1 / score.size) if weight is None else weight
    score, label = _real(score, weight), _real(label, weight)
    loss = jnp.sum(weight * (jax.nn.softplus(score) - label * score))
    return loss, pair_metrics(jnp.where(label > 0.5, score, -score), weight)


def pair_metrics(margin: jax.Array, weight: jax.Array) -> dict:
    """Weighted sums over microbatches, means where weights sum to 1: `accuracy`, the share of margins > 0 (0 counts half), and `margin`."""
    right = (margin > 0) + 0.5 * (margin == 0)
    return {'accuracy': jnp.sum(weight * right), 'margin': jnp.sum(weight * margin)}


def _real(x: jax.Array, weight: jax.Array) -> jax.Array:
    """`x` with padding, which may hold anything, set to 0: before the loss, so that its gradient there is 0 too, not NaN."""
    return jnp.where(weight > 0, x, 0.0)
