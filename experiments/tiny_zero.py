"""R1-Zero in minutes on a laptop CPU: pretrain a tiny model on a messy corpus, then let pure RL find that thinking pays.

    r1jax run experiments/tiny_zero.py --workdir runs/tiny_zero

The world is sums modulo 10 (`r1jax.data.tiny`): hard at once, easy step by step. Over a quarter of the corpus works its sums out, with
slips; the rest guesses. RL has two rewards, accuracy and format, and the R1-Zero template; nothing tells it to think longer.

Three seeds on two CPU cores (2026-11-22, docs/results/tiny_zero.md): 190 to 250 s; pass@1 on held-out sums 22-25 % -> 96-97 %, tokens a
response 16 -> 37. In the first 20 steps accuracy rises from a quarter to three quarters, and length doubles with it.
"""

from r1jax.config import (
    GRPO,
    NLL,
    Eval,
    ModelConfig,
    OnPolicy,
    OptimConfig,
    Part,
    Recipe,
    RowConfig,
    SampleConfig,
    Stage,
    Stored,
)
from r1jax.data.template import r1_zero
from r1jax.data.tiny import TinyCorpus, TinySums, TinyTokenizer, mode
from r1jax.rewards import accuracy, form

REWARDS = (Part('accuracy', accuracy.exact), Part('format', form.format))  # same weight, as in the report

MODEL = ModelConfig(vocab=96, layers=3, width=64, heads=4, kv_heads=2, head_dim=16, hidden=192, context=128)


def pretrain() -> Stage:
    return Stage(
        name='pretrain',
        steps=1200,
        source=Stored(TinyCorpus(), batch=64),
        loss=NLL(),
        optim=OptimConfig(learning_rate=3e-3, warmup=50, schedule='cosine'),
        rows=RowConfig(length=128, per_microbatch=4),
        checkpoint_every=500,
    )


def zero() -> Stage:
    def held_out(name, terms, **kwargs):
        problems = TinySums(split='held_out', size=128, terms=terms, seed=1)
        return Eval(name, problems, REWARDS, accuracy.answer, samples=16, **kwargs)

    return Stage(
        name='zero',
        start='pretrain',
        steps=100,
        source=OnPolicy(
            problems=TinySums(split='train', size=4000, terms=(4, 8)),
            sample=SampleConfig(max_tokens=96, max_prompt=24, slots=256),
            rewards=REWARDS,
            questions=16,
            samples=16,
        ),
        loss=GRPO(beta=0.001),
        optim=OptimConfig(learning_rate=3e-4),
        rows=RowConfig(length=128, per_microbatch=4),
        evals=(
            held_out('held_out', (4, 8), split=mode),
            held_out('capped', (4, 8), cap_at='held_out'),  # no room to think
            held_out('longer', (9, 9)),  # one term more than any in RL
        ),
        checkpoint_every=25,
    )


def recipe() -> Recipe:
    return Recipe('tiny_zero', stages=(pretrain(), zero()), template=r1_zero, model=MODEL, tokenizer=TinyTokenizer())
