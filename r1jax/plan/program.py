"""What the programs of a stage are described by: `Program`, one of them, and `Setting`, what they are for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from r1jax.config import ModelConfig, Stage
from r1jax.plan import work
from r1jax.plan.hlo import Instruction


def I32(shape: tuple[int, ...]) -> Any:
    """A shape in the place of an array."""
    return jax.ShapeDtypeStruct(shape, np.int32)


def F32(shape: tuple[int, ...]) -> Any:
    return jax.ShapeDtypeStruct(shape, np.float32)


@dataclasses.dataclass(frozen=True)
class Program:
    """What is compiled once."""

    name: str
    fn: Any  # jitted
    args: tuple
    memory: Mapping[str, Any]  # kind -> arrays that lie in memory meanwhile, its arguments among them or not
    gives: str = ''  # the kind of what it gives; '': what it was given, changed in place
    calls: float = 0.0  # between two rollouts, or of a step; 0: not in the loop
    trips: Callable[[Instruction], float | None] = lambda loop: None
    gradients: Any = None  # what it forms gradients of
    activations: int = 0  # bytes a chip that are kept for them, by shapes
    useful: float = 0.0  # operations of all chips that a call cannot do without
    settings: Any = None  # what decides on the program, besides its arguments

    @property
    def dynamic(self) -> tuple:
        """The arguments that are no part of what is compiled."""
        return tuple(a for i, a in enumerate(self.args) if i not in _STATIC.get(self.name.partition(' (')[0], ()))

    @property
    def key(self) -> str:
        """Equal of programs that are compiled to the same."""
        leaves, tree = jax.tree.flatten(self.args)
        return repr((self.name, self.settings, tree, [_told(a) for a in leaves]))


# Which arguments are compiled in
_STATIC = {
    'freeze': (1,),
    'weights': (1,),
    'prefill': (3,),
    'slots': (0, 1, 2),
    'decode': (5, 6),
    'sample': (4,),
    'logprobs': (0,),
}


def _told(a):
    return (a.shape, a.dtype, getattr(a, 'sharding', None)) if hasattr(a, 'shape') else a


Making = Generator[Program, Any, None]


@dataclasses.dataclass(frozen=True)
class Setting:
    """A stage with what it is planned for."""

    stage: Stage  # with its model
    mesh: Mesh
    models: Mapping[str, ModelConfig]  # of the recipe's stages, by name
    mean: int = 0  # tokens of a response; 0: as long as they may be

    @property
    def work(self) -> work.Work:
        return work.of(self.stage, self.mean)
