"""R1-Zero on Llama-3.1-8B for mathematics: a base that has seen fewer chains of thought than Qwen2.5, by the same recipe.

    hf download meta-llama/Llama-3.1-8B --local-dir weights/Llama-3.1-8B          # after accepting its licence; data: see zero_qwen_1_5b.py
    r1jax run experiments/zero_llama_8b.py

Hardware: 8 chips of 80 GB or more, as for Qwen2.5-7B; weights, Adam, gradients and reference take 20 GB of each.
NOT YET RUN. Expected: a much lower start and a slower rise than Qwen2.5-7B's; whether RL alone makes it think
long is the question that this run asks.
"""

import zero_qwen_1_5b as small

from r1jax.config import MeshConfig, Recipe
from r1jax.data.template import r1_zero


def recipe() -> Recipe:
    base = 'Llama-3.1-8B'
    stages = (small.zero(base, longest=4096, slots=256),)
    return Recipe('zero_llama_8b', stages, r1_zero, small.model(base), mesh=MeshConfig(fsdp=small.CHIPS))
