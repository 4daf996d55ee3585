"""What an evaluation of a reward model says: how often it judges as those did who judged held-out answers, and how sure it may be.

In: scores. Out: an object of summary.json. A pair is judged right where the chosen answer scores higher, a label where σ(score) is on
its side of a half; a tie counts half. Three things that an accuracy hides stand beside it:

- calibration: of the judgements that the model makes with probability 0.8, are 80 % right? (Guo et al., arXiv 1706.04599)
- for pairs, accuracy where the chosen answer is the longer, and where it is the shorter one: a model that likes length shows there;
- for labels, accuracy on safe and on unsafe answers: a model that calls everything safe shows there.

`Agreeing` is the evaluation itself, everything else NumPy.

Axes: N pairs or labelled answers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from r1jax.config import Agreement
from r1jax.evals.metrics import interval

Tokens = Sequence[int]


@dataclasses.dataclass(frozen=True)
class Agreeing:
    """An evaluation, ready to run."""

    cfg: Agreement
    pairs: Sequence[tuple[Tokens, Tokens]] = ()  # chosen and rejected, as the model reads them; or
    labelled: Sequence[tuple[Tokens, float]] = ()

    def __call__(self, score: Callable[[Sequence[Tokens]], np.ndarray]) -> tuple[dict, list[dict]]:
        """What summary.json holds of it, and records for samples.jsonl, of which there are none. `score`: a `r1jax.nn.scorer.Scorer`."""
        if self.pairs:
            both = score([ids for pair in self.pairs for ids in pair])
            longer = np.array([len(chosen) - len(rejected) for chosen, rejected in self.pairs])
            return of_pairs(both[::2], both[1::2], longer, self.cfg.bins), []
        scores = score([ids for ids, _ in self.labelled])
        return of_labels(scores, np.array([label for _, label in self.labelled]), self.cfg.bins), []


def of_pairs(chosen: np.ndarray, rejected: np.ndarray, longer: np.ndarray, bins: int = 10) -> dict:
    """How a model's scores agree with preferences.

    Args:
      chosen, rejected: f[N], scores of the two answers of each pair.
      longer: i[N], by how many tokens the chosen answer is longer.
      bins: of the model's confidence, from 0.5 to 1.

    Returns:
      'pairs'; 'accuracy' with 'accuracy_ci', [low, high] at 95 % (pairs resampled); 'margin', the mean of r_chosen − r_rejected;
      'loss', the mean of −log σ(margin), nats; 'calibration_error' and 'reliability' (see `reliability`); 'by_length'.

    Raises:
      ValueError: no pairs, different lengths, or a score that is not finite.
    """
    chosen, rejected, longer = _columns(chosen=chosen, rejected=rejected, longer=longer)
    margin = chosen - rejected
    right = (margin > 0) + 0.5 * (margin == 0)
    table, error = reliability(_sigmoid(np.abs(margin)), right, bins, low=0.5)
    parts = {'chosen longer': longer > 0, 'as long': longer == 0, 'chosen shorter': longer < 0}
    return {
        'pairs': len(margin),
        **_accuracy(right),
        'margin': float(margin.mean()),
        'loss': float(np.logaddexp(0, -margin).mean()),
        'calibration_error': error,
        'reliability': table,
        'by_length': {name: {'pairs': int(on.sum()), **_accuracy(right[on])} for name, on in parts.items() if on.any()},
    }


def of_labels(score: np.ndarray, label: np.ndarray, bins: int = 10) -> dict:
    """How a model's scores agree with labels.

    Args:
      score: f[N], the log-odds that an answer is safe.
      label: f[N], 1 safe, 0 unsafe; what lies between is on the side that it is nearer to.
      bins: of the probability that the model gives to safe, from 0 to 1.

    Returns:
      As `of_pairs`, with 'labels' for 'pairs', the score's log-odds for the right side as the margin, and 'by_label' for 'by_length'.

    Raises:
      ValueError: no labels, different lengths, a score that is not finite, or a label outside 0 to 1.
    """
    score, label = _columns(score=score, label=label)
    if label.min() < 0 or label.max() > 1:
        raise ValueError(f'a label lies in 0 to 1, and here from {label.min():g} to {label.max():g}')
    safe = label > 0.5
    margin = np.where(safe, score, -score)
    right = (margin > 0) + 0.5 * (margin == 0)
    table, error = reliability(_sigmoid(score), label, bins)
    parts = {'safe': safe, 'unsafe': ~safe}
    return {
        'labels': len(margin),
        **_accuracy(right),
        'margin': float(margin.mean()),
        'loss': float((np.logaddexp(0, score) - label * score).mean()),
        'calibration_error': error,
        'reliability': table,
        'by_label': {name: {'labels': int(on.sum()), **_accuracy(right[on])} for name, on in parts.items() if on.any()},
    }


def reliability(said: np.ndarray, was: np.ndarray, bins: int, low: float = 0.0) -> tuple[list[dict], float]:
    """Does what is said with probability p come true in a share p of the cases?

    Args:
      said: f[N], probabilities from `low` to 1.
      was: f[N], what came true, 0 to 1.
      bins: equal parts of [low, 1].

    Returns:
      A row for each bin that is not empty, {'from', 'to', 'count', 'said', 'was'}, the last two means; and the expected calibration
      error, Σ count/N·|said − was|.
    """
    at = np.clip(((said - low) / (1 - low) * bins).astype(int), 0, bins - 1)
    rows = []
    for b in np.unique(at).tolist():
        on = at == b
        ends = {'from': low + (1 - low) * b / bins, 'to': low + (1 - low) * (b + 1) / bins}
        rows.append({**ends, 'count': int(on.sum()), 'said': float(said[on].mean()), 'was': float(was[on].mean())})
    return rows, sum(row['count'] * abs(row['said'] - row['was']) for row in rows) / len(said)


def _accuracy(right: np.ndarray) -> dict:
    return {'accuracy': float(right.mean()), 'accuracy_ci': list(interval(right))}


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(x / 2))


def _columns(**columns: np.ndarray) -> list[np.ndarray]:
    """The columns as f64[N]."""
    arrays = {name: np.asarray(column, float) for name, column in columns.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    first = next(iter(arrays.values()))
    if not first.size or first.ndim != 1 or len(set(shapes.values())) > 1:
        raise ValueError(f'need equal columns that are not empty, got shapes {shapes}')
    if bad := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
        raise ValueError(f'{bad[0]} must be finite numbers: {arrays[bad[0]]}')
    return list(arrays.values())
