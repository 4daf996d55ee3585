"""Prompts on their way into slots: each is computed once for all the requests that wait with it, several of a length together.

What a prompt is padded to, and how many are computed together, follows from its own length alone; so do its keys' bits.

Axes: A prompts, P tokens of a prompt.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from r1jax.sample import programs
from r1jax.sample.request import Answer, Block
from r1jax.sample.step import Decode

_LEAST = 64  # tokens of the first length that prompts are padded to; each further one is twice the last


class Prompts:
    """The keys of prompts that requests wait with."""

    def __init__(self, decode: Decode, max_prompt: int, size: int, tokens: int, devices: int):
        """max_prompt: tokens of a usual prompt; size: of a slot, which those that go on may fill; tokens: computed together, about;
        devices: that rows are split over.
        """
        self.decode, self.tokens, self.devices = decode, tokens, devices
        self.lengths = _lengths(max_prompt, size)
        self.usual = [n for n in self.lengths if n <= max_prompt]
        self.params: Any = None
        self.clear()

    def clear(self) -> None:
        self.uses: collections.Counter[bytes] = collections.Counter()  # of a prompt, by waiting requests
        self.ready: dict[bytes, tuple[Block, int]] = {}

    def expect(self, answer: Answer) -> None:
        """One request more waits with its prompt."""
        self.uses[answer.prompt.tobytes()] += 1

    def forget(self, answer: Answer) -> None:
        """One fewer; the last lets the prompt's keys go."""
        prompt = answer.prompt.tobytes()
        self.uses[prompt] -= 1
        if not self.uses[prompt]:
            del self.uses[prompt]
            self.ready.pop(prompt, None)

    def found(self, answer: Answer) -> tuple[Block, int] | None:
        """Where a prompt's keys are, if they are computed."""
        return self.ready.get(answer.prompt.tobytes())

    def block(self, answer: Answer, waiting: Iterable[Answer], ahead: int) -> Block:
        """The block of a prompt, which is computed, if it is not there yet, with those of the first `ahead` that wait and are as long."""
        if found := self.found(answer):
            return found[0]
        length = self._length(answer)
        batch = {answer.prompt.tobytes(): answer.prompt[:-1]}
        for other in itertools.islice(waiting, ahead):
            if len(batch) == self.together(length):
                break
            if not self.found(other) and self._length(other) == length:
                batch[other.prompt.tobytes()] = other.prompt[:-1]
        block = self.compute(list(batch.values()), length)
        self.ready |= {name: (block, row) for row, name in enumerate(batch)}
        return block

    def compute(self, prompts: Sequence[np.ndarray], length: int) -> Block:
        """A block of prompts padded to a length."""
        tokens = np.full((self.together(length), length), self.decode.pad, np.int32)
        sizes = np.zeros(len(tokens), np.int32)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)], sizes[row] = prompt, len(prompt)
        return Block(*programs.prefill(self.params, tokens, sizes, self.decode))

    def _length(self, answer: Answer) -> int:
        return next(n for n in self.lengths if n >= len(answer.prompt) - 1)

    def together(self, length: int) -> int:
        """Prompts of this length that are computed together."""
        return -(-min(max(self.tokens // length, 1), 8) // self.devices) * self.devices


def _lengths(max_prompt: int, size: int) -> list[int]:
    """The lengths that prompts are padded to, ascending: doubling up to max_prompt, and on to the slot's size for responses that go on."""
    doubling = [_LEAST]
    while doubling[-1] < size:
        doubling.append(2 * doubling[-1])
    return sorted({*(n for n in doubling if n < size and not max_prompt < n < 2 * max_prompt), max_prompt, size})
