"""Decontamination: no training prompt that shares words in a row with an evaluation's question.

The R1 authors removed what shares a 10-gram of words with a question of an evaluation set (R1 Methods, on decontamination). A question
shorter than that has no 10-gram; it is compared as a whole, signs included, since 3+4 and 3-4 are other questions.

Prompts are looked at, not responses, and before anything is sampled from them. A short question that stands inside a longer prompt is
not found, nor is one in other words; and templates that all prompts share count as words, so `n` has to be longer than those.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from r1jax.rewards.repetition import words


class Index:
    """The questions of evaluation sets: 8 bytes of hash for each n-gram, with the set that had it first."""

    def __init__(self, n: int):
        if n < 1:
            raise ValueError(f'n={n} words must be at least 1')
        self.n = n
        self.sets: list[str] = []
        self._grams: dict[int, int] = {}  # hash -> index of the set

    def add(self, name: str, questions: Iterable[str]) -> None:
        """Adds the questions of a set, under a name."""
        self.sets.append(name)
        for question in questions:
            for gram in grams(question, self.n):
                self._grams.setdefault(gram, len(self.sets) - 1)

    def find(self, prompt: str) -> str | None:
        """The name of the first set that has a question in common with a prompt, None if none has."""
        found = [self._grams[gram] for gram in grams(prompt, self.n) if gram in self._grams]
        return self.sets[min(found)] if found else None


def grams(text: str, n: int) -> Iterator[int]:
    """Hashes, 64 bits, of a text's runs of n words, without signs; of a text of fewer words, of all of it with its signs."""
    all_ = words(unicodedata.normalize('NFKC', text))
    said = [word for word in all_ if word[0].isalnum()]
    if len(said) < n:
        yield _hash(['', *all_])
    for i in range(len(said) - n + 1):
        yield _hash(said[i : i + n])


def _hash(parts: Sequence[str]) -> int:
    return int.from_bytes(hashlib.blake2b('\0'.join(parts).encode('utf-8', 'replace'), digest_size=8).digest())
