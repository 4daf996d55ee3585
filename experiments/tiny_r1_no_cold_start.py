"""Ablation of experiments/tiny_r1.py: reasoning RL straight from the base, beside the same with a cold start.

    r1jax run experiments/tiny_r1_no_cold_start.py --workdir runs/tiny_r1_no_cold_start

Seed 0 (2026-11-23, docs/results/tiny_r1_no_cold_start.md; the stages that it shares with tiny_r1 were taken over from its run): from the
base 60 steps, 147 s on busy cores, find no answer in R1's layout. pass@1 5 % [2, 10], format 0 %; what earns a little is an answer of
seven tokens without a thought. After a cold start the same steps go on from 96 %.
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
