"""The weights that a stage starts from, and those that it ended with.

A stage of adapters keeps no copy of its base: its checkpoints hold the adapters, the recipe says where the stage started, and a
fingerprint of the base proves that what is made again is what it was. So the weights a stage ended with may be a chain, from the random
draw or the file where it began: `Lineage` follows it, one base in memory at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from r1jax import distributed
from r1jax.checks import from_weights, model_of
from r1jax.config import REWARD_MODELS, LoRA, ModelConfig, Recipe
from r1jax.settings import BadInput
from r1jax.train import checkpoint
from r1jax.train import step as compiled
from r1jax.train.phases import derive
from r1jax.weights import reader


@dataclasses.dataclass(frozen=True)
class Link:
    """What must be known of a stage to make its weights again."""

    start: str  # as in `Stage`
    seed: int  # of the stage
    model: ModelConfig
    lora: LoRA | None
    scalar: bool = False  # a reward model: with a value head in place of the unembedding


@dataclasses.dataclass(frozen=True)
class Lineage:
    """The stages of a workdir, by what each starts from."""

    workdir: str
    mesh: Mesh
    links: Mapping[str, Link]  # by the stage's name
    opened: Callable[[str], reader.Reader | None]  # a `start` that names weights; None: a preset, drawn at random

    @classmethod
    def of(cls, recipe: Recipe, workdir: str, mesh: Mesh, opened: Callable) -> Lineage:
        """Of a recipe whose models are known."""
        links = {
            s.name: Link(
                s.start,
                derive(recipe.seed, s.name),
                model_of(recipe, s),
                s.lora,
                isinstance(s.loss, REWARD_MODELS),
            )
            for s in recipe.stages
        }
        return cls(workdir, mesh, links, opened)

    def start(self, stage: str) -> Any:
        """The weights that a stage starts from, f32, on the mesh: of a reward model with a value head, a new one unless it had one.

        Raises:
          BadInput: it starts from a stage that is not finished, or whose base has changed.
        """
        link, params = self.links[stage], self._start(stage)
        key = jax.random.key(derive(link.seed, 'value head'))
        return compiled.with_value_head(link.model, params, key, self.mesh) if link.scalar else params

    def _start(self, stage: str) -> Any:
        link = self.links[stage]
        file = self.opened(link.start) if from_weights(link.start) else None
        if file is not None:
            return reader.params(file, compiled.weight_shardings(link.model, self.mesh))
        if link.start == 'init' or from_weights(link.start):
            return compiled.init_params(link.model, jax.random.key(link.seed), self.mesh)
        if not distributed.told(lambda: checkpoint.read_done(self.workdir, link.start)):
            raise BadInput(
                f'stage {stage} starts from {link.start}, which is not finished in {self.workdir}: run it first'
            )
        return self.end(link.start)

    def base(self, stage: str, expected: int | None = None) -> Any:
        """The frozen weights beside which a stage of adapters trains, and their fingerprint.

        Raises:
          BadInput: the fingerprint is not `expected`, that of the base in another process.
        """
        base = compiled.freeze(self.start(stage), self.links[stage].lora)
        found = int(compiled.fingerprint(base))
        if expected is not None and found != expected:
            raise BadInput(
                f'stage {stage} trained adapters for other weights than {self.links[stage].start!r} gives now '
                f'(fingerprint {found:08x}, then {expected:08x}): restore the file, package or version of jax that it began with'
            )
        return base, found

    def end(self, stage: str) -> Any:
        """The weights of a stage's newest checkpoint, f32, on the mesh, its adapters merged.

        Raises:
          BadInput: its base has changed.
        """
        link = self.links[stage]
        with checkpoint.Checkpoints(self.workdir, stage) as saved:
            if (step := distributed.told(saved.latest)) is None:
                raise BadInput(
                    f'stage {stage} has no checkpoint left in {self.workdir}: remove {saved.directory} and run it again'
                )
            params = saved.params(step, compiled.described_params(link.model, self.mesh, link.lora, link.scalar))
            fingerprint = saved.cursor(step).get('base')
        if link.lora is None:
            return params
        return compiled.merge(self.base(stage, fingerprint)[0], params, link.lora)
