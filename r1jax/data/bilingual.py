r"""The tiny world in two languages: sums as in `r1jax.data.tiny`, with words in the steps, English or Chinese.

A question states its language: `3+4+8=? (mod 10)` or `3+4+8等于几？(模10)`. Each step of the reasoning begins with a word of one of them,
` first 3+4=7 then 7+8=5` or `先3+4=7再7+8=5`, one token either way. The corpus is as messy as the other, and its authors mix: those who
write in both languages at once are more careful than those who keep to one, so accuracy alone gives a policy no reason to keep to the
question's language, and a slight one not to. That is why R1-Zero mixes languages here, and the language reward has something to remove.

- `BilingualCorpus`, documents to pretrain on, conversations of `r1jax.data.chat_authors` among them.
- `BilingualSums`, questions; `BilingualTokenizer`, a SentencePiece model with one token for each phrase of this world.
- `readable`, how an author rewrites a response of R1-Zero for the cold start: in the question's language, closed by a summary.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence
from typing import Any

from r1jax.data import chat_authors, chats, datasets, template, tiny
from r1jax.data.chats import LANGUAGES
from r1jax.data.tiny import TinyCorpus, TinySums, check_shares, draw, guess, held_out, malformed, steps
from r1jax.data.tokenizer import SentencePiece
from r1jax.types import Example, Problem, Response

WORDS: dict[str, dict[str, Any]] = {  # a phrase, or several
    'en': {
        'question': '=? (mod 10)',
        'first': ' first ',
        'then': (' then ', ' next '),
        'wait': ' wait, ',  # a slip is noticed, the step is done again
        'summary': ('The answer is \\boxed{', '}.'),
        **{name: tiny.WORDS['en'][name] for name in ('thin', 'before', 'after')},
    },
    'zh': {
        'question': '等于几？(模10)',
        'first': '先',
        'then': ('再', '又'),
        'wait': '等等，',
        'summary': ('答案是\\boxed{', '}。'),
        'thin': ('简单', '显然', '容易', '嗯'),
        'before': ('好的！', '好问题。', '我知道。'),
        'after': ('希望有用！', '谢谢提问。', '不太确定。', '请点赞。'),
    },
}
REFLECTIVE = tuple(words['wait'].strip(' ,，') for words in WORDS.values())

# Strings that are always one token; those of one character are so anyway
SYMBOLS = tuple(
    dict.fromkeys(
        (
            *(symbol for symbol in tiny.SYMBOLS if symbol != tiny.WORDS['en']['wait']),
            *(
                text
                for words in WORDS.values()
                for value in words.values()
                for text in ([value] if isinstance(value, str) else value)
            ),
            *(template.USER, template.ASSISTANT),
            *chats.SYMBOLS,
        )
    )
)


def question(digits: Sequence[int], language: str) -> str:
    """The question as a user puts it: 3+4+8=? (mod 10) or 3+4+8等于几？(模10)."""
    return '+'.join(map(str, digits)) + WORDS[language]['question']


@dataclasses.dataclass(frozen=True)
class BilingualCorpus(TinyCorpus):
    """Documents to pretrain on, half of them in each language; the loss falls on what follows 'Assistant:'.

    Worked documents are as long as those of `TinyCorpus`: a word of a step stands where a space did.
    """

    worked: float = 0.32
    mixed: float = 0.6  # share of the worked documents whose words come from both languages at random
    slip: float = 0.10  # chance of a wrong step in the other worked documents …
    mixed_slip: float = 0.06  # … and in those
    # share of all documents that are conversations, as the web has them: helpful or not, safe or not
    chats: float = 0.15
    care: float = 0.8  # of the authors of those; see `ChatExamples`

    def __post_init__(self):
        super().__post_init__()
        check_shares(self, 'mixed', 'mixed_slip', 'chats', 'care')

    def load(self) -> Sequence[Example]:
        """The documents, prepared as a TFDS dataset at the first call and read from it ever after."""
        fields = {'problem': str, 'answer': str, 'language': str, 'response': str}
        rows = datasets.prepared(self, 'corpus', fields, self.rows, also=(tiny, chats, chat_authors))
        forms = [template.r1_zero if row['answer'] else template.dialogue for row in rows]
        problems = [Problem(i, row['problem'], row['answer']) for i, row in enumerate(rows)]
        return [Example(form(p), row['response']) for form, p, row in zip(forms, problems, rows, strict=True)]

    def rows(self) -> Iterator[dict[str, str]]:
        """Generates the documents: the problem, its true answer ('' of a conversation), its language and the author's response."""
        rng = random.Random(f'bilingual corpus {self.seed}')
        talk = chat_authors.ChatExamples(
            self.size, self.care, kind=0.3, refuses=0.3, overcautious=0.1, seed=self.seed
        ).rows()
        for _ in range(self.size):
            if rng.random() < self.chats:
                said = next(talk)
                response = said['response'] if rng.random() < 0.5 else said['response'].partition('</think>')[2]
                yield {'problem': said['prompt'], 'answer': '', 'language': said['language'], 'response': response}
                continue
            language = rng.choice(LANGUAGES)
            digits = draw(rng, self.terms, self.skew)
            while held_out(digits):
                digits = draw(rng, self.terms, self.skew)
            think, answer = (self._work_in if rng.random() < self.worked else self._guess_in)(rng, digits, language)
            layout = malformed(rng, WORDS[language]) if rng.random() < self.malformed else tiny.WELL_FORMED
            response = layout.replace('THINK', think).replace('ANSWER', f' {answer}')
            yield {
                'problem': question(digits, language),
                'answer': str(sum(digits) % 10),
                'language': language,
                'response': response,
            }

    def _work_in(self, rng: random.Random, digits: Sequence[int], language: str) -> tuple[str, int]:
        mixes = rng.random() < self.mixed
        said, total = steps(rng, digits, self.mixed_slip if mixes else self.slip, rng.random() < self.careful)
        out = ''
        for i, (text, again) in enumerate(said):
            words = WORDS[rng.choice(LANGUAGES) if mixes else language]
            out += (words['wait'] if again else rng.choice(words['then']) if i else words['first']) + text
        return out, total

    def _guess_in(self, rng: random.Random, digits: Sequence[int], language: str) -> tuple[str, int]:
        return rng.choice(WORDS[language]['thin']), guess(rng, digits, self.direct_correct)


