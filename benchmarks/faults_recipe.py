"""What a run survives: random faults over the whole recipe at its smallest size, one after the other, and what became of each.

    python benchmarks/faults_recipe.py WORKDIR [--faults 40] [--seed 0] [--kinds kill flip …] [--out docs/results/faults.md]

First the recipe runs undisturbed. Then it runs again, over and over, and is hit at random moments:

    kill        SIGKILL
    term        SIGTERM
    full        the disk is full: all but some kilobytes of the small file system on which the run's folder lies are taken
    flip        a byte of a file of the newest checkpoint is another; the run was killed before
    truncate    a file of the newest checkpoint is cut short, likewise
    delete      a file with metadata of the newest checkpoint is gone, likewise
    hang        a grader hangs
    nan         a batch has weights that are not numbers

The last two change the data that are learned from: a copy of the folder takes the fault, and runs to the end of the stage. What is asked
of every fault: what was finished is still there afterwards, it was told (by an exit status, a line, a count in the metrics), and where the
data are the same, the end has the same bits: weights, logs, what was collected. A table says so, a line a fault.

The small file system is a tmpfs, which root may mount. Where one may not, files of the run are limited in size instead
(RLIMIT_FSIZE), and the table says so.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

HERE = pathlib.Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent), str(HERE.parents[1] / 'tests')]

from r1jax.config import GradingConfig, Recipe  # noqa: E402, found by the path above
from r1jax.train.log import read  # noqa: E402
from r1jax.types import Problem, Response  # noqa: E402

KINDS = ('kill', 'term', 'full', 'flip', 'truncate', 'delete', 'hang', 'nan')
NAN, HANG = 'R1JAX_FAULT_NAN', 'R1JAX_FAULT_HANG'  # STAGE:STEP; a file at whose sight a grader hangs
# Orbax writes these two after the manifest, and nothing is read from them; the second is asked to be JSON
UNREAD = ('commit_success.txt', '_CHECKPOINT_METADATA')
SIZE = 64  # MB of the small file system
DEADLINE = 3.0  # seconds of a grader


@dataclasses.dataclass(frozen=True)
class Hanging:
    """`fn`, which hangs once where the file that `HANG` names is there."""

    fn: Callable

    def __call__(self, problem: Problem, response: Response) -> float:
        flag = os.environ.get(HANG)
        if flag:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(flag)
                time.sleep(3600)
        return self.fn(problem, response)


def recipe() -> Recipe:
    """The smallest recipe with all stages; accuracy is graded by worker processes with a deadline."""
    import faults_recipe  # by its name, as workers find it
    import smallest_r1

    whole = smallest_r1.recipe()

    def graded(stage):
        parts = getattr(stage.source, 'rewards', ())
        parts = tuple(
            dataclasses.replace(part, fn=faults_recipe.Hanging(part.fn), deadline=DEADLINE)
            if part.name == 'accuracy'
            else part
            for part in parts
        )
        changed = dataclasses.replace(stage.source, rewards=parts) if parts else stage.source
        return dataclasses.replace(stage, source=changed, checkpoint_every=1)

    stages = tuple(map(graded, whole.stages))
    return dataclasses.replace(whole, stages=stages, grading=GradingConfig(workers=1))


# --- the run, in a process of its own


def child(workdir: str, *flags: str) -> int:
    """`r1jax run` of this file's recipe, with a batch spoiled where the environment says so."""
    from r1jax import cli
    from r1jax.train import loop

    if at := os.environ.get(NAN):
        name, _, number = at.rpartition(':')
        take, pack, now = loop.Training.take_step, loop.Training._pack, []

        def take_step(self, step):
            now[:] = [step]
            return take(self, step)

        def spoiled(self, items):
            batch, *rest = pack(self, items)
            if self.stage.name == name and now == [int(number)]:
                batch = dataclasses.replace(batch, weight=batch.weight * float('nan'))
            return batch, *rest

        loop.Training.take_step, loop.Training._pack = take_step, spoiled
    return cli.main(['run', str(HERE), '--workdir', workdir, *flags])


