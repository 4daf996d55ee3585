r"""Numbers as answers write them: text in `reading.normal` form in, exact fractions out.

Read are what `accuracy.number` reads and further: \frac{3}{4}, 1\frac{4}{5}, 3 \times 10^5, 0.\overline{3}, 52_8, 20%, \$5, 90°,
5 cm^2, 18 apples, 3 million, 二十五, 三分之二. How a number was written is kept beside its value, since a reward has to
know: 20% may stand for 20 or 0.2, centimetres are not metres, 52 to base 8 is not 52 to base 9.

Left out: arithmetic. `17 \cdot 24` is not a number but a question, and whoever may answer with it need not compute.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from fractions import Fraction

from r1jax.rewards import accuracy

DIGITS = 6  # significant digits from which a decimal may stand for a number without an end

_PLAIN = r'(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)'
_DECIMAL = re.compile(r'[+-]?([\d,]*)\.(\d+)', re.ASCII)
_FRACTION = re.compile(r'([+-]?)\s*(\d*)\s*\\frac\{([^{}]*)\}\{([^{}]*)\}', re.ASCII)
_MIXED = re.compile(r'([+-]?)\s*(\d+)\s+(\d+)\s*/\s*(\d+)', re.ASCII)
_POWER_OF_TEN = re.compile(
    rf'([+-]?)(?:({_PLAIN})\s*(?:\\times|\\cdot|\*))?\s*10\s*\^\s*(?:(\d)|\{{([+-]?\d+)\}})', re.ASCII
)
_REPEATING = re.compile(r'([+-]?)(\d*)\.(\d*)\\overline\{(\d+)\}', re.ASCII)
_BASED = re.compile(r'([+-]?)([0-9A-Za-z]+)_(?:(\w)|\{\s*(?:\\text\{)?\s*(\w+)\s*\}?\s*\})', re.ASCII)
_MONEY = re.compile(r'([+-]?)\s*(\\\$|[€£¥])\s*')
_PERCENT = re.compile(r'\s*(?:%|percent|per cent|percentage|pct)$', re.IGNORECASE)
_TEXT_UNIT = re.compile(r'\s*\\text\{([^{}]*)\}(?:\^([23]))?$')
_DEGREES = re.compile(r'\s*°\s*([CF]?)$')
_WORDS = re.compile(r"(\s*)([A-Za-zµ][A-Za-zµ.'/ -]*(?:\^[23])?)$")
_TAIL = re.compile(rf'([+-]?{_PLAIN}(?:\s*/\s*\d+)?)(\s*)([A-Za-zµ].*)', re.ASCII)

_SCALE = {'hundred': 10**2, 'thousand': 10**3, 'million': 10**6, 'billion': 10**9, 'trillion': 10**12, 'dozen': 12}
_BASES = {name: i for i, name in enumerate('two three four five six seven eight nine ten eleven twelve'.split(), 2)}
_BASES |= {'sixteen': 16}
_UNITS = {
    name: names.split()[0]
    for names in (
        'mm millimeter millimeters millimetre millimetres', 'cm centimeter centimeters centimetre centimetres',
        'm meter meters metre metres', 'km kilometer kilometers kilometre kilometres', 'inch inches in', 'foot feet ft',
        'yard yards yd', 'mile miles mi', 'mg milligram milligrams', 'g gram grams', 'kg kilogram kilograms',
        'pound pounds lb lbs', 'ounce ounces oz', 'ton tons', 'second seconds sec s', 'minute minutes min mins',
        'hour hours hr hrs h', 'day days', 'week weeks', 'month months', 'year years yr yrs', 'liter liters litre litres l',
        'ml milliliter milliliters millilitre millilitres', 'gallon gallons', 'dollar dollars usd', 'cent cents',
        'euro euros', 'yuan', 'degree degrees deg', 'radian radians rad', 'mph', 'kph',
    )
    for name in names.split()
}  # fmt: skip
_CURRENCY = {'\\$': 'dollar', '€': 'euro', '£': 'pound sterling', '¥': 'yuan'}
# words beside a number that make it another one, more than one, or none at all
REFUSED = frozenset(
    'or and not no never nor neither either but except if unless than least most about approximately roughly almost nearly '
    'around between minus plus times negative over by divided multiplied half halves third thirds quarter quarters squared '
    'cubed factorial root sqrt sin cos tan cot csc log ln exp pi mod modulo base choose twice double triple thrice wrong false '
    'incorrect guess maybe perhaps possibly probably sum product difference infinity zero one two three four five six seven '
    'eight nine ten eleven twelve twenty thirty forty fifty sixty seventy eighty ninety'.split()
) | set(_SCALE)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Number:
    """A number and how it was written."""

    value: Fraction
    form: str = ''  # numerator/denominator as written, or 'decimal'; '' for whole numbers
    step: Fraction = Fraction(0)  # unit in the last place of a decimal; 0: exact
    digits: int = 0  # significant digits of a decimal
    percent: bool = False
    unit: str = ''  # '' : none, or none that is known
    base: int = 0  # 0: not said


def number(text: str) -> Number | None:
    """The number that a text in normal form is, with its unit; None if it is not exactly one."""
    if not text or len(text) > 4 * accuracy.LONGEST:
        return None
    money = _MONEY.match(text)
    if money:
        inner = number(text[money.end() :])
        if inner is None or inner.unit or inner.percent or (money[1] and inner.value < 0):
            return None
        sign = -1 if money[1] == '-' else 1
        return dataclasses.replace(inner, value=sign * inner.value, unit=_CURRENCY[money[2]])
    if found := _value(text):
        return found
    if percent := _PERCENT.search(text):
        found = _value(text[: percent.start()])
        return found and dataclasses.replace(found, percent=True)
    bare, unit = without_unit(text)
    if bare != text:
        found = _value(bare)
        return found and dataclasses.replace(found, unit=unit)
    return _with_words(text) or chinese(text)


def rounds(value: Fraction, given: Number) -> bool:
    """Whether a decimal of at least six digits is a value, rounded or cut."""
    if given.digits < DIGITS:
        return False
    return given.value / given.step in (round(value / given.step), math.trunc(value / given.step))


def without_unit(text: str) -> tuple[str, str]:
    r"""A text without the unit at its end, and that unit; the text itself and '' if none is marked as one.

    Marked are degrees, \text{…} and, after a space or a brace, words that are all known units.
    """
    if found := _DEGREES.search(text):
        return text[: found.start()], 'degree' + found[1]
    if found := _TEXT_UNIT.search(text):
        words = found[1].split()
        if found.start() and words and not REFUSED & {word.lower() for word in words}:
            return text[: found.start()], unit_named(found[1] + (found[2] or ''))
        return text, ''
    found = _WORDS.search(text)
    if found and found.start() and (found[1] or text[found.start() - 1] == '}') and (unit := unit_named(found[2])):
        return text[: found.start()], unit
    return text, ''


@functools.lru_cache(4096)
def unit_named(words: str) -> str:
    """'square inches' -> 'inch^2'; '' where a word is no known unit."""
    out: list[str] = []
    power = ''
    for token in re.findall(r"[a-zµ']+|[23]|/", words.lower()):
        if token in ('square', 'sq', 'cubic', 'cu'):
            power = '^2' if token[0] == 's' else '^3'
        elif token in '23':
            out[-1:] = [f'{out[-1]}^{token}'] if out else []
        elif token in ('/', 'per', 'a', 'an'):
            out.append('/')
        elif token in _UNITS:
            out.append(_UNITS[token] + power)
            power = ''
        else:
            return ''
    return ''.join(out)


def _value(text: str) -> Number | None:
    """A number without words or signs around it."""
    text = text.strip()
    if match := _FRACTION.fullmatch(text):
        sign, whole, above, below = match.groups()
        a, b = accuracy.number(above), accuracy.number(below)
        if a is None or not b or '/' in above + below or (whole and (a < 0 or b < 0)) or len(whole) > accuracy.LONGEST:
            return None
        return Number(_signed(sign, int(whole or 0) + a / b), f'{above}/{below}'.replace(' ', ''))
    if match := _MIXED.fullmatch(text):
        sign, whole, above, below = match.groups()
        if len(text) > accuracy.LONGEST or not int(below):
            return None
        return Number(_signed(sign, int(whole) + Fraction(int(above), int(below))), f'{above}/{below}')
    if match := _POWER_OF_TEN.fullmatch(text):
        sign, mantissa, digit, braced = match.groups()
        power = int((digit or braced)[:4])
        factor = accuracy.number(mantissa or '1')
        if factor is None or abs(power) > accuracy.EXPONENT:
            return None
        return Number(_signed(sign, factor * Fraction(10) ** power))
    if match := _REPEATING.fullmatch(text):
        sign, whole, fixed, period = match.groups()
        if len(text) > accuracy.LONGEST:
            return None
        scale = 10 ** len(fixed)
        tail = Fraction(int(period), (10 ** len(period) - 1) * scale)
        return Number(_signed(sign, int(whole or 0) + Fraction(int(fixed or 0), scale) + tail), 'decimal')
    if match := _BASED.fullmatch(text):
        sign, digits, short, long = match.groups()
        name = (short or long).lower()
        base = int(name[:3]) if name.isdigit() else _BASES.get(name, 0)
        if not 2 <= base <= 36 or len(digits) > accuracy.LONGEST or any(int(c, 36) >= base for c in digits):
            return None
        return Number(_signed(sign, Fraction(int(digits, base))), base=base)
    if not text or text[0] in '$\\(' or text[-1] in '$%\\).':
        return None  # accuracy.number would drop these
    value = accuracy.number(text)
    if value is None:
        return None
    if match := _DECIMAL.fullmatch(text):
        digits = (match[1].replace(',', '') + match[2]).lstrip('0')
        return Number(value, 'decimal' if value.denominator > 1 else '', Fraction(1, 10 ** len(match[2])), len(digits))
    return Number(value, text.replace(' ', '') if '/' in text else '')


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == '-' else value


def _with_words(text: str) -> Number | None:
    """5 cm, 18 apples, 3 million dollars: a number and then words, none of which changes it."""
    match = _TAIL.fullmatch(text)
    found = match and _value(match[1])
    if not found:
        return None
    first, *rest = match[3].split()
    if match[2] and first.lower() in _SCALE:
        found, rest = Number(found.value * _SCALE[first.lower()]), rest
    elif not unit_named(first) and not (match[2] and re.fullmatch(r"[A-Za-z][A-Za-z'-]{2,}[.,]?", first)):
        return None  # 5x is no number
    else:
        rest = [first, *rest]
    if all(innocent(word) for word in rest):
        return dataclasses.replace(found, unit=unit_named(' '.join(rest)))
    return None


def innocent(word: str) -> bool:
    """Whether a word beside a number leaves it as it is: a unit, or letters that do not bear on its value."""
    bare = word.strip(".,:;!'").lower()
    if bare in REFUSED or bare.endswith("n't"):
        return False
    return bool(unit_named(bare) or bare == 'a' or re.fullmatch(r"[a-z][a-z'-]+", bare))


_DIGITS = {
    c: i
    for i, cs in enumerate(('零〇', '一壹', '二两贰兩', '三叁', '四肆', '五伍', '六陆陸', '七柒', '八捌', '九玖'))
    for c in cs
}
_TENS = {'十': 10, '拾': 10, '百': 100, '佰': 100, '千': 1000, '仟': 1000}
_MYRIADS = {'万': 10**4, '萬': 10**4, '亿': 10**8, '億': 10**8}
_NUMERALS = ''.join([*_DIGITS, *_TENS, *_MYRIADS])
_HAN = re.compile(
    rf'(?:答案(?:是|为|:|：)?|一共|共|等于|是|为)?\s*(负?)(百分之)?([{_NUMERALS}点]+|[+-]?{_PLAIN}[万亿]?)(?:(分之)([{_NUMERALS}]+))?'
    r'\s*([^\W\d_a-zA-Z]{0,4})[。.]?'
)  # fmt: skip
_HAN_REFUSED = re.compile(rf'[或和与及至到非不约多少余几半{_NUMERALS}点分之倍成折负]')


def chinese(text: str) -> Number | None:
    """二十五, 负三, 一点五, 三分之二, 百分之二十, 3万, 25个: a number in Chinese, at most four characters of a unit after it."""
    match = _HAN.fullmatch(text) if len(text) <= accuracy.LONGEST else None
    if not match or _HAN_REFUSED.search(match[6]):
        return None
    sign, percent, first, part, above, _ = match.groups()
    if first[-1:] in _MYRIADS and first[:-1] and first[0] in '+-.0123456789':
        value = accuracy.number(first[:-1])
        value = value and value * _MYRIADS[first[-1]]
    elif first[0] in '+-.0123456789':
        value = accuracy.number(first)
    else:
        value = _han(first)
    if value is None:
        return None
    form = ''
    if part:  # 三分之二: of three parts two
        top = _han(above)
        if not value or top is None:
            return None
        value, form = top / value, f'{top}/{value}'
    return Number(-value if sign else value, form, percent=bool(percent))


def _han(text: str) -> Fraction | None:
    if '点' in text:
        whole, _, tail = text.partition('点')
        before = _han(whole)
        if before is None or not tail or not set(tail) <= set(_DIGITS):
            return None
        return before + Fraction(int(''.join(str(_DIGITS[c]) for c in tail)), 10 ** len(tail))
    if text and set(text) <= set(_DIGITS):  # 二零二四
        return Fraction(int(''.join(str(_DIGITS[c]) for c in text)))
    total = section = 0
    digit: int | None = None
    for c in text:
        if c in _DIGITS:
            if digit:
                return None
            digit = _DIGITS[c]
        elif c in _TENS:
            section += (1 if digit is None else digit) * _TENS[c]
            digit = None
        elif c in _MYRIADS:
            total = (
                (total + section + (digit or 0)) * _MYRIADS[c]
                if c in '亿億'
                else total + (section + (digit or 0)) * 10**4
            )
            section, digit = 0, None
        else:
            return None
    return Fraction(total + section + (digit or 0)) if text else None
