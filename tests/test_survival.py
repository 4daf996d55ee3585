"""What a run survives: damaged checkpoints, a full disk; and which checkpoints it keeps."""

import asyncio
import dataclasses
import errno
import gc
import json
import os
import pathlib
import shutil
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import smallest
from killing import timeless
from test_train import Killed, interrupt

from r1jax import cli, sharding
from r1jax.checks import validate
from r1jax.config import MeshConfig
from r1jax.settings import BadInput, Failed
from r1jax.train import checkpoint, disk, log, manifest, optim, stage
from r1jax.train import step as compiled
from r1jax.train.keeping import Keep


def recipe(**change):
    """The first stage of the smallest experiment."""
    whole = smallest.recipe()
    return dataclasses.replace(
        whole, stages=(dataclasses.replace(whole.stages[0], **{'checkpoint_every': 2} | change),)
    )


def saved_steps(workdir, name='base'):
    return sorted(int(path.name) for path in (workdir / 'checkpoints' / name).iterdir() if path.name.isdecimal())


def end(workdir, name='base'):
    """What a run is known by: its lines, and a digest of its weights."""
    outputs = json.loads((workdir / 'lineage.json').read_text())['stages'][name]['outputs']
    return timeless(workdir / 'metrics.jsonl'), outputs


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('whole')
    stage.run(recipe(), str(workdir))
    return workdir


def killed(workdir, monkeypatch, at=7, **change):
    """A run that ends without warning after step `at`; the last checkpoints are those of steps 4 and 6."""

    def act():
        raise Killed

    with monkeypatch.context() as m:
        interrupt(m, at, act)
        with pytest.raises(Killed):
            stage.run(recipe(**change), str(workdir))
    assert saved_steps(workdir)[-2:] == [4, 6]
    return workdir / 'checkpoints' / 'base'


def files(folder):
    """Of a checkpoint, largest first."""
    found = [path for path in folder.rglob('*') if path.is_file()]
    return sorted(found, key=lambda path: (-path.stat().st_size, path))


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    'flipped': lambda folder: flip(files(folder)[0]),
    'truncated': lambda folder: os.truncate(files(folder)[0], 10),
    'no_manifest': lambda folder: (folder / manifest.NAME).unlink(),
    'flipped_manifest': lambda folder: flip(folder / manifest.NAME),
    'no_metadata': lambda folder: (folder / '_CHECKPOINT_METADATA').unlink(),
    'half_written': lambda folder: [path.unlink() for path in files(folder)[::2]],
}


@pytest.mark.parametrize('damage', DAMAGES)
def test_every_damage_is_found(whole, tmp_path, damage):
    source, folder = whole / 'checkpoints' / 'base' / '8', tmp_path / '8'
    shutil.copytree(source, folder)
    assert manifest.damage(str(folder)) == []
    DAMAGES[damage](folder)
    assert manifest.damage(str(folder))
    if damage == 'flipped':  # processes share the reading
        parts = [manifest.damage(str(folder), i, 3) for i in range(3)]
        assert sum(map(len, parts)) == 1


@pytest.mark.parametrize('damage', ['flipped', 'no_manifest'])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_used(whole, tmp_path, monkeypatch, capsys, damage):
    folder = killed(tmp_path, monkeypatch)
    DAMAGES[damage](folder / '6')
    stage.run(recipe(), str(tmp_path))
    said = capsys.readouterr().out
    assert 'the checkpoint of step 6 is damaged' in said and 'step 4 is used' in said and 'of them done' in said
    assert (folder / '6.damaged').is_dir()
    happened = json.loads((tmp_path / 'summary.json').read_text())['events']['base']
    assert len(happened) == 1 and 'step 6 is damaged' in happened[0]
    assert end(tmp_path) == end(whole)


