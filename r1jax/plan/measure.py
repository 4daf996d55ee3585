"""Compiles a program and says what it needs: memory as the compiler counts it, and what `r1jax.plan.hlo` reads from its text."""

from __future__ import annotations

import collections
import dataclasses
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from r1jax.plan import hlo, memory
from r1jax.plan.chips import Topology, pace
from r1jax.plan.program import Making, Program

KINDS = (
    'parameters',
    'optimizer',
    'frozen',  # reference, base of adapters, teacher, reward models
    'decoding',  # weights in the form that decoding takes
    'cache',  # keys and values
    'inputs',
    'gradients',
    'activations',
    'temporaries',  # the compiler's, but for gradients and activations
)


@dataclasses.dataclass(frozen=True)
class Moved:
    """Collectives of a kind over the same mesh axes, of one call."""

    kind: str
    axes: tuple[str, ...]  # of the mesh
    bytes: float  # that pass through a chip
    times: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Measured:
    """A program on one chip."""

    name: str
    calls: float  # between two rollouts, or of a step
    bytes: Mapping[str, int]  # by KINDS, at its peak
    predicted: int = 0  # of its arguments and of what it gives, by shapes
    counted: int = 0  # … by the compiler
    flops: float = 0.0  # of a call
    traffic: float = 0.0  # bytes that a call reads and writes
    collectives: tuple[Moved, ...] = ()
    seconds: float = 0.0  # of a call, at least: the roofline
    bound: str = ''  # by what: 'compute', 'memory' or 'network'
    useful: float = 0.0  # operations of a call that it cannot do without, of all chips
    compiled_in: float = 0.0  # seconds
    notes: tuple[str, ...] = ()
    error: str = ''  # it does not compile: why

    @property
    def total(self) -> int:
        return sum(self.bytes.values())

    @property
    def off(self) -> float:
        """By how much the shapes' bytes of arguments and results differ from the compiler's, as a share."""
        return abs(self.predicted - self.counted) / self.counted if self.counted else 0.0


def measured(
    making: Making, topology: Topology, mesh: Mesh, known: dict[str, Any], say=lambda line: None
) -> Iterator[Measured]:
    """Each program of a stage, compiled. `known` holds those that were compiled before, and takes these."""
    given, more = None, True
    while more:
        try:
            program = making.send(given)
        except StopIteration:
            return
        if program.key not in known:
            known[program.key] = _compiled(program, topology, mesh)
        read, given = known[program.key]
        found = _with_memory(read, program)
        say(_line(found, topology))
        yield found


def _line(m: Measured, topology: Topology) -> str:
    if m.error:
        return f'{m.name}: {m.error}'
    return f'{m.name}: {m.total / 1e9:.1f} of {topology.chip.memory / 1e9:.1f} GB, compiled in {m.compiled_in:.0f} s'


@dataclasses.dataclass(frozen=True)
class _Read:
    """What does not depend on what else lies in memory."""

    sizes: tuple[
        int, int, int, int
    ]  # bytes of arguments, results, results in the place of arguments, temporaries and code
    rest: Measured


