"""Hugging Face folders: every tensor accounted for, straight to its shards, FP8, and one sentence for all that can be wrong."""

import dataclasses
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from r1jax import sharding, weights
from r1jax.config import MLA, Llama3Scaling, MeshConfig
from r1jax.nn.layers import frequencies
from r1jax.nn.transformer import init_boxed, shardings, unbox
from r1jax.presets import PRESETS
from r1jax.weights import families, gguf, reader, safetensors
from r1jax.weights.folder import Folder, dequantise
from r1jax.weights.table import Stack, Table, Tensor, rearrange

GOLDEN = pathlib.Path(__file__).parent / 'golden'
BF16 = np.dtype(jnp.bfloat16)


def stored(folder):
    """The tensors of a folder's single file."""
    return {n: safetensors.read(e) for n, e in safetensors.entries(str(folder / 'model.safetensors')).items()}


def rewrite(folder, tensors, file='model.safetensors'):
    specs = [safetensors.Spec(n, a.dtype, a.shape) for n, a in tensors.items()]
    safetensors.write(str(folder / file), specs, tensors.values(), {'format': 'pt'})


def describe(folder, **change):
    """Changes config.json; None takes an entry out."""
    file = folder / 'config.json'
    meta = json.loads(file.read_text()) | change
    file.write_text(json.dumps({k: v for k, v in meta.items() if v is not None}))


@pytest.fixture
def llama(tmp_path):
    return shutil.copytree(GOLDEN / 'llama3', tmp_path / 'llama3')


@pytest.fixture
def qwen3(tmp_path):
    return shutil.copytree(GOLDEN / 'qwen3', tmp_path / 'qwen3')


def refused(folder, kind=ValueError):
    with pytest.raises(kind) as error:
        weights.opened(str(folder))
    assert str(folder) in str(error.value) and '\n' not in str(error.value)
    return str(error.value)


def shard(folder):
    """Deals the tensors into two files with an index."""
    tensors = stored(folder)
    names, files = list(tensors), ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']
    parts = names[::2], names[1::2]
    for file, part in zip(files, parts, strict=True):
        rewrite(folder, {n: tensors[n] for n in part}, file)
    (folder / 'model.safetensors').unlink()
    named = {n: file for file, part in zip(files, parts, strict=True) for n in part}
    (folder / 'model.safetensors.index.json').write_text(json.dumps({'metadata': {}, 'weight_map': named}))
    return named


# --- what is read


def test_configuration():
    c = weights.opened(str(GOLDEN / 'llama3')).config
    assert (c.vocab, c.layers, c.width, c.heads, c.kv_heads, c.head_dim, c.hidden, c.context) == (
        96,
        2,
        32,
        4,
        2,
        16,
        48,
        128,
    )
    assert (c.rope_theta, c.norm_eps, c.tied, c.qkv_bias, c.qk_norm) == (100.0, 1e-5, False, False, False)
    assert c.rope_scaling == Llama3Scaling(8.0, 32, 1.0, 4.0)
    assert weights.opened(str(GOLDEN / 'qwen2')).config.qkv_bias
    assert weights.opened(str(GOLDEN / 'qwen3')).config.qk_norm


def test_scaled_rope_changes_the_model():
    """So that the golden logits of llama3 cannot pass without it."""
    cfg = weights.opened(str(GOLDEN / 'llama3')).config
    plain, scaled = (np.asarray(frequencies(c)) for c in (dataclasses.replace(cfg, rope_scaling=None), cfg))
    ratio = scaled / plain
    assert ratio[0] == 1 and ratio[-1] == pytest.approx(1 / 8) and ((ratio > 0.13) & (ratio < 0.99)).any()


@pytest.mark.parametrize('name', PRESETS)
def test_a_configuration_survives_config_json(name):
    meta = json.loads(json.dumps(families.to_json(PRESETS[name])))
    assert families.of(meta).config(meta) == PRESETS[name]


