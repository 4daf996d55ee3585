"""What a compiled program does, counted from its HLO text: operations of matrix products and bytes of collectives, with the body of
each loop counted as often as it runs (`cost_analysis()` counts it once).
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re

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
_SHAPE = re.compile(r'(\w+)\[([\d,]*)\]')
COLLECTIVES = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute')


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    shape: str
    op: str
    rest: str  # operands and attributes

    @property
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
        return found and found[1]

    @property
    def constant(self) -> int:
        return int(re.match(r'-?\d+', self.rest)[0])

    @property
    def scope(self) -> str:
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ''


def dims(shape: str) -> list[tuple[str, list[int]]]:
    """(type, sizes) of each array of a shape."""
    return [(t, [int(n) for n in d.split(',') if n]) for t, d in _SHAPE.findall(shape) if t in _BYTES]


def size(shape: str) -> int:
    """Bytes of a shape."""
    return sum(_BYTES[t] * math.prod(d) for t, d in dims(shape))


class Program:
    """`trips(instruction)` says how often a loop runs that does not know it itself; one that returns None counts once."""

    def __init__(self, text: str, trips=lambda instruction: None):
        self.trips = trips
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
        flops, moved, seen = 0.0, collections.Counter(), set()
        for instruction, times in self.walk():
            flops += times * self.flops(instruction)
            kind = instruction.op.removesuffix('-start')
            if kind in COLLECTIVES:
                channel = instruction.attribute('channel_id') or instruction.name
                if channel in seen:  # TPUs spread one collective over several steps that run beside it
                    continue
                seen.add(channel)
                moved[kind, instruction.scope] += times * self.moved(kind, instruction)
        return flops, moved

    def walk(self, name: str | None = None, times: float = 1.0):
        """(instruction, how often it runs) of a computation and all that it calls."""
        for i in self.computations[name or self.entry]:
            yield i, times
            if i.op == 'while':
                n = self.bound(i) or self.trips(i)
                yield from self.walk(i.attribute('body'), times * (1 if n is None else n))
            elif i.op == 'conditional':
                for branch in re.findall(r'%([\w.\-]+)', i.rest.partition('branch_computations=')[2].partition('}')[0]):
                    yield from self.walk(branch, times)
            elif called := i.attribute('calls'):
                yield from self.walk(called, times)

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

    def flops(self, i: Instruction) -> float:
        """2 · outputs · contracted size of a product, which TPUs write as a convolution."""
        if i.op not in ('dot', 'convolution'):
            return 0.0
        out = math.prod(dims(i.shape)[0][1])
        operands = [dims(self.shapes[o])[0][1] for o in i.operands[:2]]
        if i.op == 'dot':
            axes = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', i.rest)[1]
            return 2.0 * out * math.prod(operands[0][int(a)] for a in axes.split(',') if a)
        kernel = re.search(r'dim_labels=\w+_(\w+)->', i.rest)[1]
        window = re.search(r'window=\{[^}]*size=([\dx]+)', i.rest)
        batched = re.search(r'(?:feature|batch)_group_count=(\d+)', i.rest)
        if (window and 'lhs_dilate' in i.rest) or (
            'pad=' in i.rest and window
        ):  # a batch axis written as a diagonal window
            return 2.0 * out * operands[1][kernel.index('i')]
        spatial = math.prod(n for n, label in zip(operands[1], kernel, strict=True) if label not in 'io')
        return 2.0 * out * operands[1][kernel.index('i')] * spatial / int(batched[1] if batched else 1)

    def moved(self, kind: str, i: Instruction) -> int:
        """Bytes of the gathered array, of the array before it is scattered or reduced: what passes through a device, about."""
        if kind == 'all-gather':
            shapes = dims(i.shape)
            return max(_BYTES[t] * math.prod(d) for t, d in shapes)
        return sum(size(self.shapes[o]) for o in i.operands)
