"""A Hugging Face folder: config.json, safetensors in one file or several, and a tokenizer.

In order: config.json names the family → the family's table says which tensors there must be → the headers of the safetensors say which
there are, and every one is accounted for → the reader reads them one by one. DeepSeek's block-scaled FP8 is dequantised on the way.

Weights as pickles (`.bin`, `.pt`) are refused: reading one runs the code in it.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from r1jax.weights import PICKLES, families, safetensors
from r1jax.weights.reader import Reader
from r1jax.weights.table import Metadata

INDEX, SINGLE = 'model.safetensors.index.json', 'model.safetensors'
SCALE = '_scale_inv'  # of a weight in FP8, and the name of what it is multiplied with
_FP8 = safetensors.DTYPES['F8_E4M3']
_VALUES = np.arange(256, dtype=np.uint8).view(_FP8).astype(np.float32)  # of the 256 bytes


class Folder(Reader):
    """A folder, opened.

    Raises:
      FileNotFoundError: no config.json, or a file that the index names is missing.
      ValueError: an unsupported family or option; a tensor that is missing, unknown or of another shape; pickled weights; a broken
        file. The message names it.
    """

    def __init__(self, path: str):
        self.path = path
        try:
            meta = Metadata(_json(path, 'config.json', required=True), 'config.json')
            family = families.of(meta)
            self.config = family.config(meta)
            self._block = _block(meta.get('quantization_config'))
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from None
        self.table = family.table(self.config)
        self.entries = _entries(path)
        try:
            scales = {name + SCALE: self._scales(name) for name, e in self.entries.items() if e.dtype == _FP8}
            weights = {name: e.shape for name, e in self.entries.items() if name not in scales}
            for name, shape in scales.items():
                if (found := self.entries[name].shape if name in self.entries else None) != shape:
                    raise ValueError(f'tensor {name} must scale an FP8 weight with shape {shape}, it has {found}')
            self.skipped = self.table.account(weights)
            for name, original in self.table.same.items():
                if name in self.entries and not self._equal(name, original):
                    raise ValueError(f'tensor {name} differs from {original}, but config.json says tie_word_embeddings')
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from None

    @functools.cached_property
    def tokenizer(self) -> Any:
        """From tokenizer.json, or a SentencePiece tokenizer.model."""
        from r1jax.data.tokenizer import HFTokenizer, SentencePiece, Tokenizer

        file, model = (os.path.join(self.path, name) for name in ('tokenizer.json', 'tokenizer.model'))
        tokenizer: Tokenizer
        if os.path.isfile(file):
            tokenizer = HFTokenizer.from_file(file)
        elif os.path.isfile(model):
            tokenizer = SentencePiece(model)
            template = os.path.join(self.path, 'chat_template.jinja')
            if os.path.isfile(template):
                with open(template, encoding='utf-8') as text:
                    tokenizer.chat_template = text.read()
        else:
            return None
        if tokenizer.vocab_size > self.config.vocab:
            raise ValueError(
                f'{self.path}: its tokenizer has {tokenizer.vocab_size} tokens, but config.json says vocab_size='
                f'{self.config.vocab}: they belong to different models'
            )
        ends = self.generation.get('eos_token_id', ())
        ends = [ends] if isinstance(ends, int) else ends or ()
        tokenizer.stops = tuple(i for i in ends if i != tokenizer.eos)
        return tokenizer

    @functools.cached_property
    def generation(self) -> dict[str, Any]:
        return _json(self.path, 'generation_config.json', required=False)

    def dtype(self, name: str) -> np.dtype:
        stored = self.entries[name].dtype
        return safetensors.DTYPES['BF16'] if stored == _FP8 else stored  # what FP8 is converted to by its authors

    def read(self, name: str) -> np.ndarray:
        ((_, whole),) = self.rows(name, self.entries[name].shape[0])
        return whole

    def rows(self, name: str, unit: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        entry = self.entries[name]
        if entry.dtype != _FP8:
            yield from safetensors.rows(entry, unit)
            return
        scale, height = safetensors.read(self.entries[name + SCALE]), self._block[0]
        for low, block in safetensors.rows(entry, math.lcm(unit, height)):
            yield low, dequantise(block, scale[low // height : -(-(low + len(block)) // height)], self._block)

    def _scales(self, name: str) -> tuple[int, ...]:
        """The shape that the scales of an FP8 weight must have."""
        if self._block is None:
            raise ValueError(f'tensor {name} is FP8, but config.json has no quantization_config that says its blocks')
        return tuple(-(-n // b) for n, b in zip(self.entries[name].shape, self._block, strict=True))

    def _equal(self, a: str, b: str) -> bool:
        one, other = self.entries[a], self.entries[b]
        if one.dtype != other.dtype:
            return False
        pairs = zip(safetensors.rows(one), safetensors.rows(other), strict=True)
        return all(np.array_equal(x.view(np.uint8), y.view(np.uint8)) for (_, x), (_, y) in pairs)


def dequantise(weight: np.ndarray, scale: np.ndarray, block: tuple[int, int]) -> np.ndarray:
    """DeepSeek-V3's FP8 (arXiv 2412.19437 §3.3.2): f32[M,N] from e4m3[M,N] and a scale a block, f32[⌈M/block⌉,⌈N/block⌉]."""
    out = _VALUES[weight.view(np.uint8)]
    rows, columns = block
    for i, each in enumerate(scale.astype(np.float32)):
        out[i * rows : (i + 1) * rows] *= np.repeat(each, columns)[: weight.shape[1]]
    return out


