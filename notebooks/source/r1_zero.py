# %% [markdown]
# # R1-Zero in ten minutes
#
# DeepSeek-R1-Zero showed that reinforcement learning alone, with rewards that a rule can compute, makes a language model think longer and
# be right more often ([arXiv 2501.12948](https://arxiv.org/abs/2501.12948)). This notebook does the same from nothing, on any machine: it
# pretrains a small model on a messy corpus and then runs GRPO on it. On two CPU cores that takes four minutes; an accelerator is used
# where there is one.
#
# It is `experiments/tiny_zero.py`, run from Python instead of the command line.

# %% tags=["first"]
# the first cell

# %% tags=["parameters"]
import os

# The one parameter of all these notebooks. 'small': minutes on two cores. 'tiny': seconds, to see that everything runs; nothing is
# learned then.
SIZE = os.environ.get('R1JAX_NOTEBOOK_SIZE', 'small')

# %% [markdown]
# ## A world that is small enough
#
# The task is sums modulo 10. A small model cannot do one at once, but it can go step by step. The corpus is what a messy web would be: a
# quarter of its documents work a sum out, with slips; the rest guesses; some are malformed.

# %%
import itertools

from r1jax.data.tiny import TinyCorpus

for row in itertools.islice(TinyCorpus().rows(), 8):
    print(f'{row["problem"]:32}{row["response"]}')

# %% [markdown]
# A model that copies this corpus has two ways to answer, and prefers the poor one, as its corpus does. Nothing will tell it to think. It
# is asked in R1-Zero's template, word by word that of the report:

# %%
from r1jax.data.template import r1_zero
from r1jax.types import Problem

print(r1_zero(Problem(id=0, prompt='3+4+8=? (mod 10)', answer='5')))

# %% [markdown]
# ## Rewards
#
# Two rules of the same weight, as in the report: is the final answer right, and do the tags stand where they should? A reward is a
# function of a problem and a response.

# %%
from r1jax.rewards import accuracy, form
from r1jax.types import Response

problem = Problem(id=0, prompt='3+4+8=? (mod 10)', answer='5')
for text in (
    '<think> 3+4=7 7+8=5 </think> <answer> 5 </answer>',
    '<think> easy </think> <answer> 2 </answer>',
    'the answer is <answer> 5 </answer>',
):
    response = Response(text, tokens=12, finished=True)
    print(f'accuracy {accuracy.exact(problem, response):.0f}  format {form.format(problem, response):.0f}  {text}')

# %% [markdown]
# ## The recipe
#
# A recipe is data: a tuple of stages, each with where it starts, where its batches come from and the loss that they meet. The second
# stage is R1-Zero. `override` changes settings by their paths, as `--set` does on the command line.

# %%
from r1jax import settings

SMALLER = [
    'pretrain.steps=4',
    'pretrain.source.batch=8',
    'pretrain.source.examples.size=200',
    'zero.steps=3',
    'zero.source.questions=4',
    'zero.source.samples=4',
    'zero.source.sample.slots=16',
    *(
        f'zero.evals.{name}.{field}'
        for name in ('held_out', 'capped', 'longer')
        for field in ('problems.size=4', 'samples=4')
    ),
]
recipe = settings.load_recipe(ROOT / 'experiments' / 'tiny_zero.py')
recipe = settings.override(recipe, {'small': [], 'tiny': SMALLER}[SIZE])

for stage in recipe.stages:
    print(
        f'{stage.name}: {stage.steps} steps from {stage.start}, {type(stage.source).__name__} -> {type(stage.loss).__name__}'
    )
zero = recipe.stages[1]
print(f'a rollout: {zero.source.questions} questions by {zero.source.samples} samples; KL coefficient {zero.loss.beta}')

# %% [markdown]
# ## Run it
#
# `run` pretrains, measures, trains by RL and measures again. Everything is written to a workdir. If the cell is stopped, running it again
# goes on from the last checkpoint; if it has finished, it says so. (Of the lines that it prints, those with timings are not kept in this
# notebook.)

# %% tags=["progress"]
from r1jax.train.stage import run

WORKDIR = f'runs/notebook_r1_zero_{SIZE}'
summary = run(recipe, WORKDIR)

# %% [markdown]
# ## What it learned
#
# 128 held-out sums, 16 samples each. pass@1 is the mean over the samples, its interval comes from resampling questions; cons@16 is the
# majority vote.

