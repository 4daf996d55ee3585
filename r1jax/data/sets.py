"""Published sets of problems with answers that a rule can check: what each is called, where it is, under which licence, and
which of its fields are what.

    sets.load('gsm8k', 'data/gsm8k')            # or Named('gsm8k', 'data/gsm8k'), which a recipe can hold

Nothing is downloaded: a set is copied from the Hugging Face hub once, with the command that the error names, and read from
there. What is stated of a set was looked up in November 2026 in stored copies of the hub's pages; `checked` says what could
be confirmed there, and the rest is from memory: read the set's own card before relying on it. Licences are those that the
card states for the collection; a collection of others' problems (contests, textbooks, forums) may not be its to give.

Problems of the kind 'code' have no answer: their tests are in `meta`, as `rewards.code.Code` runs them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from r1jax.data.table import Fields, Table
from r1jax.types import Problem


@dataclasses.dataclass(frozen=True)
class Set:
    """A published set."""

    name: str
    source: str  # id on the Hugging Face hub
    licence: str  # SPDX identifier, or as the card says; 'unknown': it says none, or that could not be looked up
    rows: int  # about, in the split
    fields: Fields
    split: str = 'train'  # the one to train on; of a benchmark, the one to measure on
    config: str = ''
    where: tuple[tuple[str, object], ...] = ()
    unique: bool = False
    use: str = 'train'  # or 'measure': a benchmark, which no training should see
    note: str = ''
    checked: str = ''  # 'licence, fields', or less

    @property
    def reward(self) -> str:
        """What decides on an answer: the kind of the problems."""
        return self.fields.kind

    @property
    def command(self) -> str:
        return f'hf download {self.source} --repo-type dataset --local-dir FOLDER'


def _dapo(text: str = 'prompt') -> Fields:
    """Sets in verl's form: a chat with one message, and the truth in `reward_model`."""
    return Fields(
        text,
        'reward_model.ground_truth',
        without=(
            'Solve the following math problem step by step. The last line of your response should be of the form Answer: '
            '$Answer (without quotes) where $Answer is the answer to the problem.\n\n',
            '\n\nRemember to put your answer on its own line after "Answer:".',
        ),
    )


