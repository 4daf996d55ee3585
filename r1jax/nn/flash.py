"""Attention in packed rows by kernels that never hold its scores: splash attention on TPUs, cuDNN's on GPUs.

Both compute `r1jax.nn.attention.attend_rows`' function, and `serving` says which of them can, for the platform that is traced for:

- TPU: Pallas' splash attention reads keys whose id is the query's, and knows no parents. So a row is up to three calls: a block's own
  causal one; one to the prompts that are set apart; and, where several responses follow their prompt in a block, one more to that
  prompt. `merge` joins them. Its backward kernels take the logsumexp over all of a query's keys, by which each part's weights are
  those of the whole, as in `attend_rows` (FlashAttention-2, arXiv 2307.08691, algorithm 2).
- GPU: cuDNN takes any mask, but gives its logsumexp in too few bits to merge by, and no gradient through it. So a block's keys stand
  behind the prompts' in one call, and prompts are another. The mask is of the size of one head's scores, in bfloat16.

A pack of `r1jax.rl.batch` is what they are for: segments ascend, and a response stands behind its prompt.

Left out: decoding, where one query a row leaves nothing to tile, and rows that `serving` does not name; XLA computes those.

Axes: B rows, T tokens, S keys, N query heads, K key/value heads, H head dim, V value dim, P prompt tokens, L tokens of a block.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from r1jax import sharding
from r1jax.nn.attention import NONE, Rows, as_mask, merge

TILE = 128  # tokens; splash cuts queries and keys into multiples of it
_WIDE = ('batch', 'length', 'heads', 'head_dim')  # of q and of the output
_NARROW = ('batch', 'length', 'kv_heads', 'head_dim')  # of k and v
_IDS = ('batch', 'length')


def serving(q: jax.Array, k: jax.Array, v: jax.Array, prompts: int, block: int, dtype: str) -> Callable | None:
    """The kernel for these sizes where they will run, `kernel(q, k, v, rows, dtype)`; None: XLA's attention is to be used.

    Rows and heads must divide over the mesh. Splash further asks for prompts and blocks of a multiple of 128 tokens; cuDNN for
    bfloat16, even lengths, and heads of a multiple of 8 entries, at most 128, with values as wide as keys.
    """
    where = sharding.platform()
    rows, heads = sharding.ways('batch'), sharding.ways('kv_heads')
    if q.shape[0] % rows or k.shape[2] % heads:
        return None
    if where == 'tpu':
        return splash if prompts % TILE == block % TILE == 0 else None
    if where == 'gpu':
        H, V = q.shape[-1], v.shape[-1]
        fits = dtype == 'bfloat16' and H == V <= 128 and H % 8 == 0 and prompts % 2 == block % 2 == 0
        return cudnn if fits else None
    return None


# --- TPU


def splash(q: jax.Array, k: jax.Array, v: jax.Array, rows: Rows, dtype: str, interpret: bool = False) -> jax.Array:
    """f32[B,T,N,V] of q [B,T,N,H], k [B,T,K,H] and v [B,T,K,V]; `interpret` runs the kernels on any platform, slowly."""
    return _splash((rows.prompts, rows.block, dtype, interpret), q, k, v, rows.segment, rows.parent)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _splash(static, q, k, v, segment, parent):
    return _splash_forward(static, q, k, v, segment, parent)[0]


def _splash_forward(static, q, k, v, segment, parent):
    run = sharding.by_shard(
        functools.partial(_forward, static),
        (_WIDE, _NARROW, _NARROW, _IDS, _IDS),
        (_WIDE, ('batch', 'length', 'heads')),
    )
    out, total = (checkpoint_name(a, 'attention') for a in run(q, k, v, segment, parent))
    return out, (q, k, v, segment, parent, out, total)


def _splash_backward(static, kept, g):
    shapes = (_WIDE, _NARROW, _NARROW, _IDS, _IDS, _WIDE, ('batch', 'length', 'heads'), _WIDE)
    run = sharding.by_shard(functools.partial(_backward, static), shapes, (_WIDE, _NARROW, _NARROW))
    q, k, v = kept[:3]
    return *(d.astype(a.dtype) for d, a in zip(run(*kept, g), (q, k, v), strict=True)), None, None


_splash.defvjp(_splash_forward, _splash_backward)


def ids(segment: jax.Array, parent: jax.Array, prompts: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """By which ids [B,T] a token reads: its segment, or its prompt's where it follows that in its block; the prompt in its block that
    others follow before it (−1: none); and the prompt that is set apart (−1: none).
    """
    last = segment[:, :prompts].max(1, keepdims=True) if prompts else -1
    inside = parent > last
    first = inside & (segment == parent + 1)  # such a prompt with its one response is one causal piece
    own = jnp.where(first, parent, segment)
    return own, jnp.where(inside & ~first, parent, -1), jnp.where(inside, -1, parent)


def _forward(static, q, k, v, segment, parent):
    P, L, dtype, interpret = static
    q, k, v = ((a * scale).astype(dtype) for a, scale in ((q, q.shape[-1] ** -0.5), (k, 1), (v, 1)))
    own, sibling, apart = ids(segment, parent, P)
    call = functools.partial(part, interpret=interpret)

    def by_block(a):
        return a[:, P:].reshape(-1, L, *a.shape[2:])

    block = [by_block(a) for a in (q, k, v)]
    whole = call(*block, by_block(own), by_block(own), True)
    siblings = by_block(sibling)
    whole = jax.lax.cond(
        (siblings >= 0).any(),
        lambda whole: merge(whole, call(*block, siblings, by_block(segment), True)),
        lambda whole: whole,
        whole,
    )
    out, total = (a.reshape(q.shape[0], -1, *a.shape[2:]) for a in whole)
    if P:
        shared, seen = (k[:, :P], v[:, :P]), segment[:, :P]
        out, total = merge((out, total), call(q[:, P:], *shared, apart[:, P:], seen, False))
        prompt = call(q[:, :P], *shared, own[:, :P], own[:, :P], True)
        out, total = (jnp.concatenate(pair, 1) for pair in zip(prompt, (out, total), strict=True))
    return out, total


def _backward(static, q, k, v, segment, parent, out, total, g):
    P, L, dtype, interpret = static
    H = q.shape[-1]
    q, k, v, g = ((a * scale).astype(dtype) for a, scale in ((q, H**-0.5), (k, 1), (v, 1), (g, 1)))
    own, sibling, apart = ids(segment, parent, P)
    call = functools.partial(part_backward, interpret=interpret)

    def by_block(a):
        return a[:, P:].reshape(-1, L, *a.shape[2:])

    block = [by_block(a) for a in (q, k, v, out, total, g)]
    siblings = by_block(sibling)
    gradients = call(*block, by_block(own), by_block(own), True)
    gradients = jax.lax.cond(
        (siblings >= 0).any(),
        lambda d: tuple(a + b for a, b in zip(d, call(*block, siblings, by_block(segment), True), strict=True)),
        lambda d: d,
        gradients,
    )
    dq, dk, dv = (a.reshape(q.shape[0], -1, *a.shape[2:]) for a in gradients)
    if P:
        shared, seen = (k[:, :P], v[:, :P]), segment[:, :P]
        read = call(q[:, P:], *shared, *(a[:, P:] for a in (out, total, g)), apart[:, P:], seen, False)
        prompt = call(q[:, :P], *shared, *(a[:, :P] for a in (out, total, g)), own[:, :P], own[:, :P], True)
        dq = jnp.concatenate([prompt[0], read[0] + dq], 1)
        dk, dv = (jnp.concatenate([x + y, z], 1) for x, y, z in zip(prompt[1:], read[1:], (dk, dv), strict=True))
    return dq * H**-0.5, dk, dv


def _kernel(heads, queries, keys, causal, interpret):
    """Splash attention [N,T,·] × [K,S,·]. Its tiles are the largest that divide, up to 512, and one where interpreted: each costs then."""
    from jax.experimental.pallas.ops.tpu import splash_attention as s

    def tile(length):
        return length if interpret else next(n for n in (512, 256, TILE) if length % n == 0)

    q, kv = tile(queries), tile(keys)
    sizes = s.BlockSizes(block_q=q, block_kv=kv, block_q_dkv=q, block_kv_dkv=kv, block_q_dq=q, block_kv_dq=kv)
    mask = (s.CausalMask if causal else s.FullMask)((queries, keys))
    return s.make_splash_mha(
        mask=s.MultiHeadMask([mask] * heads),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=sizes,
        save_residuals=True,
        interpret=interpret,
    )


def _segments(q_ids, k_ids):
    """No query's id is that of padding."""
    from jax.experimental.pallas.ops.tpu import splash_attention as s

    return s.SegmentIds(jnp.where(q_ids < 0, -1, q_ids), jnp.where(k_ids < 0, -2, k_ids))


