"""The `r1jax` command: exit statuses, and bad input refused in one line before training starts."""

import pathlib
import resource
import subprocess
import sys

import pytest
import toy

import r1jax
from r1jax.cli import main
from r1jax.settings import BadInput
from r1jax.train import stage

TOY = toy.__file__


@pytest.fixture
def runs(monkeypatch):
    """Replaces training by a list of its calls."""
    calls = []
    monkeypatch.setattr(stage, 'run', lambda recipe, workdir, **chosen: calls.append((recipe, workdir, chosen)))
    return calls


def refused(capsys, *argv: str) -> str:
    """Runs a command that must fail as bad input; returns its one line."""
    assert main([*map(str, argv)]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith('r1jax: error: ')
    assert err.count('\n') == 1
    return err.removeprefix('r1jax: error: ').rstrip('\n')


def experiment(folder: pathlib.Path, body: str) -> pathlib.Path:
    """A variant of the toy experiment, whose `recipe()` ends in `body`."""
    text = (
        f'import dataclasses\nimport toy\nfrom r1jax.data import datasets\ndef recipe():\n    r = toy.recipe()\n{body}'
    )
    path = folder / 'variant.py'
    path.write_text(text, encoding='utf-8')
    return path


def with_examples(folder: pathlib.Path, examples: str) -> pathlib.Path:
    return experiment(
        folder,
        f'    source = dataclasses.replace(r.stages[0].source, examples={examples})\n'
        '    return dataclasses.replace(r, stages=(dataclasses.replace(r.stages[0], source=source),))\n',
    )


def test_run_hands_over_the_resolved_recipe(runs):
    argv = f'run {TOY} --workdir w --from zero --set zero.steps=7 mesh.data=2 --set zero.optim.b1=0.5 --seed 3'
    assert main(argv.split()) == 0
    ((recipe, workdir, chosen),) = runs
    assert (recipe.stages[1].steps, recipe.mesh.data, recipe.stages[1].optim.b1, recipe.seed) == (7, 2, 0.5, 3)
    assert (workdir, chosen) == (pathlib.Path('w'), {'stage': None, 'first': 'zero', 'profile': None})


def test_the_default_workdir_has_the_recipes_name(runs):
    assert main(['run', TOY, '--stage', 'base']) == 0
    assert runs[0][1:] == (pathlib.Path('runs/toy'), {'stage': 'base', 'first': None, 'profile': None})


@pytest.mark.parametrize(
    ('raised', 'status', 'shown'),
    [
        (BadInput('x is y'), 2, 'r1jax: error: x is y\n'),
        (KeyboardInterrupt(), 130, '\nr1jax: interrupted; the same command goes on from the last checkpoint\n'),
        (
            ValueError('a bug'),
            1,
            'ValueError: a bug\nr1jax: failed; the same command goes on from the last checkpoint\n',
        ),
        (
            PermissionError('no'),
            1,
            'PermissionError: no\nr1jax: failed; the same command goes on',
        ),  # on the way, it is no bad input
        (ImportError('no module x'), 1, 'ImportError: no module x\nr1jax: failed; the same command goes on'),
    ],
)
def test_the_exit_status_says_whose_fault_it_was(monkeypatch, capsys, raised, status, shown):
    def run(*_, **__):
        raise raised

    monkeypatch.setattr(stage, 'run', run)
    assert main(['run', TOY]) == status
    err = capsys.readouterr().err
    assert shown in err
    assert ('Traceback' in err) == (status == 1)


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        ('missing.py', 'no experiment at missing.py'),
        (f'{TOY} --set zero.stps=3', 'zero has no stps; did you mean steps?'),
        (f'{TOY} --set zero.steps=x', "zero.steps takes an integer, not 'x'"),
        (f'{TOY} --stage zerro', 'the recipe has no stage zerro; did you mean zero?'),
        (f'{TOY} --set zero.source.minibatches=3', 'zero.source: questions×samples = 4×4 must be a multiple of'),
        (f'{TOY} --set base.rows.per_microbatch=3 mesh.data=2', 'base.rows.per_microbatch=3 must be a multiple of'),
        (f'{TOY} --set mesh.data=16', 'mesh data×fsdp×tensor = 16×1×1 needs 16 devices, 8 are here'),
        (f'{TOY} --set model.context=20', 'zero.source.sample: max_prompt + max_tokens = 16 + 16 = 32 exceeds'),
        (f'{TOY} --set zero.source.problems.prompt=12345678901234567', 'stage zero: the prompt of problem 0 has 17'),
        (f'{TOY} --set base.source.examples.size=0', 'stage base: '),
    ],
)  # fmt: skip
def test_bad_settings_are_one_line(tmp_path, capsys, argv, message):
    assert refused(capsys, 'run', *argv.split(), '--workdir', tmp_path / 'w').startswith(message)
    assert not (tmp_path / 'w' / 'metrics.jsonl').exists()


