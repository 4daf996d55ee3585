"""`r1jax new`: what it writes runs, and passes its own test."""

import os
import pathlib
import subprocess
import sys

import pytest

from r1jax import cli, settings
from r1jax.checks import validate

ROOT = pathlib.Path(__file__).parents[1]


def test_what_is_written_can_run(tmp_path, capsys):
    assert cli.main(['new', 'shorter', '--directory', str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f'r1jax run {tmp_path / "shorter.py"} --workdir runs/shorter' in said
    recipe = settings.load_recipe(tmp_path / 'shorter.py')
    assert recipe.name == 'shorter'
    validate(recipe, 1)


@pytest.mark.slow
def test_its_own_test_passes(tmp_path):
    assert cli.main(['new', 'mine', '--directory', str(tmp_path)]) == 0
    env = os.environ | {'PYTHONPATH': os.pathsep.join([str(ROOT), str(tmp_path)]), 'XLA_FLAGS': ''}
    command = [
        sys.executable,
        '-m',
        'pytest',
        '-q',
        '-p',
        'no:cacheprovider',
        '-p',
        'no:xdist',
        str(tmp_path / 'test_mine.py'),
    ]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '3 passed' in done.stdout


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('my-own', "'my-own' cannot name an experiment: take letters, digits and _, such as 'my_own'"),
        ('class', "such as 'my_class'"),
        ('2nd', "such as 'my_2nd'"),
        ('taken', 'taken.py is there already: take another name, or remove it'),
    ],
)
def test_names_that_will_not_do(tmp_path, capsys, name, message):
    (tmp_path / 'test_taken.py').touch()
    assert cli.main(['new', name, '--directory', str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ['test_taken.py']
