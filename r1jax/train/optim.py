"""AdamW and its learning rate: the only door to optax.

The rate is an argument of `update`, not part of the transformation: phases change it at stated steps, without recompiling.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import optax

from r1jax.config import OptimConfig


def transform(cfg: OptimConfig) -> optax.GradientTransformation:
    """Gradients to *unscaled* updates: clip by global norm, Adam, decoupled decay of matrices (arXiv 1711.05101)."""
    return optax.chain(
        optax.clip_by_global_norm(cfg.clip_norm) if cfg.clip_norm else optax.identity(),
        optax.scale_by_adam(cfg.b1, cfg.b2, cfg.eps),
        optax.add_decayed_weights(cfg.weight_decay, mask=_matrices) if cfg.weight_decay else optax.identity(),
    )


def _matrices(params):
    """Norms and biases are not decayed: their names say what they are."""

    def decayed(path, _):
        name = [p.key for p in path if isinstance(p, jax.tree_util.DictKey)][-1]  # boxes add entries of their own
        return not name.endswith(('norm', 'bias'))

    return jax.tree_util.tree_map_with_path(decayed, params)


def apply(
    tx: optax.GradientTransformation, grads: Any, opt_state: Any, params: Any, rate: jax.Array
) -> tuple[Any, Any]:
    """One step: returns params and opt_state."""
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, jax.tree.map(lambda u: -rate * u, updates)), opt_state


def learning_rate(cfg: OptimConfig, peak: float, step: int, steps: int) -> float:
    """The rate of update number `step` (from 0) of `steps`: linear warm-up, then constant or cosine to `final`·peak."""
    if step < cfg.warmup:
        return peak * (step + 1) / cfg.warmup
    if cfg.schedule == 'constant':
        return peak
    share = (step - cfg.warmup) / max(steps - 1 - cfg.warmup, 1)
    return peak * (cfg.final + (1 - cfg.final) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))


global_norm = optax.tree.norm
