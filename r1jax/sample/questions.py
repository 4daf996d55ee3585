"""From questions to responses on the host: the sampler called with fixed shapes, whatever the number of questions.

Rollouts, evaluations and collections share `Sampler`, and share its compiled programs where their shapes agree. Rows that all fit into
its slots are sampled together (`r1jax.sample.sampler`: one call, each prompt's keys read by all its samples); more rows, and all where the
cache is a pool of pages or responses have several turns, take the slots in turn (`r1jax.sample.engine`). A row is the same either way but
for rounding.

Axes: Q questions, G samples, B = Q·G rows (question-major), P prompt tokens, N new tokens, T = P + N, M layers with experts, k experts
of a token.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from r1jax import resharding, sharding
from r1jax.config import MeshConfig, ModelConfig, SampleConfig
from r1jax.nn import layout
from r1jax.sample.engine import Engine
from r1jax.sample.request import Request
from r1jax.sample.sampler import Prompts, key_data, quantised, sample, sample_keys
from r1jax.sample.step import Decode
from r1jax.sample.turns import Replies, Row, rows
from r1jax.types import Response, Rollout


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Draws `samples` responses to each question. `decode.max_tokens` bounds every call's limit."""

    decode: Decode
    max_prompt: int  # P
    samples: int  # G
    questions: int  # Q whose rows are decoded together
    seed: int
    weights: str = 'same'  # `SampleConfig.weights`
    # By the engine always, and with as many slots to the end: a row's bits depend on nothing but the row, at the price of a slower tail
    fixed: bool = False
    pool: int = 0  # see `SampleConfig`
    page: int = 256
    layout: MeshConfig | None = None  # `SampleConfig.mesh`, of the devices of the mesh that is set

    @classmethod
    def create(
        cls,
        model: ModelConfig,
        cfg: SampleConfig,
        samples: int,
        tokenizer,
        seed: int,
        max_tokens: int = 0,
        routes=False,
        fixed=False,
        stops: Sequence[int] = (),
    ):
        """`max_tokens` overrides the config's, where phases or caps ask for another length; `routes`: see `Decode`; `fixed` as above;
        stops: tokens that end a turn, besides the tokenizer's.
        """
        N = max_tokens or cfg.max_tokens
        stop = (tokenizer.eos, *getattr(tokenizer, 'stops', ()), *stops)
        decode = Decode(model, N, stop, tokenizer.pad, cfg.top_p, cfg.top_k, cfg.buckets, routes)
        Q, held = max(cfg.slots // samples, 1), {'pool': cfg.pool, 'page': cfg.page}
        return cls(decode, cfg.max_prompt, samples, Q, seed, cfg.weights, fixed, layout=cfg.mesh, **held)

    @property
    def slots(self) -> int:
        """Rows decoded together."""
        return self.questions * self.samples

    @functools.cached_property
    def engine(self) -> Engine:
        """Made when it is first needed, on the mesh that samples then."""
        decode = dataclasses.replace(self.decode, buckets=1) if self.fixed else self.decode
        return Engine(decode, self.slots, self.max_prompt, pool=self.pool, page=self.page)

    def __call__(
        self,
        params,
        question: Sequence[int],
        prompts: Sequence[Sequence[int]],
        rollout: int,
        limit: int | np.ndarray,
        temperature: float,
    ) -> Rollout:
        """A Rollout of NumPy arrays [Q·G, P+N] for questions with these ids and prompt tokens, each response at most `limit` tokens
        (an array: i32[Q·G], row by row).

        The draws of a row depend on (seed, rollout, question id, sample id, token index) alone. A question that occurs twice gets
        further sample ids, not the same samples again.
        """
        out = self.blank(question)
        for row in self.stream(params, question, prompts, rollout, limit, temperature):
            put(out, row, prompts[row.index // self.samples])
        return out

    def blank(self, question: Sequence[int]) -> Rollout:
        """A Rollout of these questions' rows, none of which is there yet: see `put`."""
        B, T = len(question) * self.samples, self.max_prompt + self.decode.max_tokens
        return Rollout(
            tokens=np.full((B, T), self.decode.pad, np.int32),
            sampled=np.zeros((B, T), bool),
            logp=np.zeros((B, T), np.float32),
            question=np.repeat(np.asarray(question, np.int32), self.samples),
            sample=self.sample_ids(question),
            finished=np.zeros(B, bool),
            version=np.int32(0),
            routes=np.full((B, T, *self._routes()), -1, np.int16) if self.decode.routes else None,
        )

    def stream(
        self,
        params,
        question: Sequence[int],
        prompts: Sequence[Sequence[int]],
        rollout: int,
        limit: int | np.ndarray,
        temperature: float,
        without: Collection[int] = (),
        replies: Replies | None = None,
    ) -> Iterator[Row]:
        """The rows of `__call__`, each as it ends, while the device goes on with the others. without: rows that are not sampled, if they
        are `separable`; replies: what answers the policy (`r1jax.sample.turns`).
        """
        limits = np.minimum(np.broadcast_to(limit, len(question) * self.samples), self.decode.max_tokens)
        if not (replies or self._in_turn(len(limits))):
            if without:
                raise ValueError(f'{len(limits)} rows share one batch of {self.slots} slots: none can be left out')
            asked = question, prompts, rollout, limits, temperature
            yield from self._laid_out(params, lambda weights: self._together(weights, *asked))
        else:
            yield from self._in_slots(params, question, prompts, rollout, limits, temperature, without, replies)

    def separable(self, rows: int, engine: bool = False) -> bool:
        """Whether some of so many rows can be left out and the others still have the same bits: they take slots in turn (with `engine`,
        always), of which there are as many to the end.
        """
        return (engine or self._in_turn(rows)) and (self.fixed or self.decode.buckets == 1)

    def _in_turn(self, rows: int) -> bool:
        """Whether so many rows take slots in turn, by the engine; else they are one batch."""
        return self.fixed or bool(self.pool) or rows > self.slots

    def _laid_out(self, params, rows: Callable[[Any], Generator[Row]]) -> Iterator[Row]:
        """What `rows` samples with these weights, in the layout for sampling."""
        if self.layout is None:
            yield from rows(params)
            return
        mesh = resharding.relaid(jax.sharding.get_mesh(), self.layout)
        where = layout.shardings(params, self.decode.model, mesh)
        yield from resharding.on(mesh, rows(resharding.moved(params, where)))

    def _policy(self, params):
        """What draws: these weights or rounded ones."""
        return quantised(params) if self.weights == 'int8' else params

    def sample_ids(self, question: Sequence[int]) -> np.ndarray:
        """i32[Q·G], the number of each row among those of its question."""
        seen: dict[int, int] = {}
        first = []
        for q in question:
            first.append(seen.get(q, 0))
            seen[q] = first[-1] + self.samples
        return (np.array(first, np.int32)[:, None] + np.arange(self.samples, dtype=np.int32)).reshape(-1)

    def _routes(self) -> tuple[int, int]:
        return self.decode.model.expert_layers, self.decode.model.moe.active

    def _together(self, params, question, prompts, rollout, limit, temperature):
        """One call of `sample`, filled up with rows that are not sampled: prompts are then read by all their samples without a copy."""
        G, Q, P, n, params = self.samples, self.questions, self.max_prompt, len(question), self._policy(params)
        tokens, length = np.full((Q, P), self.decode.pad, np.int32), np.ones(Q, np.int32)
        for i, row in enumerate(prompts):
            tokens[i, : len(row)], length[i] = row, len(row)
        number = np.zeros(Q, np.int32)
        number[:n] = question
        sample_id = np.tile(np.arange(G, dtype=np.int32), Q)
        sample_id[: n * G] = self.sample_ids(question)
        limits = np.zeros(Q * G, np.int32)
        limits[: n * G] = limit
        keys = sample_keys(self.seed, rollout, np.repeat(number, G), sample_id)
        out = sample(
            params, Prompts(tokens, length, number), keys, limits, self.decode, np.float32(temperature), sample_id
        )
        out = sharding.fetch(out)
        for b in range(n * G):
            start, on = length[b // G], out.sampled[b]
            routes = None if out.routes is None else out.routes[b, : start + on.sum()]
            yield Row(b, out.tokens[b][on], out.logp[b][on], 'stop' if out.finished[b] else 'limit', routes)

    def _in_slots(self, params, question, prompts, rollout, limit, temperature, without, replies):
        """By the engine."""
        G, keys = self.samples, self.keys(question, rollout)
        hot = float(temperature)
        left = [(b, int(n)) for b, n in enumerate(limit) if b not in without]
        yield from self.answer(params, [Request(prompts[b // G], n, keys[b], hot, tag=b) for b, n in left], replies)

    def keys(self, question: Sequence[int], rollout: int) -> np.ndarray:
        """u32[Q·G,·], the key of each row of these questions."""
        return key_data(
            self.seed, rollout, np.repeat(np.asarray(question, np.int32), self.samples), self.sample_ids(question)
        )

    def answer(self, params, requests: Sequence[Request], replies: Replies | None = None) -> Iterator[Row]:
        """What the engine gives to requests, whose tags are the rows' indexes; as `stream`."""
        yield from self._laid_out(params, lambda weights: self._answered(weights, requests, replies))

    def _answered(self, params, requests, replies):
        engine = self.engine
        engine.reset()  # an earlier stream may have been left
        engine.load(self._policy(params))
        try:
            yield from rows(engine, requests, replies)
        finally:
            engine.unload()


def put(out: Rollout, row: Row, prompt: Sequence[int]) -> None:
    """Writes a row into its place of a rollout of NumPy arrays, behind its prompt."""
    b, start, end = row.index, len(prompt), len(prompt) + len(row.tokens)
    out.tokens[b, :start], out.tokens[b, start:end] = prompt, row.tokens
    out.sampled[b, start:end], out.logp[b, start:end] = True if row.own is None else row.own, row.logp
    out.finished[b] = row.finished
    if row.routes is not None:
        out.routes[b, : len(row.routes)] = row.routes
    if row.outcomes is not None:
        out.outcomes[b] = row.outcomes


def response(tokens: np.ndarray, finished: bool, tokenizer) -> Response:
    """Tokens i32[n] decoded, an end token dropped from the text and counted in the length."""
    return Response(tokenizer.decode(tokens[: len(tokens) - bool(finished)].tolist()), len(tokens), bool(finished))


def responses(rollout: Rollout, tokenizer) -> list[Response]:
    """The decoded responses of a host rollout."""
    rows = zip(rollout.tokens, rollout.sampled, rollout.finished, strict=True)
    return [response(row[on], finished, tokenizer) for row, on, finished in rows]
