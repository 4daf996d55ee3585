"""A search over local text, as a stand-in for the world's: paragraphs ranked by BM25 (Robertson and Zaragoza, 2009).

    score(q, d) = Σ_t∈q idf(t) · f(t,d)·(k1 + 1) / (f(t,d) + k1·(1 − b + b·|d|/mean|d|)),  idf(t) = ln(1 + (N − n(t) + ½)/(n(t) + ½))

f(t,d) counts word t in paragraph d, n(t) the paragraphs that have it, N all. k1 = 1.2, b = 0.75.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import os
import re

from r1jax.environments.tools import ToolError
from r1jax.types import Problem

K1, B = 1.2, 0.75
_WORD = re.compile(r'\w+')


@dataclasses.dataclass(frozen=True)
class Search:
    """Finds the paragraphs of a local text that fit a query best."""

    path: str  # of a text file, whose paragraphs are separated by empty lines
    name: str = 'search'
    results: int = 3  # paragraphs that are returned at most

    def __post_init__(self):
        if self.results < 1:
            raise ValueError(f'Search.results={self.results} must be at least 1')

    def warm(self) -> None:
        """Reads the text. Raises ValueError where there is none."""
        self._index()

    def __call__(self, problem: Problem, query: str) -> str:
        found = self._index().best(query, self.results)
        if not found:
            raise ToolError('nothing was found')
        return '\n\n'.join(f'[{i}] {text}' for i, text in enumerate(found, 1))

    def _index(self) -> Index:
        try:
            return _read(self.path, os.stat(self.path).st_mtime_ns)
        except OSError as error:
            raise ValueError(f'Search.path={self.path!r} cannot be read: {error.strerror}') from error


class Index:
    """Paragraphs, by their words."""

    def __init__(self, paragraphs: list[str]):
        self.paragraphs = paragraphs
        self.counts = [collections.Counter(_words(each)) for each in paragraphs]
        self.sizes = [sum(each.values()) for each in self.counts]
        self.mean = sum(self.sizes) / len(self.sizes)
        self.having = collections.Counter(word for each in self.counts for word in each)

    def best(self, query: str, count: int) -> list[str]:
        """The paragraphs that score highest, none of score 0; of equals the first."""
        words = dict.fromkeys(_words(query))
        scores = [self._score(words, i) for i in range(len(self.paragraphs))]
        order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
        return [self.paragraphs[i] for i in order[:count] if scores[i] > 0]

    def _score(self, words: dict[str, None], i: int) -> float:
        score, N = 0.0, len(self.paragraphs)
        for word in words:
            if f := self.counts[i][word]:
                n = self.having[word]
                idf = math.log(1 + (N - n + 0.5) / (n + 0.5))
                score += idf * f * (K1 + 1) / (f + K1 * (1 - B + B * self.sizes[i] / self.mean))
        return score


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


@functools.lru_cache(4)
def _read(path: str, changed: int) -> Index:
    """The index of a file as it was at `changed`."""
    with open(path, encoding='utf-8') as file:
        paragraphs = [each.strip() for each in re.split(r'\n\s*\n', file.read()) if each.strip()]
    if not paragraphs:
        raise ValueError(f'Search.path={path!r} has no text')
    return Index(paragraphs)
