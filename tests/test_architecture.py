"""ARCHITECTURE.md says what is so: its tables are those of test_imports.py, its files are there, its hops are called as it says.

`python tests/test_architecture.py` writes the tables anew.
"""

import pathlib
import re

from test_imports import DOORS, ROOMS

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / 'ARCHITECTURE.md'


def doors() -> str:
    """A row for each door, with what comes in by it."""
    through: dict[str, list[str]] = {}
    for package, door in sorted(DOORS.items()):
        for each in [door] if isinstance(door, str) else door:
            through.setdefault(each, []).append(f'`{package}`')
    rows = [f'| `{door}` | {", ".join(packages)} |' for door, packages in sorted(through.items())]
    return '\n'.join(['| file in `r1jax` | imports |', '|---|---|', *rows])


def rooms() -> str:
    rows = [f'| `{room}` | {", ".join(f"`{n}`" for n in sorted(names)) or "–"} |' for room, names in ROOMS.items()]
    return '\n'.join(['| room | may import from |', '|---|---|', *rows])


def written(text: str) -> str:
    """The page with its tables as they are in the tests."""
    for name, table in (('doors', doors()), ('rooms', rooms())):
        text = re.sub(rf'(<!-- {name} -->\n).*?(<!-- end -->)', rf'\g<1>{table}\n\g<2>', text, flags=re.DOTALL)
    return text


def test_the_tables_are_those_of_the_imports():
    text = PAGE.read_text(encoding='utf-8')
    assert text == written(text), 'python tests/test_architecture.py writes the tables of ARCHITECTURE.md anew'


def test_a_table_that_differs_is_seen():
    text = PAGE.read_text(encoding='utf-8')
    row = '| `rl` | '
    assert text.count(row) == 1
    assert written(text.replace(row, f'{row}`train`, ')) == written(text) != text.replace(row, f'{row}`train`, ')


def test_the_hops_are_where_the_page_says():
    """Each hop that is a function is defined in the files of its row."""
    rows = re.findall(r'^\| (\d) `?(\w+)`? \| (.+?) \|', PAGE.read_text(encoding='utf-8'), re.MULTILINE)
    assert [number for number, _, _ in rows] == list('12345678')
    for _, name, files in rows[1:]:
        texts = [(ROOT / path).read_text(encoding='utf-8') for path in re.findall(r'`([^`]+\.py)`', files)]
        assert any(re.search(rf'\bdef {name}\b', text) for text in texts), name


if __name__ == '__main__':
    PAGE.write_text(written(PAGE.read_text(encoding='utf-8')), encoding='utf-8')
