"""A recipe written down: how config.json holds it, and how two of them differ.

A workdir belongs to one recipe. `to_json` is what tells recipes apart, so it must say everything that changes a result:
hence functions are written by name, and what has no name is refused.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from collections.abc import Mapping
from typing import Any

from r1jax import config
from r1jax.settings import BadInput, join, label


def to_json(value: Any, path: str = '') -> Any:
    """Writes a recipe (or what is at `path` in one) as JSON values.

    A dataclass becomes `{'type': 'module:Class', …fields}`, a function or class `'module:qualname'`, a tuple a list.

    Raises:
      BadInput: something cannot be found again by a name: a lambda, a closure, an object that is no dataclass.
    """
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_json(getattr(value, f.name), join(path, f.name)) for f in dataclasses.fields(value)}
        return {'type': _name(type(value)), **fields}
    if isinstance(value, (tuple, list)):
        return [to_json(item, join(path, label(item, i))) for i, item in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: to_json(item, join(path, key)) for key, item in value.items()}
    named = inspect.isclass(value) or (inspect.isroutine(value) and not inspect.ismethod(value))
    if named and '<' not in value.__qualname__:  # as in <lambda> and <locals>
        return _name(value)
    raise BadInput(
        f'{path or "recipe"} cannot be written to config.json: {value!r} has no name to find it by; '
        'use a function defined at the top of a module, or a frozen dataclass with __call__'
    )


def _name(value: Any) -> str:
    module = value.__module__
    if module.startswith(f'{config.__name__}.'):  # settings are public in the package, whichever of its files has them
        module = config.__name__
    return f'{module}:{value.__qualname__}'


_ABSENT = object()


def difference(old: Any, new: Any, path: str = '') -> list[str]:
    """Compares two writings of `to_json`, `old` from a workdir and `new` of now.

    Returns:
      A line for each setting that differs, by the path that `--set` takes; none if the two are equal. For example
      `zero.optim.learning_rate: 0.0001 (workdir) != 0.0002 (now)`.
    """
    old, new = _by_name(old), _by_name(new)
    if isinstance(old, dict) and isinstance(new, dict) and old.get('type') == new.get('type'):
        lines = [
            line
            for name in dict.fromkeys([*old, *new])
            for line in difference(old.get(name, _ABSENT), new.get(name, _ABSENT), join(path, name))
        ]
        if not lines and list(old) != list(new):  # the same things in another order
            lines = [f'{path}: {", ".join(old)} (workdir) != {", ".join(new)} (now)']
        return lines
    if type(old) is type(new) and old == new:
        return []
    return [f'{path or "recipe"}: {_brief(old)} (workdir) != {_brief(new)} (now)']


def _by_name(value: Any) -> Any:
    """A list of dataclasses as a dict by the names that paths use; anything else as it is."""
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return {item.get('name') or str(i): item for i, item in enumerate(value)}
    return value


def _brief(value: Any) -> str:
    if value is _ABSENT:
        return 'absent'
    if isinstance(value, dict):
        return value['type'].rpartition(':')[2] if 'type' in value else ', '.join(value)
    return json.dumps(value, ensure_ascii=False)