def part(
    q: jax.Array, k: jax.Array, v: jax.Array, q_ids: jax.Array, k_ids: jax.Array, causal: bool, interpret: bool
) -> tuple[jax.Array, jax.Array]:
    """out f32[B,T,N,V] and logsumexp f32[B,T,N] over keys of the query's id: q [B,T,N,H], scaled; k [B,S,K,H]; v [B,S,K,V]."""
    kernel = _kernel(q.shape[2], q.shape[1], k.shape[1], causal, interpret)
    out, (total,) = jax.vmap(kernel)(*(a.swapaxes(1, 2) for a in (q, k, v)), _segments(q_ids, k_ids))
    out, total = out.swapaxes(1, 2).astype(jnp.float32), total.swapaxes(1, 2)
    some = total > NONE / 2  # without a key it gives their mean, and the logsumexp of its own mask
    return jnp.where(some[..., None], out, 0.0), jnp.where(some, total, NONE)


def part_backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    out: jax.Array,
    total: jax.Array,
    g: jax.Array,
    q_ids: jax.Array,
    k_ids: jax.Array,
    causal: bool,
    interpret: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients f32 of (scaled) q, k and v through the keys of the query's id: `out` and `total` are over all of its keys.

    The kernels are public, but only for a gradient through all keys at once: what they take is as in jax 0.10 and 0.12.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as s

    kernel = _kernel(q.shape[2], q.shape[1], k.shape[1], causal, interpret)
    names = 'mask_value', 'is_mqa', 'block_sizes', 'residual_checkpoint_name', 'mask_function', 'attn_logits_soft_cap'
    options = {n: kernel.kwargs[n] for n in names} | {'interpret': interpret, 'save_residuals': False}

    def one(q, k, v, segments, out, total, g):
        kept = q, k, v, segments, None, out, total, kernel.dq_mask_info, kernel.dkv_mask_info
        return s._splash_attention_bwd(**options, res=kept, do=g)[3:6]

    q, k, v, out, total, g = (a.swapaxes(1, 2) for a in (q, k, v, out, total, g))  # heads first
    gradients = jax.vmap(one)(q, k, v, _segments(q_ids, k_ids), out, total, g)
    return tuple(a.swapaxes(1, 2).astype(jnp.float32) for a in gradients)


