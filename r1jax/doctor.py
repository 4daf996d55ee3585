"""`r1jax doctor`: what this machine gives to a run, and what to do where something is in the way.

Checks go from what needs nothing (Python, packages, memory) to what starts jax (devices, a compiled program) and a sandbox. Each looks at
the thing itself: a program is compiled and its result compared, code is run in the sandbox and its answer read. A check that fails says
what to do, and the others go on.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import pathlib
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal

from packaging.requirements import Requirement

GIB = 2**30
MEMORY, DISK = (
    4 * GIB,
    10 * GIB,
)  # below them even the tiny experiments are tight: 2 GB of memory, 1 GB of compiled programs and runs
Level = Literal['ok', 'note', 'fix']
_ACCELERATORS = {  # what shows that there is one -> the extra that lets jax use it
    'cuda': ('/dev/nvidia0', '/dev/nvidiactl'),
    'tpu': ('/dev/accel0', '/dev/vfio/0'),
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a check saw."""

    check: str
    level: Level  # well; worth knowing; in the way
    seen: str
    todo: str = ''  # what to do, of a note or where something is in the way

    def line(self) -> str:
        return f'{self.level:<4}  {self.check}: {self.seen}' + (f'\n      → {self.todo}' if self.todo else '')


def python() -> Iterator[Finding]:
    told, system = platform.python_version(), f'{platform.system()} {platform.release()} {platform.machine()}'
    yield Finding('python', 'ok', f'{told}, {system}')


def packages(required: Iterable[str] | None = None) -> Iterator[Finding]:
    """Whether what r1jax needs is here in a version that it takes; and of each extra, whether it is complete."""
    if required is None:
        try:
            required = importlib.metadata.requires('r1jax') or ()
        except importlib.metadata.PackageNotFoundError:
            seen = 'r1jax runs from its sources and is not installed, so what it requires is not known here'
            yield Finding('packages', 'note', seen, 'pip install -e .')
            return
    here: dict[str, list[str]] = {'': []}
    lacking: dict[str, list[str]] = {'': []}
    for extra, requirement in _expanded(map(Requirement, required)):
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            lacking.setdefault(extra, []).append(f'{requirement.name} (not installed)')
            continue
        if requirement.specifier.contains(version, prereleases=True):
            here.setdefault(extra, []).append(f'{requirement.name} {version}')
        else:
            lacking.setdefault(extra, []).append(f'{requirement.name} {version} (needs {requirement.specifier})')
    if lacking['']:
        yield Finding('packages', 'fix', ', '.join(lacking['']), 'pip install -e . (in the checkout)')
    else:
        yield Finding('packages', 'ok', ', '.join(each for each in here[''] if each.split()[0] in _TOLD))
    extras = sorted({*here, *lacking} - {''})
    whole = [name for name in extras if name not in lacking]
    if extras:
        missing = [name for name in extras if name in lacking]
        hint = f"where one is needed: pip install 'r1jax[{missing[0]}]' (of {', '.join(missing)})" if missing else ''
        yield Finding('extras', 'ok', f'installed: {", ".join(whole) or "none"}', hint)


