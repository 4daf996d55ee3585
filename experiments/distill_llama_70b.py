"""Distillation of R1 into Llama-3.3-70B-Instruct: `distill_qwen_1_5b` with another student and the paper's learning rate for it, 2e-5.

    hf download meta-llama/Llama-3.3-70B-Instruct --local-dir weights/Llama-3.3-70B-Instruct          # after accepting its licence
    r1jax run experiments/distill_llama_70b.py          # data: see distill_qwen_1_5b.py

Rows are of 16,384 tokens and not 32,768, and longer examples are left out: the inputs of 80 layers, which stay for the backward pass,
would take 86 GB a chip.

Hardware: 64 chips of 95 GB (TPU v5p-128): weights, Adam and gradients take 18 GB of each,
the inputs of the layers of one row 43 GB.
NOT YET RUN. Expected: MATH-500 toward the paper's 94.5 % pass@1, with less than half of its data.
"""

import distill_qwen_1_5b as small

from r1jax.config import Recipe


def recipe() -> Recipe:
    return small.student(
        'distill_llama_70b', 'Llama-3.3-70B-Instruct', learning_rate=2e-5, fsdp=16, tensor=4, longest=16384
    )
