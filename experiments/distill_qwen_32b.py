"""Distillation of R1 into Qwen2.5-32B: `distill_qwen_1_5b` with another student and the paper's learning rate for it, 6e-5.

    hf download Qwen/Qwen2.5-32B --local-dir weights/Qwen2.5-32B
    r1jax run experiments/distill_qwen_32b.py          # data: see distill_qwen_1_5b.py

Hardware: 32 chips of 95 GB (TPU v5p-64): weights, Adam and gradients take 17 GB of each,
the inputs of the layers of one row 43 GB.
NOT YET RUN. Expected: MATH-500 toward the paper's 94.3 % pass@1, with less than half of its data.
"""

import distill_qwen_1_5b as small

from r1jax.config import Recipe


def recipe() -> Recipe:
    return small.student('distill_qwen_32b', 'Qwen2.5-32B', learning_rate=6e-5, tensor=4)
