"""Tool use in minutes on a laptop CPU: pretrain a tiny model that seldom calls a calculator, then let RL find that calling pays.

    r1jax run experiments/tiny_tools.py --workdir runs/tiny_tools

The world is sums and products of numbers of two and three digits (`r1jax.data.tiny_calls`): too much for a small head, easy with a
calculator. Three documents in ten of the corpus call it, with slips; the rest guesses. RL has R1-Zero's two rewards, accuracy and format;
nothing rewards a call. Where the policy writes `</tool_call>` the calculator speaks, and the policy goes on behind what it said; these
tokens carry no loss (docs/environments.md).

Three seeds (2026-11-23, docs/results/tiny_tools.md): pass@1 on held-out questions 22-25 % -> 97-99 %; without the calculator it is
1 to 8 %. The base calls in three of ten answers, and is right in three quarters of those; RL finds that.
"""

from r1jax.config import (
    GRPO,
    NLL,
    Eval,
    Frame,
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
from r1jax.data.tiny_calls import CallsTokenizer, TinyArithmetic, TinyCalls, mode
from r1jax.environments import Calculator, Tools
from r1jax.rewards import accuracy, form

REWARDS = (Part('accuracy', accuracy.exact), Part('format', form.format))  # same weight, as in the report

MODEL = ModelConfig(vocab=128, layers=3, width=64, heads=4, kv_heads=2, head_dim=16, hidden=192, context=128)

# As the corpus writes it; the policy's turn ends with its call
FRAME = Frame(before=' <tool_response> ', between=' | ', after=' </tool_response>', cut='', stops=(' </tool_call>',))
# Called in the training process: a calculator's answer takes less time than handing it over would
CALCULATOR = Tools((Calculator(),), frame=FRAME, turns=3, output=12, deadline=0.0)


def pretrain() -> Stage:
    return Stage(
        name='pretrain',
        steps=4000,
        source=Stored(TinyCalls(), batch=64),
        loss=NLL(),
        optim=OptimConfig(learning_rate=3e-3, warmup=50, schedule='cosine'),
        rows=RowConfig(length=128, per_microbatch=4),
        checkpoint_every=500,
    )


def zero() -> Stage:
    def held_out(name, **kwargs):
        problems = TinyArithmetic(split='held_out', size=128, seed=1)
        return Eval(name, problems, REWARDS, accuracy.answer, samples=16, **kwargs)

    return Stage(
        name='zero',
        start='pretrain',
        steps=200,
        source=OnPolicy(
            problems=TinyArithmetic(split='train', size=4000),
            sample=SampleConfig(max_tokens=64, max_prompt=16, slots=256),
            rewards=REWARDS,
            questions=16,
            samples=16,
        ),
        environment=CALCULATOR,
        loss=GRPO(beta=0.001),
        optim=OptimConfig(learning_rate=3e-4),
        rows=RowConfig(length=128, per_microbatch=4),
        evals=(
            held_out('held_out', split=mode),
            held_out('alone', alone=True),  # no calculator speaks: what the model can do by itself
        ),
        checkpoint_every=20,
    )


def recipe() -> Recipe:
    return Recipe('tiny_tools', stages=(pretrain(), zero()), template=r1_zero, model=MODEL, tokenizer=CallsTokenizer())
