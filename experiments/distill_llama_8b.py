"""Distillation of R1 into Llama-3.1-8B: `distill_qwen_1_5b` with another student and the paper's learning rate for it, 5e-5.

    hf download meta-llama/Llama-3.1-8B --local-dir weights/Llama-3.1-8B          # after accepting its licence
    r1jax run experiments/distill_llama_8b.py          # data: see distill_qwen_1_5b.py

Hardware: 8 chips of 80 GB or more (TPU v5p-16, 8 H100): weights, Adam and gradients take 16 GB of each,
the inputs of the layers of one row 17 GB.
NOT YET RUN. Expected: MATH-500 toward the paper's 89.1 % pass@1, with less than half of its data.
"""

import distill_qwen_1_5b as small

from r1jax.config import Recipe


def recipe() -> Recipe:
    return small.student('distill_llama_8b', 'Llama-3.1-8B', learning_rate=5e-5)
