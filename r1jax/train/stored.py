"""Items of optimizer steps from what is stored: texts, and judged answers for reward models. `r1jax.train.source` says what a source is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from r1jax import distributed
from r1jax.config import Stored
from r1jax.data import store
from r1jax.rl.batch import Item, token_weights

Tokens = Sequence[int]


class StoredSource:
    """Supervised examples, `batch` an optimizer step, each token of each response weighing the same."""

    fresh = True

    def __init__(self, cfg: Stored, examples: Sequence[tuple[Tokens, Tokens]], seed: int):
        self.cfg = cfg
        self.data = store.ordered(examples, seed, cfg.shuffle)
        self.on_disk = not isinstance(examples, (list, tuple))  # each is then read and encoded when asked for
        self.position = 0

    def next_items(self, params, reference, step: int) -> tuple[list[Item], dict, list[dict]]:
        """The items of one optimizer step, metrics, and records for samples.jsonl."""
        pairs = self._taken()
        lengths = np.array([len(r) for _, r in pairs])
        weights = token_weights(lengths, np.ones(len(pairs), bool), 'token_mean')
        items = [Item(np.asarray(p), np.asarray(r), w) for (p, r), w in zip(pairs, weights, strict=True)]
        return items, {}, []

    def _taken(self) -> list:
        """The next examples. Of several processes each reads its share of them."""
        start, count = self.position, self.cfg.batch
        parts = distributed.count() if self.on_disk else 1
        mine = range(start + (distributed.index() if parts > 1 else 0), start + count, parts)
        read = [item for at in mine for item in store.take(self.data, at, 1)[0]]
        self.position += count
        if parts == 1:
            return read
        out = [None] * count
        for i, part in enumerate(distributed.exchange(read)):
            out[i::parts] = part
        return out

    def measured(self, metrics: dict) -> dict:
        return metrics

    def cursor(self) -> dict:
        return {'position': self.position}

    def flight(self) -> dict[str, np.ndarray] | None:
        return None

    def restore(self, cursor: dict, flight: dict[str, np.ndarray] | None) -> None:
        self.position = cursor['position']

    def mark(self, params, step: int) -> tuple:
        """What `undo` needs to take back the batches of a step, before the first of them."""
        return self.cursor(), self.flight()

    def undo(self, mark: tuple) -> None:
        self.restore(*mark)

    def close(self) -> None:
        """Nothing is under way."""


class JudgedSource(StoredSource):
    """Pairs of answers or labelled ones, `batch` an optimizer step, each weighing the same.

    items: of `r1jax.rl.judged`. logprobs: where the loss compares the policy with a reference, what the tokens of items have under given
    weights, (weights, items) -> f32[N] an item.
    """

    def __init__(
        self,
        cfg: Stored,
        examples: Sequence,
        seed: int,
        items: Callable[[list], list[Item]],
        logprobs: Callable[[Any, list[Item]], list[np.ndarray]] | None = None,
    ):
        super().__init__(cfg, examples, seed)
        self.items, self.logprobs = items, logprobs

    def next_items(self, params, reference, step: int) -> tuple[list[Item], dict, list[dict]]:
        """As `StoredSource`'s, with the weights and what else the loss reads of what is judged."""
        items = self.items(self._taken())
        if self.logprobs:
            found = self.logprobs(reference, items)
            items = [dataclasses.replace(item, ref_logp=logp) for item, logp in zip(items, found, strict=True)]
        return items, {}, []
