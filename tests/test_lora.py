"""Adapters: the base as it was, gradients of a matrix's two factors, merged weights, and stages that end with the same bits."""

import dataclasses
import functools
import importlib.util
import json
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smallest
from test_train import Killed, final_params, interrupt, timeless
from tiny import MODEL, full_logits, params_of, random_items

from r1jax import sharding
from r1jax.checks import validate
from r1jax.cli import main
from r1jax.config import GRPO, LoRA, MeshConfig, ModelConfig, OptimConfig
from r1jax.nn import lora
from r1jax.nn.layers import Int8, matmul
from r1jax.nn.transformer import unbox
from r1jax.rl.batch import pack
from r1jax.sample.sampler import Decode, Prompts, sample, sample_keys
from r1jax.settings import BadInput, override
from r1jax.train import checkpoint, optim, restore, stage, start
from r1jax.train import step as compiled
from r1jax.train.log import read
from r1jax.weights import peft

CFG = LoRA(rank=4, alpha=8.0)
TARGETS = CFG.targets
QWEN = ModelConfig(151936, 28, 1536, 12, 2, 128, 8960, 4096, qkv_bias=True)  # Qwen2.5-1.5B
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


# --- what is trained


@pytest.mark.parametrize(('rank', 'targets'), [(8, TARGETS), (32, ('q', 'v')), (16, ('o', 'down'))], ids=str)
def test_bytes_of_adapters_and_optimizer_are_as_computed(rank, targets):
    """r·(in + out) parameters a matrix, and Adam's two moments of each; of a 1.5B model, never allocated."""
    D, F, N, K = QWEN.width, QWEN.hidden, QWEN.heads * QWEN.head_dim, QWEN.kv_heads * QWEN.head_dim
    sides = {'q': (D, N), 'k': (D, K), 'v': (D, K), 'o': (N, D), 'gate': (D, F), 'up': (D, F), 'down': (F, D)}
    expected = QWEN.layers * sum(rank * sum(sides[t]) for t in targets)
    mesh = sharding.make_mesh(MeshConfig())
    cfg = LoRA(rank, 16.0, targets)
    state = compiled.described(QWEN, optim.transform(OptimConfig(1e-4, weight_decay=0.1)), mesh, cfg)
    assert sum(math.prod(a.shape) for a in jax.tree.leaves(state.params)) == expected

    def size(tree):
        return sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(tree))

    assert size(state.params) == 4 * expected
    assert size(state.opt_state) == 8 * expected + 4  # and Adam's count of steps
    if rank == 8:
        assert expected == 9_232_384


def test_new_adapters_are_the_base_and_a_is_of_unit_size():
    new = unbox(lora.init_boxed(MODEL, dataclasses.replace(CFG, rank=16), jax.random.key(1)))
    want = full_logits(MODEL, base(), ROWS)
    np.testing.assert_array_equal(logits(new), want)
    np.testing.assert_array_equal(logits(None), want)
    for targets in new.values():
        for name, pair in targets.items():
            size = 32 if name != 'down' else 48
            assert float(pair['a'].std()) * size**0.5 == pytest.approx(1, abs=0.1), name
            assert not pair['b'].any()
    a = [pair['a'] for pair in new['stack_0'].values()]
    assert not np.array_equal(a[0], a[1])  # q and k: a key each


@pytest.mark.slow
def test_every_option_changes_the_logits():
    plain = logits(adapters())
    assert distance(logits(adapters(), dataclasses.replace(CFG, alpha=4.0)), plain) > 1e-3
    for kind in ('bfloat16', 'int8'):
        assert 1e-5 < distance(logits(adapters(), dataclasses.replace(CFG, base=kind)), plain) < 0.1, kind
    for target in TARGETS:
        one = dataclasses.replace(CFG, targets=(target,))
        changed = logits({'stack_0': {target: adapters()['stack_0'][target]}}, one)
        assert distance(changed, logits(None)) > 1e-3, target


