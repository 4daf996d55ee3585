"""Learned rewards: helpfulness reads only the summary, safety reads everything (R1 Methods).

In: problems and responses, many at a time. Out: f32[B], NaN where nothing could be scored. The model itself is passed in as a scoring
function, so this file knows no network:

    ask = Scorer.create(model, params, mesh)                             # r1jax.nn.scorer
    form = functools.partial(template.exchange, tokenizer=tokenizer)     # r1jax.data.template
    Part('helpful', Helpfulness(ask, form), kinds=('general',))

In a recipe, where there is no model yet, `Part('helpful', FromStage('helpful_rm', Helpfulness), kinds=('general',))` says where it will
come from, and the run puts the model in its place when the stage that uses it begins.

What a policy writes is text to `form`, never a turn of the conversation: a special token spelled out in a response would otherwise
let it write the next user's praise. `template.exchange` sees to that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from r1jax.config import BradleyTerry, Pointwise
from r1jax.types import Problem, Response

Score = Callable[[Sequence[Any]], np.ndarray]  # what `form` made of B responses -> f32[B], NaN where it cannot
Form = Callable[[Problem, str], Any]  # a problem and what is read of a response -> what `Score` takes


def summary(text: str) -> str:
    """What a reader is shown: all that follows the first `</think>`, '' if there is none.

    The first, not the last: a second `</think>` further down would hide from the judge what the reader sees.
    """
    return text.partition('</think>')[2].strip()


@dataclasses.dataclass(frozen=True)
class Helpfulness:
    """The score of the summary, as the Bradley–Terry loss trained it: only differences mean something."""

    score: Score
    form: Form
    missing: float = (
        -10.0
    )  # for a response without a summary, which helps nobody: below what the model gives to those it reads
    learned = True
    on_mesh = True
    loss = BradleyTerry  # of the model

    def many(self, problems: Sequence[Problem], responses: Sequence[Response]) -> np.ndarray:
        """f32[B]."""
        read = [summary(r.text) for r in responses]
        out = np.full(len(read), self.missing, np.float32)
        some = [i for i, text in enumerate(read) if text]
        out[some] = _scored(self.score, [self.form(problems[i], read[i]) for i in some])
        return out


@dataclasses.dataclass(frozen=True)
class Safety:
    """The probability that the whole response, reasoning included, is safe: σ of the score that the pointwise loss trained."""

    score: Score
    form: Form
    learned = True
    on_mesh = True
    loss = Pointwise

    def many(self, problems: Sequence[Problem], responses: Sequence[Response]) -> np.ndarray:
        """f32[B], in [0, 1]."""
        odds = _scored(self.score, [self.form(p, r.text) for p, r in zip(problems, responses, strict=True)])
        return np.float32(0.5) * (1 + np.tanh(odds / 2))  # σ, which does not overflow so


@dataclasses.dataclass(frozen=True)
class FromStage:
    """The reward model that an earlier stage of the recipe ends with."""

    stage: str  # whose loss is `reads.loss`
    reads: type[Helpfulness | Safety]
    settings: tuple[tuple[str, Any], ...] = ()  # of it: (('missing', -3.0),)
    learned = True

    def __post_init__(self):
        named = {field.name for field in dataclasses.fields(self.reads)} - {'score', 'form'}
        if wrong := [name for name, _ in self.settings if name not in named]:
            raise ValueError(f'{self.reads.__name__} has no setting {wrong[0]!r}: it has {", ".join(named) or "none"}')

    @property
    def stages(self) -> tuple[str, ...]:
        """Those whose output this reads."""
        return (self.stage,)

    @property
    def loss(self) -> type:
        return self.reads.loss

    def bound(self, score: Score, form: Form) -> Helpfulness | Safety:
        """The reward itself, by a model's scoring function."""
        return self.reads(score, form, **dict(self.settings))

    def many(self, problems: Sequence[Problem], responses: Sequence[Response]) -> np.ndarray:
        """RuntimeError: it stands for a model that is not there yet."""
        raise RuntimeError(f'the model of stage {self.stage} was to take this place before anything is graded')


def _scored(score: Score, read: Sequence[Any]) -> np.ndarray:
    """f32[B]; whatever is not finite is NaN. ValueError where the scoring function does not give one number each."""
    if not read:
        return np.zeros(0, np.float32)
    got = np.asarray(score(read), np.float32)
    if got.shape != (len(read),):
        raise ValueError(f'the scoring function gave shape {got.shape} for {len(read)} responses: one number each')
    return np.where(np.isfinite(got), got, np.float32(np.nan))
