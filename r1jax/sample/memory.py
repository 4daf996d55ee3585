"""Where the engine's rows have their keys: each slot in memory of its own (`InSlots`), or all in a pool of pages (`InPages`).

Both answer what the engine asks on the host, between two chunks, and hold what the device has, `layers`.

Axes: S slots, M pages of a row at most.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from r1jax.sample import programs
from r1jax.sample.pool import Pool
from r1jax.sample.programs import Table
from r1jax.sample.request import Answer, Block

_COPIED = 2048  # tokens whose keys are copied by one call between prompts, pages and the host


class InSlots:
    """Slots of `size` entries each."""

    def __init__(self, size: int):
        self.size = size
        self.layers: programs.Layers | None = None

    def empty(self, like: programs.Shapes, slots: int) -> tuple[Callable[..., programs.Layers], tuple]:
        """What makes the memory of so many slots, for keys like those of prompts: a program and its arguments."""
        return programs.empty, (like, slots, self.size)

    def open(self, like: programs.Shapes, slots: int) -> None:
        """Takes it."""
        make, given = self.empty(like, slots)
        self.layers = make(*given)

    def close(self) -> None:
        """Gives it back."""
        self.layers = None

    def compile(self, blocks: Sequence[Block], slots: int) -> None:
        """Runs the programs that copy once, on nothing."""
        for block in blocks:
            self.admit(block, [], [], slots)

    def resize(self, slot: Sequence[int], slots: int) -> None:
        """The rows of slots slot[i] are those of slots i from now on, of `slots` in all."""
        source = np.zeros(slots, np.int32)
        source[: len(slot)] = slot
        old, new = list(self.layers or ()), []
        self.layers = None
        while old:  # one layer after the other, so that no more than one is held twice
            new += programs.resized((old.pop(0),), source)
        self.layers = tuple(new)

    def has_room(self, answer: Answer, slot: int) -> bool:
        """Whether a waiting request may take this slot."""
        return True

    def take(self, slot: int, answer: Answer) -> None:
        """It does."""

    def admit(self, block: Block, slot: Sequence[int], row: Sequence[int], slots: int) -> None:
        """Copies a block's prompts row[i] to the requests that took slot[i], of `slots` in all."""
        padding = [0] * (slots - len(slot))
        into, source = (np.array([*a, *padding], np.int32) for a in (slot, row))
        self.layers = programs.admit(self.layers, block.layers, into, source, np.int32(len(slot)))

    def make_room(self, rows: Mapping[int, tuple[Answer, int]]) -> dict[int, programs.Layers]:
        """Makes room for a chunk of the rows that run, by slot, each with its new tokens so far. Returns the keys of those that have to
        leave for it, by slot: none, where each slot has memory of its own.
        """
        return {}

    def leave(self, slot: int) -> None:
        """A slot's row is over."""

    def seen(self, table: Table) -> Table:
        """A copy of the table for a chunk, with what the device must know of the memory."""
        return jax.tree.map(np.copy, table)


