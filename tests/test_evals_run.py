"""`r1jax eval`: samples depend on seed, question and number alone, are stored with their grades, and figures are of what is stored."""

import json
import shutil

import graders
import numpy as np
import pytest
from tables import lines
from test_families import GOLDEN
from test_weights_export import byte_tokenizer

from r1jax import evaluate
from r1jax.cli import main
from r1jax.config import Part
from r1jax.data.table import Fields, Table
from r1jax.evals import benchmarks, kept, results
from r1jax.evals.benchmarks import MARK, Benchmark
from r1jax.settings import BadInput

Q, K = 5, 3
PART = Part('accuracy', graders.says_a, deadline=20.0)
PROBLEMS = [{'problem': f'{i}+{i}?', 'answer': f'{2 * i}'} for i in range(Q)]
LETTERS = Benchmark(
    'letters', 'nobody/letters', Table('', Fields()), PART, f'Q {MARK}', 4, lambda p, text: text[:1] or None
)


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    folder = shutil.copytree(GOLDEN / 'llama3', tmp_path_factory.mktemp('model') / 'llama3')
    byte_tokenizer().save(folder)
    return folder


@pytest.fixture(autouse=True)
def letters(tmp_path, monkeypatch, data_cache):
    (tmp_path / 'data').mkdir()
    lines(tmp_path / 'data' / 'letters.jsonl', PROBLEMS)
    monkeypatch.setattr(evaluate, 'BENCHMARKS', benchmarks.BENCHMARKS | {'letters': LETTERS})
    monkeypatch.chdir(tmp_path)


def command(model, out, *more):
    fixed = ('--benchmark', 'letters', '--data', 'data', '--slots', '4', '--max-tokens', '6', '--workers', '1')
    return main(['eval', str(model), *fixed, '--out', str(out), *map(str, more)])


def stored(out):
    return [json.loads(line) for line in (out / 'letters.jsonl').read_text().splitlines()]


def test_a_run_its_figures_and_how_it_goes_on(model, tmp_path, capsys):
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    assert command(model, whole, '--k', K) == 0
    table = capsys.readouterr().out
    rows = stored(whole)
    assert [(row['question'], row['sample']) for row in rows] == [(q, s) for q in range(Q) for s in range(K)]
    assert [row['answer'] for row in rows[::K]] == [p['answer'] for p in PROBLEMS]
    assert len({row['completion'] for row in rows}) > K  # samples differ

    right = np.array([any(c in row['completion'] for c in 'aeo') for row in rows]).reshape(Q, K)
    assert 0 < right.mean() < 1, 'a test of figures needs both'
    found = json.loads((whole / 'results.json').read_text())['benchmarks']['letters']
    assert found['pass@1'] == right.mean() and found['questions'] == Q and found['samples'] == K
    by_hand = np.mean([1 - (1 - r.mean()) * (1 - r.sum() / 2) if r.sum() < 2 else 1 for r in right])
    assert found['pass@2'] == pytest.approx(by_hand)
    assert found['response_tokens'] == np.mean([row['tokens'] for row in rows]) <= 6
    assert f'{100 * right.mean():.1f}' in table and 'cons@3' in table
    assert '| letters | pass@1 |' in (whole / 'results.md').read_text()
    page = (whole / 'report.html').read_text(encoding='utf-8')
    assert '<td>letters</td><td>pass@1</td>' in page and 'sample-data' in page

    # other k, a part of the questions, a torn line: and then the rest
    assert command(model, parts, '--k', 1, '--limit', 2) == 0
    assert len(stored(parts)) == 2
    with open(parts / 'letters.jsonl', 'a') as file:
        file.write('{"question": 3, "sam')
    assert command(model, parts, '--k', K) == 0
    assert stored(parts) == rows
    assert json.loads((parts / 'results.json').read_text())['benchmarks']['letters']['pass@1'] == found['pass@1']

    # nothing is drawn that is there: a grade that was written by hand stays
    rows[0]['parts']['accuracy'] = float(not right[0, 0])
    lines(parts / 'letters.jsonl', rows)
    assert command(model, parts, '--k', K) == 0
    changed = json.loads((parts / 'results.json').read_text())['benchmarks']['letters']['pass@1']
    assert changed == pytest.approx(right.mean() + (1 - 2 * right[0, 0]) / (Q * K))

    capsys.readouterr()
    assert command(model, whole, '--k', K, '--seed', 1) == 2
    assert 'seed 0, now 1' in capsys.readouterr().err and stored(whole) == stored(whole)


