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

The same world in two languages is `r1jax.data.bilingual`, which shares what is said here; questions that need no reasoning are in
`r1jax.data.chats`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from r1jax.data import datasets, template
from r1jax.data.tokenizer import SentencePiece, train_sentencepiece
from r1jax.types import Example, Problem, Response

HELD_OUT = 10  # one problem in so many

# What an author says besides numbers.
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
        check_sizes(self.size, self.terms)
        check_shares(self, 'worked', 'slip', 'careful', 'direct_correct', 'malformed')

    def load(self) -> Sequence[Example]:
        """The documents, prepared as a TFDS dataset at the first call and read from it ever after."""
        rows = datasets.prepared(self, 'corpus', {'problem': str, 'answer': str, 'response': str}, self.rows)
        problems = [Problem(i, row['problem'], row['answer']) for i, row in enumerate(rows)]
        return [Example(template.r1_zero(p), row['response']) for p, row in zip(problems, rows, strict=True)]

    def rows(self) -> Iterator[dict[str, str]]:
        """Generates the documents: the problem, its true answer and the author's response."""
        rng = random.Random(f'corpus {self.seed}')
        for _ in range(self.size):
            digits = draw(rng, self.terms, self.skew)
            while held_out(digits):
                digits = draw(rng, self.terms, self.skew)
            think, answer = self._work(rng, digits) if rng.random() < self.worked else self._guess(rng, digits)
            layout = malformed(rng, WORDS['en']) if rng.random() < self.malformed else WELL_FORMED
            response = layout.replace('THINK', think).replace('ANSWER', f' {answer}')
            yield {'problem': question(digits), 'answer': str(sum(digits) % 10), 'response': response}

    def _work(self, rng: random.Random, digits: Sequence[int]) -> tuple[str, int]:
        """Running partial sums, as far as the author gets them right."""
        said, total = steps(rng, digits, self.slip, rng.random() < self.careful)
        return ''.join(f'{WORDS["en"]["wait"] if again else ""} {text}' for text, again in said), total

    def _guess(self, rng: random.Random, digits: Sequence[int]) -> tuple[str, int]:
        """A thought that is none, and an answer that is mostly wrong."""
        return rng.choice(WORDS['en']['thin']), guess(rng, digits, self.direct_correct)


def steps(rng: random.Random, digits: Sequence[int], slip: float, careful: bool) -> tuple[list[tuple[str, bool]], int]:
    """The equations that an author writes, each with whether it does the one before again, and the sum that comes out.

    Args:
      digits: the terms.
      slip: chance of a wrong step; it propagates, unless the author is careful and does the step again.
    """
    total, said = digits[0], []
    for digit in digits[1:]:
        true = (total + digit) % 10
        got = _other(rng, true) if rng.random() < slip else true
        said.append((f'{total}+{digit}={got}', False))
        if careful and got != true:
            said.append((f'{total}+{digit}={true}', True))
            got = true
        total = got
    return said, total


def guess(rng: random.Random, digits: Sequence[int], correct: float) -> int:
    """An answer at once, which is right with chance `correct`."""
    true = sum(digits) % 10
    return true if rng.random() < correct else _other(rng, true)


WELL_FORMED = ' <think>THINK </think> <answer>ANSWER </answer>'


def malformed(rng: random.Random, words: Mapping[str, Sequence[str]]) -> str:
    """A layout that the format reward refuses. `words` are one language's of `WORDS`."""
    before, after = rng.choice(words['before']), rng.choice(words['after'])
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
        check_sizes(self.size, self.terms)
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
        for digits in distinct(self, rng):
            yield {'prompt': question(digits), 'answer': str(sum(digits) % 10)}


def distinct(source: TinySums, rng: random.Random) -> Iterator[tuple[int, ...]]:
    """The terms of `source.size` different sums of its side of the split.

    Raises:
      ValueError: there are not so many with so few terms.
    """
    seen = set()
    for _ in range(100 * HELD_OUT + 100 * source.size):  # nine draws in ten miss the held-out side
        digits = draw(rng, source.terms)
        if digits in seen or held_out(digits) != (source.split == 'held_out'):
            continue
        seen.add(digits)
        yield digits
        if len(seen) == source.size:
            return
    name = type(source).__name__
    raise ValueError(
        f'{name} has {len(seen)} of size={source.size} {source.split} problems: allow more than {source.terms} terms'
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
        # malformed documents have all the words there are
        corpus = TinyCorpus(self.seed, size=1_000, malformed=1.0)
        return trained(directory, self.vocab, (row['response'] for row in corpus.rows()), SYMBOLS)


def trained(directory: str, vocab: int, texts: Iterable[str], symbols: Sequence[str]) -> SentencePiece:
    """The tokenizer DIRECTORY/tokenizer.model, trained on the texts if it is not there; see `TinyTokenizer.load`."""
    path = Path(directory) / 'tokenizer.model'
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        train_sentencepiece(texts, path, vocab, symbols)
    tokenizer = SentencePiece(path)
    if tokenizer.vocab_size != vocab:
        found = tokenizer.vocab_size
        raise ValueError(f'{path} has {found} ids, not {vocab=}: remove it or use another workdir')
    return tokenizer


def draw(rng: random.Random, terms: tuple[int, int], skew: float = 0.0) -> tuple[int, ...]:
    return tuple(rng.choices(range(10), [(d + 1) ** -skew for d in range(10)], k=rng.randint(*terms)))


def _other(rng: random.Random, digit: int) -> int:
    return (digit + rng.randint(1, 9)) % 10


def check_sizes(size: int, terms: tuple[int, int]) -> None:
    if size < 1:
        raise ValueError(f'{size=} must be at least 1')
    if not 2 <= terms[0] <= terms[1]:
        raise ValueError(f'{terms=} must be (fewest, most) with 2 <= fewest <= most')


def check_shares(source: object, *names: str) -> None:
    for name in names:
        if not 0 <= (share := getattr(source, name)) <= 1:
            raise ValueError(f'{type(source).__name__}.{name}={share} must be between 0 and 1')
