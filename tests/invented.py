"""An invented run for the report, and its page as a reader sees it.

To look at it: `python tests/invented.py DIR` makes the workdir with its report in DIR.
"""

import html.parser
import json
import math
import os
import re
import sys

import numpy as np

from r1jax import report
from r1jax.evals import results
from r1jax.evals.kept import Kept, grid
from r1jax.evals.metrics import summarise
from r1jax.train.log import Log, write_summary

TEMPLATE = (
    'A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant '
    'first thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning '
    'process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., <think> '
    'reasoning process here </think> <answer> answer here </answer>. User: {}. Assistant:'
)


def evaluation(rng, right, worked, tokens, questions=100, count=16, gain=0.0):
    """EVAL of invented answers: accuracy and tokens of (worked, direct) ones, and the share of worked ones."""
    hard = rng.beta(5, 5, (questions, 1)) - 0.5
    long = rng.random((questions, count)) < worked
    correct = rng.random((questions, count)) < np.where(long, right[0], right[1]) + 0.3 * hard * (1 - gain)
    answers = [['7' if c else str(rng.integers(10)) for c in row] for row in correct]
    length = np.where(long, tokens[0], tokens[1]) + rng.integers(-3, 4, long.shape)
    formatted = rng.random(long.shape) < 0.88 + 0.11 * gain
    modes = [['worked' if w else 'direct' for w in row] for row in long]
    return summarise(correct, answers, length, formatted, rng.random(long.shape) < 0.99, modes)


def completions(rng, right, worked, when, step=None):
    for question in range(4):
        digits = rng.integers(1, 10, 6)
        total, steps = 0, []
        for digit in digits:
            total = (total + int(digit)) % 10
            steps.append(f'+{digit}={total}')
        for sample in range(2):
            ok, long = rng.random() < right, rng.random() < worked
            answer = total if ok else (total + 3) % 10
            think = ' '.join(steps) + ('' if sample else f'\nwait, check: {total}. ok') if long else ''
            yield {
                'question': question,
                'prompt': TEMPLATE.format('+'.join(map(str, digits)) + ' mod 10'),
                'completion': f'<think>{think}</think> <answer>{answer}</answer>',
                'answer': str(total),
                'tokens': 40 if long else 9,
                'finished': True,
                'reward': 2.0 if ok else 1.0,
                'parts': {'accuracy': float(ok), 'format': 1.0},
                'when': when,
                'eval': 'held_out',
            }


