"""R1-Zero on Qwen2.5-1.5B for mathematics: pure RL from a base model, rewarded by rules alone.

    hf download Qwen/Qwen2.5-1.5B --local-dir weights/Qwen2.5-1.5B
    hf download openai/gsm8k --repo-type dataset --local-dir data/gsm8k
    hf download EleutherAI/hendrycks_math --repo-type dataset --local-dir data/math
    hf download HuggingFaceH4/MATH-500 --repo-type dataset --local-dir data/math500
    pip install -e '.[tpu,math,data]'        # or cuda
    r1jax run experiments/zero_qwen_1_5b.py

`weights` and `data` are folders, or links to them, where the command is run; `--set zero.start=FOLDER/` names other weights. Problems are
the training sets of GSM8K and MATH (MATH-500 is a part of MATH's test set), asked in R1-Zero's template. Rewards are accuracy and format,
of the same weight. Settings are the paper's (Nature 645, Methods) but for sizes: a rollout is 128 questions by 16 samples in 4 steps, of
at most 3,072 tokens, and the reference moves every 100 steps.

Hardware: 8 chips of 16 GB, such as TPU v5e-8; weights, Adam, gradients and reference take 3.9 GB of each (32-bit, 1.5 billion parameters).
NOT YET RUN. Expected: form within some tens of steps, MATH-500 well above the base's, and length that grows. Qwen2.5 has met chains of
thought in pretraining, so that it does not start from nothing.
"""

import dataclasses

from r1jax.config import (
    GRPO,
    Eval,
    MeshConfig,
    OnPolicy,
    OptimConfig,
    Part,
    Recipe,
    RowConfig,
    SampleConfig,
    Stage,
)
from r1jax.data.sets import Named
from r1jax.data.template import r1_zero
from r1jax.data.together import Together
from r1jax.presets import named
from r1jax.rewards import form, mathematics

REWARDS = (Part('accuracy', mathematics.Math(), deadline=5.0), Part('format', form.format))
TRAIN = Together((Named('gsm8k', 'data/gsm8k'), Named('math', 'data/math')))
CHIPS = 8


def held_out(samples: int, longest: int, slots: int) -> Eval:
    """MATH-500 as the paper measures: temperature 0.6, top-p 0.95, pass@1 the mean over a question's samples."""
    drawn = SampleConfig(max_tokens=longest, max_prompt=2048, temperature=0.6, top_p=0.95, slots=slots)
    return Eval('math500', Named('math500', 'data/math500'), REWARDS, mathematics.final, samples, drawn, every=100)


def zero(base: str, longest: int = 3072, blocks: int = 3, chips: int = CHIPS, slots: int = 512) -> Stage:
    """R1-Zero from weights/BASE, a preset's name, with responses of at most `longest` tokens, a multiple of 128."""
    return Stage(
        name='zero',
        start=f'weights/{base}/',
        steps=480,
        source=OnPolicy(
            problems=TRAIN,
            sample=SampleConfig(max_tokens=longest, max_prompt=2048, slots=slots),
            rewards=REWARDS,
            questions=128,
            samples=16,
            minibatches=4,
            reference_every=100,
        ),
        loss=GRPO(clip_low=10.0, clip_high=10.0, beta=0.001),
        optim=OptimConfig(learning_rate=3e-6),
        # prompts and blocks of a multiple of 128 tokens, which attention's kernel on TPUs asks for
        rows=RowConfig(length=2048 + blocks * longest, per_microbatch=chips, prompts=2048, block=longest),
        evals=(held_out(4, longest, slots),),
        checkpoint_every=20,
    )


def model(base: str):
    """A preset, made for accelerators: products in bfloat16, and nothing kept of a layer but what goes in."""
    return dataclasses.replace(named(base), dtype='bfloat16', remat='full')


def recipe() -> Recipe:
    base = 'Qwen2.5-1.5B'
    return Recipe('zero_qwen_1_5b', (zero(base),), r1_zero, model(base), mesh=MeshConfig(fsdp=CHIPS))
