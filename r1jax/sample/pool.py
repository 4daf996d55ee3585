"""Which pages of the cache (`r1jax.nn.pages`) are whose: counted on the host, from numbers of tokens alone.

A row holds as many pages as its tokens fill, those of the chunk that comes included. The whole pages of a prompt are held by all rows
that have it; what is left of it stands in each row's own page, into which the row goes on to write. Where devices share the rows, each has
as many of the pages, for its own slots.

Axes: S slots, M pages of a row at most, P entries of a page.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Pool:
    """The pages, free or held."""

    def __init__(self, tokens: int, page: int, longest: int, devices: int = 1):
        """A pool of `tokens` entries at most, in pages of `page`, for rows of up to `longest`. ValueError: a row does not fit."""
        each = tokens // (page * devices)
        self.page, self.devices, self.count, self.most = page, devices, each * devices, -(-longest // page)
        if each < self.most:
            has = f'a pool of {tokens} tokens has {each}' + (f' on each of {devices} devices' if devices > 1 else '')
            raise ValueError(
                f'a row of {longest} tokens takes {self.most} pages of {page}, but {has}: give it {self.most * page * devices} or more, '
                'or limit responses'
            )
        self.reset()

    def reset(self) -> None:
        """All pages are free."""
        each = self.count // self.devices
        self.free = [list(range(d * each, (d + 1) * each))[::-1] for d in range(self.devices)]
        self.holders = np.zeros(self.count, np.int32)
        self.rows: dict[int, list[int]] = {}  # slot -> its row's pages in order
        self.prompts: dict[tuple[int, bytes], list[int]] = {}  # whole pages of prompts that a device's rows hold
        self.names: dict[int, tuple[int, bytes]] = {}  # slot -> its device and its row's prompt

    @property
    def used(self) -> int:
        """Pages that are held."""
        return self.count - sum(map(len, self.free))

    def pages(self, entries: int) -> int:
        """That so many entries fill."""
        return -(-entries // self.page)

    def grow(self, slot: int, entries: int) -> bool:
        """Gives a slot's row pages for so many entries; False where too few are free."""
        more = max(self.pages(entries) - len(self.rows[slot]), 0)
        if more > len(self.free[self.names[slot][0]]):
            return False
        self._take(slot, more)
        return True

    def lacks(self, prompt: bytes, size: int, entries: int, device: int = 0) -> int:
        """Pages that `admit` would take."""
        return self.pages(entries) - (size // self.page if (device, prompt) in self.prompts else 0)

    def admit(
        self, slot: int, prompt: bytes, size: int, entries: int, device: int = 0, filled: int = 0
    ) -> list[tuple[int, int]]:
        """Gives a device's slot to a row with `size` entries of a prompt and room for `entries` in all; there must be as many pages free as
        it `lacks`. Returns the pages that its first entries are to be copied into, and the first entry of each: the prompt's, or as many
        as were `filled` when it left a slot.
        """
        whole, name = size // self.page, (device, prompt)
        known = name in self.prompts
        self.rows[slot], self.names[slot] = list(self.prompts.get(name, ())), name
        self.holders[self.rows[slot]] += 1
        self._take(slot, self.pages(entries) - len(self.rows[slot]))
        if whole:
            self.prompts[name] = self.rows[slot][:whole]
        first = whole if known else 0
        return [(self.rows[slot][i], i * self.page) for i in range(first, self.pages(max(size, filled)))]

    def _take(self, slot: int, count: int) -> None:
        new = [self.free[self.names[slot][0]].pop() for _ in range(count)]
        self.holders[new] += 1
        self.rows[slot] += new

    def leave(self, slot: int) -> None:
        """A slot's row is over: what nobody else holds is free."""
        pages, name = self.rows.pop(slot), self.names.pop(slot)
        self.holders[pages] -= 1
        self.free[name[0]] += [page for page in pages if not self.holders[page]]
        if name in self.prompts and not self.holders[self.prompts[name][0]]:
            del self.prompts[name]

    def move(self, slot: Sequence[int]) -> None:
        """The rows of slots slot[i] are those of slots i from now on."""
        self.rows = {i: self.rows[s] for i, s in enumerate(slot)}
        self.names = {i: self.names[s] for i, s in enumerate(slot)}

    def table(self, slots: int) -> np.ndarray:
        """i32[S,M], pages of each slot's row; behind the last, and where nobody is, one that is not there."""
        out = np.full((slots, self.most), self.count, np.int32)
        for slot, pages in self.rows.items():
            out[slot, : len(pages)] = pages
        return out
