"""`r1jax grade`: a line out for a line in, in order; what cannot be read is named by its line."""

import json
import os

import pytest

from r1jax import grade
from r1jax.cli import main

LINES = [
    {'id': 'a', 'kind': 'number', 'prompt': '3+4=', 'answer': '7', 'completion': 'so <answer> 7.0 </answer>'},
    {'id': 2, 'kind': 'text', 'prompt': 'Who?', 'answer': 'me', 'completion': 'it is you'},
    {'id': None, 'kind': 'number', 'prompt': '3+4=', 'answer': 'seven', 'completion': '<answer>7</answer>'},
    {'id': 'slow', 'kind': 'acts', 'prompt': '', 'answer': '', 'completion': 'hang'},
    {
        'id': 'last',
        'kind': 'acts',
        'prompt': '',
        'answer': '',
        'completion': 'fine',
        'meta': {'x': 1},
        'language': 'de',
    },
]


@pytest.fixture(autouse=True)
def kinds(monkeypatch):
    kinds = grade.KINDS | {
        'acts': grade.Kind('graders', 'acts', 0.4),
        'judged': grade.Kind('test_grade', 'Judged', 5.0),
    }
    monkeypatch.setattr(grade, 'KINDS', kinds)


@pytest.fixture
def graded(tmp_path, capsys):
    """Runs the command on lines: (exit status, standard output, standard error)."""

    def run(lines, *options):
        path = tmp_path / 'file.jsonl'
        path.write_text(''.join((line if isinstance(line, str) else json.dumps(line)) + '\n' for line in lines))
        status = main(['grade', str(path), '--workers', '2', *options])
        return status, *capsys.readouterr()

    return run


def test_each_line_has_its_grade(graded):
    status, out, _ = graded(LINES, '--json')
    found = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and [row['id'] for row in found] == ['a', 2, None, 'slow', 'last']
    assert [row['accuracy'] for row in found] == [1, 0, None, None, 1]
    assert [row['outcome'] for row in found] == ['graded', 'graded', 'grader_error', 'grader_error', 'graded']
    assert [row.get('cause') for row in found] == [None, None, 'raised', 'timeout', None]
    assert found[0]['detail'] == 'answered 7.0, expected 7' and found[1]['detail'] == 'no answer found'


def test_the_table_explains(graded):
    status, out, _ = graded(LINES)
    assert status == 0
    assert 'a     number  1         graded                 answered 7.0, expected 7' in out.splitlines()
    assert 'grader error, timeout' in out and 'took longer than 0.4 s' in out
    assert out.splitlines()[-1] == 'accuracy 66.7 % of 3 graded, 2 grader errors'


class Verdict:
    passed, total, reason, right = 1, 3, 'wrong output', False


class Judged:
    """As `rewards.code.Code`: it has a judge that counts tests."""

    def judge(self, problem, response):
        return Verdict()


def test_a_judge_says_which_test_failed(graded):
    _, out, _ = graded([LINES[0] | {'kind': 'judged'}], '--json')
    assert json.loads(out) == {
        'id': 'a',
        'accuracy': 0.0,
        'outcome': 'graded',
        'detail': '1 of 3 tests passed: wrong output',
    }


def test_a_deadline_of_ones_own(graded):
    _, out, _ = graded([LINES[3] | {'completion': 'sleep 0.6'}], '--json', '--deadline', '3')
    assert json.loads(out)['outcome'] == 'graded'


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('{"id": 1', 'not a JSON line'),
        ('[1]', 'expected a JSON object, found list'),
        ({k: v for k, v in LINES[0].items() if k != 'answer'}, "no field 'answer'"),
        ({k: v for k, v in LINES[0].items() if k != 'id'}, "no field 'id'"),
        (LINES[0] | {'completion': 7}, 'completion must be a text, not 7'),
        (LINES[0] | {'kind': 'maths'}, "there is no kind 'maths'; did you mean math?"),
        (LINES[0] | {'meta': []}, 'meta must be an object, not []'),
    ],
)
def test_bad_input_names_its_line(graded, line, message):
    status, out, error = graded([LINES[0], line])
    assert status == 2 and out == '' and f'file.jsonl:2: {message}' in error


def test_other_bad_input(graded, tmp_path, capsys):
    assert main(['grade', str(tmp_path / 'none.jsonl')]) == 2 and 'does not exist' in capsys.readouterr().err
    assert graded(LINES, '--deadline', '0')[0] == 2
    assert graded(LINES, '--workers', '-1')[0] == 2
    assert graded([LINES[0] | {'kind': 'missing'}])[0] == 2


def test_hostile_text_stays_text(graded):
    line = LINES[0] | {'id': '\x1b[2J', 'completion': '<answer>\x1b]0;x\x07 \ud800</answer>'}
    status, out, _ = graded([line])
    assert status == 0 and '\x1b' not in out and '\x07' not in out and 'answered' in out
    status, out, _ = graded([line], '--json')
    assert status == 0 and json.loads(out)['detail'] == 'answered \x1b]0;x\x07 \ud800, expected 7'


def test_unsandboxed_is_asked_for(graded, monkeypatch):
    monkeypatch.setenv('R1JAX_ALLOW_UNSANDBOXED', '')
    graded(LINES[:1])
    assert not os.environ['R1JAX_ALLOW_UNSANDBOXED']
    graded(LINES[:1], '--allow-unsandboxed')
    assert os.environ['R1JAX_ALLOW_UNSANDBOXED'] == '1'
