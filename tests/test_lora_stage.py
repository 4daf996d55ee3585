"""Stages of adapters: they learn, resume with the same bits, are merged, and exported as PEFT has them."""

import dataclasses
import importlib.util
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smallest
from adapters import CFG, ROWS, TARGETS, adapters, base, logits
from test_train import Killed, final_params, interrupt, timeless
from tiny import MODEL

from r1jax import sharding
from r1jax.checks import validate
from r1jax.cli import main
from r1jax.config import LoRA, MeshConfig, OptimConfig
from r1jax.nn import lora
from r1jax.settings import BadInput, override
from r1jax.train import checkpoint, restore, stage, start
from r1jax.train import step as compiled
from r1jax.train.log import read
from r1jax.weights import peft


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
