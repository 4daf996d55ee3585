"""Win rates of judgements: the length-controlled one against AlpacaEval's own function, the penalised fit against its conditions."""

import csv
import json
import logging

import numpy as np
import pytest
from tables import lines

from r1jax.cli import main
from r1jax.evals import judging, winrate
from r1jax.evals.judging import figures, said
from r1jax.evals.protocol import Grading
from r1jax.types import Problem, Response

N = 200


def judgements(seed=0, bias=1.2, skill=-0.4):
    """Rows as AlpacaEval's annotations: a judge that likes length, and AlpacaEval's tables of its instructions."""
    rng = np.random.default_rng(seed)
    baseline, model = rng.integers(200, 3000, N), rng.integers(300, 4000, N)
    difficulty = rng.normal(0, 1, N)
    delta = baseline - model
    p = 1 / (1 + np.exp(-(skill - bias * np.tanh(delta / delta.std(ddof=1)) + 0.5 * difficulty)))
    rows = [
        {
            'index': i,
            'instruction': 'i',
            'output_1': 'b' * int(baseline[i]),
            'output_2': 'm' * int(model[i]),
            'preference': float(1 + np.clip(p[i] + rng.normal(0, 0.1), 0, 1)),
            'generator_1': 'baseline',
            'generator_2': 'model',
            'annotator': 'judge',
        }
        for i in range(N)
    ]
    rows[3]['preference'] = None
    rows[4]['preference'] = 0
    gamed = [
        {
            'preference': float(rng.uniform(0, 0.5)),
            'index': i,
            'std_delta_len': float(rng.normal(sign, 0.3)),
            'instruction_difficulty': float(difficulty[i]),
            'not_gamed_baseline': False,
            'model': f'gamed {sign}',
        }
        for sign in (-1, 1)
        for i in range(N)
    ]
    return rows, difficulty, gamed


@pytest.fixture
def files(tmp_path):
    rows, difficulty, gamed = judgements()
    (tmp_path / 'alpaca_eval').mkdir()
    paths = [tmp_path / 'alpaca_eval' / name for name in ('instruction_difficulty.csv', 'df_gamed.csv')]
    for path, table in zip(
        paths, ([{'index': i, 'instruction_difficulty': d} for i, d in enumerate(difficulty)], gamed), strict=True
    ):
        with open(path, 'w', newline='') as file:
            out = csv.DictWriter(file, list(table[0]))
            out.writeheader()
            out.writerows(table)
    (tmp_path / 'annotations.json').write_text(json.dumps(rows))
    return tmp_path, rows, paths


def test_the_fit_meets_its_conditions():
    rng = np.random.default_rng(0)
    x = np.c_[rng.normal(size=(300, 2)), np.ones(300)]
    y = 1 / (1 + np.exp(-(x @ [1.0, 0.02, -0.5] + rng.normal(0, 0.3, 300))))
    weight = rng.uniform(0.5, 2, 300)
    for strength in (0.03, 1.0, 100.0):
        w = winrate.solve(x, y, weight, strength)
        slope = strength * x.T @ (weight * (1 / (1 + np.exp(-x @ w)) - y))
        for each, g in zip(w, slope, strict=True):  # of |w| + …: −sign where it is not 0, else within 1
            assert g == pytest.approx(-np.sign(each), abs=1e-4) if each else abs(g) <= 1 + 1e-4
    assert winrate.solve(x, y, weight, 1e-4).tolist() == [0, 0, 0]


def test_length_is_taken_out(files):
    path, _, paths = files
    judged, gamed = winrate.alpaca(str(path / 'annotations.json')), winrate.gamed(*map(str, paths))
    plain = winrate.win_rate(judged.preference)
    assert plain['not_judged'] == 1 and plain['questions'] == N and judged.preference[4] == 0.5
    found = winrate.length_controlled(judged, gamed)
    assert found['weights']['length'] < -0.3 and found['length_of_model'] > found['length_of_baseline']
    assert found['length_controlled'] < plain['win_rate'] - 0.02  # the model wrote more, and the judge likes that
    low, high = found['length_controlled_ci']
    assert low < found['length_controlled'] < high
    assert 'difficulty' not in winrate.length_controlled(judged)['weights']


