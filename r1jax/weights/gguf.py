"""GGUF, the file format of llama.cpp: one file with metadata, tokenizer and (mostly quantised) tensors.

In order: read the header with the `gguf` library → metadata to `ModelConfig` → the family's table says which tensors
there must be, how each is shaped and which leaf it becomes → dequantise, rearrange, stack the layers → vocabulary and
merges to a tokenizer.

The parameters are those of the quantised file, dequantised: the function that llama.cpp computes from it, up to
rounding, not the original float weights.

A matrix is stored as PyTorch has it, [outputs, inputs]; ours multiplies from the other side, and has heads as their own
axis.
Shape legend: V vocabulary, D width, L layers, N query heads, K key/value heads, H head width, F SwiGLU width.

Left out: anything that would change the function silently. RoPE scaling, experts, sliding windows and tensors that the
table does not name are errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from r1jax.config import ModelConfig

CONTROL, USER_DEFINED = 3, 4  # token types of the GGUF specification that are matched whole in a text
UNSUPPORTED = ('rope.scaling.type', 'expert_count', 'attention.sliding_window', 'attention.value_length_mla')


class Tensor(NamedTuple):
    """How one stored tensor becomes one leaf."""

    name: str  # as in the file; of a layer's tensors, without 'blk.INDEX.'
    shape: tuple[int, ...]  # as stored
    to_leaf: Callable[[np.ndarray], np.ndarray] = lambda w: w


class Table(NamedTuple):
    """A family's mapping, from our leaf names."""

    top: Mapping[str, Tensor]
    layer: Mapping[str, Tensor]


def llama(c: ModelConfig) -> Table:
    """Llama and its kin, SmolLM2 among them. The converter permutes the rows of Q and K, see `unpermute`."""
    d, n, k, h, f = c.width, c.heads, c.kv_heads, c.head_dim, c.hidden
    top = {'embed': Tensor('token_embd.weight', (c.vocab, d)), 'norm': Tensor('output_norm.weight', (d,))}
    if not c.tied:
        top['unembed'] = Tensor('output.weight', (c.vocab, d))
    layer = {
        'attn_norm': Tensor('attn_norm.weight', (d,)),
        'q': Tensor('attn_q.weight', (n * h, d), lambda w: unpermute(w, n).T.reshape(d, n, h)),
        'k': Tensor('attn_k.weight', (k * h, d), lambda w: unpermute(w, k).T.reshape(d, k, h)),
        'v': Tensor('attn_v.weight', (k * h, d), lambda w: w.T.reshape(d, k, h)),
        'o': Tensor('attn_output.weight', (d, n * h), lambda w: w.T.reshape(n, h, d)),
        'mlp_norm': Tensor('ffn_norm.weight', (d,)),
        'gate': Tensor('ffn_gate.weight', (f, d), np.transpose),
        'up': Tensor('ffn_up.weight', (f, d), np.transpose),
        'down': Tensor('ffn_down.weight', (d, f), np.transpose),
    }
    return Table(top, layer)


FAMILIES = {'llama': llama}  # by the file's general.architecture


