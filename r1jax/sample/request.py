"""What the engine is asked, and what it answers.

Axes: P tokens of a prompt, n new tokens, M layers with experts, k experts of a token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from r1jax.sample import programs


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """What is to be sampled."""

    prompt: Sequence[int] | np.ndarray  # at least a token; the ones drawn before, where a response goes on, at its end
    limit: int  # most new tokens
    key: np.ndarray  # u32[·], of `keys`: token i of the response draws with i folded in
    temperature: float = 1.0  # 0 greedy
    drawn: int = 0  # tokens at the prompt's end that were drawn before
    tag: Any = None  # the caller's
    top_p: float = 1.0  # read where `Decode.top_p` is None
    show: bool = False  # with `Decode.shown`: the answer has the most likely tokens, too


class Fresh(NamedTuple):
    """Some new tokens of an answer."""

    tokens: np.ndarray  # i32[n]
    logp: np.ndarray  # f32[n], nats
    likely: np.ndarray | None = None  # i32[n,K], the most likely in the place of each, where asked for
    likely_logp: np.ndarray | None = None  # f32[n,K]


class Paused(NamedTuple):
    """A row that had to leave its slot, and goes on as it would have."""

    layers: programs.Layers  # of its keys, on the host: keys [1,K,H,T] and values [1,K,T,V]
    length: int  # new tokens so far
    last: int  # the last of them


class Answer:
    """What is known of a request: grows by each chunk, until `why` says how it ended."""

    def __init__(self, request: Request, prompt: np.ndarray):
        self.request, self.prompt = request, prompt
        self.why = ''  # 'stop', 'limit' or 'cancelled'; '' while it waits or goes on
        self.came = 0  # its number among those that took slots
        self.paused: Paused | None = None
        self.passed: tuple[jax.Array, int] | None = (
            None  # routes of the block of its prompt and its row there, where asked for
        )
        self._tokens: list[np.ndarray] = []
        self._logp: list[np.ndarray] = []
        self._routes: list[np.ndarray] = []
        self._likely: list[tuple[np.ndarray, np.ndarray]] = []
        self._told = 0  # chunks that `fresh` has handed over

    @property
    def tokens(self) -> np.ndarray:
        """i32[n], new tokens so far."""
        return np.concatenate(self._tokens) if self._tokens else np.zeros(0, np.int32)

    @property
    def logp(self) -> np.ndarray:
        """f32[n], nats, of the new tokens."""
        return np.concatenate(self._logp) if self._logp else np.zeros(0, np.float32)

    def fresh(self) -> Fresh:
        """What has come since the last call: for those who cannot wait for the end."""
        at, self._told = self._told, len(self._tokens)
        tokens, logp = (
            np.concatenate(each[at:]) if each[at:] else np.zeros(0, kind)
            for each, kind in ((self._tokens, np.int32), (self._logp, np.float32))
        )
        likely = [np.concatenate(each) for each in zip(*self._likely[at:], strict=True)]
        return Fresh(tokens, logp, *likely)

    @property
    def held(self) -> int:
        """New tokens that are known when it takes a slot."""
        return self.paused.length if self.paused else 0

    @property
    def finished(self) -> bool:
        """Whether the last token is a stop token."""
        return self.why == 'stop'

    @property
    def routes(self) -> np.ndarray | None:
        """i16[P+n−1,M,k], experts of each token that was read, the prompt's first; None where none were asked for."""
        if self.passed is None:
            return None
        passed, row = self.passed
        return np.concatenate([np.asarray(passed)[row, : len(self.prompt) - 1], *self._routes])


class Block(NamedTuple):
    """Prompts that were prefilled together: their keys, and the experts that their tokens passed."""

    layers: programs.Layers
    routes: jax.Array | None  # i16[A,P,M,k]
