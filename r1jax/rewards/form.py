"""The format reward: are thinking and answer where the template asks for them?

`format` is R1-Zero's, whose template asks for two pairs of tags. The R1 report's reward checks the thinking tags; r1jax checks the answer
tags too, since its accuracy reward reads the answer there. `thinking` is R1's, whose answer is a summary without tags.
"""

from __future__ import annotations

import re

from r1jax.config import REASONING
from r1jax.types import Problem, Response

TAGS = re.compile(r'</?(?:think|answer)>')


def format(problem: Problem, response: Response) -> float:
    """1.0 for `<think>…</think> <answer>…</answer>`, each once, in this order, neither blank, nothing else around them.

    Judged by the text alone: a response that was cut off after its last tag is well formed.
    """
    if TAGS.findall(response.text) != ['<think>', '</think>', '<answer>', '</answer>']:
        return 0.0
    before, think, between, answer, after = TAGS.split(response.text)
    inside, outside = think.strip() and answer.strip(), (before + between + after).strip()
    return 1.0 if inside and not outside else 0.0


def thinking(problem: Problem, response: Response) -> float:
    """1.0 for `<think>…</think> summary`: no tag besides these two, nothing before them, and a summary after them.

    On kinds of reasoning the thinking must not be blank; a greeting needs none (R1 report, section 2.3.3).
    """
    if TAGS.findall(response.text) != ['<think>', '</think>']:
        return 0.0
    before, think, summary = (piece.strip() for piece in TAGS.split(response.text))
    return float(not before and bool(summary) and (bool(think) or problem.kind not in REASONING))
