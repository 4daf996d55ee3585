# %% [markdown]
# # Write your own reward
#
# A reward is a function of a problem and a response. This notebook writes one, tries it before any training, trains with it, and then
# does it wrong on purpose: a reward with a hole, which RL finds in minutes, and the diagnosis that tells.

# %% tags=["first"]
# the first cell

# %% tags=["parameters"]
import os

# The one parameter of all these notebooks. 'small': minutes on two cores. 'tiny': seconds, to see
# that everything runs; nothing is learned then.
SIZE = os.environ.get('R1JAX_NOTEBOOK_SIZE', 'small')

# %% [markdown]
# ## The reward
#
# Right answers, and the shorter the better: from 1/2 for the longest to nearly 1 for a short one. `problem` has the question, the ground
# truth and whatever its source put into `meta`; `response` has the text, the number of tokens, and whether it ended by itself.

# %%
from r1jax.rewards import accuracy
from r1jax.types import Problem, Response

LONGEST = 48  # tokens of a response


def brief(problem: Problem, response: Response) -> float:
    right = accuracy.answer(response.text) == problem.answer
    return 1 - 0.5 * response.tokens / LONGEST if right else 0.0


# %% [markdown]
# ## Try it on responses that you make up
#
# Before anything is trained: a right one, a wrong one, one without an answer, one that tries to cheat.

# %%
problem = Problem(id=0, prompt='3+4+8=? (mod 10)', answer='5')
tries = {
    'right, short': Response('<think> easy </think> <answer> 5 </answer>', 8, True),
    'right, long': Response('<think> 3+4=7 7+8=5 </think> <answer> 5 </answer>', 19, True),
    'wrong': Response('<think> easy </think> <answer> 2 </answer>', 8, True),
    'no answer': Response('five', 2, True),
    'every digit': Response('<answer> 0 1 2 3 4 5 6 7 8 9 </answer>', 14, True),
}
for what, response in tries.items():
    print(f'{brief(problem, response):.2f}  {what}')

# %% [markdown]
# ## Parts
#
# Training adds up *parts*, each with a name under which it is logged. A part of weight 0 teaches nothing and is measured all the same:
# keep an accuracy beside a reward of your own. `score` is what training calls. What raises an exception is not a zero but a sample that
# could not be graded; it leaves its group.

# %%
from r1jax.config import Part
from r1jax.rewards import form
from r1jax.rewards.combine import score

REWARDS = (Part('brief', brief), Part('format', form.format), Part('accuracy', accuracy.exact, weight=0.0))
reward, parts, valid = score([problem] * len(tries), list(tries.values()), REWARDS)
print('sum     ', reward.round(2))
for name, values in parts.items():
    print(f'{name:9}', values.round(2))
print('graded  ', valid)

# %% [markdown]
# Other things that a part can have (`r1jax.config.Part`):
#
# - `deadline`: seconds a call may take. It then runs in a process of its own, which is killed when it takes longer. Such a function
#   stands in a module (a file), not in a notebook, since that process has to import it.
# - `kinds`: the kinds of problem that it applies to.
# - an object with `many(problems, responses)` grades a batch at once, as a model or an endpoint does.
# - `check(problem)` says of a problem that it could never be graded, such as one whose ground truth cannot be read: it is left out before
#   training, and counted.
#
# ## The questions
#
# A source of problems is a frozen dataclass with `load`, so that what was asked stands in the run's `config.json`. Yours could read a
# file; `r1jax.data.table` has one that reads JSON lines, CSV and Parquet.

# %%
import dataclasses
import random


@dataclasses.dataclass(frozen=True)
class Sums:
    """Sums modulo 10 of two to four digits."""

    size: int
    seed: int

    def load(self) -> list[Problem]:
        rng, problems = random.Random(self.seed), []
        for i in range(self.size):
            terms = [rng.randrange(10) for _ in range(rng.randint(2, 4))]
            problems.append(Problem(i, '+'.join(map(str, terms)) + '=? (mod 10)', str(sum(terms) % 10)))
        return problems


print(Sums(size=3, seed=0).load())

# %% [markdown]
# ## The recipe
#
# The base is pretrained on a messy corpus of sums (see `r1_zero.ipynb`). From it three stages start, with the same questions and three
# rewards: the paper's accuracy and format; ours; and `hasty`, ours with a hole: whoever wrote it forgot to look at the answer.

# %%
from r1jax.config import (
    GRPO,
    NLL,
    Eval,
    ModelConfig,
    OnPolicy,
    OptimConfig,
    Recipe,
    RowConfig,
    SampleConfig,
    Stage,
    Stored,
)
from r1jax.data.template import r1_zero
from r1jax.data.tiny import TinyCorpus, TinyTokenizer


def hasty(problem: Problem, response: Response) -> float:
    answered = accuracy.answer(response.text) is not None  # and is it right?
    return 1 - 0.5 * response.tokens / LONGEST if answered else 0.0


