# %% [markdown]
# # Distil your own
#
# The R1 report's last finding: a small model that learns from a large one's samples beats the same small model trained by RL (section
# 4.1, Table 6). This notebook makes a teacher, collects what it says, teaches a smaller student with it in three ways, and compares them:
#
# | student | learns from | loss |
# |---|---|---|
# | `distil` | the teacher's samples that were right (the paper's way) | next token |
# | `on_policy` | its own samples, and what the teacher would have said at each token | reverse KL to the teacher |
# | `rl` | its own samples and the rules | GRPO |

# %% tags=["first"]
# the first cell

# %% tags=["parameters"]
import os

# The one parameter of all these notebooks. 'small': minutes on two cores. 'tiny': seconds, to see
# that everything runs; nothing is learned then.
SIZE = os.environ.get('R1JAX_NOTEBOOK_SIZE', 'small')

# %% [markdown]
# ## Sizes

# %%
import dataclasses

from r1jax.config import (
    GRPO,
    NLL,
    Collect,
    Distil,
    Eval,
    Filter,
    ModelConfig,
    OnPolicy,
    OptimConfig,
    Part,
    Recipe,
    RowConfig,
    SampleConfig,
    Stage,
    Stored,
    Threshold,
)
from r1jax.curate.filters import AtLeast
from r1jax.data.kept import Kept
from r1jax.data.template import r1_zero
from r1jax.data.tiny import TinyCorpus, TinySums, TinyTokenizer
from r1jax.rewards import accuracy, form


@dataclasses.dataclass(frozen=True)
class Sizes:
    corpus: int = 30_000  # documents
    base_steps: int = 800
    teacher_steps: int = 40
    student_steps: int = 600  # of pretraining
    prompts: int = 500  # that the teacher is asked
    epochs: int = 4  # over what it said
    rl_steps: int = 30  # of the students that sample themselves
    questions: int = 16  # a rollout
    samples: int = 16  # a question
    held_out: int = 64
    right: float = 1.0  # what a sample that is kept must earn; 0 in the tiny size, whose teacher knows nothing


SIZES = {
    'small': Sizes(),
    'tiny': Sizes(200, 4, 2, 4, 16, 1, 2, 4, 4, 4, right=0.0),
}
sizes = SIZES[SIZE]
TERMS = (2, 4)  # digits of a sum
TEACHER = ModelConfig(vocab=96, layers=3, width=64, heads=4, kv_heads=2, head_dim=16, hidden=192, context=96)
STUDENT = dataclasses.replace(TEACHER, layers=2, width=48, heads=3, kv_heads=1, hidden=144)
SAMPLE = SampleConfig(max_tokens=48, max_prompt=24, slots=sizes.questions * sizes.samples)
ROWS = RowConfig(length=96, per_microbatch=4)
REWARDS = (Part('accuracy', accuracy.exact), Part('format', form.format))

# %% [markdown]
# ## The teacher
#
# Pretrained on a messy corpus of sums and trained by RL, as in `r1_zero.ipynb`. With released weights this stage would be
# `start='weights/NAME/'`, a Hugging Face folder.

# %%
HELD_OUT = Eval(
    'held_out', TinySums('held_out', sizes.held_out, TERMS, seed=1), REWARDS, accuracy.answer, sizes.samples, SAMPLE
)


