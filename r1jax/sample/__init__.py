"""Sampling: `sample(params, prompts, keys, limit, cfg) -> Rollout`, and `Sampler` around it."""

from r1jax.sample.questions import Sampler, responses
from r1jax.sample.sampler import Decode, Prompts, quantised, sample, sample_keys

__all__ = ['Decode', 'Prompts', 'Sampler', 'quantised', 'responses', 'sample', 'sample_keys']
