"""The Python of the pages in docs/ runs as it stands, and prints what they say."""

import pathlib
import re

import pytest

from r1jax.data import sets

DOCS = pathlib.Path(__file__).parents[1] / 'docs'


def run(name: str) -> str:
    """Runs a page's Python blocks, in order; returns the page."""
    page = (DOCS / name).read_text(encoding='utf-8')
    code = '\n'.join(re.findall(r'```python\n(.*?)```', page, re.DOTALL))
    exec(compile(code, f'docs/{name}', 'exec'), {})
    return page


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


@pytest.mark.parametrize('name', sorted(p.name for p in DOCS.glob('*.md') if p.name not in PRINTING))
def test_pages_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(name)


def test_models_prints_what_it_says(capsys):
    page = run('models.md')
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2
    for line in printed:
        assert f'It prints `{line}`' in page, line
