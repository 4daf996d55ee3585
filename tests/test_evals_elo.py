"""The rating estimator: recovers simulated ratings within the error that it states."""

import json

import numpy as np
import pytest

from r1jax.evals import elo


def simulated(rng, rating, problems=120, k=8, spread=0.0):
    """Difficulties, and the share of k samples that solved each; `spread`: problems that suit this solver more or less, in points."""
    d = rng.uniform(800, 3000, problems)
    chance = elo.expected(rating, d + rng.normal(0, spread, problems))
    return d, rng.binomial(k, chance) / k


# The last: problems that suit this solver more or less, alike for all its samples. In the middle of the difficulties, since a spread
# flattens the curve and draws ratings at its ends towards the middle.
@pytest.mark.parametrize(
    ('rating', 'spread'), [(1000.0, 0.0), (1500.0, 0.0), (2029.0, 0.0), (2600.0, 0.0), (1900.0, 300.0)]
)
def test_ratings_are_recovered_within_the_stated_error(rating, spread):
    rng = np.random.default_rng(int(rating))
    found = [elo.rating(*simulated(rng, rating, spread=spread)) for _ in range(80)]
    off = np.array([each.rating - rating for each in found])
    error = np.array([each.error for each in found])
    assert abs(off.mean()) < 3.5 * off.std() / np.sqrt(len(off))
    assert error.mean() == pytest.approx(off.std(), rel=0.3)
    assert np.mean([low <= rating <= high for *_, (low, high) in found]) > 0.85


def test_the_estimate_solves_as_many_as_it_is_expected_to():
    d, share = simulated(np.random.default_rng(0), 1700)
    found = elo.rating(d, share)
    assert elo.expected(found.rating, d).sum() == pytest.approx(share.sum(), abs=1e-3)
    grid = np.arange(found.rating - 300, found.rating + 300, 1.0)
    p = elo.expected(grid[:, None], d)
    likelihood = (share * np.log(p) + (1 - share) * np.log1p(-p)).sum(axis=1)
    assert grid[likelihood.argmax()] == pytest.approx(found.rating, abs=1)


def test_nothing_and_everything_give_a_bound():
    d = np.array([1000.0, 1200.0])
    none, whole = elo.rating(d, [0, 0]), elo.rating(d, [1, 1])
    assert none.rating is None and none.interval[0] is None and whole.interval[1] is None
    assert np.prod(1 - elo.expected(none.interval[1], d)) == pytest.approx(elo.RARE, rel=1e-3)
    assert np.prod(elo.expected(whole.interval[0], d)) == pytest.approx(elo.RARE, rel=1e-3)


@pytest.mark.parametrize('bad', [([], []), ([1000.0], [0.5, 0.5]), ([1000.0], [1.5]), ([np.nan], [0.5])])
def test_what_is_no_result_is_refused(bad):
    with pytest.raises(ValueError, match=r'solved shares'):
        elo.rating(*bad)


def test_percentiles_and_where_people_come_from(tmp_path):
    assert elo.percentile(1500, [1000, 1500, 1500, 2000]) == 50
    assert elo.percentile(2100, range(1000, 2000)) == 100 and elo.percentile(900, range(1000, 2000)) == 0
    (tmp_path / 'a.json').write_text(json.dumps([1, 2.5]))
    (tmp_path / 'b.json').write_text(json.dumps({'status': 'OK', 'result': [{'handle': 'x', 'rating': 1200}]}))
    assert elo.people(str(tmp_path / 'a.json')) == [1, 2.5] and elo.people(str(tmp_path / 'b.json')) == [1200]
    (tmp_path / 'c.json').write_text('{"result": []}')
    with pytest.raises(ValueError, match='no ratings'):
        elo.people(str(tmp_path / 'c.json'))
