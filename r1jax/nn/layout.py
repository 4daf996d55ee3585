"""Where weights live on a mesh, in whatever form they are held: plain, rounded, or with adapters on.

In: parameters as `r1jax.nn.lora` and `r1jax.nn.quantise` make them of a model's. Out: a NamedSharding a leaf, by the logical axes that the
model names (`r1jax.nn.transformer`). Nothing is computed: two meshes then ask for the same weights, each in its own layout.

Axes: r rank.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from r1jax.config import ModelConfig
from r1jax.nn import transformer
from r1jax.nn.layers import Adapted, Int8
from r1jax.nn.transformer import Params
from r1jax.sharding import named


@functools.lru_cache(maxsize=16)
def _axes(model: ModelConfig, scalar: bool) -> Any:
    return transformer.logical_axes(jax.eval_shape(lambda: transformer.init_boxed(model, jax.random.key(0), scalar)))


def shardings(params: Params, model: ModelConfig, mesh: Mesh) -> Params:
    """NamedSharding of every leaf of a model's weights."""

    def of(axes: PartitionSpec, weight: Any) -> Any:
        return _of(tuple(axes), weight, mesh)

    axes = _axes(model, 'value' in params)
    return jax.tree.map(of, axes, params, is_leaf=lambda a: isinstance(a, PartitionSpec))


def _of(axes: tuple, weight: Any, mesh: Mesh) -> Any:
    form: Any = weight  # what is returned is of its kind, with shardings in the place of arrays
    if isinstance(weight, Int8):  # a column's scale is whole where its inputs are split
        scale = (a if n > 1 else None for a, n in zip(axes, weight.scale.shape, strict=True))
        return dataclasses.replace(form, values=named(mesh, *axes), scale=named(mesh, *scale))
    if isinstance(weight, Adapted):
        end = weight.a.ndim - 1  # of lead and inputs
        lead = axes[: end - weight.contract]
        a, b = named(mesh, *axes[:end], 'rank'), named(mesh, *lead, 'rank', *axes[end:])
        return dataclasses.replace(form, weight=_of(axes, weight.weight, mesh), a=a, b=b)
    return named(mesh, *axes)
