"""Released models with experts, by name: their `ModelConfig`s, as their config.json says."""

from __future__ import annotations

import dataclasses

from r1jax.config import MLA, ModelConfig, MoE, YarnScaling

# Trained with 4,096 tokens and extended in two steps (arXiv 2412.19437 §4.3); without its multi-token-prediction module
_V3 = ModelConfig(
    vocab=129280,
    layers=61,
    width=7168,
    heads=128,
    kv_heads=128,
    head_dim=192,
    hidden=18432,
    context=163840,
    rope_theta=10000.0,
    norm_eps=1e-6,
    tied=False,
    rope_scaling=YarnScaling(40.0, original=4096, mscale=1.0, mscale_all_dim=1.0),
    mla=MLA(kv_rank=512, rotary=64, value=128, q_rank=1536),
    moe=MoE(
        experts=256,
        active=8,
        hidden=2048,
        shared=1,
        dense_layers=3,
        score='sigmoid',
        groups=8,
        top_groups=4,
        scale=2.5,
        router_bias='frozen',
    ),
)


def _qwen3(layers, width, heads, hidden, expert, context=40960) -> ModelConfig:
    return ModelConfig(
        vocab=151936,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=4,
        head_dim=128,
        hidden=hidden,  # of dense layers, of which there are none
        context=context,
        rope_theta=1000000.0,
        norm_eps=1e-6,
        tied=False,
        qk_norm=True,
        moe=MoE(experts=128, active=8, hidden=expert),
    )


_30B = _qwen3(48, 2048, 32, 6144, 768)

PRESETS: dict[str, ModelConfig] = {
    'DeepSeek-V3': _V3,
    'DeepSeek-V3-Base': _V3,
    'DeepSeek-R1': _V3,
    'DeepSeek-R1-Zero': _V3,
    'Qwen3-30B-A3B': _30B,
    'Qwen3-30B-A3B-Base': dataclasses.replace(_30B, context=32768),
    'Qwen3-235B-A22B': _qwen3(94, 4096, 64, 12288, 1536),
}
