"""Where an optimizer step's items come from: stored texts, or the policy itself.

Both sources answer `next_items(...)` and can be written to a checkpoint: `cursor()` is JSON, `flight()` the arrays of a rollout that
is not used up, of samples that are carried into the next, and of rollouts that are drawn ahead. A rollout is sampled and graded once
(`r1jax.train.drawer`); a resumed run replays it with its grades. The reference and the old policy pass over it while its rows are graded:
they need the tokens, not the rewards. What a step waits for then is `time/score`. Where devices of their own sample
(`r1jax.train.ahead`), rollouts come graded, and a step waits `time/wait` for one.

Axes: B responses of a rollout, T tokens of a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from r1jax.config import GRPO, Distil, OnPolicy, Stage
from r1jax.evals.graded import Asker
from r1jax.rewards.pool import Pool
from r1jax.rl.batch import Item, token_weights
from r1jax.sample import Sampler
from r1jax.settings import BadInput
from r1jax.train.ahead import Ahead, packed, unpacked
from r1jax.train.drawer import CARRIED, Clock, Drawer
from r1jax.train.journal import Journal
from r1jax.train.phases import derive, settings_at
from r1jax.train.rollout import item, response_of
from r1jax.types import Problem

GAP = ('policy/sampler_gap_max', 'policy/sampler_gap_mean')

Tokens = Sequence[int]
_STATE = ('arrays', 'metrics', 'gap', 'began', 'number', 'used', 'batches', 'first', 'trusted')
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
        mesh: Mesh | None = None,
    ):
        """journal: where samples are written as they come.
        mesh: devices that rollouts are sampled on, apart from those of the parameters (`r1jax.train.ahead.apart`).
        """
        assert isinstance(stage.source, OnPolicy) and isinstance(stage.loss, GRPO | Distil)
        self.stage, self.cfg, self.loss = stage, stage.source, stage.loss
        self.logprobs, self.seed, self.problems = logprobs, seed, len(problems)
        self.updates_a_rollout = self.cfg.minibatches * self.cfg.inner_epochs
        ask = Asker(sampler, tokenizer, pool, stage.environment)
        self.journal = journal
        self.draw = Drawer(stage, problems, prompts, ask, seed, mesh is not None, journal)
        self.ahead = None if mesh is None else Ahead(self.draw, mesh, self.updates_a_rollout)
        self.gap: dict[str, float] = {}  # the sampler gap's metrics, as measured at the last first update of a rollout
        # of the rollout in flight: the step at which updates began to take it, its number, and the updates that it has served
        self.began = self.number = self.used = 0
        self.batches = 0  # that were given: a step's, and those that were passed over
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
        self._look_ahead(params, step)
        self.batches += 1
        if self.arrays is None:
            logged = self._begin(params, reference, step)
        B = len(self.arrays['reward'])
        epoch, batch = divmod(self.used, self.cfg.minibatches)
        order = np.random.default_rng(derive(self.seed, 'shuffle', self.number, epoch)).permutation(B)
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
        how = self.loss.normalise if isinstance(self.loss, GRPO) else 'token_mean'
        weights = token_weights(lengths, a['keep'][rows], how, limit)
        return [item(a, b, float(w), float(a['advantage'][b])) for b, w in zip(rows, weights, strict=True) if w]

    def _begin(self, params, reference, step: int) -> list[dict]:
        """Brings the next rollout into `self.arrays`; returns records for samples.jsonl."""

        def score(arrays: dict[str, np.ndarray], temperature: float) -> None:
            self._score_policies(arrays, params, reference, temperature)

        if self.ahead:
            clock = Clock('wait', 'logprobs')
            with clock('wait'):
                drawn = self.ahead.take()
            with clock('logprobs'):
                score(drawn.arrays, settings_at(self.stage, drawn.began).temperature)
            drawn.metrics |= clock.spent
        else:
            drawn = self.draw(params, step, step, score)
        self.began, self.number, self.used = drawn.began, drawn.number, 0
        self.arrays, self.metrics = drawn.arrays, drawn.metrics
        return drawn.logged

    def _score_policies(self, arrays: dict[str, np.ndarray], params, reference, temperature: float) -> None:
        """Fills old_logp and ref_logp of the rows to keep, where the loss will read them, a minibatch's worth of rows at a time."""
        if not isinstance(self.loss, GRPO):  # a teacher says what to learn
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
                    arrays[name][b, response_of(arrays, b)] = logp  # 0 where an environment spoke

    @property
    def rollouts(self) -> int:
        """Calls of the sampler so far."""
        return self.draw.rollouts

    def _look_ahead(self, params, step: int) -> None:
        if self.ahead:
            self.ahead.begin(params, step, self.batches - step)

    def mark(self, params, step: int) -> Any:
        """What `undo` needs to take back the batches of a step, before the first of them; drawing ahead begins here, and is not undone."""
        self._look_ahead(params, step)
        if not self.ahead:
            return self.cursor(), self.flight()
        self.ahead.mark()
        return {name: getattr(self, name) for name in _STATE}

    def undo(self, mark: Any) -> None:
        """Is again as it was at the `mark`."""
        if not self.ahead:
            self.restore(*mark)
            return
        self.ahead.undo()
        for name, value in mark.items():
            setattr(self, name, value)

    def cursor(self) -> dict:
        counters = ('number', 'used', 'batches', 'began', 'trusted', 'gap', 'metrics', 'problems')
        arrays = self._arrays()  # before the next lines: drawing ahead moves the cursor
        # where no group of a rollout teaches it has no rows, and checkpoints hold no empty arrays
        empty = {name: [str(a.dtype), *a.shape] for name, a in arrays.items() if not a.size}
        said = {n: getattr(self, n) for n in counters} | self.draw.cursor() | {'empty': empty}
        return said | ({'ahead': packed(self.ahead.settled())[0], 'next': self.ahead.next} if self.ahead else {})

    def flight(self) -> dict[str, np.ndarray] | None:
        """The rollout that is not used up, and what is carried beside it or drawn ahead."""
        return {name: a for name, a in self._arrays().items() if a.size} or None

    def _arrays(self) -> dict[str, np.ndarray]:
        ahead = packed(self.ahead.settled())[1] if self.ahead else {}
        return (self.arrays or {}) | self.draw.carried() | ahead

    def restore(self, cursor: dict, flight: dict[str, np.ndarray] | None) -> None:
        cursor = dict(cursor)
        if (before := cursor.pop('problems', self.problems)) != self.problems:
            raise BadInput(
                f'{self.stage.name} has {self.problems} problems, at the checkpoint it had {before}: its data have changed'
            )
        arrays = {k: np.array(v) for k, v in jax.device_get(flight or {}).items()}
        arrays |= {name: np.zeros(shape, dtype) for name, (dtype, *shape) in cursor.pop('empty', {}).items()}
        ahead = unpacked(cursor.pop('ahead', []), arrays)
        if self.ahead:
            self.ahead.restore(ahead, cursor.pop('next'))
        carried = {k: arrays.pop(k) for k in list(arrays) if k.startswith(CARRIED)}
        self.draw.restore({name: cursor.pop(name) for name in ('position', 'rollouts')}, carried)
        for name, value in cursor.items():
            setattr(self, name, value)
        self.number = cursor.get(
            'number', self.draw.rollouts
        )  # checkpoints from before rollouts were drawn ahead have none
        self.arrays = arrays or None

    def close(self) -> None:
        """Ends what is under way."""
        if self.ahead:
            self.ahead.close()
