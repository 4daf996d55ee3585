r"""Math accuracy: is the final answer the right number, formula, interval, set, tuple, matrix or word?

In: a problem and a response. Out: 1.0 or 0.0. In order:

1. `final` takes the answer's text out: the last `<answer>…</answer>`, else the last `\boxed{…}` (boxes that only "and", "or" or a
   comma keeps apart are one answer), else nothing, or with `last=True` the last formula or number of the text.
2. `r1jax.rewards.reading` brings it into one form and finds its structure; equal texts and exact numbers are decided there.
3. What is left, one formula against another, is parsed by math-verify's LaTeX parser and compared by math-verify.

Model text is never evaluated, and formulas are bounded before a library sees them (`r1jax.rewards.formulas`). Since what sympy does
with them is not, this reward belongs into the pool: `Part('accuracy', Math(), deadline=5)`.

What is not an answer: several candidates, the question's own expression, arithmetic left to do (17 · 24 for 408; `arithmetic=True`
takes it). The compared numbers are exact, but for decimals of at least six digits that stand for a number without an end.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from fractions import Fraction

from r1jax.rewards import accuracy, formulas, numerals, reading
from r1jax.rewards.numerals import Number
from r1jax.rewards.reading import Formula, Group, Named, Value, Words
from r1jax.types import Problem, Response

ECHO = 16  # characters of a question from which its copies in a response are ignored

_BETWEEN = re.compile(r'[\s$.]*(?:\\text\{\s*)?(?:,|;|and|or|,\s*(?:and|or))?(?:\s*\})?[\s$]*')
_MATHS = re.compile(r'\$\$([^$]+)\$\$|(?<![\\$])\$([^$\n]+)\$|\\\(([^\n]+?)\\\)|\\\[(.+?)\\\]', re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Math:
    """The reward. `problem.answer` is the gold; `problem.meta['forms']` may list further forms that are right as well."""

    last: bool = False  # without tags or a box, the last formula or number of the text is the answer
    arithmetic: bool = False  # an expression that comes to the gold number counts, though it is not computed

    def warm(self) -> None:
        """Imports math-verify, so that no answer's deadline pays for it. Raises ImportError where it is not installed."""
        formulas.library()

    def __call__(self, problem: Problem, response: Response) -> float:
        """1.0 if the final answer is the gold.

        Raises:
          ImportError: math-verify is not installed.
          ValueError: the gold cannot be read; `check` tells before training.
        """
        text = response.text
        if len(problem.prompt) >= ECHO:
            text = text.replace(problem.prompt, ' ')
        given = final(text, self.last)
        if given is None:
            return 0.0
        return float(any(self.equal(gold, given, problem) for gold in _golds(problem)))

    def check(self, problem: Problem) -> str | None:
        """Why no answer to a problem could be graded, as a sentence; None if all is well. Its sources drop such problems."""
        for gold in _golds(problem):
            text = reading.normal(gold)
            value = reading.read(text) if text else None
            if value is None:
                return f'the gold {gold!r:.200} of problem {problem.id} is no number, formula or word that can be read'
            for formula in _formulas(value):
                if formulas.parse(formula, formulas.is_complex(formula)) is None:
                    return f'the gold {gold!r:.200} of problem {problem.id} holds {formula!r}, which cannot be parsed'
        return None

    def equal(self, gold: str, given: str, problem: Problem) -> bool:
        """Whether one answer's text says the same as another's."""
        truth = reading.normal(gold)
        value = reading.read(truth) if truth else None
        if value is None:
            raise ValueError(
                f'the gold {gold!r:.200} of problem {problem.id} cannot be read: use Math.check to drop it'
            )
        said = reading.normal(given)
        if not said:
            return False
        if _squeezed(said) == _squeezed(truth):
            return True
        claim = reading.read(said)
        return claim is not None and not _echoes(claim, value, said, problem.prompt) and self.same(value, claim)

    def same(self, gold: Value, given: Value) -> bool:
        """Whether two values are the same; the gold decides what form is asked for."""
        match gold, given:
            case Named(), Named():
                if gold.name and given.name:
                    return gold.name == given.name and self.same(gold.value, given.value)
                return self.same(gold.value, given.value) if gold.name else formulas.equal(gold.whole, given.whole)
            case Named(), _:
                return bool(gold.name) and self.same(gold.value, given)
            case _, Named():
                return self.same(gold, given.value)
            case Number(), Number():
                return same_number(gold, given)
            case Number(), Formula():
                return self.arithmetic and _fits(gold.unit, given.unit) and formulas.is_number(given.latex, gold)
            case Formula(), Number():
                if formulas.parse(gold.latex, formulas.is_complex(gold.latex)) is None:
                    raise ValueError(
                        f'the gold formula {gold.latex!r} cannot be parsed: use Math.check to drop its problem'
                    )
                return _fits(gold.unit, given.unit) and formulas.is_number(gold.latex, given)
            case Formula(), Formula():
                return _fits(gold.unit, given.unit) and formulas.equal(gold.latex, given.latex)
            case Words(), Words():
                return gold.key == given.key
            case Words(), Formula():
                if given.latex.isalpha():
                    return gold.key == given.latex.lower()
                return not gold.marked and formulas.equal(' '.join(gold.key), given.latex)
            case Formula(), Words():
                return gold.latex.isalpha() and gold.latex.lower() == given.key
            case Group(), Group():
                return self.same_group(gold, given)
        return False

    def same_group(self, gold: Group, given: Group) -> bool:
        """Lists, sets and unions in any order, each item as often; tuples, intervals and matrices in order.

        A list without brackets may stand for a tuple or a set, and either for it.
        """
        if len(gold.items) != len(given.items):
            return False
        if gold.kind != given.kind and (
            '' not in (gold.kind, given.kind) or {gold.kind, given.kind} - {'', '()', '{}'}
        ):
            return False
        if '()' in (gold.kind, given.kind) or gold.kind not in ('', '{}', 'union'):
            return all(map(self.same, gold.items, given.items))
        left = list(given.items)
        for item in gold.items:
            found = next((i for i, other in enumerate(left) if self.same(item, other)), None)
            if found is None:
                return False
            del left[found]
        return True


