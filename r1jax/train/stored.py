"""Items of optimizer steps from what is stored: texts, and judged answers for reward models. `r1jax.train.source` says what a source is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

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
        self.position = 0

    def next_items(self, params, reference, step: int) -> tuple[list[Item], dict, list[dict]]:
        """The items of one optimizer step, metrics, and records for samples.jsonl."""
        pairs, self.position = store.take(self.data, self.position, self.cfg.batch)
        lengths = np.array([len(r) for _, r in pairs])
        weights = token_weights(lengths, np.ones(len(pairs), bool), 'token_mean')
        items = [Item(np.asarray(p), np.asarray(r), w) for (p, r), w in zip(pairs, weights, strict=True)]
        return items, {}, []

    def measured(self, metrics: dict) -> dict:
        return metrics

    def cursor(self) -> dict:
        return {'position': self.position}

    def flight(self) -> dict[str, np.ndarray] | None:
        return None

    def restore(self, cursor: dict, flight: dict[str, np.ndarray] | None) -> None:
        self.position = cursor['position']


class JudgedSource(StoredSource):
    """Pairs of answers or labelled ones for a reward model, `batch` an optimizer step, each weighing the same."""

    def __init__(self, cfg: Stored, examples: Sequence, seed: int, items: Callable[[list], list[Item]]):
        super().__init__(cfg, examples, seed)
        self.items = items  # of `r1jax.rl.judged`

    def next_items(self, params, reference, step: int) -> tuple[list[Item], dict, list[dict]]:
        """As `StoredSource`'s; the weights of a step stand at the ends of what is judged."""
        judged, self.position = store.take(self.data, self.position, self.cfg.batch)
        return self.items(judged), {}, []
