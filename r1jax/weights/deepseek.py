"""Families with experts in Hugging Face folders: DeepSeek-V3 (and R1, which is one) and Qwen3 MoE.

In each direction: what config.json says, as fields of `ModelConfig` (`deepseek_v3`, `qwen3_moe`) and back (`to_json`), and the table of
tensors (`tables`). A layer has a tensor for each expert; a leaf stacks them.

Axes are those of `r1jax.weights.table`, and here: Q entries of the queries' latent, C of the keys' and values', A the latent and the
rotary key, U plain key and value of a head, O value of a head, X hidden width of an expert, S of the shared experts.

DeepSeek's rotary entries stay paired with their neighbours, see `r1jax.nn.mla`: nothing is reordered. Its multi-token-prediction
module, a layer behind the last, is skipped by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from r1jax.config import MLA, ModelConfig, MoE, YarnScaling
from r1jax.weights.table import Stack, Table, Tensor

Json = Mapping[str, Any]


def is_v3(c: ModelConfig) -> bool:
    """Whether a configuration can be written as DeepSeek-V3's."""
    return bool(c.mla and c.moe) and c.moe.score == 'sigmoid' and c.moe.router_bias != 'none' and not c.qkv_bias


def is_qwen3_moe(c: ModelConfig) -> bool:
    """Whether a configuration can be written as Qwen3 MoE's."""
    plain = (
        MoE(c.moe.experts, c.moe.active, c.moe.hidden, normalise=c.moe.normalise, replay=c.moe.replay) if c.moe else 0
    )
    return c.moe == plain and not c.mla and c.qk_norm and not c.qkv_bias


def table(c: ModelConfig) -> Table:
    """The tensors of a model with experts: latent attention is DeepSeek-V3's, grouped-query attention Qwen3's."""
    m, e = c.mla, c.moe
    sizes = {'V': c.vocab, 'D': c.width, 'N': c.heads, 'K': c.kv_heads, 'H': c.head_dim, 'F': c.hidden}
    sizes |= {'E': e.experts, 'X': e.hidden, 'S': e.shared * e.hidden}
    if m:
        sizes |= {'C': m.kv_rank, 'A': m.kv_rank + m.rotary, 'U': c.head_dim - m.rotary + m.value, 'O': m.value}
        sizes |= {'Q': m.q_rank}
    top = {
        'embed': Tensor('model.embed_tokens.weight', 'V D', 'V D'),
        'norm': Tensor('model.norm.weight', 'D', 'D'),
    }
    if not c.tied:
        top['unembed'] = Tensor('lm_head.weight', 'V D', 'V D')
    common = {
        'attn_norm': ('input_layernorm.weight', 'D', 'D'),
        'mlp_norm': ('post_attention_layernorm.weight', 'D', 'D'),
        **(_latent(c) if m else _grouped_query(c)),
    }
    dense, routed = (_named(common | own) for own in (_swiglu('mlp', 'F'), _experts(c)))
    stacks = Stack(0, e.dense_layers, dense), Stack(e.dense_layers, c.expert_layers, routed)
    prediction = {rf'model\.layers\.{c.layers}\..*': 'the multi-token-prediction module'} if m else {}
    return Table(sizes, top, tuple(s for s in stacks if s.depth), skipped=prediction | ROTARY)


ROTARY = {r'model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq': "RoPE's frequencies, which the configuration says"}


def _named(layer):
    return {leaf: Tensor('model.layers.{layer}.' + name, *axes) for leaf, (name, *axes) in layer.items()}


def _grouped_query(c: ModelConfig):
    out = {n: (f'self_attn.{n}_proj.weight', f'({a} H) D', f'D {a} H') for n, a in zip('qkv', 'NKK', strict=True)}
    out['o'] = 'self_attn.o_proj.weight', 'D (N H)', 'N H D'
    return out | ({f'{n}_norm': (f'self_attn.{n}_norm.weight', 'H', 'H') for n in 'qk'} if c.qk_norm else {})


def _latent(c: ModelConfig):
    out = {
        'kv_a': ('self_attn.kv_a_proj_with_mqa.weight', 'A D', 'D A'),
        'kv_norm': ('self_attn.kv_a_layernorm.weight', 'C', 'C'),
        'kv_b': ('self_attn.kv_b_proj.weight', '(N U) C', 'C N U'),
        'o': ('self_attn.o_proj.weight', 'D (N O)', 'N O D'),
    }
    if not c.mla.q_rank:
        return out | {'q': ('self_attn.q_proj.weight', '(N H) D', 'D N H')}
    return out | {
        'q_a': ('self_attn.q_a_proj.weight', 'Q D', 'D Q'),
        'q_a_norm': ('self_attn.q_a_layernorm.weight', 'Q', 'Q'),
        'q_b': ('self_attn.q_b_proj.weight', '(N H) Q', 'Q N H'),
    }


def _swiglu(where: str, width: str, leaf: str = '', experts: str = ''):
    into, out = (f'{width} D', f'{experts}D {width}'), (f'D {width}', f'{experts}{width} D')
    axes = {'gate': into, 'up': into, 'down': out}
    return {f'{leaf}{n}': (f'{where}.{n}_proj.weight', *a) for n, a in axes.items()}


