"""A trace of one optimizer step, in the words that the code has for it: `r1jax run … --profile STEP`.

WORKDIR/profile/ then holds what XProf and TensorBoard open (`xplane.pb`: `tensorboard --logdir WORKDIR/profile`), and a
`perfetto_trace.json.gz` for https://ui.perfetto.dev. Two kinds of names are in it: what the host is at (`step`, `sample`, `score`,
`logprobs`, `update`, …; `jax.profiler.TraceAnnotation`), and where in the model an operation stands (`prefill`, `decode`, `attention`,
`head`, …; `jax.named_scope`). The compiler names operations `fusion.7` and keeps the scopes beside the program. XProf looks them up
there; for Perfetto, `spoken` writes them into the trace: `update/attention: fusion.7`.

Left out: the tracing of Python's own calls, which takes longer than the step.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import gzip
import json
import os
import pathlib
import re
from collections.abc import Iterator, Sequence

import jax

from r1jax.config import Stage
from r1jax.settings import BadInput

FOLDER = 'profile'

# Parts of an operation's path that say how the program is built and not where in it this is; nor do einsum's formulas, classes and what
# begins with an underscore
_BUILT = re.compile('while|body|cond|closed_call|checkpoint|remat|rematted_computation|shard_map|branch_.*')


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The step that is traced."""

    stage: str
    step: int  # from 1


def wanted(text: str, stages: Sequence[Stage]) -> Wanted:
    """What `STEP` or `STAGE:STEP` means: without a stage, the first of those that are to be run which takes steps.

    Raises:
      BadInput: no such stage or step.
    """
    name, _, number = text.rpartition(':')
    training = {stage.name: stage for stage in stages if stage.loss is not None}
    if not training:
        raise BadInput(f'--profile {text}: none of the stages that are to be run takes steps')
    name = name or next(iter(training))
    if name not in training:
        raise BadInput(f'--profile {text}: {name} is none of the stages that train here ({", ".join(training)})')
    steps = training[name].steps
    if not number.isdecimal() or int(number) < 1 or (steps and int(number) > steps):
        most = f' to {steps}' if steps else ' on'
        raise BadInput(f'--profile {text}: give STEP or STAGE:STEP, with a step from 1{most} of stage {name}')
    return Wanted(name, int(number))


@contextlib.contextmanager
def traced(workdir: str, step: int) -> Iterator[None]:
    """Traces what is done within, and writes it to WORKDIR/profile."""
    folder = os.path.join(workdir, FOLDER)
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    jax.profiler.start_trace(folder, create_perfetto_trace=True, profiler_options=options)
    try:
        with jax.profiler.StepTraceAnnotation('step', step_num=step):
            yield
    finally:
        jax.profiler.stop_trace()
        spoken(newest(folder))


def newest(folder: str | os.PathLike) -> pathlib.Path:
    """Where the last trace of a folder is."""
    return max(
        (path.parent for path in pathlib.Path(folder).rglob('*.xplane.pb')), key=lambda path: path.stat().st_mtime
    )


def spoken(folder: pathlib.Path) -> None:
    """Gives the operations of a Perfetto trace the names of their scopes."""
    path, names = folder / 'perfetto_trace.json.gz', scopes(next(folder.glob('*.xplane.pb')).read_bytes())
    with gzip.open(path, 'rt', encoding='utf-8') as file:
        trace = json.load(file)
    for event in trace['traceEvents']:
        args = event.get('args') or {}
        scope = names.get((args.get('hlo_module', ''), args.get('hlo_op', '')))
        if scope:
            event['name'] = f'{scope}: {event["name"]}'
    with gzip.open(path, 'wt', encoding='utf-8') as file:
        json.dump(trace, file)


def words(path: str) -> str:
    """The scopes of an operation's path: `jit(update)/while/body/transpose(jvp(head))/dot_general` is `update/head, backward`."""
    program, *rest = path.split('/')
    inner = [part for part in rest[:-1] if not part.startswith(('jit(', 'pjit('))]
    first, *named = (re.sub(r'^(\w+\()+|\)+$', '', part) for part in (program, *inner))
    kept = [first, *(name for name in named if re.fullmatch(r'[a-z]\w*', name) and not _BUILT.fullmatch(name))]
    backward = any(part.startswith('transpose(') for part in inner)
    return '/'.join(dict.fromkeys(kept)) + (', backward' if backward else '')


def scopes(space: bytes) -> dict[tuple[str, str], str]:
    """Of every program in a trace: (module, operation) -> its scopes. `space`: an XSpace, in whose metadata are the programs' HLO protos.

    Field numbers: xla/tsl/profiler/protobuf/xplane.proto, xla/service/hlo.proto.
    """
    out: dict[tuple[str, str], str] = {}
    for plane in _fields(space, 1):
        for entry in _fields(plane, 4):  # event_metadata, of which programs are
            for stat in (stat for value in _fields(entry, 2) for stat in _fields(value, 5)):
                for proto in _fields(stat, 6):
                    for module in _fields(proto, 1):
                        out |= _module(module)
    return out


def _module(module: bytes) -> dict[tuple[str, str], str]:
    name = next(_fields(module, 1), b'').decode()
    within: dict[int, collections.Counter[str]] = {}  # of a computation, the scopes of what it computes
    operations: list[tuple[str, str, list[int]]] = []
    for computation in _fields(module, 3):
        here = within.setdefault(next(_fields(computation, 5), 0), collections.Counter())
        for instruction in _fields(computation, 2):
            path = next((p for m in _fields(instruction, 7) for p in _fields(m, 2)), b'').decode()
            scope = words(path) if path else ''
            here[scope] += bool(scope)
            called = [number for part in _fields(instruction, 38) for number in _numbers(part)]
            operations.append((next(_fields(instruction, 1), b'').decode(), scope, called))
    found = {}
    for operation, scope, called in operations:
        inner = sum((within.get(i, collections.Counter()) for i in called), collections.Counter())
        if scope := scope or next((s for s, n in inner.most_common(1) if n), ''):  # a fusion may have none of its own
            found[name, operation] = scope
    return found


def _fields(message: bytes, number: int) -> Iterator:
    """The values of a field of a protocol buffer: bytes, or ints where it is a varint."""
    value: int | bytes
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(message, at)
        elif kind == 2:
            size, at = _varint(message, at)
            value, at = message[at : at + size], at + size
        else:  # fixed, 64 or 32 bits
            size = {1: 8, 5: 4}[kind]
            value, at = message[at : at + size], at + size
        if key >> 3 == number:
            yield value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _numbers(packed: bytes | int) -> list[int]:
    """A repeated field of varints: they may come together or one by one."""
    if isinstance(packed, int):
        return [packed]
    out, at = [], 0
    while at < len(packed):
        value, at = _varint(packed, at)
        out.append(value)
    return out
