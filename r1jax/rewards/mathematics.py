r"""Math accuracy: is the final answer the right number, formula, interval, set, tuple, matrix or word?

In: a problem and a response. Out: 1.0 or 0.0. In order:

1. `final` takes the answer's text out: the last `<answer>…</answer>`, else the last `\boxed{…}` (boxes that only "and", "or" or a
   comma keeps apart are one answer), else nothing, or with `last=True` the last formula or number of the text.
2. `r1jax.rewards.reading` brings it into one form and finds its structure; equal texts and exact numbers are decided there.
3. What is left, one formula against another, is parsed by math-verify's LaTeX parser and compared by math-verify.

Model text is never evaluated: math-verify's path for plain expressions ends in sympy's `parse_expr`, which is Python's `eval`, and
is not used. Its LaTeX parser builds expressions from a grammar, but makes numbers by `eval` of their digits: `_library` replaces
that. It sees only what is short, made of known commands, and whose
numbers stay small however they are multiplied out (`_parse`, `_bits`). What sympy does with it after that has no bound, so this
reward belongs into the pool, with a deadline: `Part('accuracy', Math(), deadline=5)`. It sets no timeouts of its own, since those of
math-verify are signals and silently grade as wrong outside a main thread.

What is not an answer: several candidates, the question's own expression, arithmetic left to do (17 · 24 for 408; `arithmetic=True`
takes it). The compared numbers are exact, but for decimals of at least six digits that stand for a number without an end.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import re
import types
from collections.abc import Sequence
from fractions import Fraction

from r1jax.rewards import accuracy, reading
from r1jax.rewards.numerals import Number
from r1jax.rewards.reading import Formula, Group, Named, Value, Words
from r1jax.types import Problem, Response

LONGEST = 300  # characters of a formula that is parsed
LARGEST = 2**14  # bits of a number that a formula may come to
DIGITS = 6  # significant digits from which a decimal may stand for a number without an end
ECHO = 16  # characters of a question from which its copies in a response are ignored

_BETWEEN = re.compile(r'[\s$.]*(?:\\text\{\s*)?(?:,|;|and|or|,\s*(?:and|or))?(?:\s*\})?[\s$]*')
_MATHS = re.compile(r'\$\$([^$]+)\$\$|(?<![\\$])\$([^$\n]+)\$|\\\(([^\n]+?)\\\)|\\\[(.+?)\\\]', re.DOTALL)
_COMMANDS = frozenset(
    'frac sqrt cdot times div pi infty le ge ne sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp text binom '
    'alpha beta delta epsilon varepsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau phi varphi chi psi omega '
    'Delta Theta Lambda Xi Sigma Phi Psi Omega overline vec hat bar lfloor rfloor lceil rceil mathbb triangle angle'.split()
)
_CHARACTERS = re.compile(r'[A-Za-z0-9 +\-*/^_=<>()\[\]{}|!.\\°]*')
_UNREADABLE = re.compile(
    r'[A-Za-z]{5,}'  # words
    r'|(?<!_)\d\s+[\d.]|\d\s*[eE]\s*[+-]?\d'  # 5 2, which the parser adds up; 1e9, which it writes out
    r'|\d{65,}|\^\s*\{?[+-]?\s*\d{5,}'  # numbers and powers beyond use
)
_COMPUTED = re.compile(
    r'\\sqrt\[(?!\d{1,2}\]|[a-z]\])'  # roots whose index is a formula
    r'|\\binom(?!\{\d{1,4}\}\{\d{1,4}\})'  # computed while it is parsed
)


@dataclasses.dataclass(frozen=True)
class Math:
    """The reward. `problem.answer` is the gold; `problem.meta['forms']` may list further forms that are right as well."""

    last: bool = False  # without tags or a box, the last formula or number of the text is the answer
    arithmetic: bool = False  # an expression that comes to the gold number counts, though it is not computed

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
                if _parse(formula, _is_complex(formula)) is None:
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
                return self.same(gold.value, given.value) if gold.name else _equal(gold.whole, given.whole)
            case Named(), _:
                return bool(gold.name) and self.same(gold.value, given)
            case _, Named():
                return self.same(gold, given.value)
            case Number(), Number():
                return same_number(gold, given)
            case Number(), Formula():
                return self.arithmetic and _fits(gold.unit, given.unit) and _is(given.latex, gold)
            case Formula(), Number():
                if _parse(gold.latex, _is_complex(gold.latex)) is None:
                    raise ValueError(
                        f'the gold formula {gold.latex!r} cannot be parsed: use Math.check to drop its problem'
                    )
                return _fits(gold.unit, given.unit) and _is(gold.latex, given)
            case Formula(), Formula():
                return _fits(gold.unit, given.unit) and _equal(gold.latex, given.latex)
            case Words(), Words():
                return gold.key == given.key
            case Words(), Formula():
                if given.latex.isalpha():
                    return gold.key == given.latex.lower()
                return not gold.marked and _equal(' '.join(gold.key), given.latex)
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
    return number and number[0]


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
    return any(_rounds(value, given) for value in wanted if not _is_finite(value))


def _in_base(number: Number) -> int | None:
    """The digits of a number to its base, read as if to base ten; None if some are letters."""
    left, digits = abs(int(number.value)), ''
    while left:
        left, digit = divmod(left, number.base)
        digits = f'{digit if digit < 10 else "x"}{digits}'
    sign = -1 if number.value < 0 else 1
    return sign * int(digits or 0) if digits.isdigit() or not digits else None


def _rounds(value: Fraction, given: Number) -> bool:
    if given.digits < DIGITS:
        return False
    return given.value / given.step in (round(value / given.step), math.trunc(value / given.step))


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
    asked = (
        reading.normal(prompt[-4 * reading.LONGEST :][: reading.LONGEST]) if len(prompt) <= reading.LONGEST else None
    )
    return _squeezed(said) in _squeezed(asked or prompt)


def _formulas(value: Value) -> list[str]:
    match value:
        case Formula():
            return [value.latex]
        case Named():
            return _formulas(value.value) if value.name else [value.whole]
        case Group():
            return [formula for item in value.items for formula in _formulas(item)]
    return []


@functools.cache
def _library() -> types.SimpleNamespace:
    """What is used of math-verify, imported at the first formula: sympy takes a second."""
    try:
        import latex2sympy2_extended as latex
        import math_verify.grader
        import sympy
        from latex2sympy2_extended.latex2sympy2 import _Latex2Sympy
    except ImportError as error:
        raise ImportError("formulas are compared by math-verify: pip install 'r1jax[math]'") from error

    class Parser(_Latex2Sympy):
        def parse_number(self, text: str):
            """As the original, whose `sympy.Number(text)` is an `eval` of the digits, and most of a formula's time."""
            text = text.replace(',', '')
            return sympy.Integer(int(text)) if text.isdigit() else sympy.Float(text)

    logging.getLogger('math_verify').setLevel(logging.ERROR)  # it warns that its timeouts are off
    tidy = latex.NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed='none')
    return types.SimpleNamespace(
        sympy=sympy,
        verify=math_verify.verify,
        is_complex=math_verify.grader.should_treat_as_complex,
        tidy=lambda text: latex.normalize_latex(text, tidy),
        parse=lambda text, real: Parser(is_real=real, convert_degrees=False).parse(text),
    )


