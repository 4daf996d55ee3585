"""How likely a model finds given tokens, and whether they are what it would say itself.

In: sequences of tokens, each with how many at its end are asked about. Out: the sum of their log-probabilities, and whether each is the
most likely token at its place. Rows are padded to few lengths, so that few programs are compiled; logits exist in chunks only.

Axes: B sequences, R rows of one call, T tokens of a row, C columns of a chunk.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import sharding
from r1jax.config import ModelConfig
from r1jax.nn.scorer import doubling
from r1jax.nn.transformer import forward, unembedding
from r1jax.rl.logprobs import chunk, logits, token_logprobs

TOKENS = 4096  # of one call, about


def likelihoods(
    model: ModelConfig, params: Any, sequences: Sequence[Sequence[int]], asked: Sequence[int], tokens: int = TOKENS
) -> list[tuple[float, bool]]:
    """Of each sequence (log-probability of its last `asked` tokens, nats; all of them are the most likely ones).

    Args:
      params: on the mesh that is set.
      sequences: at least one token more than is asked of each, and at most model.context + 1.
      tokens: a memory setting, the tokens of one call.

    Raises:
      ValueError: a sequence that is too short or too long.
    """
    for ids, n in zip(sequences, asked, strict=True):
        if not n < len(ids) <= model.context + 1:
            raise ValueError(f'{n} tokens are asked of a sequence of {len(ids)}, and the context has {model.context}')
    devices = sharding.ways('batch')
    lengths = doubling(model.context)
    groups: dict[int, list[int]] = {}
    for i, ids in enumerate(sequences):
        groups.setdefault(min(T for T in lengths if T >= len(ids) - 1), []).append(i)
    calls = []
    for T, members in sorted(groups.items()):
        R = -(-max(tokens // T, 1) // devices) * devices
        for at in range(0, len(members), R):
            chosen = members[at : at + R]
            read, said = np.zeros((2, R, T), np.int32)
            length, on = np.ones(R, np.int32), np.zeros((R, T), bool)
            for r, i in enumerate(chosen):
                n = len(sequences[i]) - 1
                read[r, :n], said[r, :n] = sequences[i][:-1], sequences[i][1:]
                length[r], on[r, n - asked[i] : n] = n, True
            calls.append((chosen, _rows(model, params, read, said, length, on)))
    out: list[tuple[float, bool]] = [(0.0, True)] * len(sequences)
    for chosen, (total, greedy) in calls:  # read after all were started: the device does not wait for the host
        for i, value, best in zip(chosen, np.asarray(total).tolist(), np.asarray(greedy).tolist(), strict=False):
            out[i] = value, best
    return out


@functools.partial(jax.jit, static_argnums=0)
def _rows(model, params, read, said, length, on):
    """f32[R], bool[R] of rows i32[R,T]: `said` are the tokens that follow `read`, `on` those that are asked about."""
    R, T = read.shape
    place = jnp.broadcast_to(jnp.arange(T), (R, T))
    segment = jnp.where(place < length[:, None], 0, -1)
    hidden, _, _ = forward(model, params, read, place, segment, jnp.full((R, T), -1))
    head = unembedding(params)
    logp, _ = token_logprobs(hidden, head, said, place, 1.0, model.dtype, on)
    C = chunk((R, T), head.shape[0])
    pad = -T % C
    pieces = jnp.pad(hidden, ((0, 0), (0, pad), (0, 0))).reshape(R, -1, C, hidden.shape[-1]).swapaxes(0, 1)
    best = jax.lax.map(lambda h: logits(h, head, model.dtype).argmax(-1), pieces)  # [chunks,R,C]
    best = best.swapaxes(0, 1).reshape(R, T + pad)[:, :T]
    return logp.sum(1), jnp.all((best == said) | ~on, axis=1)
