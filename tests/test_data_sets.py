"""The named sets: each reads small files of our own that have its released form."""

import json
import pathlib

import pyarrow as pa
import pyarrow.parquet
import pytest

from r1jax.data import sets
from r1jax.data.sets import SETS, Named
from r1jax.data.table import Fields, Table
from r1jax.record import to_json
from r1jax.rewards import accuracy, choice
from r1jax.types import Response

HERE = pathlib.Path(__file__).parents
SHARED = next((p for p in (HERE[1] / 'shared' / 'data', HERE[2] / 'shared' / 'data') if p.is_dir()), None)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))


def card(*configs: tuple[str, list[tuple[str, str]]]) -> str:
    lines = ['---', 'configs:']
    for name, files in configs:
        lines += [f'- config_name: {name}', '  data_files:']
        for split, path in files:
            lines += [f'  - split: {split}', f'    path: {path}']
    return '\n'.join([*lines, '---', ''])


TRAIN = card(('default', [('train', 'data/train-*')]))
DAPO = (
    'Solve the following math problem step by step. The last line of your response should be of the form Answer: $Answer '
    '(without quotes) where $Answer is the answer to the problem.\n\n{}\n\nRemember to put your answer on its own line after '
    '"Answer:".'
)
CONTENT = [{'role': 'user', 'content': '1+1?'}]
TESTS = json.dumps({'inputs': ['1\n'], 'outputs': ['2\n']})
SPLIT, PARQUET = 'data/train-00000-of-00001.parquet', 'data/train-0.parquet'
PRIME = json.dumps(
    {'language': 'python', 'test_cases': [{'type': 'stdin_stdout', 'input': '1\n', 'output': '2\n', 'fn_name': None}]}
)
IO = {'input': ['1\n'], 'output': ['2\n']}

