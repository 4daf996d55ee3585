"""Problems of several sources as one: reasoning beside general requests, as RL for all scenarios has them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from r1jax.types import Problem


@dataclasses.dataclass(frozen=True)
class Together:
    """The problems of every source, one source after another, numbered anew: an id is one problem's, and seeds the draws of its samples.

    How often a kind occurs is what its source's size says. Sources that read what stages wrote have no place here.
    """

    sources: tuple[Any, ...]  # each with `load() -> Sequence[Problem]`

    def __post_init__(self):
        if not self.sources:
            raise ValueError('Together needs a source')

    def load(self) -> Sequence[Problem]:
        """Reads them all; raises what they raise."""
        problems = [problem for source in self.sources for problem in source.load()]
        return [dataclasses.replace(problem, id=i) for i, problem in enumerate(problems)]
