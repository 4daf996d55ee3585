"""Small models and batches that several tests share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from r1jax.config import ModelConfig
from r1jax.nn.transformer import forward, init_boxed, unbox, unembedding
from r1jax.rl.batch import Item, pack
from r1jax.rl.logprobs import token_logprobs

MODEL = ModelConfig(vocab=62, layers=2, width=32, heads=4, kv_heads=2, head_dim=8, hidden=48, context=96)


def params_of(cfg=MODEL, seed=0, scale=0.3):
    """Random parameters away from their initial values, so that every term of the model matters."""
    return _params(cfg, seed, scale)


@functools.partial(jax.jit, static_argnums=0)  # one program: operation by operation each would be compiled on its own
def _params(cfg, seed, scale):
    params = unbox(init_boxed(cfg, jax.random.key(seed)))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    return tree.unflatten([a + scale * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)])


@functools.partial(jax.jit, static_argnums=0)
def full_logits(cfg, params, rows):
    """Logits [B,T,V] of plain rows, by one full pass."""
    B, T = rows.shape
    position = jnp.broadcast_to(jnp.arange(T), (B, T))
    hidden, _, _ = forward(cfg, params, rows, position, jnp.zeros((B, T), jnp.int32), jnp.full((B, T), -1))
    return hidden @ unembedding(params).T


def row_logprobs(cfg, params, prompt, response, temperature=1.0):
    """f32[N]: log-probabilities of one response, from a plain row of its own (padded behind, so that it compiles once)."""
    row = np.zeros((1, 40), np.int32)
    row[0, : len(prompt) + len(response)] = [*prompt, *response]
    logits = np.asarray(full_logits(cfg, params, row))[0, len(prompt) - 1 : len(prompt) + len(response) - 1]
    known = np.minimum(response, cfg.vocab - 1)  # an id beyond the vocabulary is read as the last one, as jax reads it
    return scipy.special.log_softmax(logits / temperature, -1)[np.arange(len(response)), known]


def random_items(rng, groups=3, samples=4, vocab=61, weight=None):
    """Responses of mixed lengths, several to a prompt."""
    items = []
    for g in range(groups):
        prompt = rng.integers(3, vocab, rng.integers(2, 9))
        for _ in range(samples):
            n = int(rng.integers(1, 20))
            items.append(
                Item(
                    prompt,
                    rng.integers(3, vocab, n),
                    float(rng.random()) / 50 if weight is None else weight,
                    g,
                    float(rng.normal()),
                    -3 * rng.random(n).astype(np.float32),
                    -3 * rng.random(n).astype(np.float32),
                    -3 * rng.random(n).astype(np.float32),
                )
            )
    return items


def packed_logprobs(cfg, params, items, length, rows, prompts=0, block=0):
    """Log-probabilities of each item's response through one packed batch."""
    batch, _, places = pack(items, length, rows, len(items), prompts, block)
    flat = jax.tree.map(lambda a: a.reshape(-1, a.shape[-1]), batch)
    logp = np.asarray(_rows_logprobs(cfg, params, flat, prompts, block)).reshape(batch.tokens.shape)
    return [logp[m, r, t : t + len(i.response)] for i, (m, r, t) in zip(items, places, strict=True)]


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _rows_logprobs(cfg, params, rows, prompts, block):
    hidden, _, _ = forward(cfg, params, rows.tokens, rows.position, rows.segment, rows.parent, None, prompts, block)
    return token_logprobs(hidden, unembedding(params), rows.tokens, rows.source, 1.0)[0]
