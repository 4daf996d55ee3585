"""The decoder: tokens in, hidden states out.

`forward` is a function of parameters; `Transformer` only declares them (the seam to flax: `describe` and `init_params` below).
Layers are a tuple of stacks, each a dict of weights with a leading layer axis, scanned; `unstack` makes each layer a stack without
that axis, which is not scanned: faster to decode, slower to compile.

A full pass takes packed rows (`segment`, `parent`: see `r1jax.types.Batch`) and returns every layer's keys and values, which is
what prefill needs and the compiler drops elsewhere. A decoding pass takes a `Cache` and one token a row.

Axes: B rows, T tokens, D width, N query heads, K key/value heads, H head dim, F hidden, V vocabulary, L layers of a stack.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from r1jax.config import ModelConfig
from r1jax.nn import layers
from r1jax.nn.attention import Rows, attend, attend_rows, heads_first, merge
from r1jax.nn.cache import KV, Cache, reads
from r1jax.sharding import constrain, named, size

Params = Any  # {'embed', 'stack_0', …, 'norm'[, 'unembed' | 'value', 'value_bias']}


def forward(
    cfg: ModelConfig,
    params: Params,
    tokens: jax.Array,
    position: jax.Array,
    segment: jax.Array,
    parent: jax.Array,
    cache: Cache | None = None,
    prompts: int = 0,
    block: int = 0,
) -> tuple[jax.Array, tuple[KV, ...] | Cache, dict]:
    """Hidden states f32[B,T,D] after the final norm; logits are `hidden @ unembedding(params).T`.

    tokens, position, segment, parent: i32[B,T]; prompts and block: how rows are cut (`r1jax.types.Batch`). Without a cache
    the second result is each stack's keys [L,B,K,H,T] and values [L,B,K,T,H]; with one (T = 1) it is the cache with this token
    appended. The third is `aux`, empty for dense models.
    """
    with jax.named_scope('embed'):
        x = constrain(params['embed'][tokens].astype(jnp.float32), 'batch', 'length', None)
    cos, sin = layers.rotation(position, layers.frequencies(cfg))
    rows = Rows.create(segment, parent, prompts, block) if cache is None else None
    kept = []
    for i in range(stacks(params)):
        old = None if cache is None else (cache.prefix[i], cache.suffix[i])

        def layer(x, weights_and_old):
            weights, old = weights_and_old
            return _block(cfg, weights, x, cos, sin, rows, old, cache)

        x, kv = _scan(_remat(layer, cfg.remat), x, (params[f'stack_{i}'], old))
        kept.append(kv)
    x = layers.rms_norm(x, params['norm'], cfg.norm_eps)
    if cache is None:
        return x, tuple(kept), {}
    return x, dataclasses.replace(cache, suffix=tuple(kept), filled=cache.filled + 1), {}


def _scan(layer, x, stack):
    weights, _ = stack
    single = weights['attn_norm'].ndim == 1
    return layer(x, stack) if single else jax.lax.scan(layer, x, stack)


def _remat(layer, policy):
    if policy == 'none':
        return layer
    policies = jax.checkpoint_policies
    dots = policies.save_from_both_policies(
        policies.dots_with_no_batch_dims_saveable, policies.save_only_these_names('attention')
    )
    return jax.checkpoint(layer, policy={'dots': dots, 'full': None}[policy], prevent_cse=False)


def _block(cfg, w, x, cos, sin, rows, old, cache):
    """One layer on x [B,T,D]: returns x and its keys and values."""
    with jax.named_scope('attention'):
        h = layers.rms_norm(x, w['attn_norm'], cfg.norm_eps)
        if 'qkv' in w:
            q, k, v = jnp.split(layers.matmul(h, w['qkv'], cfg.dtype), (cfg.heads, cfg.heads + cfg.kv_heads), 2)
        else:
            q, k, v = (layers.matmul(h, w[n], cfg.dtype) for n in 'qkv')  # [B,T,heads,H]
        if cfg.qkv_bias:
            q, k, v = (a + w[f'{n}_bias'] for n, a in zip('qkv', (q, k, v), strict=True))
        if cfg.qk_norm:
            q, k = (layers.rms_norm(a, w[f'{n}_norm'], cfg.norm_eps) for n, a in zip('qk', (q, k), strict=True))
        q, k = layers.rotate(q, cos, sin), layers.rotate(k, cos, sin)
        k, v = k.astype(cfg.dtype), v.astype(cfg.dtype)
        if cache is None:
            out, kv = attend_rows(q, k, v, rows, cfg.dtype), heads_first(q, k, v)[1:]
        else:
            out, kv = _attend_cached(cfg, q, k, v, old, cache)
        x = x + layers.matmul(out, w['o'], cfg.dtype, contract=2)
    with jax.named_scope('mlp'):
        h = layers.rms_norm(x, w['mlp_norm'], cfg.norm_eps)
        if 'gate_up' in w:
            gate, up = jnp.split(layers.matmul(h, w['gate_up'], cfg.dtype), 2, -1)
        else:
            gate, up = (layers.matmul(h, w[n], cfg.dtype) for n in ('gate', 'up'))
        x = x + layers.matmul(jax.nn.silu(gate) * up, w['down'], cfg.dtype)  # SwiGLU (Shazeer, arXiv 2002.05202)
    return constrain(x, 'batch', 'length', None), kv


def _attend_cached(cfg, q, k, v, old, cache):
    """One new token a row: the question's prompt, shared by its G rows, merged with the row's own suffix."""
    (pk, pv), (sk, sv) = old
    q, k, v = heads_first(q, k, v)
    B, N, _, H = q.shape
    Q, _, P, _ = pv.shape
    at = cache.filled
    sk = jax.lax.dynamic_update_slice(sk, k, (0, 0, 0, at))
    sv = jax.lax.dynamic_update_slice(sv, v, (0, 0, at, 0))
    grouped = q.reshape(Q, B // Q, N, H).swapaxes(1, 2)  # the G samples are G queries of one row
    known = (jnp.arange(P) < cache.prefix_length[:, None])[:, None]
    out, total = attend(grouped, pk, pv, known, cfg.dtype)
    prompt = out.swapaxes(1, 2).reshape(B, N, 1, H), total.swapaxes(1, 2).reshape(B, N, 1)
    sizes = reads(sv.shape[2])
    which = (cache.filled >= jnp.array(sizes[:-1], jnp.int32)).sum()

    def read(n):
        return lambda: attend(q, sk[..., :n], sv[:, :, :n], (jnp.arange(n) <= cache.filled)[None, None], cfg.dtype)

    own = jax.lax.switch(which, [read(n) for n in sizes])
    return merge(prompt, own)[0].swapaxes(1, 2), (sk, sv)


def stacks(params: Params) -> int:
    """How many stacks a parameter tree has."""
    return sum(name.startswith('stack_') for name in params)


def unstack(params: Params) -> Params:
    """The same model with each layer a stack of its own, without the layer axis.

    An axis of size 1 would do, but for XLA: it then updates the cache twice, with and without that axis, and copies it each time.
    """
    rest = {k: v for k, v in params.items() if not k.startswith('stack_')}
    single = []
    for i in range(stacks(params)):
        stack = params[f'stack_{i}']
        depth = jax.tree.leaves(stack)[0].shape[0]
        single += [jax.tree.map(lambda a, j=j: a[j], stack) for j in range(depth)]
    return rest | {f'stack_{i}': s for i, s in enumerate(single)}


def for_few_rows(params: Params, dtype: str) -> Params:
    """An unstacked model made ready for decoding: each weight as its columns, in the type that products take, whole along its width
    (split over `tensor` alone), so that the loop gathers none. Where nothing is split over `tensor`, weights that read one input stand
    side by side ('qkv', 'gate_up').
    """

    def layer(w):
        names = 'q', 'k', 'v', 'o', 'gate', 'up', 'down'
        rest, products = {k: v for k, v in w.items() if k not in names}, {n: w[n] for n in names}
        if size('tensor') == 1:  # else the halves of a product would lie on other devices than their use
            q, k, v, o, gate, up, down = products.values()
            products = {
                'qkv': jnp.concatenate([q, k, v], 1),
                'o': o,
                'gate_up': jnp.concatenate([gate, up], 1),
                'down': down,
            }
        return rest | {n: columns(n, a) for n, a in products.items()}

    def columns(name, weight):
        made = layers.Columns.of(weight, dtype, 2 if name == 'o' else 1)
        split = 'hidden' if name in ('gate', 'up', 'gate_up', 'down') else 'heads'
        axes = (None, split) if name in ('o', 'down') else (split, None)
        return dataclasses.replace(made, columns=constrain(made.columns, *axes))

    return {k: layer(v) if k.startswith('stack_') else v for k, v in params.items()}


def unembedding(params: Params) -> jax.Array:
    """[V,D]; logits are hidden · unembeddingᵀ. ValueError for a model with a value head, which says no tokens."""
    if 'value' in params:
        raise ValueError('these parameters have a value head in place of the unembedding: score with r1jax.nn.heads')
    return params.get('unembed', params['embed'])


class Transformer(nn.Module):
    """Declares the parameters and their logical axes. Linen's part in r1jax ends here: `forward` is plain functions."""

    cfg: ModelConfig
    scalar: bool = False  # a value head in place of the unembedding: see `r1jax.nn.heads`

    @nn.compact
    def __call__(self) -> Params:
        c = self.cfg
        embed = nn.initializers.normal(0.02)
        params = {
            'embed': self.param('embed', _axes(embed, 'vocab', 'embed'), (c.vocab, c.width)),
            'stack_0': _Stack(c, c.layers, name='stack_0')(),
            'norm': self.param('norm', _axes(nn.initializers.ones, 'norm'), (c.width,)),
        }
        if self.scalar:
            params['value'] = self.param(
                'value', _axes(nn.initializers.normal((c.width + 1) ** -0.5), 'norm'), (c.width,)
            )
            params['value_bias'] = self.param('value_bias', _axes(nn.initializers.zeros), ())
        elif not c.tied:
            params['unembed'] = self.param('unembed', _axes(embed, 'vocab', 'embed'), (c.vocab, c.width))
        return params


