"""Notebooks: what is committed was executed, is what its source makes, and says nothing of the machine; and each runs at the tiny size."""

import importlib.util
import json
import os
import pathlib
import re

import pytest

HERE = pathlib.Path(__file__).parents[1] / 'notebooks'
_spec = importlib.util.spec_from_file_location('notebooks_make', HERE / 'make.py')  # there are other files called make
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)

NAMES = make.names()
# Folders that only a machine has; a notebook's own are relative
PATHS = re.compile(r'(?<![\w.:/])/(?:home|root|tmp|usr|work|content|Users|opt|var|private|mnt)/|site-packages')


def committed(name: str) -> dict:
    return json.loads((HERE / f'{name}.ipynb').read_text(encoding='utf-8'))


def printed(notebook: dict) -> str:
    """All texts in the outputs."""
    found = []
    for cell in notebook['cells']:
        for output in cell.get('outputs', ()):
            found += [output.get('text', ''), *(v for k, v in output.get('data', {}).items() if k.startswith('text/'))]
    return '\n'.join(text if isinstance(text, str) else ''.join(text) for text in found)


def code(notebook: dict) -> list[dict]:
    return [cell for cell in notebook['cells'] if cell['cell_type'] == 'code']


def test_all_are_there():
    assert len(NAMES) > 1
    listed = re.findall(r'\((\w+)\.ipynb\)', (HERE / 'README.md').read_text(encoding='utf-8'))
    assert sorted(listed) == NAMES == sorted(path.stem for path in HERE.glob('*.ipynb'))


@pytest.mark.parametrize('name', NAMES)
def test_it_is_what_its_source_makes(name):
    first = (make.SOURCE / 'first_cell.py').read_text(encoding='utf-8').strip('\n')
    source = make.cells((make.SOURCE / f'{name}.py').read_text(encoding='utf-8'))
    want = [(is_code, list(tags), first if 'first' in tags else text) for is_code, tags, text in source]
    notebook = committed(name)
    cells, note = notebook['cells'], make.note(notebook['metadata']['r1jax']['size'])
    assert ''.join(cells[0]['source']).endswith(note)
    cells[0]['source'] = ''.join(cells[0]['source']).removesuffix(note)
    got = [(c['cell_type'] == 'code', c['metadata'].get('tags', []), ''.join(c['source'])) for c in cells]
    assert got == want, f'python notebooks/make.py {name}'


@pytest.mark.parametrize('name', NAMES)
def test_it_installs_and_has_one_parameter(name):
    cells = code(committed(name))
    assert cells[0]['metadata']['tags'] == ['first'] and "'pip', 'install'" in ''.join(cells[0]['source'])
    tagged = [cell for cell in cells if 'parameters' in cell['metadata'].get('tags', ())]
    assert tagged == [cells[1]]
    default = 'full' if name == 'r1_zero_colab' else 'small'
    assert f"\nSIZE = os.environ.get('{make.SIZE}', '{default}')" in ''.join(tagged[0]['source'])


@pytest.mark.parametrize('name', NAMES)
def test_it_was_executed_from_top_to_bottom(name):
    notebook = committed(name)
    assert [cell['execution_count'] for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    assert notebook['metadata']['r1jax']['size'] in ('tiny', 'small', 'full')
    outputs = [output for cell in code(notebook) for output in cell['outputs']]
    assert outputs and not [output for output in outputs if output['output_type'] == 'error']
    if name == 'r1_zero_colab':
        assert 'outputs below are not of Qwen' in ''.join(notebook['cells'][0]['source'])


@pytest.mark.parametrize('name', NAMES)
def test_its_outputs_say_nothing_of_the_machine_or_the_clock(name):
    text = printed(committed(name))
    assert not PATHS.search(text) and str(HERE.parent) not in text
    assert 's/step' not in text and 'tokens/s' not in text


def test_what_is_kept_of_outputs():
    v4 = pytest.importorskip('nbformat.v4')

    def said(text, name='stdout'):
        return v4.new_output('stream', name=name, text=text)

    drawn = v4.new_output('display_data', data={'text/plain': '<Figure>'})
    outputs = [
        said('zero, before: 22 %\n'),
        said('zero 1/9  0.7 s/step\n'),
        said('careful\n', 'stderr'),
        drawn,
        said('9 '),
    ]
    kept = list(make.settled(outputs, progress=False))
    assert [o.get('text') for o in kept] == ['zero, before: 22 %\nzero 1/9  0.7 s/step\n', None, '9 ']
    (one,) = make.settled(outputs[:3], progress=True)
    assert one['text'] == 'zero, before: 22 %\n'


def test_a_source_that_is_none():
    with pytest.raises(ValueError, match="a source begins with a cell, not with 'import os'"):
        list(make.cells('import os\n# %%\n'))
    with pytest.raises(ValueError, match="a line of text must be a comment: 'words'"):
        list(make.cells('# %% [markdown]\n# text\nwords\n'))


@pytest.fixture
def environment(monkeypatch):
    """As a user has it: one device. Compiled programs are kept for the next run, where `conftest` says."""
    pytest.importorskip('nbclient')
    monkeypatch.setenv('XLA_FLAGS', '')
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(HERE.parent), os.environ.get('PYTHONPATH', '')]))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize('name', NAMES)
def test_it_runs_at_the_tiny_size(name, tmp_path, environment):
    made = make.notebook(name)
    make.execute(made, 'tiny', tmp_path)
    assert all(cell['execution_count'] for cell in code(made))
    assert not PATHS.search(printed(made))


@pytest.mark.slow
def test_a_cell_that_fails_is_told(tmp_path, environment):
    from nbclient.exceptions import CellExecutionError

    made = make.notebook('inside_grpo')
    made.cells = [cell for cell in made.cells if cell.cell_type == 'code'][:1]
    made.cells[0].source = 'assert 1 + 1 == 3'
    with pytest.raises(CellExecutionError, match='AssertionError'):
        make.execute(made, 'tiny', tmp_path)
