"""A tiny base and adapters of it, as after some training."""

import functools

import jax
import jax.numpy as jnp
from tiny import MODEL, full_logits, params_of

from r1jax.config import LoRA
from r1jax.nn import lora
from r1jax.nn.transformer import unbox

CFG = LoRA(rank=4, alpha=8.0)
TARGETS = CFG.targets
ROWS = jnp.arange(24).reshape(2, 12) % MODEL.vocab


@functools.cache
def base():
    return params_of()


@functools.cache
def adapters(cfg=CFG, size=0.05):
    """As after some training: B is not 0."""
    new = unbox(lora.init_boxed(MODEL, cfg, jax.random.key(1)))
    return jax.tree.map(lambda a: a + size * jax.random.normal(jax.random.key(2), a.shape), new)


def logits(adapters, cfg=CFG):
    return full_logits(MODEL, lora.attach(lora.frozen(base(), cfg), adapters, cfg), ROWS)


def distance(a, b):
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))
