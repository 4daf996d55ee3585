"""Where arrays live: how many devices stand along which axis of the mesh, and what each axis of an array is split over."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

Axis = Literal['data', 'fsdp', 'expert', 'sequence', 'tensor']
# From what talks least to what talks most: neighbours of the last axis are neighbours in the machine
AXES: tuple[Axis, ...] = ('data', 'fsdp', 'expert', 'sequence', 'tensor')
# Pairs of logical axes of which each keeps what it is split over: loops with collectives of their own count on it
_TOKENS = ('batch', 'length')
_APART = {
    'batch': ('length',),
    'embed': ('vocab', 'heads', 'hidden'),
    'latent': ('heads',),
    'vocab': _TOKENS,
    'heads': _TOKENS,
    'hidden': (*_TOKENS, 'expert'),
    'expert': ('length',),
}
_EVERYWHERE: tuple[Axis, ...] = ('fsdp', 'expert', 'sequence')


@dataclasses.dataclass(frozen=True)
class Rules:
    """What each logical axis, by which the model names the axes of its arrays, is split over: axes of the mesh, slowest first.

    Within one array a mesh axis serves the first dimension that names it: experts [expert, embed, hidden] are split over `expert`, and
    their width over what is left of fsdp, expert and sequence.
    """

    batch: tuple[Axis, ...] = ('data', 'fsdp', 'expert')  # rows
    length: tuple[Axis, ...] = ('sequence',)  # tokens of a row
    embed: tuple[Axis, ...] = _EVERYWHERE  # the width of weights: gathered layer by layer where they are used
    vocab: tuple[Axis, ...] = ('tensor',)
    heads: tuple[Axis, ...] = ('tensor',)
    kv_heads: tuple[Axis, ...] = ('tensor',)
    hidden: tuple[Axis, ...] = ('tensor',)  # of the SwiGLU, of one expert, and of experts that all tokens pass
    expert: tuple[Axis, ...] = ('expert',)
    head_dim: tuple[Axis, ...] = ()
    latent: tuple[Axis, ...] = ()  # MLA: what q_b and kv_b read; for the largest models as `embed`
    rank: tuple[Axis, ...] = ()  # of adapters
    layers: tuple[Axis, ...] = ()
    micro: tuple[Axis, ...] = ()  # microbatches
    norm: tuple[Axis, ...] = ()

    def __post_init__(self):
        for name in _APART:
            for other in _APART[name]:
                if both := sorted({*getattr(self, name)} & {*getattr(self, other)}):
                    raise ValueError(
                        f'{name} and {other} meet in one array, so they cannot both be split over {both[0]}'
                    )
        if self.kv_heads != self.heads:
            raise ValueError(
                f'kv_heads={self.kv_heads} must be as heads={self.heads}: a query head reads where it stands'
            )


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; their product is what is used. docs/pods.md says how to choose.

    Optimizer state and gradients are split as the weights are.
    """

    data: int = 1  # rows; weights are copied along it
    fsdp: int = 1  # rows, and the width of weights
    tensor: int = 1  # heads, hidden entries and the vocabulary
    expert: int = 1  # experts, and rows as along fsdp
    sequence: int = 1  # the tokens of a row, for rows too long for one device; and the width of weights
    # Slices of a pod, or hosts, that only the data-centre network joins: `data` is a multiple of it, and alone crosses between them
    slices: int = 1
    rules: Rules = dataclasses.field(default=Rules(), repr=False)

    @property
    def devices(self) -> int:
        return math.prod(getattr(self, axis) for axis in AXES)

    def over(self, *logical: str) -> dict[str, int]:
        """The mesh axes of more than one device that logical axes are split over, each with its devices."""
        axes = dict.fromkeys(axis for name in logical for axis in getattr(self.rules, name))
        return {axis: getattr(self, axis) for axis in axes if getattr(self, axis) > 1}

    def ways(self, *logical: str) -> int:
        """Into how many parts logical axes are split together."""
        return math.prod(self.over(*logical).values())
