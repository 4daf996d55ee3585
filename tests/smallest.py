"""The smallest experiment with everything in it: two stages, several updates a rollout, phases, a moving reference, refills."""

from r1jax.config import (
    GRPO,
    NLL,
    Eval,
    ModelConfig,
    OnPolicy,
    OptimConfig,
    Part,
    Phase,
    Recipe,
    RowConfig,
    SampleConfig,
    Stage,
    Stored,
)
from r1jax.data.template import r1_zero
from r1jax.data.tiny import TinyCorpus, TinySums, TinyTokenizer, mode
from r1jax.rewards import accuracy, form

REWARDS = (Part('accuracy', accuracy.exact), Part('format', form.format))
MODEL = ModelConfig(vocab=96, layers=1, width=32, heads=2, kv_heads=2, head_dim=16, hidden=64, context=64)


def recipe() -> Recipe:
    rows = RowConfig(length=64, per_microbatch=8)
    base = Stage(
        'base',
        8,
        Stored(TinyCorpus(size=300, terms=(2, 3)), batch=16),
        NLL(),
        OptimConfig(1e-2),
        rows,
        checkpoint_every=3,
    )
    zero = Stage(
        name='zero',
        start='base',
        steps=11,  # ends in the middle of a rollout of 4 updates
        source=OnPolicy(
            problems=TinySums(size=50, terms=(2, 3)),
            sample=SampleConfig(max_tokens=24, max_prompt=12, slots=32),
            rewards=REWARDS,
            questions=8,
            samples=4,
            minibatches=2,
            inner_epochs=2,
            max_refills=1,
            overlong='soft',
            overlong_buffer=8,
            reference_every=4,
        ),
        loss=GRPO(beta=0.01),
        optim=OptimConfig(1e-3),
        rows=rows,
        phases=(Phase(5, max_tokens=20, temperature=0.9), Phase(8, learning_rate=5e-4)),
        evals=(
            Eval(
                'held_out',
                TinySums('held_out', size=8, terms=(2, 3)),
                REWARDS,
                accuracy.answer,
                samples=4,
                split=mode,
                every=5,
            ),
            Eval(
                'capped',
                TinySums('held_out', size=8, terms=(2, 3)),
                REWARDS,
                accuracy.answer,
                samples=4,
                cap_at='held_out',
            ),
        ),
        checkpoint_every=2,
    )
    return Recipe('smallest', (base, zero), r1_zero, MODEL, TinyTokenizer())
