"""The sampling loop: prompts in, whole rows with log-probabilities out, in one jitted call.

Each question is prefilled once and its keys are read by its G samples. All rows decode in lockstep until every one has drawn a stop
token or reached its limit. The cache is read only as far as it is filled, in segments of doubling size.

A token's draw folds (seed, rollout, question id, sample id, token index) into its key: a sample does not depend on its slot or its
neighbours.

Axes: Q questions, G samples, B = Q·G rows (question-major), P prompt tokens, N new tokens, T = P + N, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from r1jax.config import ModelConfig
from r1jax.nn.cache import with_suffix
from r1jax.nn.layers import matmul
from r1jax.nn.transformer import forward, unembedding, unstack
from r1jax.sample.draw import draw
from r1jax.sharding import constrain
from r1jax.types import Rollout

_SEGMENT = 64  # response tokens after which the attended part of the cache first doubles


@dataclasses.dataclass(frozen=True)
class Decode:
    """What is fixed when the loop is compiled."""

    model: ModelConfig
    max_tokens: int  # N
    stop: tuple[int, ...]  # token ids that end a response
    pad: int
    top_p: float = 1.0
    top_k: int = 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prompts:
    tokens: jax.Array  # i32[Q,P], padded on the right
    length: jax.Array  # i32[Q], at least 1
    question: jax.Array  # i32[Q], problem id


def sample_keys(seed: int, rollout: int, question: jax.Array, sample: jax.Array) -> jax.Array:
    """key[B] of each row: (seed, rollout, question id, sample id) folded. question, sample: i32[B]."""
    base = jax.random.fold_in(jax.random.key(seed), rollout)
    fold = jax.random.fold_in
    return jax.vmap(lambda q, s: fold(fold(base, q), s))(question, sample)


def _by_layer(stacks):
    """Keys and values of each stack [L,…], as one pair [1,…] a layer."""
    return tuple((k[i : i + 1], v[i : i + 1]) for k, v in stacks for i in range(k.shape[0]))


@functools.partial(jax.jit, static_argnames='cfg')
def sample(
    params, prompts: Prompts, keys: jax.Array, limit: jax.Array, cfg: Decode, temperature=1.0, sample_id=None
) -> Rollout:
    """Draws B/Q responses a question.

    keys key[B]; limit i32[B], the most tokens of each response, at most N (0: the row is not sampled); temperature f32[], 0 greedy;
    sample_id i32[B] is handed through to the rollout (default: 0..G-1 within each question).
    Returns a Rollout with T = P + N; version is 0, the caller's to set.
    """
    m, N = cfg.model, cfg.max_tokens
    Q, P = prompts.tokens.shape
    B = keys.shape[0]
    G = B // Q
    single = unstack(params)  # one layer a stack: decoding then updates the cache in place
    head = unembedding(params).T
    limit = jnp.minimum(limit, N)

    def drawn(hidden, t):  # hidden [B,D]
        logits = matmul(hidden, head, m.dtype)
        at = jax.vmap(jax.random.fold_in, (0, None))(keys, t)
        return draw(logits, at, temperature, cfg.top_p, cfg.top_k)

    with jax.named_scope('prefill'):
        place = jnp.broadcast_to(jnp.arange(P), (Q, P))
        segment = jnp.where(place < prompts.length[:, None], 0, -1)
        hidden, prefix, _ = forward(m, params, prompts.tokens, place, segment, jnp.full((Q, P), -1))
        last = jnp.take_along_axis(hidden, (prompts.length - 1)[:, None, None], 1)[:, 0]
    cache = with_suffix(_by_layer(prefix), prompts.length, G, N)

    start = jnp.repeat(prompts.length, G)
    tokens, logp = jnp.full((B, N), cfg.pad, jnp.int32), jnp.zeros((B, N), jnp.float32)
    done, length, finished = limit < 1, jnp.zeros(B, jnp.int32), jnp.zeros(B, bool)

    def record(t, token, lp, tokens, logp, done, length, finished):
        tokens = tokens.at[:, t].set(jnp.where(done, cfg.pad, token))
        logp = logp.at[:, t].set(jnp.where(done, 0.0, lp))
        length = length + ~done
        finished = finished | (~done & jnp.isin(token, jnp.array(cfg.stop)))
        return tokens, logp, finished | (length >= limit), length, finished

    token, lp = drawn(constrain(jnp.repeat(last, G, 0), 'batch', None), 0)
    out = record(0, token, lp, tokens, logp, done, length, finished)

    def step(carry):
        t, cache, out = carry
        previous = jax.lax.dynamic_slice_in_dim(out[0], t - 1, 1, 1)
        zero = jnp.zeros((B, 1), jnp.int32)
        hidden, cache, _ = forward(m, single, previous, (start + t - 1)[:, None], zero, zero - 1, cache)
        token, lp = drawn(hidden[:, 0], t)
        return t + 1, cache, record(t, token, lp, *out)

    carry, end = (jnp.int32(1), cache, out), 0
    with jax.named_scope('decode'):
        while end < N:
            end = min(N, max(_SEGMENT, 2 * end))
            carry = carry[0], dataclasses.replace(carry[1], read=end), carry[2]
            carry = jax.lax.while_loop(lambda c, end=end: (c[0] < end) & ~c[2][2].all(), step, carry)
    tokens, logp, _, length, finished = carry[2]

    # Rows: prompt, response, padding, contiguous from 0.
    t = jnp.arange(P + N)
    response = t - start[:, None]
    sampled = (response >= 0) & (response < length[:, None])
    inside = jnp.clip(response, 0, N - 1)
    prompt = jnp.pad(jnp.repeat(prompts.tokens, G, 0), ((0, 0), (0, N)))
    row = jnp.where(response < 0, prompt, jnp.where(sampled, jnp.take_along_axis(tokens, inside, 1), cfg.pad))
    if sample_id is None:
        sample_id = jnp.tile(jnp.arange(G), Q)
    return Rollout(
        tokens=row,
        sampled=sampled,
        logp=jnp.where(sampled, jnp.take_along_axis(logp, inside, 1), 0.0),
        question=jnp.repeat(prompts.question, G),
        sample=sample_id,
        finished=finished,
        version=jnp.int32(0),
    )
