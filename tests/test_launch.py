"""The launch scripts, with commands of clusters that answer as clusters do."""

import math
import os
import pathlib
import signal
import subprocess
import time

import pytest
import yaml

LAUNCH = pathlib.Path(__file__).parents[1] / 'launch'


@pytest.fixture
def shell(tmp_path):
    """Runs a command among others of the bodies given, each of which writes down how it was called; `calls()` has the lines."""
    calls = tmp_path / 'calls'
    calls.touch()
    env = dict(
        os.environ, CALLS=str(calls), PATH=f'{tmp_path}:{os.environ["PATH"]}', R1JAX_PAUSE='0', HERE=str(tmp_path)
    )

    def run(command, start=subprocess.run, more=(), **bodies):
        for name, body in bodies.items():
            (tmp_path / name).write_text(f'#!/bin/bash\necho "{name} $*" >> $CALLS\n{body}\n')
            (tmp_path / name).chmod(0o755)
        return start([str(each) for each in command], env=env | dict(more), cwd=tmp_path)

    run.calls = lambda: calls.read_text().splitlines()
    return run


def test_scripts_are_shell():
    scripts = sorted(LAUNCH.glob('*.sh'))
    assert len(scripts) == 4
    for script in scripts:
        assert os.access(script, os.X_OK), script
        subprocess.run(['bash', '-n', script], check=True)


@pytest.mark.parametrize(
    ('statuses', 'end'), [((1, 134, 137, 0), 0), ((1, 2), 2), ((143,), 143), ((130,), 130), ((1,) * 5, 1)]
)
def test_again_goes_on_until_it_is_well_or_would_be_the_same(shell, statuses, end):
    body = f'a=({" ".join(map(str, statuses))}); exit ${{a[$(($(wc -l < $CALLS) - 1))]}}'
    assert shell([LAUNCH / 'again.sh', 'work', 'x y'], work=body, more={'R1JAX_TRIES': '5'}).returncode == end
    assert shell.calls() == ['work x y'] * len(statuses)


def test_by_hand_each_is_told_who_it_is(shell):
    body = 'case "$*" in *"--process 1") exit 7;; esac'
    assert (
        shell([LAUNCH / 'by_hand.sh', '3', 'a.py', '--seed', '1'], r1jax=body, more={'R1JAX_PORT': '9'}).returncode == 7
    )
    flags = 'r1jax run a.py --seed 1 --coordinator 127.0.0.1:9 --processes 3 --process'
    assert sorted(shell.calls()) == [f'{flags} {i}' for i in range(3)]


def test_by_hand_a_signal_reaches_all_and_their_status_comes_back(shell):
    body = 'trap "sleep 0.3; echo saved >> $CALLS; exit 143" TERM; for i in $(seq 200); do sleep 0.05; done'
    running = shell([LAUNCH / 'by_hand.sh', '2', 'a.py'], start=subprocess.Popen, r1jax=body)
    while len(shell.calls()) < 2:
        time.sleep(0.02)
    time.sleep(0.2)
    running.send_signal(signal.SIGTERM)
    assert running.wait(20) == 143 and shell.calls()[2:] == ['saved'] * 2  # waited for both


@pytest.mark.parametrize(('status', 'restarts', 'queued'), [(143, 0, 1), (1, 3, 1), (1, 20, 0), (2, 0, 0), (0, 0, 0)])
def test_slurm_asks_for_the_queue_again_where_that_may_help(shell, status, restarts, queued):
    more = {'SLURM_JOB_ID': '5', 'SLURM_RESTART_COUNT': str(restarts)}
    done = shell([LAUNCH / 'slurm.sh', 'a.py', '--workdir', '/w'], srun=f'exit {status}', scontrol='', more=more)
    assert done.returncode == status
    called = shell.calls()
    assert called[0].endswith('r1jax run a.py --workdir /w') and called[1:] == ['scontrol requeue 5'] * queued


GCLOUD = """
at=$HERE/state  # '' none, ACTIVE, SUSPENDED
case "$*" in
  *create*) echo ACTIVE > $at ;;
  *delete*) rm -f $at ;;
  *describe*) [ -e $at ] && cat $at || exit 1 ;;
  *ssh*"test ! -e"*) [ $MODE != bad ] ;;
  *ssh*r1jax*)
    case $MODE in
      bad) exit 2 ;;
      spot) [ -e $HERE/taken ] || { touch $HERE/taken; echo SUSPENDED > $at; exit 255; } ;;
    esac ;;
esac
"""


@pytest.mark.parametrize(('mode', 'status', 'made'), [('well', 0, 1), ('spot', 0, 2), ('bad', 2, 1)])
@pytest.mark.parametrize('slices', [1, 2])
def test_tpu_vms_are_made_again_until_the_run_is_over(shell, mode, status, made, slices):
    more = {
        'NAME': 'n',
        'ZONE': 'z',
        'TYPE': 'v5p-8',
        'IMAGE': 'i',
        'SETUP': 'true',
        'SLICES': str(slices),
        'MODE': mode,
    }
    done = shell([LAUNCH / 'tpu_vm.sh', 'a b.py', '--workdir', '/w'], gcloud=GCLOUD, sleep='', more=more)
    assert done.returncode == status
    called = [call.removeprefix('gcloud compute tpus ') for call in shell.calls()]
    creates = [call for call in called if 'create' in call]
    nodes = '--node-id n' if slices == 1 else '--node-count 2 --node-prefix n'
    assert (
        creates
        == [f'queued-resources create n --zone z {nodes} --accelerator-type v5p-8 --runtime-version i --spot'] * made
    )
    runs = [call for call in called if 'r1jax run' in call]
    assert len(runs) >= made * slices - (slices - 1) and all(r'r1jax run a\ b.py --workdir /w' in call for call in runs)
    if mode != 'bad':  # what is kept then costs nothing but is there to be looked at
        assert called[-1].startswith('queued-resources delete n')


def test_gke_has_a_pod_a_host_and_starts_all_again():
    spec = yaml.safe_load((LAUNCH / 'gke.yaml').read_text())['spec']
    (slices,) = spec['replicatedJobs']
    job = slices['template']['spec']
    pod = job['template']['spec']
    (container,) = pod['containers']
    chips = math.prod(map(int, pod['nodeSelector']['cloud.google.com/gke-tpu-topology'].split('x')))
    assert job['parallelism'] == job['completions'] == chips // container['resources']['limits']['google.com/tpu']
    assert job['backoffLimit'] == 0 and spec['failurePolicy']['maxRestarts'] > 0
    assert container['command'][:2] == ['r1jax', 'run'] and f'mesh.slices={slices["replicas"]}' in container['command']
    assert job['podFailurePolicy']['rules'][0]['onExitCodes']['containerName'] == container['name']
