"""Steps that go wrong, and runs that hang or are told to stop: what becomes of them."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import smallest
from test_survival import end, recipe, saved_steps
from test_train import Killed, interrupt

from r1jax.checks import validate
from r1jax.config import GRPO, NLL
from r1jax.sample import Sampler
from r1jax.settings import BadInput, Failed
from r1jax.train import drawer, loop, stage
from r1jax.train.log import read
from r1jax.train.spikes import LEAST, Judge

STEPS = 8


@pytest.fixture
def spoiled(monkeypatch):
    """Has batches be spoiled: a function of the weights at each pack of a stage, by the text that it packs."""

    def spoil(chosen, how):
        real, seen = loop.Training._pack, []

        def pack(self, items):
            batch, count, places = real(self, items)
            seen.append(items[0].response[:8].tolist())
            if seen[-1] in chosen:
                batch = dataclasses.replace(batch, weight=how(batch.weight))
            return batch, count, places

        monkeypatch.setattr(loop.Training, '_pack', pack)
        return seen

    return spoil


@pytest.fixture(scope='module')
def batches(tmp_path_factory):
    """How the batches of an undisturbed run begin, and its folder."""
    workdir, seen, real = tmp_path_factory.mktemp('plain'), [], loop.Training._pack
    with pytest.MonkeyPatch.context() as m:
        m.setattr(
            loop.Training, '_pack', lambda self, items: seen.append(items[0].response[:8].tolist()) or real(self, items)
        )
        stage.run(recipe(steps=STEPS + 1), str(workdir))
    return seen, workdir


def test_a_step_that_is_not_finite_is_rolled_back_and_its_batch_passed_over(
    batches, spoiled, tmp_path, capsys, monkeypatch
):
    seen = spoiled([batches[0][5]], lambda w: w * np.float32('nan'))  # of step 6
    stage.run(recipe(on_nan='rollback'), str(tmp_path / 'a'))
    said = capsys.readouterr().out
    assert 'base: step 6 was not finite; back to step 4, and its batch is passed over' in said
    first = batches[0][: STEPS + 1]
    assert seen == [
        *first[:6],
        first[4],
        first[6],
        *first[7:],
    ]  # steps 1 … 6, 5 again, and 6 … 8 with the batches behind
    lines = list(read(str(tmp_path / 'a' / 'metrics.jsonl')))
    assert [m['step'] for m in lines] == list(range(1, STEPS + 1)) and not any(m['policy/skipped'] for m in lines)
    # killed after that, it ends with the same bits
    with monkeypatch.context() as m:
        interrupt(m, 8, lambda: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            stage.run(recipe(on_nan='rollback'), str(tmp_path / 'b'))
    stage.run(recipe(on_nan='rollback'), str(tmp_path / 'b'))
    assert end(tmp_path / 'a') == end(tmp_path / 'b')


def test_a_stage_can_end_at_the_first_step_that_is_not_finite(batches, spoiled, tmp_path):
    spoiled([batches[0][5]], lambda w: w * np.float32('nan'))
    with pytest.raises(Failed, match='1 steps in a row were skipped up to step 6'):
        stage.run(recipe(on_nan='stop'), str(tmp_path))
    assert saved_steps(tmp_path)[-1] == 6


def test_a_spike_is_rolled_back_once_there_is_a_median(batches, spoiled, tmp_path, capsys):
    long = recipe(steps=12, spike=1.5, checkpoint_every=4)
    stage.run(long, str(tmp_path / 'none'))
    assert 'had a spike' not in capsys.readouterr().out
    spoiled([batches[0][2]], lambda w: w * 5)  # at step 3 there is nothing to compare with
    stage.run(recipe(steps=4, spike=1.5), str(tmp_path / 'early'))
    assert 'had a spike' not in capsys.readouterr().out
    eleventh = []
    seen = spoiled(eleventh, lambda w: w * 5)
    stage.run(long, str(tmp_path / 'seen'))
    eleventh.append(seen[10])
    del seen[:]
    stage.run(long, str(tmp_path / 'late'))
    assert re.search(
        r'step 11 had a spike: loss [\d.]+, the median of the steps before is [\d.]+; back to step 8',
        capsys.readouterr().out,
    )
    assert [m['step'] for m in read(str(tmp_path / 'late' / 'metrics.jsonl'))] == list(range(1, 13))


def test_a_step_that_goes_wrong_whatever_the_batch_ends_the_run(batches, spoiled, tmp_path):
    spoiled(batches[0][5:], lambda w: w * np.float32('nan'))
    with pytest.raises(Failed, match='step 6 was not finite, with each of 3 batches'):
        stage.run(recipe(on_nan='rollback', max_skips=2), str(tmp_path))
    assert saved_steps(tmp_path)[-1] == 4


def test_what_is_judged_goes_by_the_loss():
    good = {'policy/skipped': 0.0, 'loss': 1.0, 'grad_norm': 1.0}
    base, zero = (dataclasses.replace(s, spike=3.0) for s in smallest.recipe().stages)
    for job, name in ((base, 'loss'), (zero, 'grad_norm')):
        judge = Judge(job)
        assert not judge(good | {name: 100.0})  # the first
        for _ in range(LEAST):
            assert not judge(good)
        assert name in judge(good | {name: 3.1}) and not judge(good | {name: 2.9})
        again = Judge(job, **judge.cursor())
        assert again(good | {name: 3.1}) and again.values == judge.values
    empty = {'policy/skipped': 1.0, 'loss': 0.0, 'grad_norm': 0.0}
    assert not Judge(dataclasses.replace(base, on_nan='rollback'))(empty)
    assert isinstance(zero.loss, GRPO) and isinstance(base.loss, NLL)


def test_a_factor_that_would_call_every_step_a_spike_is_refused():
    with pytest.raises(BadInput, match=r'spike=0.9 must be above 1, or 0'):
        validate(recipe(spike=0.9), 1)


# --- being told to stop


def test_a_signal_in_a_rollout_does_not_wait_for_it(tmp_path, monkeypatch):
    """The second stage: told in the middle of sampling, it saves the step before, and ends with the same bits."""
    two = smallest.recipe()
    zero = dataclasses.replace(two.stages[1], start='init', evals=(), steps=3, phases=(), checkpoint_every=50)
    zero = dataclasses.replace(
        zero, source=dataclasses.replace(zero.source, minibatches=1, inner_epochs=1, max_refills=0)
    )
    one = dataclasses.replace(two, stages=(zero,))
    stage.run(one, str(tmp_path / 'whole'))
    real, asked = drawer.Drawer._finish, []

    def finish(self, *args):
        asked.append(1)
        if len(asked) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        real(self, *args)

    with monkeypatch.context() as m:
        m.setattr(drawer.Drawer, '_finish', finish)
        began = time.monotonic()
        with pytest.raises(stage.Stopped) as stopped:
            stage.run(one, str(tmp_path / 'told'))
    assert stopped.value.code == 128 + signal.SIGTERM and time.monotonic() - began < 50
    assert saved_steps(tmp_path / 'told', 'zero')[-1] == 2
    with monkeypatch.context() as m:  # all samples of the third rollout were on the disk: none is drawn again
        m.setattr(Sampler, 'stream', None)
        stage.run(one, str(tmp_path / 'told'))
    assert end(tmp_path / 'told', 'zero') == end(tmp_path / 'whole', 'zero')
    assert not (tmp_path / 'told' / 'checkpoints' / 'zero' / 'rollouts').exists()  # not needed any more


# --- hanging


def hung(body, limit, tmp_path):
    code = f"""
