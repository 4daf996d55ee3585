"""The way out: a Hugging Face folder that transformers and vLLM load as it is, and that `r1jax.weights` reads again.

    write('out', source)

In order: the family that the configuration belongs to → its table says which tensors there will be → they are dealt into files of at
most `shard` bytes, so that every file's header is known before the first weight is read → weights are taken from the source piece by
piece, rearranged and written. The folder gets its name when it is whole.

Weights that came in as bfloat16 leave as the same bits, also by way of float32. What a source left out (`Source.skipped`) and what a
reader of the folder should know is in its README.md.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np

import r1jax
from r1jax.config import ModelConfig
from r1jax.weights import families, safetensors
from r1jax.weights.folder import INDEX, SINGLE
from r1jax.weights.table import Piece, Table

SHARD = 5_000_000_000  # bytes of a file at most, if no tensor is larger
SAMPLING = {
    'do_sample': True,
    'temperature': 0.6,
    'top_p': 0.95,
}  # as R1 is evaluated, and as its students are released


class Source(Protocol):
    """Where weights come from: a `Reader`, or parameters in memory (`Held`)."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def tokenizer(self) -> Any: ...

    @property
    def generation(self) -> dict[str, Any]: ...

    @property
    def skipped(self) -> Sequence[str]: ...

    def leaf(self, path: tuple[str, ...], layer: int | None) -> np.ndarray: ...

    def kind(self, path: tuple[str, ...], layer: int | None) -> np.dtype: ...


@dataclasses.dataclass(frozen=True)
class Held:
    """Parameters on the host or on devices of this process, as a source."""

    config: ModelConfig
    params: dict[str, Any]
    tokenizer: Any = None
    generation: dict[str, Any] = dataclasses.field(default_factory=dict)
    skipped: Sequence[str] = ()

    def kind(self, path: tuple[str, ...], layer: int | None) -> np.dtype:
        return np.dtype(self._at(path).dtype)

    def leaf(self, path: tuple[str, ...], layer: int | None) -> np.ndarray:
        whole = self._at(path)
        if layer is None:
            return np.asarray(whole)
        return np.asarray(whole[layer] if isinstance(whole, np.ndarray) else _layer(whole, layer))

    def _at(self, path: tuple[str, ...]) -> Any:
        out: Any = self.params
        for name in path:
            out = out[name]
        return out


@jax.jit
def _layer(stack, i):
    return jax.lax.dynamic_index_in_dim(stack, i, 0, keepdims=False)


def write(
    directory: str, source: Source, dtype: str | None = 'bfloat16', shard: int = SHARD, chat_template: str | None = None
) -> list[str]:
    """Writes a folder.

    Args:
      directory: does not exist yet, or is empty.
      dtype: of every weight: bfloat16, float16 or float32; None: as the source has it.
      shard: bytes of a file at most, where no tensor is larger.
      chat_template: Jinja source, in place of the tokenizer's own.

    Returns:
      The files' names.

    Raises:
      ValueError: no family has the configuration's options, or parameters are not those of it; too little disk.
      FileExistsError: the directory is not empty.
    """
    directory = os.path.abspath(directory)
    if os.path.exists(directory) and (not os.path.isdir(directory) or os.listdir(directory)):
        raise FileExistsError(f'{directory} is not empty: name a folder that does not exist yet')
    kind = families.fitting(source.config)
    table = families.FAMILIES[kind].table(source.config)
    plan = _deal(_order(table), source, dtype, table, shard)
    total = sum(spec.size for specs in plan.values() for spec, _, _ in specs)
    above = os.path.dirname(directory)
    os.makedirs(above, exist_ok=True)
    if (free := shutil.disk_usage(above).free) < total:
        raise ValueError(f'{directory} takes {total / 1e9:.1f} GB, but {above} has {free / 1e9:.1f} GB left')
    part = tempfile.mkdtemp(prefix=f'.{os.path.basename(directory)}.', dir=above)
    try:
        for file, specs in plan.items():
            tensors = (_tensor(source, table, piece, expert, spec) for spec, piece, expert in specs)
            safetensors.write(os.path.join(part, file), [s for s, _, _ in specs], tensors, {'format': 'pt'})
        if len(plan) > 1:
            names = {spec.name: file for file, specs in plan.items() for spec, _, _ in specs}
            _json(part, INDEX, {'metadata': {'total_size': total}, 'weight_map': names})
        _describe(part, source, dtype, plan, chat_template)
        os.chmod(part, 0o777 & ~_umask())
        if os.path.isdir(directory):
            os.rmdir(directory)
        os.rename(part, directory)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return sorted(os.listdir(directory))


