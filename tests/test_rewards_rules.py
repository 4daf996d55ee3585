"""Rule rewards: the form, the final answer, and their sum."""

import math
import time
from fractions import Fraction

import graders
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.config import Part
from r1jax.data.datasets import ReasoningGym
from r1jax.rewards import accuracy, form
from r1jax.rewards.combine import begin, score, unfit
from r1jax.rewards.pool import Pool
from r1jax.types import Problem, Response

GOOD = '<think> 3+4=7 </think> <answer> 7 </answer>'


def said(text):
    return Response(text, tokens=9, finished=True)


def asked(answer, **rest):
    return Problem(0, 'q', answer, **rest)


@pytest.mark.parametrize(
    ('text', 'reward'),
    [
        (GOOD, 1),
        (f'\n {GOOD}\n', 1),
        ('<think>a</think><answer>b</answer>', 1),
        (f'Sure! {GOOD}', 0),
        (f'{GOOD} Thanks', 0),
        ('<think> a </think> so <answer> 7 </answer>', 0),
        ('<think>  </think> <answer> 7 </answer>', 0),
        ('<think> a </think> <answer> </answer>', 0),
        ('<answer> 7 </answer> <think> a </think>', 0),
        ('<think> a <answer> 7 </answer> </think>', 0),
        (f'{GOOD} <answer> 7 </answer>', 0),
        ('<think> <think> a </think> <answer> 7 </answer>', 0),
        ('<think> a </think> <answer> 7', 0),
        ('7', 0),
        ('', 0),
    ],
)
def test_format(text, reward):
    assert form.format(asked('7'), said(text)) == reward


@pytest.mark.parametrize(
    ('text', 'kind', 'reward'),
    [
        ('<think> 3+4=7 </think> The answer is 7.', 'math', 1),
        (' <think>a</think>b', 'math', 1),
        ('<think> </think> 7', 'math', 0),  # reasoning is blank …
        ('<think> </think> Hello!', 'general', 1),  # … where none is needed
        ('<think> 3+4=7 </think> ', 'math', 0),
        ('<think> 3+4=7 </think> ', 'general', 0),
        ('Sure! <think> 3+4=7 </think> 7', 'math', 0),
        ('<think> 3+4=7 </think> <answer> 7 </answer>', 'math', 0),
        ('<think> 3 <think> 4 </think> 7', 'math', 0),
        ('</think> 7 <think>', 'math', 0),
        ('7', 'general', 0),
    ],
)
def test_thinking_is_followed_by_a_summary_without_tags(text, kind, reward):
    assert form.thinking(asked('7', kind=kind), said(text)) == reward


@given(st.lists(st.sampled_from(['<think>', '</think>', '<answer>', '</answer>', ' ', 'x']), max_size=9))
def test_format_accepts_only_the_one_form(pieces):
    solid = [piece for piece in pieces if piece != ' ']
    one_word = '\0'.join(solid).replace('x\0x', 'x').replace('x\0x', 'x').split('\0')
    well_formed = one_word == ['<think>', 'x', '</think>', '<answer>', 'x', '</answer>']
    assert form.format(asked(''), said(''.join(pieces))) == well_formed


@pytest.mark.parametrize(
    ('text', 'answer'),
    [
        (GOOD, '7'),
        ('<answer> 1 </answer> <answer> 2 </answer>', '2'),
        ('<answer> 1 </answer> <answer> 2', '1'),
        (r'<answer> 1 </answer> \boxed{2}', '1'),
        (r'\boxed{1} so \boxed{\frac{1}{2}}.', r'\frac{1}{2}'),
        (r'\boxed{1', None),
        ('</answer> 3 <answer>', None),
        ('the answer is 7', None),
    ],
)
def test_answer(text, answer):
    assert accuracy.answer(text) == answer


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('1,234.50', Fraction(2469, 2)),
        ('$1,200.', 1200),
        ('-$5', -5),
        (r'\$5', 5),
        ('20%', 20),
        (r'20\%', 20),
        ('$7$', 7),
        (r'\(7\)', 7),
        ('007', 7),
        ('.5', Fraction(1, 2)),
        ('1/2', Fraction(1, 2)),
        ('1 / 2', Fraction(1, 2)),
        ('−3', -3),
        ('1e-3', Fraction(1, 1000)),
        ('1e65', None),
        ('1e999999999', None),
        ('1/0', None),
        ('1 2', None),
        ('1,23', None),
        ('9' * 65, None),
        ('5 apples', None),
        ('__import__("os")', None),
        ('nan', None),
        ('', None),
    ],
)
def test_number(text, value):
    assert accuracy.number(text) == value


@given(st.fractions(min_value=-(10**9), max_value=10**9, max_denominator=10**6))
def test_a_number_is_itself(value):
    assert accuracy.number(str(value)) == value


@settings(max_examples=50)
@given(st.text())
def test_grading_survives_any_text(text):
    for reward in (accuracy.exact, accuracy.numeric, accuracy.last_number, form.format):
        assert reward(asked('7'), said(text)) in (0.0, 1.0)


def test_grading_time_is_bounded():
    start = time.perf_counter()
    for text in ('9' * 300_000, '<answer>' * 30_000, r'\boxed{' * 30_000, '1,' * 100_000, '-' * 300_000):
        assert accuracy.last_number(asked('7'), said(text)) == 0
    assert time.perf_counter() - start < 2


