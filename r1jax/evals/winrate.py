"""AlpacaEval 2 and ArenaHard of judgements: how often a model's answer is preferred to a baseline's, whatever its length.

In: a judgement a pair, made before (by those projects' own judges) or by `r1jax.rewards.judge.Pairwise`. Out: win rates with intervals.
The judge reads the summary alone, as the report has it; lengths are of what was judged.

The length-controlled win rate (Dubois et al., arXiv 2404.04475) asks what the judge would have said of answers of equal length. Its
model of a preference p for the model's answer is logistic,

    logit p = w₁·tanh(Δ/std Δ) + w₂·difficulty + w₃,

with Δ the baseline's length less the model's (characters), and the difficulty of each instruction, which AlpacaEval fitted on many models
and publishes; the weights have an L1 penalty that cross-validation chooses. Predictions with Δ = 0, averaged, are the win rate. AlpacaEval
adds judgements of two baselines that were told to be short or long ('gamed'), a fifth as heavy, so that one model alone does not decide
about w₁. Both tables, instruction_difficulty.csv and df_gamed.csv, are at tatsu-lab/alpaca_eval on the Hugging Face hub. Without them the
model has w₁ and w₃ alone, which AlpacaEval calls length_controlled_minimal.

Axes: N judged pairs, F features.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from r1jax.data.rows import read
from r1jax.evals.metrics import interval, ratio_interval

FOLDS = 5
STRENGTHS = np.logspace(-4, 4, 10)  # C of the penalty, one of which is chosen
RESAMPLES = 300
GAMED = 0.2 / 2  # weight of a judgement of one of the two gamed baselines


class Judged(NamedTuple):
    """Judged pairs."""

    preference: np.ndarray  # f[N], 0 the baseline's answer is better, 1 the model's; NaN: not judged
    baseline: np.ndarray  # f[N], length of the baseline's answer, characters
    model: np.ndarray  # f[N], of the model's
    index: np.ndarray  # type: ignore[assignment]  # it hides a method of tuples; i[N], of the instruction


class Gamed(NamedTuple):
    """What AlpacaEval publishes of its instructions."""

    difficulty: np.ndarray  # f[instructions]
    features: np.ndarray  # f[N,F] of the gamed baselines' judgements
    preference: np.ndarray  # f[N]


def win_rate(preference: np.ndarray) -> dict[str, Any]:
    """The mean preference for the model, a tie counting half, and its interval; pairs without a judgement are left out and counted."""
    known = preference[~np.isnan(preference)]
    if not known.size:
        raise ValueError('no pair has a judgement')
    return {
        'questions': int(preference.size),
        'samples': 1,
        'win_rate': float(known.mean()),
        'win_rate_ci': list(interval(known)),
        'not_judged': int(preference.size - known.size),
    }


def length_controlled(judged: Judged, gamed: Gamed | None = None) -> dict[str, Any]:
    """`length_controlled`, the weights, and an interval at 95 %: instructions are drawn again, and the weights fitted to each draw.

    Raises:
      ValueError: too few judgements to cross-validate.
    """
    delta = judged.baseline - judged.model
    std = np.std(delta, ddof=1)
    length = np.tanh(delta / std) if std > 0 else np.zeros_like(delta)
    columns = [length, *([gamed.difficulty[judged.index]] if gamed else []), np.ones_like(length)]
    x = np.stack(columns, axis=1)
    known = ~np.isnan(judged.preference)
    if known.sum() < FOLDS:
        raise ValueError(f'{known.sum()} judgements cannot be cut into {FOLDS} parts for cross-validation')
    fit_x, fit_y, weight = x[known], judged.preference[known], np.ones(known.sum())
    if gamed:  # first, as AlpacaEval has them: it decides which part a row is in
        fit_x, fit_y = np.concatenate([gamed.features, fit_x]), np.concatenate([gamed.preference, fit_y])
        weight = np.concatenate([np.full(len(gamed.preference), GAMED), weight])
    w, strength = fit(fit_x, fit_y, weight)
    flat = x.copy()
    flat[:, 0] = 0
    own = len(fit_y) - known.sum()  # where the model's judgements begin

    def again(rng: np.random.Generator) -> float:
        """The win rate of other instructions, drawn with replacement; the gamed baselines and the penalty stay."""
        drawn = rng.integers(own, len(fit_y), known.sum())
        rows = np.concatenate([np.arange(own), drawn])
        found = solve(fit_x[rows], fit_y[rows], weight[rows], strength, w)
        return float(_logistic(flat[rng.integers(len(flat), size=len(flat))] @ found).mean())

    rng = np.random.default_rng(0)
    draws = [again(rng) for _ in range(RESAMPLES)]
    said = _logistic(flat @ w)
    names = ('length', 'difficulty', 'model') if gamed else ('length', 'model')
    return {
        'length_controlled': float(said.mean()),
        'length_controlled_ci': np.quantile(draws, [0.025, 0.975]).tolist(),
        'weights': dict(zip(names, w.tolist(), strict=True)),
        'length_of_baseline': float(judged.baseline.mean()),
        'length_of_model': float(judged.model.mean()),
    }


# --- logistic regression with an L1 penalty


def fit(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, float]:
    """f[F], weights fitted on all rows, and the strength of the penalty, which is the one that predicts held-out rows best."""
    part = _parts(len(y))
    losses = np.zeros(len(STRENGTHS))
    for fold in range(FOLDS):
        out = part == fold
        w = np.zeros(x.shape[1])
        for i, strength in enumerate(STRENGTHS):
            w = solve(x[~out], y[~out], weight[~out], strength, w)
            losses[i] += _loss(x[out], y[out], weight[out], w) / out.sum()
    strength = STRENGTHS[losses.argmin()]
    return solve(x, y, weight, strength), float(strength)


def _parts(n: int) -> np.ndarray:
    """i[n]: which part each row is in: the last rows first, dealt in turn, so that parts differ by one row at most.

    As scikit-learn's GroupKFold deals groups of one row each.
    """
    part = np.empty(n, int)
    part[np.arange(n)[::-1]] = np.arange(n) % FOLDS
    return part


def solve(
    x: np.ndarray, y: np.ndarray, weight: np.ndarray, strength: float, start: np.ndarray | None = None
) -> np.ndarray:
    """argmin over w of Σ|w| + strength·Σ weight·(cross-entropy of y in 0..1 to σ(x·w)), by proximal Newton steps.

    x f[N,F]; y, weight f[N]; start f[F]. F is small: each Newton step is a quadratic with an L1 term, solved coordinate by coordinate.
    """
    w = np.zeros(x.shape[1]) if start is None else start.copy()

    def objective(w):
        return np.abs(w).sum() + strength * _loss(x, y, weight, w)

    value = objective(w)
    for _ in range(200):
        p = _logistic(x @ w)
        gradient = strength * x.T @ (weight * (p - y))
        hessian = strength * (x * (weight * p * (1 - p))[:, None]).T @ x + 1e-12 * np.eye(len(w))
        step = _quadratic(w, gradient, hessian) - w
        size = 1.0
        while objective(w + size * step) > value and size > 1e-10:
            size /= 2
        w = w + size * step
        new = objective(w)
        if value - new <= 1e-12 * max(1.0, abs(value)):
            break
        value = new
    return w


def _quadratic(w: np.ndarray, gradient: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """argmin over v of gradient·(v − w) + ½ (v − w)ᵀ hessian (v − w) + Σ|v|."""
    v = w.copy()
    for _ in range(1000):
        before = v.copy()
        for j in range(len(v)):
            slope = gradient[j] + hessian[j] @ (v - w) - hessian[j, j] * v[j]
            v[j] = -np.sign(slope) * max(abs(slope) - 1, 0) / hessian[j, j]
        if np.abs(v - before).max() <= 1e-12 * (1 + np.abs(v).max()):
            break
    return v


def _loss(x: np.ndarray, y: np.ndarray, weight: np.ndarray, w: np.ndarray) -> float:
    z = x @ w
    return float((weight * (np.logaddexp(0, z) - y * z)).sum())


def _logistic(z: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -z))


# --- where judgements come from


def alpaca(path: str) -> Judged:
    """AlpacaEval's annotations.json (fields preference, output_1 the baseline's, output_2): preference 1 to 2, or 0 and 1.5 for a tie.

    Raises:
      ValueError: a row without these fields, or with another preference.
    """
    found = []
    for i, (place, row) in enumerate(read(Path(path))):
        try:
            said, one, two = row['preference'], row['output_1'], row['output_2']
        except KeyError as error:
            raise ValueError(f'{place}: a judgement has no {error}') from error
        if said is not None and said != 0 and not 1 <= said <= 2:
            raise ValueError(f'{place}: a preference lies in 1 to 2, or is 0 for a tie, and not {said!r}')
        value = np.nan if said is None or np.isnan(said) else 0.5 if said == 0 else said - 1
        found.append((value, len(one), len(two), row.get('index', i)))
    if not found:
        raise ValueError(f'{path} has no judgements')
    preference, baseline, model, index = (np.array(column) for column in zip(*found, strict=True))
    return Judged(preference.astype(float), baseline.astype(float), model.astype(float), index.astype(int))


def gamed(difficulty: str, judgements: str) -> Gamed:
    """AlpacaEval's instruction_difficulty.csv and df_gamed.csv."""
    by_index = {
        int(float(row['index' if 'index' in row else ''])): float(row['instruction_difficulty'])
        for row in _csv(difficulty)
    }
    table = np.array([by_index[i] for i in range(len(by_index))])
    rows = list(_csv(judgements))
    features = [(np.tanh(float(r['std_delta_len'])), float(r['instruction_difficulty']), float(r['not_gamed_baseline'] == 'True'))
                for r in rows]  # fmt: skip
    return Gamed(table, np.array(features), np.array([float(r['preference']) for r in rows]))


