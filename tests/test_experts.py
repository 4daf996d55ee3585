"""DeepSeek-V3 and Qwen3 MoE: transformers' logits and choices from golden files, cached decoding, routing, balance and replay."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from tiny import full_logits, packed_logprobs, params_of, random_items, row_logprobs

from r1jax import weights
from r1jax.checks import validate
from r1jax.config import MLA, MeshConfig, ModelConfig, MoE, YarnScaling
from r1jax.nn import grouped, layers, moe
from r1jax.nn.attention import Rows, attend, attend_rows, heads_first, visible
from r1jax.nn.cache import by_layer, with_suffix
from r1jax.nn.transformer import for_few_rows, forward, init_boxed, logical_axes, shardings, unembedding, unstack
from r1jax.presets_moe import PRESETS
from r1jax.sharding import make_mesh
from r1jax.weights import deepseek, export, families

GOLDEN = pathlib.Path(__file__).with_name('golden')
FAMILIES = 'deepseek_v3', 'qwen3_moe'

EXPERTS = MoE(
    8, 3, 20, score='sigmoid', groups=4, top_groups=2, scale=2.5, shared=2, dense_layers=1, router_bias='frozen'
)
LATENT = ModelConfig(
    vocab=62, layers=2, width=32, heads=4, kv_heads=4, head_dim=16, hidden=48, context=96,
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
    cfg = families.of(meta).config(meta)
    tensors = {k.removeprefix('w/'): v for k, v in z.items() if k.startswith('w/')}
    return Golden(
        cfg, params_from(deepseek.table(cfg), tensors), *(z[n] for n in ('tokens', 'length', 'logits', 'experts'))
    )


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
    _, prefix, _ = jax.jit(forward, static_argnums=0)(cfg, params, prompt, place, segment, jnp.full((Q, P), -1))
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


@pytest.mark.parametrize('change', [{}, pytest.param({'q_rank': 0}, marks=pytest.mark.slow)], ids=str)
def test_the_absorbed_form_is_the_plain_form(change):
    """Cached decoding of latent attention against a full pass, without queries of their own rank too; in the dense layer and behind."""
    cfg = dataclasses.replace(LATENT, mla=dataclasses.replace(LATENT.mla, **change))
    params, tokens = params_of(cfg), np.random.default_rng(1).integers(0, cfg.vocab, (2, 20))
    logits, _, _ = decoded(cfg, params, tokens, [9, 4], 8)
    want = full_logits(cfg, params, tokens)
    for b, n in enumerate((9, 4)):
        np.testing.assert_allclose(logits[b], want[b, n : n + 8], atol=1e-4)


def test_packed_and_shared_prompts_are_as_plain_rows():
    params, items = params_of(LATENT, scale=0.15), random_items(np.random.default_rng(0), 2, 3)
    want = [row_logprobs(LATENT, params, item.prompt, item.response) for item in items]
    for got, logp in zip(packed_logprobs(LATENT, params, items, 48, 2, 8, 20), want, strict=True):
        np.testing.assert_allclose(got, logp, atol=1e-4)


# --- the cache


def test_the_cache_holds_the_latent_and_the_rotary_key():
    for cfg in (LATENT, dataclasses.replace(LATENT, dtype='bfloat16')):
        prompt = jnp.zeros((2, 8), jnp.int32)
        _, prefix, _ = jax.eval_shape(lambda p, t, cfg=cfg: forward(cfg, p, t, t, t, t - 1), params_of(cfg), prompt)
        held = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(prefix)) / prompt.size
        assert held == (cfg.mla.kv_rank + cfg.mla.rotary) * cfg.layers * {'float32': 4, 'bfloat16': 2}[cfg.dtype]
        cache = jax.eval_shape(lambda p: with_suffix(by_layer(p), jnp.ones(2, jnp.int32), 3, 16), prefix)
        assert sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(cache.suffix)) == held * 2 * 3 * 16


def test_decoding_does_not_pay_for_an_expanded_cache():
    """Of a step over a long prompt, from the compiled program: operations a key and head are 2·(2C + R), those of latents, whatever a
    head's keys and values are; bytes a key are the cache's, whatever the heads.
    """

    def cost(prompt, heads, plain=8, value=10):
        m = dataclasses.replace(LATENT.mla, value=value)
        cfg = dataclasses.replace(
            LATENT, layers=1, heads=heads, kv_heads=heads, head_dim=plain + m.rotary, mla=m, moe=None
        )
        shapes = [(1, 2, 1, m.rotary, prompt), (1, 2, 1, prompt, m.kv_rank)]
        prefix = tuple(tuple(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes) for _ in range(1))
        params = jax.eval_shape(lambda: params_of(cfg))

        def step(params, prefix, tokens):
            cache = with_suffix(by_layer(prefix), jnp.full(2, prompt), 2, 64)
            single = for_few_rows(unstack(params), cfg.dtype)
            return forward(cfg, single, tokens, tokens, tokens, tokens - 1, cache)[0]

        program = jax.jit(step).lower(params, prefix, jax.ShapeDtypeStruct((4, 1), jnp.int32)).compile()
        return program.cost_analysis()['flops']

    def a_key(heads, **sizes):
        return (cost(2048, heads, **sizes) - cost(1024, heads, **sizes)) / 1024

    products = 2 * 4 * (2 * LATENT.mla.kv_rank + LATENT.mla.rotary)  # of 4 rows; a head
    assert a_key(4) < 1.5 * 4 * products  # softmax and masks beside them
    assert abs(a_key(4, plain=64, value=80) - a_key(4)) < 0.01 * a_key(4)


# --- routing


def chosen(cfg, **w):
    h = jnp.eye(cfg.experts)
    return jax.tree.map(np.asarray, moe.route(cfg, h, **w))


def test_the_router_by_hand():
    cfg = MoE(6, 2, 8, score='sigmoid', groups=3, top_groups=2, scale=2.0, router_bias='frozen')
    # Sigmoids are 0.9, 0.1 | 0.6, 0.55 | 0.5, 0.5: the first group has the best expert, but the two others the best two together
    score = np.array([0.9, 0.1, 0.6, 0.55, 0.55, 0.51])
    router = np.tile(np.log(score / (1 - score)), (6, 1)).astype(np.float32)
    choice, weight = chosen(cfg, router=router, bias=None)
    assert choice[0].tolist() == [2, 3]
    np.testing.assert_allclose(weight[0], 2 * np.array([0.6, 0.55]) / 1.15, rtol=1e-5)
    bias = np.array([0, 0, 0, -0.4, 0, 0], np.float32)  # counts in choosing groups and experts, and not in weights
    choice, weight = chosen(cfg, router=router, bias=bias)
    assert sorted(choice[0].tolist()) == [0, 4] and choice[0, 0] == 0
    np.testing.assert_allclose(weight[0], 2 * np.array([0.9, 0.55]) / 1.45, rtol=1e-5)
    free, _ = chosen(dataclasses.replace(cfg, groups=1, top_groups=1), router=router, bias=None)
    assert free[0].tolist() == [0, 2]
    _, raw = chosen(dataclasses.replace(cfg, normalise=False), router=router, bias=None)
    np.testing.assert_allclose(raw[0], [1.2, 1.1], rtol=1e-5)
    _, soft = chosen(dataclasses.replace(cfg, score='softmax', scale=1.0, normalise=False), router=router, bias=None)
    assert soft[0].sum() < 1 and soft[0, 0] > soft[0, 1]
    replay = np.tile([[5, -1]], (6, 1))  # the first is given, the second the router's
    choice, weight = chosen(cfg, router=router, bias=None, replay=replay)
    assert choice[0].tolist() == [5, 3]
    np.testing.assert_allclose(weight[0], 2 * np.array([0.51, 0.55]) / 1.06, rtol=1e-5)


@pytest.mark.parametrize('sizes', [(5, 0, 40, 1, 9), (0, 0, 0, 64, 0), (0,) * 5, (13, 12, 13, 13, 13)], ids=str)
def test_grouped_products_are_the_platforms_and_a_loops(sizes):
    """Rows behind the groups, empty groups and groups of many blocks; the gradient, too, against a loop over groups."""
    rng = np.random.default_rng(0)
    x, w, g = (jnp.array(rng.normal(size=s), jnp.float32) for s in ((64, 6), (5, 6, 7), (64, 7)))
    ends = np.cumsum(sizes)

    def loop(x, w):
        parts = [x[e - n : e] @ w[i] for i, (n, e) in enumerate(zip(sizes, ends, strict=True))]
        return jnp.concatenate([*parts, jnp.zeros((64 - ends[-1], 7))])

    size = jnp.array(sizes, jnp.int32)
    want, back = jax.vjp(loop, x, w)
    got, ours = jax.vjp(lambda x, w: grouped.grouped(x, w, size, 'float32'), x, w)
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_allclose(grouped.product_by_kernel(x, w, size), want, atol=1e-5)
    np.testing.assert_allclose(grouped.outer_by_kernel(x, g, size), back(g)[1], atol=1e-5)
    np.testing.assert_allclose(grouped.outer_by_megablox(x, g, size, interpret=True), back(g)[1], atol=1e-5)
    for a, b in zip(ours(g), back(g), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_no_token_is_dropped_whatever_the_loads():
    cfg = dataclasses.replace(LATENT, moe=dataclasses.replace(EXPERTS, groups=1, top_groups=1))
    params = params_of(cfg)
    params['stack_1']['router_bias'] += jnp.array([9.0, 9, 9, 0, 0, 0, 0, 0])  # all tokens to the first three
    tokens = jnp.arange(40).reshape(2, 20) % cfg.vocab
    place = jnp.broadcast_to(jnp.arange(20), (2, 20))
    _, _, aux = forward(cfg, params, tokens, place, jnp.where(place < 15, 0, -1), jnp.full((2, 20), -1))
    np.testing.assert_array_equal(aux['load'], [[30, 30, 30, 0, 0, 0, 0, 0]])
    assert moe.overload(aux['load']) == pytest.approx(8 / 3 - 1)


def test_replaying_a_passs_own_choices_changes_nothing_and_others_do():
    params, tokens = params_of(LATENT), jnp.arange(24).reshape(2, 12) % LATENT.vocab
    zero = jnp.zeros((2, 12), jnp.int32)
    run = jax.jit(lambda routes: forward(LATENT, params, tokens, zero + jnp.arange(12), zero, zero - 1, routes=routes))
    none = jnp.full((2, 12, 1, 3), -1, jnp.int16)
    own, _, aux = run(none)
    again, _, _ = run(aux['choices'].astype(jnp.int16))
    np.testing.assert_array_equal(own, again)
    other, _, given = run(none.at[:, 5, 0, 0].set(((aux['choices'][:, 5, 0, 0] + 1) % 8).astype(jnp.int16)))
    assert jnp.abs(other - own).max() > 1e-3
    np.testing.assert_array_equal(other[:, :5], own[:, :5])
    assert (given['choices'][:, 5, 0, 0] != aux['choices'][:, 5, 0, 0]).all()


# --- configurations


def test_a_folder_of_experts_is_read_as_it_was_written(golden, tmp_path):
    """Through config.json, a tensor an expert, and back; straight to the shards of a mesh, too."""
    export.write(str(tmp_path / 'folder'), export.Held(golden.cfg, golden.params), dtype=None)
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2))
    for where in (None, shardings(golden.cfg, mesh)):
        got = weights.load(str(tmp_path / 'folder'), where)
        assert got.config == golden.cfg
        jax.tree.map(np.testing.assert_array_equal, got.params, golden.params)


def test_tables_have_every_leaf_and_skip_the_prediction_module_by_name():
    for cfg in (LATENT, PRESETS['DeepSeek-R1'], PRESETS['Qwen3-235B-A22B']):
        table = deepseek.table(cfg)
        shapes = jax.eval_shape(lambda cfg=cfg: init_boxed(cfg, jax.random.key(0)))
        leaves = {
            tuple(k.key for k in path if hasattr(k, 'key')): a
            for path, a in jax.tree_util.tree_leaves_with_path(shapes)
        }
        assert leaves.keys() == table.leaves().keys()
        for path, pieces in table.leaves().items():
            depth = () if pieces[0].layer is None else (len(pieces),)
            assert leaves[path].shape == (*depth, *pieces[0].tensor.leaf_shape(table.sizes)), path
    found = deepseek.table(LATENT).expected()
    extra = {'model.layers.2.eh_proj.weight': (32, 64), 'model.layers.2.mlp.experts.7.up_proj.weight': (20, 32)}
    assert deepseek.table(LATENT).account(found | extra) == ['the multi-token-prediction module: 2 tensors']
    with pytest.raises(ValueError, match=r'has unknown tensor model\.layers\.1\.eh_proj\.weight'):
        deepseek.table(LATENT).account(found | {'model.layers.1.eh_proj.weight': (32, 64)})


def test_every_option_of_yarn_changes_positions():
    scaled = YarnScaling(40.0, original=640)
    changes = {'factor': 4.0}, {'original': 64}, {'fast': 4.0}, {'slow': 0.01}, {'mscale': 0.5}, {'mscale_all_dim': 1.0}
    seen = []
    for change in ({}, *changes):
        cfg = dataclasses.replace(LATENT, head_dim=32, mla=None, rope_scaling=dataclasses.replace(scaled, **change))
        seen.append(np.append(layers.frequencies(cfg) * layers.amplitude(cfg), layers.amplitude(cfg)))
    assert all(np.abs(a - b).max() > 1e-3 for i, a in enumerate(seen) for b in seen[:i])


def test_bad_sizes_are_refused():
    for change, message in (
        ({'groups': 3}, 'experts=8 must be a multiple of groups=3'),
        ({'groups': 8}, 'a group needs two'),
        ({'top_groups': 5}, 'top_groups=5 must be in 1 to groups=4'),
        ({'top_groups': 1}, 'active=3 experts a token, but top_groups=1 hold only 2'),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(EXPERTS, **change)
    for change, message in (
        ({'kv_heads': 2}, 'kv_heads=heads'),
        ({'mla': MLA(12, 16, 10)}, r'mla\.rotary=16 must be even and less than head_dim=16'),
        ({'moe': dataclasses.replace(EXPERTS, dense_layers=2)}, r'moe\.dense_layers=2 must leave some of layers=2'),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(LATENT, **change)
    for cfg in PRESETS.values():
        validate(dataclasses.replace(toy.recipe(), model=cfg), devices=1)
    with pytest.raises(ValueError, match=r'model\.moe\.bias_speed=-1\.0 must be in \[0, inf\)'):
        bad = dataclasses.replace(LATENT, moe=dataclasses.replace(EXPERTS, bias_speed=-1.0))
        validate(dataclasses.replace(toy.recipe(), model=bad), devices=1)


def test_every_parameter_names_its_axes():
    boxed = jax.eval_shape(lambda: init_boxed(LATENT, jax.random.key(0)))
    axes = jax.tree.leaves(logical_axes(boxed), is_leaf=lambda p: isinstance(p, jax.sharding.PartitionSpec))
    shapes = jax.tree.leaves(boxed)
    assert len(axes) == len(shapes) and all(len(a) == s.ndim for a, s in zip(axes, shapes, strict=True))


@pytest.mark.slow
def test_attention_with_values_narrower_than_keys_has_its_gradient():
    rng = np.random.default_rng(0)
    segment = jnp.array(np.r_[[0] * 4, np.repeat([1, 2], 8)][None])
    parent = jnp.where(segment > 0, 0, -1)
    q, k, v, g = (jnp.array(rng.normal(size=(1, 20, 2, n)), jnp.float32) for n in (6, 6, 4, 4))

    def rows(q, k, v):
        return jnp.vdot(g, attend_rows(q, k, v, Rows.create(segment, parent, 4, 8), 'float32'))

    def square(q, k, v):
        return jnp.vdot(g, attend(*heads_first(q, k, v), visible(segment, parent), 'float32')[0].swapaxes(1, 2))

    for x, y in zip(jax.grad(rows, (0, 1, 2))(q, k, v), jax.grad(square, (0, 1, 2))(q, k, v), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


def test_yarn_by_hand():
    cfg = YarnScaling(4.0, original=64, fast=8.0, slow=1.0, mscale=2.0, mscale_all_dim=1.0)
    plain = np.asarray(layers.frequencies(dataclasses.replace(LATENT, head_dim=32, mla=None)))
    got = np.asarray(layers.frequencies(dataclasses.replace(LATENT, head_dim=32, mla=None, rope_scaling=cfg)))
    # entries that turn 8 and 1 times in 64 tokens: 16·ln(64/2πt)/ln 1e4 = 0.42 and 4.03, so the ramp is from 0 to 5
    share = np.clip(np.arange(16) / 5, 0, 1)
    np.testing.assert_allclose(got, plain * (1 - share) + plain / 4 * share, rtol=1e-6)
    assert layers.amplitude(dataclasses.replace(LATENT, rope_scaling=cfg)) == pytest.approx(1.2772589 / 1.1386294)
