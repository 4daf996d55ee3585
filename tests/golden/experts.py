"""Writes deepseek_v3.npz and qwen3_moe.npz beside this file: what transformers computes for tiny random models with experts.

    python tests/golden/experts.py        # torch 2.13, transformers 5.23: pip install 'r1jax[reference]'

Each file holds a checkpoint's tensors by their released names ('w/NAME'), config.json, two rows of tokens with their lengths, logits
[2,T,V] of a prefill of the prompt and then cached steps, one token each, and the experts each token chose, [2,T,M,k], ascending.
"""

from __future__ import annotations

import json
import os
import pathlib
import tempfile

import numpy as np

STEPS, LENGTH, VOCAB = 32, (12, 7), 64
COMMON = {
    'vocab_size': VOCAB, 'hidden_size': 32, 'intermediate_size': 48, 'num_hidden_layers': 3, 'num_attention_heads': 4,
    'rms_norm_eps': 1e-6, 'max_position_embeddings': 163840, 'tie_word_embeddings': False, 'num_experts_per_tok': 3,
    'moe_intermediate_size': 20,
}  # fmt: skip
YARN = {
    'rope_type': 'yarn', 'rope_theta': 10000.0, 'factor': 40.0, 'beta_fast': 32, 'beta_slow': 1, 'mscale': 0.7,
    'mscale_all_dim': 1.0, 'original_max_position_embeddings': 4096,
}  # fmt: skip
DEEPSEEK = COMMON | {
    'num_key_value_heads': 4, 'n_routed_experts': 8, 'n_shared_experts': 2, 'first_k_dense_replace': 1, 'n_group': 4,
    'topk_group': 2, 'q_lora_rank': 24, 'kv_lora_rank': 16, 'qk_nope_head_dim': 8, 'qk_rope_head_dim': 16, 'v_head_dim': 12,
    'routed_scaling_factor': 2.5, 'num_nextn_predict_layers': 0, 'rope_parameters': YARN,
}  # fmt: skip
QWEN3 = COMMON | {
    'num_key_value_heads': 2, 'head_dim': 8, 'num_experts': 8, 'norm_topk_prob': True, 'mlp_only_layers': [],
    'decoder_sparse_step': 1, 'rope_parameters': {'rope_type': 'default', 'rope_theta': 1000000.0},
}  # fmt: skip


def models():
    """(file name, a transformers model with random weights) of each family."""
    import torch
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

    pairs = (
        ('deepseek_v3', DeepseekV3ForCausalLM, DeepseekV3Config(**DEEPSEEK)),
        (
            'qwen3_moe',
            Qwen3MoeForCausalLM,
            Qwen3MoeConfig(**QWEN3),
        ),
    )
    for name, kind, config in pairs:
        torch.manual_seed(0)
        model = kind._from_config(config, attn_implementation='eager').eval().float()
        with torch.no_grad():
            for path, w in [*model.named_parameters(), *model.named_buffers()]:
                if path.endswith(('norm.weight', 'layernorm.weight')):
                    w.add_(0.2 * torch.randn_like(w))
                elif path.endswith('e_score_correction_bias'):
                    w.normal_(std=0.1)
                elif w.ndim > 1:
                    w.normal_(std=1.0 if 'embed' in path else 1.2 * w.shape[-1] ** -0.5)
        yield name, model


def record(model) -> dict[str, np.ndarray]:
    """A file's arrays."""
    import torch

    chosen: list = []
    for layer in model.model.layers:
        if hasattr(layer.mlp, 'gate') and hasattr(layer.mlp, 'experts'):
            layer.mlp.gate.register_forward_hook(lambda m, i, out: chosen.append(out[2]))
    T = max(LENGTH) + STEPS
    tokens = np.random.default_rng(0).integers(3, VOCAB, (len(LENGTH), T)).astype(np.int32)
    logits, experts = np.zeros((*tokens.shape, VOCAB), np.float32), []
    for b, P in enumerate(LENGTH):
        tokens[b, P + STEPS :] = 0
        past, parts, routes = None, [], []
        for part in np.split(tokens[b, : P + STEPS], range(P, P + STEPS)):
            chosen.clear()
            with torch.no_grad():
                out = model(torch.from_numpy(part[None].astype(np.int64)), past_key_values=past, use_cache=True)
            past = out.past_key_values
            parts.append(out.logits[0].numpy())
            routes.append(np.stack([np.sort(c.reshape(len(part), -1).numpy(), -1) for c in chosen], 1))
        logits[b, : P + STEPS] = np.concatenate(parts)
        experts.append(np.pad(np.concatenate(routes), ((0, T - P - STEPS), (0, 0), (0, 0)), constant_values=-1))
    return {
        'tokens': tokens,
        'length': np.array(LENGTH),
        'logits': logits,
        'experts': np.stack(experts).astype(np.int16),
    }


def checkpoint(model) -> dict[str, np.ndarray]:
    """Its tensors under the names that `save_pretrained` gives them, and config.json."""
    from safetensors.numpy import load_file

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        config = pathlib.Path(folder, 'config.json').read_text()
        tensors = load_file(os.path.join(folder, 'model.safetensors'))
    return {f'w/{k}': v for k, v in tensors.items()} | {'config': np.array(json.dumps(json.loads(config)))}


if __name__ == '__main__':
    for name, model in models():
        file = pathlib.Path(__file__).with_name(f'{name}.npz')
        np.savez_compressed(file, **checkpoint(model), **record(model))
        print(file.name, file.stat().st_size, 'bytes')
