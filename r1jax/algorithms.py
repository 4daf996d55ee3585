"""Algorithms as values: what makes one of the other is a few fields of `GRPO`, and for some of the source beside it.

    stage = dataclasses.replace(stage, loss=DR_GRPO)
    stage = with_algorithm(stage, DAPO)        # the loss and the fields of the source that belong to it

Learning rate, group size and what is sampled stay the stage's own. docs/algorithms.md has them as a table, with a curve of each on the
tiny world. DPO learns from stored pairs and is a loss of its own (`r1jax.config.DPO`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from r1jax.config import GRPO, OnPolicy, Stage


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """A loss, and the fields of the source (`OnPolicy`) that go with it."""

    loss: GRPO
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)


# Group relative policy optimisation as in the R1 report (eq. 1 to 3): each response weighs the same, advantages in units of their spread
R1 = Algorithm(GRPO())

# Dr. GRPO (Liu et al., Understanding R1-Zero-Like Training, arXiv 2503.20783): no division by a response's length, which favours long
# wrong answers, nor by the spread, which favours questions that are all but solved; no KL
DR_GRPO = Algorithm(GRPO(beta=0.0, normalise='dr_grpo', scale_by_std=False))

# DAPO (Yu et al., arXiv 2503.14476): clip-higher, each token weighs the same, groups of equal rewards are drawn again, and answers that
# are nearly too long are docked; no KL. `overlong_buffer` is in tokens and so the stage's to set: the paper's is 4,096 of 20,480
DAPO = Algorithm(
    GRPO(clip_low=0.2, clip_high=0.28, beta=0.0, normalise='token_mean'), {'max_refills': 4, 'overlong': 'soft'}
)

# GSPO (Zheng et al., arXiv 2507.18071 §5.1): the ratio is that of the whole response, clipped within a range that is as much smaller; no KL
GSPO = Algorithm(GRPO(clip_low=3e-4, clip_high=4e-4, beta=0.0, ratio='sequence'))

# RLOO (Ahmadian et al., Back to Basics, arXiv 2402.14740): REINFORCE on whole responses, each compared with the others of its group; no
# clipping (bounds that nothing reaches) and no KL in the loss: the paper subtracts it from the reward
RLOO = Algorithm(
    GRPO(clip_low=1.0, clip_high=1e6, beta=0.0, normalise='dr_grpo', scale_by_std=False, baseline='leave_one_out')
)

ALGORITHMS: Mapping[str, Algorithm] = {'GRPO': R1, 'Dr. GRPO': DR_GRPO, 'DAPO': DAPO, 'GSPO': GSPO, 'RLOO': RLOO}


def with_algorithm(stage: Stage, algorithm: Algorithm) -> Stage:
    """A stage of RL by another algorithm. ValueError: a stage that does not sample.

    DAPO's soft penalty begins a fifth of the longest response before its end, as in the paper, unless the stage says where.
    """
    source = stage.source
    if not isinstance(source, OnPolicy):
        raise ValueError(
            f'stage {stage.name} has the source {type(source).__name__}: these algorithms sample, which takes OnPolicy'
        )
    fields = dict(algorithm.source)
    if fields.get('overlong') == 'soft':
        fields['overlong_buffer'] = source.overlong_buffer or source.sample.max_tokens // 5
    return dataclasses.replace(stage, loss=algorithm.loss, source=dataclasses.replace(source, **fields))
