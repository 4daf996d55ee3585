"""From stored samples to figures: a benchmark's entry in results.json, and tables beside the paper's figures.

Everything here reads the lines that `r1jax.evals.kept` wrote, so any figure can be computed again, also of other k than was asked for.

Axes: Q questions, k samples of each.
"""

from __future__ import annotations

import collections
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from r1jax import columns
from r1jax.evals import paper
from r1jax.evals.metrics import chances, interval, summarise
from r1jax.train.log import plain, write_json

RESULTS, TABLE = 'results.json', 'results.md'
# what is no share: in points or tokens, and of lm-eval's metrics
POINTS = ('rating', 'response_tokens')
PLAIN = (
    'percentile',
    'perplexity',
    'word_perplexity',
    'byte_perplexity',
    'bits_per_byte',
    'bleu',
    'chrf',
    'chrf++',
    'ter',
)
BESIDE = ('R1', 'R1-Zero', 'Distill-Qwen-1.5B')  # models of the paper that are shown


def correct(rows: Sequence[Sequence[Mapping[str, Any]]]) -> np.ndarray:
    """bool[Q,k]: which samples are right. One that could not be graded is not, and is counted apart."""
    return np.array([[line['parts']['accuracy'] == 1 for line in row] for row in rows])


def figures(rows: Sequence[Sequence[Mapping[str, Any]]], ks: Sequence[int] = ()) -> dict[str, Any]:
    """What is reported of Q × k samples.

    pass@1 is the mean over all samples; pass@n, of each n in `ks`, the unbiased estimate; cons@k the majority vote over all k, where a tie
    is shared equally among the answers that are tied (`r1jax.evals.metrics.majority`). Intervals are at 95 %, whole questions resampled.

    Raises:
      ValueError: some n above k.
    """
    right, lines = correct(rows), [line for row in rows for line in row]
    shape = right.shape
    votes = [[line['vote'] for line in row] for row in rows] if shape[1] > 1 and 'vote' in lines[0] else None
    tokens = np.array([line['tokens'] for line in lines]).reshape(shape)
    finished = np.array([line['finished'] for line in lines]).reshape(shape)
    out = summarise(right, votes, tokens, None, finished)
    for n in sorted(set(ks) - {1}):
        each = chances(right, n)
        out |= {f'pass@{n}': float(each.mean()), f'pass@{n}_ci': list(interval(each))}
    if votes is not None:
        out['answered'] = float(np.mean([[vote is not None for vote in row] for row in votes]))
    if errors := collections.Counter(line.get('cause', '') for line in lines if line['outcome'] != 'graded'):
        out['grader_errors'], out['grader_outcomes'] = sum(errors.values()), dict(errors)
    return out


def powers(k: int) -> list[int]:
    """The powers of two up to k: of which n pass@n is reported where nothing else is asked for."""
    return [2**i for i in range(k.bit_length())]


def entry(benchmark: str, found: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A benchmark's entry in results.json: figures, settings, and of each figure what the paper reports."""
    reported = {metric: numbers for metric in found if (numbers := paper.reported(benchmark, metric))}
    return {**found, 'settings': settings, 'paper': reported}


def write(folder: str | os.PathLike, checkpoint: Mapping[str, Any], entries: Mapping[str, Any]) -> dict[str, Any]:
    """Writes results.json and results.md; benchmarks that an earlier run measured on the same checkpoint stay. Returns what is written."""
    path, old = Path(folder, RESULTS), {}
    if path.exists():
        read = json.loads(path.read_text(encoding='utf-8'))
        if read.get('checkpoint') == plain(checkpoint):
            old = read['benchmarks']
    whole = plain({'checkpoint': checkpoint, 'benchmarks': old | dict(entries)})
    write_json(str(path), whole)
    text = [f'# {checkpoint["what"]}', '', *columns.markdown(table(whole['benchmarks'])), '']
    Path(folder, TABLE).write_text('\n'.join(text), encoding='utf-8')
    return whole


def table(entries: Mapping[str, Mapping[str, Any]], beside: Sequence[str] = BESIDE) -> list[list[str]]:
    """Rows of cells: a line for each metric of each benchmark, ours with its interval, then the paper's figures."""
    rows = [['benchmark', 'metric', 'figure', '95 % interval', 'questions', 'samples', *beside]]
    for name, found in entries.items():
        for metric in shown(found):
            low_high = found.get(f'{metric}_ci')
            said = found.get('paper', {}).get(metric, {})
            rows.append(
                [
                    name,
                    metric,
                    number(metric, found[metric]),
                    f'[{number(metric, low_high[0])}, {number(metric, low_high[1])}]' if low_high else '–',
                    str(found['questions']),
                    str(found['samples']),
                    *(f'{said[model]:g}' if model in said else '–' for model in beside),
                ]
            )
    return rows


def shown(found: Mapping[str, Any]) -> list[str]:
    """The metrics of an entry that a table has."""
    others = ('rating', 'percentile', 'length_controlled', 'win_rate', 'response_tokens')
    named = [name for name in found if _ranked(name)] + list(found.get('scores', ()))
    return named + [name for name in others if found.get(name) is not None]


def _ranked(name: str) -> bool:
    return name.startswith(('pass@', 'cons@')) and not name.endswith('_ci')


def number(metric: str, value: float | None, sign: bool = False) -> str:
    """Shares in per cent, to a decimal; what is no share as it is. `sign`: + in front of what is above 0."""
    if value is None:
        return '–'
    form = '+' if sign else ''
    name = metric.partition(' ')[0]  # lm-eval's may have a filter behind it
    if name in POINTS:
        return f'{value:{form}.0f}'
    return f'{value if name in PLAIN else 100 * value:{form}.1f}'
