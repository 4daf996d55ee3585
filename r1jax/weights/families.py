"""The families of models in Hugging Face folders: how config.json reads and writes, and which tensors belong to a configuration.

A family is a row of `FAMILIES`, by the `model_type` of its config.json. Left out: anything that would change the function silently.
Sliding windows, other RoPE scalings, other activations and biases that a family does not have are errors, as are tensors that the
table does not name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from r1jax.config import Llama3Scaling, ModelConfig, YarnScaling
from r1jax.weights import deepseek
from r1jax.weights.deepseek import ROTARY, refuse
from r1jax.weights.table import Stack, Table, Tensor

Json = Mapping[str, Any]


class Family(NamedTuple):
    architecture: str  # transformers' class, by which vLLM, too, knows what to build
    config: Callable[[Json], ModelConfig]  # from config.json
    has: Callable[[ModelConfig], bool]  # whether a configuration is one of this family
    table: Callable[[ModelConfig], Table]


def of(meta: Json) -> Family:
    """The family that a config.json names. ValueError if there is none."""
    kind = meta.get('model_type')
    if kind not in FAMILIES:
        raise ValueError(f'model_type {kind!r} is not supported; supported: {", ".join(FAMILIES)}')
    return FAMILIES[kind]


def fitting(cfg: ModelConfig) -> str:
    """The `model_type` under which a model of ours can be written. ValueError if no family has its options."""
    for kind, family in FAMILIES.items():
        if family.has(cfg):
            return kind
    has = f'qkv_bias={cfg.qkv_bias}, qk_norm={cfg.qk_norm}, mla={cfg.mla} and moe={cfg.moe}'
    raise ValueError(f'no family has {has}: {", ".join(FAMILIES)}')


def names(cfg: ModelConfig) -> dict[tuple[str, ...], list[str]]:
    """The tensor of each layer of each leaf, as the configuration's family calls it; of an expert's several the first."""
    leaves = FAMILIES[fitting(cfg)].table(cfg).leaves()
    return {path: [piece.names[0] for piece in pieces] for path, pieces in leaves.items()}


def sizes(c: ModelConfig) -> dict[str, int]:
    """Of the axes."""
    return {'V': c.vocab, 'D': c.width, 'N': c.heads, 'K': c.kv_heads, 'H': c.head_dim, 'F': c.hidden}


def dense(c: ModelConfig) -> Table:
    """Llama's names, which Qwen2, Qwen3 and many others took over."""
    top = {
        'embed': Tensor('model.embed_tokens.weight', 'V D', 'V D'),
        'norm': Tensor('model.norm.weight', 'D', 'D'),
    }
    if not c.tied:
        top['unembed'] = Tensor('lm_head.weight', 'V D', 'V D')
    named: dict[str, tuple[str, str, str]] = {
        'attn_norm': ('input_layernorm.weight', 'D', 'D'),
        'q': ('self_attn.q_proj.weight', '(N H) D', 'D N H'),
        'k': ('self_attn.k_proj.weight', '(K H) D', 'D K H'),
        'v': ('self_attn.v_proj.weight', '(K H) D', 'D K H'),
        'o': ('self_attn.o_proj.weight', 'D (N H)', 'N H D'),
        'mlp_norm': ('post_attention_layernorm.weight', 'D', 'D'),
        'gate': ('mlp.gate_proj.weight', 'F D', 'D F'),
        'up': ('mlp.up_proj.weight', 'F D', 'D F'),
        'down': ('mlp.down_proj.weight', 'D F', 'F D'),
    }
    if c.qkv_bias:
        named |= {
            f'{n}_bias': (f'self_attn.{n}_proj.bias', f'({a} H)', f'{a} H') for n, a in zip('qkv', 'NKK', strict=True)
        }
    if c.qk_norm:
        named |= {f'{n}_norm': (f'self_attn.{n}_norm.weight', 'H', 'H') for n in 'qk'}
    layer = {leaf: Tensor('model.layers.{layer}.' + name, *axes) for leaf, (name, *axes) in named.items()}
    return Table(
        sizes(c),
        top,
        (Stack(0, c.layers, layer),),
        same={'lm_head.weight': 'model.embed_tokens.weight'} if c.tied else {},  # Qwen3 stores the tied one, too
        skipped=ROTARY,
    )


