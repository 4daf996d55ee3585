"""Answers to `r1jax.data.chats` as data: to learn from, to compare, to label. Everything comes from a seed, by rule.

- `Chats`, requests to train and to test on; `ChatExamples`, answers of authors of uneven care.
- `ChatPairs`, two answers to a request of which noisy judges prefer one, for a helpfulness reward model. As in the R1 report's Methods:
  judged four times with A and B swapped, kept where the mean gap is wide enough, lengths balanced.
- `ChatLabels`, answers with a label, 1 safe and 0 unsafe, for a safety reward model, which reads reasoning too.

Authors never pad, so no pair says that kindness said thrice is too much: a hole of the reward model, for a policy to find.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from r1jax.data import chats, datasets, judgements, template
from r1jax.data.chats import ADVICE, LANGUAGES, NAMES, NUMBERS, TASKS, THINGS, WHO, WORDS, Request, reply, written
from r1jax.data.judgements import decided, length_balanced
from r1jax.data.tiny import check_shares
from r1jax.types import Example, Labelled, Pair, Problem, Response

_ROW = {'prompt': str, 'task': str, 'language': str, 'wants': str}


def _row(request: Request) -> dict[str, str]:
    wants = json.dumps(request.wants, ensure_ascii=False)
    return {'prompt': request.prompt, 'task': request.task, 'language': request.language, 'wants': wants}


def _problem(id: int, row: dict[str, str]) -> Problem:
    kind = 'safety' if row['task'] == 'unsafe' else 'general'
    return Problem(
        id, row['prompt'], '', kind, row['language'], {'task': row['task'], 'wants': json.loads(row['wants'])}
    )


@dataclasses.dataclass(frozen=True)
class Chats:
    """Requests of one side of the split, the tasks in turn, each in both languages. Ids count up from 0."""

    split: Literal['train', 'held_out'] = 'train'
    size: int = 1_000
    tasks: tuple[str, ...] = TASKS
    seed: int = 0

    def __post_init__(self):
        if self.split not in ('train', 'held_out'):
            raise ValueError(f"Chats.split={self.split!r} must be 'train' or 'held_out'")
        if unknown := set(self.tasks).difference(TASKS):
            raise ValueError(f'Chats.tasks has {sorted(unknown)}: known are {", ".join(TASKS)}')
        if not self.tasks or self.size < 1:
            raise ValueError(f'Chats needs tasks and size >= 1, not {self.tasks} and {self.size}')

    def load(self) -> Sequence[Problem]:
        """The requests, prepared as a TFDS dataset at the first call and read from it ever after.

        Raises:
          ValueError: there are not `size` different requests.
        """
        rows = datasets.prepared(self, self.split, _ROW, self.rows, also=(chats,))
        return [_problem(i, row) for i, row in enumerate(rows)]

    def rows(self) -> Iterator[dict[str, str]]:
        """Generates the requests; a task that has no more of them is passed over."""
        rng = random.Random(f'chats {self.split} {self.seed}')
        left = []
        for task in self.tasks:
            for language in LANGUAGES:
                found = [
                    r for r in chats.requests(task, language) if chats.held_out(r.prompt) == (self.split != 'train')
                ]
                rng.shuffle(found)
                left.append(found)
        count = sum(map(len, left))
        if count < self.size:
            raise ValueError(f'Chats has only {count} {self.split} requests of {self.tasks}, not size={self.size}')
        given = 0
        while given < self.size:
            for found in left:
                if found and given < self.size:
                    given += 1
                    yield _row(found.pop())


@dataclasses.dataclass(frozen=True)
class ChatExamples:
    """Answers to train on. The authors are of uneven care, so that there is something left for preferences to teach."""

    size: int = 4_000
    care: float = 0.97  # chance of each thing wanted that it is there
    kind: float = 0.5  # chance of a kind word
    refuses: float = 0.9  # chance that an unsafe request is refused …
    overcautious: float = 0.15  # … and a harmless one that looks unsafe
    tasks: tuple[str, ...] = TASKS
    seed: int = 0
    template: Literal['r1', 'dialogue'] = 'r1'  # of `r1jax.data.template`

    def __post_init__(self):
        check_shares(self, 'care', 'kind', 'refuses', 'overcautious')

    def load(self) -> Sequence[Example]:
        """The answers, prepared as a TFDS dataset at the first call and read from it ever after."""
        rows = datasets.prepared(self, 'examples', {**_ROW, 'response': str}, self.rows, also=(chats,))
        form = template.r1 if self.template == 'r1' else template.dialogue
        return [Example(form(_problem(i, row)), row['response']) for i, row in enumerate(rows)]

    def rows(self) -> Iterator[dict[str, str]]:
        """Generates requests of the training side, over and over, with an answer each."""
        rng = random.Random(f'examples {self.seed}')
        for request in _drawn(rng, self.tasks, self.size, 'train'):
            refuses = {'unsafe': self.refuses, 'advise': self.overcautious}.get(request.task, 0.0)
            yield {**_row(request), 'response': written(request, answer(rng, request, self.care, self.kind, refuses))}


@dataclasses.dataclass(frozen=True)
class ChatPairs:
    """Two answers to a harmless request and which of them is better, as judges see it.

    A judge's score is the rule's, in tenths, with noise and a favour for what is shown first. Each pair is judged four times, A first
    in two of them; which pairs are kept, `decided` and `length_balanced` of `r1jax.data.judgements` say.
    """

    size: int = 2_000
    split: Literal['train', 'held_out'] = 'train'
    gap: float = 1.5  # points of ten
    noise: float = 0.5  # points, standard deviation of a judgement
    favour: float = 0.5  # points for the answer shown first
    care: float = 0.6  # chance of each thing wanted that it is there, and of a kind word
    seed: int = 0

    def load(self) -> Sequence[Pair]:
        """The pairs, prepared as a TFDS dataset at the first call and read from it ever after."""
        fields = {**_ROW, 'chosen': str, 'rejected': str}
        rows = datasets.prepared(self, self.split, fields, self.rows, also=(chats, judgements))
        return [Pair(_problem(i, row), row['chosen'], row['rejected']) for i, row in enumerate(rows)]

    def rows(self) -> Iterator[dict[str, str]]:
        """Generates the pairs; what is compared are summaries.

        Raises:
          ValueError: too few of the pairs that are judged are left.
        """
        rng = random.Random(f'pairs {self.split} {self.seed}')
        requests, judged = [], []
        for request in _drawn(rng, TASKS[:-1], 4 * self.size, self.split):
            refuses = 0.3 if request.task == 'advise' else 0.05
            two = [answer(rng, request, self.care, self.care, refuses) for _ in range(2)]
            if two[0] == two[1]:
                continue
            judged.append((*two, self._gap(rng, request, two)))
            requests.append(request)
        problems = [_problem(i, _row(request)) for i, request in enumerate(requests)]
        first, second, gaps = zip(*judged, strict=True)
        pairs = length_balanced(decided(problems, first, second, gaps, margin=self.gap))[: self.size]
        if len(pairs) < self.size:
            raise ValueError(
                f'of {len(judged)} pairs {len(pairs)} are left, not size={self.size}: lower gap={self.gap}'
            )
        for pair in pairs:
            yield {**_row(requests[pair.problem.id]), 'chosen': pair.chosen, 'rejected': pair.rejected}

    def _gap(self, rng: random.Random, request: Request, two: Sequence[str]) -> float:
        """How many points of ten the judges give the first of two answers more than the second, in the mean."""
        problem = _problem(0, _row(request))
        points = [10 * chats.helpful(problem, Response(text, 1, True)) for text in two]
        seen = [points[0] - points[1] + rng.gauss(0, self.noise * 2**0.5) for _ in range(4)]
        return sum(each + sign * self.favour for each, sign in zip(seen, (1, -1, 1, -1), strict=True)) / 4


@dataclasses.dataclass(frozen=True)
class ChatLabels:
    """Answers to unsafe requests, and to harmless ones that look like them, with 1 for a safe answer and 0 for an unsafe one."""

    size: int = 2_000
    split: Literal['train', 'held_out'] = 'train'
    seed: int = 0

    def load(self) -> Sequence[Labelled]:
        """The answers, prepared as a TFDS dataset at the first call and read from it ever after."""
        fields = {**_ROW, 'response': str, 'safe': int}
        rows = datasets.prepared(self, self.split, fields, self.rows, also=(chats,))
        return [Labelled(_problem(i, row), row['response'], float(row['safe'])) for i, row in enumerate(rows)]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Generates the answers, whole: the deed may stand in the reasoning, or after a refusal, and then the answer is unsafe."""
        rng = random.Random(f'labels {self.split} {self.seed}')
        for request in _drawn(rng, ('unsafe', 'unsafe', 'advise'), self.size, self.split):
            deed = reply(request, request.wants, request.language)
            refusal = WORDS[request.language]['refusal']
            said, thought = rng.choice(
                (
                    (refusal, None),
                    (refusal, None),
                    (refusal, ''),
                    (deed, None),
                    (deed, ''),
                    (refusal + deed, None),
                    (refusal, deed),
                )
            )
            kind = rng.choice(('', '', *WORDS[request.language]['kind']))
            response = written(request, said + kind, thought)
            label = chats.safe(_problem(0, _row(request)), Response(response, 1, True))
            yield {**_row(request), 'response': response, 'safe': int(label)}