# name -> (README, file -> rows, what becomes of the first problem: prompt, answer, kind)
RELEASED = {
    'gsm8k': (
        card(
            ('main', [('train', 'main/train-*'), ('test', 'main/test-*')]),
            ('socratic', [('train', 'socratic/train-*')]),
        ),
        {'main/train-00000-of-00001.parquet': [{'question': '1+1?', 'answer': '1+1 = <<1+1=2>>2\n#### 1,002'}]},
        ('1+1?', '1,002', 'math'),
    ),
    'math': (
        card(('algebra', [('train', 'algebra/train-*')]), ('geometry', [('train', 'geometry/train-*')])),
        {
            'algebra/train-0.parquet': [
                {'problem': 'a', 'level': 'Level 5', 'type': 'Algebra', 'solution': r'so $\boxed{\frac{1}{2}}$.'},
                {'problem': 'none', 'level': 'Level 1', 'type': 'Algebra', 'solution': 'no box'},
            ],
            'geometry/train-0.parquet': [{'problem': 'b', 'level': '?', 'type': 'G', 'solution': r'$\boxed 5$'}],
        },
        ('a', r'\frac{1}{2}', 'math'),
    ),
    'math500': (
        None,
        {
            'test.jsonl': [
                {'problem': 'a', 'solution': 's', 'answer': '2', 'subject': 'A', 'level': 2, 'unique_id': 'x'}
            ]
        },
        ('a', '2', 'math'),
    ),
    'aime24': (TRAIN, {SPLIT: [{'id': 60, 'problem': 'a', 'solution': 's', 'answer': '204'}]}, ('a', '204', 'math')),
    'deepscaler': (None, {'deepscaler.json': [{'problem': 'a', 'answer': '2', 'solution': ''}]}, ('a', '2', 'math')),
    'dapo_math_17k': (
        None,
        {
            'data/dapo-math-17k.parquet': [
                {
                    'data_source': 'math_dapo',
                    'prompt': [{'content': DAPO.format('1+1?'), 'role': 'user'}],
                    'ability': 'MATH',
                    'reward_model': {'ground_truth': '2', 'style': 'rule'},
                    'extra_info': {'index': str(i)},
                }
                for i in range(3)
            ]
        },
        ('1+1?', '2', 'math'),
    ),
    'openr1_math_220k': (
        card(('all', [('default', 'all/default-*')]), ('default', [('train', 'data/train-*')])),
        {SPLIT: [{'problem': 'a', 'solution': 's', 'answer': '2', 'generations': ['x'], 'source': 'olympiads'}]},
        ('a', '2', 'math'),
    ),
    'numina_math_1_5': (
        TRAIN,
        {
            SPLIT: [
                {'problem': p, 'answer': a, 'problem_is_valid': v, 'solution_is_valid': 'Yes'}
                for p, a, v in (('x', '1', 'No'), ('y', 'proof', 'Yes'), ('z', '2', 'Yes'))
            ]
        },
        ('z', '2', 'math'),
    ),
    'big_math': (
        TRAIN,
        {SPLIT: [{'problem': 'a', 'answer': '2', 'source': 'HARP', 'domain': ['x'], 'llama8b_solve_rate': 0.5}]},
        ('a', '2', 'math'),
    ),
    'deepmath_103k': (
        TRAIN,
        {SPLIT: [{'question': 'a', 'final_answer': '2', 'difficulty': 5.0, 'topic': 't', 'r1_solution_1': 's'}]},
        ('a', '2', 'math'),
    ),
    'skywork_or1_math': (
        card(('default', [('math', 'data/math-*'), ('code', 'data/code-*')])),
        {'data/math-0.parquet': [{'prompt': CONTENT, 'reward_model': {'ground_truth': '["2"]', 'style': 'rule'}}]},
        ('1+1?', '2', 'math'),
    ),
    'verifiable_math': (
        TRAIN,
        {SPLIT: [{'prompt': 'a', 'gold_standard_solution': 's', 'verification_info': '{"ground_truth": "2"}'}]},
        ('a', '2', 'math'),
    ),
    'apps': (
        None,
        {'train.jsonl': [{'question': 'a', 'input_output': TESTS, 'starter_code': '', 'difficulty': 'interview'}]},
        ('a', '', 'code'),
    ),
    'taco': (
        card(('ALL', [('train', 'ALL/train-*'), ('test', 'ALL/test-*')])),
        {'ALL/train-0.parquet': [{'question': 'a', 'input_output': TESTS, 'starter_code': '', 'difficulty': 'EASY'}]},
        ('a', '', 'code'),
    ),
    'code_contests': (
        None,
        {
            SPLIT: [
                {
                    'description': 'a',
                    'public_tests': IO,
                    'private_tests': IO,
                    'generated_tests': IO,
                    'time_limit': {'seconds': 2, 'nanos': 0},
                }
            ]
        },
        ('a', '', 'code'),
    ),
    'livecodebench': (
        None,
        {
            f'test{n}.jsonl': [
                {
                    'question_content': 'a',
                    'public_test_cases': json.dumps([{'input': '1\n', 'output': '2', 'testtype': 'stdin'}]),
                    'private_test_cases': 'eJw=',
                    'starter_code': '',
                    'metadata': '{}',
                }
            ]
            for n in ('', 2)
        },
        ('a', '', 'code'),
    ),
    'verifiable_code': (
        TRAIN,
        {SPLIT: [{'prompt': 'a', 'verification_info': PRIME, 'source': 'apps'}]},
        ('a', '', 'code'),
    ),
    'sciq': (
        card(('default', [('train', 'data/train-*'), ('test', 'data/test-*')])),
        {
            SPLIT: [
                {
                    'question': 'a?',
                    'distractor3': 'x',
                    'distractor1': 'y',
                    'distractor2': 'z',
                    'correct_answer': 'w',
                    'support': '',
                }
            ]
        },
        ('a?\n\nA. z\nB. x\nC. w\nD. y', 'C', 'choice'),
    ),
    'webinstruct_verified': (
        card(('default', [('train', 'data/train-*'), ('test', 'data/test-*')])),
        {PARQUET: [{'question': 'a', 'answer': '2 m', 'answer_type': 'Float', 'category': 'Physics'}]},
        ('a', '2 m', 'stem'),
    ),
    'natural_reasoning': (
        None,
        {'full.jsonl': [{'question': 'x', 'reference_answer': ''}, {'question': 'a', 'reference_answer': '2'}]},
        ('a', '2', 'stem'),
    ),
    'gpqa_diamond': (
        card(('gpqa_main', [('train', 'gpqa_main.csv')]), ('gpqa_diamond', [('train', 'gpqa_diamond.csv')])),
        {
            'gpqa_diamond.csv': [
                {'Question': 'a?', 'Correct Answer': 'w\n'}
                | {f'Incorrect Answer {i}': w for i, w in ((1, 'x'), (2, 'y'), (3, 'z'))}
            ]
        },
        ('a?\n\nA. z\nB. x\nC. w\nD. y', 'C', 'choice'),
    ),
    'knights_and_knaves': (
        card(('train', [('2ppl', 'train/people2_num200.jsonl'), ('3ppl', 'train/people3_num1000.jsonl')])),
        {
            f'train/{name}.jsonl': [
                {'quiz': 'a', 'names': ['Zoe', 'Al'], 'solution': [True, False], 'solution_text': 'Zoe is …'}
            ]
            for name in ('people2_num200', 'people3_num1000')
        },
        ('a', 'Zoe is …', 'logic'),
    ),
}
COUNTS = {'math': 2, 'livecodebench': 2, 'knights_and_knaves': 2}  # of problems that are left; else 1


