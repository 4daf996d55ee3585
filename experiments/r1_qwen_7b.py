"""The whole R1 recipe on Qwen2.5-7B: `r1_671b` with the sizes that such a model fills, and a student.

    hf download Qwen/Qwen2.5-7B --local-dir weights/Qwen2.5-7B
    hf download Qwen/Qwen2.5-1.5B --local-dir weights/Qwen2.5-1.5B
    r1jax run experiments/r1_qwen_7b.py          # data: see r1_671b.py

Where a number differs from the paper's it is ours: lengths and steps to what a model of this size uses, the reference sooner since there
are fewer steps. Learning rates of supervised stages are the paper's for a student of 7B.

Hardware: 32 chips of 80 GB (TPU v5p-64, 32 H100): weights, Adam, gradients and reference take 4.4 GiB of each; the layers' inputs of one
row of 18,432 tokens 3.5 GiB; the cache of 16 rows in sampling 16 GiB.
NOT YET RUN. Expected: R1-Zero well above the base on MATH-500, its language mixed; R1 no worse, in one language; the student above what RL
alone makes of it (experiments/zero_qwen_1_5b.py), as in the report's Table 6.
"""

import dataclasses

from r1_671b import PAPER, pipeline

from r1jax.config import MeshConfig, Recipe

SIZES = dataclasses.replace(
    PAPER,
    name='r1_qwen_7b',
    base='Qwen2.5-7B',
    mesh=MeshConfig(fsdp=32),
    student='Qwen2.5-1.5B',
    student_rate=1e-4,  # secondary: of the student of this size
    max_tokens=16_384,
    later_from=0,
    sft_tokens=18_432,  # a prompt and the longest response
    judged_tokens=4_096,
    questions=128,
    minibatches=4,
    reference_every=100,
    zero_steps=2_000,
    reasoning_steps=1_000,
    all_steps=600,
    general_steps=150,
    every=100,
    cold_examples=2_000,
    rejection_keep=4,
    rejection_examples=200_000,
    sft_rate=8e-5,  # secondary: of the student of this size
)


def recipe() -> Recipe:
    return pipeline(SIZES)
