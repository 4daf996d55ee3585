r"""Multiple choice: did the answer pick the right option, and only that one?

In: a problem with its options in `meta['choices']` (texts, in the order of the letters) and a letter or an option's text as answer.
Without them the answer is a letter, and letters are compared. The answer's text is taken from its stated place, as in
`mathematics.final`.

One option is picked by its letter (C, (C), option C, \text{C}), by its letter and its own text (C. Paris), or by its text. Whoever names
several ("A and B", "A or C"), or a letter with another option's text, picked none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from r1jax.rewards import mathematics, reading
from r1jax.types import Problem, Response

_LETTERS = 'abcdefghijklmnopqrstuvwxyz'
_PICK = re.compile(r'[(\[]?([a-z])[)\]]?(?:\s*[.:)-]\s*(.+))?')
_BARE = re.compile(r'^\s*([A-Za-z])\)')  # C), whose bracket opens nowhere
_LEAD = re.compile(
    r'(?:(?:so|thus|therefore),? )?(?:the )?(?:(?:final|correct|best) )?(?:answer|option|choice)(?: is)?:? (?:option )?'
)


def choice(problem: Problem, response: Response) -> float:
    """1.0 if the right option was picked.

    Raises:
      ValueError: the problem's answer is none of its options.
    """
    choices = problem.meta.get('choices', ())
    right = picked(problem.answer, choices)
    if right is None:
        raise ValueError(
            f'the answer {problem.answer!r} of problem {problem.id} is none of its options {list(choices)}'
        )
    given = mathematics.final(response.text)
    return float(given is not None and picked(given, choices) == right)


def picked(text: str, choices: Sequence[str] = ()) -> int | None:
    """Index of the option that a text picks, None if it picks none or several. Without options any letter will do."""
    said = _plain(_BARE.sub(r'\1.', text))
    if said is None:
        return None
    said = _LEAD.sub('', said, count=1) if _LEAD.match(said) else said
    options = [_plain(option) for option in choices]
    match = _PICK.fullmatch(said)
    index = _LETTERS.index(match[1]) if match else 26
    if index < (len(options) or 26) and (not match[2] or (options and match[2] == options[index])):
        return index
    same = [i for i, option in enumerate(options) if option and option == said]
    return same[0] if len(same) == 1 else None


def _plain(text: str) -> str | None:
    """Lower case, in normal form, without braces and marks of text."""
    found = reading.normal(text)
    return found and ' '.join(re.sub(r'\\text|[{}*]', '', found).casefold().split()).rstrip('.')
