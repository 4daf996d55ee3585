"""Two folders of results compared: paired by question, and refused where the questions are others."""

import json

import numpy as np
import pytest
from tables import lines

from r1jax.cli import main
from r1jax.evals import compare, judging, results
from r1jax.evals.metrics import interval
from r1jax.settings import BadInput


def folder(path, right, data='d', name='quiz', votes=True):
    """What `r1jax eval` leaves of samples bool[Q,k]."""
    path.mkdir()
    rows = [
        [
            {
                'question': q,
                'sample': s,
                'prompt': f'{q}?',
                'answer': str(q),
                'tokens': 10 * (q + 1) + s,
                'finished': True,
                'outcome': 'graded',
                'parts': {'accuracy': float(ok)},
                **({'vote': str(q) if ok else f'no {s}'} if votes else {}),
            }
            for s, ok in enumerate(row)
        ]
        for q, row in enumerate(right)
    ]
    lines(path / f'{name}.jsonl', [line for row in rows for line in row])
    entry = results.entry(name, results.figures(rows), {'data': data})
    results.write(path, {'what': str(path), 'weights': data}, {name: entry})
    return str(path)


@pytest.fixture
def both(tmp_path):
    """B is right a little more often than A, on questions of very different difficulty."""
    rng = np.random.default_rng(0)
    easy = np.repeat([0.05, 0.95], 40)[:, None]
    a, b = rng.random((80, 4)) < easy, rng.random((80, 4)) < np.clip(easy + 0.08, 0, 1)
    return (folder(tmp_path / 'a', a), folder(tmp_path / 'b', b)), a, b


def test_differences_are_of_the_same_questions(both):
    names, a, b = both
    found = compare.compare(*names)['quiz']
    each = found['pass@1']
    assert each['a'] == a.mean() and each['b'] == b.mean() and each['questions'] == 80 and each['samples'] == [4, 4]
    assert each['difference'] == pytest.approx(b.mean() - a.mean())
    low, high = each['difference_ci']
    draws = np.random.default_rng(1).integers(80, size=(4000, 80))
    brute = (b.mean(1) - a.mean(1))[draws].mean(1)
    assert [low, high] == pytest.approx(np.quantile(brute, [0.025, 0.975]).tolist(), abs=0.006)
    apart = np.diff(interval(a))[0] + np.diff(interval(b))[0]
    assert high - low < 0.5 * apart  # what makes a question hard for both drops out
    assert found['pass@4']['a'] == a.any(1).mean() and 'cons@4' in found
    assert found['response_tokens']['difference'] == 0


def test_a_model_does_not_differ_from_itself(both):
    (name, _), _, _ = both
    for each in compare.compare(name, name)['quiz'].values():
        assert each['difference'] == 0 and each['difference_ci'] == [0, 0]


def test_the_command_prints_a_table(both, capsys):
    names, a, b = both
    assert main(['eval', '--compare', *names]) == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if 'pass@1' in line)
    assert f'{100 * a.mean():.1f}' in row and f'{100 * (b.mean() - a.mean()):+.1f}' in row and row.endswith('B is more')
    for argv, said in [
        (['--compare', names[0]], 'two folders of results, not 1'),
        (['model', '--compare', *names], 'name one of a CHECKPOINT'),
        (['--compare', names[0], 'nowhere'], 'nowhere has no results.json'),
        ([], 'name one of a CHECKPOINT'),
    ]:
        assert main(['eval', *argv]) == 2
        assert said in capsys.readouterr().err


def test_win_rates_are_compared_where_both_were_judged(tmp_path):
    preference = {'a': [1.0, 0.5, None, 0.0], 'b': [1.0, 1.0, 1.0, None]}
    for name, values in preference.items():
        rows = [
            [
                {'question': q, 'sample': 0, 'prompt': f'{q}?', 'answer': 'b', 'completion': 'c', 'tokens': 4}
                | {'parts': {'preference': value}, 'outcome': 'raised' if value is None else 'graded'}
            ]
            for q, value in enumerate(values)
        ]
        (tmp_path / name).mkdir()
        lines(tmp_path / name / 'alpaca_eval.jsonl', [row[0] for row in rows])
        entry = results.entry('alpaca_eval', judging.figures(rows), {'data': 'd'})
        results.write(tmp_path / name, {'what': name, 'weights': name}, {'alpaca_eval': entry})
    found = compare.compare(str(tmp_path / 'a'), str(tmp_path / 'b'))['alpaca_eval']
    each = found['win_rate']
    assert (each['a'], each['b'], each['difference'], each['questions']) == (0.75, 1.0, 0.25, 2)
    assert found['response_tokens']['difference'] == 0


def test_folders_without_samples_of_ours_are_told_so(tmp_path):
    for name in 'ab':
        (tmp_path / name).mkdir()
        results.write(tmp_path / name, {'what': name}, {'mmlu': results.entry('mmlu', {'acc': 0.5}, {})})
    with pytest.raises(BadInput, match='has no benchmark with samples of ours and'):
        compare.compare(str(tmp_path / 'a'), str(tmp_path / 'b'))


def test_other_questions_and_numbers_of_samples(tmp_path):
    ones = np.ones((4, 2), bool)
    a = folder(tmp_path / 'a', ones)
    fewer = compare.compare(a, folder(tmp_path / 'b', ones[:3, :1], votes=False))['quiz']
    assert fewer['pass@1']['questions'] == 3 and fewer['pass@1']['samples'] == [2, 1] and 'cons@2' not in fewer
    with pytest.raises(BadInput, match='no benchmark that both have'):
        compare.compare(a, folder(tmp_path / 'c', ones, name='other'))
    other = folder(tmp_path / 'd', ones, data='e')
    text = (tmp_path / 'd' / 'quiz.jsonl').read_text().replace('"2?"', '"two?"')
    (tmp_path / 'd' / 'quiz.jsonl').write_text(text)
    assert json.loads(text.splitlines()[4])['prompt'] == 'two?'
    with pytest.raises(BadInput, match='asked other questions'):
        compare.compare(a, other)
