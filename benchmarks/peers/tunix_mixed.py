"""Tunix's sampler on the requests of `../mixed.py`, in batches padded on the left, JAX on the CPU in float32.

    pip install google-tunix transformers
    python benchmarks/peers/tunix_mixed.py --model DIR            # of hf_folder.py

Prints one JSON line. A row ends at its given length, as in tunix_step.py; so that every batch runs what was compiled for the first, the
lengths travel in a part of the sampling state that is read by nothing else: the last column of the positions, behind the last token.
"""

import argparse
import dataclasses
import os
import pathlib
import sys

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import importlib.metadata

import jax
import jax.numpy as jnp
import numpy as np
from transformers import AutoTokenizer
from tunix.generate import sampler as samplers
from tunix.models.llama3 import model as llama
from tunix.models.llama3 import params as llama_params
from workload import W, emit, mixed, now, texts

PROMPT, NEW = 128, 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', required=True, help='folder of hf_folder.py')
    parser.add_argument('--requests', type=int, default=256)
    parser.add_argument('--batch', type=int, default=64)
    a = parser.parse_args()
    w, sizes = W, mixed(a.requests, PROMPT, NEW)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ('fsdp', 'tp'))
    config = llama.ModelConfig(
        num_layers=w['layers'], vocab_size=w['vocab'], embed_dim=w['d'], hidden_dim=w['ffn'], num_heads=w['heads'],
        head_dim=w['hd'], num_kv_heads=w['kv'], rope_theta=int(w['theta']), norm_eps=w['eps'], weight_tying=True,
    )  # fmt: skip
    with mesh:
        model = llama_params.create_model_from_safe_tensors(a.model, config, mesh, dtype=jnp.float32)
    tokenizer = AutoTokenizer.from_pretrained(a.model)
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    ends, plain, begin = [0] * a.batch, samplers.Sampler._sample, samplers.Sampler.init_sample_state

    def begun(self, *args, **kwargs):
        state = begin(self, *args, **kwargs)
        return dataclasses.replace(state, positions=state.positions.at[:, -1].set(jnp.array(ends)))

    def exact(self, logits, eos, cache, sampler_state):
        n = sampler_state.decoding_step + 2 - PROMPT  # new tokens with this one
        last, ids = (sampler_state.positions[:, -1] == n)[:, None, None], jnp.arange(w['vocab'])
        banned = jnp.where(last, ids != end, (ids == end) | (ids == pad))  # it masks by the padding id
        return plain(self, jnp.where(banned, -jnp.inf, logits[:, -1:]), eos, cache, sampler_state)

    samplers.Sampler._sample, samplers.Sampler.init_sample_state = exact, begun
    cache = samplers.CacheConfig(PROMPT + NEW + 2, w['layers'], w['kv'], w['hd'])
    sampler = samplers.Sampler(model, tokenizer, cache)
    words = {size: texts(tokenizer.encode, 1, size - 1)[0] for size in {size for size, _ in sizes}}  # and BOS, its own

    def generate(sizes: list[tuple[int, int]]) -> int:
        rows = sizes + [sizes[-1]] * (a.batch - len(sizes))  # the last batch runs the same program
        ends[:] = [new for _, new in rows]
        prompts = [words[size] for size, _ in rows]
        out = sampler(prompts, NEW + 2, max_prompt_length=PROMPT, temperature=1.0, top_p=1.0, seed=0, eos_tokens=[end])
        assert [len(row) + 1 for row in out.tokens] == ends  # it drops the end token
        return sum(new for _, new in sizes)

    start = now()
    generate([(prompt, 4) for prompt, _ in sizes[: a.batch]])
    first = now() - start
    start = now()
    tokens = sum(generate(sizes[at : at + a.batch]) for at in range(0, len(sizes), a.batch))
    seconds = now() - start
    versions = {'tunix': importlib.metadata.version('google-tunix'), 'jax': jax.__version__}
    emit(
        peer='tunix', requests=a.requests, tokens=tokens, seconds=round(seconds, 2), tokens_s=round(tokens / seconds, 2),
        batch=a.batch, first_s=round(first, 1), **versions,
    )  # fmt: skip


if __name__ == '__main__':
    main()
