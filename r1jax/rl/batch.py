"""From responses to a packed batch: normalisation as data, prompts once, rows filled.

An `Item` is one response with its prompt. `token_weights` turns the kept responses of one optimizer step into weights; `pack` lays
items into rows of fixed length, items of one group sharing one copy of their prompt where they meet:

    row       p p p a a a b b | q q c c c        (prompt p with responses a, b; prompt q with response c)
    segment   0 0 0 1 1 1 2 2 | 3 3 4 4 4
    parent   -1-1-1 0 0 0 0 0 |-1-1 3 3 3
    position  0 1 2 3 4 5 3 4 | 0 1 2 3 4
    source    0 0 1 2 3 4 2 6 | 8 8 9 10 11      (a response's first token is predicted by its prompt's last)

With `prompts` tokens set apart at the front of a row, the responses fill the blocks behind them, which do not see each other:

    row       p p p q q . | a a a c c c | b b . . . .
    segment   0 0 0 1 1-1 | 2 2 2 3 3 3 | 4 4-1-1-1-1
    parent   -1-1-1-1-1-1 | 0 0 0 1 1 1 | 0 0-1-1-1-1

Supervised examples are the case of one response a prompt. Everything here is NumPy on the host.

Axes: B items of an optimizer step; in a Batch [M,R,T]: M microbatches of R rows of T tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from r1jax.types import Batch


@dataclasses.dataclass(frozen=True)
class Item:
    """One response to be trained on."""

    prompt: np.ndarray  # i32[P], at least one token
    response: np.ndarray  # i32[N], end token included
    weight: float | np.ndarray  # of each response token, or f32[N], of one after the other
    group: int = -1  # items of one group ≥ 0 have the same prompt; -1: on its own
    advantage: float = 1.0
    sampler_logp: np.ndarray | None = None  # f32[N]; None: 0
    old_logp: np.ndarray | None = None  # f32[N]; None: 0
    ref_logp: np.ndarray | None = None  # f32[N]; None: 0
    routes: np.ndarray | None = None  # i16[P+N,M,k], experts of each token; None: not recorded


PER_TOKEN = ('sampler_logp', 'old_logp', 'ref_logp')


def token_weights(lengths: np.ndarray, keep: np.ndarray, normalise: str, max_tokens: int = 0) -> np.ndarray:
    """The weight of each token of each response of one optimizer step, f32[B].

    lengths i32[B] response tokens |o|; keep bool[B]: dropped responses leave B. With B the number kept:
    'grpo' 1/(B·|o|) (DeepSeekMath eq. 3), 'dr_grpo' 1/(B·max_tokens) (arXiv 2503.20783), 'token_mean' 1/Σ|o| (SFT; DAPO, arXiv
    2503.14476 eq. 8). Summed over all tokens that is 1, mean(|o|)/max_tokens and 1; 0 for an empty batch.
    """
    lengths, keep = np.asarray(lengths, np.float64), np.asarray(keep, bool) & (np.asarray(lengths) > 0)
    count = max(int(keep.sum()), 1)
    if normalise == 'grpo':
        w = 1.0 / (count * np.maximum(lengths, 1))
    elif normalise == 'dr_grpo':
        if max_tokens < 1:
            raise ValueError(f'dr_grpo divides by max_tokens, which is {max_tokens}')
        w = np.full(len(lengths), 1.0 / (count * max_tokens))
    elif normalise == 'token_mean':
        w = np.full(len(lengths), 1.0 / max(lengths[keep].sum(), 1.0))
    else:
        raise ValueError(f'unknown normalisation {normalise!r}: grpo, dr_grpo or token_mean')
    return np.where(keep, w, 0.0).astype(np.float32)


def pack(
    items: Sequence[Item],
    length: int,
    rows: int,
    capacity: int,
    prompts: int = 0,
    block: int = 0,
    routes: tuple[int, int] | None = None,
) -> tuple[Batch, int, list[tuple[int, int, int]]]:
    """Packs items into a Batch of arrays [M,R,T] with R = rows, T = length and M·R ≥ capacity.

    Items with a group share the `prompts` tokens at the front of a row; the others bring their prompt along into a block. `routes`,
    layers with experts and experts a token, makes room for the items' routes; without it the batch has none.
    Returns the batch, the number of microbatches in use (the others are empty), and where each item's response begins as (m, r, t).
    ValueError if an item does not fit, or if more than `capacity` rows would be needed; one row an item always suffices.
    """
    block = block or length - prompts
    if block < 1 or (length - prompts) % block:
        raise ValueError(f'rows of {length=} minus {prompts=} must be a multiple of {block=}')
    for i in items:
        apart, size = (0, len(i.prompt) + len(i.response))
        if prompts and i.group >= 0:
            apart, size = len(i.prompt), len(i.response)
        if apart > prompts or size > block:
            sizes = f'prompt of {len(i.prompt)} + response of {len(i.response)} tokens'
            room = f'{prompts} + {block}' if prompts else str(block)
            raise ValueError(f'{sizes} exceed rows of {room}')
    filled = _best_fit(items, (length - prompts) // block, prompts, block)
    if len(filled) > capacity:
        raise ValueError(f'{len(items)} items need {len(filled)} rows of {length}, over the capacity of {capacity}')
    micro = -(-capacity // rows)
    shape = (micro * rows, length)
    a: dict[str, np.ndarray] = {n: np.zeros(shape, np.int32) for n in ('tokens', 'position', 'source')}
    a |= {n: np.full(shape, -1, np.int32) for n in ('segment', 'parent')}
    a |= {n: np.zeros(shape, np.float32) for n in ('weight', 'advantage', *PER_TOKEN)}
    if routes:
        a['routes'] = np.full((*shape, *routes), -1, np.int16)
    places: list[tuple[int, int, int]] = [(0, 0, 0)] * len(items)
    for r, row in enumerate(filled):
        t = segment = 0
        mothers = {}
        for group, item in row.prompts.items():
            mothers[group] = segment, t + len(item.prompt) - 1
            _write_prompt(a, r, t, item, segment)
            t, segment = t + len(item.prompt), segment + 1
        for b, bundles in enumerate(row.blocks):
            t = prompts + b * block
            for bundle in bundles:
                first = items[bundle[0]]
                if (mother := mothers.get(first.group)) is None:
                    mother = segment, t + len(first.prompt) - 1
                    _write_prompt(a, r, t, first, segment)
                    t, segment = t + len(first.prompt), segment + 1
                for k in bundle:
                    _write_response(a, r, t, items[k], segment, mother)
                    places[k] = (r // rows, r % rows, t)
                    t, segment = t + len(items[k].response), segment + 1
    arrays = {n: x.reshape(micro, rows, *x.shape[1:]) for n, x in a.items()}
    return Batch(**arrays, prompts=prompts, block=block), -(-len(filled) // rows), places


def _write_prompt(a: dict[str, np.ndarray], r: int, t: int, item: Item, segment: int) -> None:
    P = len(item.prompt)
    at = (r, slice(t, t + P))
    a['tokens'][at], a['position'][at], a['segment'][at] = item.prompt, np.arange(P), segment
    a['source'][at] = np.maximum(np.arange(t, t + P) - 1, t)
    if 'routes' in a and item.routes is not None:
        a['routes'][at] = item.routes[:P]


def _write_response(
    a: dict[str, np.ndarray], r: int, t: int, item: Item, segment: int, mother: tuple[int, int]
) -> None:
    """`mother`: the segment of the prompt, and the place of its last token."""
    P, N = len(item.prompt), len(item.response)
    at = (r, slice(t, t + N))
    a['tokens'][at], a['position'][at], a['segment'][at] = item.response, np.arange(P, P + N), segment
    a['parent'][at], a['source'][at] = mother[0], [mother[1], *range(t, t + N - 1)][:N]
    a['weight'][at], a['advantage'][at] = item.weight, item.advantage
    if 'routes' in a and item.routes is not None:
        a['routes'][at] = item.routes[P:]
    for name in PER_TOKEN:
        if (value := getattr(item, name)) is not None:
            a[name][at] = value


class _Row:
    """A row being filled: prompts set apart (group -> an item that has it), and bundles of items a block."""

    def __init__(self, blocks: int, prompts: int, block: int):
        self.prompts: dict[int, Item] = {}
        self.apart = prompts  # tokens left for prompts
        self.blocks: list[list[list[int]]] = [[] for _ in range(blocks)]
        self.room = [block] * blocks


def _best_fit(items: Sequence[Item], blocks: int, prompts: int, block: int) -> list[_Row]:
    """Best-fit decreasing: each bundle goes to the fullest block that has room, in a row that has its prompt if one does."""
    rows: list[_Row] = []
    for size, bundle in _bundles(items, prompts, block):
        item = items[bundle[0]]
        apart = prompts > 0 and item.group >= 0
        best: tuple[int, int, _Row, int] | None = None
        for row in rows:
            news = len(item.prompt) if apart and item.group not in row.prompts else 0
            if news > row.apart:
                continue
            for b, room in enumerate(row.room):
                if room >= size and (best is None or (news, room) < best[:2]):
                    best = news, room, row, b
        if best is None:
            rows.append(_Row(blocks, prompts, block))
            best = len(item.prompt) if apart else 0, block, rows[-1], 0
        news, _, row, b = best
        if apart:
            row.prompts.setdefault(item.group, item)
        row.apart -= news
        row.blocks[b].append(bundle)
        row.room[b] -= size
    return rows


def _bundles(items: Sequence[Item], prompts: int, block: int) -> list[tuple[int, list[int]]]:
    """(tokens in a block, items) to place, in order. Where prompts are not set apart, the items of a group stay together behind their
    prompt as far as a block holds them; where they are, each item is a bundle, and the groups follow one another.
    """
    groups: dict[int, list[int]] = {}
    for k, item in enumerate(items):
        groups.setdefault(item.group if item.group >= 0 else -1 - k, []).append(k)
    apart: list[tuple[int, list[tuple[int, list[int]]]]] = []
    together: list[tuple[int, list[int]]] = []
    for group, members in groups.items():
        members = sorted(members, key=lambda k: (-len(items[k].response), k))
        if prompts and group >= 0:
            sizes = [len(items[k].response) for k in members]
            apart.append((sum(sizes), [(n, [k]) for n, k in zip(sizes, members, strict=True)]))
            continue
        size = block + 1
        bundle: list[int] = []
        for k in members:
            if size + len(items[k].response) > block:
                if bundle:
                    together.append((size, bundle))
                size, bundle = len(items[k].prompt), []
            bundle.append(k)
            size += len(items[k].response)
        together.append((size, bundle))
    apart.sort(key=lambda g: -g[0])
    together.sort(key=lambda b: (-b[0], b[1][0]))
    return [b for _, bundles in apart for b in bundles] + together


def unpack(values: np.ndarray, items: Sequence[Item], places: Sequence[tuple[int, int, int]]) -> list[np.ndarray]:
    """Per-token values [M,R,T] of a packed batch, back to one array [N] a response."""
    return [values[m, r, t : t + len(i.response)] for i, (m, r, t) in zip(items, places, strict=True)]
