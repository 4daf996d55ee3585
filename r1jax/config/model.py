"""The shape of a model: attention, experts, and how positions reach beyond the context that was trained."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """RoPE for a longer context than the pretrained one, as Llama 3.1 and 3.2 have it (arXiv 2407.21783; transformers' 'llama3').

    Frequencies that turn more than `high` times in the original context stay, those that turn less than `low` times are divided by
    `factor`, and those between are mixed of both.
    """

    factor: float
    original: int  # tokens of the pretrained context
    low: float = 1.0  # turns
    high: float = 4.0  # turns

    def __post_init__(self):
        if not self.low < self.high:
            raise ValueError(f'low={self.low} must be below high={self.high}')


@dataclasses.dataclass(frozen=True)
class YarnScaling:
    """RoPE for a longer context than the pretrained one (YaRN, arXiv 2309.00071).

    Frequencies that turn more than `fast` times in the original context stay, those that turn less than `slow` times are divided by
    `factor`, with a ramp between. What is rotated is multiplied by m(mscale) / m(mscale_all_dim), and multi-head latent attention's
    scores by m(mscale_all_dim)², where m(x) = 0.1·x·ln(factor) + 1.
    """

    factor: float  # of the context
    original: int  # tokens of the pretrained context
    fast: float = 32.0
    slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 0.0


@dataclasses.dataclass(frozen=True)
class MLA:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434 §2.1): a token's keys and values are one latent and one rotary key.

    Of a head's `ModelConfig.head_dim` query and key entries the last `rotary` are rotated, and shared by the heads on the key's side.
    """

    kv_rank: int  # C, entries of the latent
    rotary: int  # R
    value: int  # entries of a head's value
    q_rank: int = 0  # of the queries' own latent; 0: queries are read off the width (DeepSeek-V2-Lite, Moonlight)


@dataclasses.dataclass(frozen=True)
class MoE:
    """Experts in place of the SwiGLU (DeepSeekMoE, arXiv 2401.06066; DeepSeek-V3, arXiv 2412.19437 §2.1.2). No token is dropped.

    Defaults are Qwen3's router: softmax over all experts, no bias, no shared expert.
    """

    experts: int  # E, routed
    active: int  # k, experts a token
    hidden: int  # F of one expert
    shared: int = 0  # experts that every token passes, side by side as one of shared·hidden
    dense_layers: int = 0  # leading layers with a SwiGLU of ModelConfig.hidden
    score: Literal['softmax', 'sigmoid'] = 'softmax'  # of the router's logits; float32
    groups: int = 1  # the experts' groups, equal in size …
    top_groups: int = 1  # … of which a token's experts come from so many, those whose two best experts sum highest
    normalise: bool = True  # the chosen experts' scores are divided by their sum
    scale: float = 1.0  # of the routed experts' output
    # A bias that is added to the scores for choosing, and only there (auxiliary-loss-free balancing, arXiv 2408.15664). 'frozen': as
    # loaded; 'balance': each optimizer step adds bias_speed·sign(mean load − load)
    router_bias: Literal['none', 'frozen', 'balance'] = 'none'
    bias_speed: float = 1e-3
    # Updates use the experts that sampling chose (rollout routing replay, arXiv 2510.11370); off: those that they would choose themselves
    replay: bool = True

    def __post_init__(self):
        if self.experts % self.groups:
            raise ValueError(f'experts={self.experts} must be a multiple of groups={self.groups}')
        if self.groups > 1 and self.experts // self.groups < 2:
            raise ValueError(f'groups={self.groups} of experts={self.experts}: a group needs two, whose scores rank it')
        if not 1 <= self.top_groups <= self.groups:
            raise ValueError(f'top_groups={self.top_groups} must be in 1 to groups={self.groups}')
        choice = self.experts // self.groups * self.top_groups
        if self.active > choice:
            raise ValueError(
                f'active={self.active} experts a token, but top_groups={self.top_groups} hold only {choice}'
            )
        if self.experts > 2**15:
            raise ValueError(f'experts={self.experts}: choices are recorded in 16 bits, at most {2**15}')


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder with RMSNorm, RoPE, grouped-query or latent attention, and SwiGLU or experts."""

    vocab: int  # V
    layers: int  # L
    width: int  # D
    heads: int  # N, query heads
    kv_heads: int  # K, key/value heads; divides `heads`
    head_dim: int  # H
    hidden: int  # F, width of the SwiGLU
    context: int  # longest sequence, prompt and response together, tokens
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    tied: bool = True  # the unembedding is the embedding
    qkv_bias: bool = False  # Qwen2.5
    qk_norm: bool = False  # Qwen3: RMSNorm over each query and key head
    rope_scaling: Llama3Scaling | YarnScaling | None = None
    mla: MLA | None = None  # None: grouped-query attention
    moe: MoE | None = None  # None: every layer is dense
    # What the backward pass computes again of a layer: nothing; all but products and attention ('dots'); all but attention; all; or all,
    # from layers' inputs that wait in the host's memory ('offload')
    remat: Literal['none', 'dots', 'attention', 'full', 'offload'] = 'none'
    dtype: Literal['float32', 'bfloat16'] = 'float32'  # of matmul inputs; parameters and reductions stay float32
    # In packed rows: a kernel of the platform's that serves their sizes (r1jax.nn.flash says which do), or XLA's operations always
    attention: Literal['auto', 'xla'] = 'auto'

    def __post_init__(self):
        if self.heads % self.kv_heads:
            raise ValueError(f'heads={self.heads} must be a multiple of kv_heads={self.kv_heads}')
        if self.head_dim % 2:
            raise ValueError(f'head_dim={self.head_dim} must be even: RoPE rotates pairs')
        if self.mla and (self.mla.rotary % 2 or not 0 < self.mla.rotary < self.head_dim):
            raise ValueError(f'mla.rotary={self.mla.rotary} must be even and less than head_dim={self.head_dim}')
        if self.mla and (self.kv_heads != self.heads or self.qkv_bias or self.qk_norm):
            raise ValueError(
                'mla has a key and a value for each head (kv_heads=heads), and neither qkv_bias nor qk_norm'
            )
        if self.moe and not 0 <= self.moe.dense_layers < self.layers:
            raise ValueError(f'moe.dense_layers={self.moe.dense_layers} must leave some of layers={self.layers}')

    @property
    def replays(self) -> bool:
        """Whether rollouts record which experts each token passed, for updates to take them."""
        return self.moe is not None and self.moe.replay

    @property
    def expert_layers(self) -> int:
        """Layers with experts; the last ones."""
        return self.layers - self.moe.dense_layers if self.moe else 0