class _Stack(nn.Module):
    cfg: ModelConfig
    depth: int

    @nn.compact
    def __call__(self) -> Params:
        c = self.cfg
        D, N, K, H, F = c.width, c.heads, c.kv_heads, c.head_dim, c.hidden
        one, zero = nn.initializers.ones, nn.initializers.zeros

        def normal(fan_in, residual=False):  # the two writes of a layer into the stream shrink with depth (GPT-2)
            return nn.initializers.normal(fan_in**-0.5 * ((2 * c.layers) ** -0.5 if residual else 1.0))

        table = {
            'attn_norm': (one, ('norm',), (D,)),
            'q': (normal(D), ('embed', 'heads', 'head_dim'), (D, N, H)),
            'k': (normal(D), ('embed', 'kv_heads', 'head_dim'), (D, K, H)),
            'v': (normal(D), ('embed', 'kv_heads', 'head_dim'), (D, K, H)),
            'o': (normal(N * H, True), ('heads', 'head_dim', 'embed'), (N, H, D)),
            'mlp_norm': (one, ('norm',), (D,)),
            'gate': (normal(D), ('embed', 'hidden'), (D, F)),
            'up': (normal(D), ('embed', 'hidden'), (D, F)),
            'down': (normal(F, True), ('hidden', 'embed'), (F, D)),
        }
        if c.qkv_bias:
            table |= {f'{n}_bias': (zero, (a, 'head_dim'), (h, H)) for n, a, h in _heads(N, K)}
        if c.qk_norm:
            table |= {f'{n}_norm': (one, ('head_dim',), (H,)) for n in 'qk'}
        return {n: self.param(n, _axes(i, 'layers', *a), (self.depth, *s)) for n, (i, a, s) in table.items()}


