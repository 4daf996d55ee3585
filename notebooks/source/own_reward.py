# %% [markdown]
# # Write your own reward and environment
#
# A reward is a function of a problem and a response. This notebook writes one, tries it before any training, trains with it, and then
# does it wrong on purpose: a reward with a hole, which RL finds in minutes, and the diagnosis that tells. An environment is what speaks
# between the turns of a response; the second half writes one, too, and trains a policy that it answers.

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
# ## An environment
#
# An environment is a frozen dataclass with four settings that is called after each turn of the policy. It says something, a `Reply`, and
# the policy goes on behind it; or None, and the response is over. This one reads an answer over: it adds up the terms that the steps of
# the thinking name, and where something else was answered it says the last step as it should be. The policy may then answer again. A
# term that no step names it cannot know of, so it helps those who think all of it through.
#
# `frame` has the texts around what is said: here tags, as the base has read them before an answer. A model that was tuned to chat has
# other ones, such as `r1jax.config.CHATML`.

# %%
import re

from r1jax.config import Frame
from r1jax.types import Reply

FRAME = Frame(before=' <think>', between='', after=' </think>', cut='')


@dataclasses.dataclass(frozen=True)
class ReadOver:
    """Says the last step of the thinking as it should be, where another answer was given."""

    frame: Frame = FRAME
    turns: int = 2  # most turns of the policy
    output: int = 8  # tokens of what is said, at most
    deadline: float = 0.0  # seconds that a call may take; 0: called here, and not in a process of its own

    def __call__(self, problem: Problem, response: Response) -> Reply | None:
        *before, turn = response.turns
        if before:
            return None  # once is enough
        terms: list[int] = []
        for again, first, term in re.findall(r'(wait, )?(\d)\+(\d)=\d', turn):
            terms = [*(terms[:-1] if again else terms or [int(first)]), int(term)]  # "wait," does a step again
        given = accuracy.answer(turn)
        if not terms:
            return Reply((' hm',)) if given is None else None
        *others, last = terms
        total = sum(terms) % 10
        return None if given == str(total) else Reply((f' {sum(others) % 10}+{last}={total}',))


# %% [markdown]
# It is tried as a reward is, with turns that you make up. `response.turns` is what both have said so far; `response.text`, which rewards
# read, is the policy's turns alone. The last answer in it counts, and the format is that of the first turn, by a reward of our own: with
# two answers the whole has too many tags.

# %%
read_over = ReadOver()


def first_turn(problem: Problem, response: Response) -> float:
    turn, *_ = *response.turns, response.text  # without an environment there are no turns
    return form.format(problem, dataclasses.replace(response, text=turn))


slip = ' <think> 3+4=7 7+8=4 </think> <answer> 4 </answer>'
fixed = ' <think> 3+4=7 7+8=4 wait, 7+8=5 </think> <answer> 5 </answer>'
for turns in ((slip,), (slip, ' 7+8=5', ' <answer> 5 </answer>'), (fixed,), (' five',)):
    response = Response('\n'.join(turns[::2]), 12, True, turns)
    grades = [grade(problem, response) for grade in (accuracy.exact, first_turn, form.format)]
    print(turns, '->', read_over(problem, response), grades)

# %% [markdown]
# ## The recipe
#
# The base is pretrained on a messy corpus of sums (see `r1_zero.ipynb`). From it three stages start, with the same questions and three
# rewards: the paper's accuracy and format; ours; and `hasty`, ours with a hole: whoever wrote it forgot to look at the answer. A fourth
# has the paper's rewards, with our environment.

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
IN_TURNS = Part('format', first_turn), Part('accuracy', accuracy.exact)
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


def in_turns(stage: Stage) -> Stage:
    """With our environment, and measured without it as well: what the policy can do alone."""
    (held_out,) = stage.evals
    alone = dataclasses.replace(held_out, name='alone', alone=True)
    return dataclasses.replace(stage, environment=read_over, evals=(held_out, alone))


rewarded = tuple(reinforced(name, rewards) for name, rewards in MIXES.items())
recipe = Recipe(
    name='own_reward',
    stages=(base, *rewarded, in_turns(reinforced('checked', IN_TURNS))),
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
# And the samples, which one should read first. The same questions, after each of the four stages:

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
# ## What the environment made of it
#
# Nothing pays for being read over: `checked` has the rewards of `plain`. What was said is in the response as tokens, with weight 0 in the
# loss: the policy is not trained to say it. `alone` asks the same policy where nobody speaks, since what is put right for it it need not
# learn itself.

# %%
print(f'{"":8}{"before":>8}{"after":>8}')
for name, stage, evaluation in (
    ('plain', 'plain', 'held_out'),
    ('checked', 'checked', 'held_out'),
    ('alone', 'checked', 'alone'),
):
    ends = summary['stages'][stage]['evals'][evaluation]
    print(f'{name:8}' + ''.join(f'{ends[when]["pass@1"]:8.1%}' for when in ('before', 'after')))
for path in ('environment/turns', 'environment/asked'):
    _, values = stages['checked'].column(path)
    print(f'{path:18}{values[0]:5.2f} at first, {values[-1]:5.2f} at the end')

# %% [markdown]
# A conversation stands in samples.jsonl turn by turn, the policy's own first:

# %%
talks = [
    record
    for record in log.read(f'{WORKDIR}/samples.jsonl')
    if record['stage'] == 'checked' and record['when'] == 'rollout' and len(record.get('turns', ())) > 1
]
for record in talks[-3:]:
    print(f'{record["prompt"]}  expected {record["answer"]}, reward {record["reward"]:.2f}')
    for i, turn in enumerate(record['turns']):
        print(f'  {"read over" if i % 2 else "policy":10}{turn}')

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
# - On environments, tools among them, and on those of other libraries: [docs/environments.md](../docs/environments.md).
