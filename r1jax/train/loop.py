"""A stage that trains: start somewhere, measure, then (next items → pack → update) until its steps are done, and measure again.

Everything that a later step depends on is in a checkpoint: parameters, optimizer, reference, the source's position and the rollout in
flight. Logs are cut back to it on resume, so a killed run ends with the same bits as one that was not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from r1jax import distributed, sharding
from r1jax.config import DPO, GRPO, REWARD_MODELS, BradleyTerry, Distil, OnPolicy, Stored
from r1jax.evals.agreement import Agreeing
from r1jax.evals.metrics import figures
from r1jax.evals.talk import stops
from r1jax.nn.lora import attach
from r1jax.nn.scorer import Scorer
from r1jax.pulse import beat
from r1jax.record import to_json
from r1jax.rewards.pool import Pool
from r1jax.rl.batch import Item, pack, unpack
from r1jax.rl.judged import labelled_items, linked, pair_items, undivided
from r1jax.sample import Sampler
from r1jax.settings import BadInput, Failed, nearest
from r1jax.train import checkpoint, events, optim, profile
from r1jax.train import step as compiled
from r1jax.train.ahead import apart
from r1jax.train.interrupt import Interrupted, Signals, Stopped
from r1jax.train.jobs import Job
from r1jax.train.journal import Journal
from r1jax.train.keeping import Keep
from r1jax.train.live import Live
from r1jax.train.log import Log
from r1jax.train.phases import derive, longest, settings_at
from r1jax.train.prepare import Prepared
from r1jax.train.source import OnPolicySource
from r1jax.train.spikes import Judge, broken
from r1jax.train.start import Lineage
from r1jax.train.stored import JudgedSource, StoredSource


@dataclasses.dataclass(frozen=True)
class Context:
    """What every stage of a run shares."""

    workdir: str
    ready: Prepared
    mesh: Mesh  # of the stage that is run
    log: Log
    view: Live
    signals: Signals
    pool: Pool
    summarise: Callable[[dict], None]  # writes summary.json with the entries of stages that are not finished
    profile: profile.Wanted | None = None  # the step that is traced

    def tell(self, stage: str, step: int | None, what: str, sentence: str) -> None:
        """Says aloud what happened besides steps: a line in the terminal, and in events.jsonl."""
        self.view.note(sentence)
        if distributed.first():
            events.note(self.workdir, stage, step, what, sentence)

    def lineage(self) -> Lineage:
        """Where stages start, and what they ended with."""
        return Lineage.of(self.ready.recipe, self.workdir, self.mesh, self.ready.files.__getitem__)


class Training:
    """One stage on its way: what the loop carries from step to step."""

    def __init__(self, context: Context, job: Job):
        self.context, self.job, self.stage = context, job, job.stage
        self.workdir, self.ready, self.mesh = context.workdir, context.ready, context.mesh
        self.log, self.view, self.signals, self.pool = context.log, context.view, context.signals, context.pool
        s, self.model = job.stage, job.stage.model
        self.tx = optim.transform(s.optim)
        self.scalar = isinstance(s.loss, REWARD_MODELS)
        self.lineage = context.lineage()
        teacher = self.lineage.links[s.loss.teacher].model if isinstance(s.loss, Distil) else None
        self.offloaded = 'optimizer' in s.offload
        self.where = compiled.shardings(self.model, self.tx, self.mesh, s.lora, self.scalar, self.offloaded)
        self.update = compiled.build_update(self.model, s.loss, self.tx, self.where, s.lora, teacher)
        self.source, self.capacity = _SOURCES[type(s.source)](self)
        self.needs_reference = isinstance(s.loss, DPO) or (isinstance(s.loss, GRPO) and s.loss.beta > 0)
        self.state: Any = None
        self.base: Any = None  # with lora, the frozen weights, of which `state` and `reference` hold adapters
        self.fingerprint: int | None = None  # of the base
        self.taught: Any = None  # with a teacher, its weights
        self.reference: Any = None  # with lora, None is the base itself
        self.refreshed = 0  # step of the last refresh of the reference
        self.skips = 0  # skipped steps in a row
        self.over = False  # they are too many
        self.judge = Judge(s)
        self.rated: float | None = None  # what `Stage.keep_best` makes of the last step
        self.seconds = 0.0  # of earlier processes
        self.began = time.monotonic()
        self.results: dict[str, dict] = {}  # evaluation -> {'before', 'after'}

    # --- the loop

    def run(self) -> dict:
        """Runs the stage to its end and returns its entry in summary.json."""
        s = self.stage
        with (
            checkpoint.Checkpoints(self.workdir, s.name, Keep.of(s)) as self.saved,
            contextlib.closing(self.source),
        ):
            step = self._restore()
            if isinstance(s.loss, Distil):
                self.taught = self.lineage.end(s.loss.teacher)
            self.view.stage(s.name, s.steps, step)
            asked = self.context.profile
            if asked and asked.stage == s.name and asked.step <= step:
                self.view.note(f'no trace: {step} steps were taken before, and --profile asks for step {asked.step}')
            for note in self.job.notes:
                self.view.note(note)
            if step == 0 and not self.results:
                self.evaluate(0, 'before')
                self.save(0)
                self.context.summarise({s.name: self._entry()})
            while step < s.steps:
                step += 1
                try:
                    with self._traced(step):
                        wrong = self.take_step(step)
                except Interrupted:
                    self._stop(step - 1, self.signals.received)
                if wrong:
                    step = self._roll_back(step, wrong)
                    continue
                received = self.signals.agreed()
                if received or step % s.checkpoint_every == 0 or step == s.steps or self.over:
                    self.save(step)
                if self.over:
                    raise Failed(
                        f'stage {s.name}: {self.skips} steps in a row were skipped up to step {step} (non-finite loss or gradient, or '
                        f'nothing to learn from); state kept in {self.saved.directory}'
                    )
                if received:
                    self._stop(step, received)
            self.evaluate(step, 'after')
        if journal := getattr(self.source, 'journal', None):
            journal.clear()
        return {'steps': step, 'seconds': round(self._seconds(), 1)} | self._entry()

    @contextlib.contextmanager
    def _traced(self, step: int) -> Iterator[None]:
        """Traces the step that is asked for."""
        if not distributed.first() or self.context.profile != profile.Wanted(self.stage.name, step):
            yield
            return
        with profile.traced(self.workdir, step):
            yield
        self.view.note(f'a trace of step {step} is in {os.path.join(self.workdir, profile.FOLDER)}')

    def _entry(self) -> dict:
        """The evaluations so far, for summary.json, of which the first listed stands for the stage; and how many problems were removed."""
        removed = {'problems_removed': self.job.removed} if self.job.removed else {}
        return (next(iter(self.results.values())) | {'evals': self.results} if self.results else {}) | removed

    def take_step(self, step: int) -> str:
        """Optimizer step number `step`, from 1: items, pack, update, log. Returns '', or why to roll it back: then nothing is logged."""
        s, start = self.stage, time.monotonic()
        self._refresh_reference(step - 1)
        items, metrics, logged = self._next_items(step)
        now = settings_at(s, getattr(self.source, 'began', step - 1))
        rate = optim.learning_rate(s.optim, now.learning_rate, step - 1, s.steps)
        train = time.monotonic()
        batch, count, _ = self._pack(items)
        f32, i32 = np.float32, np.int32
        with jax.profiler.TraceAnnotation('update'):
            self.state, values = self.update(
                self.state,
                batch,
                i32(count),
                f32(rate),
                f32(now.temperature),
                np.bool_(self.source.fresh),
                self.base,
                self.taught,
            )
            values = jax.device_get(values)
        metrics |= self.source.measured({k: float(v) for k, v in values.items()})
        end = time.monotonic()
        metrics |= {
            'learning_rate': rate,
            'time/train': end - train,
            'tokens_per_second': metrics['tokens'] / (end - start),
        }
        if wrong := self.judge(metrics):
            return wrong
        self.skips = self.skips + 1 if metrics['policy/skipped'] else 0
        self.over = self.skips >= s.max_skips or (s.on_nan == 'stop' and broken(metrics))
        for e in self.job.measures:
            if e.cfg.every and step % e.cfg.every == 0 and step < s.steps:
                result, _ = self._measure(e)
                self.view.evaluation(s.name, e.cfg.name, f'step {step}', result)
                metrics |= {f'eval/{e.cfg.name}/{k}': v for k, v in figures(result)}
        self._rate(metrics)
        self.log.metrics(s.name, step, self._seconds(), metrics)
        if logged:
            self.log.samples(s.name, step, [{'when': 'rollout', **r} for r in logged])
        self.view.step(s.name, step, metrics)
        beat()
        return ''

    def _next_items(self, step: int) -> tuple[list[Item], dict, list[dict]]:
        """What the source gives for a step, behind what is passed over there. Raises Interrupted, with the source as it was before."""
        weights = self._whole(self.state.params), self._whole(self.reference)
        before = self.source.mark(weights[0], step - 1)
        try:
            with self.signals.at_once():
                for _ in range(self.judge.at(step)):
                    self.source.next_items(*weights, step - 1)
                return self.source.next_items(*weights, step - 1)
        except Interrupted:
            self.source.undo(before)
            raise

    def _roll_back(self, step: int, wrong: str) -> int:
        """Goes back to the newest checkpoint, and has the batch of `step` be passed over when it is met again; returns the steps taken.

        Raises:
          Failed: as many batches of this step were passed over as may be.
        """
        self.saved.wait()
        if self.judge.pass_over(step) > self.stage.max_skips:
            raise Failed(
                f'stage {self.stage.name}: step {step} {wrong}, with each of {self.stage.max_skips + 1} batches; state kept in '
                f'{self.saved.directory}. Lower the learning rate, or raise max_skips or spike'
            )
        passed, spent = self.judge.passed, self._seconds()
        self.state = self.reference = None  # their memory is needed
        back = self._restore()
        self.judge.passed = passed
        self.seconds, self.began = spent, time.monotonic()
        self.log.drop(self.stage.name, self.saved.cursor(back)['cut'])
        sentence = f'{self.stage.name}: step {step} {wrong}; back to step {back}, and its batch is passed over'
        self.context.tell(self.stage.name, step, 'rollback', sentence)
        return back

    def _stop(self, step: int, received: int) -> None:
        """Has what `step` left be on the disk, and raises Stopped, for a signal."""
        if self.saved.latest() != step:
            self.save(step)
        self.saved.wait()
        self._say_stopped(f'saved at step {step}', step, received)
        raise Stopped(128 + received)

    def _say_stopped(self, how: str, step: int, received: int) -> None:
        name = signal.Signals(received).name
        self.context.tell(self.stage.name, step, 'signal', f'{name}: {how}; the same command goes on')

    def _rate(self, metrics: dict) -> None:
        """Raises BadInput where `Stage.keep_best` names nothing that is measured. Evaluations and rewards have not a value at each step."""
        best = self.stage.keep_best.removeprefix('-')
        if best and best not in metrics and not best.startswith(('eval/', 'reward/')):
            known = [name for name, value in metrics.items() if isinstance(value, (int, float))]
            raise BadInput(
                f'{self.stage.name}.keep_best={self.stage.keep_best!r}: no such metric{nearest(best, known)}'
            )
        self.rated = self.saved.keep.metric(metrics)

    def _whole(self, params):
        """Weights of what is trained: they themselves, or the base with these adapters attached."""
        return params if self.base is None else attach(self.base, params, self.stage.lora)

    def _pack(self, items: Sequence[Item]):
        rows = self.stage.rows
        sizes = rows.length, rows.per_microbatch, self.capacity, rows.prompts, rows.block
        replayed = isinstance(self.stage.source, OnPolicy) and self.model.replays
        routes = (self.model.expert_layers, self.model.moe.active) if replayed else None
        batch, count, places = pack(items, *sizes, routes)
        if isinstance(self.stage.loss, BradleyTerry):
            batch = linked(batch, items, places)
        elif isinstance(self.stage.loss, DPO):
            batch = undivided(batch, places)
        return compiled.place(batch, self.mesh), count, places

    def logprobs(self, params, items: Sequence[Item], temperature: float) -> list[np.ndarray]:
        """f32[N] an item: the log-probability of each response token under `params`."""
        batch, count, places = self._pack(items)
        out = compiled.logprobs(self.model, compiled.to_device(params), batch, np.int32(count), np.float32(temperature))
        return unpack(sharding.fetch(out), items, places)

    def _refresh_reference(self, step: int) -> None:
        source, every = self.source, getattr(self.stage.source, 'reference_every', 0)
        between = isinstance(source, OnPolicySource) and source.at_boundary
        if self.needs_reference and every and between and step - self.refreshed >= every:
            self.reference, self.refreshed = self._as_reference(), step - step % every

    def _as_reference(self) -> Any:
        """A copy of the parameters as they are."""
        if 'reference' in self.stage.offload:
            return compiled.to_host(self.state.params)
        return jax.tree.map(jnp.copy, self.state.params)

    def outputs(self) -> dict:
        """What the stage ended with: its last step, and a fingerprint of the weights (with lora, of the adapters and of their base)."""
        fingerprints = [int(compiled.fingerprint(self.state.params)), *([self.fingerprint] if self.stage.lora else [])]
        return {'step': int(self.state.step), 'weights': ' '.join(f'{each:08x}' for each in fingerprints)}

    # --- measuring

    def evaluate(self, step: int, when: str) -> None:
        """Every evaluation of the stage, into results, samples.jsonl and the terminal."""
        for e in self.job.measures:
            try:
                with self.signals.at_once():
                    result, lines = self._measure(e)
            except Interrupted:  # there is a checkpoint of this step, or nothing to save yet
                self._say_stopped(f'evaluation {e.cfg.name} was left', step, self.signals.received)
                raise
            self.results.setdefault(e.cfg.name, {})[when] = result
            self.log.samples(self.stage.name, step, [{'when': when, 'eval': e.cfg.name, **line} for line in lines])
            self.view.evaluation(self.stage.name, e.cfg.name, when, result)

    def _measure(self, e):
        with jax.profiler.TraceAnnotation('evaluate'):
            return self._measured(e)

    def _measured(self, e):
        if isinstance(e, Agreeing):
            return e(Scorer.create(self.model, self.state.params, self.mesh))
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
            'cut': self.log.cut(self.stage.name),
            'base': self.fingerprint,
            'judge': self.judge.cursor(),
        }
        self.saved.save(step, self.state, self.reference, cursor, self.source.flight(), self.rated)
        if isinstance(self.source, OnPolicySource) and self.source.journal:
            self.source.journal.saved(self.source.rollouts)

    def _restore(self) -> int:
        """State from the newest checkpoint, or from where the stage starts; returns the steps already taken."""
        s, key, latest = self.stage, jax.random.key(self.job.seed), distributed.told(self.saved.latest)
        if latest is None:
            if s.lora:
                self.base, self.fingerprint = self.lineage.base(s.name)
                key = jax.random.key(derive(self.job.seed, 'adapters'))  # another than that of a base drawn at random
            start = None if s.lora else self.lineage.start(s.name)
            self.state = compiled.init_state(
                self.model, self.tx, key, self.mesh, start, s.lora, self.scalar, self.offloaded
            )
            if self.needs_reference and not s.lora:
                self.reference = self._as_reference()
            return 0
        like = compiled.described(self.model, self.tx, self.mesh, s.lora, self.scalar, self.offloaded)
        self.state, self.reference, cursor, flight = self.saved.restore(latest, like)
        if self.reference is not None and 'reference' in s.offload:
            self.reference = compiled.to_host(self.reference)
        if s.lora and self.base is None:
            self.base, self.fingerprint = self.lineage.base(s.name, cursor['base'])
        self.source.restore(cursor['source'], flight)
        for name in ('refreshed', 'skips', 'seconds', 'results'):
            setattr(self, name, cursor[name])
        self.judge = Judge(s, **cursor.get('judge', {}))
        return latest


def _stored(t: Training) -> tuple[StoredSource, int]:
    """The source, and the most items of an optimizer step."""
    cfg = t.stage.source
    assert isinstance(cfg, Stored)
    items: Callable[[list], list[Item]]
    if isinstance(t.stage.loss, DPO):
        items = functools.partial(pair_items, whole=True)
        logprobs = functools.partial(t.logprobs, temperature=1.0)
        return JudgedSource(cfg, t.job.examples, t.job.seed, items, logprobs), cfg.batch
    if t.scalar:
        items = pair_items if isinstance(t.stage.loss, BradleyTerry) else labelled_items
        return JudgedSource(cfg, t.job.examples, t.job.seed, items), cfg.batch
    return StoredSource(cfg, t.job.examples, t.job.seed), cfg.batch


def _on_policy(t: Training) -> tuple[OnPolicySource, int]:
    s, job, tokenizer, cfg = t.stage, t.job, t.ready.tokenizer, t.stage.source
    assert isinstance(cfg, OnPolicy)
    routes = t.model.replays
    ends = stops(s.environment, tokenizer)
    sampler = Sampler.create(
        t.model, cfg.sample, cfg.samples, tokenizer, job.seed, longest(s), routes=routes, stops=ends
    )
    sampling = apart(s, t.mesh)
    about = repr(
        (sampler, to_json(s.environment), dict((sampling or t.mesh).shape), distributed.count(), jax.__version__)
    )
    journal = Journal(checkpoint.stage_directory(t.workdir, s.name), about, compiled.fingerprint)
    scored = sampler, tokenizer, t.logprobs, job.seed, t.pool
    source = OnPolicySource(s, job.problems, job.prompts, *scored, journal, sampling)
    most = cfg.questions * cfg.samples
    if cfg.budget and not cfg.max_refills:  # all that is in flight may be over at once
        most *= math.ceil(longest(s) / cfg.budget)
    return source, math.ceil(most / cfg.minibatches)


_SOURCES: dict[type, Callable[[Training], tuple[StoredSource | OnPolicySource, int]]] = {
    Stored: _stored,
    OnPolicy: _on_policy,
}
