"""Ablation of experiments/tiny_r1.py: reasoning RL without the language reward, beside the same with it.

    r1jax run experiments/tiny_r1_no_language.py --workdir runs/tiny_r1_no_language

Both arms start from a cold start of 4 epochs, not 12. Seed 0 (2026-11-23, docs/results/tiny_r1_no_language.md; the base was taken over from
tiny_r1's run), 200 steps in 375 and 429 s on busy cores: with the reward 97.5 -> 99.9 % [99.8, 100] of the words are in the language asked,
without it 97.9 -> 98.8 % [98.5, 99.1], so mixing stays where nothing is paid for its end. Accuracy is 96.9 % [96.1, 97.7] with it
and 96.2 % [94.1, 97.8] without: the gain of mixing that the paper reports does not show here. (After 12 epochs it does, a little:
99.1 % [98.4, 99.6] without and 97.7 % [96.3, 98.9] with it, at 99.8 and 100.0 % of the words.)
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
