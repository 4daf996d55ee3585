"""The second stage of the smallest experiment, from random weights, which may sample on devices of its own."""

import dataclasses

import smallest

from r1jax.config import GRPO, MeshConfig, OnPolicy, Part, Recipe, SampleConfig, Split
from r1jax.data.tiny import TinySums

CAP = 2.0


def varied(problem, response):
    """A reward that differs within groups, whatever a policy of random weights says."""
    return (sum(map(ord, response.text)) + response.tokens) % 3 / 2


def recipe(split: Split | None = None, mesh: MeshConfig | None = None, **change) -> Recipe:
    """A rollout serves two updates."""
    whole = smallest.recipe()
    zero = whole.stages[1]
    sample = SampleConfig(max_tokens=12, max_prompt=12, slots=32, buckets=1)
    drawn = OnPolicy(
        TinySums(size=50, terms=(2, 3)), sample, (Part('varied', varied),), 8, 4, minibatches=2, split=split
    )
    also = {'phases': (), 'evals': (), 'checkpoint_every': 1, 'steps': 5, 'loss': GRPO(beta=0.01, importance_cap=CAP)}
    zero = dataclasses.replace(zero, start='init', source=drawn, **also | change)
    return dataclasses.replace(whole, stages=(zero,), mesh=mesh or whole.mesh)
