"""Ablation of experiments/tiny_r1.py: reasoning RL without the language reward, beside the same with it.

r1jax run experiments/tiny_r1_no_language.py --workdir runs/tiny_r1_no_language
"""

import dataclasses

import tiny_r1

from r1jax.config import Recipe


def recipe() -> Recipe:
    whole = tiny_r1.recipe()
    stages = {stage.name: stage for stage in whole.stages}
    rewarded = stages['reasoning_rl']
    rewards = tuple(part for part in rewarded.source.rewards if part.name != 'language')
    free = dataclasses.replace(
        rewarded, name='no_language', source=dataclasses.replace(rewarded.source, rewards=rewards)
    )
    shared = (stages[name] for name in ('base', 'zero', 'cold_start_data', 'cold_start', 'reasoning_rl'))
    return dataclasses.replace(whole, name='tiny_r1_no_language', stages=(*shared, free))