def _config(meta: Json, default_head_dim: int | None = None, **own) -> ModelConfig:
    """What the families' config.jsons have in common, and what a family says in its own way; `default_head_dim` where a file does not
    say it, None: width / heads.
    """
    refuse(meta, 'hidden_act', 'silu')
    refuse(meta, 'mlp_bias', False)
    refuse(meta, 'use_sliding_window', False)
    refuse(meta, 'partial_rotary_factor', 1.0)
    if odd := set(meta.get('layer_types') or ()) - {'full_attention'}:
        raise ValueError(f'layer_types {sorted(odd)} are not supported')
    rope = meta.get('rope_parameters') or {}  # transformers 5 has one entry for what were two
    width, heads = meta['hidden_size'], meta['num_attention_heads']
    common = {
        'vocab': meta['vocab_size'],
        'layers': meta['num_hidden_layers'],
        'width': width,
        'heads': heads,
        'kv_heads': meta.get('num_key_value_heads') or heads,
        'head_dim': meta.get('head_dim') or default_head_dim or width // heads,
        'hidden': meta['intermediate_size'],
        'context': meta['max_position_embeddings'],
        'rope_theta': float(rope.get('rope_theta') or meta.get('rope_theta', 10000.0)),
        'norm_eps': float(meta['rms_norm_eps']),
        'tied': bool(meta.get('tie_word_embeddings', False)),
        'rope_scaling': _scaling(rope or meta.get('rope_scaling') or {}),
    }
    return ModelConfig(**common | own)


def _scaling(rope: Json) -> Llama3Scaling | YarnScaling | None:
    kind = rope.get('rope_type') or rope.get('type') or 'default'
    if kind == 'llama3':
        original = rope['original_max_position_embeddings']
        return Llama3Scaling(
            float(rope['factor']), original, float(rope['low_freq_factor']), float(rope['high_freq_factor'])
        )
    if kind not in ('default', 'yarn'):
        raise ValueError(f"RoPE scaling {kind!r} is not supported; supported: 'llama3', 'yarn'")
    return deepseek.yarn(rope)


def _llama(meta: Json) -> ModelConfig:
    refuse(meta, 'attention_bias', False)
    return _config(meta)


def _qwen2(meta: Json) -> ModelConfig:
    return _config(meta, qkv_bias=True)


def _qwen3(meta: Json) -> ModelConfig:
    refuse(meta, 'attention_bias', False)
    return _config(meta, 128, qk_norm=True)


def _deepseek_v3(meta: Json) -> ModelConfig:
    return _config(meta, **deepseek.deepseek_v3(meta))


def _qwen3_moe(meta: Json) -> ModelConfig:
    return _config(meta, **deepseek.qwen3_moe(meta))


def _dense(qkv_bias: bool, qk_norm: bool) -> Callable[[ModelConfig], bool]:
    return lambda c: (c.qkv_bias, c.qk_norm, c.moe, c.mla) == (qkv_bias, qk_norm, None, None)


FAMILIES = {  # by model_type
    'llama': Family('LlamaForCausalLM', _llama, _dense(False, False), dense),  # Llama, SmolLM2
    'qwen2': Family('Qwen2ForCausalLM', _qwen2, _dense(True, False), dense),  # Qwen2, Qwen2.5
    'qwen3': Family('Qwen3ForCausalLM', _qwen3, _dense(False, True), dense),
    'deepseek_v3': Family('DeepseekV3ForCausalLM', _deepseek_v3, deepseek.is_v3, deepseek.table),  # and R1
    'qwen3_moe': Family('Qwen3MoeForCausalLM', _qwen3_moe, deepseek.is_qwen3_moe, deepseek.table),
}


def to_json(c: ModelConfig) -> dict[str, Any]:
    """A config.json that transformers (4.43 and later) and vLLM read, without dtype and token ids."""
    kind = fitting(c)
    out = {
        'architectures': [FAMILIES[kind].architecture],
        'model_type': kind,
        'vocab_size': c.vocab,
        'hidden_size': c.width,
        'intermediate_size': c.hidden,
        'num_hidden_layers': c.layers,
        'num_attention_heads': c.heads,
        'num_key_value_heads': c.kv_heads,
        'head_dim': c.head_dim,
        'hidden_act': 'silu',
        'max_position_embeddings': c.context,
        'rms_norm_eps': c.norm_eps,
        'rope_theta': c.rope_theta,
        'rope_scaling': None,
        'tie_word_embeddings': c.tied,
        'attention_dropout': 0.0,
        'initializer_range': 0.02,
        'use_cache': True,
    }
    s = c.rope_scaling
    if isinstance(s, YarnScaling):
        out['rope_scaling'] = deepseek.yarn_to_json(s)
    elif s:
        out['rope_scaling'] = {
            'rope_type': 'llama3',
            'factor': s.factor,
            'low_freq_factor': s.low,
            'high_freq_factor': s.high,
            'original_max_position_embeddings': s.original,
        }
    free = {
        'llama': {'attention_bias': False, 'mlp_bias': False},
        'qwen2': {'use_sliding_window': False},
        'qwen3': {'attention_bias': False, 'use_sliding_window': False},
    }
    return out | (deepseek.to_json(c) if c.moe else free[kind])