# --- GPU


def cudnn(q: jax.Array, k: jax.Array, v: jax.Array, rows: Rows, dtype: str, implementation: str = 'cudnn') -> jax.Array:
    """As `splash`. 'xla' has the same arrangement computed anywhere, by `jax.nn.dot_product_attention`'s other implementation."""
    P, L = rows.prompts, rows.block
    q, k, v = (a.astype(dtype) for a in (q, k, v))

    def attend(q, k, v, mask, causal):
        out = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None], is_causal=causal, implementation=implementation)
        return jnp.where(mask.any(-1)[..., None, None], out.astype(jnp.float32), 0.0)

    def attended(q, k, v, among, to, inside):
        B, blocks = q.shape[0], (q.shape[1] - P) // L
        own = [a[:, P:].reshape(-1, L, *a.shape[2:]) for a in (q, k, v)]
        if not P:
            return (attend(*own, inside, True).reshape(B, -1, *q.shape[2:]),)
        shared = [jnp.repeat(a[:, :P], blocks, 0) for a in (k, v)]
        keys, values = (jnp.concatenate(pair, 1) for pair in zip(shared, own[1:], strict=True))
        mask = jnp.concatenate([to.reshape(B * blocks, L, P), inside], -1)
        out = attend(own[0], keys, values, mask, False).reshape(B, -1, *q.shape[2:])
        return (jnp.concatenate([attend(q[:, :P], k[:, :P], v[:, :P], among, True), out], 1),)

    mask = ('batch', None, None)
    run = sharding.by_shard(attended, (_WIDE, _NARROW, _NARROW, mask, mask, mask), (_WIDE,))
    return run(q, k, v, *map(as_mask, (rows.among_prompts, rows.to_prompts, rows.in_block)))[0]
