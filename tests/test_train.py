"""The loop: a run that is stopped or killed ends with the same bits; logs, phases, references and refills do what they say."""

import dataclasses
import json
import os
import shutil
import signal

import jax
import killing
import numpy as np
import pytest
import smallest
from killing import timeless

from r1jax import sharding
from r1jax.config import OnPolicy, Phase
from r1jax.rewards import reflection
from r1jax.settings import BadInput
from r1jax.train import checkpoint, loop, stage
from r1jax.train import step as compiled
from r1jax.train.log import read
from r1jax.train.phases import derive, settings_at


def final_params(workdir, recipe, name):
    mesh = sharding.make_mesh(recipe.mesh)
    job = next(s for s in recipe.stages if s.name == name)
    with jax.set_mesh(mesh), checkpoint.Checkpoints(str(workdir), name) as saved:
        like = compiled.described_params(recipe.model, mesh, job.lora)
        return [np.asarray(a) for a in jax.tree.leaves(saved.params(saved.latest(), like))]


def assert_same_run(a, b):
    for name in ('metrics.jsonl', 'samples.jsonl'):
        assert timeless(a / name) == timeless(b / name), name
    recipe = smallest.recipe()
    for x, y in zip(final_params(a, recipe, 'zero'), final_params(b, recipe, 'zero'), strict=True):
        np.testing.assert_array_equal(x, y)
    one, two = (json.loads((d / 'summary.json').read_text())['stages'] for d in (a, b))
    assert [dict(v, seconds=0) for v in one.values()] == [dict(v, seconds=0) for v in two.values()]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A run that nobody disturbed."""
    workdir = tmp_path_factory.mktemp('whole')
    stage.run(smallest.recipe(), str(workdir))
    return workdir


def test_a_run_leaves_what_it_promises(whole):
    lines = list(read(str(whole / 'metrics.jsonl')))
    assert [(m['stage'], m['step']) for m in lines] == [('base', i + 1) for i in range(8)] + [
        ('zero', i + 1) for i in range(11)
    ]
    assert lines[7]['loss'] < lines[0]['loss']
    names = 'reward/mean reward/accuracy reward/format rollout/tokens rollout/truncated policy/kl policy/entropy policy/clip_fraction '
    names += 'policy/sampler_gap_max policy/sampler_gap_mean policy/skipped loss grad_norm tokens_per_second seconds '
    names += 'rollout/tokens_std reflection/mean reflection/share'
    zero = lines[8:]
    assert all(n in m for m in zero for n in names.split())
    assert all(m['policy/sampler_gap_max'] < 1e-4 for m in zero)
    assert zero[0]['policy/kl'] < 1e-9 and zero[1]['policy/kl'] > 0
    assert 'eval/held_out/pass@1' in zero[4] and 'eval/held_out/pass@1' not in zero[5]
    summary = json.loads((whole / 'summary.json').read_text())['stages']
    assert summary['zero']['steps'] == 11 and summary['zero']['before']['questions'] == 8
    capped = summary['zero']['evals']['capped']
    assert (
        capped['before']['capped_at']
        == capped['after']['capped_at']
        == round(summary['zero']['before']['response_tokens'])
    )
    records = list(read(str(whole / 'samples.jsonl')))
    assert {r['when'] for r in records} == {'before', 'rollout', 'after'}
    words = [reflection.count(r['completion']) for r in records if r['when'] == 'before' and r['eval'] == 'held_out']
    assert summary['zero']['before']['reflective_words'] == np.mean(words)
    assert all(r['parts'].keys() >= {'accuracy', 'format'} for r in records)
    for name in ('config.json', 'report.html', 'tensorboard/zero', 'checkpoints/zero/done.json'):
        assert (whole / name).exists(), name


def test_settings_change_at_the_first_rollout_at_or_after_their_step(whole):
    zero = [m for m in read(str(whole / 'metrics.jsonl')) if m['stage'] == 'zero']
    began = [m['policy/version'] for m in zero]
    assert began == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8]  # a rollout serves four updates, the last only three
    assert [m['learning_rate'] for m in zero] == [1e-3] * 8 + [5e-4] * 3
    job = smallest.recipe().stages[1]
    assert [settings_at(job, s).max_tokens for s in (0, 4, 5, 8)] == [24, 24, 20, 20]
    assert settings_at(job, 8).temperature == 0.9
    # the reference moved to step 4 and to step 8, where a rollout began: its KL starts again from 0
    assert (
        zero[3]['policy/kl'] > 0 and zero[4]['policy/kl'] == pytest.approx(0, abs=1e-5) and zero[7]['policy/kl'] > 1e-4
    )
    assert zero[8]['policy/kl'] == pytest.approx(0, abs=1e-5)


def test_a_finished_run_says_so(whole, capsys):
    before = (whole / 'metrics.jsonl').read_bytes()
    stage.run(smallest.recipe(), str(whole))
    assert 'finished' in capsys.readouterr().out
    assert (whole / 'metrics.jsonl').read_bytes() == before


def test_another_recipe_is_refused_with_its_difference(whole):
    recipe = dataclasses.replace(smallest.recipe(), seed=1)
    with pytest.raises(BadInput, match=r'seed: 0 \(workdir\) != 1 \(now\)'):
        stage.run(recipe, str(whole))


class Killed(BaseException):
    pass


def interrupt(monkeypatch, at, act):
    """Calls `act` after the metrics of the step number `at` of a run, counted over stages, have been written."""
    real, seen = stage.Log.metrics, []

    def metrics(self, *args):
        real(self, *args)
        seen.append(args)
        if len(seen) == at:
            act()

    monkeypatch.setattr(stage.Log, 'metrics', metrics)


@pytest.mark.parametrize('at', [2, 8, 13, 18])
def test_a_killed_run_ends_with_the_same_bits(whole, tmp_path, monkeypatch, at):
    def act():
        raise Killed

    with monkeypatch.context() as m:
        interrupt(m, at, act)
        with pytest.raises(Killed):
            stage.run(smallest.recipe(), str(tmp_path))
    stage.run(smallest.recipe(), str(tmp_path))
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize('sent', [(signal.SIGTERM,), (signal.SIGUSR2, signal.SIGTERM)], ids=['sigterm', 'notice'])
def test_sigterm_saves_first_and_the_run_goes_on(whole, tmp_path, monkeypatch, sent):
    with monkeypatch.context() as m:
        interrupt(m, 11, lambda: [os.kill(os.getpid(), number) for number in sent])
        with pytest.raises(stage.Stopped) as stopped:
            stage.run(smallest.recipe(), str(tmp_path))
    assert stopped.value.code == 128 + signal.SIGTERM
    with checkpoint.Checkpoints(str(tmp_path), 'zero') as saved:
        assert saved.latest() == 3  # not a multiple of checkpoint_every: saved because of the signal
    stage.run(smallest.recipe(), str(tmp_path))
    assert_same_run(tmp_path, whole)


def test_too_many_skipped_steps_stop_the_run_with_its_state(tmp_path, monkeypatch):
    recipe = smallest.recipe()
    base = dataclasses.replace(
        recipe.stages[0], steps=6, max_skips=2, optim=dataclasses.replace(recipe.stages[0].optim, learning_rate=1e38)
    )
    with pytest.raises(RuntimeError, match='2 steps in a row'):
        stage.run(dataclasses.replace(recipe, stages=(base,)), str(tmp_path))
    lines = list(read(str(tmp_path / 'metrics.jsonl')))
    assert [m['policy/skipped'] for m in lines][-2:] == [1, 1]
    with checkpoint.Checkpoints(str(tmp_path), 'base') as saved:
        assert saved.latest() == len(lines)


def run_zero(whole, tmp_path, steps=2, phases=(), loss=None, **change):
    """The second stage of the smallest experiment with its source changed, from the finished first stage of `whole`."""
    recipe = smallest.recipe()
    zero = recipe.stages[1]
    source = dataclasses.replace(zero.source, **{'minibatches': 1, 'inner_epochs': 1} | change)
    zero = dataclasses.replace(zero, source=source, steps=steps, phases=phases, evals=(), loss=loss or zero.loss)
    os.makedirs(tmp_path / 'checkpoints')
    os.symlink(whole / 'checkpoints' / 'base', tmp_path / 'checkpoints' / 'base')
    shutil.copy(whole / 'metrics.jsonl', tmp_path)  # cut back to where `base` ended
    stage.run(dataclasses.replace(recipe, stages=(recipe.stages[0], zero)), str(tmp_path), stage='zero')
    return [m for m in read(str(tmp_path / 'metrics.jsonl')) if m['stage'] == 'zero']


@pytest.fixture(scope='module')
def plain(whole, tmp_path_factory):
    return run_zero(whole, tmp_path_factory.mktemp('plain'), max_refills=0, reference_every=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    'change',
    [
        {'max_refills': 1},
        {'overlong': 'mask', 'overlong_buffer': 0},
        {'overlong': 'keep', 'overlong_buffer': 0},
        {'overlong_buffer': 12},
        {'minibatches': 2},
        {'inner_epochs': 2},
        {'reference_every': 1},
        {'questions': 4},
        {'samples': 8},
        {'phases': (Phase(1, max_tokens=8),)},
        {'phases': (Phase(1, temperature=0.5),)},
        {'phases': (Phase(1, learning_rate=1e-5),)},
        {'phases': (Phase(1, rewards=smallest.REWARDS[:1]),)},
    ],
    ids=lambda c: '-'.join(c),
)
def test_every_option_of_a_rollout_changes_something(whole, plain, tmp_path, change):
    lines = run_zero(whole, tmp_path, **({'max_refills': 0, 'reference_every': 0} | change))
    times = ('seconds', 'tokens_per_second')
    a, b = (
        [{k: v for k, v in m.items() if k not in times and not k.startswith('time/')} for m in run]
        for run in (lines, plain)
    )
    assert a != b
    if 'max_refills' in change:
        assert (
            lines[0]['rollout/samples'] == 8 * 4 * (1 + lines[0]['rollout/refills'])
            and lines[0]['tokens'] <= 8 * 4 * 24
        )
    if change.get('overlong_buffer'):
        assert lines[0]['reward/overlong'] < 0 and lines[0]['reward/mean'] < plain[0]['reward/mean']
    if change.get('overlong') == 'mask':
        assert lines[0]['rollout/truncated'] > 0 and lines[0]['tokens'] < plain[0]['tokens']


def test_the_sampler_s_logprobs_serve_as_the_old_policy_s_while_the_gap_is_small(whole, tmp_path, monkeypatch):
    """Two rollouts of two minibatches: a pass for each of the reference's and the old policy's, where those are asked for."""
    passes, plain = [], loop.Training.logprobs
    monkeypatch.setattr(loop.Training, 'logprobs', lambda self, *args: passes.append(1) or plain(self, *args))
    runs = []
    for bound, expected in ((0.0, 2 * 4), (1e-3, 4 + 2)):
        passes.clear()
        loss = dataclasses.replace(smallest.recipe().stages[1].loss, sampler_gap=bound)
        change = {'minibatches': 2, 'max_refills': 0, 'reference_every': 0}
        runs.append(run_zero(whole, tmp_path / str(bound), steps=4, loss=loss, **change))
        assert len(passes) == expected
    for a, b in zip(*runs, strict=True):
        assert 0 < b['policy/sampler_gap_max'] < 1e-4  # logged at every step, also where it is not measured
        for name in ('loss', 'grad_norm', 'reward/mean', 'policy/clip_fraction'):
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-5), name


def test_seeds_by_name_differ():
    seeds = {derive(s, *names) for s in (0, 1) for names in (('a',), ('b',), ('a', 'b'), ('a', 1))}
    assert len(seeds) == 8


def test_stages_can_be_run_one_by_one(whole, tmp_path):
    recipe = smallest.recipe()
    with pytest.raises(BadInput, match='base, which is not finished'):
        stage.run(recipe, str(tmp_path), stage='zero')
    stage.run(recipe, str(tmp_path), stage='base')
    stage.run(recipe, str(tmp_path), first='zero')
    assert_same_run(tmp_path, whole)


@pytest.mark.slow
def test_a_mesh_of_eight_runs_the_same_recipe(whole, tmp_path):
    recipe = smallest.recipe()
    recipe = dataclasses.replace(recipe, mesh=dataclasses.replace(recipe.mesh, data=2, fsdp=2, tensor=2))
    stage.run(recipe, str(tmp_path), stage='base')
    losses = [[m['loss'] for m in read(str(d / 'metrics.jsonl')) if m['stage'] == 'base'] for d in (tmp_path, whole)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    source = recipe.stages[1].source
    assert isinstance(source, OnPolicy)
    stage.run(recipe, str(tmp_path))
    assert json.loads((tmp_path / 'summary.json').read_text())['stages']['zero']['after']['questions'] == 8


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_ten_kills_at_random_points(tmp_path):
    """SIGKILL from outside at random moments, over and over, on both stages; then the same run undisturbed."""
    killing.killed('smallest.py', tmp_path, kills=10, last=18, same=assert_same_run)
