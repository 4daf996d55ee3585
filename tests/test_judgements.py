"""What reward models learn from and are measured by: tables of judgements, pairs from a judge's votes, agreement and calibration."""

import functools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1jax.config import Agreement
from r1jax.data.judgements import (
    LengthBalanced,
    TableLabelled,
    TablePairs,
    decided,
    length_balanced,
    on_side,
    write_pairs,
)
from r1jax.evals.agreement import Agreeing, of_labels, of_pairs, reliability
from r1jax.rewards.answers import Reply
from r1jax.rewards.asking import Judge, Local
from r1jax.rewards.judge import Pairwise
from r1jax.types import Labelled, Pair, Problem


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))


def lines(path, rows):
    path.write_text('\n'.join(map(json.dumps, rows)))
    return str(path)


def turns(*texts):
    return [{'role': role, 'content': text} for role, text in zip(('user', 'assistant'), texts, strict=False)]


# --- tables


def test_pairs_of_texts_of_messages_and_of_two_answers_with_a_verdict(tmp_path):
    want = [Pair(Problem(i, f'q{i}', '', 'general'), f'good {i}', f'bad {i}') for i in range(3)]
    plain = [{'prompt': p.problem.prompt, 'chosen': p.chosen, 'rejected': p.rejected} for p in want]
    assert list(TablePairs(lines(tmp_path / 'a.jsonl', plain)).load()) == want
    talk = [{k: turns(r['prompt'], r[k]) if k != 'prompt' else r[k] for k in r} for r in plain]
    assert list(TablePairs(lines(tmp_path / 'b.jsonl', talk)).load()) == want
    open_ = [
        {'q': turns(r['prompt']), 'one': r['chosen'], 'two': r['rejected'], 'best': 0} if i % 2 else
        {'q': turns(r['prompt']), 'one': r['rejected'], 'two': r['chosen'], 'best': 1}
        for i, r in enumerate(plain)
    ]  # fmt: skip
    swapped = [row | {'first': row['best'] == 0} for row in open_]
    source = TablePairs(lines(tmp_path / 'c.jsonl', swapped), 'q', 'one', 'two', first_is_better='first')
    assert list(source.load()) == want
    write_pairs(str(tmp_path / 'd.jsonl'), want)
    assert list(TablePairs(str(tmp_path / 'd.jsonl')).load()) == want


def test_pairs_that_are_close_or_the_same_are_left_out(tmp_path):
    scores = [(3, 1), (2, 1), (1, 2.5), (5, 0)]
    table = [{'prompt': 'q', 'chosen': f'a{i}', 'rejected': 'b', 's': s, 't': t} for i, (s, t) in enumerate(scores)]
    table[3]['chosen'] = 'b'
    pairs = TablePairs(lines(tmp_path / 'a.jsonl', table), scores=('s', 't'), gap=1).load()
    assert [(p.problem.id, p.chosen) for p in pairs] == [(0, 'a0'), (2, 'a2')] and pairs.notes['same'] == 1
    with pytest.raises(ValueError, match='must name two fields'):
        TablePairs('x', scores=('s',))


def test_a_conversation_of_several_turns_is_refused(tmp_path):
    several = [{'prompt': 'q', 'chosen': turns('q', 'a') + turns('r', 'b'), 'rejected': 'c'}]
    with pytest.raises(ValueError, match='messages of user, assistant, user, assistant: a reward model reads one'):
        TablePairs(lines(tmp_path / 'a.jsonl', several)).load()


def test_labels_and_the_two_sides_of_the_questions(tmp_path):
    table = [{'prompt': f'q{i // 2}', 'response': f'r{i}', 'category': i % 3} for i in range(200)]
    source = functools.partial(TableLabelled, lines(tmp_path / 'a.jsonl', table), label='category', safe=(0, 1))
    everything, train, held = (list(source(side=side).load()) for side in ('all', 'train', 'held_out'))
    assert everything[2] == Labelled(Problem(2, 'q1', '', 'general'), 'r2', 0.0) and everything[3].label == 1
    assert sorted(train + held, key=lambda x: x.problem.id) == everything
    assert {x.problem.prompt for x in train}.isdisjoint(x.problem.prompt for x in held)
    assert 4 <= len(held) <= 40
    with pytest.raises(ValueError, match="side='test' must be"):
        on_side('q', 'test')