def _order(table: Table) -> Iterator[Piece]:
    """What belongs to no layer, then layer by layer."""
    pieces = [piece for each in table.leaves().values() for piece in each]
    return iter(sorted(pieces, key=lambda p: (len(p.path), p.path[:-1], p.layer or 0)))


Plan = dict[str, list[tuple[safetensors.Spec, Piece, int]]]  # file -> its tensors, each an expert of a piece


def _deal(pieces: Iterator[Piece], source: Source, dtype: str | None, table: Table, shard: int) -> Plan:
    """Which file gets which tensors, in order."""
    files: list[list] = [[]]
    size = 0
    for piece in pieces:
        kind = safetensors.named(dtype) if dtype else source.kind(piece.path, piece.layer)
        for expert, name in enumerate(piece.names):
            spec = safetensors.Spec(name, kind, piece.tensor.shape(table.sizes))
            if files[-1] and size + spec.size > shard:
                files.append([])
                size = 0
            files[-1].append((spec, piece, expert))
            size += spec.size
    if len(files) == 1:
        return {SINGLE: files[0]}
    return {f'model-{i:05}-of-{len(files):05}.safetensors': each for i, each in enumerate(files, 1)}


def _tensor(source: Source, table: Table, piece: Piece, expert: int, spec: safetensors.Spec) -> np.ndarray:
    leaf = source.leaf(piece.path, piece.layer)
    if (want := piece.tensor.leaf_shape(table.sizes)) != leaf.shape:
        raise ValueError(f'parameter {"/".join(piece.path)} has shape {leaf.shape}, its configuration says {want}')
    stored = piece.tensor.to_stored(leaf, table.sizes)
    return (stored[expert] if len(piece.names) > 1 else stored.reshape(spec.shape)).astype(spec.dtype)


def _describe(part: str, source: Source, dtype: str | None, plan: Plan, chat_template: str | None) -> None:
    """Everything but the weights."""
    kinds = [spec.dtype for specs in plan.values() for spec, _, _ in specs]
    tokenizer, meta = source.tokenizer, families.to_json(source.config)
    meta['torch_dtype'] = max(set(kinds), key=kinds.count).name  # of most tensors, as each file says of each
    generation = dict(source.generation) or dict(SAMPLING)
    if tokenizer is not None:
        ids = {'bos_token_id': tokenizer.bos, 'eos_token_id': tokenizer.eos, 'pad_token_id': tokenizer.pad}
        meta |= {name: i for name, i in ids.items() if i is not None}
        ends = [tokenizer.eos, *tokenizer.stops]
        generation |= {name: i for name, i in ids.items() if i is not None}
        generation['eos_token_id'] = ends if len(ends) > 1 else ends[0]
        tokenizer.save(part, chat_template)
    _json(part, 'config.json', meta)
    _json(part, 'generation_config.json', generation)
    notes = [f'Left out: {each}.' for each in source.skipped]
    notes += [] if tokenizer is not None else ['No tokenizer was written: the source has none.']
    with open(os.path.join(part, 'README.md'), 'w', encoding='utf-8') as file:
        file.write(
            '\n\n'.join(['# Exported by r1jax', f'r1jax {r1jax.__version__}, {meta["torch_dtype"]}.', *notes]) + '\n'
        )


def _json(part: str, name: str, value: Any) -> None:
    with open(os.path.join(part, name), 'w', encoding='utf-8') as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write('\n')


def _umask() -> int:
    """What a new folder would not get (`mkdtemp` makes one that is its owner's alone)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
