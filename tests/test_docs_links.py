"""What the pages point at is there: files, anchors, and the names of modules, functions, tests and files that stand in backticks.

Addresses of other sites are sphinx's to check, by hand: CONTRIBUTING.md says how.
"""

import dataclasses
import functools
import re

import pages
import pytest

from r1jax import config

PAGES = pages.everything()
LINK = re.compile(r'!?\[[^\]]*\]\(([^)\s]+)\)')
CODE = re.compile(r'(?<!`)`([^`\n]+)`(?!`)')
FOLDERS = ('r1jax', 'tests', 'benchmarks', 'experiments', 'docs', 'launch', 'notebooks')
MADE = ('docs/api', 'docs/project', 'docs/notebooks', 'notebooks')  # by the build of the site, or not in every checkout


def name(page):
    return str(page.relative_to(pages.ROOT))


@pytest.mark.parametrize('page', PAGES, ids=name)
def test_links_lead_somewhere(page):
    for target in LINK.findall(pages.prose(page)):
        if re.match(r'\w+:', target):
            assert target.startswith(('https://', 'http://localhost', 'mailto:')), target
            continue
        path, _, anchor = target.partition('#')
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f'{name(page)} links {target}: no such file'
        assert not anchor or anchor in pages.headings(found), (
            f'{name(page)} links {target}: {sorted(pages.headings(found))}'
        )


@pytest.mark.parametrize('page', pages.written(), ids=name)
def test_what_stands_in_backticks_exists(page):
    """Dotted names of r1jax, fields of settings, metrics, files of the repository, and tests by their names."""
    for code in CODE.findall(pages.prose(page)):
        if match := re.fullmatch(r'(r1jax(?:\.\w+)+)(?:\(.*\))?', code):
            assert defined(match[1]), f'{name(page)}: {code} is not in r1jax'
        elif re.fullmatch(rf'(?:{"|".join(FOLDERS)})/[\w./-]+', code) and not code.startswith(MADE):
            assert (pages.ROOT / code).exists(), f'{name(page)}: {code} is no file'
        elif match := re.fullmatch(r'(test_\w+)', code):
            assert match[1] in names_of_tests(), f'{name(page)}: there is no {code}'
        elif re.fullmatch(r'test_\w+\.py', code):
            assert (pages.ROOT / 'tests' / code).exists(), f'{name(page)}: there is no tests/{code}'
        elif (match := re.match(r'([A-Z]\w+)\.(\w+)', code)) and match[1] in config.__all__:
            assert hasattr(getattr(config, match[1]), match[2]) or match[2] in fields(match[1]), f'{name(page)}: {code}'
        elif re.fullmatch(r'(?:policy|rollout)/[a-z_]+', code):
            assert code.removesuffix('_') in sources(), f'{name(page)}: there is no metric {code}'


def test_what_is_not_there_is_found():
    assert defined('r1jax.rl.loss.grpo') and defined('r1jax.config.GRPO') and defined('r1jax.sample.sample')
    assert not defined('r1jax.rl.loss.gone') and not defined('r1jax.gone.grpo')
    assert 'test_what_is_not_there_is_found' in names_of_tests() and 'test_that_nobody_wrote' not in names_of_tests()


@pytest.mark.parametrize('page', sorted(pages.DOCS.glob('*.md')), ids=name)
def test_the_site_has_the_page(page):
    """A toctree names it."""
    listed = {line for block in pages.blocks(pages.DOCS / 'index.md') for line in block.code.split('\n')}
    assert page.stem in listed | {'index'}, f'name {page.stem} in a toctree of docs/index.md'


@functools.cache
def defined(dotted: str) -> bool:
    """Whether a module of r1jax is so named, or has this name in it, its classes or what it imports."""
    parts = dotted.split('.')
    for cut in range(len(parts), 0, -1):
        path = pages.ROOT.joinpath(*parts[:cut])
        for file in (path.with_suffix('.py'), path / '__init__.py'):
            if file.is_file():
                text = file.read_text(encoding='utf-8')
                return all(re.search(rf'\b{part}\b', text) for part in parts[cut:])
    return False


def fields(setting: str) -> set[str]:
    value = getattr(config, setting)
    return {field.name for field in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else set()


@functools.cache
def sources() -> str:
    return ''.join(path.read_text(encoding='utf-8') for path in (pages.ROOT / 'r1jax').rglob('*.py'))


@functools.cache
def names_of_tests() -> set[str]:
    text = ''.join(path.read_text(encoding='utf-8') for path in (pages.ROOT / 'tests').glob('test_*.py'))
    return set(re.findall(r'^def (test_\w+)', text, re.MULTILINE))
