"""The decoder: tokens in, hidden states out.

`forward` is a function of parameters; `Transformer` only declares them (the seam to flax: `describe` and `init_params` below).
Layers are a tuple of stacks, each a dict of weights with a leading layer axis, scanned; `unstack` makes each layer a stack without
that axis, which is not scanned: faster to decode, slower to compile.

A full pass takes packed rows (`segment`, `parent`: see `r1jax.types.Batch`) and returns every layer's keys and values, which is
what prefill needs and the compiler drops elsewhere. A decoding pass takes a cache (`Cached`) and one token a row.

Dense layers and layers with experts are different stacks: DeepSeek-V3 begins with three dense layers, stack_0, and goes on with 58
of experts, stack_1. What a layer computes is decided by the weights that it has ('router', 'gate', 'kv_a').

Axes: B rows, T tokens, D width, N query heads, K key/value heads, H head dim, F hidden, V vocabulary, L layers of a stack,
M layers with experts, E experts, k of a token.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, PartitionSpec

from r1jax.config import ModelConfig
from r1jax.nn import embedding, layers, mla, moe
from r1jax.nn.attention import Rows, attend, heads_first
from r1jax.nn.cache import Cached
from r1jax.nn.packed import attend_packed
from r1jax.sharding import HOST, constrain, dividing, named, platform, ways

Params = Any  # {'embed', 'stack_0', …, 'norm'[, 'unembed' | 'value', 'value_bias']}


def forward(
    cfg: ModelConfig,
    params: Params,
    tokens: jax.Array,
    position: jax.Array,
    segment: jax.Array,
    parent: jax.Array,
    cache: Cached | None = None,
    prompts: int = 0,
    block: int = 0,
    routes: jax.Array | None = None,
) -> tuple[jax.Array, Any, dict]:
    """Hidden states f32[B,T,D] after the final norm; logits are `hidden @ unembedding(params).T`.

    tokens, position, segment, parent: i32[B,T]; prompts and block: how rows are cut (`r1jax.types.Batch`). Without a cache
    the second result is each stack's keys [L,B,K,H,T] and values [L,B,K,T,H] (of latent attention: rotary keys and latents, with
    K = 1); with one (T = 1) it is the cache with this token appended.

    The third is `aux`, empty for dense models; with experts 'choices' i32[B,T,M,k], which each token passed, and 'load' f32[M,E], how
    many tokens each expert had, padding apart. routes i[B,T,M,k]: choices to take in place of the router's; −1 leaves it the choice.
    """
    with jax.named_scope('embed'):
        if cache is None:
            x = embedding.lookup(params['embed'], tokens)
        else:
            x = constrain(params['embed'][tokens].astype(jnp.float32), 'batch', None, None)
    cos, sin = layers.rotation(position, layers.frequencies(cfg), layers.amplitude(cfg))
    real = segment >= 0
    rows = Rows.create(segment, parent, prompts, block) if cache is None else None
    kept, routed, at = [], [], 0
    for i in range(stacks(params)):
        weights = params[f'stack_{i}']
        old = None if cache is None else cache.layer(i)
        replay = None
        if 'router' in weights:
            before, at = at, at + _depth(weights)
            replay = None if routes is None else jnp.moveaxis(routes[:, :, before:at], 2, 0)

        def layer(x, of_layer):
            weights, old, replay = of_layer
            return _block(cfg, weights, x, cos, sin, rows, old, cache, real, replay)

        x, (kv, aux) = _scan(_remat(layer, cfg.remat), x, (weights, old, replay))
        kept.append(kv)
        routed += [aux] if aux else []
    x = layers.rms_norm(x, params['norm'], cfg.norm_eps)
    aux = jax.tree.map(lambda *a: jnp.concatenate(a), *routed) if routed else {}
    if aux:
        aux['choices'] = jnp.moveaxis(aux['choices'], 0, 2)
    if cache is None:
        return x, tuple(kept), aux
    return x, cache.grown(tuple(kept)), aux


def _depth(weights):
    """Layers of a stack; 1 of an unstacked one."""
    return 1 if weights['attn_norm'].ndim == 1 else weights['attn_norm'].shape[0]


def _scan(layer, x, stack):
    weights, old, replay = stack
    if weights['attn_norm'].ndim > 1:
        leaves, tree = jax.tree.flatten(weights)
        stacked = [None if _by_bits(a) else a for a in leaves]

        def sliced(x, of_layer):
            i, each, *rest = of_layer
            each = [_slice(a, i) if b is None else b for a, b in zip(leaves, each, strict=True)]
            return layer(x, (jax.tree.unflatten(tree, each), *rest))

        return jax.lax.scan(sliced, x, (jnp.arange(_depth(weights)), stacked, old, replay))
    x, (kv, aux) = layer(x, (weights, old, None if replay is None else replay[0]))
    return x, (kv, jax.tree.map(lambda a: a[None], aux))


def _by_bits(stack):
    """Whether a layer is to be taken out of a stack as integers. XLA's CPU backend slices no bfloat16: it converts the whole stack to
    float32 before the loop, which takes twice the weights' memory and longer than the rest of a forward pass.
    """
    return stack.dtype == jnp.bfloat16 and platform() == 'cpu'


@jax.custom_vjp
def _slice(stack, i):
    """A layer of a stack of 16-bit numbers."""
    stack, i = jax.lax.optimization_barrier((stack, i))  # else it is converted to integers before the loop, as a whole
    bits = jax.lax.bitcast_convert_type(stack, jnp.uint16)
    return jax.lax.bitcast_convert_type(jax.lax.dynamic_index_in_dim(bits, i, 0, keepdims=False), stack.dtype)


def _slice_backward(kept, g):
    shape, i = kept
    return jnp.zeros(shape, g.dtype).at[i].set(g), None


_slice.defvjp(lambda stack, i: (_slice(stack, i), (stack.shape, i)), _slice_backward)


def _remat(layer, policy):
    if policy == 'none':
        return layer
    policies = jax.checkpoint_policies
    attention = policies.save_only_these_names('attention')
    policy = {
        'dots': policies.save_from_both_policies(policies.dots_with_no_batch_dims_saveable, attention),
        'attention': attention,
        'full': None,
        'offload': policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=['layer'],
            offload_src='device',
            offload_dst=HOST,
        ),
    }[policy]
    return jax.checkpoint(layer, policy=policy, prevent_cse=False)


def _block(cfg, w, x, cos, sin, rows, old, cache, real, replay):
    """One layer on x [B,T,D]: returns x and (its keys and values, its part of aux)."""
    x = checkpoint_name(x, 'layer')  # for rematerialisation policies
    with jax.named_scope('attention'):
        h = layers.rms_norm(x, w['attn_norm'], cfg.norm_eps)
        attention = mla.attention if cfg.mla else _attention
        out, kv = attention(cfg, w, h, cos, sin, rows, old, cache)
        x = x + layers.matmul(out, w['o'], cfg.dtype, contract=2)
    with jax.named_scope('mlp'):
        h, aux = layers.rms_norm(x, w['mlp_norm'], cfg.norm_eps), {}
        if 'gate' in w or 'gate_up' in w:  # a dense layer's, or the shared experts
            x = x + _mlp(cfg, w, h)
        if 'router' in w:
            out, choice, load = moe.experts(cfg, w, h, real, replay, whole=cache is not None)
            x, aux = x + out, {'choices': choice, 'load': load}
    return constrain(x, 'batch', dividing('length', x.shape[1]), None), (kv, aux)


def _mlp(cfg, w, h):
    if 'gate_up' in w:
        gate, up = jnp.split(layers.matmul(h, w['gate_up'], cfg.dtype), 2, -1)
    else:
        gate, up = (layers.matmul(h, w[n], cfg.dtype) for n in ('gate', 'up'))
    return layers.matmul(jax.nn.silu(gate) * up, w['down'], cfg.dtype)  # SwiGLU (Shazeer, arXiv 2002.05202)


def _attention(cfg, w, h, cos, sin, rows, old, cache):
    """Grouped-query attention on h [B,T,D]: f32[B,T,N,H], and keys and values as `forward` returns them."""
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
        return attend_packed(cfg, q, k, v, rows), heads_first(q, k, v)[1:]
    q, k, v = heads_first(q, k, v)
    return cache.attend(functools.partial(attend, dtype=cfg.dtype), q, k, v, old)


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
    (split over heads and hidden entries alone), so that the loop gathers none. Where these are not split, weights that read one input stand
    side by side ('qkv', 'gate_up').
    """

    def layer(w):
        together = (
            ways('heads', 'kv_heads', 'hidden') == 1
        )  # else the halves of a product would lie on other devices than their use
        out = {n: w[n] for n in w if n.endswith(('_norm', '_bias'))}
        # every device scores all experts
        out |= {n: constrain(w[n], *(None,) * w[n].ndim) for n in ('router', 'router_bias') if n in w}
        out |= {n: moe.for_few_rows(n, w[n], dtype) for n in moe.NAMES if n in w}
        products = {}
        if 'kv_b' in w:
            out |= mla.for_few_rows(w, dtype)
        elif together:
            products |= {'qkv': layers.side_by_side(*(w[n] for n in 'qkv')), 'o': w['o']}
        else:
            products |= {n: w[n] for n in 'qkvo'}
        if 'gate' in w and together:
            products |= {'gate_up': layers.side_by_side(w['gate'], w['up']), 'down': w['down']}
        elif 'gate' in w:
            products |= {n: w[n] for n in ('gate', 'up', 'down')}
        return out | {n: columns(n, a) for n, a in products.items()}

    def columns(name, weight):
        split = 'hidden' if name in ('gate', 'up', 'gate_up', 'down') else 'heads'
        axes = (None, split) if name in ('o', 'down') else (split, None)
        return layers.Columns.split(weight, axes, dtype, 2 if name == 'o' else 1)

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
        dense = c.layers - c.expert_layers
        parts = [(n, routed) for n, routed in ((dense, False), (c.expert_layers, True)) if n]
        params = {
            'embed': self.param('embed', _axes(embed, 'vocab', 'embed'), (c.vocab, c.width)),
            **{f'stack_{i}': _Stack(c, *part, name=f'stack_{i}')() for i, part in enumerate(parts)},
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
    routed: bool  # experts in place of the SwiGLU

    @nn.compact
    def __call__(self) -> Params:
        c = self.cfg
        D, one = c.width, nn.initializers.ones
        hidden = c.moe.shared * c.moe.hidden if self.routed else c.hidden
        table = {  # in an order that stays: it decides what each draws
            'attn_norm': (one, ('norm',), (D,)),
            **(_latent(c) if c.mla else _grouped_query(c)),
            'mlp_norm': (one, ('norm',), (D,)),
            **(_swiglu(c, hidden) if hidden else {}),
            **(_routed(c) if self.routed else {}),
            **_query_key_value_extras(c),
        }
        return {n: self.param(n, _axes(i, 'layers', *a), (self.depth, *s)) for n, (i, a, s) in table.items()}


def _normal(fan_in, residual_of=0):
    """N(0, 1/fan_in); the two writes of a layer into the stream of `residual_of` layers shrink with depth (GPT-2)."""
    return nn.initializers.normal(fan_in**-0.5 * ((2 * residual_of) ** -0.5 if residual_of else 1.0))


# Tables of a layer's parameters: name -> initialiser, logical axes, shape


def _grouped_query(c: ModelConfig):
    D, N, H = c.width, c.heads, c.head_dim
    table = {n: (_normal(D), ('embed', axis, 'head_dim'), (D, h, H)) for n, axis, h in _heads(c)}
    return table | {'o': (_normal(N * H, c.layers), ('heads', 'head_dim', 'embed'), (N, H, D))}


def _query_key_value_extras(c: ModelConfig):
    H = c.head_dim
    table: dict[str, tuple] = {}
    if c.qkv_bias:
        table |= {f'{n}_bias': (nn.initializers.zeros, (axis, 'head_dim'), (h, H)) for n, axis, h in _heads(c)}
    if c.qk_norm:
        table |= {f'{n}_norm': (nn.initializers.ones, ('head_dim',), (H,)) for n in 'qk'}
    return table


def _heads(c: ModelConfig):
    return ('q', 'heads', c.heads), ('k', 'kv_heads', c.kv_heads), ('v', 'kv_heads', c.kv_heads)


def _latent(c: ModelConfig):
    D, N, H, m = c.width, c.heads, c.head_dim, c.mla
    one, C, Q, V = nn.initializers.ones, m.kv_rank, m.q_rank, m.value
    table = {
        'kv_a': (_normal(D), ('embed', 'latent'), (D, C + m.rotary)),
        'kv_norm': (one, ('norm',), (C,)),
        'kv_b': (_normal(C), ('latent', 'heads', 'head_dim'), (C, N, H - m.rotary + V)),
        'o': (_normal(N * V, c.layers), ('heads', 'head_dim', 'embed'), (N, V, D)),
    }
    if not Q:
        return table | {'q': (_normal(D), ('embed', 'heads', 'head_dim'), (D, N, H))}
    return table | {
        'q_a': (_normal(D), ('embed', 'latent'), (D, Q)),
        'q_a_norm': (one, ('norm',), (Q,)),
        'q_b': (_normal(Q), ('latent', 'heads', 'head_dim'), (Q, N, H)),
    }


def _swiglu(c: ModelConfig, hidden: int):
    D, F = c.width, hidden
    return {
        'gate': (_normal(D), ('embed', 'hidden'), (D, F)),
        'up': (_normal(D), ('embed', 'hidden'), (D, F)),
        'down': (_normal(F, c.layers), ('hidden', 'embed'), (F, D)),
    }


def _routed(c: ModelConfig):
    D, E, F = c.width, c.moe.experts, c.moe.hidden
    table = {
        'router': (_normal(D), ('embed', 'expert'), (D, E)),
        'expert_gate': (_normal(D), ('expert', 'embed', 'hidden'), (E, D, F)),
        'expert_up': (_normal(D), ('expert', 'embed', 'hidden'), (E, D, F)),
        'expert_down': (_normal(F, c.layers), ('expert', 'hidden', 'embed'), (E, F, D)),
    }
    if c.moe.router_bias != 'none':
        table['router_bias'] = nn.initializers.zeros, ('expert',), (E,)
    return table


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