def invent(workdir, base_steps=1200, zero_steps=60, finished=True):
    """A workdir as tiny_zero leaves it: pretraining, then R1-Zero that finds thinking."""
    rng = np.random.default_rng(0)
    os.makedirs(workdir, exist_ok=True)
    before = evaluation(rng, (0.68, 0.14), 0.3, (36, 8))
    after = evaluation(rng, (0.94, 0.2), 0.99, (38, 9), gain=1.0)
    with Log(workdir) as log:
        for step in range(1, base_steps + 1):
            loss = 0.62 + 2.4 * math.exp(-step / 90) + 0.03 * rng.standard_normal()
            rate = 2e-3 * min(1, step / 50) * (0.55 + 0.45 * math.cos(math.pi * step / base_steps))
            values = {
                'loss': loss,
                'grad_norm': 0.4 + rng.gamma(2, 0.1),
                'learning_rate': rate,
                'tokens': 3400 + rng.integers(200),
            }
            log.metrics('base', step, 0.09 * step, values | {'tokens_per_second': 36000 + 900 * rng.standard_normal()})
        log.samples('zero', 0, list(completions(np.random.default_rng(5), 0.3, 0.3, 'before')))
        for step in range(1, (zero_steps if finished else zero_steps // 3) + 1):
            p = 1 / (1 + math.exp(-(step / zero_steps - 0.35) * 9))
            accuracy = float(np.clip(0.3 + 0.64 * p + 0.025 * rng.standard_normal(), 0, 1))
            shaped = float(np.clip(0.89 + 0.1 * p + 0.01 * rng.standard_normal(), 0, 1))
            values = {
                'reward/mean': accuracy + shaped,
                'reward/std': 0.25 + math.sqrt(accuracy * (1 - accuracy)),
                'reward/accuracy': accuracy,
                'reward/format': shaped,
                'rollout/tokens': 16 + 22 * p + 0.5 * rng.standard_normal(),
                'rollout/truncated': 0.02 * (1 - p) + 0.002 * rng.random(),
                'rollout/groups_kept': 1 - round(9 * p) / 16,
                'policy/kl': 0.12 * p + 0.003 * rng.random(),
                'policy/entropy': 0.5 - 0.3 * p + 0.01 * rng.standard_normal(),
                'policy/clip_fraction': 0.002 + 0.004 * rng.random(),
                'policy/sampler_gap_max': 10 ** rng.uniform(-5.8, -5.2),
                'policy/sampler_gap_mean': 10 ** rng.uniform(-7.3, -7.0),
                'policy/skipped': int(step == 17),
                'loss': math.nan if step == 17 else 0.02 * rng.standard_normal(),
                'grad_norm': 0.5 + rng.gamma(2, 0.15),
                'learning_rate': 3e-4,
                'tokens_per_second': 5200 + 900 * p + 120 * rng.standard_normal(),
                'time/sample': 1.4 + p,
                'time/score': 0.02,
                'time/train': 1.1 + p,
            }
            if step % 20 == 0:
                share = evaluation(rng, (0.68 + 0.26 * p, 0.15), 0.3 + 0.69 * p, (37, 8), questions=50, gain=p)
                keys = ('pass@1', 'pass@1_ci', 'response_tokens', 'format')
                values |= {f'eval/held_out/{key}': share[key] for key in keys}
            log.metrics('zero', step, 3.1 * step, values)
            log.samples('zero', step, list(completions(rng, accuracy, 0.3 + 0.7 * p, 'rollout')))
        if finished:
            log.samples('zero', zero_steps, list(completions(np.random.default_rng(5), 0.97, 1.0, 'after')))
    capped = {'capped_at': 17}
    others = {
        'one_term_longer': (
            evaluation(rng, (0.5, 0.12), 0.3, (42, 8)),
            evaluation(rng, (0.83, 0.1), 0.98, (44, 9), gain=0.8),
        ),
        'capped': (
            evaluation(rng, (0.3, 0.14), 0.3, (16, 8)) | capped,
            evaluation(rng, (0.2, 0.14), 0.9, (16, 9)) | capped,
        ),
    }
    results = {'held_out': (before, after), **others}
    evals = {name: {'before': b} | ({'after': a} if finished else {}) for name, (b, a) in results.items()}
    zero = {'steps': zero_steps, 'seconds': 3.1 * zero_steps} if finished else {}
    stages = {
        'base': {'steps': base_steps, 'seconds': 0.09 * base_steps},
        'zero': {**zero, **evals['held_out'], 'evals': evals},
    }
    write_summary(workdir, {'recipe': 'tiny_zero', 'seed': 0, 'stages': stages})
    optim = {'learning_rate': 3e-4, 'clip_norm': 1.0}
    recipe = {
        'name': 'tiny_zero',
        'seed': 0,
        'stages': [
            {'name': 'base', 'steps': base_steps, 'start': 'init', 'source': {'batch': 64}, 'loss': {}, 'optim': optim},
            {
                'name': 'zero',
                'steps': zero_steps,
                'start': 'base',
                'source': {
                    'problems': {},
                    'questions': 16,
                    'samples': 16,
                    'sample': {'max_tokens': 64, 'temperature': 1.0},
                },
                'loss': {'clip_low': 0.2, 'clip_high': 0.2, 'beta': 0.001, 'normalise': 'grpo'},
                'optim': optim,
            },
        ],
    }
    config = {
        'recipe': recipe,
        'command': ['r1jax', 'run', 'experiments/tiny_zero.py', '--workdir', 'runs/tiny_zero'],
        'git_commit': '0123abc',
        'versions': {'python': '3.11.2', 'jax': '0.10.2', 'flax': '0.12.8'},
    }
    with open(os.path.join(workdir, 'config.json'), 'w') as file:
        json.dump(config, file)


EVIL = '<think>It is </script><script>document.title = "taken"</script> & <b>bold</b>'
WORDS = ('add them', 'wait, check that', '先加起来', 'it is plain')


def short(workdir, seed=0, steps=12, rate=3e-4, stages=('zero', 'reasoning_rl'), named='aime24'):
    """A small workdir of RL, with samples that differ in every part of their reward, and an evaluation called as a benchmark.

    Step s of a stage logged questions s and s + 1, two samples each: the first right, in form and in one language, the second not;
    that of question 3 is cut off and hostile.
    """
    rng = np.random.default_rng(seed)
    with Log(workdir) as log:
        for stage in stages:
            for step in range(1, steps + 1):
                values = {
                    'reward/mean': step / steps + 0.1 * seed, 'reward/accuracy': step / steps, 'reward/format': 1.0,
                    'rollout/tokens': 20.0 * step, 'reflection/mean': 0.1 * step, 'reflection/share': step / (2 * steps),
                    'rollout/samples': 4, 'rollout/grader_errors': 0, 'loss': float(rng.normal()),
                }  # fmt: skip
                if step % 4 == 0:
                    values |= {'eval/aime24/pass@1': step / 20, 'eval/aime24/pass@1_ci': [step / 25, step / 18]}
                log.metrics(stage, step, 2.0 * step, values)
                log.samples(
                    stage, step, [{'when': 'rollout', **each} for q in (step, step + 1) for each in answered(q)]
                )
    result = {'questions': 30, 'samples': 4, 'pass@1': 0.4 + 0.1 * seed, 'pass@1_ci': [0.3, 0.5 + 0.1 * seed],
              'cons@4': 0.6, 'cons@4_ci': [0.5, 0.7], 'response_tokens': 80.0, 'truncated': 0.25}  # fmt: skip
    entry = {'steps': steps, 'seconds': 2.0 * steps, 'evals': {named: {'before': result | {'pass@1': 0.1, 'pass@1_ci': [0.0, 0.2]},
                                                                      'after': result}}}  # fmt: skip
    write_summary(workdir, {'recipe': 'short', 'seed': seed, 'stages': dict.fromkeys(stages, entry)})
    recipe = {'name': 'short', 'seed': seed, 'stages': [
        {'name': stage, 'steps': steps, 'start': 'base', 'loss': {'beta': 0.001}, 'optim': {'learning_rate': rate},
         'source': {'questions': 2, 'samples': 2, 'rewards': [{'name': 'accuracy', 'weight': 1.0}]}} for stage in stages
    ]}  # fmt: skip
    with open(os.path.join(workdir, 'config.json'), 'w') as file:
        json.dump({'recipe': recipe, 'command': ['r1jax', 'run']}, file)


def answered(question):
    """Two samples of a question as `Log.samples` takes them."""
    same = {
        'question': question,
        'prompt': f'Sum {question}: {question} + 1 = ?',
        'answer': str(question + 1),
        'outcome': 'graded',
    }
    thought = WORDS[question % len(WORDS)]
    yield same | {
        'completion': f'<think>{thought}</think> <answer>{question + 1}</answer>', 'tokens': 10 + question, 'finished': True,
        'reward': 3.0, 'parts': {'accuracy': 1.0, 'format': 1.0, 'language': 1.0},
    }  # fmt: skip
    if question == 4:  # a tool was called
        yield same | {
            'completion': 'call 4 + 1\nit is 6', 'turns': ['<think>call it</think> call 4 + 1', 'the tool says 5', 'it is 6'],
            'tokens': 5, 'finished': True, 'reward': 0.25, 'parts': {'accuracy': 0.0, 'format': 0.0, 'language': 0.25},
        }  # fmt: skip
        return
    hostile = question == 3
    yield same | {
        'completion': EVIL if hostile else f'The number {question}', 'tokens': 5, 'finished': not hostile,
        'reward': 0.25, 'parts': {'accuracy': 0.0, 'format': 0.0, 'language': 0.25},
    }  # fmt: skip


def evaluated(folder, checkpoint, right=2, questions=3, k=4, benchmark='math500'):
    """A folder as `r1jax eval` leaves it: `right` of the `k` samples of each question are right."""
    whose = {'what': checkpoint, 'weights': f'{hash(checkpoint) & 0xFFFFFFFF:08x}'}
    with Kept(folder, benchmark, whose | {'data': 'd'}) as kept:
        for question in range(questions):
            for sample in range(k):
                one = next(iter(answered(question))) | {
                    'parts': {'accuracy': float(sample < right)},
                    'vote': str(sample < right),
                }
                kept.add({'sample': sample, 'kind': 'math', 'detail': '', **one})
        rows = grid(kept.lines(), range(questions), k, str(kept.path))
    found = results.entry(benchmark, results.figures(rows, results.powers(k)), whose)
    results.write(folder, whose, {benchmark: found})


class Page(html.parser.HTMLParser):
    """Checks that every tag is closed, and keeps what a test asks for."""

    VOID = {'meta', 'br', 'line', 'circle', 'polyline', 'polygon', 'path', 'rect', 'input'}  # without an end

    def __init__(self, source):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(source)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ('script', 'style'):
            self.words.append(data)

    @property
    def said(self):
        return re.sub(r'\s+', ' ', ''.join(self.words))


def written(workdir):
    with open(report.write(str(workdir)), encoding='utf-8') as file:
        return file.read()


def browsed(source):
    """What the samples browser of a page reads."""
    return json.loads(
        re.search(r'<script type="application/json" id="sample-data">(.*?)</script', source, re.DOTALL)[1]
    )


if __name__ == '__main__':
    invent(sys.argv[1])
    print(report.write(sys.argv[1]))
