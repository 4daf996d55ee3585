"""Ablation of experiments/tiny_r1.py: reasoning RL without the language reward, beside the same with it.

    r1jax run experiments/tiny_r1_no_language.py --workdir runs/tiny_r1_no_language

Both arms start from a cold start of 4 epochs, not 12: after 12 the policy of seed 0 hardly drew another language in 200 steps without the
reward (99.7 % consistency before, 99.8 % after), so it could not find out what mixing brings.
"""

import dataclasses

import tiny_r1

from r1jax.config import Recipe, Stage

STEPS = 200  # mixing comes back slowly


def recipe() -> Recipe:
    whole = tiny_r1.recipe()
    stages = {stage.name: stage for stage in whole.stages}
    source = stages['reasoning_rl'].source

    def arm(name: str, *without: str) -> Stage:
        rewards = tuple(part for part in source.rewards if part.name not in without)
        changed = dataclasses.replace(source, rewards=rewards)
        return dataclasses.replace(stages['reasoning_rl'], name=name, steps=STEPS, source=changed)

    shared = (stages[name] for name in ('base', 'zero', 'cold_start_data'))
    cold = stages['cold_start']
    cold = dataclasses.replace(cold, source=dataclasses.replace(cold.source, epochs=4))
    arms = arm('with_language'), arm('no_language', 'language')
    return dataclasses.replace(whole, name='tiny_r1_no_language', stages=(*shared, cold, *arms))