def test_without_a_whole_checkpoint_a_line_names_the_files_and_the_fix(tmp_path, monkeypatch, capsys):
    folder = killed(tmp_path, monkeypatch)
    for step in saved_steps(tmp_path):
        flip(files(folder / str(step))[0])
    with pytest.raises(Failed, match=r'no whole checkpoint left.*damaged.*other bytes.*remove .*base'):
        stage.run(recipe(), str(tmp_path))
    with pytest.raises(Failed, match='no whole checkpoint left'):  # not from its start, unless somebody says so
        stage.run(recipe(), str(tmp_path))

    def fail():
        raise Failed('a sentence')

    monkeypatch.setattr(stage, 'run', lambda *_, **__: fail())
    assert cli.main(['run', str(pathlib.Path(smallest.__file__)), '--workdir', str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert 'a sentence; the same command goes on' in err and 'Traceback' not in err


def test_a_finished_stage_whose_end_is_damaged_goes_on_from_before(tmp_path, capsys):
    base = recipe().stages[0]
    more = dataclasses.replace(base, name='more', start='base', steps=2)
    two = dataclasses.replace(recipe(), stages=(base, more))
    stage.run(two, str(tmp_path), stage='base')
    before = end(tmp_path)
    flip(files(tmp_path / 'checkpoints' / 'base' / '8')[0])
    with pytest.raises(BadInput, match=r'the checkpoint of stage base is damaged: .* has other bytes'):
        stage.restore.restore(f'{tmp_path}:base')
    stage.run(two, str(tmp_path))
    assert 'step 8 is damaged' in (said := capsys.readouterr().out) and 'step 6 is used' in said
    lines, outputs = end(tmp_path)
    assert (lines[:8], outputs) == before and lines[8]['stage'] == 'more'


def test_what_no_manifest_tells_of_is_taken_and_said(tmp_path, monkeypatch, capsys, whole):
    """Workdirs of an earlier r1jax go on."""
    folder = killed(tmp_path, monkeypatch)
    for path in folder.glob(f'*/{manifest.NAME}'):
        path.unlink()
    stage.run(recipe(), str(tmp_path))
    assert 'cannot be checked' in capsys.readouterr().out
    assert end(tmp_path) == end(whole)


def test_the_rule_of_what_stays():
    metrics = {0: None, 5: 0.1, 10: 0.7, 15: 0.3, 20: 0.7, 25: 0.2, 30: 0.1}
    assert Keep(2)(metrics) == {25, 30}
    assert Keep(1, every=15)(metrics) == {0, 15, 30}
    assert Keep(1, best='x')(metrics) == {20, 30}
    assert Keep(3, best='x')({0: None}) == {0}
    assert Keep(best='-loss').metric({'loss': 2.0}) == -2.0
    assert Keep(best='loss').metric({'loss': float('nan')}) is None is Keep(best='loss').metric({})


def test_a_run_keeps_what_it_is_told_to(tmp_path):
    stage.run(recipe(keep_checkpoints=1, keep_every=4, keep_best='loss'), str(tmp_path))
    losses = {m['step']: m['loss'] for m in log.read(str(tmp_path / 'metrics.jsonl'))}
    best = max((2, 4, 6, 8), key=losses.get)
    assert saved_steps(tmp_path) == sorted({0, 4, 8, best}) and best == 2
    assert manifest.read(str(tmp_path / 'checkpoints' / 'base' / '2'))['metric'] == pytest.approx(losses[2])


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'keep_every': 3}, 'keep_every=3 must be a multiple of checkpoint_every=2'),
        ({'keep_best': 'eval/held_up/pass@1'}, "has no evaluation 'held_up'"),
    ],
)
def test_what_could_keep_nothing_is_refused(change, words):
    with pytest.raises(BadInput, match=words):
        validate(recipe(**change), 1)


def test_an_evaluation_that_meets_no_checkpoint_is_refused():
    two = smallest.recipe()
    zero = dataclasses.replace(
        two.stages[1], keep_best='eval/held_out/pass@1'
    )  # every 5 steps, checkpoints every 2: step 10
    validate(dataclasses.replace(two, stages=(two.stages[0], zero)), 1)
    zero = dataclasses.replace(zero, steps=9)
    with pytest.raises(BadInput, match='never meet before step 9'):
        validate(dataclasses.replace(two, stages=(two.stages[0], zero)), 1)


def test_a_metric_that_is_none_is_refused_at_the_first_step(tmp_path):
    with pytest.raises(BadInput, match='no such metric; did you mean loss'):
        stage.run(recipe(keep_best='-los'), str(tmp_path))


# --- a full disk


