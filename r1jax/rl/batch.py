"""From responses to a packed batch: normalisation as data, prompts once, rows filled.

An `Item` is one response with its prompt. `token_weights` turns the kept responses of one optimizer step into weights; `pack` lays
items into rows of fixed length, items of one group sharing one copy of their prompt where they meet in a row:

    row       p p p a a a b b | q q c c c        (prompt p with responses a, b; prompt q with response c)
    segment   0 0 0 1 1 1 2 2 | 3 3 4 4 4
    parent   -1-1-1 0 0 0 0 0 |-1-1 3 3 3
    position  0 1 2 3 4 5 3 4 | 0 1 2 3 4
    source    0 0 1 2 3 4 2 6 | 8 8 9 10 11      (a response's first token is predicted by its prompt's last)

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
    weight: float  # of each response token
    group: int = -1  # items of one group ≥ 0 have the same prompt; -1: on its own
    advantage: float = 1.0
    sampler_logp: np.ndarray | None = None  # f32[N]; None: 0
    old_logp: np.ndarray | None = None  # f32[N]; None: 0
    ref_logp: np.ndarray | None = None  # f32[N]; None: 0


PER_TOKEN = ('sampler_logp', 'old_logp', 'ref_logp')


def token_weights(lengths: np.ndarray, keep: np.ndarray, normalise: str, max_tokens: int = 0) -> np.ndarray:
    """The weight of each token of each response of one optimizer step, f32[B].

    lengths i32[B] response tokens |o|; keep bool[B]: dropped responses leave B. With B the number kept:
    'grpo' 1/(B·|o|) (DeepSeekMath eq. 3), 'dr_grpo' 1/(B·max_tokens) (arXiv 2503.20783), 'token_mean' 1/Σ|o| (SFT; DAPO, arXiv
    2503.14476 eq. 8). Summed over all tokens that is 1, mean(|o|)/max_tokens and 1; 0 for an empty batch.
    """
    lengths, keep = np.asarray(lengths, np.float64), np.asarray(keep, bool) & (np.asarray(lengths) > 0)
    count = max(keep.sum(), 1)
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


def pack(items: Sequence[Item], length: int, rows: int, capacity: int) -> tuple[Batch, int, list[tuple[int, int, int]]]:
    """Packs items into a Batch of arrays [M,R,T] with R = rows, T = length and M·R ≥ capacity.

    Returns the batch, the number of microbatches in use (the others are empty), and where each item's response begins as (m, r, t).
    ValueError if an item does not fit a row, or if more than `capacity` rows would be needed; one row an item always suffices.
    """
    for i in items:
        if len(i.prompt) + len(i.response) > length:
            raise ValueError(
                f'prompt of {len(i.prompt)} + response of {len(i.response)} tokens exceed rows of {length}'
            )
    filled = _best_fit(items, length)
    if len(filled) > capacity:
        raise ValueError(f'{len(items)} items need {len(filled)} rows of {length}, over the capacity of {capacity}')
    micro = -(-capacity // rows)
    shape = (micro * rows, length)
    ints = {n: np.zeros(shape, np.int32) for n in ('tokens', 'position', 'source')}
    ints |= {n: np.full(shape, -1, np.int32) for n in ('segment', 'parent')}
    floats = {n: np.zeros(shape, np.float32) for n in ('weight', 'advantage', *PER_TOKEN)}
    places: list[tuple[int, int, int]] = [(0, 0, 0)] * len(items)
    for r, bundles in enumerate(filled):
        t = segment = 0
        for bundle in bundles:
            prompt = items[bundle[0]].prompt
            P, at = len(prompt), slice(t, t + len(prompt))
            ints['tokens'][r, at] = prompt
            ints['position'][r, at] = np.arange(P)
            ints['source'][r, at] = np.maximum(np.arange(t, t + P) - 1, t)
            ints['segment'][r, at] = mother = segment
            last, t = t + P - 1, t + P
            for k in bundle:
                segment += 1
                item, N = items[k], len(items[k].response)
                at = slice(t, t + N)
                ints['tokens'][r, at] = item.response
                ints['position'][r, at] = np.arange(P, P + N)
                ints['source'][r, at] = [last, *range(t, t + N - 1)][:N]
                ints['segment'][r, at] = segment
                ints['parent'][r, at] = mother
                floats['weight'][r, at] = item.weight
                floats['advantage'][r, at] = item.advantage
                for name in PER_TOKEN:
                    value = getattr(item, name)
                    if value is not None:
                        floats[name][r, at] = value
                places[k] = (r // rows, r % rows, t)
                t += N
            segment += 1
    arrays = {n: a.reshape(micro, rows, length) for n, a in (ints | floats).items()}
    return Batch(**arrays), -(-len(filled) // rows), places


def _best_fit(items: Sequence[Item], length: int) -> list[list[list[int]]]:
    """Rows of bundles of item indices: best-fit decreasing. A bundle shares a prompt; one too long for a row is split."""
    groups: dict[int, list[int]] = {}
    for k, item in enumerate(items):
        groups.setdefault(item.group if item.group >= 0 else -1 - k, []).append(k)
    bundles: list[tuple[int, list[int]]] = []
    for members in groups.values():
        size, bundle = length + 1, []
        for k in sorted(members, key=lambda k: (-len(items[k].response), k)):
            if size + len(items[k].response) > length:
                if bundle:
                    bundles.append((size, bundle))
                size, bundle = len(items[k].prompt), []
            bundle.append(k)
            size += len(items[k].response)
        bundles.append((size, bundle))
    rows: list[list[list[int]]] = []
    room: list[int] = []
    for size, bundle in sorted(bundles, key=lambda b: (-b[0], b[1][0])):
        fits = [r for r in range(len(rows)) if room[r] >= size]
        if fits:
            r = min(fits, key=lambda r: room[r])
            rows[r].append(bundle)
            room[r] -= size
        else:
            rows.append([bundle])
            room.append(length - size)
    return rows


def unpack(values: np.ndarray, items: Sequence[Item], places: Sequence[tuple[int, int, int]]) -> list[np.ndarray]:
    """Per-token values [M,R,T] of a packed batch, back to one array [N] a response."""
    return [values[m, r, t : t + len(i.response)] for i, (m, r, t) in zip(items, places, strict=True)]
