"""Tables on disk as sequences of problems: what is read, in which order, at what cost, and what is said of broken ones."""

import dataclasses
import gzip
import json
import pathlib
import pickle
import sys

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest
from tables import WHOLE, asked, brief, lines, parquet

from r1jax.data import rows, store, template
from r1jax.data.braces import boxed
from r1jax.data.table import Fields, Table, TableExamples
from r1jax.data.tokenizer import Tokenizer
from r1jax.types import Example, Problem

pytestmark = pytest.mark.usefixtures('data_cache')
NESTED = Fields('question', 'meta.answer', meta=('meta.level',))


def written(kind, path):
    """The same seven rows in a format."""
    if kind == 'parquet':
        return parquet(path / 'a.parquet', asked(7), row_group_size=3)
    if kind == 'jsonl':
        return lines(path / 'a.jsonl', ['', *asked(7)])
    if kind == 'jsonl.gz':
        (path / 'a.jsonl.gz').write_bytes(gzip.compress('\n'.join(map(json.dumps, asked(7))).encode()))
    if kind == 'json':
        (path / 'a.json').write_text(json.dumps(asked(7), indent=1))
    if kind == 'json lines':
        return lines(path / 'a.json', asked(7))
    if kind == 'csv':
        (path / 'a.csv').write_text('problem,answer\n' + ''.join(f'"{i}+1?",{i + 1}\n' for i in range(7)))
    if kind in ('arrow stream', 'arrow file'):
        table = pa.Table.from_pylist(asked(7))
        new = pa.ipc.new_stream if kind == 'arrow stream' else pa.ipc.new_file
        with new(str(path / 'a.arrow'), table.schema) as out:
            out.write_table(table, max_chunksize=2)
    return str(next(path.glob('a.*')))


KINDS = ('parquet', 'jsonl', 'jsonl.gz', 'json', 'json lines', 'csv', 'arrow stream', 'arrow file')


