"""Ablation of experiments/tiny_r1.py: reasoning RL straight from the base, beside the same with a cold start.

r1jax run experiments/tiny_r1_no_cold_start.py --workdir runs/tiny_r1_no_cold_start
"""

import dataclasses

import tiny_r1

from r1jax.config import Recipe


def recipe() -> Recipe:
    whole = tiny_r1.recipe()
    stages = {stage.name: stage for stage in whole.stages}
    straight = dataclasses.replace(stages['reasoning_rl'], name='no_cold_start', start='base')
    shared = (stages[name] for name in ('base', 'zero', 'cold_start_data', 'cold_start', 'reasoning_rl'))
    return dataclasses.replace(whole, name='tiny_r1_no_cold_start', stages=(*shared, straight))
