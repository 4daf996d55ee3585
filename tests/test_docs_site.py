"""What the site does to docstrings and links before sphinx reads them; .ci/run builds it with warnings as errors."""

import importlib.util
import re

import pages


def loaded(name: str):
    spec = importlib.util.spec_from_file_location(f'docs_{name}', pages.DOCS / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


docstrings = loaded('docstrings')

WRITTEN = """GRPO (R1 report eq. 1).

Of `Part`s, with 1/(B·|o|) and **kwargs:

    loss = grpo(logp, batch)    # *one* call

- first, which goes on
  in the next line
- second

Args:
  logp: f32[B,T], nats;
    0 on the prompt.

Raises:
  ValueError: `kl` is unknown.
"""

READ = r"""GRPO (R1 report eq. 1).

Of ``Part``\ s, with 1/(B·\|o\|) and \*\*kwargs:

::

        loss = grpo(logp, batch)    # *one* call

- first, which goes on
  in the next line
- second

**Args**

- ``logp``: f32[B,T], nats;
  0 on the prompt.

**Raises**

- ``ValueError``: ``kl`` is unknown.
"""


def test_docstrings_are_read_as_they_are_meant():
    assert '\n'.join(docstrings.rewritten(WRITTEN.splitlines())).strip() == READ.strip()


def test_the_reference_names_modules_that_are_there():
    text = (pages.DOCS / 'reference.md').read_text(encoding='utf-8')
    named = re.findall(r'^   (r1jax[\w.]+)$', text, re.MULTILINE)
    assert len(named) > 30
    for name in named:
        path = pages.ROOT.joinpath(*name.split('.'))
        assert path.with_suffix('.py').is_file() or (path / '__init__.py').is_file(), name


def test_each_setting_that_is_public_stands_in_the_reference():
    """The files of r1jax.config that it shows define all that `from r1jax.config import …` gives."""
    shown = re.findall(r'\{literalinclude\} \.\./(\S+)', (pages.DOCS / 'reference.md').read_text(encoding='utf-8'))
    texts = ''.join((pages.ROOT / path).read_text(encoding='utf-8') for path in shown)
    from r1jax import config

    missing = [
        name for name in config.__all__ if not re.search(rf'^(?:class|def) {name}\b|^{name}\b', texts, re.MULTILINE)
    ]
    assert not missing
