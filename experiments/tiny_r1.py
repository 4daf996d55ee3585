"""wip"""

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
from r1jax.data.bilingual import BilingualCorpus, BilingualSums, BilingualTokenizer
from r1jax.data.template import r1_zero
from r1jax.data.tiny import mode
from r1jax.rewards import accuracy, form, language

ACCURACY, FORMAT, LANGUAGE = (
    Part('accuracy', accuracy.exact),
    Part('format', form.format),
    Part('language', language.Language()),
)
MODEL = ModelConfig(vocab=240, layers=3, width=64, heads=4, kv_heads=2, head_dim=16, hidden=192, context=128)
ROWS = RowConfig(length=128, per_microbatch=4)


def sums(name, terms=(4, 8), **kwargs):
    problems = BilingualSums(split='held_out', size=128, terms=terms, seed=1)
    return Eval(name, problems, (ACCURACY, FORMAT, LANGUAGE), accuracy.answer, samples=16, split=mode, **kwargs)


def pretrain() -> Stage:
    return Stage(
        name='pretrain',
        steps=1200,
        source=Stored(BilingualCorpus(), batch=64),
        loss=NLL(),
        optim=OptimConfig(learning_rate=3e-3, warmup=50, schedule='cosine'),
        rows=ROWS,
        checkpoint_every=500,
    )


def zero() -> Stage:
    return Stage(
        name='zero',
        start='pretrain',
        steps=100,
        source=OnPolicy(
            problems=BilingualSums(split='train', size=4000, terms=(4, 8)),
            sample=SampleConfig(max_tokens=96, max_prompt=24, slots=256),
            rewards=(ACCURACY, FORMAT),
            questions=16,
            samples=16,
        ),
        loss=GRPO(beta=0.001),
        optim=OptimConfig(learning_rate=3e-4),
        rows=ROWS,
        evals=(sums('held_out', every=20),),
        checkpoint_every=25,
    )


def recipe() -> Recipe:
    return Recipe('tiny_r1', stages=(pretrain(), zero()), template=r1_zero, model=MODEL, tokenizer=BilingualTokenizer())
