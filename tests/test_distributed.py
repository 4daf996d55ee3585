"""Many processes: what they tell each other, how one ends all, and that they train to the numbers of one."""

import json
import shutil
import signal
import time

import numpy as np
import processes
import pytest
from killing import timeless
from processes import TESTS, Processes

from r1jax import distributed
from r1jax.settings import BadInput

SMALLEST, SPLIT = (str(TESTS / f'{name}.py') for name in ('smallest_many', 'smallest_split'))


def test_by_hand_it_is_said_where_the_first_is_how_many_and_which():
    by_hand = distributed.by_hand
    assert by_hand(None, None, None, {}) is None
    assert by_hand('a:1', 4, 3, {}) == ('a:1', 4, 3)
    env = {'JAX_COORDINATOR_ADDRESS': 'b:2', 'JAX_NUM_PROCESSES': '2', 'JAX_PROCESS_ID': '0'}
    assert by_hand(None, None, None, env) == ('b:2', 2, 0)
    assert by_hand('a:1', 4, 3, env) == ('a:1', 4, 3)
    assert by_hand(None, None, None, {'JAX_COORDINATOR_ADDRESS': 'b:2'}) is None  # for the cluster that jax finds
    assert by_hand(None, 1, None, env).processes == 1  # alone
    for wrong, why in (
        (('a:1', 4, None), 'go together: --process is missing'),
        (('a:1', 4, 4), 'process 4 of 4'),
        (('a', 4, 0), "HOST:PORT of the first process, not 'a'"),
    ):
        with pytest.raises(BadInput, match=why):
            by_hand(*wrong, {})
    with pytest.raises(BadInput, match='JAX_NUM_PROCESSES'):
        by_hand(None, None, None, env | {'JAX_NUM_PROCESSES': 'two'})


def test_a_cluster_is_recognised_by_what_launchers_tell_each_process():
    cluster, cpu = distributed.cluster, {'JAX_PLATFORMS': 'cpu'}
    assert cluster(cpu) is None
    assert cluster({'SLURM_STEP_NUM_TASKS': '4', 'SLURM_PROCID': '0'}) == 'SLURM'
    assert cluster(cpu | {'SLURM_STEP_NUM_TASKS': '1', 'SLURM_PROCID': '0'}) is None  # a shell on a node
    assert cluster({'OMPI_COMM_WORLD_SIZE': '2'}) == 'Open MPI'
    assert cluster({'TPU_WORKER_HOSTNAMES': 'a,b'}) == cluster({'MEGASCALE_COORDINATOR_ADDRESS': 'a'}) == 'TPU'
    assert cluster(cpu | {'TPU_WORKER_HOSTNAMES': 'a,b'}) is None
    assert cluster({'TPU_WORKER_HOSTNAMES': 'localhost', 'TPU_SKIP_MDS_QUERY': '1'}) is None


def test_alone_nothing_is_asked_of_others():
    assert (distributed.count(), distributed.index(), distributed.first(), distributed.name()) == (1, 0, True, '')
    assert distributed.exchange(3) == [3] and distributed.told(lambda: 4) == 4 and distributed.highest(None) is None
    assert distributed.fail('for a reason', 1) is None  # returns: there is nobody to tell


def together(folder, what):
    return Processes(folder, 2, lambda flags: [str(TESTS / 'processes.py'), what, *flags])


def test_processes_share_data_and_grading_and_hear_what_the_first_does(tmp_path):
    with together(tmp_path, 'share') as both:
        assert both.statuses(120) == [0, 0], [both.said(i) for i in (0, 1)]


def test_one_that_fails_ends_the_others_with_its_traceback(tmp_path):
    with together(tmp_path, 'fail') as both:
        assert both.statuses(90) == [1, 1]  # although the other is in no call that could fail
        assert "KeyError: 'reason'" in both.said(1) and 'r1jax: process 1 of 2 failed' in both.said(1)
        assert 'process 0 of 2 ends, since process 1 of 2 failed' in both.said(0) and "KeyError: 'reason'" in both.said(
            0
        )


def test_one_that_waits_for_the_first_in_vain_says_so(tmp_path):
    with Processes(
        tmp_path,
        1,
        lambda flags: [str(TESTS / 'processes.py'), 'wait', *flags[:2], '--processes', '2', '--process', '1'],
    ) as one:
        assert one.statuses(60) == [2]
        assert 'not all processes at 127.0.0.1:' in one.said(0) and 'came within 3 s' in one.said(0)


@pytest.mark.slow
def test_one_that_is_killed_ends_the_others_within_a_minute(tmp_path):
    with together(tmp_path, 'kill') as both:
        assert both.all[1].wait(100) == -signal.SIGKILL
        since = time.monotonic()
        assert both.all[0].wait(60) != 0  # asleep, it computes nothing with the other: by the other's silence
        assert time.monotonic() - since < 60
        assert 'unhealthy' in both.said(0) and 'The tasks have crashed' in both.said(0)


# --- training


def _settings(args):
    return ('--set', *args) if args else ()


def trained(folder, number, *args, devices=1, into=None, experiment=SMALLEST):
    """The workdir of a whole run."""
    workdir = into or folder / 'run'
    with processes.run(folder, number, workdir, experiment, *_settings(args), devices=devices) as them:
        assert them.statuses() == [0] * number, [them.said(i) for i in range(number)]
    return workdir


