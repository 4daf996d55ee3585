"""Each family against transformers, by golden arrays (tests/golden/make.py): prefill, 32 cached decode steps, padding, packing."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import weights
from r1jax.nn.cache import by_layer, with_suffix
from r1jax.nn.transformer import for_few_rows, forward, unembedding, unstack

GOLDEN = pathlib.Path(__file__).parent / 'golden'
NAMES = sorted(path.parent.name for path in GOLDEN.glob('*/golden.npz'))
CLOSE = 2e-4  # of logits up to ±12, in float32


def full(cfg, params, tokens, place, segment):
    hidden, kept, _ = forward(cfg, params, tokens, place, segment, jnp.full_like(segment, -1))
    return hidden @ unembedding(params).T, kept


def compare(cfg, params, golden):
    """Largest differences of the logits: of the padded prefill, of the cached steps, and of all rows packed in one."""
    tokens, length, prefill, decode = (golden[n] for n in ('tokens', 'length', 'prefill', 'decode'))
    B, P, _ = prefill.shape
    params = jax.tree.map(jnp.asarray, params)
    N = decode.shape[1]
    place = jnp.broadcast_to(jnp.arange(P), (B, P))
    real = np.arange(P) < length[:, None]
    run = jax.jit(functools.partial(full, cfg))
    got, prefix = run(params, tokens[:, :P], place, jnp.where(real, 0, -1))
    differ = {'prefill': np.abs(np.asarray(got) - prefill)[real].max()}

    single = for_few_rows(unstack(params), cfg.dtype)  # as the sampler decodes
    zero = jnp.zeros((B, 1), jnp.int32)

    @jax.jit
    def steps(cache):
        def step(cache, t):
            token = jax.lax.dynamic_slice_in_dim(jnp.asarray(tokens), P + t, 1, 1)
            hidden, cache, _ = forward(cfg, single, token, (length + t)[:, None], zero, zero - 1, cache)
            return cache, hidden[:, 0] @ unembedding(params).T

        return jax.lax.scan(step, cache, jnp.arange(N))[1]

    got = steps(with_suffix(by_layer(prefix), jnp.asarray(length), 1, N)).swapaxes(0, 1)
    differ['decode'] = np.abs(np.asarray(got) - decode).max()

    rows = [np.r_[tokens[b, :n], tokens[b, P:]] for b, n in enumerate(length)]  # prompts and what follows, end to end
    place, segment = (
        np.concatenate(a) for a in ([np.arange(len(r)) for r in rows], [[b] * len(r) for b, r in enumerate(rows)])
    )
    got = np.asarray(run(params, np.concatenate(rows)[None], place[None], segment[None])[0][0])
    want = np.concatenate([np.r_[prefill[b, :n], decode[b]] for b, n in enumerate(length)])
    return differ | {'packed': np.abs(got - want).max()}


@pytest.mark.parametrize('name', NAMES)
def test_logits_are_those_of_transformers(name):
    golden = np.load(GOLDEN / name / 'golden.npz')
    assert golden['decode'].shape[1] == 32 and np.abs(golden['decode']).max() > 3
    loaded = weights.load(str(GOLDEN / name))
    differ = compare(loaded.config, loaded.params, golden)
    assert max(differ.values()) < CLOSE, differ


def test_every_family_is_there():
    assert NAMES == ['llama3', 'qwen2', 'qwen3', 'smollm2']
    size = sum(file.stat().st_size for file in GOLDEN.rglob('*') if file.is_file())
    assert size < 2_000_000