class InPages(InSlots):
    """Pages, of which a row has as many as it needs until the end of the next chunk."""

    def __init__(self, size: int, page: int, tokens: int, columns: int, devices: int):
        """size: entries of the longest row; tokens: of all pages; columns: most tokens of a chunk; devices: that share the rows.
        ValueError: as `Pool`.
        """
        super().__init__(size)
        self.pool, self.columns, self.slots = Pool(tokens, page, size, devices), columns, 0
        self.copied = max(_COPIED // page, 1)  # pages
        # slot -> pages that its row's first entries are still to be copied into, and the first entry of each
        self._copies: dict[int, list[tuple[int, int]]] = {}

    def empty(self, like: programs.Shapes, slots: int) -> tuple[Callable[..., programs.Layers], tuple]:
        return programs.empty_pages, (like, self.pool.count, self.pool.page)

    def open(self, like: programs.Shapes, slots: int) -> None:
        super().open(like, slots)
        self.slots = slots

    def close(self) -> None:
        super().close()
        self.pool.reset()

    def compile(self, blocks: Sequence[Block], slots: int) -> None:
        super().compile([*blocks, Block(self._lifted([]), None)], slots)

    def resize(self, slot: Sequence[int], slots: int) -> None:
        self.pool.move(slot)  # and nothing on the device, of which there is one
        self.slots = slots

    def _needs(self, answer: Answer, new: int) -> int:
        """Entries that a row with so many new tokens needs until the end of the next chunk."""
        return len(answer.prompt) + new - 1 + min(self.columns, answer.request.limit - new)

    def _device(self, slot: int) -> int:
        return slot * self.pool.devices // self.slots

    def has_room(self, answer: Answer, slot: int) -> bool:
        """And whether a page would be left for each row beside it: else one might have to leave at once."""
        device, name, size = self._device(slot), answer.prompt.tobytes(), len(answer.prompt) - 1
        lacks = self.pool.lacks(name, size, self._needs(answer, answer.held), device)
        beside = sum(each == device for each, _ in self.pool.names.values())
        return lacks + beside <= len(self.pool.free[device])

    def take(self, slot: int, answer: Answer) -> None:
        name, size, needs = answer.prompt.tobytes(), len(answer.prompt) - 1, self._needs(answer, answer.held)
        self._copies[slot] = self.pool.admit(slot, name, size, needs, self._device(slot), size + answer.held)

    def admit(self, block: Block, slot: Sequence[int], row: Sequence[int], slots: int) -> None:
        copies = [(page, r, first) for s, r in zip(slot, row, strict=True) for page, first in self._copies.pop(s)]
        for at in range(0, max(len(copies), 1), self.copied):
            self._copy(block.layers, copies[at : at + self.copied])

    def _copy(self, prompts: programs.Layers, copies: Sequence[tuple[int, int, int]]) -> None:
        """copies: page, and of which prompt from which entry on."""
        padding = [(0, 0, 0)] * (self.copied - len(copies))
        page, source, first = np.array([*copies, *padding], np.int32).T
        self.layers = programs.admit_pages(self.layers, prompts, page, source, first, np.int32(len(copies)))

    def make_room(self, rows: Mapping[int, tuple[Answer, int]]) -> dict[int, programs.Layers]:
        """The oldest rows have room first; the youngest leave."""
        order = sorted(rows, key=lambda slot: rows[slot][0].came)
        gone: dict[int, programs.Layers] = {}
        for slot in order:
            beside = [s for s in reversed(order) if self._device(s) == self._device(slot)]
            while slot not in gone and not self.pool.grow(slot, self._needs(*rows[slot])):
                youngest = next(s for s in beside if s not in gone)
                answer, new = rows[youngest]
                gone[youngest] = self._kept(youngest, len(answer.prompt) - 1 + new)
                self.leave(youngest)
        return gone

    def _kept(self, slot: int, entries: int) -> programs.Layers:
        """A row's keys and values, on the host."""
        pages = self.pool.rows[slot][: self.pool.pages(entries)]
        parts = [self._lifted(pages[at : at + self.copied]) for at in range(0, len(pages), self.copied)]

        def joined(*each):
            return np.concatenate([k for k, _ in each], 3), np.concatenate([v for _, v in each], 2)

        return tuple((k[..., :entries].copy(), v[:, :, :entries].copy()) for k, v in map(joined, *parts))

    def _lifted(self, pages: Sequence[int]) -> programs.Layers:
        page = np.array([*pages, *[0] * (self.copied - len(pages))], np.int32)
        return jax.tree.map(np.asarray, programs.lifted(self.layers, page))

    def put_back(self, slot: int, kept: programs.Layers) -> None:
        """Gives a row that took a slot again the keys that it had."""
        step = self.copied * self.pool.page
        copies = self._copies.pop(slot)
        for at in range(0, kept[0][0].shape[3], step):

            def part(a, axis, at=at):
                a = a[:, :, at : at + step] if axis == 2 else a[..., at : at + step]
                return np.pad(a, [(0, step - a.shape[axis] if i == axis else 0) for i in range(4)])

            some = tuple((part(k, 3), part(v, 2)) for k, v in kept)
            self._copy(some, [(page, 0, first - at) for page, first in copies if at <= first < at + step])

    def leave(self, slot: int) -> None:
        self.pool.leave(slot)

    def seen(self, table: Table) -> Table:
        return dataclasses.replace(super().seen(table), pages=self.pool.table(len(table.done)))
