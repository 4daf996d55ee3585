"""Stored items in an endless, reproducible order: the only door to grain.

In: a sequence and a seed. Out: a `grain.MapDataset` without an end, every epoch shuffled anew. It is addressed by
position, so the whole state of the data pipeline is one integer, which a checkpoint holds as it is: resuming is going
on to count.

Left out: worker processes and prefetching. Items are small, in memory or one read away (`r1jax.data.stored`); an update takes
far longer than reading its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import grain

Item = TypeVar('Item')


def ordered(items: Sequence[Item], seed: int, shuffle: bool = True) -> grain.MapDataset[Item]:
    """The items over and over. Each run of `len(items)` positions is one epoch and has every item once.

    Args:
      items: what to read, random access.
      seed: decides the order of every epoch.
      shuffle: False keeps the given order in each epoch.

    Raises:
      ValueError: there are no items.
    """
    if not len(items):
        raise ValueError('cannot order an empty dataset')
    dataset = grain.MapDataset.source(items).seed(seed)
    if shuffle:
        dataset = dataset.shuffle()
    return dataset.repeat(reseed_each_epoch=True)


def take(dataset: grain.MapDataset, position: int, count: int) -> tuple[list[Any], int]:
    """The `count` items from `position` on, and the position after them."""
    return [dataset[i] for i in range(position, position + count)], position + count
