r"""Language consistency: the share of the words in the reasoning that are in the target language (R1 report, section 2.3.2).

In: a problem (its `language`) and a response. Out: a number in 0..1. `reasoning` takes the chain of thought out; `share` counts:

- Not counted at all, for or against: mathematics ($…$, \(…\), environments, commands, single letters, functions such as sin),
  code (fences, backticks, lines and identifiers that look like it), addresses, numbers, names and acronyms.
- A word is a run of letters of one script; each Han, Hiragana or Katakana character is one word, and four letters of Thai, Lao,
  Khmer or Burmese are. Scripts decide between languages that do not share one. Han characters are Japanese in a sentence that has
  kana, else Chinese.
- Among languages of one script (French and English), the most probable path through the words of the text decides: py3langid scores
  each word for each language, and changing the language costs `SWITCH` nats. A stretch of fewer than `SHORTEST` words counts
  for the target, since nothing can be told from it: a loan word or a title is no mixing.

Names are guessed: capitalised words inside a sentence, and short runs of them between words of another script. Prose hidden in
mathematics is found ($…$ around three words in a row counts as prose), in a code fence it is not.

py3langid was chosen over lingua: 4.5 MB on disk against 96, one second to load against ten, 0.13 GB of memory against 1, 0.1 ms a
sentence against 2; of 17 sentences in seven languages, restricted to large languages, both name all.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from r1jax.rewards.form import TAGS
from r1jax.types import Problem, Response

SWITCH = 12.0  # nats of a change of language; from 6 to 15 the tests' errors are the same
LONGEST = 200_000  # characters that are read
SHORTEST = 5  # words of a stretch that may count against the target: a stretch of eight, with three lost at its ends

_SCRIPTS = {  # the first word of a letter's Unicode name -> script
    'CJK': 'Han', 'IDEOGRAPHIC': 'Han', 'HIRAGANA': 'Kana', 'KATAKANA': 'Kana', 'KATAKANA-HIRAGANA': 'Kana', 'HANGUL': 'Hangul',
}  # fmt: skip
_PER_WORD = {
    'Han': 1,
    'Kana': 1,
    'Thai': 4,
    'Lao': 4,
    'Khmer': 4,
    'Myanmar': 4,
}  # letters a word, where words have no spaces
_FAMILIES = {  # script -> languages told apart within it: large ones that differ enough
    'Latin': 'en fr de es it pt nl pl sv tr vi id cs ro hu fi da'.split(),
    'Cyrillic': 'ru uk bg sr'.split(),
    'Arabic': 'ar fa ur'.split(),
    'Devanagari': 'hi mr ne'.split(),
}
_OF = {code: script for script, codes in _FAMILIES.items() for code in codes} | {
    'zh': 'Han', 'ja': 'Kana', 'ko': 'Hangul', 'th': 'Thai', 'lo': 'Lao', 'km': 'Khmer', 'my': 'Myanmar', 'el': 'Greek',
    'he': 'Hebrew', 'ka': 'Georgian', 'hy': 'Armenian', 'bn': 'Bengali', 'ta': 'Tamil', 'te': 'Telugu', 'gu': 'Gujarati',
    'kn': 'Kannada', 'ml': 'Malayalam', 'pa': 'Gurmukhi', 'si': 'Sinhala', 'am': 'Ethiopic', 'kk': 'Cyrillic', 'mk': 'Cyrillic',
}  # fmt: skip

_FENCE = re.compile(r'```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]+`', re.DOTALL)
_FORMULA = re.compile(
    r'\$\$(?P<a>[^$]+)\$\$|\$(?P<b>[^$\n]{1,400})\$|\\\((?P<c>.{1,400}?)\\\)|\\\[(?P<d>.{1,2000}?)\\\]'
    r'|\\begin\{(?P<env>[a-z]+\*?)\}(?P<e>.{1,4000}?)\\end\{(?P=env)\}',
    re.DOTALL,
)
_PROSE = re.compile(r'(?<!\\)\b[^\W\d_]{3,}\s+[^\W\d_]{2,}\s+[^\W\d_]{2,}')
_NOISE = re.compile(r'https?://\S+|www\.\S+|[\w.+-]{1,64}@[\w.-]{1,255}|</?\w+>|\\[A-Za-z]+(?:\{[a-z]+\*?\})?')
_CODE_LINE = re.compile(
    r'^[ \t]*(?:import[ \t]+[\w.]+|#include[^\n]*|}|(?:else|try|finally)[ \t]*:'
    r'|(?:def|class|for|while|if|elif|return|from|print|int|void|public|const|let|var|function|with)\b[^\n]*[(){};=\[\]][^\n]*'
    r'|[\w.\[\]]+[ \t]*[-+*/]?=[^=\n][^\n]*[(\[{][^\n]*'
    r'|(?=[^\n]*[;{}][ \t]*$)(?=[^\n]*[(=])[^\n]*)[ \t]*$',
    re.MULTILINE,
)
_MARKS = '\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0903\u093a-\u094f\u0981-\u0e4e\u0eb1-\u0ecd\u102b-\u103e\u17b4-\u17d3'
_WORD = re.compile(rf"[^\W\d_](?:[^\W\d_]|[{_MARKS}])*(?:[’'-][^\W\d_](?:[^\W\d_]|[{_MARKS}])*)*")
_SENTENCE = re.compile(r'[^。！？\n.!?]*(?:[。！？\n.!?]+|\Z)')
_END = '.!?:;\n。！？：；…•*#"“(-'
_INTO, _OUT_OF = tuple('\\_^./@'), tuple('_(=^[')  # before and after a letter of code
_CAMEL = re.compile('[a-z][A-Z]')
_FUNCTIONS = frozenset(
    'sin cos tan cot sec csc log ln exp lim gcd lcm mod sqrt frac cdot max min arg det deg dim ker'.split()
)


@dataclasses.dataclass(frozen=True)
class Language:
    """The reward. A blank text has no share: 0; one of mathematics alone has nothing against it: 1."""

    target: str = ''  # ISO 639-1 code; '': the problem's own language
    # 'response' for prompts that need no reasoning: all that is written counts
    read: Literal['reasoning', 'response'] = 'reasoning'

    def __call__(self, problem: Problem, response: Response) -> float:
        """The share of the words that are in the target language.

        Raises:
          ValueError: the language is none that can be told.
        """
        text = reasoning(response.text) if self.read == 'reasoning' else TAGS.sub(' ', response.text)
        return share(text, self.target or problem.language)


def reasoning(text: str) -> str:
    """What stands between the thinking tags, the end of the text included where they do not close; without tags all but the answer."""
    before, closed, _ = text.partition('</think>')
    _, opened, inside = before.partition('<think>')
    if opened or closed:
        return inside if opened else before
    return re.sub(r'<answer>.*?(?:</answer>|\Z)', ' ', text, flags=re.DOTALL)


def share(text: str, language: str) -> float:
    """The share of a text's words that are in a language. 1.0 if it has none that count, 0.0 if it is blank."""
    code = language.lower().partition('-')[0]
    if code not in _OF:
        raise ValueError(f'the language {language!r} cannot be told from others: known are {", ".join(sorted(_OF))}')
    if not text.strip():
        return 0.0
    right = wrong = 0.0
    family: list[str] = []  # consecutive words of the target's script, where languages share it
    for script, word in _words(text):
        if script == _OF[code] and script in _FAMILIES:
            family.append(word)
        elif script == _OF[code]:
            right += 1 / _PER_WORD.get(script, 1)
        else:
            wrong += 1 / _PER_WORD.get(script, 1)
    foreign = _foreign(family, code) if family else 0
    right, wrong = right + len(family) - foreign, wrong + foreign
    return right / (right + wrong) if right + wrong else 1.0


