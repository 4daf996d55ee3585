# %% [markdown]
# # R1-Zero on Qwen2.5-1.5B with GSM8K, on a Colab TPU
#
# Pure RL on a released base model: adapters (LoRA) of rank 32 on Qwen2.5-1.5B, held in bfloat16, learn grade-school mathematics from two
# rules, accuracy and format. The recipe is `experiments/zero_qwen_1_5b_lora.py`, made for one chip of 16 GB: a TPU v5e, which Colab lends
# (Runtime → Change runtime type → v5e-1 TPU).
#
# **The outputs below are not of Qwen.** They were made on a CPU with `SIZE = 'tiny'`: the same code with a stand-in of Qwen's
# architecture with random weights, and eight problems in GSM8K's files. They show that all of it runs. The full size has not been run
# yet.

# %% tags=["first"]
# the first cell

# %% tags=["parameters"]
import os

# The one parameter of all these notebooks. 'full': Qwen2.5-1.5B and GSM8K on a TPU v5e (or a GPU of 16 GB). 'tiny': a stand-in with random
# weights, in seconds on a CPU.
SIZE = os.environ.get('R1JAX_NOTEBOOK_SIZE', 'full')

# %% [markdown]
# ## What there is

# %%
import subprocess
import sys

if SIZE == 'full':
    # jax for the accelerator that is here, and the hub's downloader; on a TPU runtime of Colab both are there already
    extra = 'tpu' if os.path.exists('/dev/vfio/0') or os.path.exists('/dev/accel0') else 'cuda12'
    subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', f'jax[{extra}]>=0.10', 'huggingface_hub'], check=True)

import jax

print(jax.device_count(), jax.devices()[0].platform)

# %% [markdown]
# ## Weights and problems
#
# r1jax downloads nothing by itself. Weights are a Hugging Face folder, problems a copy of the set's repository: 3 GB and 5 MB.

# %%
import json
import pathlib

WEIGHTS, GSM8K = f'weights/{SIZE}/', f'data/gsm8k_{SIZE}'


def download() -> None:
    from huggingface_hub import snapshot_download

    snapshot_download('Qwen/Qwen2.5-1.5B', local_dir=WEIGHTS)
    snapshot_download('openai/gsm8k', repo_type='dataset', local_dir=GSM8K)


def stand_in() -> None:
    """The same files in small: problems like GSM8K's, and a model of Qwen2.5's architecture with random weights."""
    import dataclasses

    from r1jax.data.template import INSTRUCTION
    from r1jax.data.tokenizer import SentencePiece, train_sentencepiece
    from r1jax.nn.transformer import init_boxed, unbox
    from r1jax.presets import named
    from r1jax.weights import export

    folder = pathlib.Path(GSM8K, 'main')
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            'question': f'Ann has {a} apples and buys {b} more. How many has she?',
            'answer': f'{a} + {b} = {a + b}.\n#### {a + b}',
        }
        for a, b in [(2, 3), (4, 1), (5, 7), (8, 6), (3, 9), (10, 2), (6, 6), (7, 4)]
    ]
    for split, part in (('train', rows[:6]), ('test', rows[6:])):
        (folder / f'{split}-00000.jsonl').write_text('\n'.join(map(json.dumps, part)), encoding='utf-8')
    head = '---\nconfigs:\n- config_name: main\n  data_files:\n'
    files = ''.join(f'  - split: {split}\n    path: main/{split}-*\n' for split in ('train', 'test'))
    pathlib.Path(GSM8K, 'README.md').write_text(head + files + '---\n', encoding='utf-8')

    path = pathlib.Path('weights', 'letters.model')
    path.parent.mkdir(exist_ok=True)
    texts = [f'User: {row["question"]} {row["answer"]} Assistant: <think> </think> <answer> </answer>' for row in rows]
    train_sentencepiece([INSTRUCTION, *texts * 4], path, 128, (INSTRUCTION,))
    model = dataclasses.replace(
        named('Qwen2.5-1.5B'), vocab=128, layers=2, width=32, heads=2, kv_heads=1, head_dim=16, hidden=64
    )
    params = jax.device_get(unbox(init_boxed(model, jax.random.key(0))))
    export.write(WEIGHTS, export.Held(model, params, SentencePiece(path)))


if not pathlib.Path(WEIGHTS, 'config.json').exists():
    {'full': download, 'tiny': stand_in}[SIZE]()
print(sorted(path.name for path in pathlib.Path(WEIGHTS).iterdir() if path.suffix == '.json'))

# %% [markdown]
# ## The recipe
#
# From the experiment: GSM8K alone to learn from and to be measured on, shorter responses, fewer steps; everything else stays. `override`
# takes what `--set` takes on the command line; functions and data sets are changed in Python.

# %%
import dataclasses

from r1jax import settings
from r1jax.config import Eval
from r1jax.data.sets import Named
from r1jax.rewards import mathematics

