"""Reflection: the words with which a chain of thought looks back at itself, counted to watch whether RL brings them forth.

The English ones are those that the authors counted over R1-Zero's training (R1 Methods, Extended Data Fig. 1). The Chinese ones are
ours: what R1's Chinese chains say in their place (等等 also means "and so on", so a few of them reflect nothing).

Only the standard library is used here: a report is written where nothing else need be installed.
"""

from __future__ import annotations

import collections
import re
import unicodedata
from collections.abc import Sequence

WORDS = {
    'en': ('wait', 'mistake', 'however', 'but', 'retry', 'error', 'verify', 'wrong', 'evaluate', 'check'),
    'zh': ('等等', '等一下', '错误', '不对', '然而', '但是', '重试', '验证', '检查', '评估', '再看'),
}
# A word ends where another script or a digit begins: \b would not see one between 再 and wait, both being letters
PATTERN = re.compile(rf'(?<![a-z])(?:{"|".join(WORDS["en"])})(?![a-z])|{"|".join(WORDS["zh"])}')


def words(text: str) -> collections.Counter[str]:
    """How often a text has each reflective word, of all languages, since reasoning may mix them. Inflected forms do not count."""
    return collections.Counter(PATTERN.findall(plain(text)))


def count(text: str) -> int:
    """How many reflective words a text has."""
    return words(text).total()


def plain(text: str) -> str:
    """A text as `PATTERN` reads it: lower case, full-width letters as others."""
    return unicodedata.normalize('NFKC', text).lower()


def metrics(texts: Sequence[str]) -> dict[str, float]:
    """Of the responses of a rollout: `reflection/mean`, reflective words a response; `reflection/share`, of the responses that have
    one; and `reflection/WORD`, a response, for each that occurred.

    Raises:
      ValueError: no texts.
    """
    if not texts:
        raise ValueError('reflective words a response: there are no responses')
    each = [words(text) for text in texts]
    total = sum(each, collections.Counter())
    return {
        'reflection/mean': total.total() / len(texts),
        'reflection/share': sum(map(bool, each)) / len(texts),
        **{f'reflection/{word}': total[word] / len(texts) for word in sorted(total)},
    }
