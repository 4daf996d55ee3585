"""Weights held in fewer bits: the layers' matrices, which are most of a model, and nothing else.

`held` turns a parameter tree into one that every pass takes as it takes the first: `r1jax.nn.layers.matmul` knows `Int8`. Two use it:
LoRA, for the frozen base beside its adapters, and the sampler, which may draw with rounded weights (`SampleConfig.weights`).

Left as they are: embedding and unembedding, whose rounding would go into every logit, and norms, biases and routers, which are small.

Axes: L layers of a stack, E experts.
"""

from __future__ import annotations

from typing import Any

from r1jax.nn import moe
from r1jax.nn.layers import Int8

# What a layer multiplies with, [L, *in, *out] each: grouped-query and latent attention, SwiGLU, experts
MATRICES = ('q', 'k', 'v', 'o', 'q_a', 'q_b', 'kv_a', 'kv_b', 'gate', 'up', 'down', *moe.NAMES)


def inputs(name: str) -> int:
    """How many axes of a matrix [*in, *out] are `in`."""
    return 2 if name == 'o' else 1


def held(params: Any, kind: str) -> Any:
    """Parameters with the layers' matrices in `kind`, everything else as it is.

    kind: 'float32', as they are; 'bfloat16'; or 'int8', a scale a column, of an expert's matrix, too.
    """

    def of(name, w):
        if name not in MATRICES or kind == 'float32':
            return w
        if kind != 'int8':
            return w.astype(kind)
        return Int8.of(w, inputs(name), lead=2 if name in moe.NAMES else 1)  # [L, …] or [L, E, …]

    return {
        stack: {n: of(n, w) for n, w in part.items()} if stack.startswith('stack_') else part
        for stack, part in params.items()
    }
