"""Which tasks of lm-eval stand for benchmarks of the R1 report; `r1jax.evals.harness` runs them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Task:
    """A task of lm-eval that stands for a benchmark of the report, and its figure."""

    task: str
    metric: str
    note: str  # how it differs from the report's


HARNESS: Mapping[str, Task] = {
    'mmlu': Task('mmlu', 'acc', 'the likeliest letter; the report has answers written'),
    'mmlu_redux': Task('mmlu_redux_generative', 'exact_match', ''),
    'mmlu_pro': Task('mmlu_pro', 'exact_match', '5 examples with their reasoning; the report gives none'),
    'ceval': Task('ceval-valid', 'acc', 'the validation split, the likeliest letter; the report has answers written'),
    'cmmlu': Task('cmmlu', 'acc', 'the likeliest letter'),
    'drop': Task('drop', 'f1', 'no examples unless --shots says so; the report gives 3'),
    'ifeval': Task('ifeval', 'prompt_level_strict_acc', 'needs pip install lm-eval[ifeval]'),
}
PREFIX = 'lm-eval:'
