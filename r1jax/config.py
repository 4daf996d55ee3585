"""What can be set: frozen dataclasses, and nothing else.

An experiment is a Python module with `recipe() -> Recipe`. A recipe is a tuple of stages; a stage says where it starts, where its
batches come from and which loss they meet. Functions (rewards, templates) are passed as themselves, so an editor can jump to them.

Two words for sizes: *questions* and *samples* (a question's G answers). Rows and microbatches are memory settings: they change no
result beyond rounding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from r1jax.types import Example, Labelled, Pair, Problem, Response

dataclass = dataclasses.dataclass(frozen=True)


@dataclass
class Llama3Scaling:
    """RoPE for a longer context than the pretrained one, as Llama 3.1 and 3.2 have it (arXiv 2407.21783; transformers' 'llama3').

    Frequencies that turn more than `high` times in the original context stay, those that turn less than `low` times are divided by
    `factor`, and those between are mixed of both.
    """

    factor: float
    original: int  # tokens of the pretrained context
    low: float = 1.0  # turns
    high: float = 4.0  # turns

    def __post_init__(self):
        if not self.low < self.high:
            raise ValueError(f'low={self.low} must be below high={self.high}')


@dataclass
class YarnScaling:
    """RoPE for a longer context than the pretrained one (YaRN, arXiv 2309.00071).

    Frequencies that turn more than `fast` times in the original context stay, those that turn less than `slow` times are divided by
    `factor`, with a ramp between. What is rotated is multiplied by m(mscale) / m(mscale_all_dim), and multi-head latent attention's
    scores by m(mscale_all_dim)², where m(x) = 0.1·x·ln(factor) + 1.
    """

    factor: float  # of the context
    original: int  # tokens of the pretrained context
    fast: float = 32.0
    slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 0.0


@dataclass
class MLA:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434 §2.1): a token's keys and values are one latent and one rotary key.

    Of a head's `ModelConfig.head_dim` query and key entries the last `rotary` are rotated, and shared by the heads on the key's side.
    """

    kv_rank: int  # C, entries of the latent
    rotary: int  # R
    value: int  # entries of a head's value
    q_rank: int = 0  # of the queries' own latent; 0: queries are read off the width (DeepSeek-V2-Lite, Moonlight)


@dataclass
class MoE:
    """Experts in place of the SwiGLU (DeepSeekMoE, arXiv 2401.06066; DeepSeek-V3, arXiv 2412.19437 §2.1.2). No token is dropped.

    Defaults are Qwen3's router: softmax over all experts, no bias, no shared expert.
    """

    experts: int  # E, routed
    active: int  # k, experts a token
    hidden: int  # F of one expert
    shared: int = 0  # experts that every token passes, side by side as one of shared·hidden
    dense_layers: int = 0  # leading layers with a SwiGLU of ModelConfig.hidden
    score: Literal['softmax', 'sigmoid'] = 'softmax'  # of the router's logits; float32
    groups: int = 1  # the experts' groups, equal in size …
    top_groups: int = 1  # … of which a token's experts come from so many, those whose two best experts sum highest
    normalise: bool = True  # the chosen experts' scores are divided by their sum
    scale: float = 1.0  # of the routed experts' output
    # A bias that is added to the scores for choosing, and only there (auxiliary-loss-free balancing, arXiv 2408.15664). 'frozen': as
    # loaded; 'balance': each optimizer step adds bias_speed·sign(mean load − load)
    router_bias: Literal['none', 'frozen', 'balance'] = 'none'
    bias_speed: float = 1e-3
    # Updates use the experts that sampling chose (rollout routing replay, arXiv 2510.11370); off: those that they would choose themselves
    replay: bool = True

    def __post_init__(self):
        if self.experts % self.groups:
            raise ValueError(f'experts={self.experts} must be a multiple of groups={self.groups}')
        if self.groups > 1 and self.experts // self.groups < 2:
            raise ValueError(f'groups={self.groups} of experts={self.experts}: a group needs two, whose scores rank it')
        if not 1 <= self.top_groups <= self.groups:
            raise ValueError(f'top_groups={self.top_groups} must be in 1 to groups={self.groups}')
        choice = self.experts // self.groups * self.top_groups
        if self.active > choice:
            raise ValueError(
                f'active={self.active} experts a token, but top_groups={self.top_groups} hold only {choice}'
            )
        if self.experts > 2**15:
            raise ValueError(f'experts={self.experts}: choices are recorded in 16 bits, at most {2**15}')


@dataclass
class ModelConfig:
    """A decoder with RMSNorm, RoPE, grouped-query or latent attention, and SwiGLU or experts."""

    vocab: int  # V
    layers: int  # L
    width: int  # D
    heads: int  # N, query heads
    kv_heads: int  # K, key/value heads; divides `heads`
    head_dim: int  # H
    hidden: int  # F, width of the SwiGLU
    context: int  # longest sequence, prompt and response together, tokens
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    tied: bool = True  # the unembedding is the embedding
    qkv_bias: bool = False  # Qwen2.5
    qk_norm: bool = False  # Qwen3: RMSNorm over each query and key head
    rope_scaling: Llama3Scaling | YarnScaling | None = None
    mla: MLA | None = None  # None: grouped-query attention
    moe: MoE | None = None  # None: every layer is dense
    remat: Literal['none', 'dots', 'full'] = 'none'  # the backward pass recomputes nothing, all but matmuls, all
    dtype: Literal['float32', 'bfloat16'] = 'float32'  # of matmul inputs; parameters and reductions stay float32
    # In packed rows: a kernel of the platform's that serves their sizes (r1jax.nn.flash says which do), or XLA's operations always
    attention: Literal['auto', 'xla'] = 'auto'

    def __post_init__(self):
        if self.heads % self.kv_heads:
            raise ValueError(f'heads={self.heads} must be a multiple of kv_heads={self.kv_heads}')
        if self.head_dim % 2:
            raise ValueError(f'head_dim={self.head_dim} must be even: RoPE rotates pairs')
        if self.mla and (self.mla.rotary % 2 or not 0 < self.mla.rotary < self.head_dim):
            raise ValueError(f'mla.rotary={self.mla.rotary} must be even and less than head_dim={self.head_dim}')
        if self.mla and (self.kv_heads != self.heads or self.qkv_bias or self.qk_norm):
            raise ValueError(
                'mla has a key and a value for each head (kv_heads=heads), and neither qkv_bias nor qk_norm'
            )
        if self.moe and not 0 <= self.moe.dense_layers < self.layers:
            raise ValueError(f'moe.dense_layers={self.moe.dense_layers} must leave some of layers={self.layers}')

    @property
    def replays(self) -> bool:
        """Whether rollouts record which experts each token passed, for updates to take them."""
        return self.moe is not None and self.moe.replay

    @property
    def expert_layers(self) -> int:
        """Layers with experts; the last ones."""
        return self.layers - self.moe.dense_layers if self.moe else 0


@dataclass
class SampleConfig:
    """How responses are drawn."""

    max_tokens: int  # longest response, end token included
    max_prompt: int  # longest prompt, tokens; prompts are padded to it
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    slots: int = 256  # rows decoded together; a multiple of the samples a question
    buckets: int = 5  # batch sizes that decoding shrinks through as rows finish, each compiled; 1: none but the first


@dataclass
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


@dataclass
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


@dataclass
class MeshConfig:
    """Devices along each axis. Rows are split over data × fsdp, weights over fsdp and tensor."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1


@dataclass
class RowConfig:
    """Packing and microbatching: time and memory, not mathematics.

    A row is `prompts` tokens for prompts, each read by all its responses in the row, and then blocks of `block` tokens, whose
    responses attend to their own block and to the prompts. So attention costs `length · (prompts + block)` a row and not `length²`.
    """

    length: int  # tokens of a packed row: prompts + a multiple of block
    per_microbatch: int = 8  # rows a microbatch; a multiple of data × fsdp
    prompts: int = 0  # at least the longest prompt; 0: a prompt stands in its responses' block
    # at least the longest response (with prompts=0: prompt + response); 0: what prompts leave of the row
    block: int = 0


class Batched(Protocol):
    """A reward that grades a batch at once: problems and responses -> f32[B], NaN where it cannot grade.

    What it raises ends the run, its state kept: it is no sample's fault.
    """

    def many(self, problems: Sequence[Problem], responses: Sequence[Response]) -> Any: ...


# Kinds of problem that have a right answer. On them a learned reward is refused unless asked for: at scale, policies find its holes.
REASONING = ('math', 'code', 'logic', 'choice', 'reasoning_gym')


@dataclass
class Part:
    """One reward: `fn(problem, response) -> float`, recorded under `name`, added with `weight`.

    `fn` is a function or an object that is called, or is `Batched`. Besides, it may have

    - `learned = True`: it is a model, and kept away from reasoning;
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


@dataclass
class GradingConfig:
    """The processes that grade the parts with a deadline: time and memory, not results."""

    workers: int = 0  # processes; 0: as many as cores
    memory_mb: int = 2048  # MiB that one may hold before it is killed


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


@dataclass
class Stored:
    """Batches from stored texts: pretraining, SFT, distillation, and reward models."""

    examples: Examples
    batch: int  # examples (or pairs) an optimizer step
    shuffle: bool = True  # each epoch anew
    epochs: int = 0  # passes over the examples, with Stage.steps=0: as many steps as they take


@dataclass
class OnPolicy:
    """Batches sampled from the policy and graded."""

    problems: Problems
    sample: SampleConfig
    rewards: tuple[Part, ...]
    questions: int  # Q, a rollout
    samples: int  # G, a question
    minibatches: int = 1  # optimizer steps an inner epoch: the rollout's samples are shuffled into so many
    inner_epochs: int = 1  # passes over a rollout
    max_refills: int = 0  # dynamic sampling: groups of equal rewards are dropped; at most so many draws refill them
    overlong: Literal['keep', 'mask', 'soft'] = 'keep'  # cut-off: as graded, without loss, or penalty (DAPO eq. 13)
    overlong_buffer: int = 0  # tokens before max_tokens over which the soft penalty grows from 0 to -1
    reference_every: int = 0  # steps after which the policy becomes the reference; 0: the reference stays the start


@dataclass
class Threshold:
    """A sample is correct if the part is at least `value` where it applies; see `Collect.correct`."""

    part: str  # name of a reward
    value: float = 1.0


@dataclass
class Filter:
    """A reason why a correct sample is not kept: `keep(problem, response) -> bool`; see `r1jax.curate.filters`."""

    name: str  # under which the data card counts what it removed
    keep: Callable[[Problem, Response], bool]
    kinds: tuple[str, ...] = ()  # of problem that it applies to; (): all
    rewritten: bool = False  # asked about what `Collect.rewrite` made of the sample, not about the sample


@dataclass
class NearDuplicates:
    """When two texts are so alike that one is enough; see `r1jax.curate.duplicates`."""

    threshold: float = 0.8  # Jaccard similarity of their sets of shingles
    words: int = 5  # a shingle
    permutations: int = 128  # numbers of a MinHash


@dataclass
class Decontaminate:
    """Prompts that share `words` words in a row with an evaluation's question are not sampled; see `r1jax.curate.contamination`."""

    words: int = 10  # R1 Methods
    against: tuple[Problems, ...] = ()  # (): the questions of every evaluation in the recipe


# What may become of a sample besides a filter's name, in the order of the questions that it is asked; see `r1jax.curate.choose`
FATES = ('ungraded', 'wrong', 'too_easy', 'too_hard', 'unfinished')  # filters follow, and …
FATES_OF_REWRITING = ('not_rewritten', 'ungraded_rewritten', 'wrong_rewritten')  # filters of what was rewritten, and …
LAST_FATES = ('exact_duplicate', 'near_duplicate', 'beyond_keep', 'kept')


@dataclass
class Collect:
    """Rejection sampling: a stage that trains nothing, but samples, grades, and keeps what is good (R1 report, section 2.3.3).

    WORKDIR/data then has STAGE.all.jsonl, every sample with its grades, STAGE.jsonl, what was kept of them, and the data card with all
    counts, STAGE.card.json and STAGE.card.md.
    """

    problems: Problems  # ids must differ: they seed the draws
    sample: SampleConfig
    rewards: tuple[Part, ...]
    samples: int  # n, a prompt
    questions: int  # prompts a call and a write: memory, not results
    # all that apply to the problem must hold, and one must apply
    correct: tuple[Threshold, ...] = (Threshold('accuracy'),)
    filters: tuple[Filter, ...] = ()  # in this order
    unfinished: bool = False  # whether samples that were cut off may be kept: a rewrite could end them
    # kept are prompts whose share of correct samples lies there, bounds included
    pass_rate: tuple[float, float] = (0.0, 1.0)
    keep: int = 0  # examples of a prompt at most; 0: all
    prefer: Literal['shuffled', 'shortest', 'longest'] = 'shuffled'  # which of them; ties by the sample's number
    # (problem, response) -> the text to be stored in the sample's place, or None to drop it; or an object with
    # `many(problems, responses) -> Sequence[str | None]`. The rewards grade its text again, which has to be correct too
    rewrite: Callable[[Problem, Response], str | None] | None = None
    # to sample with, such as few-shot; None: the one that is stored
    template: Callable[[Problem, Any], str] | None = None
    near_duplicates: NearDuplicates | None = NearDuplicates()  # None: only exact ones are removed
    decontaminate: Decontaminate | None = Decontaminate()


@dataclass
class NLL:
    """Next-token loss, the mean over the response tokens of an optimizer step."""


@dataclass
class BradleyTerry:
    """A reward model that learns from pairs, −log σ(r_chosen − r_rejected), the mean of an optimizer step (R1 Methods: helpfulness).

    The stage's model is that of the weights it starts from, with a value head in place of the unembedding (`r1jax.nn.heads`).
    """


@dataclass
class Pointwise:
    """A reward model that learns from labels, the cross-entropy of σ(r), the mean of an optimizer step (R1 Methods: safety)."""


@dataclass
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


# losses of stages that end with a reward model, which gives scores and says no words
REWARD_MODELS = (BradleyTerry, Pointwise)


@dataclass
class GRPO:
    """Group relative policy optimisation (DeepSeekMath eq. 3; R1 report eq. 1)."""

    clip_low: float = 0.2
    clip_high: float = 0.2
    beta: float = 0.001  # KL coefficient; 0: no reference pass
    kl: Literal['k1', 'k2', 'k3'] = 'k3'
    normalise: Literal['grpo', 'dr_grpo', 'token_mean'] = 'grpo'  # 1/(B·|o|), 1/(B·max_tokens), 1/Σ|o|
    scale_by_std: bool = True  # off: Dr. GRPO
    std_ddof: int = 1
    std_eps: float = 1e-6
    importance_cap: float = 0.0  # truncated importance weights min(old / sampler, cap) on each token; 0: off
    # Where a rollout serves several updates: with the sampler gap last measured at most this (nats, the largest of a token), π_old is
    # the sampler's, else a pass of its own computes it; 0: always a pass
    sampler_gap: float = 1e-3


@dataclass
class Phase:
    """Settings that hold from the first rollout at or after `step`. None: as before."""

    step: int
    max_tokens: int | None = None
    temperature: float | None = None
    learning_rate: float | None = None
    rewards: tuple[Part, ...] | None = None


@dataclass
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


@dataclass
class Agreement:
    """A measurement of a reward model before and after its stage: does it judge as those did who judged these pairs or labels?

    Accuracy with its interval, calibration, and accuracy by which answer is longer or by label (`r1jax.evals.agreement`).
    """

    name: str
    examples: Examples  # of Pair or Labelled, as the stage's, and none that it trains on
    bins: int = 10  # of the reliability table
    every: int = 0  # also during training, every so many steps; 0: only before and after


@dataclass
class Stage:
    name: str
    steps: int  # optimizer steps; 0: the source says how long it takes (Stored.epochs, Collect)
    source: Stored | OnPolicy | Collect
    # What follows is needed to train, and None where nothing is trained: with Collect
    loss: NLL | GRPO | BradleyTerry | Pointwise | Distil | None = None
    optim: OptimConfig | None = None
    rows: RowConfig | None = None
    # 'init' (random weights), the name of an earlier stage, a Hugging Face folder (written with a slash), PATH.gguf,
    # package:PACKAGE/FILE.gguf, or a preset of r1jax.presets (its shape, random weights)
    start: str = 'init'
    # None: that of the stage it starts from, else the recipe's. Context, remat and dtype may differ from those of the weights
    model: ModelConfig | None = None
    template: Callable[[Problem, Any], str] | None = None  # None: the recipe's
    lora: LoRA | None = None  # None: all weights are trained. A later stage starts from the adapters merged into them
    phases: tuple[Phase, ...] = ()
    evals: tuple[Eval | Agreement, ...] = ()  # Agreement for reward models, Eval for all others
    checkpoint_every: int = 50  # steps
    keep_checkpoints: int = 2
    max_skips: int = 5  # non-finite steps in a row after which the run stops, state kept
    log_samples: int = 4  # questions of each rollout whose samples are written to samples.jsonl


@dataclass
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
