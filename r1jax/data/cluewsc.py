"""CLUEWSC 2020: which of two spans of a Chinese text a pronoun stands for (Xu et al., arXiv 2004.05986)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from r1jax.data import table
from r1jax.data.table import Source
from r1jax.types import Problem

YES, NO = '是', '否'
_TRUE = {'0': YES, 'true': YES, '1': NO, 'false': NO}  # the hub numbers the classes: true, false


@dataclasses.dataclass(frozen=True)
class Cluewsc(Source):
    """Rows of clue/clue, config cluewsc2020: text, target (span1_text, span2_text), label. The answer is 是 or 否, in a box."""

    split: str = 'validation'  # the labels of the test split are not published
    config: str = 'cluewsc2020'
    limit: int = 0

    def load(self) -> Sequence[Problem]:
        """The problems, read when asked for; raises as `Table.load`."""
        return table.kept(self, self._values, lambda value: Problem(*value), (__file__,))

    def _values(self, files: Sequence[Path], notes: dict[str, Any]) -> Iterator[list]:
        for i, place, row in table.selected(files, (), ['text', 'target', 'label'], notes):
            text, one, two = (table.text_at(row, n, place) for n in ('text', 'target.span1_text', 'target.span2_text'))
            label = table.text_at(row, 'label', place).lower()
            if label not in _TRUE:
                raise ValueError(f'{place}: label {label!r} is none of {", ".join(_TRUE)}')
            asked = f'{text}\n\n上文中的“{two}”指的是“{one}”吗？请先推理，再把“{YES}”或“{NO}”写在 \\boxed{{}} 中。'
            yield [i, asked, _TRUE[label], 'text', 'zh', {}]
