"""The format reward: are thinking and answer where the template asks for them?

The R1 report's reward checks the thinking tags; r1jax checks the answer tags too, since its accuracy reward reads the
answer there.
"""

from __future__ import annotations

import re

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
