r"""The text of a final answer, read into values that can be compared: numbers, words, formulas, and lists, tuples, intervals,
unions and matrices of them.

`normal` brings a text into one form (LaTeX and Unicode spellings, spacing); `read` finds the structure by its delimiters, so that a
library sees one formula at a time and never a whole answer. Whatever is too long, too deep or unbalanced is not read at all.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import unicodedata

from r1jax.rewards import numerals
from r1jax.rewards.numerals import Number

LONGEST = 1000  # characters of an answer that is read
DEEPEST = 12  # brackets around each other
MOST = 64  # items of a list


@dataclasses.dataclass(frozen=True)
class Words:
    """An answer in words: letters and digits of them, in lower case."""

    key: str
    marked: bool  # said to be text, as in \text{even}: not a product of variables


@dataclasses.dataclass(frozen=True)
class Formula:
    """One expression, equation or inequality, for a library to read."""

    latex: str
    unit: str = ''


@dataclasses.dataclass(frozen=True)
class Named:
    """x = 5, x ∈ [0, 1]: what something equals or lies in; the last side, if there are several."""

    name: str  # '' where the left side is more than a name
    value: Value
    whole: str  # the text


@dataclasses.dataclass(frozen=True)
class Group:
    """Values together."""

    kind: str  # '' a list without brackets, '{}' a set, '()' '[]' '[)' '(]' a tuple or an interval, 'union', 'row', 'matrix'
    items: tuple[Value, ...]


Value = Number | Words | Formula | Named | Group

_PLAIN = {i: i - 0xFEE0 for i in range(0xFF01, 0xFF5F)} | {
    ord(k): v
    for k, v in {
        '\u3000': ' ', '\xa0': ' ', '−': '-', '–': '-', '—': '-', '、': ',', '。': '.', '“': '"', '”': '"', '’': "'", '‘': "'",
        '×': r'\times ', '·': r'\cdot ', '⋅': r'\cdot ', '÷': '/', '∞': r'\infty ', 'π': r'\pi ', '√': r'\sqrt ', '≤': r'\le ',
        '≥': r'\ge ', '≠': r'\ne ', '±': r'\pm ', '∪': r'\cup ', '∩': r'\cap ', '∈': r'\in ', '∅': r'\emptyset ', 'º': '°',
        '½': r'\frac{1}{2}', '⅓': r'\frac{1}{3}', '⅔': r'\frac{2}{3}', '¼': r'\frac{1}{4}', '¾': r'\frac{3}{4}', 'θ': r'\theta ',
    }.items()
}  # fmt: skip
_SUPERSCRIPTS = str.maketrans('⁰¹²³⁴⁵⁶⁷⁸⁹⁻ⁿ', '0123456789-n')
_ROOT = re.compile(r'√\s*(\d+)', re.ASCII)
_RAISED = re.compile('[⁰¹²³⁴⁵⁶⁷⁸⁹⁻ⁿ]+')
_COMMAND = re.compile(r'\\(?:([A-Za-z]+)\s*|!\s*|(.))', re.DOTALL)
_AS = (
    dict.fromkeys('left right big Big bigl bigr Bigl Bigr bigg displaystyle textstyle limits'.split(), '')
    | dict.fromkeys('quad qquad thinspace enspace'.split(), ' ')
    | dict.fromkeys('dfrac tfrac cfrac'.split(), r'\frac')
    | dict.fromkeys('textbf textit textrm textsf textnormal mathrm mathbf mathit mathsf mbox hbox'.split(), r'\text')
    | {'leq': r'\le ', 'leqslant': r'\le ', 'geq': r'\ge ', 'geqslant': r'\ge ', 'lt': '<', 'gt': '>', 'neq': r'\ne '}
    | {
        'lbrace': r'\{',
        'rbrace': r'\}',
        'degree': '°',
        'varnothing': r'\emptyset ',
        'infinity': r'\infty ',
        'ast': r'\cdot ',
    }
)
_SIGNS = {',': '', ';': ' ', ':': ' ', ' ': ' ', '\n': ' ', '(': ' ', ')': ' ', '[': ' ', ']': ' ', '%': '%', '-': ''}
_FIXES = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r'\{,\}\s*', ','),
        (r'\^\s*\{?\s*\\circ\s*\}?|\^\s*\{?\s*°\s*\}?', '°'),
        (r'\\frac\s*(\w)\s*(\w)', r'\\frac{\1}{\2}'),
        (r'\\frac\s*(\w)\s*\{', r'\\frac{\1}{'),
        (r'\\frac\s*(\{[^{}]*\})\s*(\w)', r'\\frac\1{\2}'),
        (r'\\frac\s*(\{[^{}]*\})\s+\{', r'\\frac\1{'),
        (r'\\sqrt\s*(\w)', r'\\sqrt{\1}'),
        (r'\\sqrt\s+', r'\\sqrt'),
        (r'([\^_])\s*\{\s*(\w)\s*\}', r'\1\2'),
        (r'\s*\\text\s*\{\s*(,?\s*(?:and|or))\s*\}\s*', r' \1 '),
        (r'\\text\s*\{\s*(?:percent|\\?%)\s*\}', '%'),
        (r'\\text\s*\{\s*\}', ' '),
        (r'\binf(?:inity)?\b(?!\})', r'\\infty '),
        (r'\s+', ' '),
    )
)
_DOUBLED = re.compile(r'\\\\(?=[a-zA-Z])')
_STARS = re.compile(r'^\*\*(.*)\*\*\.?$', re.DOTALL)

_SEPARATOR = re.compile(r',?\s(?:and|or)\s|[,;]\s*(?:(?:and|or)\s)?|\s*[和或]\s*')
_CUP = re.compile(r'\\cup\b')
_SIDE = re.compile(r'(?<![<>!])=')
_ITEM = re.compile(r'[,;]')
_THOUSANDS = re.compile(r'[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?', re.ASCII)
_NAME = re.compile(r'((?:[A-Za-z]|\\[a-z]+)(?:_\w|_\{\w+\})?(?:\([a-z]\))?)\s*(?:=|\\in\b)\s*(.+)')
_CHAIN = re.compile(r'(.+?)(<|\\le\b|>|\\ge\b)\s*([A-Za-z])\s*(<|\\le\b|>|\\ge\b)(.+)')
_HALF = re.compile(r'([A-Za-z])\s*(<|\\le\b|>|\\ge\b)([^<>=]+)')
_TURNED = re.compile(r'([^<>=]+?)(<|\\le\b|>|\\ge\b)\s*([A-Za-z])')
_TURN = {'<': '>', '>': '<', r'\le': r'\ge', r'\ge': r'\le'}
_MATRIX = re.compile(r'\\begin\{([pbvBV]?matrix|array)\}(?:\{[clr|]*\})?(.*)\\end\{\1\}')
_TEXT = re.compile(r'\\text\{([^{}]*)\}')
_LETTERS = re.compile(r"\(?[^\W\d_]+(?:[ '][^\W\d_]+|-[^\W\d_]{2,})*\)?")
_CLOCK = re.compile(r'\d{1,3}(?::\d{1,3})+(?:\s*[ap]\.?m\.?)?', re.IGNORECASE)
_LEAD = re.compile(r"[A-Za-z]{2}[A-Za-z'-]*(?:[,:]?\s+[A-Za-z'-]+)*[,:]?\s+(?=[^A-Za-z\s+*/=^]|[A-Za-z]\s*[-+*/^=(])")
_ANSWER = re.compile(
    r'(?:(?:so|thus|hence|therefore),?\s+)?(?:(?:the|my)\s+)?(?:(?:final|correct)\s+)?(?:answer|option|choice|result)(?:\s+is\b)?\s*[:=]?\s*'
    r'|(?:所以|因此)?(?:最终)?(?:答案|结果)(?:是|为|:)?\s*',
    re.IGNORECASE,
)
_OPEN, _CLOSE = '([{', ')]}'


def normal(text: str) -> str | None:
    """A text in the one form that is compared; None if it is too long, unbalanced, too deep, or holds invisible characters."""
    text = text.strip()
    if len(text) > LONGEST:
        return None
    if not text.isascii():
        text = _ROOT.sub(r'\\sqrt{\1}', text)
        text = _RAISED.sub(lambda m: f'^{{{m[0].translate(_SUPERSCRIPTS)}}}', text.translate(_PLAIN))
    if not text.isprintable() and any(unicodedata.category(c)[0] == 'C' for c in text if c not in '\n\t\r'):
        return None
    if bold := _STARS.match(text):
        text = bold[1]
    text = text.replace('$$', '$')
    if '$' in text:
        bare = text.count('$') - text.count(r'\$')
        text = re.sub(r'(?<!\\)\$', r'\\$' if bare == 1 else ' ', text)  # one alone is money
    if '\\' in text:
        if 'matrix' not in text and 'array' not in text:
            text = _DOUBLED.sub(r'\\', text)
        text = _COMMAND.sub(_command, text)
    for pattern, new in _FIXES:
        text = pattern.sub(new, text)
    text = text.strip().rstrip('.,;: ')
    return text if _depth(text) <= DEEPEST else None


def _command(match: re.Match) -> str:
    name, sign = match.groups()
    if name is None:
        return _SIGNS.get(sign, match[0]) if sign else ''
    if name in _AS:
        return _AS[name]
    following = match.string[match.end() : match.end() + 1]
    return f'\\{name} ' if following.isalnum() and name != 'frac' else f'\\{name}'


def _depth(text: str) -> int:
    """How deep brackets stand in each other, whatever their kind (intervals mix them); more than any limit if braces do not close."""
    depth = deepest = braces = 0
    for c in text:
        if c in _OPEN:
            depth += 1
            deepest = max(deepest, depth)
        elif c in _CLOSE:
            depth -= 1
        braces += {'{': 1, '}': -1}.get(c, 0)
        if depth < 0 or braces < 0:
            return DEEPEST + 1
    return DEEPEST + 1 if depth or braces else deepest


@functools.lru_cache(4096)
def read(text: str) -> Value | None:
    """The value of a text in normal form; None if there is none."""
    return _read(text, prose=True)


def _read(text: str, prose: bool = False) -> Value | None:
    text = text.strip()
    if prose and (lead := _ANSWER.match(text)):
        text = text[lead.end() :]
    if whole := _TEXT.fullmatch(text):
        return _words(text) or _read(whole[1], prose)
    if not text:
        return None
    if found := numerals.number(text) or _words(text):
        return found
    if prose and (lead := _LEAD.match(text)) and all(map(numerals.innocent, lead[0].split())):
        return _read(text[lead.end() :])
    if match := _MATRIX.fullmatch(text):
        rows = [row for row in match[2].split('\\\\') if row.strip()]
        return (
            None
            if match[1][0] in 'vV'
            else _group('matrix', [_group('row', map(_read, row.split('&'))) for row in rows])
        )
    for kind, separator in (('', _SEPARATOR), ('union', _CUP)):
        pieces = split(text, separator)
        if len(pieces) > 1:
            return None if len(pieces) > MOST else _group(kind, map(_read, pieces))
    if match := _NAME.fullmatch(text):
        value = _read(_last_side(match[2]))
        return value and Named(match[1], value, text)
    if group := _between(text) or _bracketed(text):
        return group
    if text.count(r'\pm') == 1:
        return _group('', [_read(text.replace(r'\pm', sign)) for sign in '+-'])
    if text[0] in '({' and text[-1] == {'(': ')', '{': '}'}[text[0]] and _closes_last(text):
        return _read(text[1:-1])
    if (side := _last_side(text)) != text:
        value = _read(side)
        return value and Named('', value, text)
    return Formula(*numerals.without_unit(text))


def _words(text: str) -> Words | None:
    plain, marks = _TEXT.subn(r'\1', text)
    plain = plain.strip()
    if _CLOCK.fullmatch(plain):
        return Words(''.join(plain.lower().split()), True)
    if not _LETTERS.fullmatch(plain) or (len(plain) == 1 and not marks):
        return None
    return Words(words_key(plain), bool(marks) or not plain.isascii() or max(map(len, plain.split())) > 2)


def words_key(text: str) -> str:
    return ''.join(c for c in text.casefold() if c.isalnum())


def _last_side(text: str) -> str:
    return split(text, _SIDE)[-1]


def _group(kind: str, items) -> Group | None:
    items = tuple(items)
    return Group(kind, items) if items and all(item is not None for item in items) else None


def _between(text: str) -> Group | None:
    """-2 ≤ x < 7 and x > 3, as intervals."""
    infinity = Formula(r'\infty'), Formula(r'-\infty')
    if match := _CHAIN.fullmatch(text):
        low, first, _, second, high = match.groups()
        if (first in ('<', r'\le')) != (second in ('<', r'\le')):
            return None
        left, right = _read(low), _read(high)
    elif match := _HALF.fullmatch(text) or _TURNED.fullmatch(text):
        _, first, bound = match.groups()
        if match.re is _TURNED:
            bound, first = match[1], _TURN[first]
        second = first
        left, right = (infinity[1], _read(bound)) if first in ('<', r'\le') else (infinity[0], _read(bound))
    else:
        return None
    marks = {'<': '()', '>': '()', r'\le': '[]', r'\ge': '[]'}
    if first in ('>', r'\ge'):
        left, right, first, second = right, left, second, first
    opens = '(' if left in infinity else marks[first][0]
    closes = ')' if right in infinity else marks[second][1]
    return _group(opens + closes, (left, right))


def _bracketed(text: str) -> Group | None:
    kind, inside = text[0] + text[-1], text[1:-1]
    if text.startswith(r'\{') and text.endswith(r'\}'):
        kind, inside = '{}', text[2:-2]
    elif kind not in ('()', '[]', '(]', '[)', '{}'):
        return None
    if not _closes_last(text.replace(r'\{', '{').replace(r'\}', '}')):
        return None
    pieces = split(inside, _ITEM)
    if (
        (len(pieces) < 2 and kind != '{}')
        or len(pieces) > MOST
        or (kind == '{}' and len(pieces) < 2 and text[0] == '{')
    ):
        return None
    items = [_read(piece) for piece in pieces]
    if kind == '{}':  # {1 ± √5, -2} has three
        items = [i for item in items for i in (item.items if isinstance(item, Group) and not item.kind else (item,))]
    return _group(kind, items)


def _closes_last(text: str) -> bool:
    """Whether the bracket that opens a text is closed by its last character."""
    depth = 0
    for i, c in enumerate(text):
        depth += (c in _OPEN) - (c in _CLOSE)
        if not depth:
            return i == len(text) - 1
    return False


def split(text: str, separator: re.Pattern) -> list[str]:
    """A text cut at separators outside brackets; a number with thousands is left whole."""
    pieces, start, depth, i = [], 0, 0, 0
    while i < len(text):
        c = text[i]
        depth += (c in _OPEN) - (c in _CLOSE)
        if not depth and (whole := _THOUSANDS.match(text, i)) and not text[i - 1 : i].isdigit():
            i = whole.end()
        elif not depth and (cut := separator.match(text, i)):
            pieces.append(text[start:i])
            start = i = cut.end()
        else:
            i += 1
    return [*pieces, text[start:]]
