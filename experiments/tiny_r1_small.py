"""The whole R1 recipe in a smaller world, sums of two to four digits: experiments/tiny_r1.py in a third of its time.

    r1jax run experiments/tiny_r1_small.py --workdir runs/tiny_r1_small

Every stage does what it is for, with less room: `tests/test_story_r1.py` checks the directions, notebooks/whole_recipe.ipynb has the
figures of a run. On two cores that others used, too, its stages took 359 s (2026-11-23).
"""

import dataclasses

import tiny_r1

from r1jax.config import Collect, Recipe, RowConfig, SampleConfig, Stage, Threshold

_MODEL = dataclasses.replace(tiny_r1.MODEL, layers=1, width=16, heads=2, kv_heads=1, hidden=32, context=64)

# Every stage and every kind of evaluation, and nothing is learned: to see in seconds that a machine runs it
NOTHING = tiny_r1.Sizes(
    terms=(2, 3),
    model=_MODEL,
    student=_MODEL,
    sample=SampleConfig(max_tokens=24, max_prompt=12, slots=16, buckets=1),
    rows=RowConfig(length=64, per_microbatch=8),
    documents=200,
    base_steps=2,
    student_steps=2,
    sums=40,
    questions=4,
    samples=4,
    zero_steps=2,
    cold_prompts=8,
    cold_epochs=4,
    reasoning_steps=2,
    prompts=8,
    chats=40,
    pairs=40,
    labels=40,
    judged=20,
    rules_steps=1,
    preference_steps=1,
    student_rl_steps=2,
    held_out=4,
    held_out_chats=5,
)

# The story in a smaller world: sums of two to four digits
SMALL = tiny_r1.Sizes(
    terms=(2, 4),
    sample=dataclasses.replace(tiny_r1.SAMPLE, max_tokens=48),
    rows=dataclasses.replace(tiny_r1.ROWS, length=96),
    documents=30_000,
    base_steps=800,
    student_steps=700,
    zero_steps=30,
    cold_prompts=600,
    cold_epochs=4,
    reasoning_steps=15,
    prompts=500,
    chats=2500,
    pairs=3000,
    labels=800,
    judged=200,
    rules_steps=5,
    preference_steps=30,
    student_rl_steps=15,
    held_out=48,
    held_out_chats=24,
)


def nothing_learned() -> Recipe:
    """The recipe in the size NOTHING, where what collects takes wrong answers too: there are no others."""
    whole = tiny_r1.recipe(NOTHING)

    def lenient(stage: Stage) -> Stage:
        if not isinstance(stage.source, Collect):
            return stage
        anything = {'correct': (Threshold('accuracy', 0.0),), 'filters': (), 'unfinished': True}
        return dataclasses.replace(stage, source=dataclasses.replace(stage.source, **anything))

    return dataclasses.replace(whole, stages=tuple(map(lenient, whole.stages)))


def recipe() -> Recipe:
    return dataclasses.replace(tiny_r1.recipe(SMALL), name='tiny_r1_small')
