"""docs/judge.md runs as it stands and prints what it says."""

import pathlib
import re

PAGE = (pathlib.Path(__file__).parents[1] / 'docs' / 'judge.md').read_text(encoding='utf-8')


def test_the_page_runs_and_prints_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = '\n'.join(re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL))
    exec(compile(code, 'docs/judge.md', 'exec'), {})
    helpful, safe, dry, first, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r'\[ *-?\d+\.\d+ +-10\. *\]', helpful) and len(re.findall(r'0?\.\d+', safe)) == 2
    assert dry in PAGE and first in PAGE
    assert last.startswith("100 0.0 {'stored': 0, 'calls': 7, 'answered': 400")
