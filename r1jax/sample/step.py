"""One token a row: what the static batch (`r1jax.sample.sampler`) and the engine (`r1jax.sample.engine`) have in common.

A token's draw folds (seed, rollout, question id, sample id, token index) into its key: a sample does not depend on its slot or its
neighbours, but for rounding, which is that of the batch's size.

Axes: b rows decoded together, N columns for new tokens, M layers with experts, k experts of a token.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from r1jax import sharding
from r1jax.config import ModelConfig
from r1jax.nn import lora
from r1jax.nn.layers import Columns, matmul
from r1jax.nn.transformer import for_few_rows, forward, unembedding, unstack
from r1jax.sample.draw import draw


@dataclasses.dataclass(frozen=True)
class Decode:
    """What is fixed when the loop is compiled."""

    model: ModelConfig
    max_tokens: int  # the longest response
    stop: tuple[int, ...]  # token ids that end a response
    pad: int
    top_p: float | None = 1.0  # None: each row's own (`Rows.top_p`)
    top_k: int = 0
    buckets: int = 1  # batch sizes in all, the first included
    routes: bool = False  # the rollout holds the experts that each token passed
    shown: int = 0  # K, most likely tokens that rows record beside the drawn one, where they ask for it (`Rows.show`)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Weights:
    """A model made ready for decoding."""

    layers: Any  # unstacked, of `for_few_rows`: the cache is then updated in place
    head: Columns  # [V,D]

    @classmethod
    def of(cls, params: Any, model: ModelConfig) -> Weights:
        rows = unembedding(params)
        head = Columns(sharding.constrain(rows.astype(model.dtype), 'vocab', None), rows.shape[::-1])
        layers = unstack(params)
        return cls(for_few_rows(lora.merged(layers) if lora.adapted(layers) else layers, model.dtype), head)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """What belongs to a row; moves with it into a smaller batch."""

    keys: jax.Array  # key[b]
    start: jax.Array  # i32[b], tokens of the prompt
    limit: jax.Array  # i32[b], most new tokens
    temperature: jax.Array  # f32[] or f32[b], 0 greedy
    drawn: jax.Array  # i32[b], tokens at the prompt's end that were drawn before, with the same key
    last: jax.Array  # i32[b], the row's last token
    length: jax.Array  # i32[b], new tokens so far
    finished: jax.Array  # bool[b], the last is a stop token
    done: jax.Array  # bool[b], finished or at its limit
    tokens: jax.Array  # i32[b,N]
    logp: jax.Array  # f32[b,N]
    routes: jax.Array | None = None  # i16[b,N,M,k]
    top_p: jax.Array | None = None  # f32[b], with `Decode.top_p` None
    show: jax.Array | None = None  # bool[b], with `Decode.shown`; what the rows then recorded:
    likely: jax.Array | None = None  # i32[b,N,K], most likely first
    likely_logp: jax.Array | None = None  # f32[b,N,K], nats, as `logp`

    def draw(self, cfg: Decode, weights: Weights, hidden: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The next token of each row and its log-probability, given the hidden state [b,D] of its last; and the logits."""
        with jax.named_scope('head'):
            logits = matmul(hidden, weights.head, cfg.model.dtype)
        with jax.named_scope('draw'):
            keys, top_p = jax.vmap(jax.random.fold_in)(self.keys, self.drawn + self.length), cfg.top_p
            drawn = draw(logits, keys, self.temperature, self.top_p if top_p is None else top_p, cfg.top_k)
        return *drawn, logits

    def record(
        self, cfg: Decode, column: jax.Array | int, token: jax.Array, logp: jax.Array, logits: jax.Array
    ) -> Rows:
        """With a token more, which stands in `column`; padding there in rows that are done."""
        if cfg.shown:
            self = self._with_likely(cfg, column, token, logp, logits)
        token, logp = jnp.where(self.done, cfg.pad, token), jnp.where(self.done, 0.0, logp)
        finished = self.finished | (~self.done & jnp.isin(token, jnp.array(cfg.stop)))
        length = self.length + ~self.done
        return dataclasses.replace(
            self,
            last=token,
            length=length,
            finished=finished,
            done=self.done | finished | (length >= self.limit),
            tokens=self.tokens.at[:, column].set(token),
            logp=self.logp.at[:, column].set(logp),
        )

    def _with_likely(self, cfg, column, token, logp, logits):
        """With the most likely tokens, if any row asks for them."""

        def found():
            top, index = jax.lax.top_k(logits, cfg.shown)
            drawn = jnp.take_along_axis(logits, token[:, None], -1)
            scale = 1 / jnp.where(self.temperature == 0, 1.0, self.temperature)
            return index.astype(jnp.int32), logp[:, None] + (top - drawn) * scale[:, None]

        def none():
            return jnp.zeros((len(token), cfg.shown), jnp.int32), jnp.zeros((len(token), cfg.shown), jnp.float32)

        index, values = jax.lax.cond((self.show & ~self.done).any(), found, none)
        likely, likely_logp = self.likely.at[:, column].set(index), self.likely_logp.at[:, column].set(values)
        return dataclasses.replace(self, likely=likely, likely_logp=likely_logp)

    def routed(self, column: jax.Array, choices: jax.Array) -> Rows:
        """With the experts [b,M,k] that the last token passed, on its way to the next."""
        choices = jnp.where(self.done[:, None, None], -1, choices).astype(self.routes.dtype)
        return dataclasses.replace(self, routes=self.routes.at[:, column].set(choices))


def step(cfg: Decode, weights: Weights, cache, rows: Rows, column: jax.Array, read: jax.Array) -> tuple[Any, Rows]:
    """Each row's last token through the model and its next one drawn: the cache (`r1jax.nn.cache.Cached`) with the one, `rows` with the
    other in `column`; with `cfg.routes`, what the last passed in column `read`.
    """
    at = (rows.start + rows.length - 1)[:, None]
    zero = jnp.zeros_like(at)
    hidden, cache, aux = forward(cfg.model, weights.layers, rows.last[:, None], at, zero, zero - 1, cache)
    if cfg.routes:
        rows = rows.routed(read, aux['choices'][:, 0])
    return cache, rows.record(cfg, column, *rows.draw(cfg, weights, hidden[:, 0]))
