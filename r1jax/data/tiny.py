"""The tiny world: a place small enough to pretrain in, where reasoning pays.

The task is sums modulo 10 of several digits. A small model cannot do them at once, but it can go step by step over
the running sum. Everything comes from a seed:

- `TinyCorpus`, what a messy web would be: over a quarter of the documents work the sum out, with occasional slips, some of
  which are noticed ("wait, ..."); the rest answer at once and are mostly wrong; some of either kind are malformed.
- `TinySums`, questions to train and to test on.
- `TinyTokenizer`, a SentencePiece model for exactly these texts.

A document, with the R1-Zero template as its prompt (the tokenizer has one token for the template's instruction):

    A conversation ... </answer>. User: 3+4+8=? (mod 10). Assistant: <think> 3+4=7 7+8=5 </think> <answer> 5 </answer>

So a base model has both modes and prefers the poor one, as its corpus does; reinforcement learning has to find that
thinking pays. Which problems are held out is decided by a hash of the problem, so no corpus and no training split of
any size or seed has one.

A second language would add its words to `WORDS`; questions that need no reasoning would be another piece beside these.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from r1jax.data import datasets, template
from r1jax.data.tokenizer import SentencePiece, train_sentencepiece
from r1jax.types import Example, Problem, Response

HELD_OUT = 10  # one problem in so many

# What an author says besides numbers; later languages get a line each.
WORDS = {
    'en': {
        'thin': (' easy', ' obvious', ' simple', ' hm'),  # all the thought of a direct answer
        'wait': ' wait,',  # a slip is noticed, the step is done again
        'before': (' Sure!', ' Good question.', ' I know this one.'),
        'after': (' Hope this helps!', ' Thanks for asking.', ' I am not sure though.', ' Please like and share.'),
    }
}

# Strings that are always one token: a sum is read and written digit by digit, and a tag costs as little as a digit.
SYMBOLS = (
    template.INSTRUCTION,
    ' User: ',
    '. Assistant:',
    '=? (mod 10)',
    *(' <think>', ' </think>', ' <answer>', ' </answer>'),
    *'0123456789+= ',
    *WORDS['en']['thin'],
    WORDS['en']['wait'],
)


def question(digits: Sequence[int]) -> str:
    """The question as a user puts it: 3+4+8=? (mod 10)."""
    return '+'.join(map(str, digits)) + '=? (mod 10)'


def held_out(digits: Sequence[int]) -> bool:
    """Whether a problem belongs to the held-out tenth. The order of the terms counts: 3+4 and 4+3 are two problems."""
    return int.from_bytes(hashlib.blake2s(bytes(digits), digest_size=4).digest()) % HELD_OUT == 0


def mode(response: Response) -> str:
    """'worked' if the thinking holds at least one step (an equals sign), else 'direct'."""
    _, _, thought = response.text.partition('<think>')
    return 'worked' if '=' in thought.partition('</think>')[0] else 'direct'


@dataclasses.dataclass(frozen=True)
class TinyCorpus:
    """Documents to pretrain on; the loss falls on what follows 'Assistant:'.

    Small digits are the common ones, as in any text (`skew`). That is what makes the addition table learnable in minutes: of a
    sum modulo 10 of uniform digits nothing can be said from either operand alone, so a small model gets no gradient towards
    reading them, and waits on that plateau for as long as its seed has it. The questions of `TinySums` are uniform.

    With the defaults a direct answer takes 8 tokens, a worked one 6 a step and 7 more, end token included. A reader
    that copied the corpus perfectly would be right in 30 % of its answers: 15 % of the direct ones, 70 % of the
    worked ones.
    """

    seed: int = 0
    size: int = 60_000  # documents
    terms: tuple[int, int] = (4, 9)  # fewest and most digits of a sum
    worked: float = 0.28  # share of documents that go step by step; the rest answers at once
    slip: float = 0.08  # chance of a wrong step; a slip propagates
    careful: float = 0.15  # share of the worked documents whose author notices slips and corrects them
    direct_correct: float = 0.15  # share of the direct answers that are right; a guess is in 10 %
    skew: float = 1.0  # digit d is drawn in proportion to (d + 1)^-skew; 0: all alike
    malformed: float = 0.08  # share of all documents with tags missing, doubled or out of order, or text outside them

    def __post_init__(self):
        _check(self.size, self.terms)
        for name in ('worked', 'slip', 'careful', 'direct_correct', 'malformed'):
            if not 0 <= (share := getattr(self, name)) <= 1:
                raise ValueError(f'TinyCorpus.{name}={share} must be between 0 and 1')

    def load(self) -> Sequence[Example]:
        """The documents, prepared as a TFDS dataset at the first call and read from it ever after."""
        rows = datasets.prepared(self, 'corpus', {'problem': str, 'answer': str, 'response': str}, self.rows)
        problems = [Problem(i, row['problem'], row['answer']) for i, row in enumerate(rows)]
        return [Example(template.r1_zero(p), row['response']) for p, row in zip(problems, rows, strict=True)]

    def rows(self) -> Iterator[dict[str, str]]:
        """Generates the documents: the problem, its true answer and the author's response."""
        rng = random.Random(f'corpus {self.seed}')
        for _ in range(self.size):
            digits = _draw(rng, self.terms, self.skew)
            while held_out(digits):
                digits = _draw(rng, self.terms, self.skew)
            think, answer = self._work(rng, digits) if rng.random() < self.worked else self._guess(rng, digits)
            layout = _malformed(rng) if rng.random() < self.malformed else WELL_FORMED
            response = layout.replace('THINK', think).replace('ANSWER', f' {answer}')
            yield {'problem': question(digits), 'answer': str(sum(digits) % 10), 'response': response}

    def _work(self, rng: random.Random, digits: Sequence[int]) -> tuple[str, int]:
        """Running partial sums, as far as the author gets them right."""
        careful = rng.random() < self.careful
        total, steps = digits[0], []
        for digit in digits[1:]:
            true = (total + digit) % 10
            said = _other(rng, true) if rng.random() < self.slip else true
            steps.append(f' {total}+{digit}={said}')
            if careful and said != true:
                steps.append(f'{WORDS["en"]["wait"]} {total}+{digit}={true}')
                said = true
            total = said
        return ''.join(steps), total

    def _guess(self, rng: random.Random, digits: Sequence[int]) -> tuple[str, int]:
        """A thought that is none, and an answer that is mostly wrong."""
        true = sum(digits) % 10
        return rng.choice(WORDS['en']['thin']), true if rng.random() < self.direct_correct else _other(rng, true)