def _words(text: str) -> Iterator[tuple[str, str]]:
    """(script, word) of each word that counts; where words have no spaces, of each letter (Han in a sentence with kana as Kana)."""
    text = unicodedata.normalize('NFKC', text[:LONGEST])
    text = _FENCE.sub(' ', text)
    text = _FORMULA.sub(_without_formula, text)
    text = _NOISE.sub(' ', _CODE_LINE.sub(' ', text))
    for sentence in _SENTENCE.findall(text):
        found = list(_tokens(sentence))
        kana = any(script == 'Kana' for script, *_ in found)
        for i, (script, word, begins) in enumerate(found):
            if script in _PER_WORD:
                kind = 'Kana' if script == 'Han' and kana else script
                yield from ((kind, letter) for letter in word if letter.isalpha())
            elif not _is_name(found, i, begins) and not _is_mathematics(script, word):
                yield script, word


def _tokens(text: str) -> Iterator[tuple[str, str, bool]]:
    """(script, letters, begins a sentence); identifiers and letters that digits or brackets touch are left out."""
    for match in _WORD.finditer(text):
        start, end = match.span()
        before, after = text[max(0, start - 1) : start], text[end : end + 1]
        if match[0].isascii() and (
            (before in _INTO and text[start - 2 : start - 1].strip())
            or after in _OUT_OF
            or before.isdigit()
            or after.isdigit()
            or _CAMEL.search(match[0])
        ):
            continue
        while start and text[start - 1] in ' \t':
            start -= 1
        begins = not start or text[start - 1] in _END
        for script, letters in _by_script(match[0]):
            yield script, letters, begins
            begins = False


