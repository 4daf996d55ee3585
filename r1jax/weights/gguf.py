"""GGUF, the file format of llama.cpp: one file with metadata, tokenizer and (mostly quantised) tensors.

In order: read the header with the `gguf` library → metadata to `ModelConfig` → the family's table says which tensors
there must be, how each is shaped and which leaf it becomes → the reader dequantises them one by one → vocabulary and merges to a
tokenizer.

The parameters are those of the quantised file, dequantised: the function that llama.cpp computes from it, up to
rounding, not the original float weights.

Axes: as in `r1jax.weights.table`; P pairs of a head that RoPE rotates, I the two of a pair.

Left out: anything that would change the function silently. RoPE scaling, experts, sliding windows and tensors that the
table does not name are errors.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from r1jax.config import ModelConfig
from r1jax.weights import families
from r1jax.weights.reader import Reader
from r1jax.weights.table import Metadata, Stack, Table, Tensor

CONTROL, USER_DEFINED = 3, 4  # token types of the GGUF specification that are matched whole in a text
_BLOCK = 1 << 20  # entries that are dequantised at once, about
UNSUPPORTED = ('rope.scaling.type', 'expert_count', 'attention.sliding_window', 'attention.value_length_mla')


def llama(c: ModelConfig) -> Table:
    """Llama and its kin, SmolLM2 among them.

    llama.cpp rotates neighbours (2i, 2i+1); Hugging Face and we rotate halves (i, i+H/2). Its converter therefore reorders the rows of
    each head of Q and K (`LlamaModel.permute` in convert_hf_to_gguf.py): of a head's axis, half by half (P) stands before which half
    (I) in the file, and behind it with us.
    """
    sizes = families.sizes(c) | {'P': c.head_dim // 2, 'I': 2}
    top = {'embed': Tensor('token_embd.weight', 'V D', 'V D'), 'norm': Tensor('output_norm.weight', 'D', 'D')}
    if not c.tied:
        top['unembed'] = Tensor('output.weight', 'V D', 'V D')
    named = {
        'attn_norm': ('attn_norm', 'D', 'D'),
        'q': ('attn_q', '(N P I) D', 'D N (I P)'),
        'k': ('attn_k', '(K P I) D', 'D K (I P)'),
        'v': ('attn_v', '(K H) D', 'D K H'),
        'o': ('attn_output', 'D (N H)', 'N H D'),
        'mlp_norm': ('ffn_norm', 'D', 'D'),
        'gate': ('ffn_gate', 'F D', 'D F'),
        'up': ('ffn_up', 'F D', 'D F'),
        'down': ('ffn_down', 'D F', 'F D'),
    }
    layer = {leaf: Tensor(f'blk.{{layer}}.{name}.weight', *axes) for leaf, (name, *axes) in named.items()}
    return Table(sizes, top, (Stack(0, c.layers, layer),))


FAMILIES = {'llama': llama}  # by the file's general.architecture


class Gguf(Reader):
    """A GGUF file, opened.

    Raises:
      ImportError: the `gguf` library is missing.
      ValueError: not a complete GGUF; an unsupported model or tokenizer; a tensor unknown, missing or of another shape.
    """

    def __init__(self, path: str):
        self.path = path
        reader = _open(path)
        self._meta = Metadata({name: field.contents() for name, field in reader.fields.items()}, 'its metadata')
        self._tensors = {t.name: t for t in reader.tensors}
        try:
            self.config = config(self._meta, tied='output.weight' not in self._tensors)
            self.table = FAMILIES[self._meta['general.architecture']](self.config)
            self.skipped = self.table.account({name: _shape(t) for name, t in self._tensors.items()})
            for t in {t.tensor_type: t for t in self._tensors.values()}.values():
                _dequantise(t, t.data[:1])  # one of each type
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from None

    @functools.cached_property
    def tokenizer(self) -> Any:
        try:
            return tokenizer(self._meta)
        except ValueError as error:
            raise ValueError(f'{self.path}: {error}') from None

    def dtype(self, name: str) -> np.dtype:
        return np.dtype(np.float32)

    def read(self, name: str) -> np.ndarray:
        t = self._tensors[name]
        return _dequantise(t, t.data).reshape(_shape(t))

    def rows(self, name: str, unit: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        t = self._tensors[name]
        count, *rest = _shape(t)
        at_once = -(-max(_BLOCK // math.prod(rest), 1) // unit) * unit if rest else count
        for low in range(0, count, at_once):
            block = t.data[low : low + at_once]  # a row is a whole number of quantised blocks
            yield low, _dequantise(t, block).reshape(-1, *rest)


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


def _open(path: str) -> Any:
    try:
        from gguf import GGUFReader
    except ImportError:
        raise ImportError("reading a GGUF needs the gguf library: pip install 'r1jax[smollm2]'") from None
    try:
        return GGUFReader(path)
    except (ValueError, LookupError, OverflowError) as e:  # where the bytes end, or make no sense
        raise ValueError(f'{path} is not a complete GGUF file ({str(e).rstrip(".")}); download it again') from None


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in reversed(tensor.shape))  # the library has the fastest axis first


def _dequantise(tensor: Any, data: np.ndarray) -> np.ndarray:
    """Values f32 of some rows of a tensor, `data` as they are stored."""
    from gguf.quants import dequantize

    try:
        return dequantize(data, tensor.tensor_type).astype(np.float32, copy=False)
    except NotImplementedError:
        raise ValueError(f'tensor {tensor.name} has unsupported type {tensor.tensor_type.name}') from None


def _short(x: float) -> float:
    """A float32 read into a double, as the shortest decimal that means it: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(x)))
