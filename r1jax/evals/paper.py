"""What the R1 report says that its models score, in per cent (a Codeforces rating in points): figures to stand beside ours.

Sources: its Tables 2, 4, 5 and 6, and Methods, as far as they were read for r1jax (docs/recipe.md says which figures are secondary).
"""

from __future__ import annotations

from collections.abc import Mapping

_COLUMNS = (
    'aime24 pass@1',
    'aime24 cons@64',
    'math500 pass@1',
    'gpqa_diamond pass@1',
    'livecodebench pass@1',
    'codeforces rating',
)
_ROWS: Mapping[str, tuple[float | None, ...]] = {
    'R1-Zero': (71.0, 86.7, 95.9, 73.3, 50.0, 1444),
    'R1': (79.8, None, 97.3, 71.5, 65.9, 2029),
    'Distill-Qwen-1.5B': (28.9, 52.7, 83.9, 33.8, 16.9, 954),
    'Distill-Qwen-7B': (55.5, 83.3, 92.8, 49.1, 37.6, 1189),
    'Distill-Qwen-14B': (69.7, 80.0, 93.9, 59.1, 53.1, 1481),
    'Distill-Qwen-32B': (72.6, 83.3, 94.3, 62.1, 57.2, 1691),
    'Distill-Llama-8B': (50.4, 80.0, 89.1, 49.0, 39.6, 1205),
    'Distill-Llama-70B': (70.0, 86.7, 94.5, 65.2, 57.5, 1633),
    'Zero-Qwen-32B': (47.0, 60.0, 91.6, 55.0, 40.2, None),
}
_R1 = {
    'codeforces percentile': 96.3,
    'mmlu acc': 90.8,
    'mmlu_redux exact_match': 92.9,
    'mmlu_pro exact_match': 84.0,
    'drop f1': 92.2,  # 3-shot
    'ifeval prompt_level_strict_acc': 83.3,
    'simpleqa pass@1': 30.1,
    'frames pass@1': 82.5,
    'alpaca_eval length_controlled': 87.6,
    'arena_hard win_rate': 92.3,
    'cnmo24 pass@1': 78.8,
    'cluewsc pass@1': 92.8,
    'ceval acc': 91.8,
    'c_simpleqa pass@1': 63.7,
}

MODELS = tuple(_ROWS)


def reported(benchmark: str, metric: str) -> dict[str, float]:
    """Model -> what the report has of a benchmark's metric, per cent; of a rating, points. Empty where it has nothing."""
    name = f'{benchmark} {metric}'
    found = {}
    if name in _COLUMNS:
        at = _COLUMNS.index(name)
        found = {model: row[at] for model, row in _ROWS.items() if row[at] is not None}
    if name in _R1:
        found['R1'] = _R1[name]
    return found