def _is_complex(*texts: str) -> bool:
    return any(map(_library().is_complex, texts))


def _equal(gold: str, given: str) -> bool:
    """Whether two formulas are the same, by math-verify; before that, whether they differ at two points."""
    library = _library()
    mixed = _is_complex(gold, given)
    truth, claim = _parse(gold, mixed), _parse(given, mixed)
    if truth is None:
        raise ValueError(f'the gold formula {gold!r} cannot be parsed: use Math.check to drop its problem')
    if claim is None:
        return False
    if isinstance(truth, library.sympy.Expr) and isinstance(claim, library.sympy.Expr) and _differ(truth, claim):
        return False
    return library.verify(truth, claim, timeout_seconds=None, raise_on_error=True)


def _is(latex: str, number: Number) -> bool:
    """Whether a formula without variables is a number, which may be rounded or cut to at least six digits."""
    library = _library()
    found = _parse(latex, _is_complex(latex))
    if not isinstance(found, library.sympy.Expr) or found.free_symbols:
        return False
    value = found.evalf(40, maxn=400)
    if not value.is_real or not value.is_finite:
        return False
    exact = Fraction(str(value))
    close = abs(exact - number.value) <= Fraction(1, 10**30) * max(abs(exact), abs(number.value))
    return bool(close) or _rounds(exact, number)


