"""Where an optimizer step's items come from: stored texts, or the policy itself.

Both sources answer `next_items(...)` and can be written to a checkpoint: `cursor()` is JSON, `flight()` the arrays of a rollout that
is not used up. A rollout is sampled and graded once; a resumed run replays it with its grades.

Axes: Q questions, G samples, B = Q·G responses of a rollout, T tokens of a row.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from r1jax.config import GRPO, OnPolicy, Stage, Stored
from r1jax.data import store
from r1jax.evals.run import records
from r1jax.rewards.combine import score
from r1jax.rl.advantage import group_advantage, mixed
from r1jax.rl.batch import Item, token_weights
from r1jax.sample import Sampler, responses
from r1jax.train.phases import derive, settings_at
from r1jax.types import Problem, Response, Rollout

GAP = ('policy/sampler_gap_max', 'policy/sampler_gap_mean')

Tokens = Sequence[int]
LogProbs = Callable[[Any, list[Item], float], list[np.ndarray]]  # (params, items, temperature) -> f32[N] an item


class StoredSource:
    """Supervised examples, `batch` an optimizer step, each token of each response weighing the same."""

    fresh = True

    def __init__(self, cfg: Stored, examples: Sequence[tuple[Tokens, Tokens]], seed: int):
        self.cfg = cfg
        self.data = store.ordered(examples, seed, cfg.shuffle)
        self.position = 0

    def next_items(self, params, reference, step: int) -> tuple[list[Item], dict, list[dict]]:
        """The items of one optimizer step, metrics, and records for samples.jsonl."""
        pairs, self.position = store.take(self.data, self.position, self.cfg.batch)
        lengths = np.array([len(r) for _, r in pairs])
        weights = token_weights(lengths, np.ones(len(pairs), bool), 'token_mean')
        items = [Item(np.asarray(p), np.asarray(r), w) for (p, r), w in zip(pairs, weights, strict=True)]
        return items, {}, []

    def measured(self, metrics: dict) -> dict:
        return metrics

    def cursor(self) -> dict:
        return {'position': self.position}

    def flight(self) -> dict[str, np.ndarray] | None:
        return None

    def restore(self, cursor: dict, flight: dict[str, np.ndarray] | None) -> None:
        self.position = cursor['position']


class OnPolicySource:
    """Rollouts of the policy, graded, cut into shuffled minibatches.

    `logprobs` scores items under given parameters: the reference, once a rollout, and the policy itself where a rollout serves
    several updates. No pass is made for what is known: a rollout's first update is its own π_old, and the later ones take the
    sampler's log-probabilities while the gap measured at first updates is within `GRPO.sampler_gap`.
    """

    def __init__(
        self,
        stage: Stage,
        problems: Sequence[Problem],
        prompts: Sequence[Tokens],
        sampler: Sampler,
        tokenizer,
        logprobs: LogProbs,
        seed: int,
    ):
        assert isinstance(stage.source, OnPolicy) and isinstance(stage.loss, GRPO)
        self.stage, self.cfg, self.loss = stage, stage.source, stage.loss
        self.sampler, self.tokenizer, self.logprobs, self.seed = sampler, tokenizer, logprobs, seed
        self.questions = list(zip(problems, prompts, strict=True))
        self.data = store.ordered(range(len(problems)), derive(seed, 'order'))
        self.updates_a_rollout = self.cfg.minibatches * self.cfg.inner_epochs
        self.position = self.rollouts = self.used = 0
        self.gap: dict[str, float] = {}  # the sampler gap's metrics, as measured at the last first update of a rollout
        self.began = 0  # step at which the rollout in flight was sampled: decides its settings
        self.first = self.trusted = False
        self.metrics: dict = {}
        self.arrays: dict[str, np.ndarray] | None = None

    @property
    def fresh(self) -> bool:
        """Whether the last items were drawn by the very parameters that are about to be updated."""
        return self.first

    def measured(self, metrics: dict) -> dict:
        """The metrics of the update that took the last items, with the sampler gap of its rollout: an update whose π_old is the
        sampler's has none to measure.
        """
        if self.first and metrics['tokens']:
            self.gap = {k: metrics[k] for k in GAP}
        return metrics | (self.gap if self.trusted else {})

    @property
    def at_boundary(self) -> bool:
        return self.arrays is None

    def next_items(self, params, reference, step: int) -> tuple[list[Item], dict, list[dict]]:
        """The items of one optimizer step, metrics, and records for samples.jsonl. Samples a rollout when none is in flight."""
        logged: list[dict] = []
        if self.arrays is None:
            logged = self._collect(params, reference, step)
        B = len(self.arrays['reward'])
        epoch, batch = divmod(self.used, self.cfg.minibatches)
        order = np.random.default_rng(derive(self.seed, 'shuffle', self.rollouts, epoch)).permutation(B)
        chosen = np.sort(np.array_split(order, self.cfg.minibatches)[batch])
        items, metrics = self._items(chosen), dict(self.metrics)
        self.metrics = {k: v for k, v in self.metrics.items() if not k.startswith('time/')}
        self.first = self.used == 0
        self.used += 1
        if self.used == self.updates_a_rollout:
            self.arrays = None
        return items, metrics, logged

    def _items(self, rows: np.ndarray) -> list[Item]:
        """The kept responses among `rows`, weighted as one optimizer step."""
        a, limit = self.arrays, settings_at(self.stage, self.began).max_tokens
        lengths = a['sampled'][rows].sum(-1)
        weights = token_weights(lengths, a['keep'][rows], self.loss.normalise, limit)
        items = []
        for b, w in zip(rows, weights, strict=True):
            if w == 0:
                continue
            on = a['sampled'][b]
            first = int(np.argmax(on))
            logps = {n: a[n][b][on] for n in ('sampler_logp', 'old_logp', 'ref_logp')}
            prompt, response = a['tokens'][b, :first], a['tokens'][b][on]
            items.append(Item(prompt, response, float(w), int(a['group'][b]), float(a['advantage'][b]), **logps))
        return items

    def _collect(self, params, reference, step: int) -> list[dict]:
        """Samples and grades a rollout into `self.arrays`; returns records for samples.jsonl."""
        now, cfg = settings_at(self.stage, step), self.cfg
        self.began, self.used = step, 0
        spent = {'time/sample': 0.0, 'time/score': 0.0}
        pools: list[dict] = []
        groups = 0
        for _ in range(1 + cfg.max_refills):
            start = time.monotonic()
            chosen, self.position = store.take(self.data, self.position, cfg.questions)
            pairs = [self.questions[i] for i in chosen]
            ids, prompts = [p.id for p, _ in pairs], [t for _, t in pairs]
            rollout = self.sampler(params, ids, prompts, self.rollouts, now.max_tokens, now.temperature)
            self.rollouts += 1
            sampled = time.monotonic()
            pool = self._grade([p for p, _ in pairs], rollout, now, offset=len(pools) * cfg.questions)
            pools.append(pool)
            spent['time/sample'] += sampled - start
            spent['time/score'] += time.monotonic() - sampled
            groups += int(pool['mixed'].sum())
            if groups >= cfg.questions:
                break
        self.metrics = self._metrics(pools) | {'policy/version': step}
        logged = pools[0]['records'][: self.stage.log_samples * cfg.samples]
        self.arrays = self._joined(pools)
        start = time.monotonic()
        self._score_policies(params, reference, now.temperature)
        self.metrics |= spent | {'time/logprobs': time.monotonic() - start}
        return logged

    def _grade(self, problems: list[Problem], rollout: Rollout, now, offset: int) -> dict:
        cfg, G = self.cfg, self.cfg.samples
        answers = responses(rollout, self.tokenizer)
        repeated = [p for p in problems for _ in range(G)]
        reward, parts, valid = score(repeated, answers, now.rewards)
        finished = np.array([a.finished for a in answers])
        keep = valid.copy()
        if cfg.overlong == 'soft':
            parts['overlong'] = soft_overlong(answers, now.max_tokens, cfg.overlong_buffer)
            reward = reward + parts['overlong']
        elif cfg.overlong == 'mask':
            keep &= finished
        shape = (len(problems), G)
        advantage = group_advantage(
            reward.reshape(shape), valid.reshape(shape), self.loss.scale_by_std, self.loss.std_ddof, self.loss.std_eps
        )
        arrays = {
            'tokens': rollout.tokens,
            'sampled': rollout.sampled,
            'sampler_logp': rollout.logp,
            'group': np.repeat(np.arange(len(problems)) + offset, G),
            'reward': reward.astype(np.float32),
            'advantage': advantage.reshape(-1),
            'keep': keep,
        }
        teaches = mixed(reward.reshape(shape), valid.reshape(shape))
        lines = records(repeated, answers, reward, parts)
        graded = {'answers': answers, 'parts': parts, 'valid': valid, 'mixed': teaches, 'records': lines}
        return graded | {'arrays': arrays}

    def _joined(self, pools: list[dict]) -> dict[str, np.ndarray]:
        """The rows to train on: all of them, or with dynamic sampling the first Q groups whose rewards differ."""
        arrays = {n: np.concatenate([p['arrays'][n] for p in pools]) for n in pools[0]['arrays']}
        if self.cfg.max_refills:
            teaches = np.concatenate([p['mixed'] for p in pools])
            groups = np.flatnonzero(teaches)[: self.cfg.questions]
            rows = np.flatnonzero(np.isin(arrays['group'], groups))
            arrays = {n: a[rows] for n, a in arrays.items()}
        zero = np.zeros(arrays['tokens'].shape, np.float32)
        return arrays | {'old_logp': zero, 'ref_logp': zero.copy()}

    def _score_policies(self, params, reference, temperature: float) -> None:
        """Fills old_logp and ref_logp, minibatch by minibatch of the first inner epoch, where the loss will read them."""
        wanted = [('ref_logp', reference)] if self.loss.beta else []
        several = self.updates_a_rollout > 1
        self.trusted = several and self.gap.get(GAP[0], math.inf) <= self.loss.sampler_gap
        if self.trusted:
            self.arrays['old_logp'] = self.arrays['sampler_logp'].copy()
        wanted += [('old_logp', params)] if several and not self.trusted else []
        B = len(self.arrays['reward'])
        if not wanted or not B:
            return
        for rows in np.array_split(np.arange(B), self.cfg.minibatches):
            rows = rows[self.arrays['keep'][rows]]
            items = self._items(rows)
            for name, weights in wanted:
                for b, logp in zip(rows, self.logprobs(weights, items, temperature), strict=True):
                    self.arrays[name][b, self.arrays['sampled'][b]] = logp

    def _metrics(self, pools: list[dict]) -> dict:
        """Of all that was sampled, dropped groups included."""
        reward = np.concatenate([p['arrays']['reward'] for p in pools])
        valid = np.concatenate([p['valid'] for p in pools])
        answers: list[Response] = [a for p in pools for a in p['answers']]
        out = {
            'reward/mean': float(reward[valid].mean()) if valid.any() else 0.0,
            'reward/std': float(reward[valid].std()) if valid.any() else 0.0,
            'rollout/samples': len(answers),
            'rollout/tokens': float(np.mean([a.tokens for a in answers])),
            'rollout/truncated': float(np.mean([not a.finished for a in answers])),
            'rollout/groups_kept': float(np.concatenate([p['mixed'] for p in pools]).mean()),
            'rollout/refills': len(pools) - 1,
            'rollout/grader_errors': int((~valid).sum()),
        }
        for name in pools[0]['parts']:
            values = np.concatenate([p['parts'][name] for p in pools])[valid]
            out[f'reward/{name}'] = float(values.mean()) if len(values) else 0.0
        return out

    def cursor(self) -> dict:
        counters = ('position', 'rollouts', 'used', 'began', 'trusted', 'gap')
        return {n: getattr(self, n) for n in counters} | {'metrics': self.metrics}

    def flight(self) -> dict[str, np.ndarray] | None:
        return self.arrays

    def restore(self, cursor: dict, flight: dict[str, np.ndarray] | None) -> None:
        for name, value in cursor.items():
            setattr(self, name, value)
        self.arrays = flight and {k: np.array(v) for k, v in jax.device_get(flight).items()}


def soft_overlong(answers: Sequence[Response], max_tokens: int, buffer: int) -> np.ndarray:
    """0 up to max_tokens − buffer tokens, then linearly to −1 at max_tokens (DAPO, arXiv 2503.14476 eq. 13). f32[B]."""
    length = np.array([a.tokens for a in answers], np.float32)
    return np.clip((max_tokens - buffer - length) / buffer, -1.0, 0.0).astype(np.float32)