@dataclasses.dataclass
class Run:
    """A started process, and what it says."""

    workdir: pathlib.Path
    flags: tuple[str, ...] = ()
    limit: int = 0  # bytes a file may have; 0: any number
    env: dict[str, str] = dataclasses.field(default_factory=dict)

    def __enter__(self) -> Run:
        beside = self.workdir.parent
        self.out = (
            beside.parent if beside.name == 'small' else beside
        ) / f'{self.workdir.name}.out'  # never on the full disk
        command = [sys.executable, str(HERE), '--child', str(self.workdir), *self.flags]
        env = {'JAX_PLATFORMS': 'cpu', 'PYTHONUNBUFFERED': '1', **os.environ, **self.env}

        def limited():
            if self.limit:
                resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, self.limit))

        with open(self.out, 'wb') as file:
            self.process = subprocess.Popen(command, env=env, stdout=file, stderr=file, preexec_fn=limited)
        return self

    def __exit__(self, *_) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def said(self) -> str:
        return self.out.read_text(errors='replace')

    def until(self, lines: int, rng: random.Random) -> bool:
        """Waits until the run has left so many lines, and some more; False: it is over before."""
        while self.process.poll() is None and progress(self.workdir) <= lines:
            time.sleep(0.01)
        time.sleep(0.3 * rng.random())  # anywhere in a step, a checkpoint or an evaluation
        return self.process.poll() is None


def progress(workdir: pathlib.Path) -> int:
    """Lines of metrics, and of what is collected."""
    found = [workdir / 'metrics.jsonl', *(workdir / 'data').glob('*.all.jsonl*')]
    return sum(path.read_bytes().count(b'\n') for path in found if path.exists())


def finished(workdir: pathlib.Path) -> set[str]:
    """The stages that are over."""
    return {path.parent.name for path in (workdir / 'checkpoints').glob('*/done.json')}


def newest(workdir: pathlib.Path) -> pathlib.Path | None:
    """The checkpoint that a run would go on from: the newest of the stage that is not over, if there is one."""
    open_ = [path for path in (workdir / 'checkpoints').glob('*') if not (path / 'done.json').exists()]
    steps = [path for folder in open_ for path in folder.iterdir() if path.name.isdecimal()]
    return max(steps, key=lambda path: int(path.name), default=None)


def differences(a: pathlib.Path, b: pathlib.Path) -> list[str]:
    """In what the ends of two runs differ: weights and files by their digests, logs by their lines without times."""
    found = []
    one, two = (json.loads((d / 'lineage.json').read_text(encoding='utf-8'))['stages'] for d in (a, b))
    found += [f'{name} ended otherwise' for name in one if one[name] != two.get(name)]
    for name in ('metrics.jsonl', 'samples.jsonl'):
        if timeless(a / name) != timeless(b / name):
            found.append(f'{name} is another')
    return found


def timeless(path: pathlib.Path) -> list[dict]:
    drop = ('seconds', 'tokens_per_second')
    return [{k: v for k, v in line.items() if k not in drop and not k.startswith('time/')} for line in read(str(path))]


# --- faults


@dataclasses.dataclass
class Row:
    """A fault, and what became of it."""

    kind: str
    where: str  # stage and step
    told: str  # how
    lost: str  # steps that were taken again; what was finished is never among them
    kept: bool  # everything that was finished is still there
    data: bool  # whether the fault changed what is learned from
    silent: bool = False
    problem: str = ''  # what should not be
    same: bool | None = None  # the end has the same bits

    def line(self, number: int) -> str:
        same = {None: '–', True: 'yes', False: 'NO'}[self.same] if not self.data else 'data changed'
        cells = number, self.kind, self.where, self.told, self.lost, 'yes' if self.kept else 'NO', same
        return '| ' + ' | '.join(map(str, cells)) + ' |'