_TOLD = ('jax', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def _expanded(requirements: Iterable[Requirement]) -> Iterator[tuple[str, Requirement]]:
    """Each requirement with the extra that it belongs to, and behind it what it asks for by extras of its own, as jax[tpu] does libtpu."""
    for requirement in requirements:
        extra = _extra(requirement)
        yield extra, requirement
        for wanted in requirement.extras:
            try:
                theirs = importlib.metadata.requires(requirement.name) or ()
            except importlib.metadata.PackageNotFoundError:
                continue
            for each in map(Requirement, theirs):
                if _extra(each) and each.marker and each.marker.evaluate({'extra': wanted}):
                    yield extra, each


def _extra(requirement: Requirement) -> str:
    """The extra that a requirement belongs to; '' of one that every run needs."""
    marker = str(requirement.marker or '')
    _, _, name = marker.partition('extra == ')
    return name.strip(' "\'')


def memory() -> Iterator[Finding]:
    cores, (free, total) = (
        len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count(),
        _memory(),
    )
    seen = f'{cores} cores' + (f', {free / GIB:.1f} of {total / GIB:.1f} GiB of memory free' if total else '')
    if total and free < MEMORY:
        yield Finding('memory', 'note', seen, 'close other programs: the tiny experiments take about 2 GiB')
    else:
        yield Finding('memory', 'ok', seen)
    left = shutil.disk_usage('.').free
    seen = f'{left / GIB:.0f} GiB free in {os.getcwd()}'
    if left < DISK:
        yield Finding(
            'disk', 'note', seen, 'checkpoints of a model take 12 bytes a parameter; name another folder with --workdir'
        )
    else:
        yield Finding('disk', 'ok', seen)


def _memory() -> tuple[int, int]:
    """Bytes free and in all; (0, 0) where the system does not say."""
    try:
        lines = dict(line.split(':') for line in pathlib.Path('/proc/meminfo').read_text(encoding='utf-8').splitlines())
        free, total = (int(lines[name].split()[0]) * 1024 for name in ('MemAvailable', 'MemTotal'))
    except (OSError, KeyError, ValueError):
        return 0, 0
    for limit, used in (
        ('/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory.current'),
        ('/sys/fs/cgroup/memory/memory.limit_in_bytes', '/sys/fs/cgroup/memory/memory.usage_in_bytes'),
    ):
        try:
            most, taken = (int(pathlib.Path(name).read_text(encoding='utf-8')) for name in (limit, used))
        except (OSError, ValueError):
            continue
        if most < total:
            free, total = min(free, most - taken), most
    return free, total


def devices(paths: Mapping[str, Iterable[str]] = _ACCELERATORS) -> Iterator[Finding]:
    """What jax found, beside the accelerators that the system shows."""
    import jax

    shown = [extra for extra, files in paths.items() if any(os.path.exists(name) for name in files)]
    try:
        found = jax.devices()
    except RuntimeError as error:
        yield Finding(
            'devices', 'fix', f'jax finds none: {str(error).splitlines()[0]}', 'unset JAX_PLATFORMS, or set it to cpu'
        )
        return
    kinds = {kind: sum(d.device_kind == kind for d in found) for kind in dict.fromkeys(d.device_kind for d in found)}
    seen = ', '.join(f'{n} × {kind}' for kind, n in kinds.items()) + f' ({found[0].platform})'
    if sizes := [stats['bytes_limit'] for d in found if (stats := d.memory_stats()) and 'bytes_limit' in stats]:
        seen += f', {min(sizes) / GIB:.0f} GiB each'
    asked = os.environ.get('JAX_PLATFORMS')
    if found[0].platform == 'cpu' and shown:
        todo = f'unset JAX_PLATFORMS, which is {asked!r}' if asked else f"pip install 'r1jax[{shown[0]}]'"
        yield Finding('devices', 'fix', f'{seen}, although there is an accelerator', todo)
    else:
        yield Finding('devices', 'ok', seen + (f'; JAX_PLATFORMS={asked}' if asked else ''))


def compilation() -> Iterator[Finding]:
    """A product over all devices, compiled, run and compared; and whether compiled programs can be kept."""
    import jax
    import numpy as np

    from r1jax import sharding
    from r1jax.config import MeshConfig

    n = jax.local_device_count()
    x = np.arange(n * 64 * 32, dtype=np.float32).reshape(n * 64, 32) / 1e4
    start = time.monotonic()
    with sharding.using(MeshConfig(data=n)) as mesh:
        split = jax.device_put(x, sharding.named(mesh, 'batch', None))
        got = np.asarray(jax.jit(lambda a: a.T @ a, out_shardings=sharding.named(mesh, None, None))(split))
    seconds = time.monotonic() - start
    want = x.T.astype(np.float64) @ x
    error = float(np.abs(got - want).max() / np.abs(want).max())
    if not error < 0.02:  # TPUs and recent GPUs round the factors of a float32 product
        yield Finding(
            'compilation',
            'fix',
            f'a product over {n} devices is wrong by {error:.1g}',
            'run on fewer devices with --set mesh.…; report it',
        )
        return
    yield Finding('compilation', 'ok', f'a product over {n} device{"s" * (n > 1)} compiled and right, {seconds:.1f} s')
    folder = os.environ.get('JAX_COMPILATION_CACHE_DIR', '')
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        yield Finding('cache', 'ok', f'compiled programs are kept in {folder}')
    except OSError as error:
        yield Finding(
            'cache',
            'note',
            f'{folder!r}: {error.strerror}',
            'each run compiles anew: set JAX_COMPILATION_CACHE_DIR to a folder of yours',
        )


def sandbox() -> Iterator[Finding]:
    """A right program and a wrong one, graded as training would."""
    from r1jax.rewards.code import Code
    from r1jax.rewards.sandbox import Unavailable
    from r1jax.types import Problem, Response

    tests = [{'input': [3], 'output': 6}]
    problem = Problem(0, 'Double a number.', '', kind='code', meta={'tests': tests, 'entry_point': 'double'})
    texts = [f'```python\ndef double(x):\n    return {body}\n```' for body in ('2 * x', 'x')]
    try:
        grades = [Code()(problem, Response(text, 0, True)) for text in texts]
    except (Unavailable, FileNotFoundError, RuntimeError) as error:
        todo = 'needed for rewards that run code alone; docs/sandbox.md says what it takes'
        yield Finding('sandbox', 'note', ' '.join(str(error).split()), todo)
        return
    if grades == [1.0, 0.0]:
        yield Finding('sandbox', 'ok', 'runs code apart and grades it right')
    else:
        yield Finding(
            'sandbox',
            'fix',
            f'a right and a wrong program were graded {grades}',
            'report it: no reward of code can be trusted',
        )


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (python, packages, memory, devices, compilation, sandbox)


def examine(checks: Iterable[Callable[[], Iterator[Finding]]] = CHECKS) -> Iterator[Finding]:
    """What the checks see, one after the other. One that breaks is a finding itself."""
    for check in checks:
        try:
            yield from check()
        except Exception as error:
            said = f'{type(error).__name__}: {error}'.splitlines()[0]
            yield Finding(check.__name__, 'fix', said, 'this check itself failed; the message says why')
