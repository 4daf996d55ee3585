"""The only loop. A stage is: start somewhere, measure, then (next items → pack → update) until its steps are done, and measure again.

Everything that a later step depends on is in a checkpoint: parameters, optimizer, reference, the source's position and the rollout in
flight. Logs are cut back to it on resume, so a killed run ends with the same bits as one that was not.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import report, sharding
from r1jax.checks import validate
from r1jax.config import GRPO, OnPolicy, Recipe
from r1jax.evals.metrics import figures
from r1jax.nn.lora import attach
from r1jax.rewards.pool import Pool
from r1jax.rl.batch import Item, pack, unpack
from r1jax.sample import Sampler
from r1jax.settings import as_bad_input, chosen
from r1jax.train import checkpoint, optim, restore
from r1jax.train import step as compiled
from r1jax.train.interrupt import Signals, Stopped
from r1jax.train.live import Live
from r1jax.train.log import Log, write_summary
from r1jax.train.phases import derive, longest, settings_at
from r1jax.train.prepare import Job, Prepared, prepare
from r1jax.train.source import OnPolicySource, StoredSource
from r1jax.train.start import Lineage
from r1jax.workdir import open_workdir


def run(recipe: Recipe, workdir: str, stage: str | None = None, first: str | None = None) -> dict:
    """Runs (or goes on with) a recipe's stages; returns what summary.json holds.

    Args:
      stage: run only this one.
      first: run from this one on.

    Raises:
      BadInput: before anything is compiled.
      Stopped: after a signal, state saved.
      RuntimeError: too many skipped steps in a row, state saved.
    """
    workdir = os.fspath(workdir)
    wanted = [s.name for s in chosen(recipe, stage, first)]
    with as_bad_input():
        validate(recipe, jax.device_count())
        open_workdir(workdir, recipe)
    if all(checkpoint.read_done(workdir, name) for name in wanted):
        print(f'{", ".join(wanted)}: finished in {workdir}; see {os.path.join(workdir, report.PAGE)}')
        return _summary(recipe, workdir)
    mesh = sharding.make_mesh(recipe.mesh)
    with jax.set_mesh(mesh), Pool(recipe.grading.workers, recipe.grading.memory_mb << 20) as pool, Signals() as signals:
        with as_bad_input():
            warmed = pool.warm(_graders(recipe, wanted))  # they start while data are read
            ready = prepare(recipe, workdir, wanted, jax.device_count(), pool)
            restore.write(workdir, ready.model, ready.tokenizer)
            for each in warmed:
                each.result()
        resume = _resume_point(recipe, workdir)
        steps = {s.name: s.steps for s in recipe.stages if s.name in wanted}
        with Log(workdir, resume) as log, Live(recipe.name, steps) as view:
            try:
                for job in ready.jobs:
                    if checkpoint.read_done(workdir, job.stage.name):
                        view.note(f'{job.stage.name} is finished')
                        continue
                    entry = _Stage(recipe, workdir, ready, job, mesh, log, view, signals, pool).run()
                    checkpoint.write_done(workdir, job.stage.name, {'cut': log.cut(), 'entry': entry})
                    _summary(recipe, workdir)
            finally:
                log.cut()
                try:
                    view.note(f'report: {report.write(workdir)}')
                except ValueError as error:  # must not hide what ended the run
                    view.note(f'no report: {error}')
    return _summary(recipe, workdir)


def _graders(recipe: Recipe, wanted: Sequence[str]) -> list:
    """The reward functions of the stages named in `wanted` that worker processes call."""
    found = {}
    for s in (s for s in recipe.stages if s.name in wanted):
        mixes = [
            getattr(s.source, 'rewards', ()),
            *(phase.rewards or () for phase in s.phases),
            *(e.rewards for e in s.evals),
        ]
        found |= {id(part.fn): part.fn for parts in mixes for part in parts if part.deadline}
    return list(found.values())


def _summary(recipe: Recipe, workdir: str, running: dict | None = None) -> dict:
    """Writes summary.json from the records of the finished stages, which outlive a kill between two writes, and of a running one."""
    done = {s.name: checkpoint.read_done(workdir, s.name) for s in recipe.stages}
    stages = {name: record['entry'] for name, record in done.items() if record} | (running or {})
    summary = {'recipe': recipe.name, 'seed': recipe.seed, 'stages': stages}
    write_summary(workdir, summary)
    return summary


def _resume_point(recipe: Recipe, workdir: str) -> dict | None:
    """Log lengths at the newest checkpoint, or at the end of the newest finished stage: the longest of them all."""
    cuts = []
    for s in recipe.stages:
        if done := checkpoint.read_done(workdir, s.name):
            cuts.append(done['cut'])
        elif os.path.isdir(checkpoint.stage_directory(workdir, s.name)):
            with checkpoint.Checkpoints(workdir, s.name) as saved:
                if (latest := saved.latest()) is not None:
                    cuts.append(saved.cursor(latest)['cut'])
    return max(cuts, key=lambda c: tuple(c.values())) if cuts else None


class _Stage:
    """One stage on its way: what the loop carries from step to step."""

    def __init__(
        self,
        recipe: Recipe,
        workdir: str,
        ready: Prepared,
        job: Job,
        mesh,
        log: Log,
        view: Live,
        signals: Signals,
        pool: Pool,
    ):
        self.recipe, self.workdir, self.ready, self.job, self.mesh = recipe, workdir, ready, job, mesh
        self.log, self.view, self.signals = log, view, signals
        self.stage = s = job.stage
        self.model = ready.model
        self.tx = optim.transform(s.optim)
        self.where = compiled.shardings(self.model, self.tx, mesh, s.lora)
        self.update = compiled.build_update(self.model, s.loss, self.tx, self.where, s.lora)
        self.lineage = Lineage.of(recipe, workdir, self.model, mesh, ready.files.__getitem__)
        on_policy = isinstance(s.source, OnPolicy)
        samples = s.source.questions * s.source.samples if on_policy else s.source.batch
        self.capacity = math.ceil(samples / s.source.minibatches) if on_policy else samples
        if on_policy:
            sampler = Sampler.create(
                self.model,
                s.source.sample,
                s.source.samples,
                ready.tokenizer,
                job.seed,
                longest(s),
                routes=self.model.replays,
            )
            self.source = OnPolicySource(
                s, job.problems, job.prompts, sampler, ready.tokenizer, self.logprobs, job.seed, pool
            )
        else:
            self.source = StoredSource(s.source, job.examples, job.seed)
        self.needs_reference = isinstance(s.loss, GRPO) and s.loss.beta > 0
        self.state: Any = None
        self.base: Any = None  # with lora, the frozen weights, of which `state` and `reference` hold adapters
        self.fingerprint: int | None = None  # of the base
        self.reference: Any = None  # with lora, None is the base itself
        self.refreshed = 0  # step of the last refresh of the reference
        self.skips = 0  # skipped steps in a row
        self.seconds = 0.0  # of earlier processes
        self.began = time.monotonic()
        self.results: dict[str, dict] = {}  # evaluation -> {'before', 'after'}

    # --- the loop

    def run(self) -> dict:
        """Runs the stage to its end and returns its entry in summary.json."""
        s = self.stage
        with checkpoint.Checkpoints(self.workdir, s.name, s.keep_checkpoints) as self.saved:
            step = self._restore()
            self.view.stage(s.name, s.steps, step)
            for note in self.job.notes:
                self.view.note(note)
            if step == 0 and not self.results:
                self.evaluate(0, 'before')
                self.save(0)
                _summary(self.recipe, self.workdir, {s.name: self._entry()})
            while step < s.steps:
                step += 1
                self.take_step(step)
                if (
                    self.signals.received
                    or step % s.checkpoint_every == 0
                    or step == s.steps
                    or self.skips >= s.max_skips
                ):
                    self.save(step)
                if self.skips >= s.max_skips:
                    raise RuntimeError(
                        f'stage {s.name}: {self.skips} steps in a row were skipped up to step {step} (non-finite loss or gradient, or '
                        f'nothing to learn from); state kept in {self.saved.directory}'
                    )
                if self.signals.received:
                    self.view.note(
                        f'{signal.Signals(self.signals.received).name}: saved at step {step}; the same command goes on'
                    )
                    raise Stopped(128 + self.signals.received)
            self.evaluate(step, 'after')
        return {'steps': step, 'seconds': round(self._seconds(), 1)} | self._entry()

    def _entry(self) -> dict:
        """The evaluations so far, for summary.json, of which the first listed stands for the stage; and how many problems were removed."""
        removed = {'problems_removed': self.job.removed} if self.job.removed else {}
        return (next(iter(self.results.values())) | {'evals': self.results} if self.results else {}) | removed

    def take_step(self, step: int) -> None:
        """Optimizer step number `step`, from 1: items, pack, update, log."""
        s, start = self.stage, time.monotonic()
        self._refresh_reference(step - 1)
        items, metrics, logged = self.source.next_items(
            self._whole(self.state.params), self._whole(self.reference), step - 1
        )
        now = settings_at(s, getattr(self.source, 'began', step - 1))
        rate = optim.learning_rate(s.optim, now.learning_rate, step - 1, s.steps)
        train = time.monotonic()
        batch, count, _ = self._pack(items)
        f32, i32 = np.float32, np.int32
        self.state, values = self.update(
            self.state, batch, i32(count), f32(rate), f32(now.temperature), np.bool_(self.source.fresh), self.base
        )
        metrics |= self.source.measured({k: float(v) for k, v in jax.device_get(values).items()})
        end = time.monotonic()
        metrics |= {
            'learning_rate': rate,
            'time/train': end - train,
            'tokens_per_second': metrics['tokens'] / (end - start),
        }
        self.skips = self.skips + 1 if metrics['policy/skipped'] else 0
        for e in self.job.measures:
            if e.cfg.every and step % e.cfg.every == 0 and step < s.steps:
                result, _ = self._measure(e)
                self.view.evaluation(s.name, e.cfg.name, f'step {step}', result)
                metrics |= {f'eval/{e.cfg.name}/{k}': v for k, v in figures(result)}
        self.log.metrics(s.name, step, self._seconds(), metrics)
        if logged:
            self.log.samples(s.name, step, [{'when': 'rollout', **r} for r in logged])
        self.view.step(s.name, step, metrics)

    def _whole(self, params):
        """Weights of what is trained: they themselves, or the base with these adapters attached."""
        return params if self.base is None else attach(self.base, params, self.stage.lora)

    def _pack(self, items: Sequence[Item]):
        rows = self.stage.rows
        sizes = rows.length, rows.per_microbatch, self.capacity, rows.prompts, rows.block
        replayed = isinstance(self.stage.source, OnPolicy) and self.model.replays
        routes = (self.model.expert_layers, self.model.moe.active) if replayed else None
        batch, count, places = pack(items, *sizes, routes)
        return compiled.place(batch, self.mesh), count, places

    def logprobs(self, params, items: Sequence[Item], temperature: float) -> list[np.ndarray]:
        """f32[N] an item: the log-probability of each response token under `params`."""
        batch, count, places = self._pack(items)
        out = compiled.logprobs(self.model, params, batch, np.int32(count), np.float32(temperature))
        return unpack(np.asarray(out), items, places)

    def _refresh_reference(self, step: int) -> None:
        every = getattr(self.stage.source, 'reference_every', 0)
        if self.needs_reference and every and self.source.at_boundary and step - self.refreshed >= every:
            self.reference, self.refreshed = jax.tree.map(jnp.copy, self.state.params), step - step % every

    # --- measuring

    def evaluate(self, step: int, when: str) -> None:
        """Every evaluation of the stage, into results, samples.jsonl and the terminal."""
        for e in self.job.measures:
            result, lines = self._measure(e)
            self.results.setdefault(e.cfg.name, {})[when] = result
            self.log.samples(self.stage.name, step, [{'when': when, 'eval': e.cfg.name, **line} for line in lines])
            self.view.evaluation(self.stage.name, e.cfg.name, when, result)

    def _measure(self, e):
        limit = e.sampler.decode.max_tokens
        if e.cfg.cap_at:
            limit = max(1, round(self.results[e.cfg.cap_at]['before']['response_tokens']))
        result, lines = e(self._whole(self.state.params), e.cfg.sample.temperature, limit)
        return result | ({'capped_at': limit} if e.cfg.cap_at else {}), lines

    # --- state

    def _seconds(self) -> float:
        return self.seconds + time.monotonic() - self.began

    def save(self, step: int) -> None:
        cursor = {
            'source': self.source.cursor(),
            'refreshed': self.refreshed,
            'skips': self.skips,
            'seconds': self._seconds(),
            'results': self.results,
            'cut': self.log.cut(),
            'base': self.fingerprint,
        }
        self.saved.save(step, self.state, self.reference, cursor, self.source.flight())

    def _restore(self) -> int:
        """State from the newest checkpoint, or from where the stage starts; returns the steps already taken."""
        s, key, latest = self.stage, jax.random.key(self.job.seed), self.saved.latest()
        if latest is None:
            if s.lora:
                self.base, self.fingerprint = self.lineage.base(s.name)
                key = jax.random.key(derive(self.job.seed, 'adapters'))  # another than that of a base drawn at random
            start = None if s.lora else self.lineage.start(s.name)
            self.state = compiled.init_state(self.model, self.tx, key, self.mesh, start, s.lora)
            if self.needs_reference and not s.lora:
                self.reference = jax.tree.map(jnp.copy, self.state.params)
            return 0
        like = compiled.described(self.model, self.tx, self.mesh, s.lora)
        self.state, self.reference, cursor, flight = self.saved.restore(latest, like)
        if s.lora:
            self.base, self.fingerprint = self.lineage.base(s.name, cursor['base'])
        self.source.restore(cursor['source'], flight)
        for name in ('refreshed', 'skips', 'seconds', 'results'):
            setattr(self, name, cursor[name])
        return latest