class Faults:
    """Runs the recipe, and hits it."""

    def __init__(self, folder: pathlib.Path, seed: int):
        self.folder, self.rng, self.rows, self.number = folder, random.Random(seed), [], 0
        self.whole, self.stages = folder / 'whole', recipe().stages
        self.open: list[Row] = []  # faults of the run that goes on, whose end is not known yet
        self.mounted = False

    def undisturbed(self) -> None:
        if not (self.whole / 'summary.json').exists() or len(finished(self.whole)) < len(self.stages):
            with Run(self.whole) as run:
                if run.process.wait():
                    raise SystemExit(f'the undisturbed run failed:\n{run.said[-2000:]}')
        self.last = progress(self.whole)
        self.plain = timeless(self.whole / 'metrics.jsonl')

    @contextlib.contextmanager
    def disk(self) -> Iterator[None]:
        """A small file system for the runs, if one may be mounted."""
        place = self.folder / 'small'
        place.mkdir(exist_ok=True)
        mount = ['mount', '-t', 'tmpfs', '-o', f'size={SIZE}m', 'r1jax-faults', str(place)]
        self.mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        try:
            self._new()
            yield
        finally:
            if self.mounted:
                subprocess.run(['umount', str(place)], check=False)

    def _new(self) -> None:
        """An empty folder for the next run."""
        if self.number:
            shutil.rmtree(self.workdir, ignore_errors=True)
        self.number += 1
        self.workdir = self.folder / 'small' / f'run-{self.number}'
        self.workdir.mkdir()

    def hit(self, kind: str) -> Row:
        """Runs up to a random moment, and does it; runs that get to their end before are compared, and begun anew."""
        missed = 0
        while True:
            limit = self._limit() if kind == 'full' and not self.mounted else 0
            before = finished(self.workdir)
            with Run(self.workdir, limit=limit) as run:
                target = min(progress(self.workdir) + self.rng.randint(0, max(3, self.last // 10)), self.last - 2)
                if limit or (run.until(target, self.rng) and self._ripe(run, kind)):
                    try:
                        row = getattr(self, f'_{kind}')(run)
                    except subprocess.TimeoutExpired as error:
                        row = Row(kind, self._where(), 'HANGS', '?', True, False, True, f'{error}: {run.said[-300:]}')
                    if row is not None:
                        row.kept &= before <= finished(self.workdir) | self._reopened()
                        return self._noted(row)
                    if run.process.poll() == -signal.SIGKILL:  # it had gone on while it was looked at
                        missed += 1
                        if missed % 5 == 0:  # it would be killed at the same place for ever, as at a run's end
                            self.finish()
                        continue
                run.process.wait()
                self._ended(run)

    def _ripe(self, run: Run, kind: str) -> bool:
        """Waits until there is what a fault needs; False: the run is over before."""
        needs = {'hang': lambda: self._current(True), 'nan': lambda: self._current(False)}
        needs |= dict.fromkeys(('flip', 'truncate', 'delete'), lambda: newest(self.workdir))
        while run.process.poll() is None and kind in needs and needs[kind]() is None:
            time.sleep(0.05)
        return run.process.poll() is None

    def _noted(self, row: Row) -> Row:
        self.rows.append(row)
        if not row.data:
            self.open.append(row)
        return row

    def _ended(self, run: Run) -> None:
        """A run has got to its end, or has failed where nothing should."""
        if run.process.returncode == 0:
            found = differences(self.workdir, self.whole)
        else:
            found = [f'exit status {run.process.returncode}: {run.said[-300:]}']
            if not self.open:  # by no fault of ours: it would fail again, for ever
                raise SystemExit(f'{self.workdir} failed by itself, {found[0]}')
        for row in self.open:
            row.same, row.problem = not found, '; '.join([row.problem, *found]).strip('; ')
        self.open = []
        self._new()

    def finish(self) -> None:
        """Brings the last run to its end."""
        with Run(self.workdir) as run:
            run.process.wait()
            self._ended(run)

    def _reopened(self) -> set[str]:
        """Stages whose end was damaged, and which went on from the checkpoint before."""
        return {path.parent.name for path in (self.workdir / 'checkpoints').glob('*/*.damaged')}

    def _where(self) -> str:
        lines = list(read(str(self.workdir / 'metrics.jsonl')))
        return f'{lines[-1]["stage"]} {lines[-1]["step"]}' if lines else 'start'

    def _kill(self, run: Run) -> Row | None:
        where = self._where()
        run.process.kill()
        if run.process.wait() != -signal.SIGKILL:
            return None
        return Row('kill', where, 'exit status −9', self._again(), True, False)

    def _again(self) -> str:
        """Steps that were taken and are not in a checkpoint."""
        found = newest(self.workdir)
        if found is None:
            return '0'
        name = found.parent.name
        step = max((m['step'] for m in read(str(self.workdir / 'metrics.jsonl')) if m['stage'] == name), default=0)
        return str(max(0, step - int(found.name)))

    def _term(self, run: Run) -> Row | None:
        where, began = self._where(), time.monotonic()
        run.process.terminate()
        status = run.process.wait(timeout=300)
        if status == 0:
            return None
        told = f'exit status {status} in {time.monotonic() - began:.1f} s'
        early = status == -signal.SIGTERM  # before there was anything to save
        row = Row('term', where, told, self._again(), True, False)
        if not early and ('SIGTERM' not in run.said or status != 143):
            row.silent, row.problem = status != 143, f'exit status {status}'
        return row

    def _limit(self) -> int:
        return self.rng.randint(2, 40) << 10

    def _full(self, run: Run) -> Row | None:
        where = self._where()
        ballast = self.workdir.parent / 'ballast'
        if self.mounted:
            left, taken = self.rng.randint(0, 200) * 1024, False
            while not taken:  # the run may write meanwhile
                free = shutil.disk_usage(self.workdir).free
                with open(ballast, 'wb') as file, contextlib.suppress(OSError):
                    os.posix_fallocate(file.fileno(), 0, max(1, free - left))
                    taken = True
                taken |= not free
        try:
            status = run.process.wait(timeout=600)
        finally:
            ballast.unlink(missing_ok=True)
        if status == 0:
            return None
        said = [line for line in run.said.splitlines() if line.startswith(('r1jax: failed', 'r1jax: error'))]
        good = status in (1, 2) and len(said) == 1 and 'no space left' in said[0].lower() + run.said.lower()
        told = f'exit status {status}, ' + ('a line' if good and 'Traceback' not in run.said else 'NO LINE')
        row = Row('full', where, told, self._again(), True, False, silent=not good)
        row.problem = '' if good else run.said[-400:]
        return row

    def _damage(self, run: Run, kind: str, files: Callable, act: Callable) -> Row | None:
        run.process.kill()
        run.process.wait()
        folder = newest(self.workdir)
        if folder is None:
            return None
        path = self.rng.choice(sorted(path for path in folder.rglob('*') if path.is_file() and files(path)))
        copy = path.read_bytes()
        where = f'{folder.parent.name} {folder.name}: {path.relative_to(folder).as_posix()[:40]}'
        act(path)
        older = [
            each for each in folder.parent.iterdir() if each.name.isdecimal() and int(each.name) < int(folder.name)
        ]
        with Run(self.workdir) as run:
            run.until(progress(self.workdir), self.rng)
            deadline = time.monotonic() + 300
            words = 'is damaged', 'cannot be checked', 'no whole checkpoint'
            while run.process.poll() is None and time.monotonic() < deadline and not any(w in run.said for w in words):
                time.sleep(0.05)
            said = run.said
            if older or 'cannot be checked' in said:
                run.process.kill()
            run.process.wait()
            said = run.said  # all of it
        if older:
            told = f'set aside, step {max(int(each.name) for each in older)} used' if 'is damaged' in said else 'SILENT'
            return Row(kind, where, told, '1', True, False, silent='is damaged' not in said)
        if 'cannot be checked' in said:  # the only one there was, and only its manifest is gone
            with contextlib.suppress(FileNotFoundError):  # newer ones have followed already
                path.write_bytes(copy)  # else the next byte that flips there could not be told
            return Row(kind, where, 'a line: it cannot be checked', '0', True, False)
        # the only one there was: the run ends with a sentence, and goes on once the file is put back
        clear = run.process.returncode == 1 and 'no whole checkpoint left' in said and path.name in said
        aside = folder.with_name(folder.name + '.damaged')
        if aside.exists():
            (aside / path.relative_to(folder)).write_bytes(copy)
            aside.rename(folder)
        told = 'exit status 1, a line; put back' if clear else f'exit status {run.process.returncode}'
        return Row(kind, where, told, '0', True, False, silent=not clear, problem='' if clear else said[-400:])

    def _flip(self, run: Run) -> Row | None:
        def flip(path: pathlib.Path) -> None:
            data = bytearray(path.read_bytes())
            data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
            path.write_bytes(data)

        return self._damage(run, 'flip', lambda path: path.stat().st_size and path.name not in UNREAD, flip)

    def _truncate(self, run: Run) -> Row | None:
        return self._damage(
            run,
            'truncate',
            lambda path: path.stat().st_size > 1 and path.name != UNREAD[0],
            lambda path: os.truncate(path, self.rng.randrange(path.stat().st_size)),
        )

    def _delete(self, run: Run) -> Row | None:
        known = ('manifest.json', 'manifest.ocdbt', '_CHECKPOINT_METADATA', '_METADATA', '_sharding', 'metadata')
        return self._damage(run, 'delete', lambda path: path.name in known, lambda path: path.unlink())

    def _beside(self, run: Run, kind: str, env: dict[str, str], stage: str, step: int, told: Callable) -> Row:
        """A copy of the folder takes a fault, and goes to the end of the stage."""
        run.process.kill()
        run.process.wait()
        copy = self.folder / f'beside-{len(self.rows)}'
        shutil.copytree(self.workdir, copy, symlinks=True)
        # Else the grades may be on the disk already, and no grader is asked
        shutil.rmtree(copy / 'checkpoints' / stage / 'rollouts', ignore_errors=True)
        with Run(copy, ('--stage', stage), env=env) as other:
            status = other.process.wait(timeout=900)
        lines = [m for m in timeless(copy / 'metrics.jsonl') if m['stage'] == stage]
        plain = [m for m in self.plain if m['stage'] == stage]
        words, at = told(lines, step)
        fine = status == 0 and at is not None and len(lines) == len(plain) and stage in finished(copy)
        equal = lines[: at or 0] == plain[: at or 0]
        row = Row(kind, f'{stage} {at + 1 if at is not None else "?"}', words, '0', fine and equal, True)
        row.silent = at is None
        if not (fine and equal):
            row.problem = f'exit status {status}, {len(lines)} of {len(plain)} steps: {other.said[-300:]}'
        shutil.rmtree(copy, ignore_errors=True)
        return row

    def _current(self, on_policy: bool) -> tuple[str, int] | None:
        """A stage that trains and is not over, and its next step; all that it needs is over."""
        from r1jax.config import Collect, OnPolicy

        over = finished(self.workdir)
        for each in self.stages:
            if each.name in over:
                continue
            if isinstance(each.source, Collect) or (on_policy and not isinstance(each.source, OnPolicy)):
                return None
            found = newest(self.workdir)
            step = int(found.name) + 1 if found and found.parent.name == each.name else 1
            count = sum(m['stage'] == each.name for m in self.plain)
            return (each.name, step) if step <= count else None
        return None

    def _killed(self, run: Run, on_policy: bool) -> tuple[str, int] | None:
        """Where a run is, which is killed there: see `_current`."""
        run.process.kill()
        run.process.wait()
        return self._current(on_policy)

    def _nan(self, run: Run) -> Row | None:
        if (found := self._killed(run, False)) is None:
            return None
        stage, step = found

        def told(lines, step):
            there = [i for i, m in enumerate(lines) if m['step'] == step and m['policy/skipped']]
            return ('policy/skipped counts it', there[0]) if there else ('SILENT', None)

        return self._beside(run, 'nan', {NAN: f'{stage}:{step}'}, stage, step, told)

    def _hang(self, run: Run) -> Row | None:
        if (found := self._killed(run, True)) is None:
            return None
        stage, step = found
        flag = self.folder / 'hang'
        flag.touch()

        def told(lines, step):
            at = next((i for i, m in enumerate(lines) if m.get('grader/timeout')), None)
            return 'grader/timeout is 1 there' if at is not None else 'SILENT', at

        try:
            row = self._beside(run, 'hang', {HANG: str(flag)}, stage, step, told)
            return None if flag.exists() else row  # it met no grader, as in a phase with other rewards: another moment
        finally:
            flag.unlink(missing_ok=True)


def table(faults: Faults, command: str, seconds: float) -> str:
    rows, how = (
        faults.rows,
        f'a tmpfs of {SIZE} MB' if faults.mounted else 'RLIMIT_FSIZE (no tmpfs may be mounted here)',
    )
    bits = [row for row in rows if not row.data]
    said = [
        '# Faults over the smallest recipe',
        '',
        '```sh',
        f'# not run: took {seconds / 60:.0f} minutes',
        command,
        '```',
        '',
        f'{len(rows)} faults at random moments of {len(faults.stages)} stages; the full disk is {how}.',
        '',
        f'- what was finished is still there: {sum(row.kept for row in rows)} of {len(rows)}',
        f'- told: {sum(not row.silent for row in rows)} of {len(rows)}',
        f'- the data are the same, and the end has the same bits: {sum(row.same is True for row in bits)} of {len(bits)}',
        '',
        '| | fault | at | told by | steps again | finished kept | same bits |',
        '|---|---|---|---|---|---|---|',
        *(row.line(i) for i, row in enumerate(rows, 1)),
    ]
    wrong = [f'- {i}: {row.problem}' for i, row in enumerate(rows, 1) if row.problem]
    return '\n'.join([*said, *(['', 'What should not be:', '', *wrong] if wrong else []), ''])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('workdir', type=pathlib.Path, help='where the runs are; the undisturbed one is kept')
    parser.add_argument('--faults', type=int, default=40)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--kinds', nargs='+', choices=KINDS, default=KINDS)
    parser.add_argument('--out', type=pathlib.Path, help='where the table is written too')
    args = parser.parse_args()
    folder = args.workdir.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    began, faults = time.monotonic(), Faults(folder, args.seed)
    faults.undisturbed()
    kinds = [args.kinds[i % len(args.kinds)] for i in range(args.faults)]
    faults.rng.shuffle(kinds)
    with faults.disk():
        for i, kind in enumerate(kinds, 1):
            row = faults.hit(kind)
            print(row.line(i), row.problem, flush=True)
        faults.finish()
    command = f'python benchmarks/faults_recipe.py WORKDIR --faults {args.faults} --seed {args.seed}'
    text = table(faults, command, time.monotonic() - began)
    print(text)
    if args.out:
        args.out.write_text(text, encoding='utf-8')
    good = all(row.kept and not row.silent and not row.problem for row in faults.rows)
    return 0 if good else 1


if __name__ == '__main__':
    if sys.argv[1:2] == ['--child']:
        sys.exit(child(*sys.argv[2:]))
    sys.exit(main())
