"""Repetition: the share of n-grams that were said before, as a penalty (Yeo et al. 2025, arXiv 2502.03373, appendix on rewards).

In: a response. Out: a number in −1..0. Words are runs of letters and digits, lower case; each Han or Kana character is a word.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from r1jax.types import Problem, Response

_WORD = re.compile(r'[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+|[^\w\s]')


@dataclasses.dataclass(frozen=True)
class Repetition:
    """−(1 − distinct / all) over the n-grams of words and signs of a response; 0 if it is shorter than n.

    Short n-grams recur in any text and punish honest work with formulas: 20 words in a row do not.
    """

    n: int = 20

    def __post_init__(self):
        if self.n < 1:
            raise ValueError(f'n={self.n} must be at least 1')

    def __call__(self, problem: Problem, response: Response) -> float:
        return -repeated(words(response.text), self.n)


def words(text: str) -> list[str]:
    """The words and signs of a text, lower case."""
    return _WORD.findall(text.lower())


def repeated(words: Sequence[str], n: int) -> float:
    """The share of n-grams that occurred before, 0..1."""
    grams = [hash(tuple(words[i : i + n])) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