def test_exact_and_numeric():
    assert accuracy.exact(asked('a b'), said('<answer>\n a  b </answer>')) == 1
    assert accuracy.exact(asked('7'), said('<answer> 7.0 </answer>')) == 0
    assert accuracy.numeric(asked('7'), said('<answer> 7.0 </answer>')) == 1
    assert accuracy.numeric(asked('7'), said('it is 7')) == 0
    with pytest.raises(ValueError, match="'x' of problem 0 is not a number"):
        accuracy.numeric(asked('x'), said(GOOD))


@pytest.mark.parametrize('text', ['so 18', 'it makes $18.', '2+3 ... 18, I think', '<answer>18</answer>, 19', '9*2=18'])
def test_last_number(text):
    assert accuracy.last_number(asked('18'), said(text)) == 1


def test_reasoning_gym_grades_by_the_tasks_own_scorer():
    pytest.importorskip('reasoning_gym')
    problem = ReasoningGym('chain_sum', 1).load()[0]
    assert accuracy.reasoning_gym(problem, said(f'<answer>{problem.answer}</answer>')) == 1
    assert accuracy.reasoning_gym(problem, said(f'<answer>it is {problem.answer}</answer>')) == 0  # partial credit
    assert accuracy.reasoning_gym(problem, said(problem.answer)) == 0
    with pytest.raises(ValueError, match='not of reasoning-gym'):
        accuracy.reasoning_gym(asked('1'), said(GOOD))


@pytest.mark.parametrize('task', ['string_insertion', 'polynomial_multiplication', 'countdown', 'composite'])
def test_reasoning_gym_scorers_that_evaluate_are_refused(task):
    pytest.importorskip('reasoning_gym')
    problem = asked('1', meta={'task': task, 'settings': (), 'entry': {}})
    with pytest.raises(ValueError, match=r'choose another task|use its parts'):
        accuracy.reasoning_gym(problem, said(GOOD))


def broken(problem, response):
    if '?' in response.text:
        raise RuntimeError('no idea')
    return 1.0


def test_score_sums_parts_by_weight_and_marks_what_could_not_be_graded():
    parts = (Part('accuracy', accuracy.exact), Part('format', form.format, 0.5), Part('broken', broken, 0))
    responses = [said(GOOD), said('<answer> 7 </answer>'), said('<answer> 7 </answer>?')]
    reward, graded, valid = score([asked('7')] * 3, responses, parts)
    np.testing.assert_array_equal(reward, np.float32([1.5, 1, 0]))
    np.testing.assert_array_equal(valid, [True, True, False])
    np.testing.assert_array_equal(graded['accuracy'], [1, 1, 1])
    assert math.isnan(graded['broken'][2]) and reward.dtype == graded['format'].dtype == np.float32


def test_score_refuses_a_mismatch_and_lets_a_missing_package_through():
    with pytest.raises(ValueError, match='1 problems for 2 responses'):
        score([asked('7')], [said(GOOD)] * 2, ())
    with pytest.raises(ValueError, match='names of their own'):
        score([], [], (Part('a', broken), Part('a', broken)))

    def missing(problem, response):
        raise ImportError('pip install it')

    with pytest.raises(ImportError, match='pip install it'):
        score([asked('7')], [said(GOOD)], (Part('a', missing),))


def test_parts_apply_by_kind_and_add_nothing_elsewhere():
    parts = (Part('accuracy', accuracy.exact, kinds=('math',)), Part('length', graders.Batched(), 0.5, kinds=('chat',)))
    problems = [asked('7'), asked('', kind='chat'), asked('', kind='chat')]
    reward, graded, valid = score(problems, [said(GOOD), said('four'), said('')], parts)
    np.testing.assert_array_equal(reward, np.float32([1, 2, 0]))
    np.testing.assert_array_equal(valid, [True, True, False])  # the last could not be graded, the others not by all
    np.testing.assert_array_equal(np.isnan(graded['accuracy']), [False, True, True])
    np.testing.assert_array_equal(np.isnan(graded['length']), [True, False, True])
    with pytest.raises(ValueError, match="no reward part applies to problem 0, of kind 'poem'"):
        score([asked('7', kind='poem')], [said('')], parts)


def test_parts_with_a_deadline_are_graded_by_workers():
    parts = (
        Part('acts', graders.acts, deadline=0.4),
        Part('same', graders.same, deadline=5),
        Part('format', form.format),
    )
    texts = ['7', 'hang', 'kill', 'raise', GOOD]
    with Pool(2) as pool:
        scores = begin([asked('7')] * 5, [said(text) for text in texts], parts, pool).result()
    assert scores.outcome == ['graded', 'timeout', 'died', 'raised', 'graded']
    assert scores.errors == {'timeout': 1, 'died': 1, 'raised': 1}
    np.testing.assert_array_equal(scores.reward, np.float32([2, 0, 0, 0, 2]))
    np.testing.assert_array_equal(scores.valid, [True, False, False, False, True])
    np.testing.assert_array_equal(scores.parts['same'], [1, 0, 0, 0, 0])  # what could be graded is known
    assert score([asked('7')], [said('7')], parts)[0] == 2  # with a pool of its own


def test_problems_that_cannot_be_graded_are_found():
    problems = [asked('7'), asked('seven'), asked('x', kind='chat')]
    for deadline in (0.0, 5.0):
        with Pool(1) as pool:
            found = unfit(problems, [Part('accuracy', graders.Checked(), kinds=('math',), deadline=deadline)], pool)
        assert found == {1: "accuracy: 'seven' is no number"}
    with Pool(1) as pool:
        assert unfit([asked('1/2'), asked('a half')], [Part('accuracy', accuracy.numeric)], pool).keys() == {1}
