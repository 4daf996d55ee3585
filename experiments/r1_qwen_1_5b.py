"""The whole R1 recipe on Qwen2.5-1.5B: `r1_qwen_7b` with the sizes that such a model fills, and a smaller student.

    hf download Qwen/Qwen2.5-1.5B --local-dir weights/Qwen2.5-1.5B
    hf download Qwen/Qwen2.5-0.5B --local-dir weights/Qwen2.5-0.5B
    r1jax run experiments/r1_qwen_1_5b.py          # data: see r1_671b.py

Hardware: 8 chips of 80 GB (TPU v5p-16, 8 H100): weights, Adam, gradients and reference take 3.6 GiB of each; the layers' inputs of one
row of 10,240 tokens 0.8 GiB; the cache of 16 rows in sampling 4.4 GiB.
NOT YET RUN. Expected: as r1_qwen_7b.py, lower throughout; few of its chains reflect, so that the cold start is of hundreds.
"""

import dataclasses

from r1_671b import pipeline
from r1_qwen_7b import SIZES

from r1jax.config import MeshConfig, Recipe

SIZES = dataclasses.replace(
    SIZES,
    name='r1_qwen_1_5b',
    base='Qwen2.5-1.5B',
    mesh=MeshConfig(fsdp=8),
    student='Qwen2.5-0.5B',
    max_tokens=8_192,
    sft_tokens=10_240,
    zero_steps=1_000,
    reasoning_steps=600,
    all_steps=400,
    general_steps=100,
    sft_rate=1e-4,  # secondary: of the student of this size
)


def recipe() -> Recipe:
    return pipeline(SIZES)
