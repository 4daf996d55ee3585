"""What an evaluation says: pass@k, the majority vote, and how sure we may be of them.

In: what each sample of each question did, as `[Q,S]` arrays. Out: `summarise`, the EVAL object of summary.json. NumPy
only, no model, no disk. pass@1 is the mean over S samples (R1 report §3), never greedy decoding; k is refused above S;
intervals resample questions, not samples, because the answers to one question stand or fall together.

Left out: intervals that assume a distribution. The bootstrap's known blind spot is stated where it matters
(`interval`).

Axes: Q questions, S samples a question.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np


def pass_at_k(correct: np.ndarray, k: int) -> float:
    """Chance that at least one of k samples is correct, estimated without bias from S >= k samples.

    A question with c correct samples contributes `1 − C(S−c, k) / C(S, k)` (Chen et al. 2021, eq. 1).

    Args:
      correct: bool[Q,S].
      k: samples drawn without replacement, 1 <= k <= S.

    Raises:
      ValueError: k is not in 1..S, or there are no questions.
    """
    return float(chances(correct, k).mean())


def chances(correct: np.ndarray, k: int) -> np.ndarray:
    """What `pass_at_k` is the mean of: f[Q]."""
    correct = _grid('correct', correct, bool)
    samples = correct.shape[1]
    if not 1 <= k <= samples:
        raise ValueError(f'pass@k needs 1 <= k <= samples a question, got {k=} and {samples=}')
    total = math.comb(samples, k)
    return np.array([1 - math.comb(samples - int(right), k) / total for right in correct.sum(axis=1)])


def pass_at_1(correct: np.ndarray) -> float:
    """Mean of bool[Q,S]: the share of correct samples, every question counting alike."""
    return float(_grid('correct', correct, bool).mean())


def interval(correct: np.ndarray, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Bootstrap interval of the mean, clustered by question: whole questions are drawn with replacement.

    A sample of questions that all agree gives an interval of width 0: read [1, 1] as "no failure seen", not as
      certainty.

    Args:
      correct: bool[Q,S], or f[Q], one value a question.
      level: share of the resampled means inside, percentiles cut equally from both ends.
      resamples: draws of Q questions.
      seed: of the draws; the same input gives the same interval.

    Returns:
      (low, high), in the unit of `correct`.

    Raises:
      ValueError: not one or two axes, empty, or level outside (0, 1).
    """
    values = np.asarray(correct, float)
    values = values if values.ndim == 1 else _grid('correct', values, float).mean(axis=1)
    return ratio_interval(values, np.ones_like(values), level, resamples, seed)


