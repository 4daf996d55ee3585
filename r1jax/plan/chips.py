"""Chips, and how many of them stand how: `v5p:4x4x8` is a torus of 128 TPUs, `h100:16` two nodes of 8 GPUs.

TPUs are compiled for by the libtpu wheel (extra `tpu`), with none present. For GPUs nothing here can be compiled: their programs are
compiled for as many virtual CPUs, and what is said of them is an estimate.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from r1jax.settings import BadInput, nearest

_G = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one device has. Memory of TPUs is what libtpu's compiler lets a program take (its error says so), a little less than is sold."""

    name: str
    memory: int  # bytes
    flops: float  # a second, dense bfloat16
    bandwidth: float  # bytes a second of its memory
    link: float  # bytes a second, one way, of one link of a TPU; of a GPU to the others of its node together
    outside: float  # bytes a second, one way, a chip's share of the network between slices or nodes
    source: str
    ring: int = 0  # TPU: a side of the topology that is a multiple of this is closed to a ring
    node: int = 0  # GPUs of a node; 0: a TPU
    options: tuple[tuple[str, Any], ...] = ()  # to be compiled for


_TPU = 'cloud.google.com/tpu/docs'
_SCALING = 'jax-ml.github.io/scaling-book/tpus'  # bandwidth of the data-centre network a chip
_NVIDIA = 'nvidia.com/en-us/data-center'
CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            'v4',
            int(30.75 * _G),
            275e12,
            1228e9,
            50e9,
            3.1e9,
            f'{_TPU}/v4; {_SCALING}',
            ring=4,
            options=(('chip_config_name', 'megacore'),),
        ),
        Chip('v5e', int(15.75 * _G), 197e12, 819e9, 50e9, 3.1e9, f'{_TPU}/v5e; {_SCALING}', ring=16),
        Chip('v5p', int(95.74 * _G), 459e12, 2765e9, 100e9, 6.25e9, f'{_TPU}/v5p; {_SCALING}', ring=4),
        Chip('v6e', int(31.25 * _G), 918e12, 1638e9, 100e9, 12.5e9, f'{_TPU}/v6e; {_SCALING}', ring=16),
        # Dense figures; a tenth of memory is left to CUDA, NCCL and fragments, as XLA_PYTHON_CLIENT_MEM_FRACTION=0.9 does
        Chip('a100', int(0.9 * 80e9), 312e12, 2039e9, 300e9, 25e9, f'{_NVIDIA}/a100 (80 GB SXM)', node=8),
        Chip('h100', int(0.9 * 80e9), 989e12, 3350e9, 450e9, 50e9, f'{_NVIDIA}/h100 (SXM)', node=8),
        Chip('h200', int(0.9 * 141e9), 989e12, 4800e9, 450e9, 50e9, f'{_NVIDIA}/h200 (SXM)', node=8),
        Chip('b200', int(0.9 * 180e9), 2250e12, 7700e9, 900e9, 50e9, f'{_NVIDIA}/hgx (B200 SXM)', node=8),
    )
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips that stand together. Made by `parse`."""

    text: str
    chip: Chip
    sides: tuple[int, ...]  # of a slice; of GPUs their number
    slices: int = 1

    @property
    def chips(self) -> int:
        return math.prod(self.sides) * self.slices

    @property
    def estimated(self) -> bool:
        """Whether nothing can be compiled for it here, so that its figures are estimates."""
        return bool(self.chip.node)

    def devices(self) -> Sequence[Any]:
        """What to compile for. ImportError without libtpu; BadInput: there is no such topology."""
        if self.estimated:
            return _virtual(self.chips)
        if importlib.util.find_spec('libtpu') is None:
            raise ImportError("to plan for TPUs, install libtpu: pip install 'r1jax[tpu]'")
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        from jax.experimental import topologies

        options: dict[str, Any] = dict(self.chip.options)
        if math.prod(self.sides[:2]) < 4:  # a part of a host
            options['chips_per_host_bounds'] = [*self.sides, 1][:3]
        if self.slices > 1:
            options['num_slices'] = self.slices
        name = f'{self.chip.name}:{"x".join(map(str, self.sides))}'
        try:
            return topologies.get_topology_desc(name, 'tpu', **options).devices
        except Exception as error:  # of the compiler's own type
            raise BadInput(f'{self.text} is no topology: {str(error).splitlines()[0]}') from error


# libtpu asks Google's servers which TPU it runs on, wants to be alone, and tells of every step
_QUIET = {
    'TPU_SKIP_MDS_QUERY': '1',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    'TPU_STDERR_LOG_LEVEL': '3',
    'TPU_MIN_LOG_LEVEL': '3',
}


def parse(text: str) -> Topology:
    """`v5p:4x4x8`, `2*v5p:4x4x8` (two slices of it) or `h100:16`. BadInput if it is none."""
    found = re.fullmatch(r'(?:(\d+)\*)?([a-z]+\d+[a-z]*):(\d+(?:x\d+)*)', text)
    if not found:
        raise BadInput(f'{text!r} is no topology: write v5p:4x4x8, 2*v5p:4x4x8 for two slices, or h100:16')
    slices, name, sides = int(found[1] or 1), found[2], tuple(int(n) for n in found[3].split('x'))
    if name not in CHIPS:
        raise BadInput(f'{text!r}: there is no chip {name!r}{nearest(name, CHIPS)}')
    chip = CHIPS[name]
    wanted = 1 if chip.node else 2 if chip.ring == 16 else 3
    if len(sides) != wanted or not all(sides) or not slices or (chip.node and slices > 1):
        shape = {1: f'{name}:16, a number of GPUs', 2: f'{name}:4x4', 3: f'{name}:2x2x1'}[wanted]
        raise BadInput(f'{text!r} is no topology of {name}: write {shape}')
    return Topology(text, chip, sides, slices)


def _virtual(count: int) -> Sequence[Any]:
    import jax

    here = jax.devices('cpu')
    if len(here) < count:
        raise BadInput(
            f'{count} GPUs are planned on as many virtual CPUs, of which there are {len(here)}: '
            f'set XLA_FLAGS=--xla_force_host_platform_device_count={count}'
        )
    return here[:count]


def pace(topology: Topology, mesh: Mesh, axes: Sequence[str]) -> float:
    """Bytes a second that a chip can send, and receive, to the others along mesh axes together.

    Of a torus: two links for each of its directions that these chips extend in, one where it is not closed to a ring. Where they stand in
    several slices or nodes, the network between them counts.
    """
    chip = topology.chip
    index = tuple(slice(None) if name in axes else 0 for name in mesh.axis_names)
    group = np.atleast_1d(mesh.devices[index]).reshape(-1)
    if chip.node:
        return chip.link if len({d.id // chip.node for d in group}) == 1 else chip.outside
    if len({getattr(d, 'slice_index', 0) or 0 for d in group}) > 1:
        return chip.outside
    spans = [len({d.coords[i] for d in group}) for i in range(3)]
    sides = [*topology.sides, 1][:3]
    links = sum(2 if n == side and side % chip.ring == 0 else 1 for n, side in zip(spans, sides, strict=True) if n > 1)
    return chip.link * max(links, 1)
