"""From questions to responses on the host: the sampler called with fixed shapes, whatever the number of questions.

`Sampler` cuts questions into calls of `slots` rows, fills the last call with rows that are not sampled, and joins the results.
Rollouts and evaluations share it, and share its compiled program where their shapes agree.

Axes: Q questions, G samples, B = Q·G rows (question-major), P prompt tokens, N new tokens, T = P + N.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from r1jax.config import ModelConfig, SampleConfig
from r1jax.sample.sampler import Decode, Prompts, quantised, sample, sample_keys
from r1jax.types import Response, Rollout


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Draws `samples` responses to each question. `decode.max_tokens` bounds every call's limit."""

    decode: Decode
    max_prompt: int  # P
    samples: int  # G
    questions: int  # Q of one call
    seed: int
    weights: str = 'same'  # `SampleConfig.weights`

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
    ):
        """`max_tokens` overrides the config's, where phases or caps ask for another length; `routes`: see `Decode`."""
        N = max_tokens or cfg.max_tokens
        stop = (tokenizer.eos, *getattr(tokenizer, 'stops', ()))
        decode = Decode(model, N, stop, tokenizer.pad, cfg.top_p, cfg.top_k, cfg.buckets, routes)
        return cls(decode, cfg.max_prompt, samples, max(cfg.slots // samples, 1), seed, cfg.weights)

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
        G, Q, P = self.samples, self.questions, self.max_prompt
        params = quantised(params) if self.weights == 'int8' else params  # once a rollout, however many calls it takes
        seen: dict[int, int] = {}
        first = []
        for q in question:
            first.append(seen.get(q, 0))
            seen[q] = first[-1] + G
        parts, limit = [], np.minimum(np.broadcast_to(limit, len(question) * G), self.decode.max_tokens)
        for at in range(0, len(question), Q):
            ids, rows = question[at : at + Q], prompts[at : at + Q]
            n = len(ids)
            tokens, length = np.full((Q, P), self.decode.pad, np.int32), np.ones(Q, np.int32)
            for i, row in enumerate(rows):
                tokens[i, : len(row)], length[i] = row, len(row)
            number = np.zeros(Q, np.int32)
            number[:n] = ids
            sample_id = np.tile(np.arange(G, dtype=np.int32), Q)
            sample_id[: n * G] += np.repeat(np.array(first[at : at + n], np.int32), G)
            limits = np.zeros(Q * G, np.int32)
            limits[: n * G] = limit[at * G : (at + n) * G]
            keys = sample_keys(self.seed, rollout, np.repeat(number, G), sample_id)
            out = sample(
                params, Prompts(tokens, length, number), keys, limits, self.decode, np.float32(temperature), sample_id
            )
            parts.append((n * G, out))
        host = [jax.tree.map(lambda a, n=n: np.asarray(a)[:n] if a.ndim else np.asarray(a), out) for n, out in parts]
        return jax.tree.map(lambda *a: np.concatenate(a) if a[0].ndim else a[0], *host)


def responses(rollout: Rollout, tokenizer) -> list[Response]:
    """The decoded responses of a host rollout, end tokens dropped from the text and counted in the length."""
    out = []
    for row, on, finished in zip(rollout.tokens, rollout.sampled, rollout.finished, strict=True):
        ids = row[on]
        out.append(Response(tokenizer.decode(ids[: len(ids) - bool(finished)].tolist()), len(ids), bool(finished)))
    return out
