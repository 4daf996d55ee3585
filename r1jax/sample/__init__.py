"""Sampling: `sample(params, prompts, keys, limit, cfg) -> Rollout`, the `Engine` beside it, and `Sampler` around both."""

from r1jax.sample.engine import Engine
from r1jax.sample.questions import Row, Sampler, put, response, responses
from r1jax.sample.request import Answer, Request
from r1jax.sample.sampler import Prompts, quantised, sample, sample_keys
from r1jax.sample.step import Decode

__all__ = [
    'Answer',
    'Decode',
    'Engine',
    'Prompts',
    'Request',
    'Row',
    'Sampler',
    'put',
    'quantised',
    'response',
    'responses',
    'sample',
    'sample_keys',
]
