"""From an experiment's path and the command line to the recipe that will run.

`load_recipe` imports the module and calls its `recipe()`; `override` then sets single fields by their paths:
`STAGE.FIELD…` for what belongs to a stage (`zero.steps`, `zero.source.rewards.format.weight`) and the plain field for
what belongs to the recipe (`mesh.data`). Neighbours go on from here: `r1jax.checks` says whether the recipe can run,
`r1jax.record` writes it down.

There is no configuration language: a recipe is Python, so an editor finds what it names, and a variant is
`dataclasses.replace`. What the user got wrong is a `BadInput`, one sentence, raised before anything compiles.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib.util
import inspect
import math
import pathlib
import sys
import traceback
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from r1jax.config import MeshConfig, Recipe, Stage


class BadInput(ValueError):
    """What the user gave cannot be run. The message is a sentence with the values and, where there is one, the fix."""


class Failed(RuntimeError):
    """A run ended on its way, by something that its user can see to. The message says what, in a sentence; the exit status is 1."""


@contextlib.contextmanager
def as_bad_input() -> Iterator[None]:
    """Turns what goes wrong with files, data and missing extras into `BadInput`: for what runs before anything expensive does."""
    try:
        yield
    except BadInput:
        raise
    except OSError as error:  # the system's own errors are numbers first
        raise BadInput(f'{error.filename}: {error.strerror}' if error.strerror else str(error)) from error
    except ImportError as error:
        if 'pip install' not in str(error):
            raise
        raise BadInput(str(error)) from error
    except ValueError as error:
        raise BadInput(str(error)) from error


def mesh_of(assignments: Sequence[str]) -> MeshConfig:
    """A mesh as a command line has it: `data=4`, `tensor=2`.

    Raises:
      BadInput: no such axis, or no positive number.
    """
    axes = [field.name for field in dataclasses.fields(MeshConfig) if isinstance(field.default, int)]
    found: dict[str, Any] = {}
    for each in assignments:
        axis, _, size = each.partition('=')
        if axis not in axes:
            raise BadInput(f'a mesh has no axis {axis}{nearest(axis, axes)}')
        if not size.isdecimal() or not int(size):
            raise BadInput(f'--mesh {each} must be AXIS=N, N devices')
        found[axis] = int(size)
    return MeshConfig(**found)


# --- loading

_experiments: set[str] = set()  # names in sys.modules that are experiments: another file may take them over


def load_recipe(path: str | pathlib.Path) -> Recipe:
    """Imports the experiment at `path` and calls its `recipe()`.

    The module is known by its file's stem, so that its functions are written to config.json as `tiny_zero:fn`, wherever
    the file lies. Its folder joins the end of `sys.path`, so that a variant can import the experiment that it varies.

    Raises:
      FileNotFoundError: there is no such file.
      ImportError: an optional dependency is missing; the message says what to install.
      BadInput: it is not an experiment, or it fails; the message has the file and line.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f'no experiment at {path}')
    if path.suffix != '.py' or not path.is_file():
        raise BadInput(f'{path} is not an experiment: give the path of a Python module (.py) that defines recipe()')
    with _blamed_on(path):
        module = _import(path)
        if not callable(getattr(module, 'recipe', None)):
            raise BadInput(f'{path} is not an experiment: it defines no function recipe()')
        recipe = module.recipe()
    if not isinstance(recipe, Recipe):
        raise BadInput(f'{path}: recipe() must return a Recipe, not {type(recipe).__name__}')
    if not isinstance(recipe.stages, tuple) or not all(isinstance(stage, Stage) for stage in recipe.stages):
        raise BadInput(f'{path}: the stages of the recipe must be a tuple of Stage, as in stages=(zero,)')
    return recipe


def chosen(recipe: Recipe, stage: str | None = None, first: str | None = None) -> tuple[Stage, ...]:
    """The stages to run: the one named `stage`, or all from `first` on, or all."""
    names = [each.name for each in recipe.stages]
    if stage and first:
        raise BadInput(f'--stage {stage} and --from {first} exclude each other: give one of the two')
    name = stage or first
    if name is None:
        return recipe.stages
    if name not in names:
        raise BadInput(f'the recipe has no stage {name}{nearest(name, names)}')
    at = names.index(name)
    return recipe.stages[at : at + 1] if stage else recipe.stages[at:]