def _heads(N, K):
    return ('q', 'heads', N), ('k', 'kv_heads', K), ('v', 'kv_heads', K)


def _axes(init, *names):
    return nn.with_logical_partitioning(init, names)


def init_boxed(cfg: ModelConfig, key: jax.Array, scalar: bool = False) -> Params:
    """Random parameters, f32, each boxed with the names of its logical axes; `scalar`: with a value head, not an unembedding."""
    return Transformer(cfg, scalar).init(key)['params']


def unbox(tree: Any) -> Any:
    """The tree without the boxes."""
    return nn.meta.unbox(tree)


def logical_axes(boxed: Any) -> Any:
    """The tree of logical axis names (PartitionSpecs of names), empty for leaves without a box."""
    return nn.get_partition_spec(boxed)


def placed(boxed: Any, mesh: Mesh) -> Any:
    """NamedSharding of every leaf of a boxed tree (of shapes, or of arrays)."""
    axes = logical_axes(boxed)
    return jax.tree.map(lambda p: named(mesh, *p), axes, is_leaf=lambda p: isinstance(p, PartitionSpec))


def shardings(cfg: ModelConfig, mesh: Mesh, scalar: bool = False) -> Params:
    """NamedSharding of every parameter, found without allocating it; `scalar` as in `init_boxed`."""
    return placed(jax.eval_shape(lambda: init_boxed(cfg, jax.random.key(0), scalar)), mesh)