# --- from a judge's votes


def test_a_judge_that_prefers_the_first_decides_nothing_and_a_fair_one_is_followed(tmp_path):
    problems = [Problem(i, f'q{i}', '') for i in range(3)]
    first, second = ['good', 'bad', 'fair'], ['bad', 'good', 'fair']

    def answers(asks, biased):
        for ask in asks:
            text = ask.messages[1][1]
            a, b = (text.partition(f'ANSWER {x} ')[2].partition('\n')[2] for x in 'AB')
            code = text.partition('ANSWER A ')[2][:12]
            better = 'A>>B' if biased or a.startswith('good') else 'B>>A' if b.startswith('good') else 'A=B'
            yield Reply(f'VERDICT {code}: {better}', True)

    for biased, want in ((True, []), (False, [('q0', 'good', 'bad'), ('q1', 'good', 'bad')])):
        local = Local(lambda asks, b=biased: list(answers(asks, b)), f'judge {biased}', 64)
        gaps = [
            c.gap
            for c in Pairwise(Judge(local, str(tmp_path / f'{biased}.db')), votes=4).compare(problems, first, second)
        ]
        pairs = decided(problems, first, second, gaps)
        assert [(p.problem.prompt, p.chosen, p.rejected) for p in pairs] == want


def test_gaps_of_at_most_the_margin_are_left_out():
    problems = [Problem(i, '', '') for i in range(6)]
    pairs = decided(problems, 'abcdef', 'uvwxyz', [2.0, 1.0, -1.0, -1.5, 0.0, math.nan])
    assert [(p.problem.id, p.chosen, p.rejected) for p in pairs] == [(0, 'a', 'u'), (3, 'x', 'd')]
    assert len(decided(problems, 'abcdef', 'uvwxyz', [2, 1, -1, -1.5, 0, math.nan], margin=0.5)) == 4


lengths = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=60)


@given(lengths)
def test_balanced_pairs_say_nothing_of_length(sizes):
    pairs = [Pair(Problem(i, '', ''), 'a' * a, 'b' * b) for i, (a, b) in enumerate(sizes)]
    left = length_balanced(pairs)
    assert [p for p in pairs if p in left] == left and length_balanced(left) == left
    for low in (1, 2, 4, 8, 16, 32):
        differences = [[len(p.chosen) - len(p.rejected) for p in some] for some in (pairs, left)]
        longer, shorter = ([sum(low <= sign * d < 2 * low for d in ds) for sign in (1, -1)] for ds in differences)
        assert shorter == [min(longer)] * 2
    same = [p for p in pairs if len(p.chosen) == len(p.rejected)]
    assert [p for p in left if len(p.chosen) == len(p.rejected)] == same


def test_a_source_is_balanced(tmp_path):
    pairs = [Pair(Problem(i, 'q', '', 'general'), 'long'[: 2 + i], 'so') for i in range(3)]
    write_pairs(str(tmp_path / 'a.jsonl'), pairs[1:])
    with pytest.raises(ValueError, match='of 2 pairs none is left'):
        LengthBalanced(TablePairs(str(tmp_path / 'a.jsonl'))).load()
    write_pairs(str(tmp_path / 'b.jsonl'), [*pairs, Pair(pairs[0].problem, 'a', 'bb')])
    assert [p.chosen for p in LengthBalanced(TablePairs(str(tmp_path / 'b.jsonl'))).load()] == ['lo', 'lon', 'a']


# --- agreement


