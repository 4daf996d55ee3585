"""Filters: why a sample that is right is not kept all the same (R1 report, section 2.3.3: mixed languages, long paragraphs, code blocks).

A filter is a function `(problem, response) -> bool`, True to keep, or a frozen dataclass that is called so; a `config.Filter` gives it
the name under which the data card counts what it removed:

    Filter('mixed', OneLanguage(0.95)), Filter('code', no_code), Filter('repetition', AtLeast(Repetition(20), -0.2))

What is about the chain of thought reads that alone: a code problem's answer is code, and a summary may well be one paragraph. Any
reward serves as a filter through `AtLeast`. Length has none: samples that were cut off are dropped by `Collect.unfinished`, and
`Shorter` drops those beyond what a student can hold.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

from r1jax.rewards import reflection
from r1jax.rewards.form import TAGS
from r1jax.rewards.language import reasoning, share
from r1jax.rewards.model import summary
from r1jax.rewards.repetition import words
from r1jax.types import Problem, Response

_FENCE = re.compile(r'^[ \t]*(?:```|~~~)', re.MULTILINE)
_BLANK = re.compile(r'\n[ \t\r]*\n')


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """Any reward as a filter: what earns at least `value` stays.

    Raises what the reward raises: of a text that was graded, no filter may be unsure.
    """

    fn: Callable[[Problem, Response], float]
    value: float

    def __call__(self, problem: Problem, response: Response) -> bool:
        return self.fn(problem, response) >= self.value


@dataclasses.dataclass(frozen=True)
class OneLanguage:
    """At least this share of the words is in the problem's language, in the reasoning and in what follows it, each by itself: a long
    chain would hide a summary in another.
    """

    share: float = 0.95

    def __post_init__(self):
        if not 0 < self.share <= 1:
            raise ValueError(f'OneLanguage.share={self.share} must be in (0, 1]')

    def __call__(self, problem: Problem, response: Response) -> bool:
        texts = reasoning(response.text), TAGS.sub(' ', summary(response.text))
        return all(share(text, problem.language) >= self.share for text in texts if text.strip())


@dataclasses.dataclass(frozen=True)
class ShortParagraphs:
    """No paragraph of the reasoning (what stands between blank lines) has more than `words` words and signs; a Han or Kana character
    is a word.
    """

    words: int = 300

    def __post_init__(self):
        if self.words < 1:
            raise ValueError(f'ShortParagraphs.words={self.words} must be at least 1')

    def __call__(self, problem: Problem, response: Response) -> bool:
        return all(len(words(paragraph)) <= self.words for paragraph in _BLANK.split(reasoning(response.text)))


def no_code(problem: Problem, response: Response) -> bool:
    """The reasoning has no fenced code block. What follows it may: it is the answer to a problem of code."""
    return not _FENCE.search(reasoning(response.text))


@dataclasses.dataclass(frozen=True)
class Shorter:
    """At most so many tokens, end token included."""

    tokens: int

    def __post_init__(self):
        if self.tokens < 1:
            raise ValueError(f'Shorter.tokens={self.tokens} must be at least 1')

    def __call__(self, problem: Problem, response: Response) -> bool:
        return response.tokens <= self.tokens


@dataclasses.dataclass(frozen=True)
class Reflects:
    """The reasoning looks back at itself at least so often; see `r1jax.rewards.reflection`."""

    times: int = 1

    def __post_init__(self):
        if self.times < 1:
            raise ValueError(f'Reflects.times={self.times} must be at least 1')

    def __call__(self, problem: Problem, response: Response) -> bool:
        return reflection.count(reasoning(response.text)) >= self.times


@dataclasses.dataclass(frozen=True)
class Summarised:
    """The reasoning is closed, and at least so many words (no signs or tags) follow it: a bare answer is no summary."""

    words: int = 4

    def __post_init__(self):
        if self.words < 1:
            raise ValueError(f'Summarised.words={self.words} must be at least 1')

    def __call__(self, problem: Problem, response: Response) -> bool:
        said = words(TAGS.sub(' ', summary(response.text)))
        return sum(word[0].isalnum() for word in said) >= self.words
