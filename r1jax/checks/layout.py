"""Where a stage samples: its devices in another layout, or devices of their own."""

from __future__ import annotations

from collections.abc import Iterator

from r1jax.checks.models import devices, split
from r1jax.checks.rows import Row, under
from r1jax.config import GRPO, MeshConfig, ModelConfig, OnPolicy, SampleConfig, Stage


def layouts(stage: Stage, model: ModelConfig | None, mesh: MeshConfig) -> Iterator[Row]:
    """`SampleConfig.mesh` of a stage that is on `mesh`."""
    for at, cfg in _samples(stage):
        if cfg.mesh is None:
            continue
        ours, theirs = mesh.devices, cfg.mesh.devices
        yield theirs == ours, f'{at}.mesh has {theirs} devices, and the stage is on {ours}, which it must lay out'
        yield from ((holds, f'{at}.mesh{sentence}') for holds, sentence in devices(cfg.mesh, ours))
        yield cfg.mesh.rules == mesh.rules, f"{at}.mesh.rules must be those of the stage's mesh"
        if model:
            yield from under(f'{at}.mesh: model', split(model, cfg.mesh))


def split_off(stage: Stage, model: ModelConfig | None, mesh: MeshConfig, here: int) -> Iterator[Row]:
    """`OnPolicy.split` of a stage that is on `mesh`, where there are so many devices."""
    source = stage.source
    if not isinstance(source, OnPolicy) or source.split is None:
        return
    own = source.split
    at, ours, theirs = 'source.split.mesh', mesh.devices, own.mesh.devices
    yield ours + theirs <= here, f'{at} takes {theirs} devices beside the {ours} that train, and {here} are here'
    yield from ((holds, f'{at}{sentence}') for holds, sentence in devices(own.mesh, here))
    whole = max(ours, theirs) % min(ours, theirs) == 0
    yield whole, f'{at}: weights of {ours} devices go to {theirs}: one number must be a multiple of the other'
    yield own.mesh.rules == mesh.rules, f"{at}.rules must be those of the stage's mesh"
    if model:
        yield from under(f'{at}: model', split(model, own.mesh))
    alone = source.sample.mesh is None
    yield alone, 'source.sample.mesh and source.split both say where rollouts are sampled: leave one of them None'
    if own.staleness and isinstance(stage.loss, GRPO):
        at = f'source.split.staleness={own.staleness}'
        capped = stage.loss.importance_cap > 0
        yield (
            capped,
            f'loss.importance_cap=0 leaves what older policies drew uncorrected: with {at} give a cap, such as 2',
        )


def _samples(stage: Stage) -> Iterator[tuple[str, SampleConfig]]:
    """Every sampling of a stage by its path."""
    if own := getattr(stage.source, 'sample', None):
        yield 'source.sample', own
    for each in stage.evals:
        if own := getattr(each, 'sample', None):
            yield f'evals.{each.name}.sample', own
