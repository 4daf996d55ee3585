"""A family's mapping table: which tensors a file has, how each is shaped, and which leaf of the parameters it becomes.

One table serves both directions. A tensor is rearranged as its axes are named, `'(N H) D' -> 'D N H'` (einops' notation): the axes of
the file, the axes of the leaf, and the family's sizes say the stored shape, the leaf's, the way there and the way back.

Axes are those of `r1jax.nn.transformer`: V vocabulary, D width, N query heads, K key/value heads, H head dim, F hidden, E experts.
A matrix is stored as PyTorch has it, [outputs, inputs]; ours multiplies from the other side, and has heads as their own axis.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

Sizes = Mapping[str, int]  # of axes


class Metadata(dict):
    """What a file says about its model; a key that a reader needs and the file lacks is a sentence, not a KeyError."""

    def __init__(self, values: Mapping[str, Any], where: str):
        super().__init__(values)
        self.where = where

    def __missing__(self, key: str) -> Any:
        raise ValueError(f'{self.where} has no {key}')


class Tensor(NamedTuple):
    """How stored tensors become a leaf, or one layer of it."""

    name: str  # in the file, with {layer} in a stack, and {expert} where every expert has a tensor of its own
    stored: str  # axes as stored
    leaf: str  # axes of the leaf, without the layers'

    def numbered(self, layer: int | None, sizes: Sizes) -> tuple[str, ...]:
        """The names of the tensors that make one layer of the leaf: one, or one an expert."""
        experts = range(sizes['E']) if '{expert}' in self.name else (None,)
        return tuple(self.name.format(layer=layer, expert=e) for e in experts)

    @property
    def whole(self) -> str:
        """The stored axes of one layer, experts side by side."""
        return f'E {self.stored}' if '{expert}' in self.name else self.stored

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """Of one stored tensor."""
        return _shape(self.stored, sizes)

    def leaf_shape(self, sizes: Sizes) -> tuple[int, ...]:
        return _shape(self.leaf, sizes)

    def unit(self, sizes: Sizes) -> int:
        """Rows of a stored tensor that stay together when it is taken by blocks of rows: those of a head."""
        return math.prod(sizes[axis] for axis in _groups(self.stored)[0][1:])

    def part(self, rows: Any, low: int, sizes: Sizes, expert: int = 0) -> tuple[Any, tuple[tuple[int, int], ...]]:
        """Some rows of a stored tensor, from `low` on and a multiple of `unit`, as what they are of the leaf, and from where to
        where along its axes.

        `expert`: whose tensor it is, where every expert has one.
        """
        axis, unit = _groups(self.stored)[0][0], self.unit(sizes)
        first, count, routed = low // unit, len(rows) // unit, '{expert}' in self.name
        where = []
        for group in _groups(self.leaf):
            n = math.prod(sizes[each] for each in group)
            if axis in group and count < sizes[axis]:
                inner = n // sizes[axis]
                assert group[0] == axis, f'rows of {self} are not together in the leaf'
                where.append((first * inner, (first + count) * inner))
            elif routed and group == ['E']:
                where.append((expert, expert + 1))
            else:
                where.append((0, n))
        some = dict(sizes) | {axis: count} | ({'E': 1} if routed else {})
        return self.to_leaf(rows[None] if routed else rows, some), tuple(where)

    def to_leaf(self, x: Any, sizes: Sizes) -> Any:
        """A stored tensor (of several, their stack [E, …]) as a leaf; NumPy and JAX arrays alike."""
        return rearrange(x, self.whole, self.leaf, sizes)

    def to_stored(self, x: Any, sizes: Sizes) -> Any:
        """The way back from `to_leaf`."""
        return rearrange(x, self.leaf, self.whole, sizes)


class Stack(NamedTuple):
    """The layers `first` … `first + depth - 1`, which are scanned together: `stack_0`, `stack_1`, … of the parameters."""

    first: int
    depth: int
    tensors: Mapping[str, Tensor]  # by leaf


class Piece(NamedTuple):
    """What is read, placed and written at once: a leaf, or one layer of it."""

    path: tuple[str, ...]  # of the leaf in the parameters
    layer: int | None  # its index along the leaf's first axis
    tensor: Tensor
    names: tuple[str, ...]  # of the stored tensors


@dataclasses.dataclass(frozen=True)
class Table:
    """A family's mapping for one configuration."""

    sizes: Sizes
    top: Mapping[str, Tensor]  # by leaf: what does not belong to a layer
    stacks: tuple[Stack, ...]
    same: Mapping[str, str] = dataclasses.field(
        default_factory=dict
    )  # a tensor that may be stored -> the one it repeats
    skipped: Mapping[str, str] = dataclasses.field(
        default_factory=dict
    )  # pattern of names -> what it is that we leave out

    def leaves(self) -> dict[tuple[str, ...], list[Piece]]:
        """The pieces of every leaf, by its path, layers in order."""
        out: dict[tuple[str, ...], list[Piece]] = {
            (leaf,): [Piece((leaf,), None, t, t.numbered(None, self.sizes))] for leaf, t in self.top.items()
        }
        for i, stack in enumerate(self.stacks):
            for leaf, t in stack.tensors.items():
                path = f'stack_{i}', leaf
                names = (t.numbered(stack.first + j, self.sizes) for j in range(stack.depth))
                out[path] = [Piece(path, j, t, each) for j, each in enumerate(names)]
        return out

    def expected(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor that must be there."""
        pieces = (piece for each in self.leaves().values() for piece in each)
        return {name: piece.tensor.shape(self.sizes) for piece in pieces for name in piece.names}

    def account(self, found: Mapping[str, tuple[int, ...]]) -> list[str]:
        """Compares the tensors of a file, by their shapes, with those that must be there.

        Returns:
          What was left out on purpose, for each kind of it.

        Raises:
          ValueError: a tensor is missing, unknown or of another shape; the message names the first.
        """
        expected, said = self.expected(), []
        unknown = found.keys() - expected.keys() - self.same.keys()
        for pattern, what in self.skipped.items():
            matching = {name for name in unknown if re.fullmatch(pattern, name)}
            said += [f'{what}: {len(matching)} tensors'] if matching else []
            unknown -= matching
        for title, names in ('lacks', expected.keys() - found.keys()), ('has unknown', unknown):
            if names:
                more = f' and {len(names) - 1} more' if len(names) > 1 else ''
                raise ValueError(f'{title} tensor {min(names)}{more}')
        for name, shape in sorted(expected.items() | {(a, expected[b]) for a, b in self.same.items() if a in found}):
            if found[name] != shape:
                raise ValueError(f'tensor {name} has shape {found[name]}, its configuration says {shape}')
        return said


def rearrange(x: Any, before: str, after: str, sizes: Sizes) -> Any:
    """Reshapes, transposes and reshapes `x`, whose axes are `before`, to those of `after`."""
    atoms = [axis for group in _groups(before) for axis in group]
    order = [atoms.index(axis) for group in _groups(after) for axis in group]
    return x.reshape([sizes[axis] for axis in atoms]).transpose(order).reshape(_shape(after, sizes))


def _groups(axes: str) -> list[list[str]]:
    """'(N H) D' -> [['N', 'H'], ['D']]."""
    return [part.strip('()').split() for part in re.findall(r'\([^)]*\)|\S+', axes)]


def _shape(axes: str, sizes: Sizes) -> tuple[int, ...]:
    return tuple(math.prod(sizes[axis] for axis in group) for group in _groups(axes))
