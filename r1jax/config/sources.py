"""Where a stage's batches come from: stored texts, or the policy itself, whose samples are graded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from r1jax.config.mesh import MeshConfig
from r1jax.types import Example, Labelled, Pair, Problem, Response


class Problems(Protocol):
    """A source of questions: a frozen dataclass, so that it can be written to config.json.

    A source that reads what earlier stages wrote names them in an attribute `stages: tuple[str, ...]`; it is asked to `load(workdir)`,
    once they are finished.
    """

    def load(self) -> Sequence[Problem]: ...


class Examples(Protocol):
    """A source of stored training texts; of pairs or labelled answers, where a reward model learns from them. Like `Problems`, it may
    read what earlier stages wrote.
    """

    def load(self) -> Sequence[Example | Pair | Labelled]: ...


class Tokenizers(Protocol):
    """Where the tokenizer comes from. `directory` is the workdir, for those that are trained."""

    def load(self, directory: str) -> Any: ...


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """How responses are drawn."""

    max_tokens: int  # longest response, end token included
    max_prompt: int  # longest prompt, tokens; prompts are padded to it
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    # rows decoded together; a multiple of the samples a question. More rows than slots take them in turn (r1jax.sample.engine)
    slots: int = 256
    # batch sizes that decoding shrinks through as rows finish and none waits for a slot, each compiled; 1: none but the first
    buckets: int = 5
    # Tokens that the cache has room for, all rows together, which then hold pages of it (docs/performance.md, "Long responses"): for
    # responses that are mostly far shorter than they may be. 0: each slot has memory for the longest
    pool: int = 0
    page: int = 256  # tokens of a page of the pool
    # What draws: the policy itself, or the policy with its layers' matrices rounded to int8 (a scale a column), once a rollout; that is
    # another policy, and `GRPO.importance_cap` corrects for it
    weights: Literal['same', 'int8'] = 'same'
    # How the stage's devices are laid out while they sample, if not as they train; the weights change layouts before each rollout, on the
    # devices. A product of axes as large as the mesh's: training may want fsdp 8, and decoding data 4 × tensor 2, which gathers no weight
    mesh: MeshConfig | None = None


class Batched(Protocol):
    """A reward that grades a batch at once: problems and responses -> f32[B], NaN where it cannot grade.

    What it raises ends the run, its state kept: it is no sample's fault.
    """

    def many(self, problems: Sequence[Problem], responses: Sequence[Response]) -> Any: ...


Reward = Callable[[Problem, Response], Any] | Batched  # the former gives a float, or (float, explanation)


# Kinds of problem that have a right answer. On them a learned reward is refused unless asked for: at scale, policies find its holes.
REASONING = ('math', 'code', 'logic', 'choice', 'reasoning_gym')


@dataclasses.dataclass(frozen=True)
class Part:
    """One reward: `fn(problem, response) -> float`, recorded under `name`, added with `weight`.

    `fn` is a function or an object that is called, or is `Batched`. Besides, it may have

    - `learned = True`: it is a model, and kept away from reasoning;
    - `on_mesh = True`: it grades batches by a model of the run's own, in which all processes take part; else one of them asks for all;
    - `check(problem)`: what is wrong with a problem that it could never grade, or None; such problems are removed before training;
    - `warm()`: called in each grading process before the first deadline runs; raises where it could not grade there at all.
    """

    name: str
    fn: Callable[[Problem, Response], float] | Batched
    weight: float = 1.0
    kinds: tuple[str, ...] = ()  # of problem that it applies to; (): all. Elsewhere it adds nothing
    # seconds a call may take, in a process that is killed then; 0: graded in the training process
    deadline: float = 0.0
    on_reasoning: bool = False  # lets a learned reward apply to kinds in REASONING, or where a rule's accuracy does


@dataclasses.dataclass(frozen=True)
class GradingConfig:
    """The processes that grade the parts with a deadline: time and memory, not results."""

    workers: int = 0  # processes; 0: as many as cores
    memory_mb: int = 2048  # MiB that one may hold before it is killed


@dataclasses.dataclass(frozen=True)
class Stored:
    """Batches from stored texts: pretraining, SFT, distillation, and reward models."""

    examples: Examples
    batch: int  # examples (or pairs) an optimizer step
    shuffle: bool = True  # each epoch anew
    epochs: int = 0  # passes over the examples, with Stage.steps=0: as many steps as they take


@dataclasses.dataclass(frozen=True)
class Split:
    """Devices of their own for sampling, which goes on while the stage's train. Evaluations run on the stage's.

    The stage's mesh takes the first devices, `mesh` those behind them; the number of the ones is a multiple of that of the others.
    Of several processes each gives the same share to both, which TPUs do not allow.
    `GRPO.importance_cap` corrects for rollouts of older policies, `rollout/staleness` shows how old they are.
    """

    mesh: MeshConfig
    # Optimizer steps between the policy that draws a rollout and the first update by it: exactly so many, so that runs repeat. 0: the two
    # take turns. As many as a rollout serves (minibatches · inner_epochs): it is drawn and graded beside the updates by the one before it.
    # Twice as many: neither waits for a rollout that takes longer than the others
    staleness: int = 1


@dataclasses.dataclass(frozen=True)
class OnPolicy:
    """Batches sampled from the policy and graded."""

    problems: Problems
    sample: SampleConfig
    rewards: tuple[Part, ...]
    questions: int  # Q, a rollout
    samples: int  # G, a question
    minibatches: int = 1  # optimizer steps an inner epoch: the rollout's samples are shuffled into so many
    inner_epochs: int = 1  # passes over a rollout
    # Partial rollouts: tokens that a sample may draw in one rollout, before it is carried into the next, whose policy goes on with it (Kimi
    # k1.5, arXiv 2501.12599 §2.6.2). A group teaches once all its samples are over. 0: each sample is drawn to its end
    budget: int = 0
    max_refills: int = 0  # dynamic sampling: groups of equal rewards are dropped; at most so many draws refill them
    overlong: Literal['keep', 'mask', 'soft'] = 'keep'  # cut-off: as graded, without loss, or penalty (DAPO eq. 13)
    overlong_buffer: int = 0  # tokens before max_tokens over which the soft penalty grows from 0 to -1
    reference_every: int = 0  # steps after which the policy becomes the reference; 0: the reference stays the start
    split: Split | None = None  # None: the devices that train also sample, in turns
