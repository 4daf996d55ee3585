"""The whole: a recipe is a tuple of stages, a stage a start, a source and a loss, with what changes and what is measured on its way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

from r1jax.config.collect import Collect
from r1jax.config.environment import Environment
from r1jax.config.learning import (
    DPO,
    GRPO,
    NLL,
    BradleyTerry,
    Distil,
    LoRA,
    OptimConfig,
    Pointwise,
    RowConfig,
)
from r1jax.config.mesh import MeshConfig
from r1jax.config.model import ModelConfig
from r1jax.config.sources import Examples, GradingConfig, OnPolicy, Part, Problems, SampleConfig, Stored, Tokenizers
from r1jax.types import Problem, Response


@dataclasses.dataclass(frozen=True)
class Phase:
    """Settings that hold from the first rollout at or after `step`. None: as before."""

    step: int
    max_tokens: int | None = None
    temperature: float | None = None
    learning_rate: float | None = None
    rewards: tuple[Part, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Eval:
    """A measurement before and after a stage: k samples a question, pass@1 their mean.

    Questions without a right answer have no part 'accuracy', and no pass@1: every part's mean is reported.
    """

    name: str
    problems: Problems
    # The part named 'accuracy' decides what is correct, 'format' what is well formed, 'language' is the language consistency
    rewards: tuple[Part, ...]
    # response text -> final answer, for the vote; goes with 'accuracy'
    answer: Callable[[str], str | None] | None = None
    samples: int = 16  # k
    sample: SampleConfig | None = None  # None: the stage's own
    cap_at: str = ''  # name of another evaluation: responses are cut at its mean length before the stage
    split: Callable[[Response], str] | None = None  # with 'accuracy', which is also reported apart by this label
    every: int = 0  # also during training, every so many steps; 0: only before and after
    alone: bool = False  # the policy answers without the stage's environment: what it can do by itself


@dataclasses.dataclass(frozen=True)
class Agreement:
    """A measurement of a reward model before and after its stage: does it judge as those did who judged these pairs or labels?

    Accuracy with its interval, calibration, and accuracy by which answer is longer or by label (`r1jax.evals.agreement`).
    """

    name: str
    examples: Examples  # of Pair or Labelled, as the stage's, and none that it trains on
    bins: int = 10  # of the reliability table
    every: int = 0  # also during training, every so many steps; 0: only before and after


@dataclasses.dataclass(frozen=True)
class Stage:
    name: str
    steps: int  # optimizer steps; 0: the source says how long it takes (Stored.epochs, Collect)
    source: Stored | OnPolicy | Collect
    # What follows is needed to train, and None where nothing is trained: with Collect
    loss: NLL | GRPO | DPO | BradleyTerry | Pointwise | Distil | None = None
    optim: OptimConfig | None = None
    rows: RowConfig | None = None
    # 'init' (random weights), the name of an earlier stage, a Hugging Face folder (written with a slash), PATH.gguf,
    # package:PACKAGE/FILE.gguf, or a preset of r1jax.presets (its shape, random weights)
    start: str = 'init'
    # None: that of the stage it starts from, else the recipe's. Context, remat and dtype may differ from those of the weights
    model: ModelConfig | None = None
    template: Callable[[Problem, Any], str] | None = None  # None: the recipe's
    # What answers between the policy's turns, in rollouts and evaluations: tools, a user (docs/environments.md). None: one turn
    environment: Environment | None = None
    # What waits in the host's memory while it is not used: the reference, which takes the devices' only while it passes over a rollout,
    # and the optimizer's moments, which take it only at the end of a step. Time for memory
    offload: tuple[Literal['reference', 'optimizer'], ...] = ()
    # None: the recipe's. Weights come from a stage on another mesh through its checkpoint
    mesh: MeshConfig | None = None
    lora: LoRA | None = None  # None: all weights are trained. A later stage starts from the adapters merged into them
    phases: tuple[Phase, ...] = ()
    evals: tuple[Eval | Agreement, ...] = ()  # Agreement for reward models, Eval for all others
    checkpoint_every: int = 50  # steps
    keep_checkpoints: int = 2  # the last ones; besides these
    keep_every: int = 0  # those of steps that are multiples of this; 0: none
    # that with the highest value of a metric of metrics.jsonl at its step, such as 'eval/held_out/pass@1'; with '-' before it, the lowest
    keep_best: str = ''
    # What follows a step whose loss or gradient is not finite, which never changes the weights: the next step ('skip'); the newest
    # checkpoint again, from which steps are repeated up to this one, whose batch is passed over ('rollback'); or the run's end ('stop')
    on_nan: Literal['skip', 'rollback', 'stop'] = 'skip'
    # A step is a spike, rolled back likewise, where its loss (with GRPO, whose loss says little, its gradient's norm) is more than this
    # many times the median of the last steps (`r1jax.train.spikes`); 0: never
    spike: float = 0.0
    # Non-finite steps in a row, or batches passed over at one step, after which the run stops, state kept
    max_skips: int = 5
    log_samples: int = 4  # questions of each rollout whose samples are written to samples.jsonl


@dataclasses.dataclass(frozen=True)
class Recipe:
    name: str
    stages: tuple[Stage, ...]
    template: Callable[[Problem, Any], str]  # (problem, tokenizer) -> model input
    # None: that of the weights a stage starts from, and where it starts from none, of the first
    model: ModelConfig | None = None
    tokenizer: Tokenizers | None = None  # None: as model; a preset has none
    mesh: MeshConfig = MeshConfig()
    grading: GradingConfig = GradingConfig()
    seed: int = 0
    # Seconds in which no step, sample or evaluated answer was finished, after which each process writes the stacks of its threads to
    # WORKDIR/hangs and ends with status 1 (`r1jax.pulse`); compiling has no beat. 0: never
    hang_after: float = 3600.0
    wandb: str = ''  # a project of Weights & Biases, which then shows the metrics beside TensorBoard (`r1jax.train.board`); '': none


def stages_read(value: Any) -> tuple[str, ...]:
    """Names of the stages whose output a part of a recipe reads: whatever in it has an attribute `stages`, in their order.

    What a stage starts from is not among them.
    """
    found = list(getattr(value, 'stages', ())) if not isinstance(value, (type, Recipe)) else []
    if isinstance(value, (tuple, list)):
        inner: Sequence[Any] = value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        inner = [getattr(value, field.name) for field in dataclasses.fields(value) if field.name != 'stages']
    else:
        inner = ()
    return tuple(dict.fromkeys([*found, *(name for each in inner for name in stages_read(each))]))
