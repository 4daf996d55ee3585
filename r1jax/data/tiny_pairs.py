"""Pairs of answers in the tiny world (`r1jax.data.tiny`), for learning from preferences: of two authors the one is right."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

from r1jax.data.tiny import WELL_FORMED, WORDS, TinySums, check_shares, guess, steps
from r1jax.types import Pair


@dataclasses.dataclass(frozen=True)
class TinyPairs:
    """An answer that works its sum out without a slip, and one that is wrong: it slipped on its way, or guessed.

    Both are well-formed, so what they differ in is how they came to their answers.
    """

    problems: TinySums = dataclasses.field(default_factory=TinySums)
    seed: int = 0
    guessed: float = 0.5  # share of the rejected answers that guess; the others slip once or more

    def __post_init__(self):
        check_shares(self, 'guessed')

    def load(self) -> Sequence[Pair]:
        """A pair a question, the same at each call."""
        rng, pairs = random.Random(f'pairs {self.seed}'), []
        for problem in self.problems.load():
            digits = [int(d) for d in problem.prompt.partition('=')[0].split('+')]
            chosen, _ = _worked(rng, digits, 0.0)
            rejected, answer = '', int(problem.answer)
            while answer == int(problem.answer):
                if rng.random() < self.guessed:
                    answer = guess(rng, digits, 0.0)
                    rejected = _laid_out(rng.choice(WORDS['en']['thin']), answer)
                else:
                    rejected, answer = _worked(rng, digits, 0.3)
            pairs.append(Pair(problem, chosen, rejected))
        return pairs


def _worked(rng: random.Random, digits: Sequence[int], slip: float) -> tuple[str, int]:
    said, total = steps(rng, digits, slip, False)
    return _laid_out(''.join(f' {text}' for text, _ in said), total), total


def _laid_out(think: str, answer: int) -> str:
    return WELL_FORMED.replace('THINK', think).replace('ANSWER', f' {answer}')