def _differ(a, b) -> bool:
    """Whether two expressions have other values at one of two points. Says nothing where they have none there."""
    sympy = _library().sympy
    names = sorted(a.free_symbols | b.free_symbols, key=lambda symbol: symbol.name)
    for shift in (0, 1):
        at = {name: sympy.Rational(sympy.prime(2 * i + 5 + shift), 11 + 2 * i + shift) for i, name in enumerate(names)}
        try:
            first, second = (complex(e.evalf(20, subs=at, maxn=400)) for e in (a, b))
        except (TypeError, ValueError, OverflowError, ArithmeticError):
            continue
        size = max(abs(first), abs(second))
        if math.isfinite(size) and abs(first - second) > 1e-9 * size:
            return True
    return False


@functools.lru_cache(4096)
def _parse(latex: str, mixed: bool):
    """The sympy object of a formula; None if it is none, or none that may be worked on."""
    library = _library()
    latex = latex.replace('°', '')
    if len(latex) > LONGEST or not _CHARACTERS.fullmatch(latex) or latex.count('^') > 32 or _towers(latex):
        return None
    names = re.findall(r'\\([A-Za-z]+)', latex)
    plain = re.sub(r'\\text\{[A-Za-z]{1,12}\}|\\mathbb\{[A-Z]\}|\\[A-Za-z]+', '@', latex)
    if not _COMMANDS.issuperset(names) or _UNREADABLE.search(plain) or _COMPUTED.search(latex):
        return None
    try:
        found = library.parse(library.tidy(latex), not mixed)
        sympy = library.sympy
        if not isinstance(found, sympy.Basic | sympy.MatrixBase) or found.has(sympy.nan, sympy.zoo):
            return None
        _bits(found)
        return found
    except Exception:  # the parser's own, sympy's, or that of `_bits`: it is no formula
        return None


def _towers(latex: str) -> bool:
    """Whether a power stands in a power of a power, or in a power of a number: 9^{9^9}."""
    for at in (match.end() for match in re.finditer(r'\^\s*', latex)):
        depth, end = 0, at
        while end < len(latex):
            depth += (latex[end] in '{(') - (latex[end] in ')}')
            end += 1
            if depth <= 0:
                break
        inside = latex[at:end]
        if inside.count('^') > 1 or '!' in inside or (latex[end : end + 1] in ('^', '!')):
            return True
        if '^' in inside and not re.search(r'[a-zA-Z]\s*\^\s*$', latex[:at]):
            return True
    return False


def _bits(e) -> int:
    """Bits that a formula's value may need, when all is multiplied out. Raises ValueError beyond LARGEST."""
    sympy = _library().sympy
    if isinstance(e, sympy.MatrixBase):
        parts = [_bits(x) for x in e]
    else:
        parts = [_bits(x) for x in e.args]
    bits = 1 + sum(parts)
    if isinstance(e, sympy.Rational):
        bits = int(e.p).bit_length() + int(e.q).bit_length()
    elif isinstance(e, sympy.Pow | sympy.exp):
        base, power = (2, e.args[0]) if isinstance(e, sympy.exp) else (parts[0], e.args[1])
        if isinstance(power, sympy.Rational):
            bits = max(bits, base * abs(int(power.p)))
        elif not power.free_symbols:
            bits = max(bits, base * 2 ** min(_bits(power), 20))
    elif isinstance(e, sympy.factorial):
        bits = int(e.args[0]) ** 2 if not e.args[0].free_symbols else bits
    if bits > LARGEST:
        raise ValueError(f'a formula may come to {bits} bits')
    return bits
