"""Two evaluations compared: the difference on the same questions, and how sure it may be.

In: two folders that `r1jax eval` wrote. Out: of each benchmark and metric that both have, B − A with an interval. Questions are paired:
an interval of the difference resamples whole questions and takes both sides' samples of each, so what makes a question hard for both
drops out. It is narrower than two separate intervals suggest, and is the one to look at.

Samples themselves are not paired: sample 3 of the one and of the other have nothing in common but the question. k may differ.

Axes: Q questions that both have.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from r1jax.evals import judging, results
from r1jax.evals.kept import grid
from r1jax.evals.metrics import chances, interval, votes
from r1jax.settings import BadInput
from r1jax.train.log import read

Rows = Sequence[Sequence[Mapping[str, Any]]]
HEAD = ('benchmark', 'metric', 'A', 'B', 'B − A', '95 % interval', 'questions', '')


def compare(a: str, b: str) -> dict[str, dict[str, Any]]:
    """benchmark -> metric -> {'a', 'b', 'difference', 'difference_ci', 'questions', 'samples'}.

    Raises:
      BadInput: a folder without results, nothing that both measured, or a benchmark of which they asked other questions.
    """
    entries = [_entries(folder) for folder in (a, b)]
    both = [name for name in entries[0] if name in entries[1]]
    if not both:
        has = [', '.join(each) or 'no benchmark with samples of ours' for each in entries]
        raise BadInput(f'{a} has {has[0]} and {b} has {has[1]}: there is no benchmark that both have')
    return {
        name: _pair(name, [(Path(folder), each[name]) for folder, each in zip((a, b), entries, strict=True)])
        for name in both
    }


def _entries(folder: str) -> dict[str, Any]:
    path = Path(folder, results.RESULTS)
    if not path.is_file():
        raise BadInput(f'{folder} has no {results.RESULTS}: name folders that r1jax eval wrote')
    found = json.loads(path.read_text(encoding='utf-8'))['benchmarks']
    return {
        name: entry
        for name, entry in found.items()
        if Path(folder, f'{name}.jsonl').is_file() and ('pass@1' in entry or 'win_rate' in entry)
    }


def _pair(name: str, sides: Sequence[tuple[Path, Mapping[str, Any]]]) -> dict[str, Any]:
    data = [entry['settings']['data'] for _, entry in sides]
    lines = [list(read(str(folder / f'{name}.jsonl'))) for folder, _ in sides]
    asked = [{line['question']: (line['prompt'], line['answer']) for line in each} for each in lines]
    shared = [q for q in asked[0] if q in asked[1]]
    if not shared or any(asked[0][q] != asked[1][q] for q in shared):
        raise BadInput(f'{name}: the two asked other questions (data {data[0]} and {data[1]}), and cannot be compared')
    rows = [
        grid(each, shared, entry['samples'], str(folder / f'{name}.jsonl'))
        for each, (folder, entry) in zip(lines, sides, strict=True)
    ]
    found = {}
    for metric, values in _values(rows).items():
        difference = values[1] - values[0]
        both = ~np.isnan(difference)  # a judge may have left out one of a pair
        if not both.any():
            continue
        found[metric] = {
            'a': float(values[0][both].mean()),
            'b': float(values[1][both].mean()),
            'difference': float(difference[both].mean()),
            'difference_ci': list(interval(difference[both])),
            'questions': int(both.sum()),
            'samples': [len(each[0]) for each in rows],
        }
    return found


def _values(sides: Sequence[Rows]) -> dict[str, list[np.ndarray]]:
    """metric -> f[Q] of each side, for the metrics that both have; NaN: not judged."""
    tokens = [np.array([np.mean([line['tokens'] for line in row]) for row in rows]) for rows in sides]
    if all('preference' in rows[0][0]['parts'] for rows in sides):
        return {'win_rate': [judging.preferences(rows) for rows in sides], 'response_tokens': tokens}
    right = [results.correct(rows) for rows in sides]
    least = min(each.shape[1] for each in right)
    out = {f'pass@{n}': [chances(each, n) for each in right] for n in results.powers(least)}
    if least > 1 and right[0].shape == right[1].shape and all('vote' in rows[0][0] for rows in sides):
        out[f'cons@{least}'] = [
            votes([[line['vote'] for line in row] for row in rows], each)
            for rows, each in zip(sides, right, strict=True)
        ]
    return out | {'response_tokens': tokens}


def table(found: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Rows of cells. The last says where the interval does not hold 0."""
    rows = [list(HEAD)]
    for name, metrics in found.items():
        for metric, each in metrics.items():
            low, high = each['difference_ci']
            a, b = (results.number(metric, each[side]) for side in 'ab')
            change = [results.number(metric, value, sign=True) for value in (each['difference'], low, high)]
            sure = 'B is more' if low > 0 else 'B is less' if high < 0 else ''
            rows.append([name, metric, a, b, change[0], f'[{change[1]}, {change[2]}]', str(each['questions']), sure])
    return rows
