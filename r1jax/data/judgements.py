"""Judgements that reward models learn from: pairs of answers and labelled ones, from tables and from judges.

    TablePairs('data/ultrafeedback', chosen='chosen', rejected='rejected', scores=('score_chosen', 'score_rejected'), gap=1.0)
    TableLabelled('data/pku', prompt='prompt', response='response', label='is_safe')

The paper's own pairs were judged by a model, four times with the two answers in either order; the pairs whose mean scores differed by
more than 1 were kept, and the lengths of chosen and rejected answers balanced (R1 Methods). Here `r1jax.rewards.judge.Pairwise` asks,
`decided` keeps, and `length_balanced` balances: a model that learns from chosen answers which are mostly the longer ones learns length.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from r1jax.data.table import Source, kept, messages_at, selected, text_at, value_at
from r1jax.types import Labelled, Pair, Problem

HELD_OUT = 10  # one question in so many
Side = Literal[
    'all', 'train', 'held_out'
]  # of the questions, by a hash: the answers to one question are on the same side


@dataclasses.dataclass(frozen=True)
class TablePairs(Source):
    """Pairs of a table. An answer is a text, or chat messages of one exchange, of which the assistant's is the answer."""

    # field names (dotted paths, see `r1jax.data.table`); a text, or messages with one of the user
    prompt: str = 'prompt'
    chosen: str = 'chosen'
    rejected: str = 'rejected'
    # a field that is true (or 1) where `chosen` is indeed the better of the two, else they are exchanged
    first_is_better: str = ''
    scores: tuple[
        str, ...
    ] = ()  # fields with the two answers' scores: only rows are kept in which they differ by more than
    gap: float = 0.0
    kind: str = 'general'  # of all problems
    language: str = 'en'
    side: Side = 'all'
    split: str = ''  # of a folder
    config: str = ''
    where: tuple[tuple[str, Any], ...] = ()  # (field, value), as in `r1jax.data.table.Table`
    limit: int = 0  # the first so many of what is left; 0: all

    def __post_init__(self):
        if self.scores and len(self.scores) != 2:
            raise ValueError(f'scores={self.scores} must name two fields, or none')

    def load(self) -> Sequence[Pair]:
        """The pairs, read when asked for; of two answers that are the same there is none.

        Raises:
          FileNotFoundError: there is nothing at `path`.
          ImportError: pyarrow is missing and the files need it.
          ValueError: a broken file, a missing or ill-formed field, with file and row; or nothing is left.
        """
        return kept(self, self._values, lambda v: Pair(_problem(v, self), v[2], v[3]), (__file__,))

    def _values(self, files: Sequence[Path], notes: dict[str, Any]) -> Iterator[list]:
        notes['same'] = 0
        names = [self.prompt, self.chosen, self.rejected, *self.scores, *filter(None, [self.first_is_better])]
        for i, place, row in selected(files, self.where, names, notes):
            prompt, *both = (_said(row, n, place) for n in (self.prompt, self.chosen, self.rejected))
            if self.scores:
                one, other = (float(text_at(row, name, place)) for name in self.scores)
                if abs(one - other) <= self.gap:
                    continue
            if self.first_is_better and not value_at(row, self.first_is_better, place):
                both.reverse()
            notes['same'] += both[0] == both[1]
            if both[0] != both[1] and on_side(prompt, self.side):
                yield [i, prompt, *both]


@dataclasses.dataclass(frozen=True)
class TableLabelled(Source):
    """Labelled answers of a table."""

    prompt: str = 'prompt'
    response: str = 'response'
    label: str = 'is_safe'  # field; an answer is safe where its value is one of
    safe: tuple[Any, ...] = (True,)
    kind: str = 'general'
    language: str = 'en'
    side: Side = 'all'
    split: str = ''
    config: str = ''
    where: tuple[tuple[str, Any], ...] = ()
    limit: int = 0

    def load(self) -> Sequence[Labelled]:
        """The labelled answers, read when asked for; raises as `TablePairs.load`."""
        return kept(self, self._values, lambda v: Labelled(_problem(v, self), v[2], v[3]), (__file__,))

    def _values(self, files: Sequence[Path], notes: dict[str, Any]) -> Iterator[list]:
        names = [self.prompt, self.response, self.label]
        for i, place, row in selected(files, self.where, names, notes):
            prompt, response = (_said(row, n, place) for n in (self.prompt, self.response))
            if on_side(prompt, self.side):
                yield [i, prompt, response, float(value_at(row, self.label, place) in self.safe)]


