"""A rollout on the host: its rows as arrays and as items for packing, its records, and what is said of it in metrics.jsonl.

Axes: Q questions, G samples, B = Q·G responses, T tokens of a row.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from r1jax.evals.graded import Graded
from r1jax.evals.run import records
from r1jax.evals.talk import talked
from r1jax.rewards import reflection
from r1jax.rewards.combine import Scores
from r1jax.rl.batch import Item
from r1jax.types import Response


@dataclasses.dataclass
class Draw:
    """Q·G sampled responses, on their way from the sampler through the graders."""

    graded: Graded
    arrays: dict[str, np.ndarray]  # [B,…], as they are stored with the rollout
    scores: Scores | None = None
    mixed: np.ndarray | None = None  # bool[Q], the rewards of a question differ

    def records(self) -> list[dict]:
        """Lines of samples.jsonl."""
        return records(self.graded.problems, self.graded.answers, self.scores, self.arrays['reward'])


def item(arrays: dict[str, np.ndarray], b: int, weight: float = 1.0, advantage: float = 0.0) -> Item:
    """Row b for packing, its prompt and its response apart. Within the response, what an environment said has no weight: it is read, and
    nothing is learned or measured there.
    """
    here = response_of(arrays, b)
    own, response = arrays['sampled'][b, here], arrays['tokens'][b, here]
    logps = {n: arrays[n][b, here] for n in ('sampler_logp', 'old_logp', 'ref_logp')}
    if 'routes' in arrays:
        logps['routes'] = arrays['routes'][b, : here.stop]
    weights = weight if own.all() else np.where(own, np.float32(weight), np.float32(0))
    return Item(arrays['tokens'][b, : here.start], response, weights, int(arrays['group'][b]), advantage, **logps)


def response_of(arrays: dict[str, np.ndarray], b: int) -> slice:
    """Where row b has its response, from the first token that was sampled to the last."""
    on = np.flatnonzero(arrays['sampled'][b])
    return slice(int(on[0]), int(on[-1]) + 1)


def rollout_metrics(draws: Sequence[Draw]) -> dict:
    """Of all that was sampled, dropped groups included."""
    reward = np.concatenate([d.arrays['reward'] for d in draws])
    valid = np.concatenate([d.scores.valid for d in draws])
    answers: list[Response] = [a for d in draws for a in d.graded.answers]
    errors = sum((d.scores.errors for d in draws), collections.Counter())
    rewards = {
        'reward/mean': float(reward[valid].mean()) if valid.any() else 0.0,
        'reward/std': float(reward[valid].std()) if valid.any() else 0.0,
        'rollout/groups_kept': float(np.concatenate([d.mixed for d in draws]).mean()),
        'rollout/refills': len(draws) - 1,
        'rollout/grader_errors': int((~valid).sum()),
    }
    out = {
        **(rewards if draws[0].scores.parts else {}),
        'rollout/samples': len(answers),
        'rollout/tokens': float(np.mean([a.tokens for a in answers])),
        'rollout/tokens_std': float(np.std([a.tokens for a in answers])),
        'rollout/longest': max(a.tokens for a in answers),
        'rollout/repeated': collections.Counter(a.text for a in answers).most_common(1)[0][1] / len(answers),
        'rollout/truncated': float(np.mean([not a.finished for a in answers])),
        **{f'grader/{outcome}': count for outcome, count in errors.items()},
        **reflection.metrics([a.text for a in answers]),
    }
    if 'outcomes' in draws[0].arrays:
        said = talked(answers, np.concatenate([d.arrays['outcomes'] for d in draws]))
        out |= {f'environment/{name}': value for name, value in said.items()}
    for name in draws[0].scores.parts:
        values = np.concatenate([d.scores.parts[name] for d in draws])[valid]
        values = values[np.isfinite(values)]  # of the kinds that the part applies to
        if len(values):
            out[f'reward/{name}'] = float(values.mean())
            out[f'fired/{name}'] = float((values > 0).mean())
    return out


def staleness(arrays: dict[str, np.ndarray], step: int) -> dict[str, float]:
    """How many optimizer steps ago the tokens that teach were drawn, where the policy has taken `step`."""
    ages = step - arrays['version'][arrays['sampled'] & arrays['keep'][:, None]]
    mean, most = (float(ages.mean()), int(ages.max())) if len(ages) else (0.0, 0)
    return {'rollout/staleness': mean, 'rollout/staleness_max': most}


def soft_overlong(answers: Sequence[Response], max_tokens: int, buffer: int) -> np.ndarray:
    """0 up to max_tokens − buffer tokens, then linearly to −1 at max_tokens (DAPO, arXiv 2503.14476 eq. 13). f32[B]."""
    length = np.array([a.tokens for a in answers], np.float32)
    return np.clip((max_tokens - buffer - length) / buffer, -1.0, 0.0).astype(np.float32)
