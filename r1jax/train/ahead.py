"""Sampling beside training: rollouts are drawn on devices of their own (`config.Split`) while updates go on upon the others.

    ahead.begin(params, step)     # with each step: what the policy of this step is to draw, a thread begins to draw
    drawn = ahead.take()          # when updates need a rollout: waits for it

A rollout that updates begin to take at step u is drawn by the policy that has taken u − k steps, k the `staleness`, and by the start's for
u < k. That is a rule about steps and not about time: whichever side is faster, a run repeats bit for bit. The k + 1 policies' weights are
handed over device to device. With k = 0 the two sides take turns.

A state that is saved holds every rollout that was begun, drawn to its end: `settled` waits for them, at most for the time of k rollouts.
"""

from __future__ import annotations

import collections
import contextvars
import itertools
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from r1jax import resharding, sharding
from r1jax.config import Stage
from r1jax.nn import layout
from r1jax.settings import BadInput
from r1jax.train.drawer import Drawer, Drawn
from r1jax.train.log import plain


def apart(stage: Stage, mesh: Mesh) -> Mesh | None:
    """The devices that a stage samples on, those behind its mesh's; None: it has none of its own."""
    split = getattr(stage.source, 'split', None)
    if split is None:
        return None
    ours = set(mesh.devices.flat)
    return sharding.make_mesh(split.mesh, [d for d in jax.devices() if d not in ours])


def refuse_many(stages: Sequence[Stage], processes: int) -> None:
    """Raises BadInput where a stage samples apart and its devices are those of several processes: each would launch what its two threads
    ask for in an order of its own, and wait for the others for ever.
    """
    for stage in stages:
        if processes > 1 and getattr(stage.source, 'split', None):
            raise BadInput(
                f'{stage.name}.source.split is for the devices of one process, and here are {processes}: leave it None, and give '
                f'{stage.name}.source.sample.mesh where sampling wants another layout'
            )


class Ahead:
    """The rollouts that are drawn before updates take them, in their order. One thread draws them all."""

    def __init__(self, draw: Drawer, mesh: Mesh, stride: int):
        """stride: steps that take one rollout."""
        self.draw, self.mesh, self.stride = draw, mesh, stride
        self.staleness, self.steps = draw.cfg.split.staleness, draw.stage.steps
        self.next = 0  # the batch that will be the first of the rollout that is drawn next
        self._at = 0  # among the rollouts: the next to be taken; those before it are taken since the mark
        self._rollouts: collections.deque[Future[Drawn]] = collections.deque()
        self._thread = ThreadPoolExecutor(1, 'sampling')
        self._sent: list[tuple[Any, jax.Array]] = []  # of each weight, the array and its copy

    def begin(self, params: Any, step: int, passed: int = 0) -> None:
        """Begins the rollouts that are to be drawn by the policy that has taken `step` steps. To be called before every batch; passed:
        batches that were given so far and that no step took.
        """
        while (began := self.next - passed) <= min(step + self.staleness, self.steps - 1):
            weights = self._handed_over(params)
            run = contextvars.copy_context().run  # the rules of the mesh, and what else holds here
            self._rollouts.append(self._thread.submit(run, self._drawn, weights, began, step))
            self.next += self.stride

    def _handed_over(self, params: Any) -> Any:
        """The weights on the devices that sample. What has not changed stays there: the base of adapters."""
        leaves, tree = jax.tree.flatten(params)
        before = self._sent or [(None, None)] * len(leaves)
        with jax.profiler.TraceAnnotation('hand_over'):
            changed = [a for a, (old, _) in zip(leaves, before, strict=True) if a is not old]
            where = jax.tree.leaves(layout.shardings(params, self.draw.stage.model, self.mesh))
            where = [s for s, a, (old, _) in zip(where, leaves, before, strict=True) if a is not old]
            copies = iter(resharding.moved(changed, where))
        self._sent = [(a, copy if a is old else next(copies)) for a, (old, copy) in zip(leaves, before, strict=True)]
        return jax.tree.unflatten(tree, [copy for _, copy in self._sent])

    def _drawn(self, weights: Any, began: int, version: int) -> Drawn:
        with jax.set_mesh(self.mesh):
            return self.draw(weights, began, version)

    def take(self) -> Drawn:
        """The next rollout. Raises what went wrong while it was drawn."""
        drawn = self._rollouts[self._at].result()
        self._at += 1
        return drawn

    def mark(self) -> None:
        """Forgets what was taken."""
        for _ in range(self._at):
            self._rollouts.popleft()
        self._at = 0

    def undo(self) -> None:
        """What was taken since the `mark` is to be taken again."""
        self._at = 0

    def settled(self) -> list[Drawn]:
        """The rollouts that are begun and not taken, when all of them are there."""
        return [rollout.result() for rollout in itertools.islice(self._rollouts, self._at, None)]

    def restore(self, drawn: list[Drawn], following: int) -> None:
        """Goes on behind these rollouts, in place of those that are begun. following: the `next` that there was then."""
        for rollout in self._rollouts:
            rollout.cancel()
        wait(self._rollouts)  # the one that is being drawn would move the drawer's cursor later
        self._rollouts.clear()
        self.next, self._at = following, 0
        for each in drawn:
            self._rollouts.append(Future())
            self._rollouts[-1].set_result(each)

    def close(self) -> None:
        """Waits for the rollout that is being drawn; drops the others."""
        self._thread.shutdown(cancel_futures=True)


def packed(drawn: list[Drawn]) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Rollouts as JSON and as arrays with names of their own, for a checkpoint."""
    said = [plain({'began': d.began, 'number': d.number, 'metrics': d.metrics, 'logged': d.logged}) for d in drawn]
    return said, {f'ahead{i}_{name}': a for i, d in enumerate(drawn) for name, a in d.arrays.items()}


def unpacked(said: list[dict], arrays: dict[str, np.ndarray]) -> list[Drawn]:
    """What was `packed`; takes its arrays out."""
    out = []
    for i, each in enumerate(said):
        mine = {name: arrays.pop(name) for name in list(arrays) if name.startswith(f'ahead{i}_')}
        out.append(Drawn(**each, arrays={name.partition('_')[2]: a for name, a in mine.items()}))
    return out
