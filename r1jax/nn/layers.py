"""The small parts of a block, as functions on arrays.

Axes: B rows, T tokens, D width, N query heads, K key/value heads, H head dim, R rotated entries of a head,
F hidden, V vocabulary.
Norms run in float32; matmul inputs in the config's dtype, cast by `matmul` and nowhere else.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from r1jax.config import Llama3Scaling, ModelConfig, YarnScaling


def matmul(x: jax.Array, w: Weight, dtype: str, contract: int = 1) -> jax.Array:
    """x [..., *c] · w [*c, ...] over the `contract` shared axes c, inputs in `dtype`, accumulated and returned in float32.

    The product runs on matrices: XLA's CPU backend takes two to three times as long for the weight gradient of the einsum.
    """
    if isinstance(w, (Adapted, Int8)):
        return w.product(x, dtype)
    lead, inner, rest = x.shape[:-contract], w.shape[:contract], w.shape[contract:]
    size = math.prod(inner)
    x = x.astype(dtype).reshape(-1, size)
    if isinstance(w, Columns):
        return w.product(x).reshape(*lead, *rest)
    return jnp.dot(x, w.astype(dtype).reshape(size, -1), preferred_element_type=jnp.float32).reshape(*lead, *rest)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Columns:
    """A weight for products with few rows: its columns stand in memory one after the other, in the type they are multiplied in.

    A CPU multiplies 32 rows a third faster as W·xᵀ, with the long side first.
    """

    columns: jax.Array  # [out, in]
    shape: tuple[int, ...] = dataclasses.field(metadata={'static': True})  # of the weight, [*in, *out]

    @classmethod
    def of(cls, w: jax.Array, dtype: str, contract: int = 1) -> Columns:
        return cls(w.astype(dtype).reshape(math.prod(w.shape[:contract]), -1).T, w.shape)

    def product(self, x: jax.Array) -> jax.Array:
        """x [rows, in] · w, f32[rows, out]."""

        def columns(x, w):  # the barriers keep XLA from turning it back into x·w
            still = jax.lax.optimization_barrier
            return still(jnp.dot(w, still(x.T), preferred_element_type=jnp.float32)).T

        def rows(x, w):
            return jax.lax.dot_general(x, w, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)

        return jax.lax.platform_dependent(x, self.columns, cpu=columns, default=rows)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8:
    """A frozen weight [*in, *out] in a quarter of the memory: w ≈ values · scale, with one scale a column (symmetric, so no offset)."""

    values: jax.Array  # i8[*lead, *in, *out]; lead: layers of a stack, none within it
    scale: jax.Array  # f32[*lead, *1s, *out]
    contract: int = dataclasses.field(metadata={'static': True})  # axes in `in`

    @classmethod
    def of(cls, w: jax.Array, contract: int = 1, lead: int = 0) -> Int8:
        scale = jnp.abs(w).max(range(lead, lead + contract), keepdims=True) / 127
        return cls(jnp.round(w / jnp.where(scale > 0, scale, 1.0)).astype(jnp.int8), scale, contract)

    def product(self, x: jax.Array, dtype: str) -> jax.Array:
        """x [..., *in] · w. A scale multiplies what comes out: the columns' values are whole numbers, exact in any `dtype`."""
        return matmul(x, self.values, dtype, self.contract) * self.scale.reshape(self.values.shape[self.contract :])

    def plain(self) -> jax.Array:
        """The weight itself, f32."""
        return self.values * self.scale


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Adapted:
    """W + scale · A·B with W [*in, *out] frozen: see `r1jax.nn.lora`."""

    weight: jax.Array | Int8  # [*lead, *in, *out]; lead: layers of a stack, none within it
    a: jax.Array  # f32[*lead, *in, r]
    b: jax.Array  # f32[*lead, r, *out]
    scale: float = dataclasses.field(metadata={'static': True})
    contract: int = dataclasses.field(metadata={'static': True})  # axes in `in`

    def product(self, x: jax.Array, dtype: str) -> jax.Array:
        """x [..., *in] · W + scale · (x · A) · B.

        Not x · (W + scale · A·B): the gradient of A and B would then go through one of W's size, a third of a layer's products.
        """
        inner = matmul(x, self.a, dtype, self.contract)
        return matmul(x, self.weight, dtype, self.contract) + self.scale * matmul(inner, self.b, dtype)

    def plain(self) -> jax.Array:
        """The weight that multiplies the same, f32."""
        lead, rank = self.a.shape[: self.a.ndim - 1 - self.contract], self.a.shape[-1]
        a, b = self.a.reshape(*lead, -1, rank), self.b.reshape(*lead, rank, -1)
        weight = self.weight.plain() if isinstance(self.weight, Int8) else self.weight
        # A TPU would multiply float32 as bfloat16 unless told, and these are weights
        added = jnp.matmul(a, b, precision='highest', preferred_element_type=jnp.float32)
        return weight + self.scale * added.reshape(weight.shape)


