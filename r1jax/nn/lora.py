"""Low-rank adapters beside frozen weights: h = x·W + (alpha/rank)·x·A·B (Hu et al., arXiv 2106.09685, eq. 3).

In order: `frozen` turns weights into a base in the memory that it shall take → `init_boxed` makes adapters, a parameter tree of their
own, stacked [L, …] as the weights are: {'stack_0': {'q': {'a', 'b'}, …}, …} → `attach` puts the two together, copying nothing, into a
tree that every pass takes as it takes weights. The gradient is that of the adapters; the base without them is the reference policy.
`merged` forms plain weights: once a call in the sampler, whose decoding loop then is that of any other model, and where a later stage
or an export needs them.

Left out: dropout (the paper's 0 to 0.1; a fresh rollout's π_old would no longer be the update's own pass), biases, and adapters on
embeddings, norms and experts.

Axes: L layers of a stack, r rank.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from r1jax.config import LoRA, ModelConfig
from r1jax.nn import transformer
from r1jax.nn.layers import Adapted, Int8
from r1jax.nn.quantise import held, inputs
from r1jax.nn.transformer import Params

Adapters = Any  # {'stack_0': {target: {'a': f32[L, *in, r], 'b': f32[L, r, *out]}, …}, …}


def _stacks(tree: Any) -> list[str]:
    return sorted((name for name in tree if name.startswith('stack_')), key=lambda name: int(name[6:]))


def init_boxed(model: ModelConfig, cfg: LoRA, key: jax.Array) -> Adapters:
    """New adapters, boxed with the names of their logical axes: A ~ N(0, 1/in), so that x·A is of x's size, and B = 0.

    Raises:
      ValueError: a target that no layer of the model has.
    """
    described = jax.eval_shape(lambda: transformer.init_boxed(model, jax.random.key(0)))
    places = [(stack, t) for stack in _stacks(described) for t in cfg.targets if t in described[stack]]
    if missing := set(cfg.targets) - {t for _, t in places}:
        raise ValueError(f'lora.targets has {min(missing)!r}, which no layer of the model has')
    out: dict[str, dict] = {}
    for (stack, target), one in zip(places, jax.random.split(key, len(places)), strict=True):
        box, c = described[stack][target], inputs(target)
        (L, *shape), (layers, *names) = box.value.shape, box.names
        a = jax.random.normal(one, (L, *shape[:c], cfg.rank)) * math.prod(shape[:c]) ** -0.5
        b = jnp.zeros((L, cfg.rank, *shape[c:]))
        out.setdefault(stack, {})[target] = {
            'a': dataclasses.replace(box, value=a, names=(layers, *names[:c], 'rank')),
            'b': dataclasses.replace(box, value=b, names=(layers, 'rank', *names[c:])),
        }
    return out


def frozen(params: Params, cfg: LoRA) -> Params:
    """Weights as a base: the layers' matrices, targets or not, as `cfg.base` says, everything else as it is."""
    return held(params, cfg.base)


def attach(base: Params, adapters: Adapters | None, cfg: LoRA) -> Params:
    """The base with adapters on, or with None the base itself."""
    if adapters is None:
        return base
    scale, out = cfg.alpha / cfg.rank, dict(base)
    for stack, targets in adapters.items():
        on = {t: Adapted(base[stack][t], pair['a'], pair['b'], scale, inputs(t)) for t, pair in targets.items()}
        out[stack] = base[stack] | on
    return out


def merged(params: Params) -> Params:
    """The same function as plain weights: f32 where there were adapters or int8, and everything else as it is."""

    def special(w):
        return isinstance(w, (Adapted, Int8))

    return jax.tree.map(lambda w: w.plain() if special(w) else w, params, is_leaf=special)


def adapted(params: Params) -> bool:
    """Whether any weight has adapters on."""

    def adapter(w):
        return isinstance(w, Adapted)

    return any(adapter(w) for w in jax.tree.leaves(params, is_leaf=adapter))