def test_agreement_with_pairs_by_hand():
    got = of_pairs(np.array([2.0, 0, 1, 5]), np.array([1.0, 2, 1, 2]), np.array([3, -1, 0, 4]), bins=2)
    assert got['pairs'] == 4 and got['accuracy'] == 2.5 / 4 and got['margin'] == pytest.approx((1 - 2 + 0 + 3) / 4)
    assert got['accuracy_ci'][0] < got['accuracy'] < got['accuracy_ci'][1]
    s = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    assert got['loss'] == pytest.approx(-sum(math.log(s(m)) for m in (1, -2, 0, 3)) / 4)
    assert got['by_length']['chosen longer'] == {'pairs': 2, 'accuracy': 1.0, 'accuracy_ci': [1.0, 1.0]}
    assert got['by_length']['chosen shorter']['accuracy'] == 0 and got['by_length']['as long']['accuracy'] == 0.5
    low, high = got['reliability']
    assert [low[name] for name in ('from', 'to', 'count', 'was')] == [0.5, 0.75, 2, 0.75]
    assert [high[name] for name in ('from', 'to', 'count', 'was')] == [0.75, 1, 2, 0.5]
    assert [low['said'], high['said']] == pytest.approx([(0.5 + s(1)) / 2, (s(2) + s(3)) / 2])
    assert got['calibration_error'] == pytest.approx((abs((s(1) + 0.5) / 2 - 0.75) + abs((s(2) + s(3)) / 2 - 0.5)) / 2)


def test_agreement_with_labels_by_hand():
    got = of_labels(np.array([2.0, -1, 3, 0]), np.array([1.0, 0, 0, 1]), bins=4)
    assert got['labels'] == 4 and got['accuracy'] == 2.5 / 4 and got['margin'] == pytest.approx((2 + 1 - 3 + 0) / 4)
    assert got['by_label']['safe']['accuracy'] == 0.75 and got['by_label']['unsafe']['accuracy'] == 0.5
    assert [row['count'] for row in got['reliability']] == [1, 1, 2]
    with pytest.raises(ValueError, match='a label lies in 0 to 1, and here from 0 to 2'):
        of_labels(np.zeros(2), np.array([0, 2]))


@pytest.mark.parametrize('honest', [True, False])
def test_calibration_tells_an_honest_model_from_a_boastful_one(honest):
    rng = np.random.default_rng(0)
    odds = rng.normal(0, 2, 20_000)
    label = (rng.random(len(odds)) < 1 / (1 + np.exp(-odds))).astype(float)
    got = of_labels(odds if honest else 4 * odds, label)
    assert (got['calibration_error'] < 0.01) == honest and got['accuracy'] > 0.7
    pairs = of_pairs(np.where(label > 0, odds, -odds) * (1 if honest else 4), 0 * odds, 0 * odds)
    assert (pairs['calibration_error'] < 0.01) == honest and pairs['accuracy'] == pytest.approx(got['accuracy'])


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30), st.integers(1, 12))
def test_bins_hold_everything_once(cases, bins):
    said, was = np.array(cases).T
    rows, error = reliability(said, was, bins)
    assert sum(row['count'] for row in rows) == len(cases) and 0 <= error <= 1
    assert all(row['from'] - 1e-9 <= row['said'] <= row['to'] + 1e-9 for row in rows)


def test_scores_that_are_none_are_no_accuracy():
    with pytest.raises(ValueError, match='chosen must be finite'):
        of_pairs(np.array([np.nan]), np.zeros(1), np.zeros(1))
    with pytest.raises(ValueError, match='need equal columns that are not empty'):
        of_labels(np.zeros(0), np.zeros(0))


def test_an_evaluation_reads_both_answers_of_each_pair():
    pairs = [([1, 2, 3], [1, 2]), ([4], [4, 5, 6])]
    result, records = Agreeing(Agreement('held', None, bins=3), pairs=pairs)(
        lambda ids: np.array([len(i) for i in ids])
    )
    assert result['accuracy'] == 0.5 and result['by_length']['chosen longer']['accuracy'] == 1 and records == []
    labelled = [([1, 2], 1.0), ([1], 0.0)]
    result, _ = Agreeing(Agreement('held', None), labelled=labelled)(lambda ids: np.array([len(i) - 1.5 for i in ids]))
    assert result['accuracy'] == 1
