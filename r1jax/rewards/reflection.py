"""Reflection: the words with which a chain of thought looks back at itself.

The English ones are those that the authors counted over R1-Zero's training (R1 Methods, Extended Data Fig. 1). The Chinese ones are
ours: what R1's Chinese chains say in their place.
"""

from __future__ import annotations

import re
import unicodedata

WORDS = {
    'en': ('wait', 'mistake', 'however', 'but', 'retry', 'error', 'verify', 'wrong', 'evaluate', 'check'),
    'zh': ('等等', '等一下', '错误', '不对', '然而', '但是', '重试', '验证', '检查', '评估', '再看'),
}
_ALL = re.compile(rf'\b(?:{"|".join(WORDS["en"])})\b|{"|".join(WORDS["zh"])}')


def count(text: str) -> int:
    """How many reflective words a text has, of all languages, since reasoning may mix them. Inflected forms do not count."""
    return len(_ALL.findall(unicodedata.normalize('NFKC', text).lower()))