def test_older_config_json_means_the_same(llama):
    """Before transformers 5, θ and its scaling were two entries."""
    new = weights.opened(str(llama)).config
    scaling = json.loads((llama / 'config.json').read_text())['rope_parameters']
    theta = scaling.pop('rope_theta')
    describe(llama, rope_parameters=None, rope_theta=theta, rope_scaling=scaling)
    assert weights.opened(str(llama)).config == new
    describe(llama, rope_scaling={**scaling, 'rope_type': None, 'type': 'llama3'})
    assert weights.opened(str(llama)).config == new


def test_parameters_are_the_tensors_rearranged():
    tensors, params = stored(GOLDEN / 'llama3'), weights.load(str(GOLDEN / 'llama3')).params
    shapes = jax.eval_shape(lambda: unbox(init_boxed(weights.opened(str(GOLDEN / 'llama3')).config, jax.random.key(0))))
    assert jax.tree.map(lambda a: (a.shape, a.dtype), params) == jax.tree.map(lambda a: (a.shape, a.dtype), shapes)
    q, o = (tensors[f'model.layers.1.self_attn.{n}_proj.weight'] for n in 'qo')
    np.testing.assert_array_equal(params['stack_0']['q'][1, :, 3, 5], q[3 * 16 + 5])
    np.testing.assert_array_equal(params['stack_0']['o'][1, 3, 5], o[:, 3 * 16 + 5])
    np.testing.assert_array_equal(params['unembed'], tensors['lm_head.weight'])


@pytest.fixture
def small_blocks(monkeypatch):
    """So that small tensors are read by several blocks, too."""
    monkeypatch.setattr(safetensors, '_BLOCK', 200)
    monkeypatch.setattr(safetensors, '_FEWEST', 3)


