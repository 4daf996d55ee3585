"""`r1jax new NAME`: a small experiment with its own reward, and a test of it, to change.

What is written runs as it is, in minutes on two cores: `experiment.txt` and `test.txt` beside this file, with the name filled in.
"""

from __future__ import annotations

import keyword
import pathlib
import string

from r1jax.settings import BadInput

HERE = pathlib.Path(__file__).parent
FILES = {'{}.py': 'experiment.txt', 'test_{}.py': 'test.txt'}


def write(name: str, directory: pathlib.Path) -> list[pathlib.Path]:
    """Writes DIRECTORY/NAME.py and DIRECTORY/test_NAME.py; returns their paths.

    Raises:
      BadInput: the name is none of a Python module, or a file is there already (nothing is written then).
    """
    if not name.isidentifier() or keyword.iskeyword(name):
        raise BadInput(f'{name!r} cannot name an experiment: take letters, digits and _, such as {_near(name)!r}')
    files = {directory / target.format(name): HERE / source for target, source in FILES.items()}
    for path in files:
        if path.exists():
            raise BadInput(f'{path} is there already: take another name, or remove it')
    directory.mkdir(parents=True, exist_ok=True)
    for path, source in files.items():
        text = string.Template(source.read_text(encoding='utf-8')).substitute(name=name)
        path.write_text(text, encoding='utf-8')
    return list(files)


def _near(name: str) -> str:
    """A name that would do."""
    near = ''.join(c if c.isalnum() or c == '_' else '_' for c in name).strip('_') or 'mine'
    return near if near.isidentifier() and not keyword.iskeyword(near) else f'my_{near}'
