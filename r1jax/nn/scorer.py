"""From token sequences to scores on the host: a model with a value head, called with few fixed shapes.

Each sequence goes into the shortest of a few lengths that holds it, and every length has a fixed number of rows a call. So as many
programs are compiled as lengths are used, and a score depends on nothing but its sequence: not on its neighbours, not on how the
sequences were cut into calls (to the bit on one mesh, since a sequence always meets the same shape).

Axes: B sequences, R rows of one call, T tokens of a row.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from r1jax import sharding
from r1jax.config import MeshConfig, ModelConfig
from r1jax.nn import heads
from r1jax.nn.transformer import Params, shardings

_LEAST = 64  # tokens of the shortest rows


@functools.partial(jax.jit, static_argnums=0)
def scores(model: ModelConfig, params: Params, tokens: jax.Array, length: jax.Array) -> jax.Array:
    """`r1jax.nn.heads.scores`, compiled once a shape."""
    return heads.scores(model, params, tokens, length)


@dataclasses.dataclass(frozen=True)
class Scorer:
    """Scores sequences of token ids. Made by `create`."""

    model: ModelConfig
    params: Params  # on the mesh
    mesh: Mesh
    lengths: tuple[int, ...]  # T of each shape, ascending
    tokens: int  # of one call, about: R = tokens / T

    @classmethod
    def create(
        cls,
        model: ModelConfig,
        params: Params,
        mesh: Mesh | None = None,
        lengths: Sequence[int] = (),
        tokens: int = 8192,
    ) -> Scorer:
        """A scorer of `params`, host or device arrays with a value head, which are placed on the mesh.

        Args:
          mesh: None: one device. In training, the run's own: `sharding.make_mesh(recipe.mesh)`.
          lengths: row lengths that sequences are padded to; none: 64, 128, … up to the model's context.
          tokens: a memory setting, the tokens of one call.

        Raises:
          ValueError: parameters without a value head; lengths beyond the model's context.
        """
        if 'value' not in params:
            raise ValueError('these parameters have no value head: make one with r1jax.nn.heads.with_value_head')
        lengths = tuple(sorted(set(lengths))) or doubling(model.context)
        if not 0 < lengths[0] <= lengths[-1] <= model.context:
            raise ValueError(f'lengths={lengths} must lie in 1 to the context of the model, {model.context} tokens')
        mesh = mesh or sharding.make_mesh(MeshConfig())
        return cls(model, sharding.put(params, shardings(model, mesh, scalar=True)), mesh, lengths, tokens)

    def __call__(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        """f32[B]: the score of each sequence; NaN for one that is empty or longer than the longest row."""
        out = np.full(len(sequences), np.nan, np.float32)
        groups: dict[int, list[int]] = {}
        for i, sequence in enumerate(sequences):
            if 0 < len(sequence) <= self.lengths[-1]:
                groups.setdefault(min(n for n in self.lengths if n >= len(sequence)), []).append(i)
        calls = []
        with jax.set_mesh(self.mesh):
            for T, members in sorted(groups.items()):
                R, tokens = self.rows(T), sharding.dividing('length', T)
                where = sharding.named(self.mesh, 'batch', tokens), sharding.named(self.mesh, 'batch')
                for at in range(0, len(members), R):
                    chosen = members[at : at + R]
                    rows, length = np.zeros((R, T), np.int32), np.zeros(R, np.int32)
                    for r, i in enumerate(chosen):
                        length[r] = len(sequences[i])
                        rows[r, : length[r]] = sequences[i]
                    calls.append((chosen, scores(self.model, self.params, *sharding.put((rows, length), where))))
        for chosen, got in calls:  # read after all were started: the device does not wait for the host
            out[chosen] = sharding.fetch(got)[: len(chosen)]
        return out

    def rows(self, length: int) -> int:
        """R of calls with rows of `length` tokens: a multiple of the devices that share them."""
        devices = sharding.ways('batch', mesh=self.mesh)
        return -(-max(self.tokens // length, 1) // devices) * devices


def doubling(context: int) -> tuple[int, ...]:
    """Row lengths: 64, 128, … and the context."""
    out = [min(_LEAST, context)]
    while out[-1] < context:
        out.append(min(2 * out[-1], context))
    return tuple(out)