def _by_script(word: str) -> Iterator[tuple[str, str]]:
    start, current = 0, _script(word[0])
    for i, c in enumerate(word):
        script = _script(c) or current
        if script != current:
            yield current, word[start:i]
            start, current = i, script
    yield current, word[start:]


@functools.lru_cache(8192)
def _script(letter: str) -> str:
    """Latin, Han, Kana, Cyrillic, …; '' for what belongs to any script."""
    if not letter.isalpha():
        return ''
    first = unicodedata.name(letter, 'UNKNOWN').split()[0]
    return _SCRIPTS.get(first, first.capitalize())


def _is_name(found: Sequence[tuple[str, str, bool]], i: int, begins: bool) -> bool:
    script, word, *_ = found[i]
    if not word[0].isupper():
        return False
    if len(word) <= 5 and word.isupper():
        return True
    if not begins:
        return True
    first = last = i  # a run of capitalised words between another script: "牛顿 Newton 定律"
    while first > max(0, i - 4) and found[first - 1][0] == script:
        first -= 1
    while last + 1 < min(len(found), i + 4) and found[last + 1][0] == script:
        last += 1
    among = last - first < 3 and (first > 0 or last + 1 < len(found))
    return among and all(token[1][0].isupper() for token in found[first : last + 1])


def _is_mathematics(script: str, word: str) -> bool:
    return (script in ('Latin', 'Greek') and len(word) == 1) or word in _FUNCTIONS


def _without_formula(match: re.Match) -> str:
    inside = next(match[name] for name in 'abcde' if match[name])
    plain = re.sub(r'\\[a-z]+', '@', inside)
    return f' {plain} ' if _PROSE.search(plain) else ' '


@functools.cache
def _identifier(family: tuple[str, ...]):
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # a second, for those who ask

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    identifier.set_languages(family)
    return identifier


@functools.lru_cache(50_000)
def _scores(word: str, family: tuple[str, ...]) -> np.ndarray:
    """Log-likelihood of a word in each language, the best being 0; all 0 where the word has nothing in it. f64[languages]."""
    ranked = dict(_identifier(family).rank(f' {word} '))
    scores = np.array([ranked[code] for code in family], np.float64)
    return np.zeros(len(family)) if scores.max() < -1e30 else scores - scores.max()


def _foreign(words: Sequence[str], target: str) -> int:
    """How many of consecutive words are in another language than the target: those of long enough stretches on the best path."""
    family = tuple(sorted({*_FAMILIES[_OF[target]], target}))
    total = np.zeros(len(family))
    back = []
    for word in words:
        best = int(total.argmax())
        stay = total >= total[best] - SWITCH
        back.append(np.where(stay, np.arange(len(family)), best))
        total = np.where(stay, total, total[best] - SWITCH) + _scores(word.casefold(), family)
        total -= total.max()
    state, own, foreign, stretch = int(total.argmax()), family.index(target), 0, 0
    for step in reversed(back):
        if state == own:
            foreign, stretch = foreign + (stretch if stretch >= SHORTEST else 0), 0
        else:
            stretch += 1
        state = int(step[state])
    return foreign + (stretch if stretch >= SHORTEST else 0)