def test_a_broken_experiment_is_one_line(tmp_path, capsys):
    line = refused(capsys, 'run', experiment(tmp_path, '    return nothing\n'))
    assert line == f"{tmp_path}/variant.py:6: NameError: name 'nothing' is not defined"


def test_a_broken_json_line_is_told_with_its_number(tmp_path, capsys):
    file = tmp_path / 'texts.jsonl'
    file.write_text('{"prompt": "1", "response": "2"}\n{"prompt": \n')
    path = with_examples(tmp_path, f'datasets.JSONLinesExamples({str(file)!r})')
    assert f'{file}:2: not a JSON line' in refused(capsys, 'run', path, '--workdir', tmp_path / 'w')
    file.write_text('')
    assert 'empty' in refused(capsys, 'run', path, '--workdir', tmp_path / 'w')


def test_a_missing_extra_is_told_with_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'reasoning_gym', None)
    path = with_examples(tmp_path, "datasets.ReasoningGym('chain_sum', size=4, seed=0)")
    assert "pip install 'r1jax[tasks]'" in refused(capsys, 'run', path, '--workdir', tmp_path / 'w')


def test_a_truncated_weights_file_is_one_line(tmp_path, capsys):
    file = tmp_path / 'model.gguf'
    file.write_bytes(b'GGUF\x03\x00\x00\x00')
    line = refused(capsys, 'run', TOY, '--set', f'base.start={file}', '--workdir', tmp_path / 'w')
    assert 'model.gguf' in line
    line = refused(capsys, 'run', TOY, '--set', f'base.start={tmp_path}/none.gguf', '--workdir', tmp_path / 'w2')
    assert 'none.gguf' in line


def test_an_unwritable_workdir_is_one_line(tmp_path, capsys):
    (tmp_path / 'file').touch()
    line = refused(capsys, 'run', TOY, '--workdir', tmp_path / 'file' / 'w')
    assert line.startswith(f'cannot write to the workdir {tmp_path}/file/w')


def test_report_of_what_is_no_workdir_is_one_line(tmp_path, capsys):
    assert refused(capsys, 'report', tmp_path) == f'{tmp_path} is no workdir: it is empty'


def test_version_and_usage(capsys):
    assert main(['--version']) == 0
    assert capsys.readouterr().out == f'r1jax {r1jax.__version__}\n'
    for argv, status in (['run', '--help'], 0), (['run'], 2), (['frobnicate'], 2), (['run', TOY, '--seed', 'x'], 2):
        with pytest.raises(SystemExit) as error:
            main(argv)
        assert error.value.code == status


def test_help_is_fast():
    def seconds(*command):
        """Of processor time, which a busy machine does not stretch."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    helped, bare = (min(seconds(*each) for _ in range(3)) for each in (['-m', 'r1jax', 'run', '--help'], ['-c', '']))
    assert helped - bare < 0.5