def weights(workdir):
    return {
        each.parent.name: json.loads(each.read_text())['outputs'] for each in workdir.glob('checkpoints/*/done.json')
    }


def assert_close(a, b, share=1e-5):
    """Two runs took the same steps but for rounding: losses, gradients, rewards and everything sampled, within `share` a step."""
    ours, theirs = timeless(a / 'metrics.jsonl'), timeless(b / 'metrics.jsonl')
    assert len(ours) == len(theirs) > 0
    rounding = {'policy/sampler_gap_max', 'policy/sampler_gap_mean'}  # differences of what should be equal
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        # Sums whose terms, of order 1 with both signs, cancel to a hundredth: what counts is a share of the terms
        cancels = {'loss', 'policy/kl'} if one['stage'] == 'zero' else set()
        for name in one.keys() - rounding - {'stage'}:
            if one[name] is not None:
                least = 0.1 * share if name in cancels else 0
                np.testing.assert_allclose(one[name], other[name], rtol=share, atol=least, err_msg=f'{name} of {one}')
    assert timeless(a / 'samples.jsonl') == timeless(b / 'samples.jsonl')  # token for token


@pytest.fixture(scope='module')
def of_two(tmp_path_factory):
    return trained(tmp_path_factory.mktemp('two'), 2, 'mesh.data=2')


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_two_and_four_processes_train_to_the_numbers_of_one(tmp_path, of_two):
    one = trained(tmp_path / 'one', 1)
    assert_close(one, of_two)
    assert_close(one, trained(tmp_path / 'four', 4, 'mesh.data=2', 'mesh.fsdp=2'))
    # the same mesh in one process: the same bits
    within = trained(tmp_path / 'within', 1, 'mesh.data=2', devices=2)
    assert timeless(within / 'metrics.jsonl') == timeless(of_two / 'metrics.jsonl') and weights(within) == weights(
        of_two
    )


def stopped_at(folder, workdir, victim, sign, *args, devices=1, experiment=SMALLEST):
    """Runs two processes, sends one of them a signal in the middle of the second stage, and waits for both to end; their statuses."""
    with processes.run(folder, 2, workdir, experiment, *_settings(args), devices=devices) as them:
        metrics = workdir / 'metrics.jsonl'
        while not (metrics.exists() and b'"stage": "zero", "step": 3' in metrics.read_bytes()):
            assert [p.poll() for p in them.all] == [None, None], [them.said(i) for i in (0, 1)]
            time.sleep(0.02)
        them.all[victim].send_signal(sign)
        statuses = them.statuses(60)  # TimeoutExpired: the other hangs
        return statuses, them.said(1 - victim)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(('victim', 'others'), [(1, (2,)), (0, (1, 4))])
def test_killed_it_goes_on_bit_for_bit_and_with_other_numbers_of_processes(tmp_path, of_two, victim, others):
    workdir = tmp_path / 'run'
    statuses, said = stopped_at(tmp_path, workdir, victim, signal.SIGKILL, 'mesh.data=2')
    assert statuses[victim] == -signal.SIGKILL and statuses[1 - victim] not in (0, -signal.SIGKILL)
    assert 'another process has ended' in said or 'another task died' in said, said
    for number in others:
        copy = tmp_path / f'on{number}'
        shutil.copytree(workdir, copy)
        mesh = {1: (), 2: ('mesh.data=2',), 4: ('mesh.data=4',)}[number]
        trained(tmp_path / f'again{number}', number, *mesh, into=copy)
        if number == 2:
            assert timeless(copy / 'metrics.jsonl') == timeless(of_two / 'metrics.jsonl')
            assert weights(copy) == weights(of_two)
        else:
            assert_close(of_two, copy)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_signal_to_one_has_all_save_and_stop(tmp_path, of_two):
    workdir = tmp_path / 'run'
    statuses, _ = stopped_at(tmp_path, workdir, 1, signal.SIGTERM, 'mesh.data=2')
    assert statuses == [128 + signal.SIGTERM] * 2
    step = max(int(each.name) for each in (workdir / 'checkpoints' / 'zero').iterdir() if each.name.isdecimal())
    assert step == len(
        [m for m in timeless(workdir / 'metrics.jsonl') if m['stage'] == 'zero']
    )  # the last step that was taken
    trained(tmp_path / 'again', 2, 'mesh.data=2', into=workdir)
    assert timeless(workdir / 'metrics.jsonl') == timeless(of_two / 'metrics.jsonl') and weights(workdir) == weights(
        of_two
    )


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_processes_that_sample_apart_have_the_bits_of_one_and_go_on_when_killed(tmp_path):
    devices = 3  # of each process: one that trains, and two that sample
    split = 'mesh.fsdp=2', 'zero.source.split.mesh.data=4', 'zero.source.split.staleness=1'
    one = trained(tmp_path / 'one', 1, *split, devices=2 * devices, experiment=SPLIT)
    workdir = tmp_path / 'run'
    statuses, _ = stopped_at(tmp_path, workdir, 0, signal.SIGKILL, *split, devices=devices, experiment=SPLIT)
    assert 0 not in statuses
    trained(tmp_path / 'again', 2, *split, devices=devices, into=workdir, experiment=SPLIT)
    for name in ('metrics.jsonl', 'samples.jsonl'):
        assert timeless(workdir / name) == timeless(one / name)
    assert [m['rollout/staleness'] for m in timeless(one / 'metrics.jsonl')] == [0, 0, 1, 1, 1]
    assert weights(workdir) == weights(one)
