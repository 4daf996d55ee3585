"""How a stage learns: what its loss is, what is trained, by which steps, and how a step is cut."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class NLL:
    """Next-token loss, the mean over the response tokens of an optimizer step."""


@dataclasses.dataclass(frozen=True)
class BradleyTerry:
    """A reward model that learns from pairs, −log σ(r_chosen − r_rejected), the mean of an optimizer step (R1 Methods: helpfulness).

    The stage's model is that of the weights it starts from, with a value head in place of the unembedding (`r1jax.nn.heads`).
    """


@dataclasses.dataclass(frozen=True)
class Pointwise:
    """A reward model that learns from labels, the cross-entropy of σ(r), the mean of an optimizer step (R1 Methods: safety)."""


@dataclasses.dataclass(frozen=True)
class DPO:
    """Direct preference optimisation: a policy that learns from pairs, with no reward model between (Rafailov et al., arXiv 2305.18290).

    −log σ(β·(log π/π_ref of the chosen answer − that of the rejected one)), the mean of an optimizer step. π_ref is what the stage
    starts from.
    """

    beta: float = 0.1  # how far the policy may go from where it starts: the smaller the farther


# losses that learn from pairs of answers
PAIRED = (BradleyTerry, DPO)
# losses of stages that end with a reward model, which gives scores and says no words
REWARD_MODELS = (BradleyTerry, Pointwise)


@dataclasses.dataclass(frozen=True)
class Distil:
    """The student's distribution of each response token is drawn to the teacher's, over the whole vocabulary.

    'forward' is KL(teacher ‖ student): the student covers all that the teacher may say (Hinton et al., arXiv 1503.02531). 'reverse' is
    KL(student ‖ teacher): it keeps to what it can say (MiniLLM, arXiv 2306.08543). Over stored texts, or over what the student samples
    itself, which no gradient flows through (GKD, arXiv 2306.13649; Thinking Machines, On-Policy Distillation, 2025). The mean over the
    response tokens of an optimizer step.
    """

    teacher: str  # name of an earlier stage, whose model may have another shape but has the same vocabulary
    kl: Literal['forward', 'reverse'] = 'forward'
    temperature: float = 1.0  # of both distributions

    @property
    def stages(self) -> tuple[str, ...]:
        """Those whose output this reads."""
        return (self.teacher,)


@dataclasses.dataclass(frozen=True)
class GRPO:
    """Group relative policy optimisation (DeepSeekMath eq. 3; R1 report eq. 1)."""

    clip_low: float = 0.2
    clip_high: float = 0.2
    beta: float = 0.001  # KL coefficient; 0: no reference pass
    kl: Literal['k1', 'k2', 'k3'] = 'k3'
    # ρ = π/π_old: of each token, or of the whole response, the geometric mean over its tokens (GSPO, arXiv 2507.18071 eq. 7)
    ratio: Literal['token', 'sequence'] = 'token'
    normalise: Literal['grpo', 'dr_grpo', 'token_mean'] = 'grpo'  # 1/(B·|o|), 1/(B·max_tokens), 1/Σ|o|
    # What a reward is compared with: the mean of its group, or that of the others in it (RLOO, arXiv 2402.14740), which is the same
    # times (G − 1)/G: of some weight where G is small or scale_by_std is off
    baseline: Literal['mean', 'leave_one_out'] = 'mean'
    scale_by_std: bool = True  # off: Dr. GRPO
    std_ddof: int = 1
    std_eps: float = 1e-6
    importance_cap: float = 0.0  # truncated importance weights min(old / sampler, cap) on each token; 0: off
    # Where a rollout serves several updates: with the sampler gap last measured at most this (nats, the largest of a token), π_old is
    # the sampler's, else a pass of its own computes it, as with importance_cap always, which compares the two; 0: always a pass
    sampler_gap: float = 1e-3


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW."""

    learning_rate: float
    warmup: int = 0  # steps, linear from 0
    schedule: Literal['constant', 'cosine'] = 'constant'
    final: float = 0.1  # the cosine ends at this share of learning_rate
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 1.0  # global gradient norm; 0: off


@dataclasses.dataclass(frozen=True)
class LoRA:
    """What a stage trains in place of the weights W, which stay: A and B of W + (alpha / rank)·A·B (Hu et al., arXiv 2106.09685).

    At the start B is 0 and the policy is the base. The learning rate that fits is about ten times that of full training (Schulman and
    Thinking Machines, LoRA Without Regret, 2025).
    """

    rank: int  # r, the width between A and B
    alpha: float  # alpha / rank multiplies the product, so that another rank needs no other learning rate
    targets: tuple[Literal['q', 'k', 'v', 'o', 'gate', 'up', 'down'], ...] = ('q', 'k', 'v', 'o', 'gate', 'up', 'down')
    # How the layers' matrices are held: bfloat16 (of no use on a CPU, which widens them) loses nothing of weights released in it; int8
    # (a scale a column) rounds them, for the reference too, and what the stage ends with is the rounded base with the adapters added
    base: Literal['float32', 'bfloat16', 'int8'] = 'float32'


@dataclasses.dataclass(frozen=True)
class RowConfig:
    """Packing and microbatching: time and memory, not mathematics.

    A row is `prompts` tokens for prompts, each read by all its responses in the row, and then blocks of `block` tokens, whose
    responses attend to their own block and to the prompts. So attention costs `length · (prompts + block)` a row and not `length²`.
    """

    length: int  # tokens of a packed row: prompts + a multiple of block
    per_microbatch: int = (
        8  # rows a microbatch; a multiple of the devices that rows are split over: data × fsdp × expert
    )
    prompts: int = 0  # at least the longest prompt; 0: a prompt stands in its responses' block
    # at least the longest response (with prompts=0: prompt + response); 0: what prompts leave of the row
    block: int = 0
