"""What is released: the wheel, made of the source archive, holds all files of the package, and the tiny experiment runs from it."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
KEPT = shutil.ignore_patterns('.*', '*.egg-info', '__pycache__', 'build', 'dist', 'runs')  # what git has, or nearly


def sh(*command, cwd, **env):
    done = subprocess.run(command, cwd=cwd, env=os.environ | env, capture_output=True, text=True)
    assert not done.returncode, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """The wheel, built from the source archive."""
    folder = tmp_path_factory.mktemp('release')
    shutil.copytree(ROOT, folder / 'source', ignore=KEPT)
    sh(sys.executable, '-m', 'build', '--outdir', folder / 'dist', folder / 'source', cwd=folder)
    assert len(list((folder / 'dist').glob('*.tar.gz'))) == 1
    (found,) = (folder / 'dist').glob('*.whl')
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_has_every_file_of_the_package(wheel):
    with zipfile.ZipFile(wheel) as file:
        inside = {name for name in file.namelist() if '.dist-info/' not in name}
    here = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / 'r1jax').rglob('*')
        if path.is_file() and '__pycache__' not in path.parts
    }
    assert inside == here


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tiny_experiment_runs_from_the_wheel(wheel, tmp_path):
    site = tmp_path / 'site'
    sh(sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--target', site, wheel, cwd=tmp_path)
    found = sh(sys.executable, '-c', 'import r1jax; print(r1jax.__file__)', cwd=tmp_path, PYTHONPATH=str(site))
    assert pathlib.Path(found.strip()) == site / 'r1jax' / '__init__.py'
    few = (
        'pretrain.steps=4',
        'zero.steps=2',
        *(f'zero.evals.{n}.problems.size=8' for n in ('held_out', 'capped', 'longer')),
    )
    command = 'run', ROOT / 'experiments' / 'tiny_zero.py', '--workdir', tmp_path / 'w', '--set', *few
    said = sh(sys.executable, '-m', 'r1jax', *command, cwd=tmp_path, PYTHONPATH=str(site))
    assert (tmp_path / 'w' / 'report.html').exists(), said
