"""R1-Zero on Qwen2.5-32B for mathematics: `zero_qwen_1_5b` on a larger base, with responses of at most 8,192 tokens.

    hf download Qwen/Qwen2.5-32B --local-dir weights/Qwen2.5-32B          # data: see zero_qwen_1_5b.py
    r1jax run experiments/zero_qwen_32b.py

Hardware: 32 chips of 95 GB, such as TPU v5p 2x4x4; weights, Adam and reference take 17 GB of each (docs/plans has the rest).
NOT YET RUN. Expected: the report compares such a run with distillation (section 4.1): R1-Zero's recipe on Qwen2.5-32B, of more than 10,000
steps, brought MATH-500 to 91.6 % and AIME 2024 to 47.0 %, where a student of R1 of this size has 94.3 % and 72.6 %.
"""

import zero_qwen_1_5b as small

from r1jax.config import MeshConfig, Recipe
from r1jax.data.template import r1_zero


def recipe() -> Recipe:
    base = 'Qwen2.5-32B'
    mesh = MeshConfig(fsdp=8, tensor=4)
    stages = (small.zero(base, longest=8192, blocks=1, chips=8, slots=256),)
    return Recipe('zero_qwen_32b', stages, r1_zero, small.model(base), mesh=mesh)
