r"""One formula against another, by math-verify: the only door to it, to its LaTeX parser and to sympy.

Model text is never evaluated. math-verify's path for plain expressions ends in sympy's `parse_expr`, which is Python's `eval`, and is
not used. Its LaTeX parser builds expressions from a grammar, but makes numbers by `eval` of their digits: `library` replaces that. It
sees only what is short, made of known commands, and whose numbers stay small however they are multiplied out (`parse`, `_bits`). What
sympy does with it after that has no bound: callers run in the pool, with a deadline. No timeouts are set here, since those of
math-verify are signals, which silently grade as wrong outside a main thread.
"""

from __future__ import annotations

import functools
import logging
import math
import re
import types
from fractions import Fraction

from r1jax.rewards import numerals
from r1jax.rewards.numerals import Number

LARGEST = 2**14  # bits of a number that a formula may come to
LONGEST = 300  # characters of a formula that is parsed
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


@functools.cache
def library() -> types.SimpleNamespace:
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


def is_complex(*texts: str) -> bool:
    return any(map(library().is_complex, texts))


def equal(gold: str, given: str) -> bool:
    """Whether two formulas are the same, by math-verify; before that, whether they differ at two points."""
    lib = library()
    mixed = is_complex(gold, given)
    truth, claim = parse(gold, mixed), parse(given, mixed)
    if truth is None:
        raise ValueError(f'the gold formula {gold!r} cannot be parsed: use Math.check to drop its problem')
    if claim is None:
        return False
    if isinstance(truth, lib.sympy.Expr) and isinstance(claim, lib.sympy.Expr) and _differ(truth, claim):
        return False
    return lib.verify(truth, claim, timeout_seconds=None, raise_on_error=True)


def is_number(latex: str, number: Number) -> bool:
    """Whether a formula without variables is a number, which may be rounded or cut to at least six digits."""
    lib = library()
    found = parse(latex, is_complex(latex))
    if not isinstance(found, lib.sympy.Expr) or found.free_symbols:
        return False
    value = found.evalf(40, maxn=400)
    if not value.is_real or not value.is_finite:
        return False
    exact = Fraction(str(value))
    close = abs(exact - number.value) <= Fraction(1, 10**30) * max(abs(exact), abs(number.value))
    return bool(close) or numerals.rounds(exact, number)


def _differ(a, b) -> bool:
    """Whether two expressions have other values at one of two points. Says nothing where they have none there."""
    sympy = library().sympy
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
def parse(latex: str, mixed: bool):
    """The sympy object of a formula; None if it is none, or none that may be worked on."""
    lib = library()
    latex = latex.replace('°', '')
    if len(latex) > LONGEST or not _CHARACTERS.fullmatch(latex) or latex.count('^') > 32 or _towers(latex):
        return None
    names = re.findall(r'\\([A-Za-z]+)', latex)
    plain = re.sub(r'\\text\{[A-Za-z]{1,12}\}|\\mathbb\{[A-Z]\}|\\[A-Za-z]+', '@', latex)
    if not _COMMANDS.issuperset(names) or _UNREADABLE.search(plain) or _COMPUTED.search(latex):
        return None
    try:
        found = lib.parse(lib.tidy(latex), not mixed)
        sympy = lib.sympy
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
    sympy = library().sympy
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
