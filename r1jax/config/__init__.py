"""What can be set: frozen dataclasses, and nothing else.

An experiment is a Python module with `recipe() -> Recipe`. A recipe is a tuple of stages; a stage says where it starts, where its
batches come from and which loss they meet. Functions (rewards, templates) are passed as themselves, so an editor can jump to them.

Two words for sizes: *questions* and *samples* (a question's G answers). Rows and microbatches are memory settings: they change no
result beyond rounding.

All names are public here, in `r1jax.config`; the files tell a part each: `model` its shape, `learning` losses and optimizer, `mesh` the
devices, `sources` what is learned from, `environment` what answers between the policy's turns, `collect` rejection sampling, `recipe`
stages and the whole.
"""

from __future__ import annotations

from r1jax.config.collect import (
    FATES,
    FATES_OF_REWRITING,
    LAST_FATES,
    Collect,
    Decontaminate,
    Filter,
    NearDuplicates,
    Threshold,
)
from r1jax.config.environment import CHATML, INLINE, Environment, Frame
from r1jax.config.learning import (
    DPO,
    GRPO,
    NLL,
    PAIRED,
    REWARD_MODELS,
    BradleyTerry,
    Distil,
    LoRA,
    OptimConfig,
    Pointwise,
    RowConfig,
)
from r1jax.config.mesh import AXES, MeshConfig, Rules
from r1jax.config.model import (
    MLA,
    Llama3Scaling,
    ModelConfig,
    MoE,
    YarnScaling,
)
from r1jax.config.recipe import (
    Agreement,
    Eval,
    Phase,
    Recipe,
    Stage,
    stages_read,
)
from r1jax.config.sources import (
    REASONING,
    Batched,
    Examples,
    GradingConfig,
    OnPolicy,
    Part,
    Problems,
    Reward,
    SampleConfig,
    Split,
    Stored,
    Tokenizers,
)

__all__ = [
    'Agreement',
    'AXES',
    'Batched',
    'BradleyTerry',
    'CHATML',
    'DPO',
    'Collect',
    'Decontaminate',
    'Distil',
    'Environment',
    'Eval',
    'Examples',
    'FATES',
    'FATES_OF_REWRITING',
    'Filter',
    'Frame',
    'GradingConfig',
    'GRPO',
    'INLINE',
    'LAST_FATES',
    'Llama3Scaling',
    'LoRA',
    'MeshConfig',
    'MLA',
    'ModelConfig',
    'MoE',
    'NearDuplicates',
    'NLL',
    'OnPolicy',
    'OptimConfig',
    'Part',
    'Phase',
    'Pointwise',
    'Problems',
    'REASONING',
    'Recipe',
    'PAIRED',
    'Reward',
    'REWARD_MODELS',
    'RowConfig',
    'Rules',
    'SampleConfig',
    'Split',
    'Stage',
    'stages_read',
    'Stored',
    'Threshold',
    'Tokenizers',
    'YarnScaling',
]
