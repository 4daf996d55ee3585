"""The tiny world with a calculator at hand: sums and products too large for a small head, where asking a tool pays.

Everything comes from a seed, as in `r1jax.data.tiny`:

- `TinyCalls`, what a messy web would be: three documents in ten call the calculator, with slips in what is asked and in what is read; the
  rest answers at once and is nearly always wrong; some of either kind are malformed.
- `TinyArithmetic`, questions to train and to test on.
- `CallsTokenizer`, a SentencePiece model for exactly these texts.

A document that calls, with the R1-Zero template as its prompt:

    A conversation ... </answer>. User: 37*482=?. Assistant: <think> <tool_call> {"name": "calculator", "arguments": {"expression":
    "37*482"}} </tool_call> <tool_response> 17834 </tool_response> </think> <answer> 17834 </answer>

In pretraining what the tool says is text like any other. In RL the calculator says it, behind the token `</tool_call>`, which ends a turn.
Which problems are held out is decided by a hash of the problem, so no corpus and no training split has one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Iterator, Sequence
from typing import Literal

from r1jax.data import datasets, template, tiny
from r1jax.data.tokenizer import SentencePiece
from r1jax.types import Example, Problem, Response

HEAD, TAIL = ' {"name": "calculator", "arguments": {"expression": "', '"}}'
WRONG = ' {"name": "computer", "arguments": {"expression": "'  # a tool that there is not
CALLED = f' <think> <tool_call>{HEAD}ASKED{TAIL} </tool_call> <tool_response> SAID </tool_response> </think> <answer> ANSWER </answer>'
AT_ONCE = ' <think>THIN </think> <answer> ANSWER </answer>'

# Strings that are always one token
SYMBOLS = (
    template.INSTRUCTION,
    ' User: ',
    '. Assistant:',
    '=?',
    *(' <think>', ' </think>', ' <answer>', ' </answer>'),
    *(' <tool_call>', ' </tool_call>', ' <tool_response>', ' </tool_response>'),
    *(HEAD, WRONG, TAIL),
    *'0123456789+*- ',
    *tiny.WORDS['en']['thin'],
)
# What the tokenizer knows besides: what a calculator says to what it cannot read
_ERRORS = (
    'error: a call is JSON: {"name": ..., "arguments": {...}} | error: a call ends with </tool_call>',
    'error: no such tool; there are calculator | error: 7 is not expected there | error: the expression ends too early',
    'error: = is not arithmetic | error: calculator needs expression | error: only 4 calls of a turn are answered',
)


def question(a: int, sign: str, b: int) -> str:
    """The question as a user puts it: 37*482=?"""
    return f'{a}{sign}{b}=?'


def held_out(asked: str) -> bool:
    """Whether a question belongs to the held-out tenth. The order of the terms counts: 3+4 and 4+3 are two problems."""
    return int.from_bytes(hashlib.blake2s(asked.encode(), digest_size=4).digest()) % tiny.HELD_OUT == 0


def mode(response: Response) -> str:
    """'called' if the environment has answered, else 'direct'."""
    return 'called' if len(response.turns) > 1 else 'direct'


@dataclasses.dataclass(frozen=True)
class TinyCalls:
    """Documents to pretrain on; the loss falls on what follows 'Assistant:'."""

    seed: int = 0
    size: int = 60_000  # documents
    digits: tuple[int, int] = (2, 3)  # fewest and most digits of a term
    called: float = 0.3  # share of documents that call the calculator; the rest answers at once
    slip: float = 0.1  # chance that a call asks for something else, one digit of it wrong
    misread: float = 0.1  # chance that the answer is not what the calculator said, one digit of it wrong
    direct_correct: float = 0.03  # share of the direct answers that are right
    # share of all documents with tags missing or out of order, or a call that no tool understands
    malformed: float = 0.1

    def __post_init__(self):
        _check_sizes(self.size, self.digits)
        tiny.check_shares(self, 'called', 'slip', 'misread', 'direct_correct', 'malformed')

    def load(self) -> Sequence[Example]:
        """The documents, prepared as a TFDS dataset at the first call and read from it ever after."""
        rows = datasets.prepared(self, 'corpus', {'problem': str, 'answer': str, 'response': str}, self.rows, (tiny,))
        problems = [Problem(i, row['problem'], row['answer']) for i, row in enumerate(rows)]
        return [Example(template.r1_zero(p), row['response']) for p, row in zip(problems, rows, strict=True)]

    def rows(self) -> Iterator[dict[str, str]]:
        """Generates the documents: the problem, its true answer and the author's response."""
        rng = random.Random(f'calls {self.seed}')
        for _ in range(self.size):
            asked, answer = draw(rng, self.digits)
            while held_out(asked):
                asked, answer = draw(rng, self.digits)
            text = self._calls(rng, asked) if rng.random() < self.called else self._guesses(rng, answer)
            if rng.random() < self.malformed:
                text = malformed(rng, text)
            yield {'problem': asked, 'answer': str(answer), 'response': text}

    def _calls(self, rng: random.Random, asked: str) -> str:
        """A call, as far as the author gets it right."""
        wanted = asked.removesuffix('=?')
        if rng.random() < self.slip:
            wanted = _slipped(rng, wanted)
        said = str(_worth(wanted))
        answer = _slipped(rng, said) if rng.random() < self.misread else said
        return CALLED.replace('ASKED', wanted).replace('SAID', said).replace('ANSWER', answer)

    def _guesses(self, rng: random.Random, answer: int) -> str:
        """A thought that is none, and a number of about the right size."""
        said = str(answer)
        if rng.random() >= self.direct_correct:
            said = str(rng.randint(10 ** (len(said) - 1), 10 ** len(said) - 1))
        return AT_ONCE.replace('THIN', rng.choice(tiny.WORDS['en']['thin'])).replace('ANSWER', said)


