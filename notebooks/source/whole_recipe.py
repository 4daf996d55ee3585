# %% [markdown]
# # The whole recipe
#
# R1 is not R1-Zero. On the way from one to the other are a cold start, RL for reasoning, rejection sampling, supervised training, two
# reward models, RL for all scenarios, and distillation. This notebook runs all thirteen stages in a tiny world of two languages, where
# people also ask for other things than sums, and draws what each is for.
#
# It is `experiments/tiny_r1_small.py`, whose stages take about six minutes on two idle cores; the same recipe with more room is
# `experiments/tiny_r1.py` (twenty minutes), whose committed results for three seeds are drawn at the end, and at the paper's sizes
# `experiments/r1_671b.py`.

# %% tags=["first"]
# the first cell

# %% tags=["parameters"]
import os

# The one parameter of all these notebooks. 'small': experiments/tiny_r1_small.py. 'full':
# experiments/tiny_r1.py. 'tiny': seconds, to see that every stage runs; nothing is learned then.
SIZE = os.environ.get('R1JAX_NOTEBOOK_SIZE', 'small')

# %%
from r1jax import settings

recipe = settings.load_recipe(ROOT / 'experiments' / ('tiny_r1.py' if SIZE == 'full' else 'tiny_r1_small.py'))
if SIZE == 'tiny':
    import tiny_r1_small  # `load_recipe` has put its folder on the path

    recipe = tiny_r1_small.nothing_learned()

print(f'{"stage":16}{"starts from":15}{"learns from":13}{"loss":15}{"steps":>6}')
for stage in recipe.stages:
    loss = type(stage.loss).__name__ if stage.loss else '-'
    print(f'{stage.name:16}{stage.start:15}{type(stage.source).__name__:13}{loss:15}{stage.steps or "":>6}')

# %% [markdown]
# Each row is data: where a stage starts, where its batches come from, which loss they meet. One loop runs them all. (Stages without steps
# last as long as their data.) Note what starts where: the cold start and the supervised stage go back to the *base*, as in the paper;
# what they inherit from R1-Zero and from the reasoning stage are samples, not weights.
#
# ## Run it

# %% tags=["progress"]
from r1jax.train.stage import run

WORKDIR = f'runs/notebook_whole_recipe_{SIZE}'
summary = run(recipe, WORKDIR)

# %% [markdown]
# ## Stage by stage
#
# Held-out sums: accuracy, and how much of the reasoning is in the language of the question.

# %%
import matplotlib.pyplot as plt

ORDER = ('zero', 'cold_start', 'reasoning_rl', 'sft', 'all_scenarios')


def reached(stages: dict) -> dict[str, dict]:
    """Label -> the evaluation of held-out sums: of the base, and after each stage that has one."""
    return {'base': stages['zero']['before']} | {name: stages[name]['evals']['held_out']['after'] for name in ORDER}


def draw(all_stages: list[dict], title: str) -> None:
    """pass@1 and language consistency after each stage, a bar a seed, with 95 % intervals."""
    _, axes = plt.subplots(1, 2, figsize=(13, 3), sharey=True, layout='constrained')
    for ax, key in zip(axes, ('pass@1', 'language_consistency'), strict=True):
        for i, stages in enumerate(all_stages):
            found = reached(stages)
            values = [each.get(key) or 0 for each in found.values()]
            ends = [each.get(f'{key}_ci') or (0, 0) for each in found.values()]
            errors = [[max(v - low, 0) for v, (low, _) in zip(values, ends, strict=True)],
                      [max(high - v, 0) for v, (_, high) in zip(values, ends, strict=True)]]  # fmt: skip
            wide = 0.8 / len(all_stages)
            at = [x + (i - (len(all_stages) - 1) / 2) * wide for x in range(len(found))]
            ax.bar(at, values, wide, yerr=errors, capsize=2, color=f'C{i}')
        ax.set(title=f'{title}: {key}', xticks=range(len(found)), ylim=(0, 1.05))
        ax.set_xticklabels(found, rotation=20)
    plt.show()


stages = summary['stages']
for name, found in reached(stages).items():
    language = found.get('language_consistency')
    print(
        f'{name:14} right {found["pass@1"]:6.1%}  in one language {language or 0:6.1%}  well-formed {found["format"]:6.1%}'
    )
draw([stages], recipe.name)

# %% [markdown]
# R1-Zero gets the accuracy and loses the language: nothing in its reward asks for one. The cold start and the language reward bring it
# back.
#
# ## The three stages of RL

