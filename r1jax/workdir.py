"""A workdir belongs to one recipe: its config.json says which, and what ran it.

    {"recipe": …, "seed": …, "git_commit": …, "versions": {…}, "command": […]}

The recipe is resolved, with overrides applied. The rest is provenance: of several runs that resumed, the first stays. A recipe may
change, and stages are then run again (`r1jax.train.inputs`); but one of another name, seed or tokenizer is another recipe.
"""

from __future__ import annotations

import json
import os
import pathlib
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any, Literal

from r1jax.config import Recipe
from r1jax.record import difference, to_json
from r1jax.settings import BadInput

Status = Literal['new', 'resumed', 'changed']

_CONFIG = 'config.json'
_LINES = 8  # of a difference, shown
_OWN = ('name', 'seed', 'tokenizer')  # what a workdir's recipe keeps
_PACKAGES = ('r1jax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy', 'tokenizers')


def open_workdir(path: str | os.PathLike, recipe: Recipe, argv: Sequence[str] | None = None) -> Status:
    """Makes the workdir of a recipe, or recognises it.

    `argv` is the command to record (default: the process's); the commit is that of the checkout its experiment lies in.

    Returns:
      'resumed' if config.json holds this recipe; 'changed' if it holds another form of it, and `write_config` is to be called once
      this one is known to run; otherwise 'new', and it is written. A workdir with nothing in it but another recipe's config.json, of a
      run that never began, is taken over.

    Raises:
      PermissionError: the workdir cannot be made or written to.
      BadInput: it belongs to another recipe (the message has the difference), or its config.json is broken.
    """
    path, argv = pathlib.Path(path), list(sys.argv if argv is None else argv)
    new = to_json(recipe)
    old = _read(path / _CONFIG)
    if old is not None:
        lines = difference(old['recipe'], new)
        if not lines:
            _check_writable(path)
            return 'resumed'
        if any(child.name != _CONFIG for child in path.iterdir()):
            lines = [line for line in lines if re.match(rf'({"|".join(_OWN)})\b', line)]
            if not lines:
                _check_writable(path)
                return 'changed'
            more = [f'… and {len(lines) - _LINES} more'] if len(lines) > _LINES else []
            raise BadInput(
                f'{path} holds a run of another recipe; take another --workdir, or delete it:\n  '
                + '\n  '.join(lines[:_LINES] + more)
            )
    _check_writable(path)
    write_config(path, recipe, argv)
    return 'new'


def write_config(path: str | os.PathLike, recipe: Recipe, argv: Sequence[str] | None = None) -> None:
    """Writes config.json, in one move: a kill leaves no half of it."""
    path, argv = pathlib.Path(path), list(sys.argv if argv is None else argv)
    config = {
        'recipe': to_json(recipe),
        'seed': recipe.seed,
        'git_commit': git_commit(_checkout(argv)),
        'versions': versions(),
        'command': [_program(argv), *argv[1:]],
    }
    part = path / (_CONFIG + '.part')
    part.write_text(json.dumps(config, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')
    part.replace(path / _CONFIG)


def _read(file: pathlib.Path) -> dict[str, Any] | None:
    if not file.exists():
        return None
    try:
        config = json.loads(file.read_text(encoding='utf-8'))
        return {'recipe': config['recipe']}
    except (ValueError, TypeError, KeyError) as error:
        raise BadInput(f'{file} is broken ({error!r}): take another --workdir, or delete it') from error


def _check_writable(path: pathlib.Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / '.writable'
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = f'cannot write to the workdir {path} ({error.strerror}): take another --workdir'
        raise PermissionError(reason) from error


def _program(argv: Sequence[str]) -> str:
    name = pathlib.Path(argv[0]).name  # without its folder, which says nothing elsewhere
    return 'r1jax' if name == '__main__.py' else name


def _checkout(argv: Sequence[str]) -> pathlib.Path:
    """The folder of the command's experiment, or where we are."""
    return next((pathlib.Path(arg).parent for arg in argv[1:] if arg.endswith('.py')), pathlib.Path())


def git_commit(folder: pathlib.Path) -> str | None:
    """Commit of the checkout that holds the folder, with `+dirty` if tracked files were changed; None without git."""
    try:
        commit = _git(folder, 'rev-parse', 'HEAD')
        dirty = _git(folder, 'status', '--porcelain', '--untracked-files=no')
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ('+dirty' if dirty else '')


def _git(folder: pathlib.Path, *command: str) -> str:
    call = ['git', '-C', str(folder), *command]
    return subprocess.run(call, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def versions() -> dict[str, str]:
    """Of Python and of the packages that a result depends on."""
    found = {'python': platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # run from a checkout that is not installed
            continue
    return found