def _import(path: pathlib.Path) -> types.ModuleType:
    name, file = path.stem, path.resolve()
    taken = sys.modules.get(name)
    ours = taken is None or name in _experiments or getattr(taken, '__file__', None) == str(file)
    if not ours or name in sys.stdlib_module_names:
        raise BadInput(f'{path} would hide the module {name}: give the experiment another file name')
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _experiments.add(name)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextlib.contextmanager
def _blamed_on(path: pathlib.Path) -> Iterator[None]:
    """Turns whatever an experiment raises into a `BadInput` with the experiment's line."""
    try:
        yield
    except BadInput:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, ImportError) and 'pip install' in str(error):
            raise  # a missing extra: its own sentence says all
        if isinstance(error, SyntaxError):
            place, text = f'{error.filename}:{error.lineno}', error.msg
        else:
            lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path.resolve())]
            place, text = f'{path}:{lines[-1]}' if lines else str(path), ' '.join(str(error).split())
        raise BadInput(f'{place}: {type(error).__name__}: {text}') from error


# --- overriding


def override(recipe: Recipe, assignments: Sequence[str]) -> Recipe:
    """Returns the recipe with `PATH=VALUE` assignments applied; those of one dataclass meet its own checks together.

    A path begins with a stage's name, or with a field of the recipe (`recipe.FIELD`, or just `FIELD` if no stage has
    that name). An element of a tuple is found by its name or its index. Values are read as the field's annotation says:
    `3e-4`, `true`, `none`, a choice of a Literal, `4,8` for a tuple. Where there is None, a dataclass is made of its fields if those
    without a default are given.

    Raises:
      BadInput: an unknown field (the message has the nearest), a value of the wrong type or that a dataclass refuses,
        or a field that has no spelling on the command line, as functions and data sets have none.
    """
    stages, fields = [stage.name for stage in recipe.stages], _fields(recipe)
    tree: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = (part.strip() for part in assignment.partition('='))
        first, *rest = path.split('.')
        if not equals or not first or not all(rest):
            raise BadInput(f'--set takes STAGE.FIELD=VALUE, not {assignment!r}')
        if first in stages:
            first, rest = 'stages', [first, *rest]
        elif first == 'recipe' and rest:
            first, *rest = rest
        if first not in fields:
            raise _unknown('', first, [*stages, *fields])
        _plant(tree, [first, *rest], text, path)
    return _apply(tree, recipe, '')


def _plant(tree: dict[str, Any], keys: Sequence[str], text: str, path: str) -> None:
    """Adds an assignment to nested dicts that have texts as leaves. A later one of the same path wins."""
    *branches, leaf = keys
    for key in branches:
        tree = tree.setdefault(key, {})
        if isinstance(tree, str):
            raise BadInput(f'--set gives {key} as a whole and also its part {path}: keep one of them')
    if isinstance(tree.get(leaf), dict):
        raise BadInput(f'--set gives {path} as a whole and also a part of it: keep one of them')
    tree[leaf] = text


def _apply(tree: Mapping[str, Any] | str, value: Any, path: str, hint: Any = None) -> Any:
    """Returns the value at `path`, annotated with `hint`, with the tree's assignments applied."""
    if isinstance(tree, str):
        return _read(tree, value, path, hint)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints, changes = typing.get_type_hints(type(value)), {}
        for name, below in tree.items():
            if name not in _fields(value):
                raise _unknown(path, name, _fields(value))
            changes[name] = _apply(below, getattr(value, name), join(path, name), hints[name])
        try:
            return dataclasses.replace(value, **changes)
        except BadInput:
            raise
        except ValueError as error:
            raise BadInput(f'{path or "recipe"}: {error}') from error
    if isinstance(value, tuple) and value:
        items, labels = list(value), [label(item, i) for i, item in enumerate(value)]
        for name, below in tree.items():
            if name not in labels and not (name.isdecimal() and int(name) < len(items)):
                raise _unknown(path, name, labels)
            i = labels.index(name) if name in labels else int(name)
            items[i] = _apply(below, items[i], join(path, labels[i]))
        return tuple(items)
    if value is None and (made := _made(tree, path, hint)) is not None:
        return made
    why = 'is None here: give it a value in the experiment' if value is None else f'is {_describe(value)}'
    raise BadInput(f'{join(path, next(iter(tree)))} cannot be set: {path} {why}')