def draw(rng: random.Random, digits: tuple[int, int]) -> tuple[str, int]:
    """A question and its answer."""
    a, b = (rng.randint(10 ** (n - 1), 10**n - 1) for n in (rng.randint(*digits), rng.randint(*digits)))
    sign = rng.choice('+*')
    return question(a, sign, b), a + b if sign == '+' else a * b


def malformed(rng: random.Random, text: str) -> str:
    """A document with a fault: tags that are missing or doubled, or a call that no tool understands."""
    faults = [(' </think>', ''), (' <answer>', ''), (' <think>', ''), (' </answer>', ' </answer> </answer>')]
    if HEAD in text:
        faults += [(HEAD, WRONG), (TAIL, ''), (HEAD, ' '), (' <tool_call>', ''), (' </tool_call>', '')]
    return text.replace(*rng.choice(faults))


def _worth(expression: str) -> int:
    sign = '+' if '+' in expression else '*'
    a, b = map(int, expression.split(sign))
    return a + b if sign == '+' else a * b


def _slipped(rng: random.Random, text: str) -> str:
    """The text with one of its digits another."""
    i = rng.choice([i for i, letter in enumerate(text) if letter.isdecimal()])
    return text[:i] + str((int(text[i]) + rng.randint(1, 9)) % 10) + text[i + 1 :]


@dataclasses.dataclass(frozen=True)
class TinyArithmetic:
    """Distinct questions of one side of the split. Ids are indices; a larger `size` goes on from a smaller one."""

    split: Literal['train', 'held_out'] = 'train'
    size: int = 4_000
    digits: tuple[int, int] = (2, 3)  # fewest and most digits of a term
    seed: int = 0

    def __post_init__(self):
        _check_sizes(self.size, self.digits)
        if self.split not in ('train', 'held_out'):
            raise ValueError(f"TinyArithmetic.split={self.split!r} must be 'train' or 'held_out'")
        low, high = self.digits
        room = 2 * (10**high - 10 ** (low - 1)) ** 2 // tiny.HELD_OUT
        if self.size > room // 2:
            raise ValueError(
                f'TinyArithmetic.size={self.size} is more than half of the about {room} such questions: allow more digits'
            )

    def load(self) -> Sequence[Problem]:
        """The questions, prepared as a TFDS dataset at the first call and read from it ever after."""
        rows = datasets.prepared(self, self.split, {'prompt': str, 'answer': str}, self.rows, (tiny,))
        return [Problem(i, row['prompt'], row['answer']) for i, row in enumerate(rows)]

    def rows(self) -> Iterator[dict[str, str]]:
        """Generates the questions with their answers."""
        rng = random.Random(f'arithmetic {self.split} {self.seed}')
        seen: set[str] = set()
        while len(seen) < self.size:
            asked, answer = draw(rng, self.digits)
            if asked not in seen and held_out(asked) == (self.split == 'held_out'):
                seen.add(asked)
                yield {'prompt': asked, 'answer': str(answer)}


@dataclasses.dataclass(frozen=True)
class CallsTokenizer:
    """A SentencePiece model for this world, trained once a workdir."""

    seed: int = 0
    vocab: int = 128  # ids, exactly; the model's vocabulary

    def load(self, directory: str) -> SentencePiece:
        """Reads DIRECTORY/tokenizer.model, which is trained first if it is not there; raises as `tiny.TinyTokenizer.load`."""
        corpus = TinyCalls(self.seed, size=1_000, called=0.5)
        texts = [*(row['response'] for row in corpus.rows()), *100 * _ERRORS]
        return tiny.trained(directory, self.vocab, texts, SYMBOLS)


def _check_sizes(size: int, digits: tuple[int, int]) -> None:
    if size < 1:
        raise ValueError(f'{size=} must be at least 1')
    if not 1 <= digits[0] <= digits[1]:
        raise ValueError(f'{digits=} must be (fewest, most) with 1 <= fewest <= most')
