"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434 §2.1): what a token leaves behind is a latent and one rotary key.

    latent c = norm(h·kv_a[:C])        rotary key r = rope(h·kv_a[C:]), shared by the heads
    key of head n = [c·kv_b[n,:P], r]  value of head n = c·kv_b[n,P:]
    query of head n: P entries that meet c, and R that are rotated and meet r

Two forms of the same function. A full pass makes each head's keys and values, and attends as any model does: `attend_packed`, with values
narrower than keys. Decoding *absorbs* kv_b into the query and the output, (q·kv_bᵀ)·c = q·(c·kv_b) (ibid. §2.1.2): all heads read the
one latent, so the cache holds c and r and a step's reads do not grow with heads.

Rotary entries are paired with their neighbours, as DeepSeek's files have them (elsewhere in r1jax: i with i + H/2), so that weights
are what the files say; `_in_halves` reorders queries and keys alike, which changes no score.

Axes: B rows, T tokens, S keys, D width, N heads, H = P + R entries of a query: P plain and R rotated, C of the latent, V of a value.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from r1jax.config import ModelConfig, YarnScaling
from r1jax.nn import layers
from r1jax.nn.attention import Rows, read, score
from r1jax.nn.cache import KV, Cached
from r1jax.nn.packed import attend_packed
from r1jax.sharding import constrain

Weights = dict[str, Any]  # of one layer


def attention(
    cfg: ModelConfig,
    w: Weights,
    h: jax.Array,
    cos: jax.Array,
    sin: jax.Array,
    rows: Rows | None,
    old: Any,
    cache: Cached | None,
) -> tuple[jax.Array, KV]:
    """f32[B,T,N,V] of h [B,T,D], and what is kept: rotary keys [B,1,R,T] and latents [B,1,T,C], or what the cache holds with them.

    Without a cache tokens attend within packed `rows`; with one (T = 1), to `old`, what the cache holds of this layer.
    """
    c, C = cfg.mla, cfg.mla.kv_rank
    if 'q_kv_a' in w:
        q, kv = jnp.split(layers.matmul(h, w['q_kv_a'], cfg.dtype), (c.q_rank,), -1)
    else:
        q = layers.matmul(h, w['q_a' if c.q_rank else 'q'], cfg.dtype)
        kv = layers.matmul(h, w['kv_a'], cfg.dtype)
    if c.q_rank:
        q = layers.matmul(layers.rms_norm(q, w['q_a_norm'], cfg.norm_eps), w['q_b'], cfg.dtype)
    plain, turned = jnp.split(_stretched(cfg, q), (cfg.head_dim - c.rotary,), -1)
    turned = layers.rotate(_in_halves(turned), cos, sin)
    latent = layers.rms_norm(kv[..., :C], w['kv_norm'], cfg.norm_eps).astype(cfg.dtype)
    rotary = layers.rotate(_in_halves(kv[:, :, None, C:]), cos, sin).astype(cfg.dtype)  # [B,T,1,R]
    kept = rotary.transpose(0, 2, 3, 1), latent[:, None]
    if cache is None:
        return _plain(cfg, w, plain, turned, latent, rotary, rows), kept
    return _absorbed(cfg, w, plain, turned, *kept, old, cache)


def _in_halves(x):
    """[…,R] with the first of each pair of neighbours in the first half, and the second in the second."""
    return x.reshape(*x.shape[:-1], -1, 2).swapaxes(-1, -2).reshape(x.shape)


def _stretched(cfg, q):
    """Scores are q·k·m(mscale_all_dim)²/√H: YaRN's part of it goes into the queries, the root is the attention's."""
    yarn = cfg.rope_scaling
    return q * layers.yarn_scale(yarn, yarn.mscale_all_dim) ** 2 if isinstance(yarn, YarnScaling) else q


def _plain(cfg, w, plain, turned, latent, rotary, rows):
    keys_values = layers.matmul(latent, w['kv_b'], cfg.dtype)
    k, v = jnp.split(keys_values.astype(cfg.dtype), (plain.shape[-1],), -1)
    k = jnp.concatenate([k, jnp.broadcast_to(rotary, (*k.shape[:-1], rotary.shape[-1]))], -1)
    return attend_packed(cfg, jnp.concatenate([plain, turned], -1), k, v, rows)


def _absorbed(cfg, w, plain, turned, rotary, latent, old, cache):
    up = w if 'k_up' in w else _ups(w['kv_b'], plain.shape[-1], cfg.dtype)
    plain, turned = (a * cfg.head_dim**-0.5 for a in (plain, turned))
    q = _by_head(plain, up['k_up'], cfg.dtype), turned.swapaxes(1, 2)
    attend = functools.partial(attend_latent, dtype=cfg.dtype)
    out, held = cache.attend(attend, q, rotary, latent, old)
    return _by_head(out, up['v_up'], cfg.dtype).swapaxes(1, 2), held


def attend_latent(
    q: tuple[jax.Array, jax.Array], rotary: jax.Array, latent: jax.Array, mask: jax.Array, dtype: str
) -> tuple[jax.Array, jax.Array]:
    """`attend` with one latent for key and value: q, scaled, for the latent [B,N,T,C] and the rotary key [B,N,T,R]; rotary [B,1,R,S];
    latent [B,1,S,C]. Returns out f32[B,N,T,C] and logsumexp f32[B,N,T].
    """
    s = score(q[0], latent.swapaxes(2, 3), dtype) + score(q[1], rotary, dtype)
    return read(s, latent, mask, dtype)


def _by_head(x, w, dtype):
    """x [B,T,N,i]·w [N,i,o], each head with its own: f32[B,N,T,o]."""
    return jnp.einsum('btni,nio->bnto', x.astype(dtype), w.astype(dtype), preferred_element_type=jnp.float32)


def _ups(kv_b, plain, dtype):
    """kv_b [C,N,P+V] as the absorbed form multiplies it: k_up [N,P,C] and v_up [N,C,V].

    An int8 one is widened: for k_up its scales stand on the input's side.
    """
    kv_b = kv_b.plain() if isinstance(kv_b, layers.Int8) else kv_b
    k, v = jnp.split(kv_b.astype(dtype), (plain,), -1)
    return {'k_up': k.transpose(1, 2, 0), 'v_up': v.transpose(1, 0, 2)}


def for_few_rows(w: Weights, dtype: str) -> Weights:
    """A layer's weights made ready for decoding, as `r1jax.nn.transformer.for_few_rows` does."""
    columns = functools.partial(layers.Columns.split, dtype=dtype)
    plain = w['kv_b'].shape[-1] - w['o'].shape[1]
    out = {n: w[n] for n in ('q_a_norm', 'kv_norm') if n in w} | {'o': columns(w['o'], (None, 'heads'), contract=2)}
    if 'q_a' in w:
        out['q_kv_a'] = columns(layers.side_by_side(w['q_a'], w['kv_a']), (None, None))
        out['q_b'] = columns(w['q_b'], ('heads', None))
    else:
        out |= {'q': columns(w['q'], ('heads', None)), 'kv_a': columns(w['kv_a'], (None, None))}
    ups = _ups(w['kv_b'], plain, dtype)
    return out | {n: constrain(a, 'heads', None, None) for n, a in ups.items()}
