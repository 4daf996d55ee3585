"""Reflective words are counted by hand-worked cases, in either language, and summarised as means a response."""

import subprocess
import sys

import numpy as np
import pytest

from r1jax.evals.metrics import figures, ratio_interval, summarise
from r1jax.rewards import reflection


@pytest.mark.parametrize(
    'text, expected',
    [
        ('<think>3+4=8 Wait, 3+4=7.</think>', {'wait': 1}),
        ('but BUT however; an error.', {'but': 2, 'however': 1, 'error': 1}),
        ('waiting, buttons, errors, checked, unverify', {}),  # inflected, or part of another word
        ('先3+4=8等等，再wait,3+4=7', {'等等': 1, 'wait': 1}),  # no space between the languages
        ('ｗａｉｔ 7wait8', {'wait': 2}),  # full-width letters; digits on both sides
        ('但是这是错误的，检查一下', {'但是': 1, '错误': 1, '检查': 1}),
        ('', {}),
    ],
)
def test_words(text, expected):
    assert reflection.words(text) == expected
    assert reflection.count(text) == sum(expected.values())


def test_metrics_are_words_a_response():
    found = reflection.metrics(['wait wait 检查', 'no', 'wait', 'no'])
    assert found == {
        'reflection/mean': 1.0,
        'reflection/share': 0.5,
        'reflection/wait': 0.75,
        'reflection/检查': 0.25,
    }
    with pytest.raises(ValueError, match='there are no responses'):
        reflection.metrics([])


def test_nothing_is_imported_that_a_report_could_not_do_without():
    code = (
        'import sys, r1jax.rewards.reflection; print(*[m for m in ("numpy", "jax", "py3langid") if m in sys.modules])'
    )
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split() == []


def test_evaluations_have_language_and_reflection_with_intervals():
    grid = np.array([[1, 0], [1, 1], [0, 0]])
    language = np.array([[1.0, 0.5], [np.nan, 1.0], [np.nan, np.nan]])  # a part that does not apply says NaN
    words = np.array([[2, 0], [1, 1], [0, 0]])
    result = summarise(grid, [['1', '2']] * 3, grid + 1, grid, grid, parts={'language': language}, reflective=words)
    assert result['language_consistency'] == pytest.approx(2.5 / 3)
    assert result['language_consistency_ci'] == list(ratio_interval([1.5, 1, 0], [2, 1, 0]))
    assert result['reflective_words'] == pytest.approx(4 / 6)
    for key in ('cons@2', 'response_tokens', 'format', 'reflective_words'):
        low, high = result[f'{key}_ci']
        assert low <= result[key] <= high and low < high
    none = summarise(grid, [['1', '2']] * 3, grid, grid, grid, parts={'language': np.full((3, 2), np.nan)})
    assert none['language_consistency'] is None and none['language_consistency_ci'] is None
    assert 'language_consistency' not in summarise(grid, [['1', '2']] * 3, grid, grid, grid)


def test_what_an_evaluation_during_training_logs():
    grid = np.ones((2, 2))
    parts = {'helpful': 3 * grid, 'safe': np.full((2, 2), np.nan)}
    logged = dict(figures(summarise(None, None, grid, grid, grid, parts=parts, reflective=grid)))
    assert logged['part/helpful'] == 3 and logged['part/helpful_ci'] == [3, 3] and logged['reflective_words'] == 1
    assert not {'part/safe', 'parts', 'pass@1'} & logged.keys()
