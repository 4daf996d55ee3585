"""Duplicates: what says the same as something that was kept before. The only door to datasketch.

Two texts are exact duplicates if they are equal but for spaces and Unicode's ways of writing; near ones if the Jaccard similarity of
their sets of shingles (runs of a few words and signs) reaches a threshold (Broder 1997). MinHash with locality-sensitive hashing finds
candidates among all that was kept, and each is read again and compared exactly: so it is certain that what is removed is similar, and
likely (see `WEIGHTS`) that what is similar is removed.

Who comes first stays; nothing depends on anything but the texts and their order. Memory grows with what is kept, not with what is
looked at: 5 kB an example (measured at a threshold of 0.8, 14 bands of 9 numbers), 100 bytes without near ones. The texts themselves
stay with the caller.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable
from typing import Literal

from r1jax.rewards.repetition import words

# Weights of needless candidates and of missed pairs in the choice of bands: candidates are compared exactly, and cost a read each
WEIGHTS = (0.1, 0.9)


class Seen:
    """An index of the texts that were kept.

    Args:
      threshold: of the Jaccard similarity, from which on two texts are near duplicates; 0: only exact ones are looked for.
      shingle: words and signs a shingle.
      permutations: numbers a MinHash.
      read: the text that was kept under a number.
    """

    def __init__(self, threshold: float, shingle: int, permutations: int, read: Callable[[int], str]):
        self.threshold, self.shingle, self.read = threshold, shingle, read
        self._exact: set[bytes] = set()
        self._lsh = self._empty = None
        if threshold:
            from datasketch import MinHash, MinHashLSH  # here, since it brings half a second of scipy

            self._lsh = MinHashLSH(threshold, permutations, WEIGHTS, hashfunc=_digest)
            self._empty = MinHash(permutations, seed=1)

    def repeats(self, text: str) -> Literal['exact', 'near'] | None:
        """How a text repeats one that was kept."""
        if _digest(_plain(text).encode('utf-8', 'replace')) in self._exact:
            return 'exact'
        if self._lsh is None:
            return None
        own = shingles(text, self.shingle)
        candidates = sorted(self._lsh.query(self._sketch(own)))
        near = (similarity(own, shingles(self.read(number), self.shingle)) for number in candidates)
        return 'near' if any(value >= self.threshold for value in near) else None

    def add(self, number: int, text: str) -> None:
        """A text is kept, and can be read again by this number."""
        self._exact.add(_digest(_plain(text).encode('utf-8', 'replace')))
        if self._lsh is not None:
            self._lsh.insert(number, self._sketch(shingles(text, self.shingle)))

    def _sketch(self, found: set[str]):
        sketch = self._empty.copy()
        sketch.update_batch([each.encode('utf-8', 'replace') for each in found])
        return sketch


def shingles(text: str, n: int) -> set[str]:
    """The runs of n words and signs of a text; of a shorter one, all of it."""
    said = words(_plain(text))
    return {' '.join(said[i : i + n]) for i in range(max(len(said) - n, 0) + 1)}


def similarity(a: set[str], b: set[str]) -> float:
    """|a ∩ b| / |a ∪ b|."""
    common = len(a & b)
    return common / (len(a) + len(b) - common)


def _plain(text: str) -> str:
    return ' '.join(unicodedata.normalize('NFKC', text).split())


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=12).digest()