@pytest.mark.parametrize(
    ('more', 'said'),
    [
        (('--benchmark', 'lettres'), 'did you mean letters?'),
        (('--k', 2, '--at', 4), 'pass@4 needs as many samples a question, and letters has --k 2'),
        (('--k', 0), '--k 0 must be at least 1'),
        (('--max-tokens', 128), "of the model's context of 128"),
        (('--benchmark', 'aime24'), 'hf download HuggingFaceH4/aime_2024'),
        (('--benchmark', 'simpleqa'), 'graded by a judge'),
        (('--temperature', 0), 'draws 4 times the same'),
        (('--since', '2024-08-01'), 'have no dates'),
        (('--mesh', 'width=2'), 'no axis width'),
        (('--template', 'chatt'), 'did you mean chat?'),
        (('--beside', 'R2'), 'no model R2'),
    ],
)
def test_what_cannot_run_is_refused_before_the_weights_are_read(model, tmp_path, capsys, monkeypatch, more, said):
    monkeypatch.setattr(evaluate.restore, 'params', lambda *_: pytest.fail('weights were read'))
    assert command(model, tmp_path / 'out', *more) == 2
    out, err = capsys.readouterr()
    assert said in err and not out and err.count('\n') == 1


def test_samples_of_a_question_that_is_not_whole_are_refused(tmp_path):
    with kept.Kept(tmp_path, 'x', {'seed': 0}) as file:
        for sample in (2, 0):
            file.add({'question': 7, 'sample': sample})
        with pytest.raises(ValueError, match='stored already'):
            file.add({'question': 7, 'sample': 0})
        file.order()
        file.add({'question': 8, 'sample': 0})
        assert [line['sample'] for line in file.lines()] == [0, 2, 0]
        with pytest.raises(BadInput, match='1 of the first 2 samples of question 7'):
            kept.grid(file.lines(), [7], 2, 'x')
        assert [len(row) for row in kept.grid(file.lines(), [8, 7], 1, 'x')] == [1, 1]
    with pytest.raises(BadInput, match='seed 0, now 1'):
        kept.Kept(tmp_path, 'x', {'seed': 1})


def line(accuracy, **more):
    outcome = {'outcome': 'graded'} if accuracy is not None else {'outcome': 'grader_error', 'cause': 'timeout'}
    return {'parts': {'accuracy': accuracy}, 'tokens': 3, 'finished': True} | outcome | more


def test_what_could_not_be_graded_is_counted_and_not_right():
    found = results.figures([[line(1.0), line(None)], [line(0.0), line(1.0)]], ks=(1, 2))
    assert found['pass@1'] == 0.5 and found['pass@2'] == 1.0
    assert found['grader_errors'] == 1 and found['grader_outcomes'] == {'timeout': 1}
    assert 'cons@2' not in found  # there are no votes
    with pytest.raises(ValueError, match='k=3 and samples=2'):
        results.figures([[line(1.0), line(0.0)]], ks=(3,))


def test_ties_of_a_vote_share_the_question():
    rows = [
        [line(1.0, vote='4'), line(0.0, vote='5'), line(0.0, vote=None)],
        [line(0.0, vote='1')] * 2 + [line(1.0, vote='2')],
    ]
    assert results.figures(rows)['cons@3'] == 0.25
    assert results.figures(rows)['answered'] == pytest.approx(5 / 6)


def test_what_is_no_share_is_not_shown_in_per_cent():
    for metric, value, said in (
        ('pass@1', 0.125, '12.5'),
        ('rating', 1503.6, '1504'),
        ('percentile', 96.3, '96.3'),
        ('word_perplexity', 23.44, '23.4'),
        ('bleu (get-answer)', 31.0, '31.0'),
        ('exact_match (flexible-extract)', 0.31, '31.0'),
    ):
        assert results.number(metric, value) == said


def test_results_of_several_runs_stand_together(tmp_path):
    one = results.entry('aime24', results.figures([[line(1.0), line(0.0)]]), {'seed': 0})
    assert one['paper']['pass@1']['R1'] == 79.8
    results.write(tmp_path, {'what': 'a', 'weights': '1'}, {'aime24': one})
    both = results.write(tmp_path, {'what': 'a', 'weights': '1'}, {'math500': one})
    assert list(both['benchmarks']) == ['aime24', 'math500']
    assert '| 79.8 | 71 | 28.9 |' in (tmp_path / 'results.md').read_text()
    alone = results.write(tmp_path, {'what': 'a', 'weights': '2'}, {'math500': one})
    assert list(alone['benchmarks']) == ['math500']  # other weights