def _problem(value: list, source: Any) -> Problem:
    return Problem(value[0], value[1], '', source.kind, source.language)


def _said(row: Any, name: str, place: str) -> str:
    """A text, or what the last message of an exchange says."""
    if not isinstance(value_at(row, name, place), list):
        return text_at(row, name, place)
    turns = messages_at(row, name, place)
    if [turn['role'] for turn in turns] not in (['user'], ['assistant'], ['user', 'assistant']):
        roles = ', '.join(turn['role'] for turn in turns) or 'none'
        raise ValueError(
            f'{place}: field {name!r} has messages of {roles}: a reward model reads one of each, user first'
        )
    return turns[-1]['content']


def on_side(prompt: str, side: Side) -> bool:
    """Whether a question belongs to a side: a tenth of all questions is held out, by a hash of the question.

    Raises:
      ValueError: there is no such side.
    """
    if side not in typing.get_args(Side):
        raise ValueError(f"{side=} must be 'all', 'train' or 'held_out'")
    hashed = hashlib.blake2s(prompt.encode('utf-8', 'surrogatepass'), digest_size=4).digest()
    return side == 'all' or (int.from_bytes(hashed) % HELD_OUT == 0) == (side == 'held_out')


# --- from judgements to pairs


def decided(
    problems: Sequence[Problem], first: Sequence[str], second: Sequence[str], gaps: Sequence[float], margin: float = 1.0
) -> list[Pair]:
    """The pairs that a judge is sure of, the better answer of each chosen.

    Args:
      problems, first, second: N questions and two answers to each, as the judge read them.
      gaps: by how much the first is better, the mean of votes in both orders (`r1jax.rewards.judge.Comparison.gap`); NaN: not judged.
      margin: pairs with |gap| ≤ margin are left out (R1 Methods: 1).

    Raises:
      ValueError: numbers that differ.
    """
    rows = zip(problems, first, second, gaps, strict=True)
    return [Pair(p, *((a, b) if gap > 0 else (b, a))) for p, a, b, gap in rows if abs(gap) > margin]


def length_balanced(pairs: Sequence[Pair], length: Callable[[str], int] = len) -> list[Pair]:
    """As many pairs whose chosen answer is the longer as pairs whose chosen one is the shorter, by about as much: the rest is left out.

    Differences of lengths are taken together that begin with the same power of two (1, 2–3, 4–7, …). Of each the rarer sign is kept
    whole and as many of the other, which ones is decided by a hash of their texts; the order stays. So within each class sign says
    nothing of which answer was chosen.

    Args:
      length: of an answer, in characters; with `lambda text: len(tokenizer.encode(text))` in tokens.
    """
    classes: dict[int, tuple[list[int], list[int]]] = {}
    for i, pair in enumerate(pairs):
        if difference := length(pair.chosen) - length(pair.rejected):
            classes.setdefault(abs(difference).bit_length(), ([], []))[difference > 0].append(i)
    out = set()
    for signs in classes.values():
        for members in signs:
            spare = len(members) - min(map(len, signs))
            out.update(sorted(members, key=lambda i: _digest(pairs[i]))[:spare])
    return [pair for i, pair in enumerate(pairs) if i not in out]


def _digest(pair: Pair) -> bytes:
    texts = '\0'.join((pair.problem.prompt, pair.chosen, pair.rejected))
    return hashlib.blake2s(texts.encode('utf-8', 'surrogatepass')).digest()


class _Pairs(Protocol):
    def load(self) -> Sequence[Pair]: ...


@dataclasses.dataclass(frozen=True)
class LengthBalanced:
    """A source of pairs, balanced by `length_balanced` in characters."""

    pairs: _Pairs

    def load(self) -> Sequence[Pair]:
        """Raises ValueError if nothing is left, and as the source's own."""
        found = self.pairs.load()
        if not (left := length_balanced(found)):
            raise ValueError(f'of {len(found)} pairs none is left: all chosen answers are longer, or all shorter')
        return left


def write_pairs(path: str, pairs: Sequence[Pair]) -> None:
    """Writes pairs as JSON lines that `TablePairs(path)` reads: what a judge was asked once is kept."""
    with open(path, 'w', encoding='utf-8') as file:
        for pair in pairs:
            row = {'prompt': pair.problem.prompt, 'chosen': pair.chosen, 'rejected': pair.rejected}
            file.write(json.dumps(row, ensure_ascii=False) + '\n')