# %%
evals = summary['stages']['zero']['evals']
print(f'{"":22}{"pass@1":>8}  {"95 % interval":16}{"majority":>9}{"tokens":>8}{"well-formed":>13}')
for name, both in evals.items():
    for when, found in both.items():
        low, high = found['pass@1_ci']
        votes = next(value for key, value in found.items() if key.startswith('cons@') and not key.endswith('_ci'))
        interval = f'[{low:.3f}, {high:.3f}]'
        print(
            f'{name + ", " + when:22}{found["pass@1"]:8.3f}  {interval:16}{votes:9.3f}'
            f'{found["response_tokens"]:8.1f}{found["format"]:13.3f}'
        )

# %% [markdown]
# `capped` are the same questions with responses cut at the length that the base used: without room to think there is no accuracy, so it
# is the thinking that pays. `longer` are sums with one term more than any that RL saw.
#
# Why did it work? In the base, answers that think were right more often, although they were rare. RL finds exactly that:

# %%
for when, found in evals['held_out'].items():
    for mode, figures in found['by_mode'].items():
        print(f'{when:7}{mode:8} {figures["share"]:6.1%} of the answers, right in {figures["accuracy"]:6.1%}')

# %% [markdown]
# ## Curves
#
# `metrics.jsonl` has a line a step. `report.workdir.read` gives them by stage. Accuracy rises, and length with it, though no reward
# mentions length.

# %%
import matplotlib.pyplot as plt

from r1jax.report import workdir

stages = {stage.name: stage for stage in workdir.read(WORKDIR).stages}
panels = {
    'reward/accuracy': 'accuracy',
    'rollout/tokens': 'tokens a response',
    'reward/format': 'well-formed',
    'policy/entropy': 'entropy, nats',
    'policy/kl': 'KL to the base, nats',
}
figure, axes = plt.subplots(1, len(panels), figsize=(3 * len(panels), 2.6), layout='constrained')
for ax, (path, title) in zip(axes, panels.items(), strict=True):
    ax.plot(*stages['zero'].column(path), color='tab:blue')
    ax.set(title=title, xlabel='step')
plt.show()

# %% [markdown]
# ## The same questions, before and after
#
# `samples.jsonl` has completions with all their rewards.

# %%
from r1jax.train import log

shown = {}
for record in log.read(f'{WORKDIR}/samples.jsonl'):
    if record.get('eval') == 'held_out':
        shown.setdefault(record['question'], {}).setdefault(record['when'], record)
for question in list(shown)[:3]:
    before, after = shown[question]['before'], shown[question]['after']
    print(f'{before["prompt"]}  expected {before["answer"]}')
    print(f'  before {before["completion"]}')
    print(f'  after  {after["completion"]}')

# %% [markdown]
# ## Ask it
#
# A finished workdir is a checkpoint for everything else: `r1jax chat`, `r1jax serve`, `r1jax export`, `r1jax eval`. From Python:

# %%
from r1jax import sharding
from r1jax.config import MeshConfig, SampleConfig
from r1jax.sample import Sampler, responses
from r1jax.train import restore

found = restore.restore(WORKDIR)
tokenizer, model = found.source.tokenizer, found.source.config
questions = ['7+7+7+7=? (mod 10)', '1+2+3+4+5+6=? (mod 10)']
prompts = [tokenizer.encode(r1_zero(Problem(i, question, ''))) for i, question in enumerate(questions)]
with sharding.using(MeshConfig()) as mesh:
    params = restore.params(found, mesh)
    drawn = SampleConfig(max_tokens=64, max_prompt=24, slots=4)
    sampler = Sampler.create(model, drawn, 2, tokenizer, seed=0)
    rollout = sampler(params, range(len(questions)), prompts, rollout=0, limit=64, temperature=0.6)
for i, response in enumerate(responses(rollout, tokenizer)):
    print(f'{questions[i // 2]}{response.text}')

# %% [markdown]
# ## What to try
#
# - Another seed: `settings.override(recipe, ['seed=1'])` and another workdir. `docs/results/tiny_zero.md` has three.
# - No room to explore: `zero.source.samples=2`, or `zero.source.sample.temperature=0.3`. What happens to `rollout/groups_kept`, the share
#   of groups whose rewards differ?
# - A larger learning rate: `zero.optim.learning_rate=3e-3`. `r1jax diagnose WORKDIR` says what went wrong
#   ([docs/diagnosis.md](../docs/diagnosis.md)).
# - The report: `WORKDIR/report.html` is one file with all of this.
# - Next: `inside_grpo.ipynb` takes the loss apart, `whole_recipe.ipynb` goes from here to R1.
