"""A Codeforces rating from which contest problems were solved.

In: of each problem its difficulty, rated as Codeforces rates it, and how many of k samples solved it. Out: the rating at which Elo's
expectation makes these solutions most likely,

    P(solve | rating r, difficulty d) = 1 / (1 + 10^((d − r) / 400)),

since Codeforces defines a problem's difficulty as the rating at which half of those who try it solve it. The log-likelihood is concave in
r, so the estimate is where Σ (solved share − P) = 0: solving as many problems as one of that rating is expected to.

Its standard error is that of a sum over independent questions whose k samples are not independent (a sandwich estimate): the slope of
the expectation is Σ P(1−P)·c, the variance of the score Σ (share − P)²·c², with c = ln 10 / 400. Where nothing or everything was solved
there is no estimate, only a bound: the rating at which that would be seen once in forty times.

Left out: places in contests' standings, from which CodeElo (arXiv 2501.01257) estimates; they need every contestant's result. Penalties
for late or wrong submissions are not modelled, as with any offline estimate.

Axes: Q problems, k samples of each.
"""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SCALE = math.log(10) / 400  # of a difference of ratings
RARE = 0.025


class Estimate(NamedTuple):
    """A rating; with its standard error, or with one end of `interval` open where there is only a bound (None)."""

    rating: float | None
    error: float | None
    interval: tuple[float | None, float | None]  # 95 %


def expected(rating: float, difficulty: np.ndarray) -> np.ndarray:
    """f[Q]: the chance that someone of this rating solves problems of these difficulties."""
    return 1 / (1 + np.exp(SCALE * (np.asarray(difficulty, float) - rating)))


def rating(difficulty: Sequence[float], solved: Sequence[float]) -> Estimate:
    """The most likely rating.

    Args:
      difficulty: f[Q], ratings of the problems.
      solved: f[Q], the share of each problem's samples that solved it, 0 to 1.

    Raises:
      ValueError: no problems, different numbers of both, a share outside 0 to 1, or a difficulty that is no number.
    """
    d, share = np.asarray(difficulty, float), np.asarray(solved, float)
    if d.ndim != 1 or d.shape != share.shape or not d.size:
        raise ValueError(f'a rating needs as many difficulties as solved shares, not {d.shape} and {share.shape}')
    if not np.isfinite(d).all() or not ((share >= 0) & (share <= 1)).all():
        raise ValueError('difficulties must be numbers and solved shares lie in 0 to 1')
    if not share.any():
        return Estimate(None, None, (None, _where(d, lambda p: np.log1p(-p).sum(), math.log(RARE), falls=True)))
    if share.min() == 1:
        return Estimate(None, None, (_where(d, lambda p: np.log(p).sum(), math.log(RARE), falls=False), None))
    r = _where(d, lambda p: p.sum(), share.sum(), falls=False)
    p = expected(r, d)
    slope = SCALE * (p * (1 - p)).sum()
    residual = share - p
    n = d.size
    error = math.sqrt((residual**2).sum() * n / max(n - 1, 1)) / slope
    return Estimate(r, error, (r - 1.96 * error, r + 1.96 * error))


def _where(d: np.ndarray, of, target: float, falls: bool) -> float:
    """The rating at which `of(chances)`, monotone in it, is `target`; by halving, to a thousandth of a point."""
    low, high = d.min() - 8000, d.max() + 8000
    while high - low > 1e-3:
        middle = (low + high) / 2
        p = np.clip(expected(middle, d), 1e-300, 1 - 1e-16)
        low, high = (middle, high) if (of(p) > target) == falls else (low, middle)
    return float((low + high) / 2)


def percentile(of: float, ratings: Sequence[float]) -> float:
    """The per cent of people with these ratings whom a rating is above; equal ones count half."""
    ordered = sorted(ratings)
    if not ordered:
        raise ValueError('a percentile needs the ratings of people to be above')
    below, up_to = bisect.bisect_left(ordered, of), bisect.bisect_right(ordered, of)
    return 100 * (below + up_to) / 2 / len(ordered)


def people(path: str) -> list[float]:
    """Ratings of people: a JSON list of numbers, or what the method user.ratedList of Codeforces' API answers.

    Raises:
      ValueError: it is neither.
    """
    said = json.loads(Path(path).read_text(encoding='utf-8'))
    rows = said.get('result') if isinstance(said, dict) else said
    found = [row.get('rating') if isinstance(row, dict) else row for row in rows or ()]
    if not found or not all(isinstance(each, (int, float)) for each in found):
        raise ValueError(
            f'{path} has no ratings: a JSON list of numbers, or the answer of user.ratedList, was expected'
        )
    return [float(each) for each in found]


def figures(rows: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """`rating`, `rating_error`, `rating_ci` and how many of the problems are rated, of stored samples. Problems without a rating are left
    out.
    """
    known = [row for row in rows if row[0].get('about', {}).get('rating') is not None]
    if not known:
        return {'rated_problems': 0}
    shares = [float(np.mean([line['parts']['accuracy'] == 1 for line in row])) for row in known]
    found = rating([row[0]['about']['rating'] for row in known], shares)
    return {
        'rated_problems': len(known),
        'rating': found.rating,
        'rating_error': found.error,
        'rating_ci': list(found.interval),
    }
