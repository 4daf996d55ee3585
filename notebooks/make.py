"""Makes the notebooks: source/NAME.py, which is written and read, becomes NAME.ipynb, executed, which is committed too.

    python notebooks/make.py                            # all, each in its own size
    python notebooks/make.py r1_zero --size tiny        # one, in seconds
    python notebooks/make.py r1_zero --work DIR         # keeps its runs in DIR, where a second time goes on with them

A source is Python in cells that begin with `# %%`, or `# %% [markdown]` for text, which stands in comments; editors and jupytext know
the form. Tags: `["first"]` marks where source/first_cell.py goes, `["parameters"]` the cell with the one parameter, SIZE, which papermill
and the environment variable R1JAX_NOTEBOOK_SIZE set, `["progress"]` cells that print progress, of which lines with timings are not kept.

Needs the extra `notebooks`.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
SOURCE = HERE / 'source'
SIZE = 'R1JAX_NOTEBOOK_SIZE'
SIZES = {'r1_zero_colab': 'tiny'}  # that outputs are made in, where it is not 'small': a TPU is not at hand
COLAB = {'r1_zero_colab': {'accelerator': 'TPU', 'colab': {'gpuType': 'V5E1', 'provenance': []}}}
LIMIT = 3600  # seconds a cell

_HEAD = re.compile(r'^# %%(?P<kind> \[markdown\])?(?: tags=(?P<tags>\[.*\]))?$')
_TIMED = re.compile(r' s/step|tokens/s |^report: |^\S+  \d+(/\d+)?  ')  # steps' lines come every few seconds


def names() -> list[str]:
    return sorted(path.stem for path in SOURCE.glob('*.py') if path.stem != 'first_cell')


def cells(text: str) -> Iterator[tuple[bool, tuple[str, ...], str]]:
    """(whether it is code, its tags, its text) of each cell of a source.

    Raises:
      ValueError: the source begins with no cell, or a line of text is no comment.
    """
    found: list[tuple[re.Match, list[str]]] = []
    for line in text.splitlines():
        if head := _HEAD.match(line):
            found.append((head, []))
        elif not found:
            raise ValueError(f'a source begins with a cell, not with {line!r}')
        else:
            found[-1][1].append(line)
    for head, lines in found:
        code = head['kind'] is None
        if not code:
            if wrong := [line for line in lines if line and not line.startswith('#')]:
                raise ValueError(f'a line of text must be a comment: {wrong[0]!r}')
            lines = [line[1:].removeprefix(' ') for line in lines]
        yield code, tuple(json.loads(head['tags'] or '[]')), '\n'.join(lines).strip('\n')


def notebook(name: str) -> Any:
    """The notebook of a source, not executed (an `nbformat.NotebookNode`)."""
    import nbformat.v4 as v4

    made = []
    for i, (code, tags, text) in enumerate(cells((SOURCE / f'{name}.py').read_text(encoding='utf-8'))):
        if 'first' in tags:
            text = (SOURCE / 'first_cell.py').read_text(encoding='utf-8').strip('\n')
        cell = v4.new_code_cell(text) if code else v4.new_markdown_cell(text)
        cell['id'] = f'cell-{i:02}'
        cell['metadata'] = {'tags': list(tags)} if tags else {}
        made.append(cell)
    kernel = {'kernelspec': {'display_name': 'Python 3', 'language': 'python', 'name': 'python3'}}
    return v4.new_notebook(cells=made, metadata=kernel | COLAB.get(name, {}))


def note(size: str) -> str:
    """What a notebook's first cell says of its outputs."""
    nothing = ': they show that all of it runs, and nothing is learned' if size == 'tiny' else ''
    return f"\n\n*The outputs below were made with `SIZE = '{size}'`{nothing}.*"


def execute(made: Any, size: str, work: str | os.PathLike) -> None:
    """Runs a notebook's cells in their order, in the folder `work`, and puts what they print and draw into it, with a note of the size.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell failed; the message has its traceback.
    """
    from nbclient import NotebookClient

    client = NotebookClient(made, timeout=LIMIT, kernel_name='python3', record_timing=False,
                            resources={'metadata': {'path': str(work)}})  # fmt: skip
    client.execute(env=os.environ | {SIZE: size, 'PYTHONWARNINGS': 'ignore'})
    made.metadata['language_info'] = {'name': 'python'}  # not this machine's version
    made.metadata['r1jax'] = {'size': size}
    made.cells[0].source += note(size)
    for cell in made.cells:
        if cell.cell_type == 'code':
            cell.outputs = list(settled(cell.outputs, 'progress' in cell.metadata.get('tags', ())))


def settled(outputs: list, progress: bool) -> Iterator[Any]:
    """Outputs that a second run would give, too: prints that follow each other as one, without warnings and lines that have timings."""
    import nbformat.v4 as v4

    text = ''
    for output in outputs:
        if output.output_type == 'stream':
            text += output.text if output.name == 'stdout' else ''
            continue
        if text:
            yield v4.new_output('stream', name='stdout', text=text)
            text = ''
        yield output
    if progress:
        text = ''.join(line for line in text.splitlines(keepends=True) if not _TIMED.search(line))
    if text:
        yield v4.new_output('stream', name='stdout', text=text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*', help=f'of {", ".join(names())}')
    parser.add_argument('--size', help='(default: small; of r1_zero_colab tiny)')
    parser.add_argument('--work', help='where runs are kept (default: a temporary folder)')
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(names()):
        parser.error(f'there is no notebook {sorted(unknown)[0]}: take of {", ".join(names())}')
    import nbformat

    for name in asked.names or names():
        made = notebook(name)
        with tempfile.TemporaryDirectory() as temporary:
            execute(made, asked.size or SIZES.get(name, 'small'), asked.work or temporary)
        nbformat.validate(made)
        nbformat.write(made, HERE / f'{name}.ipynb')
        print(f'{name}.ipynb: {sum(cell.cell_type == "code" for cell in made.cells)} cells executed')


if __name__ == '__main__':
    main()