def _compiled(program: Program, topology: Topology, mesh: Mesh) -> tuple[_Read, Any]:
    """What was read of a program, and what it gives, described."""
    start = time.monotonic()
    blank = Measured(program.name, program.calls, {}, useful=program.useful)
    try:
        lowered = program.fn.lower(*program.args)
        out = lowered.out_info
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        spent = time.monotonic() - start
        return _Read((0, 0, 0, _wanted(error)), dataclasses.replace(blank, error=_why(error), compiled_in=spent)), None
    spent = time.monotonic() - start
    stats = compiled.memory_analysis()
    inside = stats.temp_size_in_bytes + stats.generated_code_size_in_bytes
    sizes = stats.argument_size_in_bytes, stats.output_size_in_bytes, stats.alias_size_in_bytes, inside
    described = memory.described(out, compiled.output_shardings)
    predicted = memory.used(program.dynamic, compiled.input_shardings[0]) + memory.on_chip(described)
    text = hlo.Program(compiled.as_text(), program.trips)
    flops, traffic = text.operations(), text.traffic()
    moved = _moved(text.collectives(), topology, mesh)
    times = {
        'compute': flops / topology.chip.flops,
        'memory': traffic / topology.chip.bandwidth,
        'network': sum(m.seconds for m in moved),
    }
    bound = max(times, key=times.__getitem__)
    notes = [f'a loop of unknown length counts once: {scope}' for scope in sorted(text.unknown)]
    notes += [f'kernel {name} is not counted' for name in sorted(text.uncounted)]
    found = dataclasses.replace(
        blank,
        predicted=predicted,
        counted=sizes[0] + sizes[1],
        flops=flops,
        traffic=traffic,
        collectives=moved,
        seconds=times[bound],
        bound=bound,
        compiled_in=spent,
        notes=tuple(notes),
    )
    return _Read(sizes, found), described


def _why(error: Exception) -> str:
    return str(error).splitlines()[0].removeprefix('RESOURCE_EXHAUSTED: ')


def _wanted(error: Exception) -> int:
    """Bytes that a program would have taken, as its compiler's error says."""
    found = re.search(r'(?:Used|temporaries \()\s*([\d.]+)([KMGT])', str(error))
    return int(float(found[1]) * 1024 ** (1 + 'KMGT'.index(found[2]))) if found else 0


def _with_memory(read: _Read, program: Program) -> Measured:
    """By kind, what lies on a chip while a program runs."""
    _, results, aliased, inside = read.sizes
    kinds = {kind: memory.on_chip(tree) for kind, tree in program.memory.items()}
    there = {id(a) for a in jax.tree.leaves(dict(program.memory))}
    others = [a for a in jax.tree.leaves(program.dynamic) if id(a) not in there]
    kinds['inputs'] = memory.on_chip(others)
    new = max(results - aliased, 0)
    where = program.gives or 'inputs'
    kinds[where] = kinds.get(where, 0) + new
    gradients = min(memory.on_chip(program.gradients), inside)
    kept = min(program.activations, inside - gradients)
    kinds |= {'gradients': gradients, 'activations': kept, 'temporaries': inside - gradients - kept}
    shown = {kind: kinds.get(kind, 0) for kind in KINDS}
    return dataclasses.replace(read.rest, name=program.name, calls=program.calls, bytes=shown)


def _moved(found: Iterator[hlo.Collective], topology: Topology, mesh: Mesh) -> tuple[Moved, ...]:
    sums: dict[tuple, list[float]] = collections.defaultdict(lambda: [0.0, 0.0])
    for each in found:
        key = each.kind, axes_of(each.members, mesh)
        sums[key][0] += each.bytes * each.times
        sums[key][1] += each.times
    out = []
    for (kind, axes), (size, times) in sums.items():
        passes = 2.0 if kind == 'all-reduce' else 1.0  # to be reduced, and to be told
        seconds = passes * size / pace(topology, mesh, axes) if mesh.devices.size > 1 else 0.0
        out.append(Moved(kind, axes, size, times, seconds))
    return tuple(sorted(out, key=lambda m: -m.bytes))


def axes_of(members: Sequence[Sequence[int]], mesh: Mesh) -> tuple[str, ...]:
    """The mesh axes along which the devices of a collective differ; devices are numbered as the mesh has them."""
    if not members:  # all of them
        return tuple(name for name, n in mesh.shape.items() if n > 1)
    varied: set[int] = set()
    for group in members:
        places = np.array(np.unravel_index(np.asarray(group), mesh.devices.shape))
        varied |= {i for i, row in enumerate(places) if len(set(row.tolist())) > 1}
    return tuple(name for i, name in enumerate(mesh.axis_names) if i in varied)
