"""The site: `pip install -e '.[docs]'`, then `sphinx-build -W docs build/docs`. What is in it is listed in index.md.

Pages are the Markdown of this folder, three of the repository's root, the notebooks of `notebooks/` where there are any, with their outputs
as they were committed, and docstrings. Sphinx reads nothing outside its folder, so `gathered` copies what is: into docs/project and
docs/notebooks, which git ignores.
"""

import importlib.util
import pathlib
import re
import shutil
import sys

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

import docstrings  # noqa: E402

import r1jax  # noqa: E402

project, author = 'r1jax', 'the authors of r1jax'
version = release = r1jax.__version__
extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.autosummary', 'sphinx.ext.viewcode', 'sphinx.ext.mathjax']

nb_execution_mode = 'off'  # outputs are committed, and the notebooks have tests of their own
myst_enable_extensions = ['dollarmath']
myst_fence_as_directive = ['math']  # ```math, as GitHub has it
myst_heading_anchors = 3

autosummary_generate = True
autodoc_member_order = 'bysource'
autodoc_default_options = {'members': True, 'undoc-members': True}
autodoc_typehints = 'none'  # they stand in the signatures' own words: shapes and units are in the docstrings
# Optional packages, imported where they are used; what of them is not here need not be for its page
autodoc_mock_imports = [
    name
    for name in (
        'httpx2',
        'lm_eval',
        'math_verify',
        'latex2sympy2_extended',
        'sympy',
        'pyarrow',
        'reasoning_gym',
        'gguf',
        'wandb',
    )
    if importlib.util.find_spec(name) is None
]

html_theme = 'sphinx_book_theme'
html_title = f'r1jax {release}'
html_theme_options = {'show_toc_level': 2, 'use_download_button': False}
linkcheck_timeout = 30
linkcheck_ignore = [r'http://(localhost|127\.0\.0\.1)[:/].*']

PAGES = ('README.md', 'ARCHITECTURE.md', 'CHANGELOG.md', 'CONTRIBUTING.md')  # of the root
_LINK = re.compile(r'(?<=\]\()(?!\w+:|#|/)[^)\s]+(?=\))')


def gathered() -> None:
    """Copies pages and notebooks from outside this folder into it, with their links as they are from there."""
    for name in ('project', 'notebooks'):
        shutil.rmtree(HERE / name, ignore_errors=True)
        (HERE / name).mkdir()
    for name in PAGES:
        text = _LINK.sub(lambda match: from_project(match[0]), (ROOT / name).read_text(encoding='utf-8'))
        (HERE / 'project' / name).write_text(text, encoding='utf-8')
    found = sorted((ROOT / 'notebooks').glob('*.ipynb'))
    for path in found:
        text = path.read_text(encoding='utf-8').replace('](../', '](../../').replace('](../../docs/', '](../')
        (HERE / 'notebooks' / path.name).write_text(text, encoding='utf-8')
    listed = '\n'.join(['```{toctree}', ':maxdepth: 1', '', *(path.stem for path in found), '```'])
    text = listed if found else 'There are none in this checkout.'
    (HERE / 'notebooks' / 'index.md').write_text(f'# Notebooks\n\n{text}\n', encoding='utf-8')


def from_project(target: str) -> str:
    """A link of a page in the root, as it is from docs/project."""
    if target.startswith('docs/'):
        return f'../{target.removeprefix("docs/")}'
    if target.startswith('notebooks/'):
        return f'../{target.replace("README.md", "index.md")}'
    return target if target.partition('#')[0] in PAGES else f'../../{target}'


def within(app, name: str, content: list[str]) -> None:
    """Sphinx's event `source-read`: links of this folder's pages to those that were gathered."""
    for page in PAGES if '/' not in name else ():
        content[0] = content[0].replace(f'](../{page}', f'](project/{page}')


gathered()


def setup(app) -> None:
    app.connect('autodoc-process-docstring', docstrings.process)
    app.connect('source-read', within)
