"""Ablation of experiments/tiny_r1.py: the preference reward for too long, until the policy finds the reward model's hole.

    r1jax run experiments/tiny_r1_hacked.py --workdir runs/tiny_r1_hacked

General prompts alone, so that it takes minutes. The evaluation `general` has the reward model's score (`helpful`) beside the rule that
the preferences were made by (`rule`), which no reward reads.

Seed 0 (2026-11-23, docs/results/tiny_r1_hacked.md): for 40 steps both rise, the model's score from 2.3 to 5.8 and the rule's from 0.82 to
0.97. Then the policy finds that another "Glad to help!" always scores higher: the model's 11.3, the rule's 0.36, 63 tokens a response.
"""

import dataclasses

import tiny_r1

from r1jax.config import Recipe
from r1jax.data.chat_authors import ChatExamples, Chats

STEPS = 200  # of preference reward, where the recipe has 20


def recipe() -> Recipe:
    whole = tiny_r1.recipe()
    stages = {stage.name: stage for stage in whole.stages}
    sft, hacked = stages['sft'], stages['all_scenarios']
    sft = dataclasses.replace(sft, source=dataclasses.replace(sft.source, examples=ChatExamples()))
    evals = tiny_r1.general(tiny_r1.Sizes(), extra=(tiny_r1.HELPFUL,), every=20)
    source = dataclasses.replace(
        hacked.source,
        problems=Chats(size=1000, tasks=tiny_r1.GENERAL),
        rewards=(tiny_r1.THINKING, tiny_r1.LANGUAGE, tiny_r1.HELPFUL),
    )
    hacked = dataclasses.replace(hacked, name='hacked', steps=STEPS, source=source, phases=(), evals=evals[:1])
    stages = stages['base'], dataclasses.replace(sft, evals=()), stages['helpful_rm'], hacked
    return dataclasses.replace(whole, name='tiny_r1_hacked', stages=stages)
