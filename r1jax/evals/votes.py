"""What a response counts for in a majority vote: answers that are written alike are one answer.

In: a problem and the text of a response. Out: a text, equal where two answers are the same; None: no answer was found. Two forms of one
formula that the reward would call equal (x/2 and 0.5x) may still be two votes here: to compare all pairs would take the reward's time
k² times, and a vote that the rewards decided would know the truth.
"""

from __future__ import annotations

from r1jax.rewards import accuracy, mathematics, numerals, reading
from r1jax.rewards.choice import picked
from r1jax.types import Problem


def formula(problem: Problem, text: str) -> str | None:
    """The final answer of mathematics: as a fraction if it is a number, else in the reward's normal form, without spaces."""
    return _key(mathematics.final(text))


def last(problem: Problem, text: str) -> str | None:
    """As `formula`, where without a box or tags the last formula or number of the text is the answer."""
    return _key(mathematics.final(text, last=True))


def text(problem: Problem, text: str) -> str | None:
    """The final answer as it is written, whitespace apart."""
    given = accuracy.answer(text)
    return None if given is None else ' '.join(given.split())


def letter(problem: Problem, text: str) -> str | None:
    """The number of the option that was picked, from 0."""
    given = mathematics.final(text)
    found = None if given is None else picked(given, problem.meta.get('choices', ()))
    return None if found is None else str(found)


def _key(given: str | None) -> str | None:
    if given is None or len(given) > reading.LONGEST:
        return None
    number = accuracy.number(given)
    if number is not None:
        return str(number)
    said = reading.normal(given)
    found = numerals.number(said) if said else None
    if found and not (found.unit or found.base):  # with either, the number alone is not the answer
        return str(found.value)
    return ''.join((said or given).split()) or None