@pytest.mark.parametrize('kind', ['float32', 'bfloat16', 'int8'])
def test_merged_weights_give_the_same_logits(kind):
    cfg = dataclasses.replace(CFG, base=kind)
    whole = lora.attach(lora.frozen(base(), cfg), adapters(), cfg)
    merged = compiled.merge(lora.frozen(jax.tree.map(jnp.copy, base()), cfg), adapters(), cfg)
    assert jax.tree.structure(merged) == jax.tree.structure(base())
    assert all(a.dtype == jnp.float32 for a in jax.tree.leaves(merged))
    assert distance(full_logits(MODEL, merged, ROWS), full_logits(MODEL, whole, ROWS)) < 1e-5
    q, pair = merged['stack_0']['q'][1], adapters()['stack_0']['q']
    added = 2.0 * np.einsum('dr,rnh->dnh', pair['a'][1], pair['b'][1])
    want = np.asarray(lora.merged(lora.frozen(base(), cfg))['stack_0']['q'][1], np.float32) + added
    np.testing.assert_allclose(q, want, atol=1e-6)


@pytest.mark.parametrize('contract', [1, 2])
def test_int8_rounds_each_column_by_its_own_scale(contract):
    """Symmetric, so that no entry is further from its weight than half a step, the column's largest / 127 / 2."""
    rng = np.random.default_rng(0)
    w = jnp.array(rng.normal(size=(3, 6, 4, 5)) * np.exp(rng.normal(size=5)), jnp.float32).at[..., 0].set(0)
    held = Int8.of(w, contract, lead=1)
    inside = tuple(range(1, 1 + contract))
    step = jnp.abs(w).max(inside, keepdims=True) / 127
    assert held.values.dtype == jnp.int8 and held.scale.size == w.size // math.prod(w.shape[1 : 1 + contract])
    assert (jnp.abs(held.plain() - w) <= step / 2 + 1e-7).all() and not held.plain()[..., 0].any()
    x = jnp.array(rng.normal(size=(2, *w.shape[1 : 1 + contract])), jnp.float32)
    one = jax.tree.map(lambda a: a[1], held)
    got, want = matmul(x, one, 'float32', contract), jnp.tensordot(x, held.plain()[1], contract)
    np.testing.assert_allclose(got, want, atol=1e-5)


# --- sampling


@pytest.mark.parametrize(
    ('mesh', 'kind'),
    [
        ((1, 1, 1), 'float32'),
        pytest.param((1, 1, 1), 'int8', marks=pytest.mark.slow),
        pytest.param((2, 2, 2), 'float32', marks=pytest.mark.slow),
        pytest.param((2, 2, 2), 'int8', marks=pytest.mark.slow),
    ],
)
def test_sampling_is_that_of_the_merged_weights(mesh, kind):
    cfg = dataclasses.replace(CFG, base=kind)
    whole = lora.attach(lora.frozen(base(), cfg), adapters(), cfg)
    rng = np.random.default_rng(0)
    prompts = Prompts(rng.integers(3, 60, (4, 6)).astype(np.int32), np.array([6, 3, 5, 1]), np.arange(4))
    keys = sample_keys(0, 0, jnp.repeat(jnp.arange(4), 4), jnp.tile(jnp.arange(4), 4))
    decode = Decode(MODEL, 8, (1,), 0)
    with jax.set_mesh(sharding.make_mesh(MeshConfig(*mesh))):
        a, b, off = (sample(p, prompts, keys, jnp.full(16, 8), decode) for p in (whole, lora.merged(whole), base()))
    np.testing.assert_array_equal(a.tokens, b.tokens)
    np.testing.assert_allclose(a.logp, b.logp, atol=1e-5)
    assert np.any(a.tokens != off.tokens)
    want = jax.nn.log_softmax(full_logits(MODEL, whole, a.tokens))  # the pass that the update makes
    want = np.take_along_axis(np.asarray(want)[:, :-1], np.asarray(a.tokens)[:, 1:, None], 2)[..., 0]
    on = np.asarray(a.sampled)[:, 1:]
    np.testing.assert_allclose(np.asarray(a.logp)[:, 1:][on], want[on], atol=1e-4)


# --- gradients


@functools.partial(jax.jit, static_argnums=(0, 1))
def _gradients(model, cfg, base, params, batch, count):
    whole = cfg and functools.partial(lora.attach, base, cfg=cfg)
    return compiled.gradients(model, GRPO(beta=0.05), params, batch, count, 1.0, False, whole)


def gradients(cfg, frozen, params, mesh=(1, 1, 1), model=MODEL):
    mesh = sharding.make_mesh(MeshConfig(*mesh))
    items = random_items(np.random.default_rng(5), 6, 4)
    batch, count, _ = pack(items, 64, 8, len(items))
    with jax.set_mesh(mesh):
        params = jax.device_put(params, compiled.weight_shardings(model, mesh, cfg))
        frozen = frozen and jax.device_put(frozen, compiled.weight_shardings(model, mesh))
        return jax.device_get(_gradients(model, cfg, frozen, params, compiled.place(batch, mesh), np.int32(count)))