SETS = (
    # mathematics
    Set('gsm8k', 'openai/gsm8k', 'MIT', 7_473, Fields('question', answer_after='####'), config='main',
        note='grade-school word problems; test has 1,319', checked='licence, fields'),
    Set('math', 'EleutherAI/hendrycks_math', 'MIT', 7_500,
        Fields('problem', 'solution', answer_boxed=True, skip=('',), meta=('level', 'type')), config='*',
        note='competition problems of seven subjects; test has 5,000, of which MATH-500 are a part', checked='licence'),
    Set('math500', 'HuggingFaceH4/MATH-500', 'unknown', 500, Fields(meta=('level', 'subject')), split='test', use='measure',
        note='in the R1 report; a part of MATH, which is MIT'),
    Set('aime24', 'HuggingFaceH4/aime_2024', 'unknown', 30, Fields(), use='measure', note='in the R1 report'),
    Set('deepscaler', 'agentica-org/DeepScaleR-Preview-Dataset', 'MIT', 40_300, Fields(skip=('',)),
        note='AIME to 2023, AMC, Omni-MATH, STILL; six rows have no answer', checked='licence'),
    Set('dapo_math_17k', 'BytedTsinghua-SIA/DAPO-Math-17k', 'Apache-2.0', 1_791_700, _dapo(), unique=True,
        note='integer answers; about 17,400 problems, each repeated a hundred times', checked='licence, fields'),
    Set('openr1_math_220k', 'open-r1/OpenR1-Math-220k', 'Apache-2.0', 93_733, Fields(skip=('', 'proof', 'notfound')),
        config='default', note="NuminaMath 1.5 with R1's solutions; config 'extended' has 131,396 more",
        checked='licence, fields'),
    Set('numina_math_1_5', 'AI-MO/NuminaMath-1.5', 'Apache-2.0', 896_000, Fields(skip=('', 'proof', 'notfound')),
        where=(('problem_is_valid', 'Yes'), ('solution_is_valid', 'Yes')),
        note='olympiads, contests, cn_k12; proofs are left out', checked='licence'),
    Set('big_math', 'SynthLabsAI/Big-Math-RL-Verified', 'Apache-2.0', 251_122,
        Fields(skip=('',), meta=('source', 'llama8b_solve_rate')),
        note='with how often Llama 3.1 8B solves each; users report wrong answers and 6,783 duplicates',
        checked='licence, fields'),
    Set('deepmath_103k', 'zwhe99/DeepMath-103K', 'MIT', 103_110,
        Fields('question', 'final_answer', meta=('difficulty', 'topic')),
        note='hard, decontaminated; the solutions make it 5 GB', checked='licence, fields'),
    Set('skywork_or1_math', 'Skywork/Skywork-OR1-RL-Data', 'unknown', 105_000,
        Fields('prompt', 'reward_model.ground_truth.0'), split='math',
        note='the truth is a JSON list in a text'),
    Set('verifiable_math', 'PrimeIntellect/verifiable-math-problems', 'unknown', 777_000,
        Fields('prompt', 'verification_info.ground_truth', skip=('',)),
        note='the mathematics of SYNTHETIC-1, which is Apache-2.0'),
    # code
    Set('apps', 'codeparrot/apps', 'MIT', 5_000,
        Fields('question', '', kind='code', tests=('input_output',), skip=('',), meta=('starter_code', 'difficulty')),
        note='from Codeforces, Kattis, …; test has 5,000 more', checked='licence, fields'),
    Set('taco', 'BAAI/TACO', 'Apache-2.0', 25_443,
        Fields('question', '', kind='code', tests=('input_output',), skip=('',), meta=('starter_code', 'difficulty')), config='ALL',
        note="parts keep their sources' licences, APPS and CodeContests among them", checked='licence'),
    Set('code_contests', 'deepmind/code_contests', 'CC-BY-4.0', 13_328,
        Fields('description', '', kind='code', tests=('public_tests', 'private_tests', 'generated_tests'),
               time_limit='time_limit', skip=('',)),
        note='AlphaCode; 7.6 GB', checked='licence'),
    Set('livecodebench', 'livecodebench/code_generation_lite', 'CC (version not stated)', 1_055,
        Fields('question_content', '', kind='code', tests=('public_test_cases',), entry_point='metadata.func_name',
               meta=('starter_code',)),
        split='test', use='measure', checked='licence',
        note='in the R1 report; of its tests only the public ones: the private ones are a pickle, which is not opened'),
    Set('verifiable_code', 'PrimeIntellect/verifiable-coding-problems', 'unknown', 144_169,
        Fields('prompt', '', kind='code', tests=('verification_info',), skip=('',), meta=('source',)),
        note='the code of SYNTHETIC-1, which is Apache-2.0; 21.6 GB', checked='fields'),
    # science and technology
    Set('sciq', 'allenai/sciq', 'CC-BY-NC-3.0', 11_679,
        Fields('question', 'correct_answer', wrong=('distractor1', 'distractor2', 'distractor3'), kind='choice'),
        note='school science', checked='licence, fields'),
    Set('webinstruct_verified', 'TIGER-Lab/WebInstruct-verified', 'Apache-2.0', 232_000,
        Fields('question', kind='stem', skip=('',), meta=('answer_type', 'category')),
        note='General-Reasoner; answers need more than comparing texts', checked='licence'),
    Set('natural_reasoning', 'facebook/natural_reasoning', 'CC-BY-NC-4.0', 1_150_000,
        Fields('question', 'reference_answer', kind='stem', skip=('',)),
        note='long answers: a judge, not a rule', checked='licence'),
    Set('gpqa_diamond', 'Idavidrein/gpqa', 'CC-BY-4.0', 198,
        Fields('Question', 'Correct Answer', kind='choice',
               wrong=('Incorrect Answer 1', 'Incorrect Answer 2', 'Incorrect Answer 3')),
        config='gpqa_diamond', use='measure', checked='licence, fields',
        note='in the R1 report; its terms are to be accepted first, and forbid showing the questions in public'),
    # logic
    Set('knights_and_knaves', 'K-and-K/knights-and-knaves', 'CC-BY-NC-SA-4.0', 6_200,
        Fields('quiz', 'solution_text', kind='logic', meta=('names', 'solution')), split='*', config='train',
        note='of 2 to 8 people; reasoning-gym generates more, see `datasets.ReasoningGym`', checked='licence'),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Named:
    """The problems of a set, as a source for a recipe."""

    name: str  # of one of `SETS`
    folder: str  # where its copy is; a single file of it will do
    split: str = ''  # '': the set's own
    config: str = ''  # '': the set's own
    limit: int = 0  # the first so many; 0: all

    @property
    def set(self) -> Set:
        for each in SETS:
            if each.name == self.name:
                return each
        raise ValueError(f'there is no set {self.name!r}: there are {", ".join(each.name for each in SETS)}')

    @property
    def table(self) -> Table:
        """What reads the copy."""
        of = self.set
        split, config = self.split or of.split, self.config or of.config
        return Table(str(self.folder), of.fields, split, config, of.where, unique=of.unique, limit=self.limit)

    def load(self) -> Sequence[Problem]:
        """The problems.

        Raises:
          FileNotFoundError: the copy is not there; the message says how to get it.
          ValueError: there is no such set, or the copy is broken: see `Table.load`.
        """
        table = self.table
        if not Path(self.folder).exists():
            command = self.set.command.replace('FOLDER', str(self.folder))
            said = f'(licence {self.set.licence}; read its card on the hub first)'
            raise FileNotFoundError(f'the set {self.name} is not in {self.folder}: get it with `{command}` {said}')
        return table.load()


def load(name: str, folder: str, split: str = '', config: str = '', limit: int = 0) -> Sequence[Problem]:
    """The problems of a set: `Named(...).load()`."""
    return Named(name, folder, split, config, limit).load()