def pretrained(name: str, model: ModelConfig, steps: int) -> Stage:
    return Stage(
        name=name,
        steps=steps,
        source=Stored(TinyCorpus(size=sizes.corpus, terms=(TERMS[0], TERMS[1] + 1)), batch=min(64, sizes.corpus // 10)),
        loss=NLL(),
        optim=OptimConfig(learning_rate=3e-3, warmup=steps // 20, schedule='cosine'),
        rows=ROWS,
        model=model,
    )


def reinforced(name: str, start: str, steps: int, loss, rewards=REWARDS, learning_rate: float = 3e-4) -> Stage:
    problems = TinySums(size=40 if SIZE == 'tiny' else 2000, terms=TERMS)
    return Stage(
        name=name,
        start=start,
        steps=steps,
        source=OnPolicy(problems, SAMPLE, rewards, sizes.questions, sizes.samples),
        loss=loss,
        optim=OptimConfig(learning_rate),
        rows=ROWS,
        evals=(HELD_OUT,),
    )


teacher = (
    pretrained('base', TEACHER, sizes.base_steps),
    reinforced('teacher', 'base', sizes.teacher_steps, GRPO(beta=0.001)),
)

# %% [markdown]
# ## What it says
#
# Rejection sampling is a stage that trains nothing: sample, grade, keep what is right and well-formed, drop duplicates and whatever an
# evaluation asks. It writes what it kept as text, and a data card that says what became of every sample.

# %%
said = Stage(
    name='said',
    steps=0,
    source=Collect(
        problems=TinySums(size=sizes.prompts, terms=TERMS, seed=2),
        sample=SAMPLE,
        rewards=REWARDS,
        samples=sizes.samples,
        questions=sizes.questions,
        correct=(Threshold('accuracy', sizes.right),),
        filters=(Filter('format', AtLeast(form.format, sizes.right)),),
        unfinished=SIZE == 'tiny',
        keep=4,
    ),
    start='teacher',
)

# %% [markdown]
# ## The students
#
# All three begin with the same small pretrained model.

# %%
students = (
    pretrained('student', STUDENT, sizes.student_steps),
    Stage(
        name='distil',
        start='student',
        steps=0,  # as many as the epochs take
        source=Stored(Kept('said'), batch=32 if SIZE == 'small' else 4, epochs=sizes.epochs),
        loss=NLL(),
        optim=OptimConfig(learning_rate=1e-3, warmup=10, schedule='cosine'),
        rows=ROWS,
        evals=(HELD_OUT,),
    ),
    reinforced('on_policy', 'student', sizes.rl_steps, Distil('teacher', 'reverse'), rewards=(), learning_rate=1e-3),
    reinforced('rl', 'student', sizes.rl_steps, GRPO(beta=0.001)),
)
recipe = Recipe('distil', (*teacher, said, *students), r1_zero, tokenizer=TinyTokenizer(), model=TEACHER)

for stage in recipe.stages:
    loss = type(stage.loss).__name__ if stage.loss else 'trains nothing'
    print(f'{stage.name:10} from {stage.start:8} {type(stage.source).__name__:9} {loss}')

# %% tags=["progress"]
from r1jax.train.stage import run

WORKDIR = f'runs/notebook_distil_{SIZE}'
summary = run(recipe, WORKDIR)

# %% [markdown]
# ## What was kept
#
# The card counts the reasons. The examples are JSON lines: they may be edited before the next stage learns from them.

# %%
import itertools

from r1jax.train import log

samples = summary['stages']['said']['collected']['samples']
print(', '.join(f'{name} {count:,}' for name, count in samples.items()))
for example in itertools.islice(log.read(f'{WORKDIR}/data/said.jsonl'), 3):
    print(example['prompt'][-34:], example['response'])

# %% [markdown]
# ## Who learned more

# %%
stages = summary['stages']
print(f'{"":12}{"pass@1":>8}  {"95 % interval":16}{"tokens":>7}{"well-formed":>13}')
rows = {'teacher': stages['teacher']['after'], 'student': stages['distil']['before']}
for name, found in (rows | {name: stages[name]['after'] for name in ('distil', 'on_policy', 'rl')}).items():
    low, high = found['pass@1_ci']
    interval = f'[{low:.3f}, {high:.3f}]'
    print(f'{name:12}{found["pass@1"]:8.3f}  {interval:16}{found["response_tokens"]:7.1f}{found["format"]:13.3f}')

# %% [markdown]
# What did it cost? Sampling counts too: distillation samples the teacher once and learns from it for as many epochs as one likes, while
# the other two sample the student at every step.

# %%
from r1jax.report import workdir

course = {stage.name: stage for stage in workdir.read(WORKDIR).stages}
for name in ('distil', 'on_policy', 'rl'):
    sampled = (course[name].column('rollout/samples')[1] * course[name].column('rollout/tokens')[1]).sum()
    print(
        f'{name:10} {stages[name]["steps"]:4} steps, {course[name].column("tokens")[1].sum():9,.0f} tokens learned from, {sampled:9,.0f} sampled'
    )
sampled = sum(example['tokens'] for example in log.read(f'{WORKDIR}/data/said.all.jsonl'))
print(f'the teacher sampled {sampled:,} tokens for distil')

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(1, 3, figsize=(13, 2.8), layout='constrained')
axes[0].plot(*course['distil'].column('loss'))
axes[0].set(title='distil: next-token loss', xlabel='step')
axes[1].plot(*course['on_policy'].column('distil/reverse'), label='reverse')
axes[1].plot(*course['on_policy'].column('distil/forward'), label='forward')
axes[1].set(title='on_policy: KL to the teacher, nats', xlabel='step')
axes[1].legend()
axes[2].plot(*course['rl'].column('reward/accuracy'))
axes[2].set(title='rl: accuracy in training', xlabel='step')
plt.show()

# %% [markdown]
# ## With a real model
#
# - R1's own samples: `experiments/distill_*.py`, the six students of the report, from published responses (`distill_qwen_1_5b.py` says
#   what to download).
# - Your own teacher: give the teacher's stage `start='weights/NAME/'` and leave its training out (a `Collect` stage may start from a
#   folder itself), the student's likewise. `r1jax plan` says what it takes.
# - Export a student for transformers and vLLM: `r1jax export WORKDIR:distil FOLDER`.