recipe = settings.load_recipe(ROOT / 'experiments' / 'zero_qwen_1_5b_lora.py')
(zero,) = recipe.stages
rewards = zero.source.rewards
measured = Eval(
    'gsm8k',
    Named('gsm8k', GSM8K, split='test', limit=128),
    rewards,
    mathematics.final,
    samples=4,
    sample=dataclasses.replace(zero.source.sample, temperature=0.6, top_p=0.95),
    every=20,
)
zero = dataclasses.replace(
    zero,
    start=WEIGHTS,
    source=dataclasses.replace(zero.source, problems=Named('gsm8k', GSM8K)),
    evals=(measured,),
)
recipe = dataclasses.replace(recipe, stages=(zero,))

# A rollout: 16 questions by 16 samples of at most 512 tokens. Rows of a multiple of 128 tokens suit the attention kernel of TPUs
FULL = [
    'zero.steps=100',
    'zero.source.questions=16',
    'zero.source.sample.max_tokens=512',
    'zero.source.sample.max_prompt=512',
    'zero.evals.gsm8k.sample.max_tokens=512',
    'zero.evals.gsm8k.sample.max_prompt=512',
    'zero.rows.prompts=512',
    'zero.rows.block=512',
    'zero.rows.length=2560',
]
TINY = [
    'zero.steps=2',
    'zero.source.questions=2',
    'zero.source.samples=4',
    'zero.source.sample.slots=8',
    'zero.source.sample.max_tokens=32',
    'zero.source.sample.max_prompt=96',
    'zero.evals.gsm8k.samples=2',
    'zero.evals.gsm8k.sample.slots=8',
    'zero.evals.gsm8k.sample.max_tokens=32',
    'zero.evals.gsm8k.sample.max_prompt=96',
    'zero.evals.gsm8k.every=0',
    'zero.rows.prompts=96',
    'zero.rows.block=32',
    'zero.rows.length=224',
    'zero.lora.rank=4',
]
recipe = settings.override(recipe, {'full': FULL, 'tiny': TINY}[SIZE])
if SIZE == 'tiny':
    recipe = dataclasses.replace(recipe, model=None)  # that of the stand-in
zero = recipe.stages[0]
print(
    f'{zero.steps} steps; a rollout: {zero.source.questions} questions by {zero.source.samples} samples of at most {zero.source.sample.max_tokens} tokens'
)
print(
    f'LoRA of rank {zero.lora.rank} on {", ".join(zero.lora.targets)}; base in {zero.lora.base}; learning rate {zero.optim.learning_rate}'
)

# %% [markdown]
# What a question looks like to the model, and what is right:

# %%
problem = zero.source.problems.load()[0]
print(recipe.template(problem))
print('->', problem.answer)

# %% [markdown]
# ## Run it
#
# Colab may take the machine away. The workdir has a checkpoint every 20 steps: put it on a drive that stays (`/content/drive/…`), and the
# same cell goes on from there.

# %% tags=["progress"]
from r1jax.train.stage import run

WORKDIR = f'runs/notebook_r1_zero_colab_{SIZE}'
summary = run(recipe, WORKDIR)

# %% [markdown]
# ## Before and after

# %%
for when in ('before', 'after'):
    found = summary['stages']['zero'][when]
    low, high = found['pass@1_ci']
    print(
        f'{when:7} pass@1 {found["pass@1"]:.3f} [{low:.3f}, {high:.3f}]  {found["response_tokens"]:6.1f} tokens  well-formed {found["format"]:.3f}'
    )

# %%
import matplotlib.pyplot as plt

from r1jax.report import workdir

(stage,) = workdir.read(WORKDIR).stages
panels = {
    'reward/accuracy': 'accuracy',
    'reward/format': 'well-formed',
    'rollout/tokens': 'tokens a response',
    'policy/kl': 'KL to the base, nats a token',
}
figure, axes = plt.subplots(1, len(panels), figsize=(15, 2.8), layout='constrained')
for ax, (path, title) in zip(axes, panels.items(), strict=True):
    ax.plot(*stage.column(path), 'o-')
    ax.set(title=title, xlabel='step')
plt.show()

# %% [markdown]
# ## Is anything wrong?

# %%
from r1jax.report.diagnosis import diagnose

for finding in diagnose(WORKDIR):
    print(finding.lines())

# %% [markdown]
# ## Take it with you
#
# The adapters alone, as a folder for PEFT, or merged into the base, for transformers and vLLM: `r1jax export WORKDIR FOLDER [--adapter]`.
# From Python:

# %%
from r1jax.train import restore
from r1jax.weights import families, peft

found = restore.adapters(WORKDIR)
folder = pathlib.Path(f'{WORKDIR}_adapter')
if not folder.exists():
    peft.write(str(folder), found.params, found.lora, families.names(found.model), WEIGHTS, None)
for path in sorted(folder.iterdir()):
    print(path.name)

# %% [markdown]
# - All weights instead of adapters, on eight chips: `experiments/zero_qwen_1_5b.py`. What a recipe needs of chips that are not here:
#   `r1jax plan experiments/zero_qwen_1_5b_lora.py --topology v5e:1x1`.
# - With more than one chip here: `settings.override(recipe, ['mesh.data=4', 'zero.rows.per_microbatch=4'])`.