@pytest.fixture(scope='module')
def by_adapters():
    return gradients(CFG, base(), adapters())


def test_the_gradient_is_that_of_the_factors_and_of_nothing_else(by_adapters):
    """With W' = W + s·A·B: dA = s·dW'·Bᵀ and dB = s·Aᵀ·dW', where dW' is the gradient of the merged weights."""
    value, _, _, got = by_adapters
    assert jax.tree.structure(got) == jax.tree.structure(adapters())
    plain_value, _, _, want = gradients(None, None, lora.merged(lora.attach(base(), adapters(), CFG)))
    assert value == pytest.approx(plain_value, rel=1e-4)
    for target, pair in adapters()['stack_0'].items():
        a, b = np.asarray(pair['a']), np.asarray(pair['b'])
        L, r = a.shape[0], a.shape[-1]
        a, b = a.reshape(L, -1, r), b.reshape(L, r, -1)
        dw = want['stack_0'][target].reshape(L, a.shape[1], b.shape[2])
        by_hand = {'a': 2.0 * np.einsum('lio,lro->lir', dw, b), 'b': 2.0 * np.einsum('lir,lio->lro', a, dw)}
        for n in 'ab':
            assert distance(got['stack_0'][target][n].reshape(by_hand[n].shape), by_hand[n]) < 1e-4, (target, n)


@pytest.mark.parametrize(
    'mesh', [*(pytest.param(m, marks=pytest.mark.slow) for m in ((8, 1, 1), (1, 8, 1))), (2, 2, 2)]
)
def test_any_mesh_gives_the_same_gradient(by_adapters, mesh):
    other = gradients(CFG, base(), adapters(), mesh)
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(other[3]), jax.tree.leaves(by_adapters[3]), strict=True
    ):
        assert distance(x, y) < 1e-4, path


@pytest.mark.slow
def test_rematerialisation_keeps_the_gradient(by_adapters):
    for remat in ('dots', 'full'):
        other = gradients(CFG, base(), adapters(), model=dataclasses.replace(MODEL, remat=remat))
        for x, y in zip(jax.tree.leaves(other[3]), jax.tree.leaves(by_adapters[3]), strict=True):
            assert distance(x, y) < 1e-5


def test_adapters_are_split_like_the_weights_beside_them():
    mesh = sharding.make_mesh(MeshConfig(1, 4, 2))
    with jax.set_mesh(mesh):
        where = compiled.shardings(MODEL, optim.transform(OptimConfig(1e-3)), mesh, CFG)
    names = {t: [tuple(where.params['stack_0'][t][n].spec) for n in 'ab'] for t in ('q', 'o', 'down')}
    assert names == {
        'q': [(None, 'fsdp', None), (None, None, 'tensor', None)],
        'o': [(None, 'tensor', None, None), (None, None, 'fsdp')],
        'down': [(None, 'tensor', None), (None, None, 'fsdp')],
    }
    assert [s.spec for s in jax.tree.leaves(where.opt_state)][1] == where.params['stack_0']['down']['a'].spec


@pytest.mark.parametrize(
    'kind', ['float32', 'int8']
)  # XLA for CPUs widens all of a bfloat16 stack before it takes a layer of it
def test_an_update_holds_no_second_base(kind):
    """Compiled for a model whose matrices are most of it: what a step needs besides its inputs is less than half of it."""
    model = dataclasses.replace(MODEL, layers=8, width=128, hidden=512, remat='full')
    cfg, tx, mesh = (
        dataclasses.replace(CFG, base=kind),
        optim.transform(OptimConfig(1e-3)),
        sharding.make_mesh(MeshConfig()),
    )
    items = [dataclasses.replace(i, response=i.response[:4]) for i in random_items(np.random.default_rng(5), 1, 4)]
    items = [
        dataclasses.replace(i, **{n: getattr(i, n)[:4] for n in ('old_logp', 'ref_logp', 'sampler_logp')})
        for i in items
    ]
    batch, _, _ = pack(items, 32, 1, len(items))
    with jax.set_mesh(mesh):
        state = compiled.described(model, tx, mesh, cfg)
        frozen = jax.eval_shape(functools.partial(lora.frozen, cfg=cfg), compiled.described_params(model, mesh))
        update = compiled.build_update(model, GRPO(), tx, compiled.shardings(model, tx, mesh, cfg), cfg)
        scalars = np.int32(1), np.float32(1), np.float32(1), np.bool_(True)
        memory = update.lower(state, batch, *scalars, frozen).compile().memory_analysis()

    def size(tree):
        return sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(tree))

    everything = size(compiled.described_params(model, mesh))
    assert memory.argument_size_in_bytes > size(frozen) > everything / 5
    assert memory.output_size_in_bytes < size(state) + 4096 < size(frozen)  # the state and the metrics
    assert memory.temp_size_in_bytes < everything / 2  # not a float32 base, of which an eighth is used at once