def _drawn(rng: random.Random, tasks: Sequence[str], size: int, split: str) -> Iterator[Request]:
    """Requests of one side of the split, drawn with replacement: the task, the language, the request."""
    of = {
        (task, language): [r for r in chats.requests(task, language) if chats.held_out(r.prompt) == (split != 'train')]
        for task in set(tasks)
        for language in LANGUAGES
    }
    for _ in range(size):
        yield rng.choice(of[rng.choice(tasks), rng.choice(LANGUAGES)])


def answer(rng: random.Random, request: Request, care: float, kind: float, refuses: float) -> str:
    """What an author replies, with mistakes as far as they do not care.

    Args:
      care: chance of each thing wanted that it is there; half the careless write in the wrong language.
      kind: chance of a kind word.
      refuses: chance of a refusal.
    """
    if rng.random() < refuses:
        return WORDS[request.language]['refusal']
    other = LANGUAGES[1 - LANGUAGES.index(request.language)]
    language = other if rng.random() < (1 - care) / 2 else request.language
    wants = tuple(want if rng.random() < care else _wrong(rng, request, want) for want in request.wants)
    return reply(request, wants, language) + (rng.choice(WORDS[language]['kind']) if rng.random() < kind else '')


def _wrong(rng: random.Random, request: Request, want: str) -> str:
    """Something of the same sort as what was wanted."""
    language = request.language
    told = [want for _, want, _ in WHO[language]]
    verbs, things = ([pair[i] for pairs in ADVICE[language] for pair in pairs] for i in (0, 1))
    pools = NAMES[language], NUMBERS[language], THINGS[language], told, verbs, things
    pool = next(pool for pool in pools if want in pool)
    return rng.choice([each for each in pool if each != want])
