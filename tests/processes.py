"""Several processes of one run on this machine, and what they do in `test_distributed`, each by `python processes.py WHAT PORT N I`."""

import os
import pathlib
import socket
import subprocess
import sys
import time

TESTS = pathlib.Path(__file__).parent


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


class Processes:
    """N processes, each of which has what it says on stdout and stderr in a file. Leaving it kills those that are left."""

    def __init__(self, folder, number, command, devices=1):
        """command(flags) -> arguments of Python, where the flags say of the others; devices: of each process."""
        self.folder, port = folder, free_port()
        folder.mkdir(parents=True, exist_ok=True)
        env = dict(
            os.environ, PYTHONPATH=f'{TESTS.parent}{os.pathsep}{TESTS}', XLA_FLAGS='', JAX_NUM_CPU_DEVICES=str(devices)
        )
        self.all = []
        for i in range(number):
            flags = ['--coordinator', f'127.0.0.1:{port}', '--processes', str(number), '--process', str(i)]
            with open(self._log(i), 'wb') as log:
                self.all.append(subprocess.Popen([sys.executable, *command(flags)], env=env, stdout=log, stderr=log))

    def _log(self, i):
        return self.folder / f'process{i}.log'

    def said(self, i):
        return self._log(i).read_text(errors='replace')

    def statuses(self, timeout=900):
        """Exit statuses, once all have ended."""
        end = time.monotonic() + timeout
        return [p.wait(max(end - time.monotonic(), 0.1)) for p in self.all]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for p in self.all:
            p.kill()
            p.wait()


def run(folder, number, workdir, *args, devices=1):
    """`r1jax run` by several processes."""
    return Processes(
        folder, number, lambda flags: ['-m', 'r1jax', 'run', *args, '--workdir', str(workdir), *flags], devices
    )


def longer(problem, response):
    """A reward for worker processes: tells which process's they were."""
    return float(len(response.text) + 100 * int(os.environ['R1JAX_TEST_PROCESS']))


def _share(distributed):
    import jax
    import numpy as np
    import processes

    from r1jax import sharding
    from r1jax.config import MeshConfig, Part
    from r1jax.rewards.combine import Scoring
    from r1jax.train import shared
    from r1jax.types import Problem, Response

    i, calls = distributed.index(), []
    assert distributed.exchange({'i': i, 'x': 'x' * 5000 * i}) == [{'i': 0, 'x': ''}, {'i': 1, 'x': 'x' * 5000}]
    assert distributed.told(lambda: calls.append(distributed.told(lambda: 1) + distributed.count()) or i + 7) == 7
    assert calls == ([2] if i == 0 else [])  # the first alone, and nobody else is asked within
    assert distributed.highest(None) is None and distributed.highest([None, 15][i]) == 15
    try:
        distributed.told(lambda: {}['absent'])
    except KeyError as error:
        assert error.args == ('absent',)
    mesh = sharding.make_mesh(MeshConfig(data=jax.device_count()))
    rows = np.arange(12.0).reshape(4, 3)
    there = sharding.put({'a': rows}, sharding.named(mesh, 'batch', None))['a']
    assert sum(s.data.shape[0] for s in there.addressable_shards) == 2  # its own rows alone
    assert not there.is_fully_addressable and np.array_equal(sharding.fetch(there), rows)
    with shared.pool(1, 1 << 30) as pool:
        parts = (Part('longer', processes.longer, deadline=60.0), Part('clock', lambda p, r: float(i)))
        scoring = Scoring(parts, pool)
        for n in range(5):
            scoring.add([Problem(n, '', '')], [Response('a' * n, n, True)])
        scores = scoring.result()
    assert scores.parts['longer'].tolist() == [0, 101, 2, 103, 4]  # by turns, and all have all
    assert scores.parts['clock'].tolist() == [0] * 5
    distributed.same_folder(sys.argv[5])
    print('shared', flush=True)


def _fail(distributed):
    distributed.exchange(None)
    if distributed.index() == 1:
        from r1jax import cli

        cli.Run.__call__ = lambda self: {}['reason']
        cli.main(['run', 'x.py'])
    time.sleep(100)  # as one that computes, and asks nobody


def _kill(distributed):
    distributed.exchange(None)
    if distributed.index() == 1:
        os.kill(os.getpid(), 9)
    time.sleep(100)


def main():
    what, flags = sys.argv[1], dict(zip(sys.argv[2::2], sys.argv[3::2], strict=False))
    os.environ['R1JAX_TEST_PROCESS'] = flags['--process']
    from r1jax import distributed

    sys.argv = [*sys.argv[:5], str(TESTS)]
    distributed.JOIN = 3 if what == 'wait' else 120
    distributed.start(distributed.by_hand(flags['--coordinator'], int(flags['--processes']), int(flags['--process'])))
    {'share': _share, 'fail': _fail, 'kill': _kill}[what](distributed)


if __name__ == '__main__':
    main()