Weight = jax.Array | Columns | Int8 | Adapted


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """x / rms(x) · scale over the last axis (Zhang & Sennrich, arXiv 1910.07467)."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps) * scale


def frequencies(cfg: ModelConfig) -> jax.Array:
    """RoPE's angles a position, f32[R/2], θ^(-2i/R), scaled for a longer context where the model is; R is H, but in latent attention."""
    R = cfg.mla.rotary if cfg.mla else cfg.head_dim
    frequency = cfg.rope_theta ** (-jnp.arange(0, R, 2, dtype=jnp.float32) / R)
    if isinstance(cfg.rope_scaling, YarnScaling):
        return yarn(cfg.rope_scaling, frequency, cfg.rope_theta)
    return llama3(cfg.rope_scaling, frequency) if cfg.rope_scaling else frequency


def llama3(cfg: Llama3Scaling, frequency: jax.Array) -> jax.Array:
    """Llama 3.1's frequencies from RoPE's, f32[H/2]."""
    turns = frequency * (cfg.original / (2 * math.pi))  # in the original context
    kept = jnp.clip((turns - cfg.low) / (cfg.high - cfg.low), 0, 1)
    return frequency * (kept + (1 - kept) / cfg.factor)


def yarn(cfg: YarnScaling, frequency: jax.Array, theta: float) -> jax.Array:
    """YaRN's frequencies from RoPE's, f32[R/2] (arXiv 2309.00071 §3.2, "NTK-by-parts"; the ramp's ends in whole entries, as released
    code has them).
    """
    half = frequency.shape[0]

    def entry(turns):  # the entry that turns so often in the original context
        return half * math.log(cfg.original / (turns * 2 * math.pi)) / math.log(theta)

    low, high = max(math.floor(entry(cfg.fast)), 0), min(math.ceil(entry(cfg.slow)), 2 * half - 1)
    slowed = jnp.clip((jnp.arange(half) - low) / max(high - low, 1e-3), 0, 1)
    return frequency * (1 - slowed + slowed / cfg.factor)


def yarn_scale(cfg: YarnScaling, mscale: float) -> float:
    """m(mscale) = 0.1·mscale·ln(factor) + 1, and 1 where the context is not extended (YaRN eq. 22)."""
    return 0.1 * mscale * math.log(cfg.factor) + 1.0 if cfg.factor > 1 else 1.0


def amplitude(cfg: ModelConfig) -> float:
    """What YaRN multiplies rotated queries and keys by; 1 without it."""
    yarn = cfg.rope_scaling
    return (
        yarn_scale(yarn, yarn.mscale) / yarn_scale(yarn, yarn.mscale_all_dim) if isinstance(yarn, YarnScaling) else 1.0
    )


def rotation(position: jax.Array, frequency: jax.Array, amplitude: float = 1.0) -> tuple[jax.Array, jax.Array]:
    """cos and sin [B,T,1,R/2] of RoPE's angles for positions i32[B,T] (Su et al., arXiv 2104.09864), times `amplitude`."""
    angle = position.astype(jnp.float32)[:, :, None, None] * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return (cos, sin) if amplitude == 1 else (cos * amplitude, sin * amplitude)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """RoPE on x [B,T,heads,H], pairing entry i with i + H/2 as Hugging Face checkpoints do (GGUF pairs neighbours)."""
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