def _experts(c: ModelConfig):
    out = {'router': ('mlp.gate.weight', 'E D', 'D E')} | _swiglu('mlp.experts.{expert}', 'X', 'expert_', 'E ')
    if c.moe.shared:
        out |= _swiglu('mlp.shared_experts', 'S')
    if c.moe.router_bias != 'none':
        out['router_bias'] = 'mlp.gate.e_score_correction_bias', 'E', 'E'
    return out


def deepseek_v3(meta: Json) -> dict[str, Any]:
    """The fields of `ModelConfig` that a config.json of model_type deepseek_v3 says in its own way.

    Raises:
      ValueError: an option that r1jax computes in one way alone.
    """
    for key, known in (
        ('rope_interleave', True),
        ('attention_bias', False),
        ('moe_layer_freq', 1),
        ('scoring_func', 'sigmoid'),
        ('topk_method', 'noaux_tc'),
    ):
        refuse(meta, key, known)
    rope = meta.get('rope_parameters') or meta.get('rope_scaling') or {}
    return {
        'kv_heads': meta['num_attention_heads'],
        'head_dim': meta['qk_nope_head_dim'] + meta['qk_rope_head_dim'],
        'rope_scaling': yarn(rope),
        'mla': MLA(meta['kv_lora_rank'], meta['qk_rope_head_dim'], meta['v_head_dim'], meta.get('q_lora_rank') or 0),
        'moe': MoE(
            experts=meta['n_routed_experts'],
            active=meta['num_experts_per_tok'],
            hidden=meta['moe_intermediate_size'],
            shared=meta.get('n_shared_experts') or 0,
            dense_layers=meta['first_k_dense_replace'],
            score='sigmoid',
            groups=meta.get('n_group') or 1,
            top_groups=meta.get('topk_group') or 1,
            normalise=bool(meta['norm_topk_prob']),
            scale=float(meta['routed_scaling_factor']),
            router_bias='frozen',
        ),
    }


def qwen3_moe(meta: Json) -> dict[str, Any]:
    """As `deepseek_v3`, of model_type qwen3_moe."""
    refuse(meta, 'attention_bias', False)
    refuse(meta, 'decoder_sparse_step', 1)
    if meta.get('mlp_only_layers'):
        raise ValueError(f'mlp_only_layers={meta["mlp_only_layers"]} is not supported, only []')
    experts = meta['num_experts'] if 'num_experts' in meta else meta['num_local_experts']
    active, hidden, normalise = meta['num_experts_per_tok'], meta['moe_intermediate_size'], meta['norm_topk_prob']
    return {'qk_norm': True, 'moe': MoE(experts, active, hidden, normalise=bool(normalise))}


def refuse(meta: Json, key: str, known: Any) -> None:
    """An error, unless config.json says the one value that we know, or nothing."""
    if (value := meta.get(key, known)) not in (known, None):
        raise ValueError(f'{key}={value!r} is not supported, only {known!r}')


def yarn(rope: Json) -> YarnScaling | None:
    """From config.json's rope_scaling, or transformers 5's rope_parameters. ValueError on another kind than YaRN or none."""
    kind = rope.get('rope_type') or rope.get('type') or 'default'
    if kind == 'default':
        return None
    if kind != 'yarn' or rope.get('attention_factor') is not None or not rope.get('truncate', True):
        raise ValueError(f'RoPE scaling {dict(rope)} is not supported: only YaRN without attention_factor and truncate')
    return YarnScaling(
        factor=float(rope['factor']),
        original=rope['original_max_position_embeddings'],
        fast=float(rope.get('beta_fast') or 32),
        slow=float(rope.get('beta_slow') or 1),
        # without both of them the rotated entries are multiplied by m(1), as released code has it
        **({n: float(rope[n]) for n in _SCALES} if all(rope.get(n) for n in _SCALES) else {}),
    )


_SCALES = 'mscale', 'mscale_all_dim'


def yarn_to_json(s: YarnScaling) -> dict[str, Any]:
    """config.json's rope_scaling."""
    out = {'type': 'yarn', 'rope_type': 'yarn', 'factor': s.factor, 'beta_fast': s.fast, 'beta_slow': s.slow}
    out['original_max_position_embeddings'] = s.original
    return out | ({n: getattr(s, n) for n in _SCALES} if s.mscale_all_dim else {})


def to_json(c: ModelConfig) -> dict[str, Any]:
    """What config.json says of experts and latent attention, the other way round from `deepseek_v3` and `qwen3_moe`."""
    e, m = c.moe, c.mla
    out = {
        'num_experts_per_tok': e.active,
        'moe_intermediate_size': e.hidden,
        'norm_topk_prob': e.normalise,
        'attention_bias': False,
    }
    if not m:
        return out | {'num_experts': e.experts, 'decoder_sparse_step': 1, 'mlp_only_layers': []}
    return out | {
        'n_routed_experts': e.experts,
        'n_shared_experts': e.shared,
        'first_k_dense_replace': e.dense_layers,
        'n_group': e.groups,
        'topk_group': e.top_groups,
        'topk_method': 'noaux_tc',
        'scoring_func': 'sigmoid',
        'moe_layer_freq': 1,
        'routed_scaling_factor': e.scale,
        'q_lora_rank': m.q_rank or None,
        'kv_lora_rank': m.kv_rank,
        'qk_nope_head_dim': c.head_dim - m.rotary,
        'qk_rope_head_dim': m.rotary,
        'v_head_dim': m.value,
        'head_dim': m.rotary,  # what transformers means by it here
        'rope_interleave': True,
        'num_nextn_predict_layers': 0,
    }