# %%
from r1jax.report import workdir

course = {stage.name: stage for stage in workdir.read(WORKDIR).stages}
panels = {
    'reward/accuracy': 'accuracy',
    'rollout/tokens': 'tokens a response',
    'policy/kl': 'KL, nats a token',
    'reflection/mean': 'reflective words',
}
figure, axes = plt.subplots(1, len(panels), figsize=(15, 2.8), layout='constrained')
for ax, (path, title) in zip(axes, panels.items(), strict=True):
    for name in ('zero', 'reasoning_rl', 'all_scenarios'):
        ax.plot(*course[name].column(path), label=name)
    ax.set(title=title, xlabel='step')
axes[0].legend()
plt.show()

# %% [markdown]
# ## What rejection sampling kept
#
# Several samples a prompt; the right ones that are in one language, well-formed and not repeated. The data card counts the fates.

# %%
for name in ('cold_start_data', 'rejection'):
    fates = stages[name]['collected']['samples']
    print(name, ', '.join(f'{fate} {count:,}' for fate, count in fates.items() if count))

# %% [markdown]
# ## Reward models
#
# One for helpfulness (pairs), one for safety (labels), each measured on held-out judgements. Where they say 80 %, are they right in 80 %?

# %%
figure, ax = plt.subplots(figsize=(4, 3), layout='constrained')
ax.plot([0.5, 1], [0.5, 1], color='gray', lw=0.5)
for name in ('helpful_rm', 'safety_rm'):
    before, after = (stages[name]['evals']['held_out'][when] for when in ('before', 'after'))
    low, high = after['accuracy_ci']
    print(f'{name}: judges as its makers did {before["accuracy"]:.1%} -> {after["accuracy"]:.1%} [{low:.1%}, {high:.1%}], '
          f'calibration error {after["calibration_error"]:.3f}')  # fmt: skip
    bins = [each for each in after['reliability'] if each['count']]
    ax.plot([each['said'] for each in bins], [each['was'] for each in bins], 'o-', label=name)
ax.set(xlabel='said', ylabel='was')
ax.legend()
plt.show()

# %% [markdown]
# ## All scenarios
#
# General prompts are judged here by the rules that made the preferences, which no reward reads: helpfulness, refusing what is unsafe,
# answering what only looks unsafe.

# %%
for name, (part, what) in {
    'general': ('rule', 'helpful, by the rule'),
    'unsafe': ('refused', 'unsafe requests refused'),
    'harmless': ('answered', 'harmless ones answered'),
}.items():
    steps = {
        'base': stages['sft']['evals'][name]['before'],
        'sft': stages['all_scenarios']['evals'][name]['before'],
        'all_scenarios': stages['all_scenarios']['evals'][name]['after'],
    }
    print(f'{what:25}' + '  '.join(f'{stage} {found["parts"][part]["mean"]:.2f}' for stage, found in steps.items()))

# %% [markdown]
# ## Distillation against RL on the small model (the paper's Table 6)

# %%
for name, what in (('student_zero', 'RL on the small model'), ('distill', "the large one's samples")):
    found = stages[name]['evals']['held_out']['after']
    low, high = found['pass@1_ci']
    print(f'{what:25} pass@1 {found["pass@1"]:.1%} [{low:.1%}, {high:.1%}]')

# %% [markdown]
# ## Anything wrong?

# %%
from r1jax.report.diagnosis import diagnose

for finding in diagnose(WORKDIR):
    print(finding.lines())

# %% [markdown]
# ## The same with more room
#
# `experiments/tiny_r1.py`, three seeds, read from the committed `docs/results/tiny_r1.json` (its `.md` has the commands):

# %%
import json

full = json.loads((ROOT / 'docs' / 'results' / 'tiny_r1.json').read_text(encoding='utf-8'))['runs']
draw([each['stages'] for each in full], 'tiny_r1')
for name, what in (('student_zero', 'RL on the small model'), ('distill', "the large one's samples")):
    found = [each['stages'][name]['evals']['held_out']['after']['pass@1'] for each in full]
    print(f'{what:25} pass@1 ' + ', '.join(f'{value:.1%}' for value in found))

# %% [markdown]
# - `WORKDIR/report.html` has all of this and more in one file: the graph of the stages, samples, calibration, what to look at before a
#   reward is believed.
# - What each stage is in the papers: [docs/recipe.md](../docs/recipe.md).
# - Ablations: `experiments/tiny_r1_no_cold_start.py`, `tiny_r1_no_language.py`, `tiny_r1_hacked.py`.
