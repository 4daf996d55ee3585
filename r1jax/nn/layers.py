"""The small parts of a block, as functions on arrays.

Axes: B rows, T tokens, D width, N query heads, K key/value heads, H head dim, R rotated entries of a head,
F hidden, V vocabulary.
Norms run in float32; matmul inputs in the config's dtype, cast by `matmul` and nowhere else.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from r1jax import sharding
from r1jax.config import Llama3Scaling, ModelConfig, YarnScaling


def matmul(x: jax.Array, w: Weight, dtype: str, contract: int = 1) -> jax.Array:
    """x [..., *c] · w [*c, ...] over the `contract` shared axes c, inputs in `dtype`, accumulated and returned in float32.

    The products of its gradients take their inputs in `dtype`, too, and are float32: a weight's gradient is never rounded.
    The product runs on matrices: XLA's CPU backend takes two to three times as long for the weight gradient of the einsum.
    """
    if isinstance(w, (Adapted, Int8)):
        return w.product(x, dtype)
    lead, inner, rest = x.shape[:-contract], w.shape[:contract], w.shape[contract:]
    x = x.reshape(-1, math.prod(inner))
    if isinstance(w, Columns):
        return w.product(x.astype(dtype)).reshape(*lead, *rest)
    w = w.reshape(x.shape[1], -1)
    out = _dot(x.astype(dtype), w.astype(dtype)) if dtype == 'float32' else _narrow(dtype, x.dtype, x, w)
    return out.reshape(*lead, *rest)


def _dot(x, w):
    return jnp.dot(x, w, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _narrow(dtype, given, x, w):
    """x [M,D], of type `given`, · w [D,F] with inputs in `dtype`.

    Left to jax, the gradients' products would have a float32 cotangent beside an input in `dtype`, which XLA widens, and the weight's
    gradient would be rounded to `dtype`.
    """
    return _dot(x.astype(dtype), w.astype(dtype))


def _narrow_forward(dtype, given, x, w):
    x = x.astype(dtype)
    return _dot(x, w.astype(dtype)), (x, w)


def _narrow_backward(dtype, given, kept, g):
    (x, w), g = kept, g.astype(dtype)
    dx = product_t(g, w, dtype).astype(given)
    return dx, None if jnp.issubdtype(w.dtype, jnp.integer) else outer(x, g, dtype).astype(w.dtype)


_narrow.defvjp(_narrow_forward, _narrow_backward)


def product_t(x: jax.Array, w: jax.Array, dtype: str) -> jax.Array:
    """x·wᵀ, f32[M, F] of x [M, D] and w [F, D], inputs in `dtype`. Not differentiated."""
    return jax.lax.dot_general(
        x.astype(dtype), w.astype(dtype), (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
    )


def outer(x: jax.Array, g: jax.Array, dtype: str) -> jax.Array:
    """xᵀ·g, f32[..., D, F], of x [..., M, D] and g [..., M, F], inputs in `dtype`: what the gradient of a weight is. Not differentiated."""
    x, g, lead, M = x.astype(dtype), g.astype(dtype), tuple(range(x.ndim - 2)), x.ndim - 2
    if dtype != 'float32':
        x = laid(x.swapaxes(-1, -2))
    axes = ((M if dtype == 'float32' else M + 1,), (M,)), (lead, lead)
    return jax.lax.dot_general(x, g, axes, preferred_element_type=jnp.float32)


def laid(x: jax.Array) -> jax.Array:
    """`x` itself, which in memory is to lie as its axes say if it is narrow and this will run on a CPU.

    XLA's CPU backend has fast products of bfloat16 for operands that lie so, and widens all others to float32; those that come out of
    a transposition are among the others unless they are pinned (jax 0.12; seen as the types of `dot` in the compiled program).
    """
    if x.dtype != jnp.bfloat16 or sharding.platform() != 'cpu':
        return x
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Columns:
    """A weight for products with few rows: its columns stand in memory one after the other, in the type they are multiplied in.

    A CPU multiplies 32 rows a third faster as W·xᵀ, with the long side first.
    """

    columns: jax.Array  # [out, in]; int8 where the product's kernel widens it while it reads
    shape: tuple[int, ...] = dataclasses.field(metadata={'static': True})  # of the weight, [*in, *out]
    scale: jax.Array | None = None  # f32[out], of `Int8`

    @classmethod
    def of(cls, w: jax.Array | Int8, dtype: str, contract: int = 1) -> Columns:
        if isinstance(w, Int8):
            values = w.widened(dtype).values
            columns = values.reshape(math.prod(values.shape[:contract]), -1).T
            return cls(laid(columns), values.shape, w.scale.reshape(-1))
        return cls(laid(w.astype(dtype).reshape(math.prod(w.shape[:contract]), -1).T), w.shape)

    @classmethod
    def split(cls, w: jax.Array | Int8, axes: tuple[str | None, str | None], dtype: str, contract: int = 1) -> Columns:
        """The same split over logical axes, [out, in], alone: of what is whole along its inputs the decoding loop gathers nothing."""
        made = cls.of(w, dtype, contract)
        scale = None if made.scale is None else sharding.constrain(made.scale, axes[0])
        return dataclasses.replace(made, columns=sharding.constrain(made.columns, *axes), scale=scale)

    def product(self, x: jax.Array) -> jax.Array:
        """x [rows, in] · w, f32[rows, out]."""

        def columns(x, w):  # the barriers keep XLA from turning it back into x·w
            still = jax.lax.optimization_barrier
            return still(jnp.dot(w, laid(still(x.T)), preferred_element_type=jnp.float32)).T

        def rows(x, w):
            return jax.lax.dot_general(x, w, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)

        w = self.columns.astype(x.dtype)
        out = jax.lax.platform_dependent(x, w, cpu=columns, default=rows)
        return out if self.scale is None else out * self.scale


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8:
    """A weight [*in, *out] in a quarter of the memory: w ≈ values · scale, with one scale a column (symmetric, so no offset)."""

    values: jax.Array  # i8[*lead, *in, *out]; lead: layers of a stack and experts, none within them
    scale: jax.Array  # f32[*lead, *1s, *out]
    contract: int = dataclasses.field(metadata={'static': True})  # axes in `in`

    @classmethod
    def of(cls, w: jax.Array, contract: int = 1, lead: int = 0) -> Int8:
        scale = jnp.abs(w).max(range(lead, lead + contract), keepdims=True) / 127
        return cls(jnp.round(w / jnp.where(scale > 0, scale, 1.0)).astype(jnp.int8), scale, contract)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def product(self, x: jax.Array, dtype: str) -> jax.Array:
        """x [..., *in] · w. A scale multiplies what comes out: the columns' values are whole numbers, exact in any `dtype`."""
        return matmul(x, self.values, dtype, self.contract) * self.scale.reshape(self.shape[self.contract :])

    def plain(self) -> jax.Array:
        """The weight itself, f32."""
        return self.values * self.scale

    def widened(self, dtype: str) -> Int8:
        """For a loop of products with few rows: on a CPU, whose products take no int8 beside another type, the same whole numbers in
        `dtype`; elsewhere as it is, to be read in a quarter of the time.
        """
        return dataclasses.replace(self, values=self.values.astype(dtype)) if sharding.platform() == 'cpu' else self


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


def side_by_side(*weights: jax.Array | Int8) -> jax.Array | Int8:
    """Weights that read one input [in, *out], joined along the first axis of `out`."""
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, 1), *weights)


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
