"""Each field of a recipe by itself: what its annotation asks for, and the interval that a number must lie in."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

from r1jax import config
from r1jax.checks.rows import Row
from r1jax.config import (
    DPO,
    GRPO,
    NLL,
    REWARD_MODELS,
    Agreement,
    Collect,
    Distil,
    Eval,
    ModelConfig,
    OnPolicy,
    Part,
    Recipe,
    SampleConfig,
    Stage,
    Stored,
)
from r1jax.settings import join, label

_ONE_UP, _ZERO_UP, _POSITIVE = '[1, inf)', '[0, inf)', '(0, inf)'
_RANGES: dict[type, dict[str, str]] = {  # intervals, in the notation of the messages
    ModelConfig: {
        **dict.fromkeys(('vocab', 'layers', 'width', 'heads', 'kv_heads', 'head_dim', 'hidden', 'context'), _ONE_UP),
        **dict.fromkeys(('rope_theta', 'norm_eps'), _POSITIVE),
    },
    config.YarnScaling: {
        'original': _ONE_UP,
        **dict.fromkeys(('factor', 'fast', 'slow', 'mscale'), _POSITIVE),
        'mscale_all_dim': _ZERO_UP,
    },
    config.MLA: {**dict.fromkeys(('kv_rank', 'rotary', 'value'), _ONE_UP), 'q_rank': _ZERO_UP},
    config.MoE: {
        **dict.fromkeys(('experts', 'active', 'hidden', 'groups', 'top_groups'), _ONE_UP),
        **dict.fromkeys(('shared', 'dense_layers', 'bias_speed'), _ZERO_UP),
        'scale': _POSITIVE,
    },
    config.Llama3Scaling: {'original': _ONE_UP, **dict.fromkeys(('factor', 'low', 'high'), _POSITIVE)},
    SampleConfig: {
        **dict.fromkeys(('max_tokens', 'max_prompt', 'slots', 'buckets', 'page'), _ONE_UP),
        **dict.fromkeys(('temperature', 'top_k', 'pool'), _ZERO_UP),
        'top_p': '(0, 1]',
    },
    config.OptimConfig: {
        **dict.fromkeys(('learning_rate', 'warmup', 'weight_decay', 'clip_norm'), _ZERO_UP),
        'final': '[0, 1]',
        'b1': '[0, 1)',
        'b2': '[0, 1)',
        'eps': _POSITIVE,
    },
    config.LoRA: {'rank': _ONE_UP, 'alpha': _POSITIVE},
    config.MeshConfig: dict.fromkeys((*config.AXES, 'slices'), _ONE_UP),
    config.Rules: {},
    config.Split: {'staleness': _ZERO_UP},
    config.RowConfig: {
        **dict.fromkeys(('length', 'per_microbatch'), _ONE_UP),
        **dict.fromkeys(('prompts', 'block'), _ZERO_UP),
    },
    Part: {'weight': '(-inf, inf)', 'deadline': _ZERO_UP},
    config.GradingConfig: {'workers': _ZERO_UP, 'memory_mb': '[128, inf)'},
    Stored: {'batch': _ONE_UP, 'epochs': _ZERO_UP},
    OnPolicy: {
        **dict.fromkeys(('questions', 'samples', 'minibatches', 'inner_epochs'), _ONE_UP),
        **dict.fromkeys(('budget', 'max_refills', 'overlong_buffer', 'reference_every'), _ZERO_UP),
    },
    config.Threshold: {'value': '(-inf, inf)'},
    config.Filter: {},
    config.NearDuplicates: {'threshold': '(0, 0.99]', 'words': _ONE_UP, 'permutations': '[16, inf)'},
    config.Decontaminate: {'words': _ONE_UP},
    Collect: {**dict.fromkeys(('samples', 'questions'), _ONE_UP), 'keep': _ZERO_UP},
    NLL: {},
    **{loss: {} for loss in REWARD_MODELS},
    DPO: {'beta': _POSITIVE},
    Distil: {'temperature': _POSITIVE},
    GRPO: dict.fromkeys(
        ('clip_low', 'clip_high', 'beta', 'std_ddof', 'std_eps', 'importance_cap', 'sampler_gap'), _ZERO_UP
    ),
    config.Phase: {'step': _ZERO_UP, 'max_tokens': _ONE_UP, 'temperature': _POSITIVE, 'learning_rate': _ZERO_UP},
    Agreement: {'bins': _ONE_UP, 'every': _ZERO_UP},
    Eval: {'samples': _ONE_UP, 'every': _ZERO_UP},
    Stage: {
        **dict.fromkeys(('checkpoint_every', 'keep_checkpoints', 'max_skips'), _ONE_UP),
        **dict.fromkeys(('steps', 'log_samples', 'keep_every', 'spike'), _ZERO_UP),
    },
    Recipe: {'hang_after': _ZERO_UP},
}


def fields(value: Any, path: str) -> Iterator[Row]:
    """Annotations and ranges of each field of a config, and of the configs inside it."""
    hints = typing.get_type_hints(type(value))
    for field in dataclasses.fields(value):
        inner, at = getattr(value, field.name), join(path, field.name)
        yield _fits(inner, hints[field.name]), f'{at} must be {field.type}, not {inner!r:.80}'
        interval = _RANGES[type(value)].get(field.name)
        if interval and inner is not None:
            yield _inside(inner, interval), f'{at}={inner} must be in {interval}'
        for i, item in enumerate(inner if isinstance(inner, tuple) else (inner,)):
            if type(item) in _RANGES:
                yield from fields(item, join(at, label(item, i)) if isinstance(inner, tuple) else at)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is what an annotation of `r1jax.config` asks for. An int is a float, a bool is no int."""
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return value in members
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, member) for member in members)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, members[0]) for item in value)
    if origin is Callable or hint is Callable:
        return callable(value)
    if getattr(hint, '_is_protocol', False):
        return all(hasattr(value, name) for name in vars(hint) if not name.startswith('_'))
    return isinstance(value, (int, float) if hint is float else hint) and (hint is bool or not isinstance(value, bool))


def _inside(value: float, interval: str) -> bool:
    low, high = map(float, interval[1:-1].split(','))
    above = low <= value if interval[0] == '[' else low < value
    below = value <= high if interval[-1] == ']' else value < high
    return above and below
