"""Which of several computes attention in packed rows: they are one function, and differ in time and memory.

- tokens of a row on several devices: the ring (`r1jax.nn.ring`);
- where the platform has a kernel that serves these sizes: the kernel (`r1jax.nn.flash`);
- else XLA's operations (`r1jax.nn.attention`).
"""

from __future__ import annotations

import jax

from r1jax import sharding
from r1jax.config import ModelConfig
from r1jax.nn import flash, ring
from r1jax.nn.attention import Rows, attend_rows


def attend_packed(cfg: ModelConfig, q: jax.Array, k: jax.Array, v: jax.Array, rows: Rows) -> jax.Array:
    """f32[B,T,N,V], as `attend_rows`, of q [B,T,N,H], k [B,T,K,H] and v [B,T,K,V]."""
    auto = cfg.attention == 'auto'
    if sharding.ways('length') > 1:
        inner = 'splash' if auto and sharding.platform() == 'tpu' else ''
        return ring.attend_ring(q, k, v, rows, cfg.dtype, inner)
    kernel = flash.serving(q, k, v, rows.prompts, rows.block, cfg.dtype) if auto else None
    return (kernel or attend_rows)(q, k, v, rows, cfg.dtype)