def _made(tree: Mapping[str, Any], path: str, hint: Any) -> Any:
    """The dataclass that a field may hold, of the tree's assignments; None where there is none, or several, or they lack a value."""
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    kinds: list[Any] = [member for member in members if dataclasses.is_dataclass(member)]
    if len(kinds) != 1:
        return None
    fields = {field.name: field for field in dataclasses.fields(kinds[0])}
    absent = dataclasses.MISSING
    if any(f.default is absent and f.default_factory is absent and name not in tree for name, f in fields.items()):
        return None
    if unknown := next((name for name in tree if name not in fields), None):
        raise _unknown(path, unknown, fields)
    hints = typing.get_type_hints(kinds[0])
    try:
        return kinds[0](**{name: _apply(below, None, join(path, name), hints[name]) for name, below in tree.items()})
    except BadInput:
        raise
    except ValueError as error:
        raise BadInput(f'{path}: {error}') from error


def _read(text: str, value: Any, path: str, hint: Any) -> Any:
    """Reads a field's text as its annotation says; `value`, what the field holds now, only serves the message."""
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if types.NoneType in members and text.lower() == 'none':
        return None
    spelled = [(member, reader) for member in members if (reader := _reader(member))]
    for _, reader in spelled:
        with contextlib.suppress(ValueError, KeyError):
            return reader(text)
    if spelled:
        kinds = [_kind(member) for member, _ in spelled] + ['none'] * (types.NoneType in members)
        raise BadInput(f'{path} takes {" or ".join(kinds)}, not {text!r}')
    fix = f'set one of its fields ({", ".join(_fields(value))}) or edit' if dataclasses.is_dataclass(value) else 'edit'
    raise BadInput(f'{path} holds {_describe(value)}, which has no spelling on the command line: {fix} the experiment')


def _reader(hint: Any) -> Callable[[str], Any] | None:
    """What reads a text as `hint`, raising ValueError or KeyError; None if the command line has no spelling for it."""
    if hint is bool:
        return lambda text: {'true': True, 'false': False}[text.lower()]
    if hint is float:
        return _finite
    if hint in (int, str):
        return hint
    if typing.get_origin(hint) is typing.Literal:
        return lambda text: {str(choice): choice for choice in typing.get_args(hint)}[text]
    if typing.get_origin(hint) is tuple and all(map(_reader, _elements(hint))):
        return lambda text: _read_tuple(text, hint)
    return None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _elements(hint: Any) -> list[Any]:
    """The annotations of a tuple's elements; of `tuple[X, ...]`, one."""
    return [member for member in typing.get_args(hint) if member is not Ellipsis]


def _read_tuple(text: str, hint: Any) -> tuple[Any, ...]:
    texts, hints = [part.strip() for part in text.split(',') if part.strip()], _elements(hint)
    if Ellipsis in typing.get_args(hint):
        hints *= len(texts)
    return tuple(_reader(member)(part) for member, part in zip(hints, texts, strict=True))


def _kind(hint: Any) -> str:
    """An annotation in words, for a message."""
    if typing.get_origin(hint) is typing.Literal:
        return 'one of ' + ', '.join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        return ','.join(_kind(member) for member in _elements(hint))
    return {bool: 'true or false', int: 'an integer', float: 'a number', str: 'a text'}[hint]


# --- words for messages


def _fields(value: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(value) if field.init]


def label(item: Any, index: int) -> str:
    """How a path names an element of a tuple: by its name, or else by its index."""
    return getattr(item, 'name', None) or str(index)


def join(path: str, name: str) -> str:
    """The path of what is called `name` inside what is at `path`."""
    return name if path in ('', 'stages') else f'{path}.{name}'  # a stage's path starts with its own name


def _describe(value: Any) -> str:
    if isinstance(value, tuple):
        return f'a tuple of {len(value)}'
    if dataclasses.is_dataclass(value):
        return f'the data set {type(value).__name__}' if hasattr(value, 'load') else type(value).__name__
    return f'the function {value.__name__}' if inspect.isroutine(value) else repr(value)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: `; did you mean …? (known: …)`."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    guess = f'; did you mean {close[0]}?' if close else ''
    return f'{guess} (known: {", ".join(known) or "none"})'


def _unknown(path: str, name: str, known: Iterable[str]) -> BadInput:
    return BadInput(f'{path or "the recipe"} has no {name}{nearest(name, known)}')
