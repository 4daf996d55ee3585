"""Which samples are kept: the pure half of rejection sampling, block by block, with a reason for each that is not.

A sample is asked these in order, and the first *no* is its fate, under which the data card counts it:

    was it graded · is it correct · is its prompt of the right difficulty · did it end · each filter
    → in the order of `Collect.prefer`, until the prompt has `keep`:
    can it be rewritten · is it still correct · filters of what was rewritten · is it no duplicate, exact or near, of what was kept

So no text is rewritten that would not be kept, which matters where a model rewrites. What comes out depends on the samples, their order
and the seed; nothing on how many are looked at together beyond `BLOCK`, which is fixed.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Literal

from r1jax.config import Collect, Filter
from r1jax.curate.card import Tally
from r1jax.curate.duplicates import Seen
from r1jax.types import Problem, Response

BLOCK = 64  # prompts that are rewritten and verified together. The order of duplicates depends on it: it is no setting

Verdict = Literal['correct', 'wrong', 'ungraded']
Verify = Callable[[Sequence[Problem], Sequence[Response]], Sequence[Verdict]]


@dataclasses.dataclass(frozen=True)
class Sample:
    number: int  # among the prompt's
    response: Response
    verdict: Verdict


@dataclasses.dataclass(frozen=True)
class Chosen:
    """An example to store."""

    index: int  # of its prompt in the block
    sample: int
    response: Response  # as it is stored
    pass_rate: float
    rewritten: bool


def pass_rate(samples: Sequence[Sample]) -> float | None:
    """The share of correct samples among those that could be graded; None if none could."""
    graded = [sample for sample in samples if sample.verdict != 'ungraded']
    return sum(sample.verdict == 'correct' for sample in graded) / len(graded) if graded else None


class Choice:
    """Chooses, block after block.

    Args:
      cfg: the stage's source.
      seed: of the order 'shuffled'.
      verify: grades rewritten texts.
      tokens: the number of tokens of a rewritten text, end token included.
      stored: reads the text (`text_of`) of an example that was chosen in an earlier block, by its number.
      tally: counts.
    """

    def __init__(
        self,
        cfg: Collect,
        seed: int,
        verify: Verify,
        tokens: Callable[[str], int],
        stored: Callable[[int], str],
        tally: Tally,
    ):
        self.cfg, self.seed, self.verify, self.tokens, self.tally = cfg, seed, verify, tokens, tally
        self.first = 0  # number of the block's first example
        self.texts: list[str] = []  # of the block's examples, by number
        near = cfg.near_duplicates
        sizes = (near.threshold, near.words, near.permutations) if near else (0.0, 1, 2)
        self.seen = Seen(*sizes, lambda i: stored(i) if i < self.first else self.texts[i - self.first])

    def block(self, problems: Sequence[Problem], samples: Sequence[Sequence[Sample]]) -> list[Chosen]:
        """The examples of at most `BLOCK` prompts, in the order in which they are numbered.

        Args:
          problems: of the prompts.
          samples: all of each prompt's.
        """
        self.first, self.texts = self.first + len(self.texts), []
        queues = [list(self._candidates(*pair)) for pair in zip(problems, samples, strict=True)]
        rates = [pass_rate(group) for group in samples]
        kept = [0] * len(problems)
        out: list[Chosen] = []
        while turn := [
            (i, queue.pop(0))
            for i, queue in enumerate(queues)
            for _ in range(min(len(queue), self.cfg.keep - kept[i] if self.cfg.keep else len(queue)))
        ]:
            stored = self._rewritten([problems[i] for i, _ in turn], [sample for _, sample in turn])
            for (i, sample), response in zip(turn, stored, strict=True):
                if response is None:
                    continue
                text = text_of(problems[i].prompt, response.text)
                if repeats := self.seen.repeats(text):
                    self.tally.sample(problems[i], f'{repeats}_duplicate')
                    continue
                self.seen.add(self.first + len(self.texts), text)
                self.texts.append(text)
                self.tally.kept(problems[i], response.tokens)
                kept[i] += 1
                out.append(Chosen(i, sample.number, response, rates[i], response is not sample.response))
        for problem, queue, count in zip(problems, queues, kept, strict=True):
            if count:
                self.tally.prompt_kept(problem)
            for _ in queue:
                self.tally.sample(problem, 'beyond_keep')
        return out

    def _candidates(self, problem: Problem, samples: Sequence[Sample]) -> Iterator[Sample]:
        """The samples that may be kept, best first."""
        rate, (low, high) = pass_rate(samples), self.cfg.pass_rate
        self.tally.prompt(problem, rate, [sample.response.tokens for sample in samples])
        off = 'too_hard' if rate is not None and rate < low else 'too_easy' if rate is not None and rate > high else ''
        good = []
        for sample in samples:
            fate = sample.verdict if sample.verdict != 'correct' else off
            if not fate and not sample.response.finished and not self.cfg.unfinished:
                fate = 'unfinished'
            if fate := fate or self._filtered(problem, sample.response, rewritten=False):
                self.tally.sample(problem, fate)
            else:
                good.append(sample)
        if self.cfg.prefer == 'shuffled':
            random.Random(f'{self.seed} {problem.id}').shuffle(good)
        else:
            sign = 1 if self.cfg.prefer == 'shortest' else -1
            good.sort(key=lambda sample: sign * sample.response.tokens)  # stable: ties by number
        return iter(good)

    def _filtered(self, problem: Problem, response: Response, rewritten: bool) -> str:
        """Name of the first filter that drops a response; '' if none does."""
        asked = (each for each in self.cfg.filters if each.rewritten == rewritten and concerns(each, problem))
        return next((each.name for each in asked if not each.keep(problem, response)), '')

    def _rewritten(self, problems: Sequence[Problem], samples: Sequence[Sample]) -> list[Response | None]:
        """What would be stored of each sample; None, and counted, where nothing."""
        responses: list[Response | None] = [sample.response for sample in samples]
        if self.cfg.rewrite is None:
            return responses
        if hasattr(self.cfg.rewrite, 'many'):
            texts = list(self.cfg.rewrite.many(problems, responses))
        else:
            texts = [self.cfg.rewrite(*pair) for pair in zip(problems, responses, strict=True)]
        if len(texts) != len(problems):
            raise ValueError(f'{self.cfg.rewrite!r:.80} gave {len(texts)} texts for {len(problems)} samples')
        responses = [None if text is None else Response(text, self.tokens(text), True) for text in texts]
        some = [i for i, response in enumerate(responses) if response is not None]
        verdicts = self.verify([problems[i] for i in some], [responses[i] for i in some]) if some else []
        verdict = dict(zip(some, verdicts, strict=True))
        for i, problem in enumerate(problems):
            fate = 'not_rewritten'
            if i in verdict:
                fate = f'{verdict[i]}_rewritten' if verdict[i] != 'correct' else ''
                fate = fate or self._filtered(problem, responses[i], rewritten=True)
            if fate:
                self.tally.sample(problem, fate)
                responses[i] = None
        return responses


def without_effect(cfg: Collect, kinds: Collection[Problem]) -> str:
    """Why the settings do not fit the problems, '' if they do: a kind of which nothing says what is correct, or a filter of no kind.

    `kinds`: a problem of each.
    """
    deciding = [part for part in cfg.rewards if part.name in {each.part for each in cfg.correct}]
    for problem in kinds:
        if not any(not part.kinds or problem.kind in part.kinds for part in deciding):
            return f'nothing in source.correct applies to problems of kind {problem.kind!r}, such as {problem.id}'
    idle = next((f.name for f in cfg.filters if not any(concerns(f, problem) for problem in kinds)), None)
    return '' if idle is None else f'source.filters.{idle} names kinds that no problem has'


def text_of(prompt: str, response: str) -> str:
    """What makes an example another one: the question and the response."""
    return f'{prompt}\n{response}'


def concerns(each: Filter, problem: Problem) -> bool:
    return not each.kinds or problem.kind in each.kinds
