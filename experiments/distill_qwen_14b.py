"""Distillation of R1 into Qwen2.5-14B: `distill_qwen_1_5b` with another student and the paper's learning rate for it, 7e-5.

    hf download Qwen/Qwen2.5-14B --local-dir weights/Qwen2.5-14B
    r1jax run experiments/distill_qwen_14b.py          # data: see distill_qwen_1_5b.py

Hardware: 16 chips of 80 GB or more (TPU v5p-32, 16 H100): weights, Adam and gradients take 15 GB of each,
the inputs of the layers of one row 32 GB.
NOT YET RUN. Expected: MATH-500 toward the paper's 93.9 % pass@1, with less than half of its data.
"""

import distill_qwen_1_5b as small

from r1jax.config import Recipe


def recipe() -> Recipe:
    return small.student('distill_qwen_14b', 'Qwen2.5-14B', learning_rate=7e-5, tensor=2)
