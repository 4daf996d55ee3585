"""What the R1 report says that models score: its tables, in per cent (a Codeforces rating in points), to stand beside ours.

A figure belongs to its table: the report gives QwQ-32B-Preview 44.0 on AIME 2024 in Table 5 and 50.0 in Table 6, and GPT-4o 34.2 on
LiveCodeBench in Table 4 and 32.9 in Table 5. Each table has its numbers as it prints them, and None where it prints none.

Where they were read: Tables 4 and 5 in the README of deepseek-ai/DeepSeek-R1, which prints them whole; Tables 2 and 6 in transcriptions of
the report (arXiv 2501.12948) that agree with each other; the last one in the journal's page of it (Nature 645, 10.1038/s41586-025-09422-z).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Printed:
    """A table of the papers."""

    name: str  # 'Table 2'
    title: str
    where: str
    metrics: tuple[str, ...]  # 'BENCHMARK METRIC', as results.json names them
    models: Mapping[str, Sequence[float | None]]  # model -> a figure for each of the metrics
    by_model: bool = True  # as it is printed: a row a model, or else a column a model
    note: str = ''

    def __post_init__(self):
        for model, figures in self.models.items():
            if len(figures) != len(self.metrics):
                raise ValueError(f'{self.name}: {model} has {len(figures)} figures of {len(self.metrics)} metrics')

    def of(self, model: str) -> dict[str, float]:
        """Metric -> what the table has of a model."""
        figures = zip(self.metrics, self.models.get(model, ()), strict=False)
        return {metric: figure for metric, figure in figures if figure is not None}


LABELS: Mapping[str, str] = {  # what a table calls a metric
    'aime24 pass@1': 'AIME 2024 pass@1',
    'aime24 cons@64': 'AIME 2024 cons@64',
    'math500 pass@1': 'MATH-500 pass@1',
    'gpqa_diamond pass@1': 'GPQA Diamond pass@1',
    'livecodebench pass@1': 'LiveCodeBench pass@1',
    'codeforces rating': 'CodeForces rating',
    'codeforces percentile': 'CodeForces percentile',
    'mmlu acc': 'MMLU pass@1',
    'mmlu_redux exact_match': 'MMLU-Redux EM',
    'mmlu_pro exact_match': 'MMLU-Pro EM',
    'drop f1': 'DROP 3-shot F1',
    'ifeval prompt_level_strict_acc': 'IF-Eval prompt strict',
    'simpleqa pass@1': 'SimpleQA correct',
    'frames pass@1': 'FRAMES accuracy',
    'alpaca_eval length_controlled': 'AlpacaEval 2.0 LC win rate',
    'arena_hard win_rate': 'ArenaHard GPT-4-1106',
    'swe_verified resolved': 'SWE Verified resolved',
    'aider_polyglot accuracy': 'Aider-Polyglot accuracy',
    'cnmo24 pass@1': 'CNMO 2024 pass@1',
    'cluewsc pass@1': 'CLUEWSC EM',
    'ceval acc': 'C-Eval EM',
    'c_simpleqa pass@1': 'C-SimpleQA correct',
}
_REASONING = (
    'aime24 pass@1',
    'aime24 cons@64',
    'math500 pass@1',
    'gpqa_diamond pass@1',
    'livecodebench pass@1',
    'codeforces rating',
)
_ALL = (
    'mmlu acc', 'mmlu_redux exact_match', 'mmlu_pro exact_match', 'drop f1', 'ifeval prompt_level_strict_acc', 'gpqa_diamond pass@1',
    'simpleqa pass@1', 'frames pass@1', 'alpaca_eval length_controlled', 'arena_hard win_rate',
    'livecodebench pass@1', 'codeforces percentile', 'codeforces rating', 'swe_verified resolved', 'aider_polyglot accuracy',
    'aime24 pass@1', 'math500 pass@1', 'cnmo24 pass@1',
    'cluewsc pass@1', 'ceval acc', 'c_simpleqa pass@1',
)  # fmt: skip
NA = None

TABLES = (
    Printed(
        'Table 2', 'R1-Zero and o1 on reasoning', 'R1 report, section 2.2.4', _REASONING,
        {
            'OpenAI-o1-mini': (63.6, 80.0, 90.0, 60.0, 53.8, 1820),
            'OpenAI-o1-0912': (74.4, 83.3, 94.8, 77.3, 63.4, 1843),
            'R1-Zero': (71.0, 86.7, 95.9, 73.3, 50.0, 1444),
        },
    ),
    Printed(
        'Table 4', 'R1 and other representative models', 'R1 report, section 3.1', _ALL,
        {
            'Claude-3.5-Sonnet-1022': (88.3, 88.9, 78.0, 88.3, 86.5, 65.0, 28.4, 72.5, 52.0, 85.2,
                                       33.8, 20.3, 717, 50.8, 45.3, 16.0, 78.3, 13.1, 85.4, 76.7, 55.4),
            'GPT-4o-0513': (87.2, 88.0, 72.6, 83.7, 84.3, 49.9, 38.2, 80.5, 51.1, 80.4,
                            34.2, 23.6, 759, 38.8, 16.0, 9.3, 74.6, 10.8, 87.9, 76.0, 58.7),
            'DeepSeek-V3': (88.5, 89.1, 75.9, 91.6, 86.1, 59.1, 24.9, 73.3, 70.0, 85.5,
                            NA, 58.7, 1134, 42.0, 49.6, 39.2, 90.2, 43.2, 90.9, 86.5, 68.0),
            'OpenAI-o1-mini': (85.2, 86.7, 80.3, 83.9, 84.8, 60.0, 7.0, 76.9, 57.8, 92.0,
                               53.8, 93.4, 1820, 41.6, 32.9, 63.6, 90.0, 67.6, 89.9, 68.9, 40.3),
            'OpenAI-o1-1217': (91.8, NA, NA, 90.2, NA, 75.7, 47.0, NA, NA, NA,
                               63.4, 96.6, 2061, 48.9, 61.7, 79.2, 96.4, NA, NA, NA, NA),
            'R1': (90.8, 92.9, 84.0, 92.2, 83.3, 71.5, 30.1, 82.5, 87.6, 92.3,
                   65.9, 96.3, 2029, 49.2, 53.3, 79.8, 97.3, 78.8, 92.8, 91.8, 63.7),
        },
        by_model=False,
    ),
    Printed(
        'Table 5', 'Models distilled from R1', 'R1 report, section 3.2', _REASONING,
        {
            'GPT-4o-0513': (9.3, 13.4, 74.6, 49.9, 32.9, 759),
            'Claude-3.5-Sonnet-1022': (16.0, 26.7, 78.3, 65.0, 38.9, 717),
            'OpenAI-o1-mini': (63.6, 80.0, 90.0, 60.0, 53.8, 1820),
            'QwQ-32B-Preview': (44.0, 60.0, 90.6, 54.5, 41.9, 1316),
            'Distill-Qwen-1.5B': (28.9, 52.7, 83.9, 33.8, 16.9, 954),
            'Distill-Qwen-7B': (55.5, 83.3, 92.8, 49.1, 37.6, 1189),
            'Distill-Qwen-14B': (69.7, 80.0, 93.9, 59.1, 53.1, 1481),
            'Distill-Qwen-32B': (72.6, 83.3, 94.3, 62.1, 57.2, 1691),
            'Distill-Llama-8B': (50.4, 80.0, 89.1, 49.0, 39.6, 1205),
            'Distill-Llama-70B': (70.0, 86.7, 94.5, 65.2, 57.5, 1633),
        },
    ),
    Printed(
        'Table 6', 'Distillation and reinforcement learning, at 32B', 'R1 report, section 4.1', _REASONING[:-1],
        {
            'QwQ-32B-Preview': (50.0, 60.0, 90.6, 54.5, 41.9),
            'Zero-Qwen-32B': (47.0, 60.0, 91.6, 55.0, 40.2),
            'Distill-Qwen-32B': (72.6, 83.3, 94.3, 62.1, 57.2),
        },
    ),
    Printed(
        'Nature, Table 2', 'R1 stage by stage', 'Nature 645, 633–638', _ALL,
        {
            'R1-Zero': (88.8, 85.6, 68.9, 89.1, 46.6, 75.8, 30.3, 82.3, 24.7, 53.6,
                        50.0, 80.4, 1444, 43.2, 12.2, 77.9, 95.9, 88.1, 93.1, 92.8, 66.4),
            'R1 Dev1': (89.1, 90.0, 74.1, 89.8, 71.7, 66.1, 17.8, 78.5, 50.1, 77.0,
                        57.5, 84.5, 1534, 39.6, 6.7, 59.0, 94.2, 58.0, 92.8, 85.7, 58.8),
            'R1 Dev2': (91.2, 93.0, 83.8, 91.1, 72.0, 70.7, 28.2, 81.8, 55.8, 73.2,
                        63.5, 90.5, 1687, 44.6, 25.6, 74.0, 95.9, 73.9, 92.6, 91.9, 64.2),
            'R1 Dev3': (91.0, 93.1, 83.1, 88.7, 78.1, 71.2, 24.9, 81.9, 62.1, 75.6,
                        64.6, 92.1, 1746, 45.6, 44.8, 78.1, 95.4, 77.3, 91.6, 86.4, 66.9),
            'R1': (90.8, 92.9, 84.0, 92.2, 83.3, 71.5, 30.1, 82.5, 87.6, 92.3,
                   65.9, 96.3, 2029, 49.2, 53.3, 79.8, 97.3, 78.8, 92.8, 91.8, 63.7),
        },
        by_model=False,
        note='It gives R1-Zero other figures than Table 2 on AIME 2024 and GPQA Diamond. Dev1 is after the cold start, Dev2 after '
             'reasoning RL, Dev3 after the second SFT.',
    ),
)  # fmt: skip

MODELS = (
    'R1-Zero',
    'R1',
    'Distill-Qwen-1.5B',
    'Distill-Qwen-7B',
    'Distill-Qwen-14B',
    'Distill-Qwen-32B',
    'Distill-Llama-8B',
    'Distill-Llama-70B',
    'Zero-Qwen-32B',
)  # the authors' own, of the report


def reported(benchmark: str, metric: str) -> dict[str, float]:
    """Model of the authors -> what the report has of a benchmark's metric, per cent; of a rating, points. Empty where it has nothing."""
    name, found = f'{benchmark} {metric}', {}
    for model in MODELS:
        for table in TABLES[:-1]:  # the journal's stand apart
            if name in (figures := table.of(model)):
                found[model] = figures[name]
                break
    return found