def published(folder: str | None) -> Gamed | None:
    """Both tables of a folder's `alpaca_eval`, a copy of tatsu-lab/alpaca_eval; None where they are not there."""
    tables = [Path(folder or '', 'alpaca_eval', file) for file in ('instruction_difficulty.csv', 'df_gamed.csv')]
    return gamed(*map(str, tables)) if folder and all(each.is_file() for each in tables) else None


def _csv(path: str) -> list[dict[str, str]]:
    with open(path, newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


ARENA = {'A>>B': 1.0, 'A>B': 1.0, 'A=B': 0.5, 'B>A': 0.0, 'B>>A': 0.0}  # as a share of a win of A
STRONG = 3  # battles that a much better answer counts for, in Arena-Hard


def arena(path: str) -> dict[str, Any]:
    """The win rate of Arena-Hard's judgements (fields question_id or uid, games with a score each: the model is B in the first game
    and A in the second; a `>>` counts as three battles), the share of battles that the model wins.

    For one model against one baseline the logistic (Bradley–Terry) model that Arena-Hard fits predicts exactly this share.

    Raises:
      ValueError: a row without two games, or with another score.
    """
    won, battles, errors = [], [], 0
    for place, row in read(Path(path)):
        games = row.get('games')
        if not isinstance(games, list) or len(games) != 2:
            raise ValueError(f'{place}: a judgement has two games, and here games={games!r:.60}')
        share = total = 0.0
        for game, of_model in zip(games, ('B', 'A'), strict=True):
            score = game.get('score') if isinstance(game, Mapping) else None
            if score is None:
                errors += 1
                continue
            if score not in ARENA:
                raise ValueError(f'{place}: a score is one of {", ".join(ARENA)}, and not {score!r}')
            count = STRONG if '>>' in score else 1
            share += count * (ARENA[score] if of_model == 'A' else 1 - ARENA[score])
            total += count
        won.append(share)
        battles.append(total)
    if not sum(battles):
        raise ValueError(f'{path} has no judgements')
    return {
        'questions': len(won),
        'samples': 1,
        'win_rate': sum(won) / sum(battles),
        'win_rate_ci': list(ratio_interval(np.array(won), np.array(battles))),
        'not_judged': errors,
    }
