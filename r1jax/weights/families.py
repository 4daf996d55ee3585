"""The families of models in Hugging Face folders: how config.json reads and writes, and which tensors belong to a configuration.

A family is a row of `FAMILIES`, by the `model_type` of its config.json. Left out: anything that would change the function silently.
Sliding windows, other RoPE scalings, other activations and biases that a family does not have are errors, as are tensors that the
table does not name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from r1jax.config import Llama3Scaling, ModelConfig
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
    raise ValueError(f'no family has qkv_bias={cfg.qkv_bias} and qk_norm={cfg.qk_norm}: {", ".join(FAMILIES)}')


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
    layer = {
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
        layer |= {
            f'{n}_bias': (f'self_attn.{n}_proj.bias', f'({a} H)', f'{a} H') for n, a in zip('qkv', 'NKK', strict=True)
        }
    if c.qk_norm:
        layer |= {f'{n}_norm': (f'self_attn.{n}_norm.weight', 'H', 'H') for n in 'qk'}
    layer = {leaf: Tensor('model.layers.{layer}.' + name, *axes) for leaf, (name, *axes) in layer.items()}
    return Table(
        sizes(c),
        top,
        (Stack(0, c.layers, layer),),
        same={'lm_head.weight': 'model.embed_tokens.weight'} if c.tied else {},  # Qwen3 stores the tied one, too
        skipped={
            r'model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq': "RoPE's frequencies, which follow from the configuration"
        },
    )


def _config(meta: Json, head_dim: int | None = None, **change) -> ModelConfig:
    """What the families' config.jsons have in common; `head_dim` where a file does not say it, None: width / heads."""
    _refuse(meta, 'hidden_act', 'silu')
    _refuse(meta, 'mlp_bias', False)
    _refuse(meta, 'use_sliding_window', False)
    _refuse(meta, 'partial_rotary_factor', 1.0)
    if odd := set(meta.get('layer_types') or ()) - {'full_attention'}:
        raise ValueError(f'layer_types {sorted(odd)} are not supported')
    rope = meta.get('rope_parameters') or {}  # transformers 5 has one entry for what were two
    width, heads = meta['hidden_size'], meta['num_attention_heads']
    return ModelConfig(
        vocab=meta['vocab_size'],
        layers=meta['num_hidden_layers'],
        width=width,
        heads=heads,
        kv_heads=meta.get('num_key_value_heads') or heads,
        head_dim=meta.get('head_dim') or head_dim or width // heads,
        hidden=meta['intermediate_size'],
        context=meta['max_position_embeddings'],
        rope_theta=float(rope.get('rope_theta') or meta.get('rope_theta', 10000.0)),
        norm_eps=float(meta['rms_norm_eps']),
        tied=bool(meta.get('tie_word_embeddings', False)),
        rope_scaling=_scaling(rope or meta.get('rope_scaling') or {}),
        **change,
    )


def _scaling(rope: Json) -> Llama3Scaling | None:
    kind = rope.get('rope_type') or rope.get('type') or 'default'
    if kind == 'llama3':
        original = rope['original_max_position_embeddings']
        return Llama3Scaling(
            float(rope['factor']), original, float(rope['low_freq_factor']), float(rope['high_freq_factor'])
        )
    if kind != 'default':
        raise ValueError(f"RoPE scaling {kind!r} is not supported; supported: 'llama3'")
    return None


def _refuse(meta: Json, key: str, known: Any) -> None:
    """An error, unless config.json says the one value that we know, or nothing."""
    if (value := meta.get(key, known)) not in (known, None):
        raise ValueError(f'{key}={value!r} is not supported, only {known!r}')


def _llama(meta: Json) -> ModelConfig:
    _refuse(meta, 'attention_bias', False)
    return _config(meta)


def _qwen2(meta: Json) -> ModelConfig:
    return _config(meta, qkv_bias=True)


def _qwen3(meta: Json) -> ModelConfig:
    _refuse(meta, 'attention_bias', False)
    return _config(meta, head_dim=128, qk_norm=True)


FAMILIES = {  # by model_type
    'llama': Family('LlamaForCausalLM', _llama, lambda c: not c.qkv_bias and not c.qk_norm, dense),  # Llama, SmolLM2
    'qwen2': Family('Qwen2ForCausalLM', _qwen2, lambda c: c.qkv_bias and not c.qk_norm, dense),  # Qwen2, Qwen2.5
    'qwen3': Family('Qwen3ForCausalLM', _qwen3, lambda c: c.qk_norm and not c.qkv_bias, dense),
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
    if s := c.rope_scaling:
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
    return out | free[kind]