def ratio_interval(
    part: np.ndarray, whole: np.ndarray, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """`interval` of Σ part / Σ whole, for shares whose whole differs between questions (correct among the well-formed).

    Args:
      part, whole: f[Q], counts a question. Draws whose whole is 0 are left out.

    Raises:
      ValueError: empty, different lengths, Σ whole = 0, or level outside (0, 1).
    """
    part, whole = np.asarray(part, float), np.asarray(whole, float)
    if part.ndim != 1 or part.shape != whole.shape or not part.size:
        raise ValueError(f'need two equal, non-empty [Q] arrays, got shapes {part.shape} and {whole.shape}')
    if not whole.sum():
        raise ValueError('the share of nothing has no interval: whole sums to 0')
    if not 0 < level < 1:
        raise ValueError(f'{level=} must lie between 0 and 1')
    rng = np.random.default_rng(seed)
    draws, at_once = [], max(1, 10**6 // part.size)  # some at a time: [resamples,Q] may not fit
    for start in range(0, resamples, at_once):
        chosen = rng.integers(part.size, size=(min(at_once, resamples - start), part.size))
        below = whole[chosen].sum(axis=1)
        draws.append(part[chosen].sum(axis=1)[below > 0] / below[below > 0])
    low, high = np.quantile(np.concatenate(draws), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def majority(answers: Sequence[Sequence[str | None]], correct: np.ndarray) -> float:
    """cons@S: the share of questions whose most frequent answer is correct.

    An answer is as correct as the samples that gave it are on average (0 or 1 with a grader that looks at nothing but
    the answer). Tied answers share the question equally: the expected score of a vote that breaks ties by chance, and
    so independent of the order of the samples. None (no answer found) never wins, unless no sample of the question has
    an answer.

    Args:
      answers: S final answers for each of Q questions; equal strings are equal votes.
      correct: bool[Q,S].

    Raises:
      ValueError: the two disagree in shape.
    """
    return float(votes(answers, correct).mean())


def votes(answers: Sequence[Sequence[str | None]], correct: np.ndarray) -> np.ndarray:
    """What `majority` is the mean of: f[Q], how correct each question's most frequent answer is."""
    correct = _grid('correct', correct, bool)
    _same_shape('answers', answers, correct.shape)
    return np.array([_vote(row, right) for row, right in zip(answers, correct, strict=True)])


def _vote(answers: Sequence[str | None], correct: np.ndarray) -> float:
    votes = collections.Counter(answer for answer in answers if answer is not None) or collections.Counter(answers)
    most = max(votes.values())
    tied = [answer for answer, count in votes.items() if count == most]
    return float(
        np.mean([np.mean([right for a, right in zip(answers, correct, strict=True) if a == answer]) for answer in tied])
    )


def summarise(
    correct: np.ndarray | None,
    answers: Sequence[Sequence[str | None]] | None,
    tokens: np.ndarray,
    formatted: np.ndarray | None,
    finished: np.ndarray,
    modes: Sequence[Sequence[str]] | None = None,
    parts: Mapping[str, np.ndarray] | None = None,
    reflective: np.ndarray | None = None,
) -> dict:
    """The EVAL object of summary.json.

    Args:
      correct: bool[Q,S], the reward part 'accuracy' says so; None for questions that have no right answer, where nothing is said of
        accuracy.
      answers: Q × S final answers, None where there is none; None with `correct`, and where there is no vote.
      tokens: i[Q,S], response tokens, end token included.
      formatted: bool[Q,S], well-formed; None: nothing is said of it.
      finished: bool[Q,S], False where the response was cut off.
      modes: Q × S labels of how a response went about it ('worked', 'direct'); adds 'by_mode'. Needs `correct`.
      parts: f[Q,S] of each other reward part, NaN where it does not apply. 'language' adds 'language_consistency', the others 'parts',
        with a mean and an interval each.
      reflective: i[Q,S], reflective words of a response; adds 'reflective_words', their mean.

    Returns:
      Plain numbers: shares lie in 0..1, 'response_tokens' is a mean, '…_ci' is [low, high] at 95 %.
      'accuracy_well_formed' and its interval are None where nothing is well-formed.

    Raises:
      ValueError: the arguments disagree in shape, or are empty.
    """
    shape = np.shape(tokens if correct is None else correct)
    tokens, finished = _grid('tokens', tokens, float, shape), _grid('finished', finished, bool, shape)
    result = {'questions': shape[0], 'samples': shape[1]}
    if correct is not None:
        correct = _grid('correct', correct, bool)
        result |= {'pass@1': pass_at_1(correct), 'pass@1_ci': list(interval(correct))}
    if correct is not None and answers is not None:
        voted = votes(answers, correct)
        result |= {f'cons@{shape[1]}': float(voted.mean()), f'cons@{shape[1]}_ci': list(interval(voted))}
    result |= {
        'response_tokens': float(tokens.mean()),
        'response_tokens_ci': list(interval(tokens.mean(axis=1))),
        'truncated': float(1 - finished.mean()),
    }
    if formatted is not None:
        formatted = _grid('formatted', formatted, bool, shape)
        result |= {'format': float(formatted.mean()), 'format_ci': list(interval(formatted))}
    if correct is not None and formatted is not None:
        well_formed, well_formed_ci = _share(correct, formatted)
        result |= {'accuracy_well_formed': well_formed, 'accuracy_well_formed_ci': well_formed_ci}
    if reflective is not None:
        mean, ci = _mean(_grid('reflective', reflective, float, shape))
        result |= {'reflective_words': mean, 'reflective_words_ci': ci}
    for name, values in (parts or {}).items():
        mean, ci = _mean(_grid(name, values, float, shape))
        if name == 'language':
            result |= {'language_consistency': mean, 'language_consistency_ci': ci}
        else:
            result.setdefault('parts', {})[name] = {'mean': mean, 'ci': ci}
    if modes is not None:
        _same_shape('modes', modes, correct.shape)
        labels = np.array([list(row) for row in modes], object)
        result['by_mode'] = {mode: _mode(correct, tokens, labels == mode) for mode in sorted(set(labels.ravel()))}
    return result


def figures(result: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """An evaluation's result as metrics: path -> number or interval. Of a part its mean, `part/NAME`; modes and tables stay in
    summary.json.
    """
    parts = result.get('parts') or {}
    flat = {k: v for k, v in result.items() if not isinstance(v, dict) and k != 'reliability'}
    for name, each in parts.items():
        flat |= {f'part/{name}': each['mean'], f'part/{name}_ci': each['ci']}
    return ((path, value) for path, value in flat.items() if value is not None)


def _mode(correct: np.ndarray, tokens: np.ndarray, chosen: np.ndarray) -> dict:
    accuracy, ci = _share(correct, chosen)
    return {
        'share': float(chosen.mean()),
        'accuracy': accuracy,
        'accuracy_ci': ci,
        'response_tokens': float(tokens[chosen].mean()),
    }


def _mean(values: np.ndarray) -> tuple[float | None, list[float] | None]:
    """Mean of f[Q,S] over what is not NaN, with its interval; None where all is."""
    known = ~np.isnan(values)
    if not known.any():
        return None, None
    total, count = np.where(known, values, 0.0).sum(axis=1), known.sum(axis=1)
    return float(total.sum() / count.sum()), list(ratio_interval(total, count))


def _share(correct: np.ndarray, chosen: np.ndarray) -> tuple[float | None, list[float] | None]:
    """Accuracy among the chosen samples with its interval; None where none is chosen. Both are bool[Q,S]."""
    if not chosen.any():
        return None, None
    part, whole = (correct & chosen).sum(axis=1), chosen.sum(axis=1)
    return float(part.sum() / whole.sum()), list(ratio_interval(part, whole))


def _grid(name: str, value, kind: type, shape: tuple[int, int] | None = None) -> np.ndarray:
    """`value` as a non-empty [Q,S] array of `kind`; NaN and numbers other than 0 and 1 do not pass for truth values."""
    array = np.asarray(value)
    if array.ndim != 2 or not array.size:
        raise ValueError(f'{name} must be a non-empty [questions, samples] array, got shape {array.shape}')
    if shape is not None and array.shape != shape:
        raise ValueError(f'{name} has shape {array.shape}, correct has {shape}')
    if kind is bool and array.dtype != bool and not np.isin(array, [0, 1]).all():
        raise ValueError(f'{name} must hold truth values, got {array.dtype} with values other than 0 and 1')
    return array.astype(kind)


def _same_shape(name: str, rows: Sequence[Sequence], shape: tuple[int, int]) -> None:
    got = [len(row) for row in rows]
    if len(got) != shape[0] or set(got) != {shape[1]}:
        raise ValueError(f'{name} must be {shape[0]} rows of {shape[1]}, got {len(got)} rows of {sorted(set(got))}')
