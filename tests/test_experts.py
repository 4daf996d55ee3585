"""DeepSeek-V3 and Qwen3 MoE: transformers' logits and choices from golden files, cached decoding, routing, balance and replay."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import full_logits, packed_logprobs, params_of, random_items, row_logprobs

from r1jax.config import MLA, ModelConfig, MoE, YarnScaling
from r1jax.nn import grouped, layers, mla, moe
from r1jax.nn.cache import by_layer, with_suffix
from r1jax.nn.transformer import for_few_rows, forward, init_boxed, logical_axes, unbox, unembedding, unstack
from r1jax.presets_moe import PRESETS
from r1jax.weights import deepseek

GOLDEN = pathlib.Path(__file__).with_name('golden')
FAMILIES = {'deepseek_v3': deepseek.deepseek_v3, 'qwen3_moe': deepseek.qwen3_moe}

EXPERTS = MoE(
    8, 3, 20, score='sigmoid', groups=4, top_groups=2, scale=2.5, shared=2, dense_layers=1, router_bias='frozen'
)
LATENT = ModelConfig(
    vocab=62, layers=3, width=32, heads=4, kv_heads=4, head_dim=16, hidden=48, context=96,
    mla=MLA(kv_rank=12, rotary=8, value=10, q_rank=20), moe=EXPERTS,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Golden:
    cfg: ModelConfig
    params: dict
    tokens: np.ndarray
    length: np.ndarray  # of the prompts
    logits: np.ndarray
    experts: np.ndarray


@pytest.fixture(scope='session', params=FAMILIES)
def golden(request) -> Golden:
    with np.load(GOLDEN / f'{request.param}.npz') as file:
        z = dict(file)
    meta = json.loads(str(z['config']))
    cfg = config_of(meta, **FAMILIES[request.param](meta))
    tensors = {k.removeprefix('w/'): v for k, v in z.items() if k.startswith('w/')}
    return Golden(
        cfg, params_from(deepseek.table(cfg), tensors), *(z[n] for n in ('tokens', 'length', 'logits', 'experts'))
    )


def config_of(meta, **own) -> ModelConfig:
    fields = {
        'vocab': meta['vocab_size'], 'layers': meta['num_hidden_layers'], 'width': meta['hidden_size'],
        'heads': meta['num_attention_heads'], 'kv_heads': meta['num_key_value_heads'], 'head_dim': meta.get('head_dim'),
        'hidden': meta['intermediate_size'], 'context': meta['max_position_embeddings'], 'norm_eps': meta['rms_norm_eps'],
        'rope_theta': meta['rope_parameters']['rope_theta'], 'tied': meta['tie_word_embeddings'],
    }  # fmt: skip
    return ModelConfig(**fields | own)


def params_from(table, tensors):
    table.account({name: w.shape for name, w in tensors.items()})
    out = {}
    for (*where, leaf), pieces in table.leaves().items():
        made = [
            p.tensor.to_leaf(np.stack([tensors[n] for n in p.names]) if '{expert}' in p.tensor.name else tensors[p.names[0]],
                             table.sizes) for p in pieces
        ]  # fmt: skip
        inner = out.setdefault(where[0], {}) if where else out
        inner[leaf] = jnp.array(np.stack(made) if pieces[0].layer is not None else made[0])
    return out


def decoded(cfg, params, tokens, length, steps, few=True):
    """Logits [Q,steps,V], choices and the cache, of teacher-forced decoding behind prompts of different lengths."""
    Q, P = len(tokens), int(max(length))
    place = jnp.broadcast_to(jnp.arange(P), (Q, P))
    prompt = jnp.where(place < jnp.array(length)[:, None], jnp.array(tokens)[:, :P], 0)
    segment = jnp.where(place < jnp.array(length)[:, None], 0, -1)
    hidden, prefix, _ = jax.jit(forward, static_argnums=0)(cfg, params, prompt, place, segment, jnp.full((Q, P), -1))
    cache = with_suffix(by_layer(prefix), jnp.array(length), 1, steps)
    single = for_few_rows(unstack(params), cfg.dtype) if few else unstack(params)
    zero = jnp.zeros((Q, 1), jnp.int32)
    forced = jnp.stack([jnp.array(tokens[q, n : n + steps]) for q, n in enumerate(length)])

    def step(cache, t):
        at = jax.lax.dynamic_slice_in_dim(forced, t, 1, 1)
        hidden, cache, aux = forward(cfg, single, at, (jnp.array(length) + t)[:, None], zero, zero - 1, cache)
        return cache, (hidden[:, 0] @ unembedding(params).T, aux['choices'][:, 0])

    cache, (logits, choices) = jax.jit(lambda c: jax.lax.scan(step, c, jnp.arange(steps)))(cache)
    return logits.swapaxes(0, 1), choices.swapaxes(0, 1), cache


# --- against transformers


def test_prefill_and_packed_rows_are_as_transformers_has_them(golden):
    cfg, (_, T) = golden.cfg, golden.tokens.shape
    ends = golden.length + 32
    segment, position = (np.full((1, 2 * T), fill) for fill in (-1, 0))
    row, at = np.zeros((1, 2 * T), np.int32), [slice(3, 3 + ends[0]), slice(3 + ends[0], 3 + ends.sum())]
    for b, place in enumerate(at):  # one packed row: padding, a text, another, padding
        segment[0, place], position[0, place], row[0, place] = b, np.arange(ends[b]), golden.tokens[b, : ends[b]]
    hidden, _, aux = jax.jit(forward, static_argnums=0)(
        cfg, golden.params, row, position, segment, np.full_like(row, -1)
    )
    logits = np.asarray(hidden @ unembedding(golden.params).T)[0]
    for b, place in enumerate(at):
        np.testing.assert_allclose(logits[place], golden.logits[b, : ends[b]], atol=2e-4)
        np.testing.assert_array_equal(np.sort(aux['choices'][0, place], -1), golden.experts[b, : ends[b]])
    want = np.stack(
        [np.bincount(golden.experts[:, :, i].ravel() + 1, minlength=9)[1:] for i in range(cfg.expert_layers)]
    )
    np.testing.assert_array_equal(aux['load'], want)  # padding counts nowhere


@pytest.mark.parametrize('few', [True, False], ids=['fused', 'as stored'])
def test_cached_decoding_is_as_transformers_has_it(golden, few):
    logits, choices, _ = decoded(golden.cfg, golden.params, golden.tokens, golden.length, 32, few)
    for b, n in enumerate(golden.length):
        np.testing.assert_allclose(logits[b], golden.logits[b, n : n + 32], atol=2e-4)
        np.testing.assert_array_equal(np.sort(choices[b], -1), golden.experts[b, n : n + 32])
