"""How much a stage does between two rollouts, or in a step: counted from its settings alone.

Lengths of responses are not known before a run: they are taken to be `mean` tokens each, and the longest if nothing is said.

Axes: Q questions, G samples, S slots, R rows of a microbatch, M microbatches.
"""

from __future__ import annotations

import dataclasses
import math

from r1jax.config import DPO, Collect, ModelConfig, OnPolicy, RowConfig, Stage
from r1jax.train.phases import longest

_DAY = 86_400


@dataclasses.dataclass(frozen=True)
class Work:
    """Between two rollouts of a stage that samples; of another, in an optimizer step."""

    updates: int  # optimizer steps
    microbatches: float  # M in use, of each
    passes: int  # of log-probabilities, each over as much as an update
    prompts: int  # that are prefilled
    tokens: float  # of responses, drawn or learned
    mean: float  # tokens of a response
    deepest: float  # tokens of the longest row while it is decoded, prompt included
    steps: int | None  # optimizer steps of the stage; None: its data say how many


def of(stage: Stage, mean: int = 0) -> Work:
    """`mean`: tokens of a response."""
    source = stage.source
    if isinstance(source, (OnPolicy, Collect)):
        most = longest(stage) if isinstance(source, OnPolicy) else source.sample.max_tokens
        n, rows = min(mean or most, most), source.questions * source.samples
        deepest = source.sample.max_prompt + most
        if isinstance(source, Collect):
            return Work(0, 0, 0, source.questions, rows * n, n, deepest, None)
        updates = source.minibatches * source.inner_epochs
        loss, several = stage.loss, updates > 1
        passes = bool(getattr(loss, 'beta', 0)) + bool(several and getattr(loss, 'importance_cap', 0))
        used = microbatches(stage.rows, rows / source.minibatches, n)
        calls = passes * source.minibatches
        return Work(updates, used, calls, source.questions, rows * n, n, deepest, stage.steps)
    room = stage.rows.block or stage.rows.length
    n = min(mean or room, room)
    passes = int(isinstance(stage.loss, DPO))  # of the reference
    return Work(1, microbatches(stage.rows, source.batch, n), passes, 0, source.batch * n, n, 0, stage.steps or None)


def microbatches(rows: RowConfig, items: float, mean: float) -> int:
    """Microbatches that hold so many responses of `mean` tokens each."""
    blocks, block = cut(rows)
    a_row = blocks * max(math.floor(block / max(mean, 1)), 1)
    return math.ceil(math.ceil(items / a_row) / rows.per_microbatch)


def cut(rows: RowConfig) -> tuple[int, int]:
    """(blocks of a row, tokens of a block)."""
    block = rows.block or rows.length - rows.prompts
    return (rows.length - rows.prompts) // block, block


def a_day(amount: float, seconds: float) -> float:
    return amount * _DAY / seconds if seconds else 0.0


# --- what a model needs


def parameters(model: ModelConfig) -> tuple[float, float]:
    """(all parameters in matrices, those that a token meets), without the embedding: DeepSeek-V3's (671B, 37B) are counted so."""
    c, m = model, model.mla
    if m:
        q = c.width * m.q_rank + m.q_rank * c.heads * c.head_dim if m.q_rank else c.width * c.heads * c.head_dim
        kv = c.width * (m.kv_rank + m.rotary) + m.kv_rank * c.heads * (c.head_dim - m.rotary + m.value)
        attention = q + kv + c.heads * m.value * c.width
    else:
        attention = c.width * c.head_dim * (2 * c.heads + 2 * c.kv_heads)
    dense = 3 * c.width * c.hidden
    routed = c.expert_layers
    every = c.layers * attention + (c.layers - routed) * dense + c.width * c.vocab
    whole = active = float(every)
    if c.moe:
        one = 3 * c.width * c.moe.hidden
        whole += routed * (one * (c.moe.experts + c.moe.shared) + c.width * c.moe.experts)
        active += routed * (one * (c.moe.active + c.moe.shared) + c.width * c.moe.experts)
    return whole, active


def forward(model: ModelConfig, tokens: float, seen: float) -> float:
    """Operations of a forward pass over tokens that each read `seen` others: two a parameter that a token meets, and attention's."""
    value = model.mla.value if model.mla else model.head_dim
    attention = 2 * model.layers * model.heads * (model.head_dim + value) * seen
    return tokens * (2 * parameters(model)[1] + attention)
