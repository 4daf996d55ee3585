"""What a compiled program does, counted from its HLO text, with the body of each loop counted as often as it runs (`cost_analysis()`
counts it once): operations of products, bytes that pass through memory, and collectives with the devices that they join.

Counted are matrix products, ragged ones, and kernels that say what they cost or that this file knows (splash attention); element by
element work is not: it is bound by memory. Of a conditional, the mean of its branches counts.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator

import numpy as np

_BYTES = {
    'pred': 1,
    's8': 1,
    'u8': 1,
    's16': 2,
    'u16': 2,
    'bf16': 2,
    'f16': 2,
    's32': 4,
    'u32': 4,
    'f32': 4,
    's64': 8,
    'u64': 8,
    'f64': 8,
}
_INSTRUCTION = re.compile(r'^\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$')
_SHAPE = re.compile(r'(\w+)\[([\d,]*)\](?:\{([^}]*)\})?')
COLLECTIVES = (
    'all-gather',
    'all-reduce',
    'reduce-scatter',
    'all-to-all',
    'ragged-all-to-all',
    'collective-permute',
)
# Instructions that move nothing themselves
_FREE = {'parameter', 'get-tuple-element', 'tuple', 'bitcast', 'constant', 'while', 'conditional', 'call', 'after-all'}
_FREE |= {'async-start', 'async-update', 'partition-id', 'replica-id', 'opt-barrier', 'domain', 'iota'}
_PICKS = {'dynamic-slice', 'slice', 'gather'}  # read as much as they give

Trips = Callable[['Instruction'], float | None]


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    shape: str
    op: str
    rest: str  # operands and attributes

    @functools.cached_property
    def operands(self) -> list[str]:
        depth, end = 1, len(self.rest)
        for i, c in enumerate(self.rest):
            depth += (c == '(') - (c == ')')
            if not depth:
                end = i
                break
        return re.findall(r'%([\w.\-]+)', self.rest[:end])

    def attribute(self, name: str) -> str | None:
        found = re.search(rf'{name}=%?([\w.\-]+)', self.rest)
        return found[1] if found else None

    @property
    def constant(self) -> int:
        return int(re.match(r'-?\d+', self.rest)[0])

    @property
    def scope(self) -> str:
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ''


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program, on one device."""

    kind: str  # of COLLECTIVES
    scope: str
    bytes: int  # that pass through a device, about, each time
    times: float
    members: tuple[
        tuple[int, ...], ...
    ]  # devices that it joins: one group of them, or of a permutation the pairs; (): all


def dims(shape: str) -> list[tuple[str, list[int]]]:
    """(type, sizes) of each array of a shape."""
    return [(t, [int(n) for n in d.split(',') if n]) for t, d, _ in _SHAPE.findall(shape) if t in _BYTES]


def size(shape: str) -> int:
    """Bytes of a shape."""
    return sum(_BYTES[t] * math.prod(d) for t, d in dims(shape))


def in_memory(shape: str) -> int:
    """Bytes of a shape that lie in a device's main memory: not in a TPU's vector memory or on the host, as its layout says."""
    arrays = [(t, d) for t, d, layout in _SHAPE.findall(shape) if t in _BYTES and 'S(' not in layout]
    return sum(_BYTES[t] * math.prod(int(n) for n in d.split(',') if n) for t, d in arrays)


def members(rest: str) -> tuple[tuple[int, ...], ...]:
    """The devices that a collective's attributes say it joins, as in `Collective`."""
    if found := re.search(r'source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}', rest):
        return tuple(tuple(map(int, pair.split(','))) for pair in re.findall(r'\{(\d+,\d+)\}', found[1]))
    if found := re.search(r'replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}', rest):
        return (tuple(_of_axes(found[1], found[2])),)
    if found := re.search(r'replica_groups=\{\{([\d,]+)\}', rest):
        return (tuple(map(int, found[1].split(','))),)
    if found := re.search(r'replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', rest):
        shape = [int(n) for n in found[3].split(',')]
        order = [int(n) for n in found[4].split(',')] if found[4] else range(len(shape))
        ids = np.arange(math.prod(shape)).reshape(shape).transpose(order).reshape(int(found[1]), int(found[2]))
        return (tuple(ids[0].tolist()),)
    return ()


def _of_axes(sizes: str, over: str) -> list[int]:
    """The first group of devices along axes of a mesh: `'a'=4,'b'=2` and `'b'`, or, for a part of an axis, `'a':(2)2`, of which the
    first number says how many parts stand before it, and the second how large it is.
    """
    mesh = {name: int(n) for name, n in re.findall(r"'([^']+)'=(\d+)", sizes)}
    ids = np.arange(math.prod(mesh.values())).reshape(tuple(mesh.values()))
    take = {}
    for name, before, part in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", over):
        inner = mesh[name] // (int(before) * int(part)) if part else 1
        take[name] = np.arange(int(part) if part else mesh[name]) * inner
    return ids[np.ix_(*(take.get(name, np.zeros(1, int)) for name in mesh))].reshape(-1).tolist()