import sys, threading, time, re
from r1jax import pulse
pulse.PATIENCE = 0.0
def stuck():
    {body}
def beside():
    time.sleep(60)
threading.Thread(target=beside, daemon=True).start()
with pulse.Watchdog({limit}, {str(tmp_path / 'hangs')!r}, 3):
    for _ in range(3):
        time.sleep({limit} / 2)
        pulse.beat()
    print('alive', flush=True)
    stuck()
"""
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)


def test_a_hang_ends_with_the_stack_of_every_thread(tmp_path):
    ended = hung('time.sleep(60)', 0.4, tmp_path)
    assert ended.returncode == 1 and ended.stdout == 'alive\n'
    written = (tmp_path / 'hangs' / 'process-3.txt').read_text()
    for told in (ended.stderr, written):
        assert 'in stuck' in told and 'in beside' in told
    assert 'nothing was finished for 0.4 s; they are in' in ended.stderr and 'the same command goes on' in ended.stderr


def test_code_that_never_lets_go_of_the_interpreter_ends_too(tmp_path):
    ended = hung("re.match('(a+)+$', 'a' * 60 + 'b')", 0.4, tmp_path)
    assert ended.returncode == 1 and ended.stdout == 'alive\n' and 'in stuck' in ended.stderr


def test_a_watchdog_that_is_off_watches_nothing(tmp_path):
    ended = hung('time.sleep(1)', 0, tmp_path)
    assert ended.returncode == 0 and not (tmp_path / 'hangs').exists()


def test_a_run_has_a_watchdog(tmp_path, monkeypatch):
    limits = []

    class Seen(stage.Watchdog):
        def __init__(self, limit, *args):
            limits.append((limit, *args))
            super().__init__(limit, *args)

    monkeypatch.setattr(stage, 'Watchdog', Seen)
    stage.run(dataclasses.replace(recipe(steps=1), hang_after=600.0), str(tmp_path))
    assert limits == [(600.0, str(tmp_path / 'hangs'), 0)]