# --- stages


def recipe():
    """All weights, then adapters by GRPO with a moving reference, then others by NLL beside what the first merge to."""
    whole = smallest.recipe()
    first, zero = whole.stages
    small = {'lora': LoRA(4, 8.0), 'steps': 6, 'phases': (), 'evals': ()}
    zero = dataclasses.replace(zero, optim=OptimConfig(1e-2), **small)
    after = dataclasses.replace(first, name='after', start='zero', steps=6, lora=LoRA(2, 8.0, ('q', 'down'), 'int8'))
    return dataclasses.replace(whole, stages=(dataclasses.replace(first, steps=4), zero, after))


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('lora')
    stage.run(recipe(), str(workdir))
    return workdir


def lineage(workdir):
    mesh = sharding.make_mesh(MeshConfig())
    return start.Lineage.of(recipe(), str(workdir), mesh, {}.__getitem__)


def leaves(tree):
    return [np.asarray(a) for a in jax.tree.leaves(tree)]


@pytest.mark.slow
def test_stages_of_adapters_learn(whole):
    lines = list(read(str(whole / 'metrics.jsonl')))
    zero, after = ([m for m in lines if m['stage'] == name] for name in ('zero', 'after'))
    assert zero[0]['policy/kl'] < 1e-9 < 1e-5 < zero[3]['policy/kl']
    assert zero[4]['policy/kl'] < 1e-5  # the reference moved, to a copy of the adapters
    assert all(m['policy/sampler_gap_max'] < 1e-4 for m in zero)
    assert after[-1]['loss'] < after[0]['loss'] - 0.1


@pytest.mark.slow
def test_checkpoints_hold_adapters_and_what_they_began_with(whole):
    for each in recipe().stages[1:]:
        with checkpoint.Checkpoints(str(whole), each.name) as saved:
            step = saved.latest()
            folder = whole / 'checkpoints' / each.name / str(step)
            stored = json.loads((folder / 'params' / '_METADATA').read_text())['tree_metadata']
            assert len(stored) == 2 * len(each.lora.targets)
            assert all("'a'" in name or "'b'" in name for name in stored)
            assert isinstance(saved.cursor(step)['base'], int)
        assert (folder / 'reference').exists() == (each.name == 'zero')  # where it moved: adapters, too


