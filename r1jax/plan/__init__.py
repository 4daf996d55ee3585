"""What an experiment would need of chips that need not be here: memory, time and money, before any is paid for.

    r1jax plan experiments/zero_qwen_7b.py --topology v5e:4x4

In order: `chips` knows what stands where → `models` says which model each stage has, without its weights → `programs` and `sampling`
describe what a stage compiles → `measure` compiles it and reads its memory, operations and collectives → `of` puts a stage together →
`table` prints it. `search` does so for the meshes that look best by their shapes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from r1jax import sharding
from r1jax.checks import validate
from r1jax.config import Collect, MeshConfig, ModelConfig, Recipe, Stage
from r1jax.plan import measure, program, programs, work
from r1jax.plan.chips import Topology, parse
from r1jax.plan.measure import Measured
from r1jax.plan.models import resolved
from r1jax.settings import BadInput, nearest

__all__ = ['Planned', 'StagePlan', 'Topology', 'of', 'parse', 'resolved', 'wanted']

AGREE = 0.01  # share by which bytes known from shapes and the compiler's may differ


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """A stage on a topology."""

    name: str
    mesh: MeshConfig
    rows: int  # a microbatch; 0: nothing is trained
    slots: int  # 0: nothing is sampled
    programs: tuple[Measured, ...]
    memory: int  # bytes of a chip
    chips: int
    loop: float  # seconds between two rollouts, or of a step, at least
    updates: int  # optimizer steps in that time
    tokens_a_day: float  # of responses, at most
    utilisation: float  # of the chips' operations, those that a model needs, at that pace
    hours: float | None  # of all chips together, at least; None: its data say how long it takes
    largest: Mapping[str, int]  # rows a microbatch and slots that would fit

    @property
    def peak(self) -> Measured:
        """The program that takes most."""
        return max(self.programs, key=lambda m: m.total)

    @property
    def fits(self) -> bool:
        return not any(m.error for m in self.programs) and self.peak.total <= self.memory


@dataclasses.dataclass(frozen=True)
class Planned:
    """An experiment on a topology."""

    recipe: str
    topology: Topology
    mean: int  # tokens that a response was taken to have; 0: as long as it may be
    stages: tuple[StagePlan, ...]
    others: tuple[StagePlan, ...] = ()  # that a search compiled, and found to be slower or too large

    @property
    def fits(self) -> bool:
        return all(stage.fits for stage in self.stages)

    @property
    def disagree(self) -> list[str]:
        """Programs of which shapes and compiler say another number of bytes."""
        return [f'{s.name}: {m.name}' for s in self.stages for m in s.programs if m.off > AGREE]


def wanted(recipe: Recipe, names: Sequence[str]) -> list[Stage]:
    """The stages of these names, or all. BadInput on a name that there is not, and on a stage that samples in another layout."""
    known = [stage.name for stage in recipe.stages]
    for name in names:
        if name not in known:
            raise BadInput(f'the recipe has no stage {name}{nearest(name, known)}')
    stages = [stage for stage in recipe.stages if not names or stage.name in names]
    for stage in stages:
        _refuse_layouts(stage)
    return stages


def of(
    recipe: Recipe,
    topology: Topology,
    names: Sequence[str] = (),
    mean: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> Planned:
    """The plan of a recipe's stages, or of those named, each on its mesh.

    Args:
      recipe: with its models, as `resolved` gives it.
      mean: tokens of a response; 0: as long as it may be.
      say: takes a line for each program that was compiled.

    Raises:
      BadInput: settings that cannot run, or a mesh that leaves chips of the topology unused.
      ImportError: a topology of TPUs, without libtpu.
    """
    validate(recipe, topology.chips)
    devices = topology.devices()
    known: dict[MeshConfig, dict[str, Any]] = {}
    models = {stage.name: stage.model for stage in recipe.stages}
    out = []
    for stage in wanted(recipe, names):
        cfg = stage.mesh or recipe.mesh
        if cfg.devices != topology.chips:
            raise BadInput(
                f'the mesh of {stage.name} has {cfg.devices} devices, {topology.text} has {topology.chips}: '
                f'--set mesh.fsdp={topology.chips * cfg.fsdp // cfg.devices or 1}, or --search'
            )
        say(f'{stage.name}:')
        out.append(of_stage(stage, cfg, topology, devices, models, mean, known, say))
    return Planned(recipe.name, topology, mean, tuple(out))


def _refuse_layouts(stage: Stage) -> None:
    """Raises BadInput where a stage samples in another layout than it trains: a plan has one a stage."""
    samples = {'source.sample.mesh': getattr(getattr(stage.source, 'sample', None), 'mesh', None)}
    samples |= {f'evals.{e.name}.sample.mesh': getattr(getattr(e, 'sample', None), 'mesh', None) for e in stage.evals}
    samples['source.split'] = getattr(stage.source, 'split', None)
    for path, value in samples.items():
        if value is not None:
            raise BadInput(
                f'{stage.name}.{path} has another layout than the stage, and a plan has one: --set {stage.name}.{path}=none, and plan the '
                'other layout as the mesh'
            )


def of_stage(
    stage: Stage,
    cfg: MeshConfig,
    topology: Topology,
    devices: Sequence[Any],
    models: Mapping[str, ModelConfig],
    mean: int = 0,
    known: dict[MeshConfig, dict[str, Any]] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> StagePlan:
    """One stage on one mesh. `known` holds what was compiled for other stages, by their mesh, and takes this."""
    mesh, known = sharding.make_mesh(cfg, devices), {} if known is None else known
    with sharding.ruled(cfg.rules), jax.set_mesh(mesh):
        setting = program.Setting(stage, mesh, models, mean)
        making, amount = programs.of_stage(setting), setting.work
        found = tuple(measure.measured(making, topology, mesh, known.setdefault(cfg, {}), say))
    seconds = sum(m.calls * m.seconds for m in found)
    useful = sum(m.calls * m.useful for m in found)
    rollouts = amount.steps / amount.updates if amount.steps and amount.updates else None
    sample = getattr(stage.source, 'sample', None)
    rows = 0 if isinstance(stage.source, Collect) else stage.rows.per_microbatch
    return StagePlan(
        name=stage.name,
        mesh=cfg,
        rows=rows,
        slots=sample.slots if sample else 0,
        programs=found,
        memory=topology.chip.memory,
        chips=topology.chips,
        loop=seconds,
        updates=amount.updates,
        tokens_a_day=work.a_day(amount.tokens, seconds),
        utilisation=useful / (topology.chips * topology.chip.flops * seconds) if seconds else 0.0,
        hours=None if rollouts is None else rollouts * seconds * topology.chips / 3600,
        largest=_largest(found, topology, rows, sample.slots if sample else 0, cfg.ways('batch')),
    )


def _largest(found: Sequence[Measured], topology: Topology, rows: int, slots: int, shards: int) -> dict[str, int]:
    """How many rows a microbatch, and slots, would fit: what grows with them is taken to grow in proportion."""
    grows = {'update': ('rows', rows, ('activations', 'temporaries')), 'decode': ('slots', slots, ('cache',))}
    out = {}
    for m in found:
        if m.name not in grows or m.error:
            continue
        name, count, kinds = grows[m.name]
        each = sum(m.bytes[kind] for kind in kinds) / (count / shards)
        free = topology.chip.memory - m.total
        more = int(free // each) if each else 0
        out[name] = max(count + more * shards, 0)
    return out