class Program:
    """`trips(instruction)` says how often a loop runs that does not know it itself; one that returns None counts once, and is told in
    `unknown`.
    """

    def __init__(self, text: str, trips: Trips = lambda instruction: None):
        self.trips = trips
        self.unknown: set[str] = set()  # scopes of loops that count once because nobody knows better
        self.uncounted: collections.Counter[str] = collections.Counter()  # kernels whose operations nobody says
        self._cached: dict[str, tuple] = {}  # of fused computations, what `_parts` found
        self.computations: dict[str, list[Instruction]] = {}
        self.entry, current = '', []
        for line in text.splitlines():
            if line and not line[0].isspace() and line.rstrip().endswith('{') and '(' in line:
                name = re.match(r'(?:ENTRY )?%?([\w.\-]+)', line)[1]
                current = self.computations.setdefault(name, [])
                if line.startswith('ENTRY'):
                    self.entry = name
            elif found := _INSTRUCTION.match(line):
                current.append(Instruction(*found.groups()))
        self.shapes = {i.name: i.shape for c in self.computations.values() for i in c}

    def total(self) -> tuple[float, collections.Counter]:
        """(operations of products, bytes of collectives by (kind, scope)) of the whole program on one device."""
        moved: collections.Counter = collections.Counter()
        for each in self.collectives():
            moved[each.kind, each.scope] += each.times * each.bytes  # type: ignore[assignment]  # floats count as well
        return self.operations(), moved

    def operations(self) -> float:
        """Operations of the products of the whole program on one device."""
        return sum(times * self.flops(i) for i, times, _ in self.walk())

    def traffic(self) -> float:
        """Bytes that the whole program reads from and writes to one device's memory."""
        return sum(times * self.passed(i) for i, times, fused in self.walk() if not fused)

    def collectives(self) -> Iterator[Collective]:
        """Each collective of the program once."""
        seen = set()
        for i, times, _ in self.walk():
            kind = i.op.removesuffix('-start')
            if kind in COLLECTIVES:
                channel = i.attribute('channel_id') or i.name
                if channel in seen:  # TPUs spread one collective over several steps that run beside it
                    continue
                seen.add(channel)
                yield Collective(kind, i.scope, self.moved(kind, i), times, members(i.rest))

    def walk(
        self, name: str | None = None, times: float = 1.0, fused=False
    ) -> Iterator[tuple[Instruction, float, bool]]:
        """(instruction, how often it runs, whether it is inside a fusion) of a computation and all that it calls."""
        for i in self.computations[name or self.entry]:
            yield i, times, fused
            if i.op == 'while':
                n: float | None = self.bound(i)
                n = self.trips(i) if n is None else n
                if n is None:
                    self.unknown.add(i.scope)
                yield from self.walk(i.attribute('body'), times * (1 if n is None else n), fused)
            elif i.op == 'conditional':
                branches = re.findall(r'%([\w.\-]+)', i.rest.partition('branch_computations=')[2].partition('}')[0])
                branches = branches or [i.attribute(f'{which}_computation') for which in ('true', 'false')]
                for branch in branches:
                    yield from self.walk(branch, times / len(branches), fused)
            elif called := i.attribute('calls') or (i.op == 'call' and i.attribute('to_apply')):
                yield from self.walk(called, times, fused or i.op == 'fusion')

    def bound(self, loop: Instruction) -> int | None:
        """How often a loop runs: as the compiler says, or read from a counter that goes from 0, by a constant, to a constant.
        None if neither can be had.
        """
        if known := re.search(r'known_trip_count[^\d]*(\d+)', loop.rest):
            return int(known[1])
        condition = {i.name: i for i in self.computations[loop.attribute('condition')]}
        tests = [i for i in condition.values() if i.op == 'compare' and 'direction=LT' in i.rest]
        if len(tests) != 1:
            return None
        counter, end = (condition[o] for o in tests[0].operands)
        if counter.op != 'get-tuple-element' or end.op != 'constant':
            return None
        body = self.computations[loop.attribute('body')]
        advance = next(i for i in body if i.name == body[-1].operands[int(counter.attribute('index'))])
        steps = [i for i in body if i.name in advance.operands and i.op == 'constant']
        if len(steps) != 1:
            return None
        return -(-end.constant // steps[0].constant)

    # --- one instruction

    def flops(self, i: Instruction) -> float:
        """2 · outputs · contracted size of a product, which TPUs write as a convolution."""
        if i.op == 'custom-call':
            return self._kernel(i)
        if i.op not in ('dot', 'convolution', 'ragged-dot'):
            return 0.0
        out = math.prod(dims(i.shape)[0][1])
        operands = [dims(self.shapes[o])[0][1] for o in i.operands[:2]]
        if i.op != 'convolution':  # of a ragged product: each row meets one group's matrix
            axes = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', i.rest)[1]
            contracted = math.prod(operands[0][int(a)] for a in axes.split(',') if a)
            if i.op == 'ragged-dot' and len(dims(i.shape)[0][1]) > len(operands[0]):  # what is contracted is ragged
                out //= dims(i.shape)[0][1][0]
            return 2.0 * out * contracted
        kernel = re.search(r'dim_labels=\w+_(\w+)->', i.rest)[1]
        window = re.search(r'window=\{[^}]*size=([\dx]+)', i.rest)
        batched = re.search(r'(?:feature|batch)_group_count=(\d+)', i.rest)
        if (window and 'lhs_dilate' in i.rest) or (
            'pad=' in i.rest and window
        ):  # a batch axis written as a diagonal window
            return 2.0 * out * operands[1][kernel.index('i')]
        spatial = math.prod(n for n, label in zip(operands[1], kernel, strict=True) if label not in 'io')
        return 2.0 * out * operands[1][kernel.index('i')] * spatial / int(batched[1] if batched else 1)

    def _kernel(self, i: Instruction) -> float:
        """What a kernel says that it costs, or of splash attention what its mask leaves of its products."""
        if 'tpu_custom_call' not in i.rest:
            return 0.0
        if said := re.search(r'"flops":\s*"?(\d+)', i.rest):
            return float(said[1])
        if (products := _splash(i.name + i.scope)) is None:
            self.uncounted[i.scope.rpartition('/')[2] or i.name] += 1
            return 0.0
        wide = [d for o in i.operands for t, d in dims(self.shapes[o])[:1] if t in ('bf16', 'f32') and len(d) >= 3]
        *lead, queries, width = wide[0]  # q [B,N,T,H]
        keys = wide[1][-2]
        seen = 0.5 if queries == keys else 1.0  # tokens read their own piece up to themselves, and of prompts all
        return seen * products * 2.0 * math.prod(lead) * queries * keys * width

    def passed(self, i: Instruction) -> float:
        """Bytes that an instruction reads from and writes to memory; of a part that is picked out of or put into an array, the part's."""
        if i.op in _FREE or i.op.endswith('-done') or 'AllocateBuffer' in i.rest or 'ConcatBitcast' in i.rest:
            return 0.0
        shapes = self.shapes
        if i.op == 'fusion':
            return self._fusion(i)
        if i.op in _PICKS:
            return 2.0 * in_memory(i.shape)
        if i.op == 'dynamic-update-slice':
            return 2.0 * in_memory(shapes[i.operands[1]])
        out = _SHAPE.search(i.shape)[0] if i.op.endswith('-start') and _SHAPE.search(i.shape) else i.shape
        return float(in_memory(out) + sum(in_memory(shapes.get(o, '')) for o in i.operands))

    def _fusion(self, i: Instruction) -> float:
        reads, writes = self._parts(i.attribute('calls'))
        out = in_memory(i.shape) if writes is None else (writes if in_memory(i.shape) else 0)
        for at, o in enumerate(i.operands):
            whole = in_memory(self.shapes.get(o, ''))
            out += whole if reads.get(at) is None else min(whole, reads[at])
        return float(out)

    def _parts(self, name: str) -> tuple[dict[int, int | None], int | None]:
        """Of a fused computation: bytes that it reads of each parameter and writes, where these are parts; None: the whole."""
        if name not in self._cached:
            body = self.computations[name]
            users = collections.defaultdict(list)
            for i in body:
                for at, o in enumerate(i.operands):
                    users[o].append((i, at))
            reads: dict[int, int | None] = {}
            for i in body:
                if i.op == 'parameter':
                    reads[i.constant] = self._read(users[i.name])
            root = body[-1]
            part = root.op == 'dynamic-update-slice'
            self._cached[name] = reads, (size(self.shapes[root.operands[1]]) if part else None)
        return self._cached[name]

    def _read(self, users) -> int | None:
        total = 0
        for i, at in users:
            if i.op in _PICKS and at == 0:
                total += size(i.shape)
            elif not (i.op == 'dynamic-update-slice' and at == 0):
                return None
        return total

    def moved(self, kind: str, i: Instruction) -> int:
        """Bytes of the gathered array, of the array before it is scattered or reduced: what passes through a device, about."""
        if kind == 'all-gather':
            # several may be joined in one; the shape of one that is begun lists what goes in, too
            begun = i.operands if i.op.endswith('-start') else ()
            return size(i.shape) - sum(size(self.shapes[o]) for o in begun)
        operands = i.operands[:1] if kind == 'ragged-all-to-all' else i.operands
        return sum(size(self.shapes[o]) for o in operands)


def _splash(name: str) -> int | None:
    """Products of queries × keys that a splash attention kernel makes: of the forward pass 2, for dq 3, for dk and dv 4."""
    for kind, products in (('splash_mha_dkv', 4), ('splash_mha_dq', 3), ('splash_mha_fwd', 2)):
        if kind in name:
            return products
    return None