@pytest.mark.parametrize('kind', KINDS)
def test_every_format_gives_the_same_problems(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(rows, 'BATCH', 2)
    monkeypatch.setattr(rows, 'CHUNK', 5)  # a JSON array is read in pieces that cut its rows
    assert brief(Table(written(kind, tmp_path)).load()) == WHOLE


def test_a_table_is_a_sequence_in_any_order(tmp_path):
    problems = Table(parquet(tmp_path / 'a.parquet', asked(50))).load()
    assert len(problems) == 50 and not isinstance(problems, list)
    assert problems[-1].id == 49 and brief(problems[1:6:2]) == [(i, f'{i}+1?', f'{i + 1}') for i in (1, 3, 5)]
    assert problems[3] == Problem(3, '3+1?', '4')
    with pytest.raises(IndexError, match='item 50 of 50'):
        problems[50]
    again = pickle.loads(pickle.dumps(problems.folder)), list(problems)
    assert again == (problems.folder, list(problems))

    order = store.ordered(problems, seed=7)
    first, position = store.take(order, 0, 30)
    rest, _ = store.take(order, position, 40)
    resumed, _ = store.take(store.ordered(Table(str(tmp_path / 'a.parquet')).load(), seed=7), position, 40)
    assert rest == resumed and {p.id for p in [*first, *rest[:20]]} == set(range(50))
    assert [p.id for p in first] != list(range(30))


def test_it_is_written_once_and_anew_when_anything_changes(tmp_path, data_cache):
    path = tmp_path / 'a.jsonl'
    lines(path, asked(3))
    source = Table(str(path))
    source.load()
    (folder,) = data_cache.iterdir()
    made = (folder / 'items.jsonl').stat().st_mtime_ns
    assert brief(source.load()) == WHOLE[:3] and (folder / 'items.jsonl').stat().st_mtime_ns == made
    Table(str(path), limit=2).load()
    assert len(list(data_cache.iterdir())) == 2
    lines(path, asked(4))
    assert len(source.load()) == 4 and len(list(data_cache.iterdir())) == 3


def test_what_fails_leaves_nothing_behind(tmp_path, data_cache, monkeypatch):
    path = lines(tmp_path / 'a.jsonl', [*asked(2), '{"problem": '])
    with pytest.raises(ValueError, match=r'a\.jsonl:3: not a JSON line'):
        Table(path).load()
    assert list(data_cache.iterdir()) == []
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    with pytest.raises(ValueError, match=r'cannot store the data in .*XDG_CACHE_HOME sets another place'):
        Table(written('csv', tmp_path)).load()


def test_filters_keep_the_ids(tmp_path):
    records = [
        r | {'language': 'en' if i % 2 else 'zh', 'type': 'mcq' if i < 4 else 'math'} for i, r in enumerate(asked(9))
    ]
    path = parquet(tmp_path / 'a.parquet', records)
    fields = Fields(kind_field='type', kinds=(('mcq', 'choice'),), language_field='language', meta=('level',))

    def ids(**options):
        return [p.id for p in Table(path, fields, **options).load()]

    assert ids(where=(('level', 1),)) == [1, 4, 7] and ids(where=(('level', (1, 2)), ('type', 'mcq'))) == [1, 2]
    assert ids(kinds=('choice',)) == [0, 1, 2, 3] and ids(languages=('en',)) == [1, 3, 5, 7] and ids(limit=2) == [0, 1]
    problem = Table(path, fields).load()[5]
    assert (problem.kind, problem.language, problem.meta) == ('math', 'en', {'level': 2})
    with pytest.raises(ValueError, match=r"a\.parquet has no row that .*'level', 8.*, of 9"):
        ids(where=(('level', 8),))


def test_rows_may_repeat_and_lack_answers(tmp_path):
    records = [
        *asked(2),
        {'problem': '0+1?', 'answer': '1'},
        {'problem': 'why?', 'answer': None},
        {'problem': 'p', 'answer': 'proof'},
    ]
    path = lines(tmp_path / 'a.jsonl', records)
    problems = Table(path, Fields(skip=('', 'proof')), unique=True).load()
    assert brief(problems) == WHOLE[:2] and problems.notes == {'rows': 5, 'skipped': 2, 'repeated': 1}
    with pytest.raises(ValueError, match=r"a\.jsonl:4: field 'answer' has no answer: None; add '' to skip"):
        Table(path).load()


def test_fields_reach_into_objects_lists_and_json_in_texts(tmp_path):
    row = {
        'prompt': [{'role': 'system', 'content': 'Think.'}, {'role': 'user', 'content': 'Solve:\n1+1?'}],
        'reward_model': {'ground_truth': '["2"]'},
        'a.b': 'x',
    }
    path = lines(tmp_path / 'a.jsonl', [row])
    fields = Fields('prompt', 'reward_model.ground_truth.0', without=('Solve:\n',), meta=('a.b',))
    (problem,) = Table(path, fields).load()
    assert (problem.prompt, problem.answer) == ('1+1?', '2')
    assert problem.meta == {'a.b': 'x', 'messages': row['prompt']}
    assert Table(path, Fields('prompt.1.content', 'a.b')).load()[0].prompt == 'Solve:\n1+1?'

    class Chat(Tokenizer):
        vocab_size, eos, pad = 2, 1, 0
        chat_template = '{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}'
        encode = decode = piece = save = lambda self, given: ''

    assert template.chat(problem, Chat()) == '<system>Think.<user>Solve:\n1+1?'
    assert template.chat(Problem(0, 'why?', ''), Chat()) == '<user>why?'


def test_answers_are_taken_from_solutions(tmp_path):
    records = [{'problem': 'a', 'answer': r'so \boxed{1} and \boxed{\frac{1}{2}}. #### 1,000 '}]
    path = lines(tmp_path / 'a.jsonl', records)
    assert Table(path, Fields(answer_after='####')).load()[0].answer == '1,000'
    assert Table(path, Fields(answer_boxed=True)).load()[0].answer == r'\frac{1}{2}'
    assert (
        boxed(r'$\boxed 5$') == '5' and boxed(r'\fbox{a}') == 'a' and boxed(r'\boxed{1') is None and boxed('x') is None
    )


def test_a_question_of_choice_has_its_right_answer_anywhere(tmp_path):
    records = [{'q': f'{i}?', 'right': 'yes', 'w1': 'no', 'w2': 'maybe', 'w3': 'never'} for i in range(200)]
    problems = Table(
        parquet(tmp_path / 'a.parquet', records), Fields('q', 'right', wrong=('w1', 'w2', 'w3'), kind='choice')
    ).load()
    letters = [p.answer for p in problems]
    assert all(f'\n{p.answer}. yes' in p.prompt and p.prompt.startswith(f'{p.id}?\n\nA. ') for p in problems)
    assert all(30 < letters.count(letter) < 70 for letter in 'ABCD')


CODE = Fields('q', '', kind='code', tests=('t',), entry_point='m.name', time_limit='s')
CALLS = [{'input': '[1]', 'output': '2', 'testtype': 'functional'}]


@pytest.mark.parametrize(
    ('given', 'meta', 'expected'),
    [
        (
            {'inputs': ['1\n', ['2', '3']], 'outputs': ['a', ['b', 'c']]},
            {},
            {'tests': [('1\n', 'a'), ('2\n3', 'b\nc')]},
        ),
        (
            '{"fn_name": "f", "inputs": [[1], [2]], "outputs": [[3], 4]}',
            {},
            {'tests': [([1], 3), ([2], 4)], 'entry_point': 'f'},
        ),
        (CALLS, {'name': 'g'}, {'tests': [('[1]', '2')], 'entry_point': 'g'}),
        (repr([{'input': 'x', 'output': 'y', 'type': 'stdin_stdout'}]), {'name': 'g'}, {'tests': [('x', 'y')]}),
        (
            {'language': 'c++', 'test_cases': '[{"input": "x", "output": "y"}]'},
            {},
            {'tests': [('x', 'y')], 'language': 'cpp'},
        ),
    ],
)
def test_code_problems_get_their_tests_in_the_form_of_the_reward(given, meta, expected, tmp_path):
    path = lines(tmp_path / 'a.jsonl', [{'q': 'a', 't': given, 'm': meta, 's': {'seconds': 2, 'nanos': 500_000_000}}])
    (problem,) = Table(path, CODE).load()
    tests = [{'input': one, 'output': two} for one, two in expected['tests']]
    assert problem.meta == expected | {'tests': tests, 'time_limit': 2.5} and problem.answer == ''


@pytest.mark.parametrize(
    ('given', 'said'),
    [
        ('', "there are no tests in 't'"),
        ('import os', 'neither JSON nor a Python literal'),
        ({'inputs': ['1'], 'outputs': []}, '1 inputs of tests have 0 outputs'),
        ({'cases': 1}, 'none of the forms that are known'),
        (CALLS, 'a test calls a function, and nothing names it'),
        (
            [{'input': '', 'output': '', 'fn_name': name} for name in 'fg'],
            "call one function or run the program, not .'f', 'g'",
        ),
        ({'language': 'cobol', 'test_cases': []}, "programs in 'cobol'"),
    ],
)
def test_code_problems_without_tests_that_run_are_named_or_skipped(given, said, tmp_path):
    good = {'q': 'a', 't': [{'input': '1', 'output': '2'}], 'm': {}, 's': None}
    path = lines(tmp_path / 'a.jsonl', [good, good | {'t': given}])
    with pytest.raises(ValueError, match=rf"a\.jsonl:2: .*{said}.*; add '' to skip"):
        Table(path, CODE).load()
    problems = Table(path, dataclasses.replace(CODE, skip=('',))).load()
    assert len(problems) == 1 and problems.notes['skipped'] == 1


@pytest.mark.parametrize('kind', ['parquet', 'jsonl'])
def test_broken_tables_are_named_with_file_row_and_field(kind, tmp_path):
    write = parquet if kind == 'parquet' else lines
    path = write(tmp_path / f'a.{kind}', [*asked(2), {'problem': 'x', 'answer': None}])
    place = 'a.parquet row 2' if kind == 'parquet' else 'a.jsonl:3'
    with pytest.raises(ValueError, match=rf"a\.{kind}.*no field 'question': it has 'problem', 'answer'"):
        Table(path, Fields('question')).load()
    with pytest.raises(ValueError, match=f"{place}: field 'answer' has no answer"):
        Table(path).load()
    with pytest.raises(ValueError, match=f"{place}: field 'answer' is NoneType, and a text or a number was expected"):
        TableExamples(path, 'problem', 'answer').load()
    with pytest.raises(ValueError, match=r"no field 'problem\.deep': 'problem' is no JSON"):
        Table(path, Fields('problem.deep')).load()


def test_broken_files_are_named(tmp_path):
    whole = pathlib.Path(parquet(tmp_path / 'a.parquet', asked(500)))
    (tmp_path / 'cut.parquet').write_bytes(whole.read_bytes()[:-100])
    stream = pathlib.Path(written('arrow stream', tmp_path / '.') and tmp_path / 'a.arrow')
    (tmp_path / 'cut.arrow').write_bytes(stream.read_bytes()[:300])
    (tmp_path / 'cut.json').write_text(json.dumps(asked(3))[:-5])
    (tmp_path / 'list.json').write_text('[[1]]')
    (tmp_path / 'a.pkl').write_bytes(b'')
    for name, said in (
        ('cut.parquet', 'not a whole Parquet file'),
        ('cut.arrow', 'not a whole Arrow file'),
        ('cut.json', 'not a whole JSON array'),
        ('list.json', 'expected an array of JSON objects, found list'),
        ('a.pkl', 'is no table: give a file that ends in'),
    ):
        with pytest.raises(ValueError, match=rf'{name}.*{said}'):
            Table(str(tmp_path / name)).load()
    with pytest.raises(FileNotFoundError, match=r'nowhere\.parquet does not exist'):
        Table(str(tmp_path / 'nowhere.parquet')).load()


def test_a_missing_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    path = parquet(tmp_path / 'a.parquet', asked(1))
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    with pytest.raises(ImportError, match=r"pip install 'r1jax\[data\]'"):
        Table(path).load()
    assert len(Table(lines(tmp_path / 'a.jsonl', asked(1))).load()) == 1


def test_examples_of_pairs_and_of_messages(tmp_path):
    turns = [{'role': 'user', 'content': 'hi'}, {'role': 'assistant', 'content': 'ho'}]
    path = parquet(tmp_path / 'a.parquet', [{'prompt': 'a', 'response': 'b', 'messages': turns, 'split': 'x'}])
    assert list(TableExamples(path).load()) == [Example('a', 'b')]
    assert list(TableExamples(path, prompt='').load()) == [Example('', 'b')]
    assert list(TableExamples(path, messages='messages', where=(('split', 'x'),), limit=1).load()) == [
        Example('hi', 'ho')
    ]
    with pytest.raises(ValueError, match="row 0: field 'prompt' has no messages"):
        TableExamples(path, messages='prompt').load()
    path = lines(tmp_path / 'a.jsonl', [{'messages': turns * 2}])
    with pytest.raises(
        ValueError, match=r"a\.jsonl:1: field 'messages' has the roles .*and an example is \['user', 'assistant'\]"
    ):
        TableExamples(path, messages='messages').load()


def test_examples_as_they_are_asked_and_of_a_length(tmp_path):
    turns = [{'role': 'user', 'content': 'hi {x}'}, {'role': 'assistant', 'content': 'ho'}]
    path = lines(
        tmp_path / 'a.jsonl', [{'prompt': 'a', 'response': 'b', 'messages': turns, 'n': n} for n in (9, 10, 11)]
    )
    asked = {'asked': 'User: {prompt}\nAssistant: ', 'at_most': (('n', 10),)}
    assert (
        list(TableExamples(path, messages='messages', **asked).load())
        == [Example('User: hi {x}\nAssistant: ', 'ho')] * 2
    )
    assert list(TableExamples(path, **asked).load())[1] == Example('User: a\nAssistant: ', 'b')
    with pytest.raises(ValueError, match='has no row that'):
        TableExamples(path, at_most=(('n', 8),)).load()
    with pytest.raises(ValueError, match=r"a\.jsonl:1: field 'prompt' is no number: 'a'"):
        TableExamples(path, at_most=(('prompt', 8),)).load()
    with pytest.raises(ValueError, match=r"asked='User:' has no '\{prompt\}'"):
        TableExamples(path, asked='User:').load()
