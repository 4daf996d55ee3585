"""The pages run as they stand, and print what they say: Python by default, those with commands among the slow tests."""

import re
import sys

import pages
import pytest

from r1jax.data import sets

ROOT, DOCS = pages.ROOT, pages.DOCS


def run(name: str) -> str:
    """Runs a page's Python blocks, in order; returns the page."""
    code = '\n'.join(b.code for b in pages.blocks(DOCS / name) if b.language == pages.PYTHON and b.reason is None)
    exec(compile(code, f'docs/{name}', 'exec'), {})
    return (DOCS / name).read_text(encoding='utf-8')


def test_judge_prints_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = run('judge.md')
    helpful, safe, dry, first, votes, kept = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r'\[ *-?\d+\.\d+ +-10\. *\]', helpful) and len(re.findall(r'0?\.\d+', safe)) == 2
    assert dry in page and first in page
    assert votes.startswith("0.0 {'stored': 0, 'calls': 7, 'answered': 400")
    assert kept == '100 0' and f'# {kept}: all' in page


def test_data_prints_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    page = ' '.join(run('data.md').split())
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 5
    for line in printed:
        assert line in page, line


def test_data_lists_the_sets_of_the_code():
    page = (DOCS / 'data.md').read_text(encoding='utf-8')
    rows = [line for line in page.splitlines() if line.startswith('| `') and '/' in line]
    assert rows == [set_row(each) for each in sets.SETS]


def set_row(each) -> str:
    use = each.use if each.use == 'train' else f'{each.use} ({each.split or "train"})'
    cells = [
        f'`{each.name}`',
        each.source,
        each.licence,
        f'{each.rows:,}',
        each.reward,
        use,
        each.checked or '–',
        each.note,
    ]
    return f'| {" | ".join(cells)} |'


PRINTING = {'data.md', 'judge.md', 'models.md'}  # pages whose output a test of their own compares
RUN = [page for page in pages.written() if page.name not in PRINTING and any(map(pages.runs, pages.blocks(page)))]
SLOW = {page for page in RUN if any(block.mark == 'run' for block in pages.blocks(page))}  # with commands


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder to follow a page in, with what a clone has; what is imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    for name in ('experiments', 'docs'):
        (tmp_path / name).symlink_to(ROOT / name)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, '__file__', None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize('page', [page for page in RUN if page not in SLOW], ids=lambda page: page.stem)
def test_pages_run(page, clone):
    pages.run(page, clone)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize('page', sorted(SLOW), ids=lambda page: page.stem)
def test_pages_with_commands_run(page, clone):
    """A person who follows the page alone gets to its end."""
    pages.run(page, clone)


def test_what_a_page_shows_is_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, 'ROOT', tmp_path)
    page = tmp_path / 'page.md'
    page.write_text('```python\nprint(1, 2.5)\n```\n\n```text\n1 …\n```\n')
    pages.run(page, tmp_path)
    other = tmp_path / 'other.md'
    other.write_text(page.read_text().replace('1 …', '2 …'))
    with pytest.raises(AssertionError, match=r'other\.md:6: it prints\n1 2\.5'):
        pages.run(other, tmp_path)


def test_models_prints_what_it_says(capsys):
    page = run('models.md')
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2
    for line in printed:
        assert f'It prints `{line}`' in page, line
