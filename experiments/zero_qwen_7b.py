"""R1-Zero on Qwen2.5-7B for mathematics: `zero_qwen_1_5b` on a larger base, with responses of at most 8,192 tokens.

    hf download Qwen/Qwen2.5-7B --local-dir weights/Qwen2.5-7B          # data: see zero_qwen_1_5b.py
    r1jax run experiments/zero_qwen_7b.py

Hardware: 8 chips of 80 GB or more, such as TPU v5p-16 or 8 H100; weights, Adam, gradients and reference take 19 GB of each.
NOT YET RUN. Expected: as with 1.5B, from a higher start to a higher end; responses that grow past
those of 1.5B.
"""

import zero_qwen_1_5b as small

from r1jax.config import MeshConfig, Recipe
from r1jax.data.template import r1_zero


def recipe() -> Recipe:
    base = 'Qwen2.5-7B'
    stages = (small.zero(base, longest=8192, blocks=2, slots=256),)
    return Recipe('zero_qwen_7b', stages, r1_zero, small.model(base), mesh=MeshConfig(fsdp=small.CHIPS))
