"""Rewards by models that the recipe itself trains: put in their places when the stage that uses them begins.

In: a job, in which `r1jax.rewards.model.FromStage` may stand anywhere that a reward does: in the source, in a phase, in an evaluation.
Out: the job with the models. Their weights are loaded once and are on the mesh as long as the stage runs. Scores depend on the weights
and on what is read alone, so a resumed stage grades as one that was not stopped. Where devices of their own sample, they grade what they
sample: the others' programs are in the middle of an update then.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh

from r1jax import resharding
from r1jax.data.template import exchange
from r1jax.nn import layout
from r1jax.nn.scorer import Scorer
from r1jax.rewards.model import FromStage
from r1jax.train.ahead import apart
from r1jax.train.jobs import Job
from r1jax.train.start import Lineage


def bound(job: Job, lineage: Lineage, mesh: Mesh, tokenizer: Any) -> Job:
    """The job with every reward model in its place.

    Raises:
      BadInput: what a model was trained on has changed.
    """
    form = functools.partial(exchange, tokenizer=tokenizer)

    @functools.cache
    def scorer(stage: str, mesh: Mesh) -> Scorer:
        model, params = lineage.links[stage].model, lineage.end(stage)
        return Scorer.create(model, resharding.moved(params, layout.shardings(params, model, mesh)), mesh)

    def place(reward: FromStage, mesh: Mesh = mesh) -> Any:
        return reward.bound(scorer(reward.stage, mesh), form)

    measures = tuple(dataclasses.replace(each, cfg=_replaced(each.cfg, place)) for each in job.measures)
    beside = functools.partial(place, mesh=apart(job.stage, mesh) or mesh)
    return dataclasses.replace(job, stage=_replaced(job.stage, beside), measures=measures)


def _replaced(value: Any, place: Callable[[FromStage], Any]) -> Any:
    """A part of a recipe with what `place` makes of each `FromStage` in it; itself where there is none."""
    if isinstance(value, FromStage):
        return place(value)
    if isinstance(value, tuple):
        new = tuple(_replaced(each, place) for each in value)
        return new if any(a is not b for a, b in zip(new, value, strict=True)) else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        old = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        changed = {name: new for name, each in old.items() if (new := _replaced(each, place)) is not each}
        return dataclasses.replace(value, **changed) if changed else value
    return value
