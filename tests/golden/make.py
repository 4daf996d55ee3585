"""Makes the golden files beside it: tiny random models of each family, and what transformers computes with them.

    python tests/golden/make.py        # needs torch and transformers (extra `reference`), and no jax

For each family a folder as `save_pretrained` writes it (config.json, model.safetensors in bfloat16) with golden.npz:

    tokens i32[B,P+N]   prompts of `length` tokens, padded behind with 0 to P, then N tokens that follow the prompt
    length i32[B]       of the prompts
    prefill f32[B,P,V]  logits of the prompt, 0 on padding
    decode f32[B,N,V]   logits after each further token, decoded one at a time through transformers' cache

All in float32 on the weights as stored. The tokens that follow are drawn, not greedy, so that no two steps see the same.
"""

import json
import pathlib
import sys

import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).parent
LENGTHS, STEPS = (24, 17, 9), 32  # beyond the original context of the scaled RoPE
SIZES = {
    'vocab_size': 96,
    'hidden_size': 32,
    'intermediate_size': 48,
    'num_hidden_layers': 2,
    'num_attention_heads': 4,
    'num_key_value_heads': 2,
    'head_dim': 16,  # not width / heads
    'max_position_embeddings': 128,
    'bos_token_id': 1,
    'eos_token_id': 2,
}
SCALING = {
    'rope_type': 'llama3',
    'factor': 8.0,
    'low_freq_factor': 1.0,
    'high_freq_factor': 4.0,
    'original_max_position_embeddings': 32,
}
FAMILIES = {  # name -> (model_type, what differs)
    'llama3': ('llama', {'rope_theta': 100.0, 'rope_scaling': SCALING, 'rms_norm_eps': 1e-5}),
    'smollm2': ('llama', {'rope_theta': 1000.0, 'rms_norm_eps': 1e-5, 'tie_word_embeddings': True}),
    'qwen2': ('qwen2', {'rope_theta': 10000.0, 'rms_norm_eps': 1e-6, 'head_dim': 8}),
    'qwen3': ('qwen3', {'rope_theta': 1000.0, 'rms_norm_eps': 1e-6, 'tie_word_embeddings': True}),
}


def config(kind, change, **more):
    return transformers.AutoConfig.for_model(kind, **{**SIZES, **change, **more})


def model(cfg, seed):
    """A model whose every weight matters: none at its initial value, logits of a few units."""
    torch.manual_seed(seed)
    out = transformers.AutoModelForCausalLM.from_config(cfg).float().eval()
    with torch.no_grad():
        for name, w in out.named_parameters():
            noise = torch.randn_like(w)
            if w.ndim == 1:
                w.copy_(0.3 * noise if name.endswith('bias') else 1 + 0.3 * noise)
            else:
                w.copy_(noise * (0.5 if 'embed' in name else 1.5 * w.shape[-1] ** -0.5))
            w.copy_(w.bfloat16().float())
    return out


def golden(net, seed):
    """tokens, length, prefill and decode as above, each row on its own and without padding."""
    rng, vocab, longest = np.random.default_rng(seed), net.config.vocab_size, max(LENGTHS)
    tokens = np.zeros((len(LENGTHS), longest + STEPS), np.int32)
    prefill = np.zeros((len(LENGTHS), longest, vocab), np.float32)
    decode = np.zeros((len(LENGTHS), STEPS, vocab), np.float32)
    with torch.no_grad():
        for row, n in enumerate(LENGTHS):
            tokens[row, :n] = rng.integers(3, vocab, n)
            tokens[row, longest:] = rng.integers(3, vocab, STEPS)
            out = net(torch.from_numpy(tokens[row : row + 1, :n]).long(), use_cache=True)
            prefill[row, :n] = out.logits[0].numpy()
            for t in range(STEPS):
                token = torch.from_numpy(tokens[row : row + 1, longest + t : longest + t + 1]).long()
                out = net(token, past_key_values=out.past_key_values, use_cache=True)
                decode[row, t] = out.logits[0, 0].numpy()
    return {'tokens': tokens, 'length': np.array(LENGTHS, np.int32), 'prefill': prefill, 'decode': decode}


def main():
    for i, (name, (kind, change)) in enumerate(FAMILIES.items()):
        net = model(config(kind, change), seed=i)
        arrays = golden(net, seed=i)
        net.bfloat16().save_pretrained(HERE / name)
        (HERE / name / 'generation_config.json').unlink(missing_ok=True)
        np.savez_compressed(HERE / name / 'golden.npz', **arrays)
        meta = json.loads((HERE / name / 'config.json').read_text())
        said = f'{meta["model_type"]}, logits to {np.abs(arrays["decode"]).max():.1f}'
        print(f'{name}: {said}', file=sys.stderr)


if __name__ == '__main__':
    main()
