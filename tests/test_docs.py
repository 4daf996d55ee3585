"""The Python of the pages in docs/ runs as it stands, and prints what they say."""

import pathlib
import re

import pytest

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
    helpful, safe, dry, first, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r'\[ *-?\d+\.\d+ +-10\. *\]', helpful) and len(re.findall(r'0?\.\d+', safe)) == 2
    assert dry in page and first in page
    assert last.startswith("100 0.0 {'stored': 0, 'calls': 7, 'answered': 400")


PRINTING = {'judge.md'}  # pages whose output a test of their own compares


@pytest.mark.parametrize('name', sorted(p.name for p in DOCS.glob('*.md') if p.name not in PRINTING))
def test_pages_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(name)
