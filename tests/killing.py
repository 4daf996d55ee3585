"""A run that is killed from outside, over and over, at random moments."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from r1jax.train.log import read

HERE = pathlib.Path(__file__)


def start(experiment, workdir):
    """`r1jax run` on one device, in a process of its own."""
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(HERE.parents[1]), str(HERE.parent)]), XLA_FLAGS='')
    command = [sys.executable, '-m', 'r1jax', 'run', str(HERE.parent / experiment), '--workdir', str(workdir)]
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)


def lines(workdir):
    """How far a run has come: lines of its metrics, and of what it has collected."""
    found = [workdir / 'metrics.jsonl', *(workdir / 'data').glob('*.all.jsonl*')]
    return sum(path.read_bytes().count(b'\n') for path in found if path.exists())


def killed(experiment, folder, kills, last, same):
    """Runs `experiment` undisturbed, and again with SIGKILL at `kills` random moments, whose end must be the `same`.

    last: of the lines of a whole run, the last after which to kill. same(a, b) asserts that two finished workdirs are alike.
    """
    assert start(experiment, folder / 'whole').wait() == 0
    workdir, done, rng = folder / 'killed', 0, random.Random(0)
    while done < kills:
        process, reached = start(experiment, workdir), lines(workdir)
        target = min(reached + rng.randint(0, max(3, last // kills)), last)
        while process.poll() is None and lines(workdir) <= target:
            time.sleep(0.01)
        time.sleep(rng.random() * 0.3)  # anywhere in a step, a checkpoint or an evaluation
        if process.poll() is None:
            process.kill()
        if process.wait() == -signal.SIGKILL:
            done += 1
        elif process.returncode == 0:  # it got to the end: begin a new one
            same(workdir, folder / 'whole')
            workdir = folder / f'killed-{done}'
        else:
            pytest.fail(f'exit status {process.returncode}')
    assert start(experiment, workdir).wait() == 0
    same(workdir, folder / 'whole')


def timeless(path):
    """The lines of a log, times apart."""
    drop = ('seconds', 'tokens_per_second')
    return [{k: v for k, v in line.items() if k not in drop and not k.startswith('time/')} for line in read(str(path))]
