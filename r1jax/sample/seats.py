"""The engine's slots on the host: whose each is, what is known of its row, and where its keys are (`r1jax.sample.memory`).

Axes: S slots.
"""

from __future__ import annotations

from r1jax.sample import programs
from r1jax.sample.memory import InPages, InSlots
from r1jax.sample.programs import Table
from r1jax.sample.request import Answer, Paused


class Seats:
    """Slots, as many as `open` or `resize` says."""

    def __init__(self, memory: InSlots | InPages, key_words: int):
        """key_words: of a row's key data."""
        self.memory, self.key_words = memory, key_words
        self.close()

    def close(self) -> None:
        """Gives back the memory of all slots."""
        self.memory.close()
        self.owner: list[Answer | None] = []
        self.table = Table.empty(0, self.key_words)

    def resize(self, slots: int, like: programs.Shapes) -> None:
        """Other slots, or the first, for keys like those of prompts: those whose rows go on come first."""
        slot = [i for i, answer in enumerate(self.owner) if answer]
        if self.owner:
            self.memory.resize(slot, slots)
        else:
            self.memory.open(like, slots)
        self.table = self.table.moved(slot, slots)
        self.owner = [self.owner[i] for i in slot] + [None] * (slots - len(slot))

    @property
    def running(self) -> list[Answer]:
        return [answer for answer in self.owner if answer]

    def free(self, answer: Answer) -> int | None:
        """The first free slot where memory has room for a row."""
        slots = (slot for slot, owner in enumerate(self.owner) if not owner)
        return next((slot for slot in slots if self.memory.has_room(answer, slot)), None)

    def take(self, slot: int, answer: Answer) -> None:
        """A row takes a slot. Its prompt's keys are still to come (`memory.admit`); if it had to leave one, it has its own again."""
        r, t = answer.request, self.table
        self.owner[slot] = answer
        t.key[slot], t.start[slot], t.limit[slot] = r.key, len(answer.prompt), r.limit
        t.temperature[slot], t.drawn[slot], t.last[slot] = r.temperature, r.drawn, answer.prompt[-1]
        t.length[slot], t.done[slot], t.top_p[slot], t.show[slot] = 0, False, r.top_p, r.show
        self.memory.take(slot, answer)
        if paused := answer.paused:
            t.length[slot], t.last[slot] = paused.length, paused.last
            assert isinstance(self.memory, InPages)  # in slots none has to leave
            self.memory.put_back(slot, paused.layers)
            answer.paused = None

    def leave(self, slot: int) -> None:
        """A slot's row is over."""
        self.owner[slot], self.table.done[slot] = None, True
        self.memory.leave(slot)

    def make_room(self) -> list[Answer]:
        """Makes room for a chunk of the rows that run. Returns those that have to leave for it, as they are to wait, the oldest last."""
        t = self.table
        rows = {slot: (answer, int(t.length[slot])) for slot, answer in enumerate(self.owner) if answer}
        gone = self.memory.make_room(rows)
        for slot, layers in gone.items():
            self.owner[slot].paused = Paused(layers, int(t.length[slot]), int(t.last[slot]))
            self.owner[slot], t.done[slot] = None, True
        return [rows[slot][0] for slot in gone]