def test_the_command_says_both(files, capsys, monkeypatch):
    path, _, _ = files
    monkeypatch.chdir(path)
    (path / 'arena.jsonl').write_text('')
    games = [('B>A', 'A>B'), ('A>>B', 'A=B'), (None, 'A>>B')]
    lines(
        path / 'arena.jsonl',
        [{'question_id': i, 'games': [{'score': a}, {'score': b}]} for i, (a, b) in enumerate(games)],
    )
    argv = [
        'eval',
        '--judgements',
        'alpaca_eval=annotations.json',
        'arena_hard=arena.jsonl',
        '--data',
        '.',
        '--out',
        'out',
    ]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert 'length_controlled' in out and '87.6' in out and '92.3' in out
    arena = json.loads((path / 'out' / 'results.json').read_text())['benchmarks']['arena_hard']
    # as B it wins, loses threefold, has no game; as A it wins, ties, wins threefold
    assert arena['win_rate'] == pytest.approx((1 + 0 + 1 + 0.5 + 3) / (1 + 3 + 1 + 1 + 3)) and arena['not_judged'] == 1
    assert main(['eval', '--judgements', 'mt_bench=x']) == 2


def test_what_is_judged_here_is_controlled_by_alpaca_evals_tables_too(files, tmp_path):
    path, rows, _ = files
    given = winrate.alpaca(str(path / 'annotations.json'))
    judged = [
        [
            {
                'question': row['index'],
                'parts': {'preference': preference},
                'outcome': 'graded',
                'answer': row['output_1'],
                'completion': row['output_2'],
                'tokens': 4,
            }
        ]
        for row, preference in zip(rows, given.preference.tolist(), strict=True)
    ]
    found = figures(judged[50:], gamed=winrate.published(str(path)))  # each with the difficulty of its own instruction
    same = winrate.length_controlled(winrate.Judged(*(each[50:] for each in given)), winrate.published(str(path)))
    assert list(found['weights']) == ['length', 'difficulty', 'model'] and found['weights'] == same['weights']
    assert winrate.published(None) is None and winrate.published(str(path / 'out')) is None


def test_broken_judgements_are_named(tmp_path):
    path = lines(tmp_path / 'a.jsonl', [{'preference': 3, 'output_1': '', 'output_2': ''}])
    with pytest.raises(ValueError, match=r'a\.jsonl:1: a preference lies in 1 to 2'):
        winrate.alpaca(path)
    path = lines(tmp_path / 'b.jsonl', [{'games': [{'score': 'A>B'}]}])
    with pytest.raises(ValueError, match='has two games'):
        winrate.arena(path)


def test_a_judge_sees_what_a_user_is_shown():
    assert said('<think>no</think> yes') == 'yes' and said('plain') == 'plain' and said('<think>never ends') == ''

    def line(value, text):
        more = {'parts': {'preference': value}, 'outcome': 'graded', 'tokens': 4}
        return more | {'question': 0, 'answer': 'b' * 9, 'completion': text}

    rows = [[line(i % 3 / 2, '<think>' + 'x' * i + '</think>' + 'y' * (i + 1))] for i in range(12)]
    found = figures(rows)
    assert found['win_rate'] == 0.5 and found['length_of_model'] == 6.5 and 0 < found['length_controlled'] < 1


def test_a_judge_behind_an_endpoint_grades_beside_what_goes_on(tmp_path, endpoint):
    parts = judging.parts(endpoint().base_url, 'm', '', tmp_path / 'out')
    problem = Problem(0, 'How much is 2+2?', '4 is good')

    def graded(asked, texts):
        grading = Grading(parts[asked], pool=None)
        later = [grading.submit(problem, Response(text, 9, True)) for text in texts]
        values = [each.result().value for each in later]
        grading.close()
        return values

    assert graded('reference', ['so 4 is good', '<think>4 is good</think> 5', '<think>4 is good']) == [1, 0, 0]
    better = graded('pairwise', ['very good good good', 'bad', '<think>good good good</think>bad', '<think>good'])
    assert better == [1, 0.25, 0.25, 0] and endpoint.bodies[0]['temperature'] == 0


@pytest.mark.reference
@pytest.mark.parametrize('form', ['length_controlled_v1', 'length_controlled_minimal'])
def test_as_alpaca_eval_computes_it(files, monkeypatch, form):
    glm = pytest.importorskip('alpaca_eval.metrics.glm_winrate')
    logging.disable(logging.WARNING)
    path, rows, paths = files
    monkeypatch.setattr(glm, 'hf_hub_download', lambda filename, **_: str(path / 'alpaca_eval' / filename))
    theirs = glm.get_length_controlled_winrate(rows, glm_name=form, save_weights_dir=None)
    judged = winrate.alpaca(str(path / 'annotations.json'))
    gamed = winrate.gamed(*map(str, paths)) if form.endswith('v1') else None
    ours = winrate.length_controlled(judged, gamed)
    assert 100 * ours['length_controlled'] == pytest.approx(theirs['length_controlled_winrate'], abs=0.01)
    assert 100 * winrate.win_rate(judged.preference)['win_rate'] == pytest.approx(theirs['win_rate'], abs=1e-6)
