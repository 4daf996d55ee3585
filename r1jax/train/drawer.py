"""Rollouts, drawn and graded one after the other: all of a rollout that needs weights to sample with and nothing else.

In: weights, and which optimizer step will be the first to take the rollout. Out: `Drawn`, its rows as arrays with their advantages. What
the trainer's own passes find (`old_logp`, `ref_logp`) is left at 0, for who has the policy and the reference (`r1jax.train.source`).

A rollout is graded by worker processes as its rows end, and `meanwhile` is called once its tokens are there: it needs no grades.

Axes: Q questions, G samples, B = Q·G responses of a rollout, T tokens of a row.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from r1jax.config import GRPO, OnPolicy, Part, Stage
from r1jax.data import store
from r1jax.evals.graded import Asker, Graded
from r1jax.rewards.combine import applies
from r1jax.rl.advantage import group_advantage, mixed
from r1jax.train.carried import Carrier
from r1jax.train.journal import Journal, Page
from r1jax.train.phases import Settings, derive, settings_at
from r1jax.train.rollout import Draw, rollout_metrics, soft_overlong, staleness
from r1jax.types import Problem

CARRIED = 'carried_'  # begins the names of arrays of a checkpoint that are not of a rollout that is over

Tokens = Sequence[int]
Meanwhile = Callable[[dict[str, np.ndarray], float], None]  # (arrays, temperature)


@dataclasses.dataclass
class Drawn:
    """A graded rollout."""

    began: int  # the step at which updates begin to take it: decides its settings
    number: int  # of the first rollout that is drawn after it: decides how it is shuffled
    arrays: dict[str, np.ndarray]  # [B,…]
    metrics: dict
    logged: list[dict]  # records for samples.jsonl


class Drawer:
    """Draws the rollouts of a stage. `aged`: by policies that may be older than those that learn from them, which each token records."""

    def __init__(
        self,
        stage: Stage,
        problems: Sequence[Problem],
        prompts: Sequence[Tokens],
        ask: Asker,
        seed: int,
        aged: bool = False,
        journal: Journal | None = None,
    ):
        assert len(problems) == len(prompts) and isinstance(stage.source, OnPolicy)
        self.stage, self.cfg, self.loss, self.ask = stage, stage.source, stage.loss, ask
        self.compares = isinstance(stage.loss, GRPO)  # by rewards; else a teacher says what to learn
        self.problems, self.prompts = problems, prompts  # perhaps on disk: read when their turn comes
        # a budget carries samples from rollout to rollout; None: each rollout draws its samples to their ends
        self.carrier = Carrier(ask, self.cfg.budget, problems, prompts) if self.cfg.budget else None
        self.journal = journal  # where samples are written as they come
        self.versions = aged or self.carrier is not None
        self.data = store.ordered(range(len(problems)), derive(seed, 'order'))
        self.position = self.rollouts = 0

    def __call__(self, params: Any, began: int, version: int, meanwhile: Meanwhile | None = None) -> Drawn:
        """Samples and grades the next rollout, which step `began` will take, by the policy that has taken `version` steps."""
        now, cfg = settings_at(self.stage, began), self.cfg
        clock = Clock('sample', 'score', *(['logprobs'] if meanwhile else []))
        draws: list[Draw] = []
        groups = 0
        if self.carrier:
            self.carrier.drawn = 0
        for _ in range(1 + cfg.max_refills):
            with clock('sample'):
                offset = draws[-1].arrays['group'][-1] + 1 if draws else 0
                draw = self._laid_out(self._sampled(params, now, began, version), offset, version)
            if meanwhile and not cfg.max_refills:  # else the grades decide which rows there are
                with clock('logprobs'):
                    meanwhile(draw.arrays, now.temperature)
            with clock('score'):
                self._finish(draw, now)
            draws.append(draw)
            groups += int(draw.mixed.sum())
            if groups >= cfg.questions:
                break
        metrics = rollout_metrics(draws) | {'policy/version': version}
        logged = draws[0].records()[: self.stage.log_samples * cfg.samples]
        arrays = self._joined(draws)
        if self.versions:
            metrics |= staleness(arrays, began)
        if self.carrier:
            metrics |= {'rollout/carried': self.carrier.unfinished, 'rollout/drawn': self.carrier.drawn}
        if meanwhile and cfg.max_refills:
            with clock('logprobs'):
                meanwhile(arrays, now.temperature)
        return Drawn(began, self.rollouts, arrays, metrics | clock.spent, logged)

    def _sampled(self, params, now: Settings, began: int, version: int) -> Graded:
        """The samples of the next questions. Of partial rollouts, those that are over: some at least, or there is nothing to learn from."""
        while True:
            chosen = self._draw(now.rewards)
            settings = now.rewards, self.rollouts, now.max_tokens, now.temperature
            self.rollouts += 1
            if not self.carrier:
                page = self._page(params, chosen, began, settings)
                problems, prompts = [p for _, p in chosen], [self.prompts[i] for i, _ in chosen]
                return self.ask(params, problems, prompts, *settings, page)
            opened = functools.partial(self._page, params, chosen, began, settings) if self.journal else None
            graded = self.carrier(params, [i for i, _ in chosen], *settings, version, opened)
            if graded.answers:
                return graded

    def _page(
        self, params, chosen: Sequence[tuple[int, Problem]], began: int, settings: tuple, rows: dict | None = None
    ) -> Page | None:
        """What the disk has of the samples of a call, if they are written; rows: that are in flight."""
        if not self.journal:
            return None
        rewards, number, *others = settings
        flying = [zlib.crc32(np.ascontiguousarray(a).data) for a in (rows or {}).values()]
        named = [(part.name, part.weight) for part in rewards]
        return self.journal.page(number, params, [p.id for _, p in chosen], *others, named, began, flying)

    def _draw(self, rewards: Sequence[Part]) -> list[tuple[int, Problem]]:
        """The next Q questions that the rewards of this phase apply to, by index; others wait for theirs."""
        chosen: list[tuple[int, Problem]] = []
        while missing := self.cfg.questions - len(chosen):
            more, self.position = store.take(self.data, self.position, missing)
            pairs = [(i, self.problems[i]) for i in more]
            chosen += [pair for pair in pairs if not rewards or any(applies(part, pair[1]) for part in rewards)]
        return chosen

    def _laid_out(self, graded: Graded, offset: int, version: int) -> Draw:
        """What is known of a rollout without its grades; its groups are numbered from `offset`."""
        cfg, rollout = self.cfg, graded.rollout
        finished = np.array(rollout.finished)
        zero = np.zeros(rollout.tokens.shape, np.float32)
        arrays: dict[str, Any] = {
            'tokens': rollout.tokens,
            'sampled': rollout.sampled,
            'sampler_logp': rollout.logp,
            'old_logp': zero,
            'ref_logp': zero.copy(),
            'group': np.arange(len(finished)) // cfg.samples + offset,
            'keep': finished if cfg.overlong == 'mask' else np.ones_like(finished),
        }
        arrays |= {name: a for name in ('routes', 'outcomes') if (a := getattr(rollout, name)) is not None}
        if self.versions:
            one = np.where(rollout.sampled, np.int32(version), np.int32(-1))
            arrays['version'] = rollout.version if self.carrier else one
        return Draw(graded, arrays)

    def _finish(self, draw: Draw, now: Settings) -> None:
        """Waits for the grades; advantages, and which rows teach, follow from them."""
        scores = draw.scores = draw.graded.result()
        reward = scores.reward
        if self.cfg.overlong == 'soft':
            scores.parts['overlong'] = soft_overlong(draw.graded.answers, now.max_tokens, self.cfg.overlong_buffer)
            reward = reward + scores.parts['overlong']
        shape = (-1, self.cfg.samples)
        rewards, valid = reward.reshape(shape), scores.valid.reshape(shape)
        advantage = np.zeros_like(rewards)
        if isinstance(self.loss, GRPO):
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

    def cursor(self) -> dict:
        """Where the next rollout begins."""
        return {'position': self.position, 'rollouts': self.rollouts}

    def carried(self) -> dict[str, np.ndarray]:
        """The arrays of samples that are carried into the next rollout."""
        return {CARRIED + name: a for name, a in self.carrier.rows.items()} if self.carrier else {}

    def restore(self, cursor: dict, carried: dict[str, np.ndarray]) -> None:
        """Goes on from a `cursor` and what was `carried` then."""
        self.position, self.rollouts = cursor['position'], cursor['rollouts']
        if self.carrier:
            self.carrier.rows = {name.removeprefix(CARRIED): a for name, a in carried.items()}


class Clock:
    """Seconds spent on each of several things, as metrics, and their names in a profile: `with clock('sample'): …`."""

    def __init__(self, *names: str):
        self.spent = {f'time/{name}': 0.0 for name in names}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        with jax.profiler.TraceAnnotation(name):
            yield
        self.spent[f'time/{name}'] += time.monotonic() - start
