"""R1-Zero on Qwen2.5-1.5B by adapters, on one small accelerator: `zero_qwen_1_5b`, but that LoRA of rank 32 is trained.

    r1jax run experiments/zero_qwen_1_5b_lora.py                # weights and data: see zero_qwen_1_5b.py
    r1jax export runs/zero_qwen_1_5b_lora out                   # merged; --adapter: a PEFT folder

The base is held in bfloat16 and is the reference, at no extra memory. The learning rate is ten times full training's (see
`r1jax.config.LoRA`). To suit one chip, a rollout is 32 questions by 16 samples in one step, of at most 1,024 tokens.

Hardware: one chip of 16 GB (TPU v5e-1). `r1jax plan experiments/zero_qwen_1_5b_lora.py --topology v5e:1x1` counts 3.7 GB for the base, 0.45
for adapters with Adam, 4.0 for merged weights for decoding and 5.7 for the cache of 64 slots: 13.9 GB, and 14.0 while slots become fewer.
NOT YET RUN. Expected: as full training, slower by the smaller rollouts.
"""

import dataclasses

import zero_qwen_1_5b as whole

from r1jax.config import LoRA, MeshConfig, OptimConfig, Recipe
from r1jax.data.template import r1_zero


def recipe() -> Recipe:
    base = 'Qwen2.5-1.5B'
    stage = whole.zero(base, longest=1024, blocks=4, chips=1, slots=64)
    stage = dataclasses.replace(
        stage,
        source=dataclasses.replace(stage.source, questions=32, minibatches=1),
        optim=OptimConfig(learning_rate=3e-5),
        lora=LoRA(rank=32, alpha=64.0, base='bfloat16'),
    )
    return Recipe('zero_qwen_1_5b_lora', (stage,), r1_zero, whole.model(base), mesh=MeshConfig())