@pytest.mark.parametrize('in_place', [True, False], ids=['as on CPUs', 'as elsewhere'])
@pytest.mark.parametrize(
    ('mesh', 'dtype'),
    [(MeshConfig(fsdp=8), None), (MeshConfig(data=2, fsdp=2, tensor=2), 'float32'), (MeshConfig(), None)],
    ids=str,
)
def test_shards_are_the_host_s_slices(mesh, dtype, in_place, small_blocks, monkeypatch):
    path = str(GOLDEN / 'qwen2')
    config = weights.opened(path).config
    where = shardings(config, sharding.make_mesh(mesh))
    host = weights.load(path, dtype=dtype).params
    monkeypatch.setattr(reader._Leaf, 'in_place', in_place)
    placed = weights.load(path, where, dtype).params
    said = reader.described(weights.opened(path), where, dtype)

    def same(a, b, s, d):
        assert b.sharding == d.sharding == s and b.dtype == d.dtype == a.dtype == (np.float32 if dtype else BF16)
        assert b.shape == d.shape
        np.testing.assert_array_equal(np.asarray(b), a)

    jax.tree.map(same, host, placed, where, said)
    split = placed['stack_0']['gate'].addressable_shards
    assert len(split) == mesh.data * mesh.fsdp * mesh.tensor
    assert split[0].data.shape == (2, 32 // mesh.fsdp, 48 // mesh.tensor)


def test_a_cpu_takes_over_what_was_read(monkeypatch):
    """Without a copy. Devices that hold the same part share it, until one of them writes."""
    path, made = str(GOLDEN / 'qwen2'), []
    mesh = sharding.make_mesh(MeshConfig(data=8))
    new = reader._new
    monkeypatch.setattr(reader, '_new', lambda *a: made.append(new(*a)) or made[-1])
    params = weights.load(path, shardings(weights.opened(path).config, mesh)).params
    held = {s.data.unsafe_buffer_pointer() for a in jax.tree.leaves(params) for s in a.addressable_shards}
    assert held == {a.ctypes.data for a in made} and len(made) == len(jax.tree.leaves(params))
    whole, norm = np.array(params['norm']), params.pop('norm')
    own = jax.shard_map(
        lambda a: a + jax.lax.axis_index('data'), mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False
    )
    out = jax.jit(own, donate_argnums=0)(norm)
    assert norm.is_deleted()
    for i, each in enumerate(out.addressable_shards):
        np.testing.assert_array_equal(each.data, whole + i)


def test_what_is_compiled_while_weights_are_read():
    path, tokens = str(GOLDEN / 'qwen2'), np.arange(6)[None]
    mesh = sharding.make_mesh(MeshConfig(fsdp=8))
    embed = jax.jit(lambda params, tokens: params['embed'][tokens])
    loaded, run = weights.load_and_compile(
        path, lambda config, params: embed.lower(params, tokens).compile(), lambda config: shardings(config, mesh)
    )
    np.testing.assert_array_equal(run(loaded.params, tokens), weights.load(path).params['embed'][tokens])
    host, config = weights.load_and_compile(path, lambda config, params: config, dtype=None)
    assert config == loaded.config and host.params['norm'].dtype == BF16
    with pytest.raises(ValueError, match='a preset, which has a shape and no weights'):
        weights.load_and_compile('Qwen2.5-0.5B', lambda *_: None)


def test_shards_of_files_are_one_model(llama):
    whole = weights.load(str(llama)).params
    shard(llama)
    jax.tree.map(np.testing.assert_array_equal, weights.load(str(llama)).params, whole)


def test_types_are_kept_or_widened_exactly(llama):
    tensors = stored(llama)
    tensors['model.norm.weight'] = tensors['model.norm.weight'].astype(np.float32) + np.float32(1e-6)
    tensors['lm_head.weight'] = tensors['lm_head.weight'].astype(np.float16)
    rewrite(llama, tensors)
    params = weights.load(str(llama), dtype=None).params
    assert (
        params['norm'].dtype == np.float32 and params['unembed'].dtype == np.float16 and params['embed'].dtype == BF16
    )
    wide = weights.load(str(llama)).params
    for leaf, name in ('norm', 'model.norm'), ('unembed', 'lm_head'), ('embed', 'model.embed_tokens'):
        np.testing.assert_array_equal(wide[leaf], tensors[f'{name}.weight'].astype(np.float32))


def test_a_preset_has_a_shape_and_nothing_else():
    assert weights.load('Qwen2.5-0.5B') == (PRESETS['Qwen2.5-0.5B'], None, None)


def test_tensors_left_out_are_said(llama):
    rewrite(llama, stored(llama) | {'model.layers.0.self_attn.rotary_emb.inv_freq': np.ones(8, np.float32)})
    assert 'frequencies' in weights.opened(str(llama)).skipped[0]


def test_a_tied_unembedding_may_be_stored_if_it_is_the_same(qwen3):
    tensors = stored(qwen3)
    rewrite(qwen3, tensors | {'lm_head.weight': tensors['model.embed_tokens.weight']})
    assert 'unembed' not in weights.load(str(qwen3)).params
    other = tensors['model.embed_tokens.weight'].copy()
    other[-1, -1] += 1
    rewrite(qwen3, tensors | {'lm_head.weight': other})
    assert 'tensor lm_head.weight differs from model.embed_tokens.weight' in refused(qwen3)


# --- FP8


def test_fp8_is_dequantised_by_blocks(llama, small_blocks):
    """Scales 1/2 and 4 on the blocks of one matrix, whose size is no multiple of them."""
    tensors, rng = stored(llama), np.random.default_rng(0)
    name = 'model.layers.1.mlp.up_proj.weight'  # [48, 32]
    small = rng.normal(size=(48, 32)).astype(jnp.float8_e4m3fn)
    scale = np.array([[0.5, 4.0], [2.0, 1.0], [1.0, 0.25]], np.float32)  # of 20 × 24
    rewrite(llama, tensors | {name: small, f'{name}_scale_inv': scale})
    assert 'no quantization_config' in refused(llama)
    describe(llama, quantization_config={'quant_method': 'fp8', 'fmt': 'e4m3', 'weight_block_size': [20, 24]})
    up = weights.load(str(llama)).params['stack_0']['up']
    want = small.astype(np.float32) * np.kron(scale, np.ones((20, 24)))[:48, :32]
    np.testing.assert_array_equal(up[1], want.T.astype(np.float32))
    np.testing.assert_array_equal(up[0], tensors['model.layers.0.mlp.up_proj.weight'].T)
    assert weights.load(str(llama), dtype=None).params['stack_0']['up'].dtype == BF16
    rewrite(llama, tensors | {name: small})
    assert f'{name}_scale_inv must scale an FP8 weight with shape (3, 2), it has None' in refused(llama)
    describe(llama, quantization_config={'quant_method': 'gptq'})
    assert "quantization 'gptq' is not supported" in refused(llama)


def test_every_fp8_value_is_exact():
    every = np.arange(256, dtype=np.uint8).view(jnp.float8_e4m3fn).reshape(16, 16)
    got = dequantise(every, np.full((1, 1), 3.0, np.float32), (128, 128))
    np.testing.assert_array_equal(got, every.astype(np.float32) * 3)


# --- experts and several stacks, as DeepSeek-V3 and Qwen3's experts need them


class Made(reader.Reader):
    tokenizer = None

    def __init__(self, table, tensors):
        self.table, self.tensors, self.seen = table, tensors, []

    def dtype(self, name):
        return self.tensors[name].dtype

    def read(self, name):
        self.seen.append(name)
        return self.tensors[name]


def test_experts_and_several_stacks():
    rng = np.random.default_rng(0)
    up = Tensor('l.{layer}.up', 'F D', 'D F')
    expert = Tensor('l.{layer}.experts.{expert}.up', 'F D', 'E D F')
    table = Table({'E': 4, 'F': 6, 'D': 8}, {}, (Stack(0, 1, {'up': up}), Stack(1, 2, {'ups': expert})))
    names = ['l.0.up', *(f'l.{i}.experts.{e}.up' for i in (1, 2) for e in range(4))]
    tensors = {n: rng.normal(size=(6, 8)).astype(np.float32) for n in names}
    table.account({n: a.shape for n, a in tensors.items()})
    mesh = sharding.make_mesh(MeshConfig(fsdp=4))
    axes = {
        'stack_0': {'up': (None, 'embed', None)},
        'stack_1': {'ups': (None, 'embed', None, None)},
    }  # experts over fsdp
    where = jax.tree.map(lambda a: sharding.named(mesh, *a), axes, is_leaf=lambda a: isinstance(a, tuple))
    source = Made(table, tensors)
    for params in (reader.params(source), reader.params(source, where)):
        np.testing.assert_array_equal(params['stack_0']['up'], tensors['l.0.up'].T[None])
        want = np.stack([[tensors[f'l.{i}.experts.{e}.up'].T for e in range(4)] for i in (1, 2)])
        np.testing.assert_array_equal(params['stack_1']['ups'], want)
    assert sorted(source.seen) == sorted(names * 2)  # each was read once a load
    with pytest.raises(ValueError, match=r'lacks tensor l\.2\.experts\.3\.up$'):
        table.account({n: a.shape for n, a in tensors.items() if n != 'l.2.experts.3.up'})


def test_rows_of_every_family_are_parts_of_their_leaves():
    """Of heads, experts and GGUF's pairs too: what is taken by rows is what is taken at once."""
    plain = weights.opened(str(GOLDEN / 'qwen2')).config
    sizes = {'width': 12, 'layers': 1, 'heads': 4, 'kv_heads': 4, 'head_dim': 16, 'hidden': 20, 'vocab': 22}
    latent = dataclasses.replace(
        PRESETS['DeepSeek-R1'],
        **sizes,
        mla=MLA(kv_rank=6, rotary=8, value=10, q_rank=14),
        moe=dataclasses.replace(PRESETS['DeepSeek-R1'].moe, experts=16, hidden=5, dense_layers=0),
    )
    tables = [
        families.FAMILIES['qwen2'].table(plain),
        families.FAMILIES['deepseek_v3'].table(latent),
        gguf.llama(plain),
    ]
    rng = np.random.default_rng(0)
    for table in tables:
        for piece, *_ in table.leaves().values():
            tensor, experts = piece.tensor, len(piece.names)
            shape = tensor.shape(table.sizes)
            whole = rng.integers(0, 9999, (experts, *shape))
            want = tensor.to_leaf(whole if '{expert}' in tensor.name else whole[0], table.sizes)
            got, unit = np.full_like(want, -1), tensor.unit(table.sizes)
            for e in range(experts):
                for low in range(0, shape[0], unit):
                    part, where = tensor.part(whole[e][low : low + unit], low, table.sizes, e)
                    got[tuple(slice(*each) for each in where)] = part
            np.testing.assert_array_equal(got, want, str(tensor))


@given(st.permutations('ABCD'), st.integers(1, 3), st.integers(1, 3))
def test_rearranging_goes_back(order, a, b):
    sizes = {'A': a, 'B': b, 'C': 2, 'D': 3}
    x = np.arange(6 * a * b).reshape(2, 3 * a, b)
    before, after = 'C (D A) B', f'({order[0]} {order[1]}) {order[2]} {order[3]}'
    y = rearrange(x, before, after, sizes)
    np.testing.assert_array_equal(rearrange(y, after, before, sizes), x)
    full = x.reshape(2, 3, a, b)
    one = dict(zip('CDAB', (1, 2, a - 1, b - 1), strict=True))
    at = one[order[0]] * sizes[order[1]] + one[order[1]], one[order[2]], one[order[3]]
    assert y[at] == full[1, 2, a - 1, b - 1]


# --- what is wrong


def test_missing_unknown_and_misshapen_tensors(llama):
    tensors, name = stored(llama), 'model.layers.1.self_attn.k_proj.weight'
    rewrite(llama, {n: a for n, a in tensors.items() if n != name})
    assert refused(llama).endswith(f': lacks tensor {name}')
    rewrite(llama, tensors | {'model.layers.0.self_attn.q_proj.bias': np.ones(64, BF16), 'x': np.ones(1, BF16)})
    assert refused(llama).endswith(': has unknown tensor model.layers.0.self_attn.q_proj.bias and 1 more')
    name = 'model.layers.1.mlp.up_proj.weight'
    rewrite(llama, tensors | {name: np.ascontiguousarray(tensors[name].T)})
    assert refused(llama).endswith(f'tensor {name} has shape (32, 48), its configuration says (48, 32)')


def test_wrong_vocabulary_size(llama):
    describe(llama, vocab_size=100)
    assert refused(llama).endswith('weight has shape (96, 32), its configuration says (100, 32)')


@pytest.mark.parametrize(
    ('change', 'says'),
    [
        ({'model_type': 'gpt2'}, "model_type 'gpt2' is not supported; supported: llama, qwen2, qwen3"),
        ({'model_type': 'qwen3'}, 'lacks tensor model.layers.0.self_attn.k_norm.weight and 3 more'),
        ({'hidden_size': None}, 'config.json has no hidden_size'),
        ({'hidden_act': 'gelu'}, "hidden_act='gelu' is not supported, only 'silu'"),
        ({'attention_bias': True}, 'attention_bias=True is not supported'),
        ({'mlp_bias': True}, 'mlp_bias=True is not supported'),
        ({'use_sliding_window': True}, 'use_sliding_window=True is not supported'),
        ({'layer_types': ['full_attention', 'sliding_attention']}, "layer_types ['sliding_attention'] are not supported"),
        ({'rope_parameters': {'rope_type': 'longrope'}}, "RoPE scaling 'longrope' is not supported"),
        ({'rope_parameters': None, 'rope_scaling': {'type': 'linear', 'factor': 2}}, "RoPE scaling 'linear' is not supported"),
        ({'tie_word_embeddings': True}, 'tensor lm_head.weight differs from model.embed_tokens.weight'),
    ],
    ids=str,
)  # fmt: skip
def test_unsupported(llama, change, says):
    describe(llama, **change)
    assert says in refused(llama)


def test_no_folder_of_that_kind(llama, tmp_path):
    (tmp_path / 'empty').mkdir()
    assert 'is no Hugging Face folder: it has no config.json' in refused(tmp_path / 'empty', FileNotFoundError)
    (llama / 'config.json').write_text('{')
    assert 'config.json is not JSON' in refused(llama)


def test_pickles_are_refused(llama):
    (llama / 'model.safetensors').rename(llama / 'pytorch_model.bin')
    assert 'has its weights as pickles (pytorch_model.bin), which run code' in refused(llama)
    (llama / 'pytorch_model.bin').unlink()
    assert 'has no model.safetensors and no model.safetensors.index.json' in refused(llama, FileNotFoundError)


def test_missing_shard_and_broken_index(llama):
    named = shard(llama)
    last = llama / 'model-00002-of-00002.safetensors'
    index = llama / 'model.safetensors.index.json'
    whole = last.read_bytes()
    last.unlink()
    assert 'lacks model-00002-of-00002.safetensors, which model.safetensors.index.json names' in refused(
        llama, FileNotFoundError
    )
    last.write_bytes(whole)
    index.write_text(json.dumps({'weight_map': named | {'more': last.name}}))
    assert f'{last.name} has tensor more, which it has not' in refused(llama)
    name = next(iter(named))
    index.write_text(json.dumps({'weight_map': {n: f for n, f in named.items() if n != name}}))
    assert f'has tensor {name}, which model.safetensors.index.json says is in None' in refused(llama)
    index.write_text(json.dumps({'weight_map': named | {name: '../other.safetensors'}}))
    assert "names '../other.safetensors', which is not a file of this folder" in refused(llama)
    index.write_text('{}')
    assert 'has no weight_map' in refused(llama)


def test_truncated(llama):
    file = llama / 'model.safetensors'
    whole = file.read_bytes()
    for cut in [0, 1, 7, 8, 9, 100, 1000, len(whole) // 2, len(whole) - 1]:
        file.write_bytes(whole[:cut])
        message = refused(llama)
        assert 'is not a complete safetensors file' in message and message.endswith('download it again')
    file.write_bytes(whole + b'\0')
    assert 'is not a complete safetensors file' in refused(llama)


@pytest.mark.parametrize(
    'header',
    [
        b'{}}',
        b'[]',
        b'{"a": 3}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
        b'\xff\xfe',
    ],
    ids=str,
)  # fmt: skip
def test_garbage(llama, header):
    (llama / 'model.safetensors').write_bytes(len(header).to_bytes(8, 'little') + header + bytes(4))
    assert 'is not a complete safetensors file' in refused(llama)


def test_other_contents(llama):
    file = llama / 'model.safetensors'
    header = b'{"a": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}'
    file.write_bytes(len(header).to_bytes(8, 'little') + header + bytes(8))
    assert 'tensor a is I64; supported: F32, F16, BF16, F8_E4M3' in refused(llama)
    file.write_bytes(b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n')
    assert 'run git lfs pull' in refused(llama)


def test_a_file_that_shrinks_while_it_is_read(llama):
    source = Folder(str(llama))
    file = llama / 'model.safetensors'
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match='it became shorter while it was read'):
        reader.params(source)