def unpermute(w: np.ndarray, heads: int) -> np.ndarray:
    """Rows of Q or K from interleaved RoPE to half-split RoPE.

    llama.cpp rotates neighbours (2i, 2i+1); Hugging Face and we rotate halves (i, i+H/2). Its converter therefore
    reorders each head's rows, and this is the inverse (of `LlamaModel.permute` in convert_hf_to_gguf.py).

    Args:
      w: [heads·H, D].

    Returns:
      [heads·H, D].
    """
    rows, d = w.shape
    return w.reshape(heads, rows // heads // 2, 2, d).swapaxes(1, 2).reshape(rows, d)


def read(path: str) -> tuple[ModelConfig, dict[str, Any], Any]:
    """Reads a GGUF.

    Returns:
      The configuration; the parameters, a nested dict of float32 arrays; the tokenizer.

    Raises:
      ImportError: the `gguf` library is missing.
      ValueError: not a complete GGUF; an unsupported model or tokenizer; a tensor unknown, missing or of another shape.
    """
    reader = _open(path)
    meta = _Metadata({name: field.contents() for name, field in reader.fields.items()})
    tensors = {t.name: t for t in reader.tensors}
    try:
        cfg = config(meta, tied='output.weight' not in tensors)
        return cfg, params(cfg, FAMILIES[meta['general.architecture']](cfg), tensors), tokenizer(meta)
    except ValueError as e:
        raise ValueError(f'{path}: {e}') from None


def config(meta: Mapping[str, Any], tied: bool) -> ModelConfig:
    """The model's configuration, from the metadata."""
    arch = meta['general.architecture']
    if arch not in FAMILIES:
        raise ValueError(f'architecture {arch!r} is not supported; supported: {", ".join(FAMILIES)}')
    for key in UNSUPPORTED:
        if (value := meta.get(f'{arch}.{key}', 0)) not in (0, 'none'):
            raise ValueError(f'{arch}.{key} = {value!r} is not supported')
    width, heads = meta[f'{arch}.embedding_length'], meta[f'{arch}.attention.head_count']
    head_dim = meta.get(f'{arch}.attention.key_length', width // heads)
    rotated = meta.get(f'{arch}.rope.dimension_count', head_dim)
    if rotated != head_dim:
        raise ValueError(f'RoPE over {rotated} of {head_dim} dimensions of a head is not supported')
    return ModelConfig(
        vocab=len(meta['tokenizer.ggml.tokens']),
        layers=meta[f'{arch}.block_count'],
        width=width,
        heads=heads,
        kv_heads=meta.get(f'{arch}.attention.head_count_kv', heads),
        head_dim=head_dim,
        hidden=meta[f'{arch}.feed_forward_length'],
        context=meta[f'{arch}.context_length'],
        rope_theta=_short(meta.get(f'{arch}.rope.freq_base', 10000.0)),
        norm_eps=_short(meta[f'{arch}.attention.layer_norm_rms_epsilon']),
        tied=tied,
    )


def params(cfg: ModelConfig, table: Table, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The parameter tree; every tensor of the file is used exactly once.

    Args:
      tensors: by name, as the `gguf` library describes them: `data`, `tensor_type`, `shape` (fastest axis first).
    """

    def of_layer(i: int) -> dict[str, Tensor]:
        return {leaf: t._replace(name=f'blk.{i}.{t.name}') for leaf, t in table.layer.items()}

    layers = [of_layer(i) for i in range(cfg.layers)]
    expected = {t.name: t for part in (table.top, *layers) for t in part.values()}
    for title, names in ('lacks', expected.keys() - tensors.keys()), ('has unknown', tensors.keys() - expected.keys()):
        if names:
            raise ValueError(f'{title} tensor {min(names)}' + (f' and {len(names) - 1} more' if len(names) > 1 else ''))
    for name, t in expected.items():
        if (shape := tuple(int(n) for n in reversed(tensors[name].shape))) != t.shape:
            raise ValueError(f'tensor {name} has shape {shape}, its metadata says {t.shape}')

    def leaf(t: Tensor) -> np.ndarray:
        return t.to_leaf(_dequantise(tensors[t.name]).reshape(t.shape))

    stack = {name: np.stack([leaf(layer[name]) for layer in layers]) for name in table.layer}
    return {'stack_0': stack} | {name: np.array(leaf(t)) for name, t in table.top.items()}


def tokenizer(meta: Mapping[str, Any]) -> Any:
    """The tokenizer, an `HFTokenizer`, from the metadata."""
    from r1jax.data.tokenizer import bpe_tokenizer

    if (model := meta['tokenizer.ggml.model']) != 'gpt2':
        raise ValueError(f"tokenizer model {model!r} is not supported; supported: 'gpt2' (byte-level BPE)")
    vocab, types = meta['tokenizer.ggml.tokens'], meta['tokenizer.ggml.token_type']
    eos = meta['tokenizer.ggml.eos_token_id']
    return bpe_tokenizer(
        vocab=vocab,
        merges=meta['tokenizer.ggml.merges'],
        special=[(i, vocab[i]) for i, kind in enumerate(types) if kind in (CONTROL, USER_DEFINED)],
        eos=eos,
        pad=meta.get('tokenizer.ggml.padding_token_id', eos),
        chat_template=meta.get('tokenizer.chat_template'),
        pretokenizer=meta['tokenizer.ggml.pre'],
        bos=meta.get('tokenizer.ggml.bos_token_id'),
    )


class _Metadata(dict):
    """The file's key-value pairs; a key that a reader needs and the file lacks is a sentence, not a KeyError."""

    def __missing__(self, key: str) -> Any:
        raise ValueError(f'its metadata has no {key}')


def _open(path: str) -> Any:
    try:
        from gguf import GGUFReader
    except ImportError:
        raise ImportError("reading a GGUF needs the gguf library: pip install 'r1jax[smollm2]'") from None
    try:
        return GGUFReader(path)
    except (ValueError, LookupError, OverflowError) as e:  # where the bytes end, or make no sense
        raise ValueError(f'{path} is not a complete GGUF file ({str(e).rstrip(".")}); download it again') from None


def _dequantise(tensor: Any) -> np.ndarray:
    from gguf.quants import dequantize

    try:
        return dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
    except NotImplementedError:
        raise ValueError(f'tensor {tensor.name} has unsupported type {tensor.tensor_type.name}') from None


def _short(x: float) -> float:
    """A float32 read into a double, as the shortest decimal that means it: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(x)))