def _block(quantised: dict[str, Any] | None) -> tuple[int, int] | None:
    """Rows and columns of the blocks that share a scale; None where weights are not quantised."""
    if not quantised:
        return None
    if quantised.get('quant_method') != 'fp8' or not quantised.get('weight_block_size'):
        kind = quantised.get('quant_method')
        raise ValueError(f"quantization {kind!r} is not supported; supported: 'fp8' with a weight_block_size")
    rows, columns = quantised['weight_block_size']
    return rows, columns


def _json(path: str, name: str, required: bool) -> dict[str, Any]:
    file = os.path.join(path, name)
    if not os.path.isfile(file):
        if required:
            raise FileNotFoundError(f'{path} is no Hugging Face folder: it has no {name}')
        return {}
    try:
        with open(file, encoding='utf-8') as text:
            out = json.load(text)
    except ValueError as error:
        raise ValueError(f'{name} is not JSON: {error}') from None
    if not isinstance(out, dict):
        raise ValueError(f'{name} is not a JSON object')
    return out


def _entries(path: str) -> dict[str, safetensors.Entry]:
    """Every tensor of the folder."""
    if os.path.isfile(os.path.join(path, INDEX)):
        named = _json(path, INDEX, required=True).get('weight_map')
        if not isinstance(named, dict) or not named:
            raise ValueError(f'{path}: {INDEX} has no weight_map')
    elif os.path.isfile(single := os.path.join(path, SINGLE)):
        return safetensors.entries(single)
    else:
        pickles = sorted(file for file in os.listdir(path) if file.endswith(PICKLES))
        if pickles:
            raise ValueError(
                f'{path} has its weights as pickles ({pickles[0]}), which run code when they are read: refused. '
                'Take the safetensors of this model, or convert them where you trust them'
            )
        raise FileNotFoundError(f'{path} has no {SINGLE} and no {INDEX}')
    files = sorted(set(named.values()))
    for file in files:
        if os.path.basename(file) != file:
            raise ValueError(f'{path}: {INDEX} names {file!r}, which is not a file of this folder')
        if not os.path.isfile(os.path.join(path, file)):
            raise FileNotFoundError(f'{path} lacks {file}, which {INDEX} names: download it')
    out: dict[str, safetensors.Entry] = {}
    for file in files:
        for name, entry in safetensors.entries(os.path.join(path, file)).items():
            if named.get(name) != file:
                raise ValueError(f'{path}: {file} has tensor {name}, which {INDEX} says is in {named.get(name)}')
            out[name] = entry
    if missing := named.keys() - out.keys():
        name = min(missing)
        raise ValueError(f'{path}: {INDEX} says that {named[name]} has tensor {name}, which it has not')
    return out
