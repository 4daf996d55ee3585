"""Rejection sampling: which of a policy's samples become a data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from r1jax.config.sources import Part, Problems, SampleConfig
from r1jax.types import Problem, Response


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A sample is correct if the part is at least `value` where it applies; see `Collect.correct`."""

    part: str  # name of a reward
    value: float = 1.0


class Rewriter(Protocol):
    """Rewrites a batch at once; see `Collect.rewrite`."""

    def many(self, problems: Sequence[Problem], responses: Sequence[Response]) -> Sequence[str | None]: ...


@dataclasses.dataclass(frozen=True)
class Filter:
    """A reason why a correct sample is not kept: `keep(problem, response) -> bool`; see `r1jax.curate.filters`."""

    name: str  # under which the data card counts what it removed
    keep: Callable[[Problem, Response], bool]
    kinds: tuple[str, ...] = ()  # of problem that it applies to; (): all
    rewritten: bool = False  # asked about what `Collect.rewrite` made of the sample, not about the sample


@dataclasses.dataclass(frozen=True)
class NearDuplicates:
    """When two texts are so alike that one is enough; see `r1jax.curate.duplicates`."""

    threshold: float = 0.8  # Jaccard similarity of their sets of shingles
    words: int = 5  # a shingle
    permutations: int = 128  # numbers of a MinHash


@dataclasses.dataclass(frozen=True)
class Decontaminate:
    """Prompts that share `words` words in a row with an evaluation's question are not sampled; see `r1jax.curate.contamination`."""

    words: int = 10  # R1 Methods
    against: tuple[Problems, ...] = ()  # (): the questions of every evaluation in the recipe


# What may become of a sample besides a filter's name, in the order of the questions that it is asked; see `r1jax.curate.choose`
FATES = ('ungraded', 'wrong', 'too_easy', 'too_hard', 'unfinished')  # filters follow, and …
FATES_OF_REWRITING = ('not_rewritten', 'ungraded_rewritten', 'wrong_rewritten')  # filters of what was rewritten, and …
LAST_FATES = ('exact_duplicate', 'near_duplicate', 'beyond_keep', 'kept')


@dataclasses.dataclass(frozen=True)
class Collect:
    """Rejection sampling: a stage that trains nothing, but samples, grades, and keeps what is good (R1 report, section 2.3.3).

    WORKDIR/data then has STAGE.all.jsonl, every sample with its grades, STAGE.jsonl, what was kept of them, and the data card with all
    counts, STAGE.card.json and STAGE.card.md.
    """

    problems: Problems  # ids must differ: they seed the draws
    sample: SampleConfig
    rewards: tuple[Part, ...]
    samples: int  # n, a prompt
    questions: int  # prompts a call and a write: memory, not results
    # all that apply to the problem must hold, and one must apply
    correct: tuple[Threshold, ...] = (Threshold('accuracy'),)
    filters: tuple[Filter, ...] = ()  # in this order
    unfinished: bool = False  # whether samples that were cut off may be kept: a rewrite could end them
    # kept are prompts whose share of correct samples lies there, bounds included
    pass_rate: tuple[float, float] = (0.0, 1.0)
    keep: int = 0  # examples of a prompt at most; 0: all
    prefer: Literal['shuffled', 'shortest', 'longest'] = 'shuffled'  # which of them; ties by the sample's number
    # (problem, response) -> the text to be stored in the sample's place, or None to drop it; or an object with
    # `many(problems, responses) -> Sequence[str | None]`. The rewards grade its text again, which has to be correct too
    rewrite: Callable[[Problem, Response], str | None] | Rewriter | None = None
    # to sample with, such as few-shot; None: the one that is stored
    template: Callable[[Problem, Any], str] | None = None
    near_duplicates: NearDuplicates | None = NearDuplicates()  # None: only exact ones are removed
    decontaminate: Decontaminate | None = Decontaminate()
