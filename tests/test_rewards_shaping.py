"""Length, repetition and multiple choice."""

import math
import pickle
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1jax.rewards import accuracy
from r1jax.rewards.choice import choice, picked
from r1jax.rewards.language import Language
from r1jax.rewards.length import Cosine
from r1jax.rewards.mathematics import Math
from r1jax.rewards.repetition import Repetition, repeated
from r1jax.types import Problem, Response

RIGHT, WRONG = '<answer> 7 </answer>', '<answer> 8 </answer>'


def cosine(text, tokens, finished=True, **rest):
    return Cosine(accuracy.exact, 100, **rest)(Problem(0, 'q', '7'), Response(text, tokens, finished))


def test_cosine_ends_where_the_paper_says():
    assert cosine(RIGHT, 0) == 2 and cosine(RIGHT, 100) == pytest.approx(1) and cosine(RIGHT, 50) == pytest.approx(1.5)
    assert cosine(WRONG, 0) == -10 and cosine(WRONG, 100) == pytest.approx(0) and cosine(WRONG, 50) == pytest.approx(-5)
    assert cosine(RIGHT, 25) == pytest.approx(1 + 0.5 * (1 + math.cos(math.pi / 4)))
    assert cosine(RIGHT, 100, finished=False) == cosine(RIGHT, 101) == -10
    assert cosine(RIGHT, 0, right_short=3) == 3 and cosine(WRONG, 101, exceeded=-1) == -1
    with pytest.raises(ValueError, match='max_tokens=0'):
        Cosine(accuracy.exact, 0)


@given(st.integers(0, 99))
def test_cosine_prefers_short_right_and_long_wrong_answers(tokens):
    assert cosine(RIGHT, tokens) > cosine(RIGHT, tokens + 1)
    assert cosine(WRONG, tokens) < cosine(WRONG, tokens + 1)
    assert cosine(RIGHT, tokens) > cosine(WRONG, tokens)


def penalty(text, n=3):
    return Repetition(n)(Problem(0, 'q', '7'), Response(text, 9, True))


def test_repetition():
    assert penalty('a b c d e') == penalty('a b') == penalty('') == 0
    assert penalty('a b c a b c') == pytest.approx(-1 / 4)  # abc bca cab abc
    assert penalty('A b c, a B c,') == pytest.approx(-1 / 3)
    assert penalty('wait ' * 1000) == pytest.approx(-(1 - 1 / 998))
    assert penalty('我们我们我们我们') == pytest.approx(-(1 - 2 / 6))
    assert repeated('abcabc', 1) == 0.5
    with pytest.raises(ValueError, match='n=0'):
        Repetition(0)
    start = time.perf_counter()
    assert penalty('a ' * 500_000, 20) < -0.99
    assert time.perf_counter() - start < 10


CAPITALS = ('Paris', 'London', 'Rome', '1/2', 'North and South')


@pytest.mark.parametrize(
    ('text', 'index'),
    [
        ('A', 0), ('b', 1), ('(C)', 2), ('C.', 2), ('C)', 2), (r'\text{C}', 2), (r'\text{(C)}', 2), ('**C**', 2), ('option C', 2),
        ('The answer is C', 2), ('The correct answer is (C).', 2), ('C. Rome', 2), ('(C) Rome', 2), ('C: rome', 2), ('Rome', 2),
        ('rome.', 2), ('1/2', 3), ('D', 3), ('North and South', 4), ('[E]', 4),
        ('Ｃ', 2),
        ('F', None), ('A and B', None), ('A or C', None), ('A, C', None), ('AC', None), ('(A) (C)', None), ('C. Paris', None),
        ('not C', None), ('Paris or Rome', None),
        ('С', None), ('', None), ('C' * 2000, None), ('C\x00', None), ('none of C', None), ('C?', None),
        ('A B C D E', None), ('Paris London Rome', None), ('A/B', None), ('C but maybe A', None),
    ],
)  # fmt: skip
def test_picked(text, index):
    assert picked(text, CAPITALS) == index


def test_choice():
    problem = Problem(0, 'Where?', 'C', 'choice', meta={'choices': CAPITALS})
    by_text = Problem(0, 'Where?', 'Rome', 'choice', meta={'choices': CAPITALS})
    for text, reward in (('C', 1), ('Rome', 1), ('A', 0), ('A and C', 0), ('C and A', 0)):
        assert choice(problem, Response(f'<answer> {text} </answer>', 9, True)) == reward
        assert choice(by_text, Response(rf'so \boxed{{{text}}}', 9, True)) == reward
    assert choice(problem, Response('C', 9, True)) == 0  # not in its place
    assert choice(Problem(0, 'q', 'D'), Response('<answer>(D)</answer>', 9, True)) == 1  # letters alone
    with pytest.raises(ValueError, match="'Oslo' of problem 0 is none of its options"):
        choice(Problem(0, 'q', 'Oslo', meta={'choices': CAPITALS}), Response('x', 9, True))
    with pytest.raises(ValueError, match='none of its options'):
        choice(Problem(0, 'q', 'Rome', meta={'choices': ('Rome', 'Rome')}), Response('x', 9, True))


def test_rewards_travel_to_workers():
    for reward in (Math(last=True), Language('en'), Repetition(9), Cosine(Math(), 50), choice):
        assert pickle.loads(pickle.dumps(reward)) == reward
