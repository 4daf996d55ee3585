"""The values that live on devices: `Rollout`, `Batch`, `TrainState`, frozen dataclasses registered as pytrees.

All `[B,T]` arrays share one alignment: **entry t describes token t**, never token t+1. Import them from `r1jax.types`, which gets
them from here when they are asked for: what only handles problems and responses, as a grading process does, starts without jax.

Axes: B rows (in a rollout B = Q·G: Q questions by G samples), T tokens of a row, M layers with experts, k experts of a token.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

Array = jax.Array | np.ndarray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rollout:
    """What the sampler returns: whole rows, prompt and response contiguous from index 0, padding at the end."""

    tokens: Array  # i32[B,T]
    # bool[B,T], True on sampled tokens (end tokens included), False on the prompt, on what an environment said and on padding
    sampled: Array
    logp: Array  # f32[B,T], nats, of softmax(logits / temperature) before top-p and top-k; 0 where not sampled
    question: Array  # i32[B], problem id
    sample: Array  # i32[B], 0..G-1
    finished: Array  # bool[B], a stop token was sampled
    # i32[], optimizer steps taken by the policy that sampled; of partial rollouts i32[B,T], by the one that drew the token
    version: Array | np.int32
    # i16[B,T,M,k], the experts that each token passed, or −1 where it was not read (as the last is not)
    routes: Array | None = None
    # With an environment: i32[B,K], how often what the policy asked of it came to each of `types.OUTCOMES`
    outcomes: Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Packed training rows of one optimizer step. See `r1jax.rl.batch` for how they are made.

    A row holds segments; `parent` lets several responses share one prompt. `weight` is the normalisation: a token loss is always
    `Σ weight · per_token`, so microbatches add up and no result depends on how a batch was cut.

    The first `prompts` tokens of a row hold prompts alone, seen from the whole row; what follows is cut into blocks of `block`
    tokens that do not see each other (0: one block).
    """

    tokens: Array  # i32[B,T]
    position: Array  # i32[B,T], RoPE position; a response's positions go on from its prompt's end
    segment: Array  # i32[B,T], piece of the row a token belongs to, ascending from 0; -1 on padding
    parent: Array  # i32[B,T], segment whose keys are visible too (a response's prompt), or -1
    source: Array  # i32[B,T], index of the hidden state that predicts token t
    weight: Array  # f32[B,T], 0 on prompts and padding
    advantage: Array  # f32[B,T]
    sampler_logp: Array  # f32[B,T], nats, as the sampler drew it
    old_logp: Array  # f32[B,T], nats, under the policy at the start of the rollout
    ref_logp: Array  # f32[B,T], nats, under the reference policy
    # i16[B,T,M,k], experts to take in place of the router's choice; −1: its own. None: none recorded
    routes: Array | None = None
    prompts: int = dataclasses.field(metadata={'static': True}, default=0)
    block: int = dataclasses.field(metadata={'static': True}, default=0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything the optimizer changes."""

    step: Array  # i32[], optimizer steps taken, skipped ones included
    params: Any
    opt_state: Any
