"""Where an optimizer step's items come from: stored texts, or the policy itself.

Both sources answer `next_items(...)` and can be written to a checkpoint: `cursor()` is JSON, `flight()` the arrays of a rollout that
is not used up, and of samples that are carried into the next. A rollout is sampled and graded once; a resumed run replays it with its
grades. It is graded by worker processes as its rows end and while the reference and the old policy pass over it: they need the tokens, not
the rewards. What a step waits for then is `time/score`.

Axes: Q questions, G samples, B = Q·G responses of a rollout, T tokens of a row.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from r1jax.config import GRPO, Distil, OnPolicy, Part, Stage
from r1jax.data import store
from r1jax.evals.graded import Asker, Graded
from r1jax.rewards.combine import applies
from r1jax.rewards.pool import Pool
from r1jax.rl.advantage import group_advantage, mixed
from r1jax.rl.batch import Item, token_weights
from r1jax.sample import Sampler
from r1jax.settings import BadInput
from r1jax.train.carried import Carrier
from r1jax.train.journal import Journal, Page
from r1jax.train.phases import Settings, derive, settings_at
from r1jax.train.rollout import Draw, item, rollout_metrics, soft_overlong, staleness
from r1jax.types import Problem

GAP = ('policy/sampler_gap_max', 'policy/sampler_gap_mean')

CARRIED = 'carried_'  # begins the names of arrays of a checkpoint that are not of the rollout in flight

Tokens = Sequence[int]
LogProbs = Callable[[Any, list[Item], float], list[np.ndarray]]  # (params, items, temperature) -> f32[N] an item


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
        pool: Pool,
        journal: Journal | None = None,
    ):
        assert isinstance(stage.source, OnPolicy) and isinstance(stage.loss, GRPO | Distil)
        self.stage, self.cfg, self.loss = stage, stage.source, stage.loss
        self.compares = isinstance(stage.loss, GRPO)  # by rewards; else a teacher says what to learn
        self.ask, self.logprobs, self.seed = Asker(sampler, tokenizer, pool), logprobs, seed
        assert len(problems) == len(prompts)
        self.journal = journal  # where samples are written as they come
        self.problems, self.prompts = problems, prompts  # perhaps on disk: read when their turn comes
        # a budget carries samples from rollout to rollout; None: each rollout draws its samples to their ends
        self.carrier = Carrier(self.ask, self.cfg.budget, problems, prompts) if self.cfg.budget else None
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
        if self.first and metrics['tokens'] and GAP[0] in metrics:
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
        how = self.loss.normalise if self.compares else 'token_mean'
        weights = token_weights(lengths, a['keep'][rows], how, limit)
        return [item(a, b, float(w), float(a['advantage'][b])) for b, w in zip(rows, weights, strict=True) if w]

    def _collect(self, params, reference, step: int) -> list[dict]:
        """Samples and grades a rollout into `self.arrays`; returns records for samples.jsonl."""
        now, cfg = settings_at(self.stage, step), self.cfg
        self.began, self.used = step, 0
        clock = Clock('sample', 'score', 'logprobs')
        draws: list[Draw] = []
        groups = 0
        if self.carrier:
            self.carrier.drawn = 0
        for _ in range(1 + cfg.max_refills):
            with clock('sample'):
                draw = self._laid_out(self._sampled(params, now), len(draws) and draws[-1].arrays['group'][-1] + 1)
            if not cfg.max_refills:  # else the grades decide which rows there are
                with clock('logprobs'):
                    self._score_policies(draw.arrays, params, reference, now.temperature)
            with clock('score'):
                self._finish(draw, now)
            draws.append(draw)
            groups += int(draw.mixed.sum())
            if groups >= cfg.questions:
                break
        self.metrics = rollout_metrics(draws) | {'policy/version': step}
        logged = draws[0].records()[: self.stage.log_samples * cfg.samples]
        self.arrays = self._joined(draws)
        if self.carrier:
            self.metrics |= {
                **staleness(self.arrays, step),
                'rollout/carried': self.carrier.unfinished,
                'rollout/drawn': self.carrier.drawn,
            }
        if cfg.max_refills:
            with clock('logprobs'):
                self._score_policies(self.arrays, params, reference, now.temperature)
        self.metrics |= clock.spent
        return logged

    def _sampled(self, params, now: Settings) -> Graded:
        """The samples of the next questions. Of partial rollouts, those that are over: some at least, or there is nothing to learn from."""
        while True:
            chosen = self._draw(now.rewards)
            settings = now.rewards, self.rollouts, now.max_tokens, now.temperature
            self.rollouts += 1
            if not self.carrier:
                page = self._page(params, chosen, settings)
                problems, prompts = [p for _, p in chosen], [self.prompts[i] for i, _ in chosen]
                return self.ask(params, problems, prompts, *settings, page)
            graded = self.carrier(
                params,
                [i for i, _ in chosen],
                *settings,
                self.began,
                functools.partial(self._page, params, chosen, settings) if self.journal else None,
            )
            if graded.answers:
                return graded

    def _page(
        self, params, chosen: Sequence[tuple[int, Problem]], settings: tuple, rows: dict | None = None
    ) -> Page | None:
        """What the disk has of the samples of a call, if they are written; rows: that are in flight."""
        if not self.journal:
            return None
        rewards, number, *others = settings
        flying = [zlib.crc32(np.ascontiguousarray(a)) for a in (rows or {}).values()]
        named = [(part.name, part.weight) for part in rewards]
        return self.journal.page(number, params, [p.id for _, p in chosen], *others, named, self.began, flying)

    def _draw(self, rewards: Sequence[Part]) -> list[tuple[int, Problem]]:
        """The next Q questions that the rewards of this phase apply to, by index; others wait for theirs."""
        chosen: list[tuple[int, Problem]] = []
        while missing := self.cfg.questions - len(chosen):
            more, self.position = store.take(self.data, self.position, missing)
            pairs = [(i, self.problems[i]) for i in more]
            chosen += [pair for pair in pairs if not rewards or any(applies(part, pair[1]) for part in rewards)]
        return chosen

    def _laid_out(self, graded: Graded, offset: int) -> Draw:
        """What is known of a rollout without its grades; its groups are numbered from `offset`."""
        cfg, rollout = self.cfg, graded.rollout
        finished = np.array(rollout.finished)
        zero = np.zeros(rollout.tokens.shape, np.float32)
        arrays = {
            'tokens': rollout.tokens,
            'sampled': rollout.sampled,
            'sampler_logp': rollout.logp,
            'old_logp': zero,
            'ref_logp': zero.copy(),
            'group': np.arange(len(finished)) // cfg.samples + offset,
            'keep': finished if cfg.overlong == 'mask' else np.ones_like(finished),
        }
        if rollout.routes is not None:
            arrays['routes'] = rollout.routes
        if self.carrier:
            arrays['version'] = rollout.version
        return Draw(graded, arrays)

    def _finish(self, draw: Draw, now) -> None:
        """Waits for the grades; advantages, and which rows teach, follow from them."""
        scores = draw.scores = draw.graded.result()
        reward = scores.reward
        if self.cfg.overlong == 'soft':
            scores.parts['overlong'] = soft_overlong(draw.graded.answers, now.max_tokens, self.cfg.overlong_buffer)
            reward = reward + scores.parts['overlong']
        shape = (-1, self.cfg.samples)
        rewards, valid = reward.reshape(shape), scores.valid.reshape(shape)
        advantage = np.zeros_like(rewards)
        if self.compares:
            how = self.loss.scale_by_std, self.loss.std_ddof, self.loss.std_eps, self.loss.baseline
            advantage = group_advantage(rewards, valid, *how)
        draw.mixed = mixed(rewards, valid)
        draw.arrays |= {
            'reward': reward.astype(np.float32),
            'advantage': advantage.reshape(-1),
            'keep': draw.arrays['keep'] & (scores.valid | (not self.compares)),  # a teacher needs no grades
        }

    def _joined(self, draws: list[Draw]) -> dict[str, np.ndarray]:
        """The rows to train on: all of them, or with dynamic sampling the first Q groups whose rewards differ."""
        arrays = {n: np.concatenate([d.arrays[n] for d in draws]) for n in draws[0].arrays}
        if self.cfg.max_refills:
            teaches = np.concatenate([d.mixed for d in draws])
            groups = np.flatnonzero(teaches)[: self.cfg.questions]
            rows = np.flatnonzero(np.isin(arrays['group'], groups))
            arrays = {n: a[rows] for n, a in arrays.items()}
        return arrays

    def _score_policies(self, arrays: dict[str, np.ndarray], params, reference, temperature: float) -> None:
        """Fills old_logp and ref_logp of the rows to keep, where the loss will read them, a minibatch's worth of rows at a time."""
        if not self.compares:
            return
        wanted = [('ref_logp', reference)] if self.loss.beta else []
        several = self.updates_a_rollout > 1
        near = self.gap.get(GAP[0], math.inf) <= self.loss.sampler_gap
        self.trusted = several and near and not self.loss.importance_cap  # which compares the two
        if self.trusted:
            arrays['old_logp'] = arrays['sampler_logp'].copy()
        wanted += [('old_logp', params)] if several and not self.trusted else []
        B = len(arrays['tokens'])
        if not wanted or not B:
            return
        for rows in np.array_split(np.arange(B), self.cfg.minibatches):
            rows = rows[arrays['keep'][rows]]
            items = [item(arrays, b) for b in rows]
            for name, weights in wanted:
                for b, logp in zip(rows, self.logprobs(weights, items, temperature), strict=True):
                    arrays[name][b, arrays['sampled'][b]] = logp

    def cursor(self) -> dict:
        counters = ('position', 'rollouts', 'used', 'began', 'trusted', 'gap')
        # where no group of a rollout teaches it has no rows, and checkpoints hold no empty arrays
        empty = {name: [str(a.dtype), *a.shape] for name, a in (self.arrays or {}).items() if not a.size}
        known = {'metrics': self.metrics, 'problems': len(self.problems), 'empty': empty}
        return {n: getattr(self, n) for n in counters} | known

    def flight(self) -> dict[str, np.ndarray] | None:
        """The rollout that is not used up, and what is carried beside it."""
        carried = {CARRIED + name: a for name, a in self.carrier.rows.items()} if self.carrier else {}
        return ({name: a for name, a in (self.arrays or {}).items() if a.size} | carried) or None

    def restore(self, cursor: dict, flight: dict[str, np.ndarray] | None) -> None:
        cursor = dict(cursor)
        if (before := cursor.pop('problems', len(self.problems))) != len(self.problems):
            raise BadInput(
                f'{self.stage.name} has {len(self.problems)} problems, at the checkpoint it had {before}: its data have changed'
            )
        empty = {name: np.zeros(shape, dtype) for name, (dtype, *shape) in cursor.pop('empty', {}).items()}
        for name, value in cursor.items():
            setattr(self, name, value)
        arrays = {k: np.array(v) for k, v in jax.device_get(flight or {}).items()}
        carried = {k.removeprefix(CARRIED): arrays.pop(k) for k in list(arrays) if k.startswith(CARRIED)}
        self.arrays = (arrays | empty) or None
        if self.carrier:
            self.carrier.rows = carried


class Clock:
    """Seconds spent on each of several things, as metrics: `with clock('sample'): …`."""

    def __init__(self, *names: str):
        self.spent = {f'time/{name}': 0.0 for name in names}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.spent[f'time/{name}'] += time.monotonic() - start
