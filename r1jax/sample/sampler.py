"""The sampling loop: prompts in, whole rows with log-probabilities out, in one jitted call.

Each question is prefilled once and its keys are read by its G samples. All rows decode in lockstep until every one has drawn a stop
token or reached its limit. As rows finish, those that go on move together into a smaller batch (`Decode.buckets`), so that a long
tail of few rows costs what few rows cost.

Rows that come and go, in slots that are filled again, are `r1jax.sample.engine`'s; a step is the same (`r1jax.sample.step`).

Axes: Q questions, G samples, B = Q·G rows (question-major), b rows still decoded, P prompt tokens, N new tokens, T = P + N,
V vocabulary, M layers with experts, k experts of a token.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import sharding
from r1jax.nn import cache as caches
from r1jax.nn import lora
from r1jax.nn.quantise import held
from r1jax.nn.transformer import forward
from r1jax.sample.step import Decode, Rows, Weights, step
from r1jax.types import Rollout

# Of one batch size's rows in the next: with long-tailed lengths five sizes then decode 1.2 rows a kept token.
_SHRINK = 0.6


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prompts:
    tokens: jax.Array  # i32[Q,P], padded on the right
    length: jax.Array  # i32[Q], at least 1
    question: jax.Array  # i32[Q], problem id


def smaller(rows: int, count: int) -> list[int]:
    """The sizes that `count` batch sizes shrink to from `rows`, each a multiple of the devices that share the rows."""
    devices = sharding.ways('batch')
    sizes = [rows]
    for _ in range(count - 1):
        sizes.append(-(-round(_SHRINK * sizes[-1]) // devices) * devices)
    return sorted({s for s in sizes if 0 < s < rows}, reverse=True)


def sample_keys(seed: int, rollout: int, question: jax.Array, sample: jax.Array) -> jax.Array:
    """key[B] of each row: (seed, rollout, question id, sample id) folded. question, sample: i32[B]."""
    base = jax.random.fold_in(jax.random.key(seed), rollout)
    fold = jax.random.fold_in
    return jax.vmap(lambda q, s: fold(fold(base, q), s))(question, sample)


def key_data(
    seed: int, rollout: int, question: Sequence[int] | np.ndarray, sample: Sequence[int] | np.ndarray
) -> np.ndarray:
    """The data of `sample_keys`, u32[B,·], on the host. Any number of rows runs one program."""
    B, block = len(question), 256
    base = jax.random.fold_in(jax.random.key(seed), rollout)
    both = np.zeros((2, -(-B // block) * block), np.int32)
    both[:, :B] = question, sample
    parts = [np.asarray(_key_data(base, *both[:, at : at + block])) for at in range(0, B, block)]
    return np.concatenate(parts)[:B]


@jax.jit
def _key_data(base, question, sample):
    fold = jax.random.fold_in
    return jax.vmap(lambda q, s: jax.random.key_data(fold(fold(base, q), s)))(question, sample)


@jax.jit
def quantised(params):
    """The weights with each layer's matrices rounded to int8, adapters merged before (`r1jax.nn.quantise`). What `sample` then draws from,
    and whose log-probabilities it records, is the rounded model, in the prompt as in the response.
    """
    return held(lora.merged(params), 'int8')


@functools.partial(jax.jit, static_argnames='cfg')
def sample(
    params, prompts: Prompts, keys: jax.Array, limit: jax.Array, cfg: Decode, temperature=1.0, sample_id=None
) -> Rollout:
    """Draws B/Q responses a question.

    keys key[B]; limit i32[B], the most tokens of each response, at most N (0: the row is not sampled); temperature f32[], 0 greedy;
    sample_id i32[B] is handed through to the rollout (default: 0..G-1 within each question).

    A model with experts routes on its own here, always; with `cfg.routes` the rollout says how, for updates to do the same.
    Returns a Rollout with T = P + N; version is 0, the caller's to set.
    """
    m, N = cfg.model, cfg.max_tokens
    Q, P = prompts.tokens.shape
    B = keys.shape[0]
    G = B // Q
    weights = Weights.of(params, m)
    with jax.named_scope('prefill'):
        place = jnp.broadcast_to(jnp.arange(P), (Q, P))
        segment = jnp.where(place < prompts.length[:, None], 0, -1)
        hidden, prefix, aux = forward(m, params, prompts.tokens, place, segment, jnp.full((Q, P), -1))
        last = jnp.take_along_axis(hidden, (prompts.length - 1)[:, None, None], 1)[:, 0]
    cache = caches.with_suffix(caches.by_layer(prefix), prompts.length, G, N)

    start, limit = jnp.repeat(prompts.length, G), jnp.minimum(limit, N)
    tokens, logp = jnp.full((B, N), cfg.pad, jnp.int32), jnp.zeros((B, N), jnp.float32)
    passed = jnp.full((B, N, *aux['choices'].shape[2:]), -1, jnp.int16) if cfg.routes else None
    zero, temperature = jnp.zeros(B, jnp.int32), jnp.asarray(temperature, jnp.float32)
    begun = zero, zero, zero, zero > 0, limit < 1  # no token of theirs yet
    rows = Rows(keys, start, limit, temperature, *begun, tokens, logp, passed)
    rows = rows.record(cfg, 0, *rows.draw(cfg, weights, sharding.constrain(jnp.repeat(last, G, 0), 'batch', None)))

    def one(carry):
        t, place, cache, rows = carry
        return t + 1, place, *step(cfg, weights, cache, rows, t, t - 1)

    carry, whole = (jnp.int32(1), jnp.arange(B), cache, rows), None
    with jax.named_scope('decode'):
        for after in (*smaller(B, cfg.buckets), 0):

            def more(carry, least=after):
                return (carry[0] < N) & ((~carry[3].done).sum() > least)

            carry = jax.lax.while_loop(more, one, carry)
            t, place, cache, rows = carry
            whole = (
                rows if whole is None else jax.tree.map(lambda a, b: a.at[place].set(b) if a.ndim else a, whole, rows)
            )
            if after:
                going = jnp.argsort(rows.done, stable=True)[:after]  # those that are not done, first
                moved = jax.tree.map(lambda a: a[going] if a.ndim else a, rows)
                carry = t, place[going], caches.take(cache, going), moved

    # Rows: prompt, response, padding, contiguous from 0.
    t = jnp.arange(P + N)
    response = t - start[:, None]
    sampled = (response >= 0) & (response < whole.length[:, None])
    inside = jnp.clip(response, 0, N - 1)
    prompt = jnp.pad(jnp.repeat(prompts.tokens, G, 0), ((0, 0), (0, N)))
    row = jnp.where(response < 0, prompt, jnp.where(sampled, jnp.take_along_axis(whole.tokens, inside, 1), cfg.pad))
    if cfg.routes:
        of_prompt = jnp.where(segment[..., None, None] < 0, -1, aux['choices']).astype(jnp.int16)
        of_prompt = jnp.pad(jnp.repeat(of_prompt, G, 0), ((0, 0), (0, N), (0, 0), (0, 0)), constant_values=-1)
        of_response = jnp.take_along_axis(whole.routes, inside[..., None, None], 1)
        routes = jnp.where(
            (response >= 0)[..., None, None], jnp.where(sampled[..., None, None], of_response, -1), of_prompt
        )
    if sample_id is None:
        sample_id = jnp.tile(jnp.arange(G), Q)
    return Rollout(
        tokens=row,
        sampled=sampled,
        logp=jnp.where(sampled, jnp.take_along_axis(whole.logp, inside, 1), 0.0),
        question=jnp.repeat(prompts.question, G),
        sample=sample_id,
        finished=whole.finished,
        version=jnp.int32(0),
        routes=routes if cfg.routes else None,
    )