WELL_FORMED = ' <think>THINK </think> <answer>ANSWER </answer>'


def _malformed(rng: random.Random) -> str:
    """A layout that the format reward refuses."""
    before, after = rng.choice(WORDS['en']['before']), rng.choice(WORDS['en']['after'])
    return rng.choice(
        (
            'THINK ANSWER',
            'THINK <answer>ANSWER </answer>',
            ' <think>THINK <answer>ANSWER </answer>',
            ' <think>THINK </think>ANSWER',
            ' <answer>ANSWER </answer>',
            ' <answer>ANSWER </answer> <think>THINK </think>',
            f'{WELL_FORMED} <answer>ANSWER </answer>',
            f'{WELL_FORMED}{after}',
            f'{before}{WELL_FORMED}',
        )
    )


@dataclasses.dataclass(frozen=True)
class TinySums:
    """Distinct questions of one side of the split. Ids are indices; a larger `size` goes on from a smaller one."""

    split: Literal['train', 'held_out'] = 'train'
    size: int = 4_000
    terms: tuple[int, int] = (4, 8)  # fewest and most digits of a sum
    seed: int = 0

    def __post_init__(self):
        _check(self.size, self.terms)
        if self.split not in ('train', 'held_out'):
            raise ValueError(f"TinySums.split={self.split!r} must be 'train' or 'held_out'")

    def load(self) -> Sequence[Problem]:
        """The questions, prepared as a TFDS dataset at the first call and read from it ever after.

        Raises:
          ValueError: there are not `size` different problems with so few terms.
        """
        rows = datasets.prepared(self, self.split, {'prompt': str, 'answer': str}, self.rows)
        return [Problem(i, row['prompt'], row['answer']) for i, row in enumerate(rows)]

    def rows(self) -> Iterator[dict[str, str]]:
        """Generates the questions with their answers."""
        rng = random.Random(f'sums {self.split} {self.seed}')
        seen = set()
        for _ in range(100 * HELD_OUT + 100 * self.size):  # nine draws in ten miss the held-out side
            digits = _draw(rng, self.terms)
            if digits in seen or held_out(digits) != (self.split == 'held_out'):
                continue
            seen.add(digits)
            yield {'prompt': question(digits), 'answer': str(sum(digits) % 10)}
            if len(seen) == self.size:
                return
        raise ValueError(
            f'TinySums has {len(seen)} of size={self.size} {self.split} problems: allow more than {self.terms} terms'
        )


@dataclasses.dataclass(frozen=True)
class TinyTokenizer:
    """A SentencePiece model for the tiny world, trained once a workdir."""

    seed: int = 0
    vocab: int = 96  # ids, exactly; the model's vocabulary

    def load(self, directory: str) -> SentencePiece:
        """Reads DIRECTORY/tokenizer.model, which is trained first if it is not there (half a second).

        Raises:
          ValueError: the file there has another number of ids, or `vocab` is too small or too large for these texts.
        """
        path = Path(directory) / 'tokenizer.model'
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            # malformed documents have all the words there are
            corpus = TinyCorpus(self.seed, size=1_000, malformed=1.0)
            train_sentencepiece((row['response'] for row in corpus.rows()), path, self.vocab, SYMBOLS)
        tokenizer = SentencePiece(path)
        if tokenizer.vocab_size != self.vocab:
            found = tokenizer.vocab_size
            raise ValueError(f'{path} has {found} ids, not vocab={self.vocab}: remove it or use another workdir')
        return tokenizer


def _draw(rng: random.Random, terms: tuple[int, int], skew: float = 0.0) -> tuple[int, ...]:
    return tuple(rng.choices(range(10), [(d + 1) ** -skew for d in range(10)], k=rng.randint(*terms)))


def _other(rng: random.Random, digit: int) -> int:
    return (digit + rng.randint(1, 9)) % 10


def _check(size: int, terms: tuple[int, int]) -> None:
    if size < 1:
        raise ValueError(f'{size=} must be at least 1')
    if not 2 <= terms[0] <= terms[1]:
        raise ValueError(f'{terms=} must be (fewest, most) with 2 <= fewest <= most')
