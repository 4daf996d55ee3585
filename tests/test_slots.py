"""Slots, however a platform stores their blocks: what a row reads is its prompt and its own tokens, wherever it lies."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import sharding
from r1jax.nn import slots
from r1jax.nn.attention import attend
from r1jax.nn.mla import attend_latent

A, S, K, N, H, V, P, SIZE = 2, 3, 2, 4, 8, 6, 5, 12


@pytest.mark.parametrize('latent', [False, True])
@pytest.mark.parametrize('platform', ['cpu', 'tpu'])
def test_a_row_reads_its_prompt_and_its_tokens(latent, platform, monkeypatch):
    """Blocks of 4: prompts end within one, tokens come behind, rows move to other slots; a row that is over reads nothing of them."""
    monkeypatch.setattr(sharding, 'platform', lambda: platform)
    monkeypatch.setattr(slots, 'BLOCK', 4)
    rng = np.random.default_rng(0)
    heads, width, values = (1, 3, V) if latent else (K, H, V)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    prompts = normal(A, heads, width, P), normal(A, heads, P, values)
    layers = slots.empty([prompts], S, SIZE)
    layers = slots.admit(layers, (prompts,), jnp.array([2, 0, 0]), jnp.array([0, 1, 0]), jnp.int32(2))
    layers = slots.take(layers, jnp.array([2, 0, 1]))  # prompt 0, prompt 1, nobody
    keys, vals = (
        np.pad(a, ((0, 1), (0, 0), *w)) for a, w in zip(prompts, (((0, 0), (0, 4)), ((0, 4), (0, 0))), strict=True)
    )
    cache = slots.Slots(layers, jnp.array([P, P - 1, 0])).without(jnp.array([False, False, True]))
    run = functools.partial(attend_latent if latent else attend, dtype='float32')
    step = jax.jit(lambda cache, q, k, v: cache.attend(run, q, k, v, cache.layers[0]))
    for t in range(4):  # over the end of a block
        q = (normal(S, N, 1, values), normal(S, N, 1, width)) if latent else normal(S, N, 1, width)
        k, v = normal(S, heads, width, 1), normal(S, heads, 1, values)
        out, layer = step(cache, q, k, v)
        at = [P + t, P - 1 + t, t]
        for s, n in enumerate(at):
            keys[s, :, :, n], vals[s, :, n] = k[s, ..., 0], v[s, :, 0]
        seen = np.arange(P + 4) <= np.array(at)[:, None]
        want = run(jax.tree.map(jnp.array, q), keys, vals, seen[:, None])[0].swapaxes(1, 2)
        np.testing.assert_allclose(out, want, atol=1e-5)
        cache = cache.grown((layer,))
