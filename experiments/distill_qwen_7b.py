"""Distillation of R1 into Qwen2.5-Math-7B: `distill_qwen_1_5b` with another student and the paper's learning rate for it, 8e-5.

    hf download Qwen/Qwen2.5-Math-7B --local-dir weights/Qwen2.5-Math-7B
    r1jax run experiments/distill_qwen_7b.py          # data: see distill_qwen_1_5b.py

Hardware: 8 chips of 80 GB or more (TPU v5p-16, 8 H100): weights, Adam and gradients take 16 GB of each,
the inputs of the layers of one row 13 GB.
NOT YET RUN. Expected: MATH-500 toward the paper's 92.8 % pass@1, with less than half of its data.
"""

import distill_qwen_1_5b as small

from r1jax.config import Recipe


def recipe() -> Recipe:
    return small.student('distill_qwen_7b', 'Qwen2.5-Math-7B', learning_rate=8e-5)
