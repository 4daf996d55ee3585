"""Sampling: `sample(params, prompts, keys, limit, cfg) -> Rollout`, the `Engine` beside it, and `Sampler` around both."""

from r1jax.sample.engine import Engine
from r1jax.sample.questions import Sampler, put, response, responses
from r1jax.sample.request import Answer, Request
from r1jax.sample.sampler import Prompts, quantised, sample, sample_keys
from r1jax.sample.step import Decode
from r1jax.sample.turns import Replies, Row, Said

__all__ = [
    'Answer',
    'Decode',
    'Engine',
    'Prompts',
    'Replies',
    'Request',
    'Row',
    'Said',
    'Sampler',
    'put',
    'quantised',
    'response',
    'responses',
    'sample',
    'sample_keys',
]
