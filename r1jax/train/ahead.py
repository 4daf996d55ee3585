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
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from r1jax import distributed, resharding, sharding
from r1jax.config import Stage
from r1jax.nn import layout
from r1jax.train.drawer import Drawer, Drawn
from r1jax.train.log import plain


def apart(stage: Stage, mesh: Mesh) -> Mesh | None:
    """The devices that a stage samples on, those behind its mesh's; None: it has none of its own."""
    split = getattr(stage.source, 'split', None)
    if split is None:
        return None
    ours = set(mesh.devices.flat)
    return sharding.make_mesh(split.mesh, [d for d in jax.devices() if d not in ours])


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
        self._circle = distributed.Circle(mesh.devices.flat)  # of the threads that sample
        self._sent: list[Any] = []  # of each weight, the array that was sent last
        self._there: list[jax.Array] = []  # what became of them: of the thread

    def begin(self, params: Any, step: int, passed: int = 0) -> None:
        """Begins the rollouts that are to be drawn by the policy that has taken `step` steps. To be called before every batch; passed:
        batches that were given so far and that no step took.
        """
        while (began := self.next - passed) <= min(step + self.staleness, self.steps - 1):
            pieces, tree = self._handed_over(params)  # not by the thread, beside which an update may take their memory
            run = contextvars.copy_context().run  # the rules of the mesh, and what else holds here
            self._rollouts.append(self._thread.submit(run, self._drawn, pieces, tree, began, step))
            self.next += self.stride

    def _handed_over(self, params: Any) -> tuple[list[tuple[jax.Array, Any] | None], Any]:
        """The weights on the devices that sample, each cut as it was and with the sharding that it is to have there, and their tree. None:
        what has not changed and stays there, the base of adapters.
        """
        leaves, tree = jax.tree.flatten(params)
        before = self._sent or [None] * len(leaves)
        where = jax.tree.leaves(layout.shardings(params, self.draw.stage.model, self.mesh))
        changed = [i for i, (a, old) in enumerate(zip(leaves, before, strict=True)) if a is not old]
        with jax.profiler.TraceAnnotation('hand_over'):
            copies = resharding.sent([leaves[i] for i in changed], [where[i] for i in changed])
        self._sent = leaves
        pieces: list[tuple[jax.Array, Any] | None] = [None] * len(leaves)
        for i, copy in zip(changed, copies, strict=True):
            pieces[i] = copy, where[i]
        return pieces, tree

    def _drawn(self, pieces: list[tuple[jax.Array, Any] | None], tree: Any, began: int, version: int) -> Drawn:
        """By the thread. Every program of the devices that sample begins here: of several processes in the same order in each."""
        with jax.set_mesh(self.mesh), distributed.among(self._circle):
            new = iter(resharding.received(*map(list, zip(*filter(None, pieces), strict=True))) if any(pieces) else ())
            self._there = [self._there[i] if each is None else next(new) for i, each in enumerate(pieces)]
            pieces.clear()  # the weights are here twice no longer
            return self.draw(jax.tree.unflatten(tree, self._there), began, version)

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
