"""The smallest experiment again with what several processes have to agree on, and with few programs to compile: they do so each."""

import dataclasses

from smallest import recipe as whole

from r1jax.config import Recipe


def recipe() -> Recipe:
    """Supervised steps, then rollouts that serve several updates, with refills, partly overlong, and a reference that moves."""
    base, zero = whole().stages
    sample = dataclasses.replace(zero.source.sample, buckets=1)
    zero = dataclasses.replace(
        zero, source=dataclasses.replace(zero.source, sample=sample), evals=(), phases=(), steps=5
    )
    return dataclasses.replace(
        whole(), name='smallest_many', stages=(dataclasses.replace(base, steps=3, checkpoint_every=2), zero)
    )