class Full:
    """A file that takes `room` bytes more."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.file.name)
        some = self.file.write(data[: self.room])
        self.room -= some
        return some

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_a_log_without_room_stops_the_run_with_a_sentence(whole, tmp_path, monkeypatch, capsys):
    real = log.Log._open

    def small(self, known):
        real(self, known)
        self._files[log.METRICS] = Full(self._files[log.METRICS], 1500)

    monkeypatch.setattr(log.Log, '_open', small)
    with pytest.raises(Failed, match=r'no space left to write .*metrics.jsonl \(.* GB are free\).*free some space'):
        stage.run(recipe(), str(tmp_path))
    monkeypatch.undo()
    stage.run(recipe(), str(tmp_path))
    assert end(tmp_path) == end(whole)


def test_a_checkpoint_without_room_leaves_the_one_before(whole, tmp_path, monkeypatch):
    real = manifest.write

    def full(folder, step, metric):
        if step == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), folder)
        real(folder, step, metric)

    monkeypatch.setattr(manifest, 'write', full)
    with pytest.raises(Failed, match='no space left'):
        stage.run(recipe(), str(tmp_path))
    assert saved_steps(tmp_path) == [0, 2]
    assert not [
        name for name in os.listdir(tmp_path / 'checkpoints' / 'base') if 'tmp' in name
    ]  # its room is free again
    assert 'no space left' in (tmp_path / 'events.jsonl').read_text()
    monkeypatch.undo()
    stage.run(recipe(), str(tmp_path))
    assert end(tmp_path) == end(whole)


def test_other_errors_are_no_full_disk():
    try:
        try:
            raise OSError(errno.ENOSPC, 'No space left on device')
        except OSError as error:
            raise ValueError('while saving') from error
    except ValueError as error:
        assert disk.full(error)
    assert disk.full(ValueError('[OS error 28: ENOSPC No space left on device]: write failed'))
    assert not disk.full(OSError(errno.EACCES, 'Permission denied')) and not disk.full(ValueError('x'))


@pytest.mark.parametrize(('number', 'told'), [(errno.ENOSPC, False), (errno.EACCES, True)])
def test_tasks_that_a_full_disk_ended_print_nothing_around_the_sentence(caplog, number, told):
    async def fail():
        raise OSError(number, os.strerror(number))

    async def unawaited():
        await asyncio.wait([asyncio.ensure_future(fail())])

    disk.quiet()
    asyncio.run(unawaited())
    gc.collect()
    assert ('never retrieved' in caplog.text) == told


@pytest.mark.parametrize(('words', 'told'), [('Event loop is closed', False), ('dictionary changed size', True)])
def test_threads_of_a_write_that_is_over_print_nothing(monkeypatch, words, told):
    said = []
    monkeypatch.setattr(disk, '_before', [])
    monkeypatch.setattr(sys, 'unraisablehook', lambda what: said.append(str(what.exc_value)))
    disk.quiet()
    disk.quiet()
    error = RuntimeError(words)
    sys.unraisablehook(SimpleNamespace(exc_type=RuntimeError, exc_value=error))
    assert said == [words] * told


# --- another mesh


def test_a_checkpoint_is_restored_to_another_mesh(tmp_path):
    model, tx = smallest.MODEL, optim.transform(smallest.recipe().stages[0].optim)
    one, other = sharding.make_mesh(MeshConfig()), sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    with jax.set_mesh(one), checkpoint.Checkpoints(str(tmp_path), 'x', Keep()) as saved:
        state = compiled.init_state(model, tx, jax.random.key(0), one)
        saved.save(3, state, None, {}, None)
    with jax.set_mesh(other), checkpoint.Checkpoints(str(tmp_path), 'x') as saved:
        like = compiled.described(model, tx, other)
        found, *_ = saved.restore(3, like)
    assert any(len(a.sharding.device_set) == 8 and not a.is_fully_replicated for a in jax.tree.leaves(found.params))
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(a, b)


# --- everything at once


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_some_faults_over_the_whole_recipe(tmp_path):
    """`benchmarks/faults_recipe.py`, which exits with 1 where something was lost, silent or another bit."""
    script = pathlib.Path(__file__).parents[1] / 'benchmarks' / 'faults_recipe.py'
    command = [sys.executable, str(script), str(tmp_path), '--faults', '8', '--out', str(tmp_path / 'faults.md')]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-1000:]
    assert '- told: 8 of 8' in (tmp_path / 'faults.md').read_text()
