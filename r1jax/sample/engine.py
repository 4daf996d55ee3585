"""Continuous batching: requests in, answers out as they finish, over a fixed number of slots.

    engine = Engine(decode, slots=64, max_prompt=256)
    engine.load(params)
    answers = [engine.submit(Request(prompt, limit, key)) for …]
    while not engine.idle:
        for answer in engine.advance(): …

A slot whose row is over takes the next request while the others go on. In order, each `advance`: wait for the chunk of tokens that the
device is computing; take rows that are over out of their slots; compute the keys of waiting prompts, `prefill` tokens of them at a time
and each prompt once for all requests that have it; copy them into free slots; start the next chunk; and only then look at what the last
one brought, so that what the caller does with finished answers overlaps with the device.

A chunk ends early when slots are free that a request waits for. When none waits, rows move together into fewer slots
(`Decode.buckets` sizes in all), so that the tail of few long rows costs what few rows cost.

Whatever is decided here follows from counts of tokens, never from a clock: the same requests in the same order take the same slots. With
`buckets=1`, a request's answer has the same bits whatever else is asked, in any order; with more, the sizes that it passes decide
its rounding.

With a `pool`, rows hold pages (`r1jax.nn.pages`) in place of a slot's whole length. Those that wait then wait for pages, too. Where pages
run out, the row that came last leaves: its keys move to the host, and it is put in front of those that wait, to go on as if nothing had
been. The oldest row always has room, so all come to their end.

Prompts enter all but their last token, which a slot reads as it reads every token: its first draw comes out of the step that all draws
come from.

Axes: S slots, A prompts, P tokens of a prompt, C columns of a chunk, M layers with experts, k experts of a token.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from r1jax import sharding
from r1jax.sample import programs
from r1jax.sample.memory import InPages, InSlots
from r1jax.sample.programs import Chunk
from r1jax.sample.prompts import Prompts
from r1jax.sample.request import Answer, Block, Request
from r1jax.sample.sampler import smaller
from r1jax.sample.seats import Seats
from r1jax.sample.step import Decode


class _Flight(NamedTuple):
    """A chunk that the device is computing."""

    out: Chunk
    owner: list[Answer | None]  # of each slot
    length: np.ndarray  # i32[S], before it
    admitted: int


class Ran(NamedTuple):
    """A chunk that is over."""

    slots: int
    steps: int
    tokens: int  # that rows kept; slots · steps were decoded
    admitted: int  # rows that took a slot before it


class Engine:
    """Slots that requests take in turn. Not for several threads at once."""

    def __init__(
        self,
        decode: Decode,
        slots: int,
        max_prompt: int,
        columns: int = 32,
        prefill: int = 512,
        pool: int = 0,
        page: int = 256,
    ):
        """`decode.max_tokens` and `max_prompt` say how long a slot is, their sum; a request may divide it otherwise.

        columns: most tokens of a chunk; prefill: tokens of prompts that are computed together, about; pool: tokens of all pages, where rows
        hold pages of `page` tokens each (0: a slot has memory of its own).
        ValueError: slots that the devices cannot share evenly; a pool that cannot hold a slot's longest row, on each of them.
        """
        self.devices = sharding.ways('batch')
        if slots % self.devices:
            raise ValueError(f'{slots=} must be a multiple of the {self.devices} devices that rows are split over')
        self.size, self.columns = max_prompt + decode.max_tokens, columns
        memory = InPages(self.size, page, pool, columns, self.devices) if pool else InSlots(self.size)
        self.key_words = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))).size
        self.seats = Seats(memory, self.key_words)
        kept = pool and self.devices > 1  # a row cannot move to a slot of another device than its pages'
        self.sizes = [slots] if kept else [slots, *smaller(slots, decode.buckets)]
        self.decode = dataclasses.replace(decode, max_tokens=0, buckets=1)  # what programs depend on
        self.prompts = Prompts(self.decode, max_prompt, self.size, prefill, self.devices)
        self.weights: Any = None
        self.like: programs.Shapes | None = None  # of prompts' keys; None until all is compiled
        self.ran: list[Ran] = []
        self.reset()

    def reset(self) -> None:
        """Forgets all requests, with what was computed of them."""
        self.waiting: collections.deque[Answer] = collections.deque()
        self.prompts.clear()
        self.over: list[Answer] = []  # without having been in a slot, or cancelled
        self.dropped: set[Answer] = set()  # in a slot, and not wanted any more
        self.flight: _Flight | None = None
        self.came = 0  # rows that took slots
        self.left = 0  # times that one had to leave, and waited again
        self.seats.close()

    # --- what a caller does

    def load(self, params: Any) -> None:
        """Takes weights for the requests that follow. ValueError: there are unfinished requests, which began with other weights."""
        if not self.idle:
            raise ValueError(f'{self.unfinished} requests are unfinished: other weights would go on with their text')
        self.prompts.params, self.weights = params, programs.prepared(params, self.decode.model)
        self.ran = []

    def unload(self) -> None:
        """Gives back the memory of the weights and of the slots."""
        self.reset()
        self.prompts.params = self.weights = None

    def submit(self, request: Request) -> Answer:
        """Puts a request behind those that wait. ValueError: it does not fit into a slot."""
        size = len(request.prompt)
        if not size:
            raise ValueError('a prompt needs a token: begin a text with the end-of-text token')
        if size + request.limit > self.size:
            raise ValueError(
                f'a prompt of {size} tokens and limit={request.limit} exceed a slot of {self.size} tokens: raise max_prompt or max_tokens'
            )
        answer = Answer(request, np.asarray(request.prompt, np.int32))
        if request.limit < 1:
            answer.why = 'limit'
            self.over.append(answer)
        else:
            self.waiting.append(answer)
            self.prompts.expect(answer)
        return answer

    def cancel(self, answer: Answer) -> None:
        """Ends an unfinished request: a later `advance` returns it, with the tokens that it has then."""
        if answer in self.seats.owner:
            self.dropped.add(answer)
        elif answer in self.waiting:
            self.waiting.remove(answer)
            if not answer.paused:
                self.prompts.forget(answer)
            answer.why, answer.paused = 'cancelled', None
            self.over.append(answer)

    @property
    def running(self) -> list[Answer]:
        """Those that have a slot, with their tokens so far."""
        return self.seats.running

    @property
    def unfinished(self) -> int:
        return len(self.waiting) + len(self.running)

    @property
    def idle(self) -> bool:
        """Whether `advance` has nothing to return any more."""
        return not (self.unfinished or self.over)

    def advance(self) -> list[Answer]:
        """Waits for a chunk, starts the next, and returns the answers that are over. Raises ValueError without weights."""
        if self.weights is None:
            raise ValueError('the engine has no weights: load(params) first')
        if self.flight is None:
            self._start()
        flight, ended = self.flight, []
        if flight:
            ended = self._wait(flight)
            for answer in self.seats.make_room():
                self.waiting.appendleft(answer)
                self.left += 1
            self._start()
            self._write(flight)
        out, self.over = [*self.over, *ended], []
        return out

    # --- after a chunk

    def _wait(self, flight: _Flight) -> list[Answer]:
        """Waits for a chunk, and frees the slots of rows that are over."""
        out, t = flight.out, self.seats.table
        length, finished, done, tokens = map(np.array, (out.length, out.finished, out.done, out.tokens))
        new = length - flight.length
        t.last[:] = np.where(new > 0, tokens[np.arange(len(new)), new - 1], t.last)
        t.length[:], t.done[:] = length, done
        ended = []
        for slot, answer in enumerate(flight.owner):
            if answer and (done[slot] or answer in self.dropped):
                answer.why = ('stop' if finished[slot] else 'limit') if done[slot] else 'cancelled'
                self.dropped.discard(answer)
                self.seats.leave(slot)
                ended.append(answer)
        self.ran.append(Ran(len(new), int(out.steps), int(new.sum()), flight.admitted))
        return ended

    def _write(self, flight: _Flight) -> None:
        """Gives each answer its tokens of a chunk."""
        parts = [np.asarray(a) for a in (flight.out.tokens, flight.out.logp)]
        routes = None if flight.out.routes is None else np.asarray(flight.out.routes)
        shown = any(answer and answer.request.show for answer in flight.owner) and flight.out.likely is not None
        likely = [np.asarray(a) for a in (flight.out.likely, flight.out.likely_logp)] if shown else None
        new = np.asarray(flight.out.length) - flight.length
        for slot, answer in enumerate(flight.owner):
            if answer and new[slot]:
                answer._tokens.append(parts[0][slot, : new[slot]])
                answer._logp.append(parts[1][slot, : new[slot]])
                if routes is not None:
                    answer._routes.append(routes[slot, : new[slot]])
                if likely and answer.request.show:
                    top, top_logp = (a[slot, : new[slot]] for a in likely)
                    answer._likely.append((top, top_logp))

    # --- before a chunk

    def _start(self) -> None:
        """Fills slots and starts a chunk; gives the slots back where nothing is left to do."""
        self.flight = None
        if not self.unfinished:
            self.seats.close()
            return
        if not self.like:
            self._compile()
        self._fit()
        admitted = self._refill()
        S, rows = len(self.seats.owner), len(self.running)
        if self.waiting:
            free = S - rows + max(S // 32, 1)  # so many more are worth a look of the host's
        else:
            free = S - max((n for n in self.sizes if n < rows), default=0)
        before = self.seats.table.length.copy()
        out = self._chunk(free, self.columns)
        self.flight = _Flight(out, list(self.seats.owner), before, admitted)

    def _chunk(self, free: int, steps: int) -> Chunk:
        i32, memory = np.int32, self.seats.memory
        known = memory.seen(self.seats.table), i32(free), i32(steps)
        memory.layers, out = programs.chunk(self.weights, memory.layers, *known, self.decode, self.columns)
        return out

    def _fit(self) -> None:
        """As many slots as requests need, of the sizes that there are, moved to step by step: each step is compiled once."""
        sizes, need = self.sizes[::-1], self.unfinished
        size = next((n for n in sizes if n >= need), sizes[-1])
        if not self.seats.owner:
            self.seats.resize(size, self.like)
        while (now := len(self.seats.owner)) != size:
            at = sizes.index(now)
            self.seats.resize(sizes[at + 1 if now < size else at - 1], self.like)

    def _refill(self) -> int:
        """Waiting requests take free slots, in their order; returns how many."""
        seats, count = self.seats, 0
        while self.waiting and (slot := seats.free(self.waiting[0])) is not None:
            if self.waiting[0].paused:
                seats.take(slot, self.waiting.popleft())
                count += 1
                continue
            new = (answer for answer in self.waiting if not answer.paused)
            block = self.prompts.block(self.waiting[0], new, ahead=4 * self.sizes[0])
            slots, rows = [], []
            while self.waiting and not self.waiting[0].paused:
                answer = self.waiting[0]
                found, slot = self.prompts.found(answer), seats.free(answer)
                if slot is None or found is None or found[0] is not block:
                    break
                slots.append(slot)
                rows.append(found[1])
                self._admit(slot, self.waiting.popleft(), block, found[1])
            seats.memory.admit(block, slots, rows, len(seats.owner))
            count += len(slots)
        return count

    def _admit(self, slot: int, answer: Answer, block: Block, row: int) -> None:
        """A new row takes a slot; its prompt's keys are a row of a block."""
        self.came += 1
        answer.came = self.came
        answer.passed = (block.routes, row) if self.decode.routes else None
        self.seats.take(slot, answer)
        self.prompts.forget(answer)

    def _compile(self) -> None:
        """Runs every program once on nothing, so that none is compiled later; but for longer prompts than `max_prompt`, which are
        responses that go on.
        """
        blocks = [self.prompts.compute([], length) for length in self.prompts.usual]
        self.like = programs.shapes(blocks[0].layers)
        for size in self.sizes:
            self.seats.resize(size, self.like)
            self.seats.memory.compile(blocks, size)
            self._chunk(size, 0)
        self.seats.close()