def released(name: str, folder: pathlib.Path) -> str:
    """A copy of a set with its files, its README and a row or two."""
    readme, files, _ = RELEASED[name]
    for relative, records in files.items():
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == '.parquet':
            pa.parquet.write_table(pa.Table.from_pylist(records), path)
        elif path.suffix == '.jsonl':
            path.write_text('\n'.join(map(json.dumps, records)))
        elif path.suffix == '.json':
            path.write_text(json.dumps(records))
        else:
            rows = [list(records[0]), *(list(r.values()) for r in records)]
            path.write_text('\n'.join(','.join(f'"{cell}"' for cell in row) for row in rows))
    if readme:
        (folder / 'README.md').write_text(readme)
    return str(folder)


@pytest.mark.parametrize('name', [each.name for each in SETS])
def test_each_set_reads_its_released_form(name, tmp_path):
    problems = sets.load(name, released(name, tmp_path))
    problem = problems[0]
    assert (problem.prompt, problem.answer, problem.kind) == RELEASED[name][2]
    assert len(problems) == COUNTS.get(name, 1)
    made = {'code': {'tests', 'time_limit', 'language'}, 'choice': {'choices'}}.get(problem.kind, set())
    assert set(problem.meta) - made == set(Named(name, '').set.fields.meta)
    if problem.kind == 'code':
        assert problem.meta['tests'][0]['input'] == '1\n' and problem.meta['tests'][0]['output'].strip() == '2'
    if problem.kind == 'choice':
        assert choice.choice(problem, Response('<answer>w</answer>', 1, True)) == 1.0
        assert choice.choice(problem, Response('<answer>A</answer>', 1, True)) == 0.0


def test_every_set_is_described():
    assert len({each.name for each in SETS}) == len(SETS) and {each.name for each in SETS} == set(RELEASED)
    assert {each.reward for each in SETS} == {'math', 'code', 'choice', 'stem', 'logic'}
    for each in SETS:
        assert (
            each.source.count('/') == 1
            and each.licence
            and each.rows > 0
            and each.note
            and each.use in ('train', 'measure')
        )
        assert each.checked in ('', 'licence', 'fields', 'licence, fields')
        assert each.licence != 'unknown' or 'licence' not in each.checked


def test_other_splits_limits_and_a_single_file(tmp_path):
    folder = released('gsm8k', tmp_path)
    path = tmp_path / 'main' / 'test-00000-of-00001.parquet'
    pa.parquet.write_table(pa.table({'question': ['a', 'b', 'c'], 'answer': ['#### 1', '#### 2', '#### 3']}), path)
    assert [p.answer for p in sets.load('gsm8k', folder, split='test', limit=2)] == ['1', '2']
    assert len(sets.load('gsm8k', str(path))) == 3
    assert to_json(Named('gsm8k', folder, split='test'))['name'] == 'gsm8k'


def test_what_is_not_there_is_said(tmp_path):
    said = 'hf download openai/gsm8k --repo-type dataset --local-dir .*nowhere` .licence MIT'
    with pytest.raises(FileNotFoundError, match=rf'the set gsm8k is not in .*nowhere: get it with `{said}'):
        sets.load('gsm8k', str(tmp_path / 'nowhere'))
    with pytest.raises(ValueError, match="there is no set 'gsm9k': there are gsm8k, math"):
        sets.load('gsm9k', str(tmp_path))


@pytest.mark.skipif(SHARED is None, reason='shared/data is not beside the checkout')
@pytest.mark.parametrize(('name', 'file', 'count'), [('math500', 'math500.jsonl', 500), ('aime24', 'aime24.jsonl', 30)])
def test_real_sets_are_graded_by_their_own_answers(name, file, count):
    problems = Table(str(SHARED / file), Fields()).load()
    assert len(problems) == count
    for problem in problems:
        response = Response(f'<answer>{problem.answer}</answer>', 1, True)
        assert accuracy.exact(problem, response) == 1.0