MEASURED = Part('format', form.format), Part('accuracy', accuracy.exact, weight=0.0)
MIXES = {
    'plain': (Part('format', form.format), Part('accuracy', accuracy.exact)),
    'brief': (Part('brief', brief), *MEASURED),
    'hasty': (Part('hasty', hasty), *MEASURED),
}
CORPUS, PRETRAIN, STEPS, ASKED, SAMPLES = {
    'small': (30_000, 800, 40, 64, 16),
    'tiny': (200, 4, 3, 4, 4),
}[SIZE]
ROWS = RowConfig(length=96, per_microbatch=4)

base = Stage(
    name='base',
    steps=PRETRAIN,
    source=Stored(TinyCorpus(size=CORPUS, terms=(2, 5)), batch=64 if SIZE == 'small' else 8),
    loss=NLL(),
    optim=OptimConfig(learning_rate=3e-3, warmup=PRETRAIN // 20, schedule='cosine'),
    rows=ROWS,
)


def reinforced(name: str, rewards: tuple[Part, ...]) -> Stage:
    return Stage(
        name=name,
        start='base',
        steps=STEPS,
        source=OnPolicy(
            problems=Sums(size=2000, seed=0),
            sample=SampleConfig(max_tokens=LONGEST, max_prompt=24, slots=SAMPLES * 16),
            rewards=rewards,
            questions=16 if SIZE == 'small' else 4,
            samples=SAMPLES,
        ),
        loss=GRPO(beta=0.001),
        optim=OptimConfig(learning_rate=3e-4),
        rows=ROWS,
        evals=(Eval('held_out', Sums(size=ASKED, seed=1), rewards, accuracy.answer, samples=SAMPLES, every=10),),
    )


recipe = Recipe(
    name='own_reward',
    stages=(base, *(reinforced(name, rewards) for name, rewards in MIXES.items())),
    template=r1_zero,
    model=ModelConfig(vocab=96, layers=3, width=64, heads=4, kv_heads=2, head_dim=16, hidden=192, context=128),
    tokenizer=TinyTokenizer(),
)

# %% tags=["progress"]
from r1jax.train.stage import run

WORKDIR = f'runs/notebook_own_reward_{SIZE}'
summary = run(recipe, WORKDIR)

# %% [markdown]
# ## What each reward made of the same base

# %%
print(f'{"":8}{"accuracy":>10}{"tokens":>8}{"well-formed":>13}')
found = summary['stages']['plain']['before']
print(f'{"base":8}{found["pass@1"]:10.1%}{found["response_tokens"]:8.1f}{found["format"]:13.1%}')
for name in MIXES:
    found = summary['stages'][name]['after']
    print(f'{name:8}{found["pass@1"]:10.1%}{found["response_tokens"]:8.1f}{found["format"]:13.1%}')

# %%
import matplotlib.pyplot as plt

from r1jax.report import workdir

stages = {stage.name: stage for stage in workdir.read(WORKDIR).stages}
panels = {'reward/mean': 'reward', 'reward/accuracy': 'accuracy in training', 'rollout/tokens': 'tokens a response'}
figure, axes = plt.subplots(1, 3, figsize=(13, 2.8), layout='constrained')
for ax, (path, title) in zip(axes, panels.items(), strict=True):
    for name in MIXES:
        ax.plot(*stages[name].column(path), label=name)
    ax.set(title=title, xlabel='step')
axes[0].legend()
plt.show()

# %% [markdown]
# The reward of `hasty` rises as the others' do. Nothing in that curve says that anything is wrong; it is the figure that no reward reads
# that tells. `diagnose` looks for this, and for twenty other faults (`r1jax diagnose WORKDIR` on the command line):

# %%
from r1jax.report.diagnosis import diagnose

for finding in diagnose(WORKDIR):
    print(finding.lines())

# %% [markdown]
# And the samples, which one should read first. The same questions, after each of the three:

# %%
from r1jax.train import log

shown = {}
for record in log.read(f'{WORKDIR}/samples.jsonl'):
    if record.get('when') == 'after':
        shown.setdefault(record['question'], {}).setdefault(record['stage'], record)
for question in list(shown)[:3]:
    print(
        f'{next(iter(shown[question].values()))["prompt"]}  expected {next(iter(shown[question].values()))["answer"]}'
    )
    for name, record in shown[question].items():
        print(f'  {name:6}{record["reward"]:6.2f} {record["completion"]}')

# %% [markdown]
# ## Make it an experiment
#
# `r1jax new mine` writes what this notebook did as a file, `mine.py`, with a test of the reward beside it:

# %%
import pathlib

from r1jax import new

folder = pathlib.Path('runs', f'notebook_own_reward_{SIZE}_new')
for path in [folder / 'mine.py', folder / 'test_mine.py']:
    path.unlink(missing_ok=True)
for path in new.write('mine', folder):
    print(f'{path.name}: {len(path.read_text().splitlines())} lines')

# %% [markdown]
# - More on rewards, and on what keeps them believable: [docs/rewards.md](../docs/rewards.md).
# - On findings: [docs/diagnosis.md](../docs/diagnosis.md).
