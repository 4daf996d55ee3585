"""docs/data.md runs as it stands and prints what it says; its table of sets is the one in the code."""

import pathlib
import re

from r1jax.data.sets import SETS

PAGE = (pathlib.Path(__file__).parents[1] / 'docs' / 'data.md').read_text(encoding='utf-8')


def test_the_page_runs_and_prints_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    code = '\n'.join(re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL))
    exec(compile(code, 'docs/data.md', 'exec'), {})
    printed = capsys.readouterr().out.splitlines()
    page = ' '.join(PAGE.split())
    assert len(printed) == 5
    for line in printed:
        assert line in page, line


def test_the_table_of_sets_is_that_of_the_code():
    rows = [line for line in PAGE.splitlines() if line.startswith('| `') and '/' in line]
    assert rows == [row(each) for each in SETS]


def row(each) -> str:
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