@pytest.mark.slow
def test_a_later_stage_starts_from_the_merged_weights(whole):
    line = lineage(whole)
    with jax.set_mesh(line.mesh):
        first, zero = line.end('base'), line.start('after')
        with checkpoint.Checkpoints(str(whole), 'zero') as saved:
            trained = saved.params(
                saved.latest(), compiled.described_params(line.links['zero'].model, line.mesh, LoRA(4, 8.0))
            )
        want = lora.merged(lora.attach(first, trained, LoRA(4, 8.0)))
        after = line.end('after')
    for a, b in zip(leaves(zero), leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    moved = {n for n in zero['stack_0'] if not np.array_equal(zero['stack_0'][n], first['stack_0'][n])}
    assert moved == set(TARGETS)
    np.testing.assert_array_equal(zero['embed'], first['embed'])
    assert not np.array_equal(after['stack_0']['k'], zero['stack_0']['k'])  # no target, but rounded to int8
    np.testing.assert_array_equal(after['norm'], zero['norm'])


@pytest.mark.slow
def test_an_export_is_of_the_merged_weights(whole):
    """Made again from the workdir alone, for the stage that trained adapters of adapters."""
    line = lineage(whole)
    with jax.set_mesh(line.mesh):
        want = line.end('after')
    found = restore.restore(str(whole))
    assert found.what.endswith('stage after, step 6')
    for a, b in zip(leaves(found.source.params), leaves(want), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_adapters_are_exported_apart_from_their_base(whole, tmp_path, capsys):
    """On what their stage started from, merged by hand from the files, they are the stage's weights."""
    from safetensors.numpy import load_file

    assert main(['export', f'{whole}:zero', str(tmp_path / 'out'), '--adapter']) == 0
    said = capsys.readouterr().out
    assert 'stage zero, step 6' in said and f'their base is base: r1jax export {whole}:base' in said
    meta = json.loads((tmp_path / 'out' / 'adapter_config.json').read_text())
    assert (meta['r'], meta['lora_alpha'], meta['base_model_name_or_path']) == (4, 8.0, None)
    stored = load_file(tmp_path / 'out' / 'adapter_model.safetensors')
    before, after = (
        restore.restore(f'{whole}:{name}').source.params['stack_0']['down'][0] for name in ('base', 'zero')
    )
    a, b = (stored[f'base_model.model.model.layers.0.mlp.down_proj.lora_{n}.weight'] for n in 'AB')
    np.testing.assert_allclose(before + 2.0 * (b @ a).T, after, atol=1e-6)
    assert main(['export', str(whole), str(tmp_path / 'half'), '--adapter', '--dtype', 'bfloat16']) == 0
    assert 'rounded to int8' in capsys.readouterr().out
    assert {a.dtype.name for a in load_file(tmp_path / 'half' / 'adapter_model.safetensors').values()} == {'bfloat16'}
    assert main(['export', f'{whole}:base', str(tmp_path / 'other'), '--adapter']) == 2
    assert 'stage base of' in (error := capsys.readouterr().err) and 'no adapters; zero, after did' in error


@pytest.mark.slow
@pytest.mark.parametrize('at', [7, 12])  # in the middle of a rollout of zero, and in after
def test_a_killed_run_ends_with_the_same_bits(whole, tmp_path, monkeypatch, at):
    def act():
        raise Killed

    with monkeypatch.context() as m:
        interrupt(m, at, act)
        with pytest.raises(Killed):
            stage.run(recipe(), str(tmp_path))
    stage.run(recipe(), str(tmp_path))
    for name in ('metrics.jsonl', 'samples.jsonl'):
        assert timeless(tmp_path / name) == timeless(whole / name), name
    for each in ('zero', 'after'):
        for a, b in zip(*(final_params(d, recipe(), each) for d in (tmp_path, whole)), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_adapters_are_not_put_on_another_base(whole):
    line = lineage(whole)
    other = dataclasses.replace(
        line, links=line.links | {'zero': dataclasses.replace(line.links['zero'], start='init')}
    )
    with jax.set_mesh(line.mesh):
        with pytest.raises(BadInput, match="for other weights than 'init' gives now"):
            other.start('after')
        w = jnp.arange(6.0).reshape(2, 3)
        same, swapped = compiled.fingerprint({'w': w}), compiled.fingerprint({'w': w[:, ::-1]})
        assert same == compiled.fingerprint({'w': w + 0}) != swapped


@pytest.mark.parametrize(
    ('assignments', 'message'),
    [
        ('zero.lora.rank=0', 'zero.lora.rank=0 must be in [1, inf)'),
        ('zero.lora.alpha=0', 'zero.lora.alpha=0.0 must be in (0, inf)'),
        ('zero.lora.rank=33', 'zero.lora.rank=33 must be at most model.width=32: no update has more'),
        ('zero.lora.targets=', 'zero.lora.targets is empty: nothing would be trained'),
        ('zero.lora.targets=q,v,q', "zero.lora.targets has 'q' twice"),
        ('zero.lora.targets=q,x', 'zero.lora.targets takes one of q, k, v, o, gate, up, down, not '),
        ('zero.lora.base=int4', 'zero.lora.base takes one of float32, bfloat16, int8, not '),
    ],
)
def test_what_cannot_be_trained_is_refused(assignments, message):
    with pytest.raises(BadInput) as error:
        validate(override(recipe(), assignments.split()), 8)
    assert str(error.value).startswith(message)


def test_settings_reach_adapters_and_can_take_them_away():
    set_to = override(recipe(), ['zero.lora.rank=2', 'zero.lora.targets=q,v', 'zero.lora.base=int8', 'after.lora=none'])
    assert set_to.stages[1].lora == LoRA(2, 8.0, ('q', 'v'), 'int8') and set_to.stages[2].lora is None
    validate(set_to, 8)


# --- PEFT


def names(model):
    """As a family's table has them."""
    parts = {t: f'self_attn.{t}_proj' for t in 'qkvo'} | {t: f'mlp.{t}_proj' for t in ('gate', 'up', 'down')}
    return {('stack_0', t): [f'model.layers.{i}.{p}.weight' for i in range(model.layers)] for t, p in parts.items()}


def test_a_peft_folder_holds_the_factors_as_pytorch_has_them(tmp_path):
    from safetensors.numpy import load_file

    cfg = dataclasses.replace(CFG, targets=('q', 'o', 'down'))
    assert peft.write(str(tmp_path / 'out'), adapters(cfg), cfg, names(MODEL), 'some/base') == sorted(
        os.listdir(tmp_path / 'out')
    )
    meta = json.loads((tmp_path / 'out' / 'adapter_config.json').read_text())
    assert meta['target_modules'] == ['down_proj', 'o_proj', 'q_proj']
    assert (meta['r'], meta['lora_alpha'], meta['base_model_name_or_path']) == (4, 8.0, 'some/base')
    stored = load_file(tmp_path / 'out' / 'adapter_model.safetensors')
    assert len(stored) == 2 * 3 * MODEL.layers
    key = 'base_model.model.model.layers.1.self_attn.{}_proj.lora_{}.weight'
    assert stored[key.format('q', 'A')].shape == (4, 32) and stored[key.format('q', 'B')].shape == (32, 4)
    pair = adapters(cfg)['stack_0']['q']
    added = np.einsum('dr,rnh->nhd', pair['a'][1], pair['b'][1]).reshape(32, 32)
    np.testing.assert_allclose(stored[key.format('q', 'B')] @ stored[key.format('q', 'A')], added, atol=1e-6)
    with pytest.raises(FileExistsError, match='is not empty'):
        peft.write(str(tmp_path / 'out'), adapters(cfg), cfg, names(MODEL))
    short = {path: some[:1] for path, some in names(MODEL).items()}
    with pytest.raises(ValueError, match='has adapters in 2 layers, but names for 1'):
        peft.write(str(tmp_path / 'other'), adapters(cfg), cfg, short)


@pytest.mark.reference
@pytest.mark.skipif(importlib.util.find_spec('peft') is None, reason='needs peft: pip install peft')
def test_peft_loads_the_folder_and_gives_the_same_logits(tmp_path):
    import peft as theirs
    import torch
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=MODEL.vocab,
        hidden_size=MODEL.width,
        intermediate_size=MODEL.hidden,
        num_hidden_layers=MODEL.layers,
        num_attention_heads=MODEL.heads,
        num_key_value_heads=MODEL.kv_heads,
        head_dim=MODEL.head_dim,
        rms_norm_eps=MODEL.norm_eps,
        rope_theta=MODEL.rope_theta,
        max_position_embeddings=MODEL.context,
        tie_word_embeddings=True,
    )
    stack = base()['stack_0']
    state = {
        'model.embed_tokens.weight': base()['embed'],
        'lm_head.weight': base()['embed'],
        'model.norm.weight': base()['norm'],
    }
    for i in range(MODEL.layers):
        state[f'model.layers.{i}.input_layernorm.weight'] = stack['attn_norm'][i]
        state[f'model.layers.{i}.post_attention_layernorm.weight'] = stack['mlp_norm'][i]
    for (_, target), found in names(MODEL).items():
        for i, name in enumerate(found):
            rows = MODEL.width if target in ('q', 'k', 'v', 'gate', 'up') else stack[target][i].size // MODEL.width
            state[name] = np.asarray(stack[target][i]).reshape(rows, -1).T
    model = transformers.LlamaForCausalLM(config)
    model.load_state_dict({name: torch.from_numpy(np.array(w)) for name, w in state.items()})
    model = model.float().eval()
    peft.write(str(tmp_path / 'out'), adapters(), CFG, names(MODEL))
    ids = torch.from_numpy(np.array(ROWS))
    with torch.no_grad():
        np.testing.assert_allclose(model(ids).logits.numpy(), logits(None), atol=2e-4)
        model = theirs.PeftModel.from_pretrained(model, str(tmp_path / 'out')).eval()
        adapted = model(ids).logits.numpy()
        np.testing.assert_allclose(adapted, logits(adapters()), atol=2e-4)
        np.testing.assert_allclose(model.merge_and_unload()(ids).logits.numpy(), adapted, atol=2e-4)
    assert np.abs(adapted - np.asarray(logits(None))).max() > 0.1
