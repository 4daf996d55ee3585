"""One evaluation: sample k responses a question, grade them, summarise.

`Measure` holds what an `Eval` needs at run time: its questions as tokens and its sampler. Samples depend on the seed and the
question alone, so two evaluations of one policy agree, wherever in a run they are taken.

Axes: Q questions, S samples (k).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from r1jax.config import Environment, Eval
from r1jax.evals.graded import Asker
from r1jax.evals.metrics import summarise
from r1jax.evals.talk import talked
from r1jax.rewards import reflection
from r1jax.rewards.combine import Scores, marked
from r1jax.rewards.pool import Pool
from r1jax.sample import Sampler
from r1jax.types import Problem, Response


@dataclasses.dataclass(frozen=True)
class Measure:
    """An evaluation, ready to run."""

    cfg: Eval
    problems: Sequence[Problem]
    prompts: Sequence[Sequence[int]]  # tokens of each problem
    sampler: Sampler
    tokenizer: object
    pool: Pool
    environment: Environment | None = None  # what answers the policy between its turns

    def __call__(self, params, temperature: float, limit: int) -> tuple[dict, list[dict]]:
        """The EVAL object of summary.json, and a record for samples.jsonl a response. `limit` tokens a response at most."""
        cfg, S = self.cfg, self.cfg.samples
        ask = Asker(self.sampler, self.tokenizer, self.pool, self.environment)
        graded = ask(params, self.problems, self.prompts, cfg.rewards, 0, limit, temperature)
        problems, answers, scores = graded.problems, graded.answers, graded.result()
        parts, valid = scores.parts, scores.valid
        shape = (len(self.problems), S)
        rated = 'accuracy' in parts
        correct = ((parts['accuracy'] == 1.0) & valid).reshape(shape) if rated else None
        formatted = parts['format'] == 1.0 if 'format' in parts else np.ones(len(answers), bool)
        result = summarise(
            correct,
            np.array([cfg.answer(a.text) for a in answers], object).reshape(shape).tolist() if rated else None,
            np.array([a.tokens for a in answers]).reshape(shape),
            formatted.reshape(shape),
            np.array([a.finished for a in answers]).reshape(shape),
            np.array([cfg.split(a) for a in answers], object).reshape(shape).tolist() if cfg.split else None,
            {name: values.reshape(shape) for name, values in parts.items() if name not in ('accuracy', 'format')},
            np.array([reflection.count(a.text) for a in answers]).reshape(shape),
        )
        if self.environment:
            said = talked(answers, graded.rollout.outcomes)
            result |= {f'environment_{name}': value for name, value in said.items()}
        if not valid.all():
            result['grader_errors'] = int((~valid).sum())
            result['grader_outcomes'] = dict(scores.errors)
        return result, records(problems, answers, scores, scores.reward)


def records(problems: Sequence[Problem], answers: Sequence[Response], scores: Scores, reward: np.ndarray) -> list[dict]:
    """Lines of samples.jsonl: a response with its question, its reward, every part of it, and what became of its grading."""
    return [
        {
            'question': p.id,
            'prompt': p.prompt,
            'completion': a.text,
            **({'turns': list(a.turns)} if len(a.turns) > 1 else {}),
            'answer': p.answer,
            'tokens': a.tokens,
            'finished': a.finished,
            'reward': float(reward[i]),
            'parts': {name: float(value[i]) for name, value in scores.parts.items()},
            **marked(scores.outcome[i]),
        }
        for i, (p, a) in enumerate(zip(problems, answers, strict=True))
    ]