@dataclasses.dataclass(frozen=True)
class BilingualSums(TinySums):
    """Distinct questions of one side of the split, half of them in each language. Sides are those of `TinySums`."""

    def load(self) -> Sequence[Problem]:
        rows = datasets.prepared(
            self, self.split, {'prompt': str, 'answer': str, 'language': str}, self.rows, also=(tiny,)
        )
        return [Problem(i, row['prompt'], row['answer'], language=row['language']) for i, row in enumerate(rows)]

    def rows(self) -> Iterator[dict[str, str]]:
        """Generates the questions with their answers."""
        rng = random.Random(f'bilingual sums {self.split} {self.seed}')
        for i, digits in enumerate(tiny.distinct(self, rng)):
            language = LANGUAGES[i % 2]
            yield {'prompt': question(digits, language), 'answer': str(sum(digits) % 10), 'language': language}


@dataclasses.dataclass(frozen=True)
class BilingualTokenizer:
    """A SentencePiece model for the bilingual world, trained once a workdir."""

    seed: int = 0
    vocab: int = 236  # ids, exactly: one for each phrase

    def load(self, directory: str) -> SentencePiece:
        """Reads DIRECTORY/tokenizer.model, which is trained first if it is not there.

        Raises:
          ValueError: the file there has another number of ids, or `vocab` is too small or too large for these texts.
        """
        corpus = BilingualCorpus(self.seed, size=4_000, malformed=1.0, chats=0.5)
        texts = (text for row in corpus.rows() for text in (row['problem'], row['response']))
        return tiny.trained(directory, self.vocab, texts, SYMBOLS)


def reflects(text: str) -> bool:
    """Whether a response has a reflective word: wait, 等等."""
    return any(word in text for word in REFLECTIVE)


def readable(problem: Problem, response: Response) -> str:
    r"""A response to a sum, rewritten: its reasoning word by word in the question's language, then a summary.

    ` <think> first 3+4=7再7+8=5 </think> <answer> 5 </answer>` → ` <think> first 3+4=7 then 7+8=5 </think> The answer is \boxed{5}.`
    """
    own, other = (WORDS[language] for language in sorted(LANGUAGES, key=lambda each: each != problem.language))
    before, _, after = response.text.partition('</think>')
    thought = before.partition('<think>')[2].rstrip()
    pairs = zip((other['first'], *other['then'], other['wait']), (own['first'], *own['then'], own['wait']), strict=True)
    for theirs, ours in pairs:
        thought = thought.replace(theirs, ours)
    answer = after.partition('<answer>')[2].partition('</answer>')[0].strip()
    return f' <think>{thought} </think> {answer.join(own["summary"])}'
