"""Adapters out: a folder in the format of PEFT, which that library, transformers and vLLM put on a base model's released weights.

    {adapter_config.json, adapter_model.safetensors}

PEFT names a pair after the module it adapts, 'base_model.model.MODULE.lora_A.weight' [r, in] and '….lora_B.weight' [out, r], stored as
PyTorch has matrices, and computes W·x + (lora_alpha / r)·B·A·x. What `r1jax.nn.lora` holds is the same transposed, heads as axes of
their own. The format is described in PEFT's documentation, "PEFT checkpoint format".

Axes: L layers of a stack, r rank.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.config import LoRA
from r1jax.weights import safetensors

CONFIG, WEIGHTS = 'adapter_config.json', 'adapter_model.safetensors'

# (stack, target) -> the weight's name in a Hugging Face folder, layer by layer
Names = Mapping[tuple[str, ...], Sequence[str]]


def write(
    folder: str,
    adapters: Mapping[str, Any],
    lora: LoRA,
    names: Names,
    base: str | None = None,
    dtype: str | None = None,
) -> list[str]:
    """Writes a folder.

    Args:
      folder: does not exist yet, or is empty.
      adapters: {stack: {target: {'a': f32[L, *in, r], 'b': f32[L, r, *out]}}}, host or device arrays.
      names: of a mapping table, `{path: [p.names[0] for p in pieces] for path, pieces in table.leaves().items()}`.
      base: name or path of the base model, for those who load the folder; None: they say it.
      dtype: of the factors: bfloat16, float16 or float32; None: as they are.

    Returns:
      The files' names.

    Raises:
      FileExistsError: the folder is not empty.
      ValueError: an adapted weight without a name, or with names for another number of layers.
    """
    folder = os.path.abspath(folder)
    if os.path.exists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
        raise FileExistsError(f'{folder} is not empty: name a folder that does not exist yet')
    tensors = dict(sorted(_tensors(adapters, names).items()))
    if dtype:
        tensors = {name: a.astype(safetensors.named(dtype)) for name, a in tensors.items()}
    modules = {name.removesuffix('.weight').rpartition('.')[2] for pairs in names_of(adapters, names) for name in pairs}
    meta = {
        'peft_type': 'LORA',
        'task_type': 'CAUSAL_LM',
        'base_model_name_or_path': base,
        'r': lora.rank,
        'lora_alpha': lora.alpha,
        'target_modules': sorted(modules),
        'lora_dropout': 0.0,
        'bias': 'none',
        'fan_in_fan_out': False,
        'use_rslora': False,  # which would divide by √r
        'inference_mode': True,
    }
    above = os.path.dirname(folder)
    os.makedirs(above, exist_ok=True)
    part = tempfile.mkdtemp(prefix=f'.{os.path.basename(folder)}.', dir=above)
    try:
        specs = [safetensors.Spec(name, a.dtype, a.shape) for name, a in tensors.items()]
        safetensors.write(os.path.join(part, WEIGHTS), specs, tensors.values(), {'format': 'pt'})
        with open(os.path.join(part, CONFIG), 'w', encoding='utf-8') as file:
            json.dump(meta, file, indent=2)
            file.write('\n')
        os.chmod(part, 0o755)
        if os.path.isdir(folder):
            os.rmdir(folder)
        os.rename(part, folder)  # it gets its name when it is whole
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return [CONFIG, WEIGHTS]


def names_of(adapters: Mapping[str, Any], names: Names) -> list[Sequence[str]]:
    """The names of the adapted weights, layer by layer, for each target of each stack."""
    out = []
    for stack, targets in adapters.items():
        for target, pair in targets.items():
            found, layers = names.get((stack, target), ()), len(pair['a'])
            if len(found) != layers:
                raise ValueError(f'{stack}/{target} has adapters in {layers} layers, but names for {len(found)}')
            out.append(found)
    return out


def _tensors(adapters: Mapping[str, Any], names: Names) -> dict[str, np.ndarray]:
    pairs = [pair for targets in adapters.values() for pair in targets.values()]
    out = {}
    for found, pair in zip(names_of(adapters, names), pairs, strict=True):
        a, b = (np.asarray(pair[n]) for n in 'ab')
        rank = a.shape[-1]
        for i, name in enumerate(found):
            module = 'base_model.model.' + name.removesuffix('.weight')
            out[f'{module}.lora_A.weight'] = np.ascontiguousarray(a[i].reshape(-1, rank).T)
            out[f'{module}.lora_B.weight'] = np.ascontiguousarray(b[i].reshape(rank, -1).T)
    return out
