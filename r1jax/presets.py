"""Released models by name: their `ModelConfig`s, as their config.json says, and nothing of their weights.

    named('Qwen2.5-1.5B')

A preset is a shape to plan with, to train from random weights (a stage's `start` takes its name), or to compare a folder with. Where
an instruction-tuned model differs from its base in nothing but a longer context, the base stands for both.

`context` is what the model was released for, in tokens.
"""

from __future__ import annotations

import dataclasses

from r1jax import presets_moe
from r1jax.config import Llama3Scaling, ModelConfig


def _llama(layers, width, heads, hidden, head_dim=128, factor=8.0, tied=False) -> ModelConfig:
    """Llama 3.1, 3.2 and 3.3."""
    return ModelConfig(
        vocab=128256,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=8,
        head_dim=head_dim,
        hidden=hidden,
        context=131072,
        rope_theta=500000.0,
        norm_eps=1e-5,
        tied=tied,
        rope_scaling=Llama3Scaling(factor, original=8192),
    )


def _qwen2(layers, width, heads, kv_heads, hidden, head_dim=128, context=131072, **change) -> ModelConfig:
    """Qwen2.5. Those up to 3B tie the unembedding; the larger ones pad the vocabulary further."""
    small = width <= 2048
    cfg = ModelConfig(
        vocab=151936 if small else 152064,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        hidden=hidden,
        context=context,
        rope_theta=1000000.0,
        norm_eps=1e-6,
        tied=small,
        qkv_bias=True,
    )
    return dataclasses.replace(cfg, **change)


def _qwen3(layers, width, heads, hidden, tied=False) -> ModelConfig:
    return ModelConfig(
        vocab=151936,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=8,
        head_dim=128,
        hidden=hidden,
        context=40960,
        rope_theta=1000000.0,
        norm_eps=1e-6,
        tied=tied,
        qk_norm=True,
    )


def _smollm2(layers, width, heads, kv_heads, hidden, theta=100000.0) -> ModelConfig:
    return ModelConfig(
        vocab=49152,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=64,
        hidden=hidden,
        context=8192,
        rope_theta=theta,
        norm_eps=1e-5,
    )


_8B, _70B = _llama(32, 4096, 32, 14336), _llama(80, 8192, 64, 28672)
_MATH = {'context': 4096, 'rope_theta': 10000.0}  # Qwen2.5-Math

PRESETS: dict[str, ModelConfig] = {
    'Llama-3-8B': dataclasses.replace(_8B, context=8192, rope_scaling=None),
    'Llama-3-70B': dataclasses.replace(_70B, context=8192, rope_scaling=None),
    'Llama-3.1-8B': _8B,
    'Llama-3.1-70B': _70B,
    'Llama-3.1-405B': _llama(126, 16384, 128, 53248),
    'Llama-3.2-1B': _llama(16, 2048, 32, 8192, head_dim=64, factor=32.0, tied=True),
    'Llama-3.2-3B': _llama(28, 3072, 24, 8192, factor=32.0, tied=True),
    'Llama-3.3-70B-Instruct': _70B,
    'Qwen2.5-0.5B': _qwen2(24, 896, 14, 2, 4864, head_dim=64, context=32768),
    'Qwen2.5-1.5B': _qwen2(28, 1536, 12, 2, 8960),
    'Qwen2.5-3B': _qwen2(36, 2048, 16, 2, 11008, context=32768),
    'Qwen2.5-7B': _qwen2(28, 3584, 28, 4, 18944),
    'Qwen2.5-14B': _qwen2(48, 5120, 40, 8, 13824, norm_eps=1e-5),
    'Qwen2.5-32B': _qwen2(64, 5120, 40, 8, 27648, norm_eps=1e-5),
    'Qwen2.5-72B': _qwen2(80, 8192, 64, 8, 29568, norm_eps=1e-5),
    'Qwen2.5-Math-1.5B': _qwen2(28, 1536, 12, 2, 8960, **_MATH),
    'Qwen2.5-Math-7B': _qwen2(28, 3584, 28, 4, 18944, **_MATH),
    'Qwen3-0.6B': _qwen3(28, 1024, 16, 3072, tied=True),
    'Qwen3-1.7B': _qwen3(28, 2048, 16, 6144, tied=True),
    'Qwen3-4B': _qwen3(36, 2560, 32, 9728, tied=True),
    'Qwen3-8B': _qwen3(36, 4096, 32, 12288),
    'Qwen3-14B': _qwen3(40, 5120, 40, 17408),
    'Qwen3-32B': _qwen3(64, 5120, 64, 25600),
    'SmolLM2-135M': _smollm2(30, 576, 9, 3, 1536),
    'SmolLM2-360M': _smollm2(32, 960, 15, 5, 2560),
    'SmolLM2-1.7B': _smollm2(24, 2048, 32, 32, 8192, theta=130000.0),
}

# R1's six students and what each was distilled from (R1 report §2.4); a student's context is longer, and the smallest has an
# unembedding of its own.
STUDENTS = {
    'DeepSeek-R1-Distill-Qwen-1.5B': 'Qwen2.5-Math-1.5B',
    'DeepSeek-R1-Distill-Qwen-7B': 'Qwen2.5-Math-7B',
    'DeepSeek-R1-Distill-Qwen-14B': 'Qwen2.5-14B',
    'DeepSeek-R1-Distill-Qwen-32B': 'Qwen2.5-32B',
    'DeepSeek-R1-Distill-Llama-8B': 'Llama-3.1-8B',
    'DeepSeek-R1-Distill-Llama-70B': 'Llama-3.3-70B-Instruct',
}
PRESETS |= presets_moe.PRESETS
PRESETS |= {name: dataclasses.replace(PRESETS[base], context=131072, tied=False) for name, base in STUDENTS.items()}


def named(name: str) -> ModelConfig:
    """The configuration of a released model. ValueError on a name that is not here."""
    if name not in PRESETS:
        raise ValueError(f'no preset {name!r} (known: {", ".join(PRESETS)})')
    return PRESETS[name]
