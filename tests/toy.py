"""A small experiment without data or weights, on which settings, checks and the command line are tested."""

import dataclasses

from r1jax.config import (
    GRPO,
    NLL,
    Eval,
    ModelConfig,
    OnPolicy,
    OptimConfig,
    Part,
    Phase,
    Recipe,
    RowConfig,
    SampleConfig,
    Stage,
    Stored,
)
from r1jax.types import Example, Problem, Response

MODEL = ModelConfig(vocab=64, layers=1, width=32, heads=4, kv_heads=2, head_dim=8, hidden=64, context=64)


@dataclasses.dataclass(frozen=True)
class Questions:
    size: int = 4
    terms: tuple[int, int] = (2, 5)
    prompt: str = '1+1='

    def load(self) -> list[Problem]:
        return [Problem(i, self.prompt, '2') for i in range(self.size)]


@dataclasses.dataclass(frozen=True)
class Texts:
    size: int = 4

    def load(self) -> list[Example]:
        return [Example('1+1=', '2')] * self.size


@dataclasses.dataclass(frozen=True)
class Letters:
    """A token a character."""

    vocab_size = 64
    eos = 0
    pad = 0

    def load(self, directory: str) -> 'Letters':
        return self

    def encode(self, text: str) -> list[int]:
        return [1 + ord(letter) % 63 for letter in text]


def accuracy(problem: Problem, response: Response) -> float:
    return float(response.text == problem.answer)


def template(problem: Problem, tokenizer) -> str:
    return problem.prompt


def answer(text: str) -> str:
    return text


def recipe() -> Recipe:
    rows, rewards = RowConfig(length=64), (Part('accuracy', accuracy), Part('format', accuracy, weight=0.5))
    base = Stage('base', 4, Stored(Texts(), batch=8), NLL(), OptimConfig(1e-3), rows)
    zero = Stage(
        name='zero',
        start='base',
        steps=4,
        source=OnPolicy(Questions(), SampleConfig(16, max_prompt=16, slots=16), rewards, questions=4, samples=4),
        loss=GRPO(),
        optim=OptimConfig(1e-4),
        rows=rows,
        phases=(Phase(2, max_tokens=8),),
        evals=(Eval('held_out', Questions(), rewards, answer, samples=4),),
    )
    return Recipe('toy', (base, zero), template, MODEL, Letters())