def final(text: str, last: bool = False) -> str | None:
    """The text of the final answer, by the order that this module's head states; None if there is none."""
    given = accuracy.answer(text)
    if given is not None and '</answer>' in text and text.rfind('<answer>', 0, text.rfind('</answer>')) >= 0:
        return re.sub(r'\\boxed\s*(?=\{)', '', given)
    if given is not None:
        begin, given = accuracy.last_box(text)
        parts = [given]
        while before := accuracy.last_box(text[max(0, begin - reading.LONGEST) : begin]):
            at = max(0, begin - reading.LONGEST) + before[0]
            closed = text.find(before[1], at) + len(before[1])
            if len(parts) > reading.MOST or not _BETWEEN.fullmatch(text[closed:begin].strip().removeprefix('}')):
                break
            parts.insert(0, before[1])
            begin = at
        return ', '.join(parts) if len(set(parts)) > 1 else given
    return _last(text[-reading.LONGEST :]) if last else None


def _last(text: str) -> str | None:
    formula = number = None
    for formula in _MATHS.finditer(text):  # noqa: B007
        pass
    for number in accuracy.IN_TEXT.finditer(text):  # noqa: B007
        pass
    if formula and (not number or formula.end() > number.start()):
        return next(group for group in formula.groups() if group)
    return number[0] if number else None


def same_number(gold: Number, given: Number) -> bool:
    """Exactly equal; or the gold has no finite decimal and the other number is it, rounded or cut to at least six digits.

    A per cent may be said as itself (20) or as its share (0.2). Units that are known must agree, a base that is given too.
    """
    if not _fits(gold.unit, given.unit):
        return False
    if gold.base != given.base:  # 52 alone may be to base 8 where that was asked for: compared digit by digit
        based, other = (gold, given) if gold.base else (given, gold)
        return not other.base and not other.form and _in_base(based) == other.value
    wanted = (
        [gold.value]
        if gold.percent == given.percent
        else [gold.value, gold.value * (Fraction(1, 100) if gold.percent else 100)]
    )
    if given.value in wanted:
        return True
    return any(numerals.rounds(value, given) for value in wanted if not _is_finite(value))


def _in_base(number: Number) -> int | None:
    """The digits of a number to its base, read as if to base ten; None if some are letters."""
    left, digits = abs(int(number.value)), ''
    while left:
        left, digit = divmod(left, number.base)
        digits = f'{digit if digit < 10 else "x"}{digits}'
    sign = -1 if number.value < 0 else 1
    return sign * int(digits or 0) if digits.isdigit() or not digits else None


def _is_finite(value: Fraction) -> bool:
    """Whether a fraction has a finite decimal."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


def _fits(gold: str, given: str) -> bool:
    return not gold or not given or gold == given


def _golds(problem: Problem) -> Sequence[str]:
    return (problem.answer, *problem.meta.get('forms', ()))


def _squeezed(text: str) -> str:
    """A text without its spaces, but for those that keep digits apart."""
    return re.sub(r'(?<!\d)\s+|\s+(?!\d)', '', text)


def _echoes(claim: Value, gold: Value, said: str, prompt: str) -> bool:
    """Whether an answer is a piece of the question, in another form than the gold's: "simplify 6/8" is not answered by 6/8."""
    if isinstance(claim, Number) and (not claim.form or not isinstance(gold, Number) or claim.form == gold.form):
        return False
    if isinstance(claim, Words) or (isinstance(claim, Formula) and claim.latex.isalnum()) or len(_squeezed(said)) < 3:
        return False
    return _squeezed(said) in _squeezed(reading.normal(prompt) or prompt)


def _formulas(value: Value) -> list[str]:
    match value:
        case Formula():
            return [value.latex]
        case Named():
            return _formulas(value.value) if value.name else [value.whole]
        case Group():
            return [formula for item in value.items for formula in _formulas(item)]
    return []
