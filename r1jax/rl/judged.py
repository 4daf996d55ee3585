"""From judged sequences to a packed batch: a reward model's score is one number a sequence, read at its last token.

In: sequences as `r1jax.data.template.exchange` makes them. Out: a `Batch` as any other, whose weights stand at last tokens alone.

A pair shares what both of its sequences begin with, the question, as the samples of a group share their prompt; so a pair lies in one
row, and no microbatch or shard can split it. At the chosen one's end `source` says where the rejected one's end is:

    row       q q q a a a b b       (question q, chosen a, rejected b)
    weight    0 0 0 0 0 w 0 0
    source    . . . . . 7 . .       loss = Σ w·softplus(v[7] − v[5])

Where a policy learns from pairs (DPO), all tokens of both answers have weights, and `advantage` says which is which.

A labelled sequence has its weight at its end and its label there as `advantage`. Both are packed by `r1jax.rl.batch.pack`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from r1jax.rl.batch import Item
from r1jax.types import Batch


def pair_items(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], whole: bool = False) -> list[Item]:
    """Two items a pair, chosen and rejected; the weights of an optimizer step, 1 over the number of pairs, are at the chosen ones' ends, or
    with `whole` divided among all tokens of both, which then have the advantages 1 and −1.

    Raises:
      ValueError: two sequences of a pair do not begin alike, or are the same.
    """
    items = []
    for group, both in enumerate(pairs):
        chosen, rejected = (np.asarray(ids, np.int32) for ids in both)
        shared = _shared(chosen, rejected)
        if not shared or np.array_equal(chosen, rejected):
            what = 'the same' if shared else 'answers to different questions'
            raise ValueError(f'a pair is of two answers to one question, not {what}')
        prompt = chosen[:shared]
        answers = chosen[shared:], rejected[shared:]
        if whole:
            each = 1 / (len(pairs) * sum(map(len, answers)))
            items += [Item(prompt, a, each, group, side) for a, side in zip(answers, (1.0, -1.0), strict=True)]
        else:
            items.append(Item(prompt, answers[0], _at_end(len(answers[0]), 1 / len(pairs)), group))
            items.append(Item(prompt, answers[1], 0.0, group))
    return items


def labelled_items(labelled: Sequence[tuple[Sequence[int], float]]) -> list[Item]:
    """An item a sequence, all but its last token as the prompt: weight 1 over their number, its label as the advantage."""
    weight = 1 / max(len(labelled), 1)
    return [
        Item(np.asarray(ids[:-1], np.int32), np.asarray(ids[-1:], np.int32), weight, advantage=label)
        for ids, label in labelled
    ]


def linked(batch: Batch, items: Sequence[Item], places: Sequence[tuple[int, int, int]]) -> Batch:
    """A packed batch of `pair_items`, in which each chosen end knows where its rejected one is. Changes `batch.source` in place."""
    undivided(batch, places)
    ends = [(m, r, t + len(item.response) - 1) for item, (m, r, t) in zip(items, places, strict=True)]
    for (m, r, chosen), (*_, rejected) in zip(ends[::2], ends[1::2], strict=True):
        batch.source[m, r, chosen] = rejected
    return batch


def undivided(batch: Batch, places: Sequence[tuple[int, int, int]]) -> Batch:
    """A packed batch of `pair_items`; both answers of a pair stand in one row, behind one copy of their prompt."""
    for one, other in zip(places[::2], places[1::2], strict=True):
        together = one[:2] == other[:2] and batch.parent[one] == batch.parent[other]
        assert together, 'a pair was split: its row is shorter than the question and both answers'
    return batch


def pair_size(pair: tuple[Sequence[int], Sequence[int]]) -> int:
    """Tokens of a row that a pair takes."""
    chosen, rejected = (np.asarray(ids) for ids in pair)
    return len(chosen) + len(rejected) - _shared(chosen, rejected)


def _shared(chosen: np.ndarray, rejected: np.ndarray) -> int:
    """Tokens that both begin with; of each at least its last stays its own."""
    most = min(len(chosen), len(rejected)) - 1
    differ = np.flatnonzero(chosen[:most] != rejected[:most])
    return int(differ[0]) if len(differ) else most


def _at_end(length: int, weight: float) -> np.ndarray:
    out = np.zeros(length, np.float32)
    out[-1] = weight
    return out
