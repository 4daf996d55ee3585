r"""DeepSeek-R1 at its size: all stages from DeepSeek-V3-Base to RL for all scenarios, with the numbers that were published.

    hf download deepseek-ai/DeepSeek-V3-Base --local-dir weights/DeepSeek-V3-Base
    hf download agentica-org/DeepScaleR-Preview-Dataset --repo-type dataset --local-dir data/deepscaler
    hf download BytedTsinghua-SIA/DAPO-Math-17k --repo-type dataset --local-dir data/dapo_math_17k
    hf download deepmind/code_contests --repo-type dataset --local-dir data/code_contests
    hf download TIGER-Lab/WebInstruct-verified --repo-type dataset --local-dir data/webinstruct_verified
    hf download HuggingFaceH4/ultrafeedback_binarized --repo-type dataset --local-dir data/ultrafeedback
    hf download PKU-Alignment/BeaverTails --repo-type dataset --local-dir data/beavertails
    unxz data/beavertails/round0/330k/train.jsonl.xz
    hf download HuggingFaceH4/aime_2024 --repo-type dataset --local-dir data/aime24
    hf download HuggingFaceH4/MATH-500 --repo-type dataset --local-dir data/math500
    hf download Idavidrein/gpqa --repo-type dataset --local-dir data/gpqa_diamond
    pip install -e '.[tpu,math,data,tasks]'        # or cuda
    r1jax run experiments/r1_671b.py

The stages are those of experiments/tiny_r1.py, in the same order; `pipeline` makes them of a `Sizes`, and experiments/r1_qwen_7b.py and
r1_qwen_1_5b.py are the same with others. Numbers have their source beside them: *report* is arXiv 2501.12948, *Methods* that of Nature
645 (2025), *secondary* a summary of its appendix, *ours* a choice where nothing was published. The data are none of DeepSeek's, which were
not published: named sets stand in their place (docs/data.md has their licences), mathematics, code, STEM, logic and general requests.

Distillation into the six students, which have other tokenizers, is experiments/distill_*.py; the pipelines of Qwen have a student
of the same family in them.

Hardware: 512 chips of 96 GB (TPU v5p) as expert 64 × sequence 2 × tensor 4. Of each, weights and Adam take 14.7 GiB, gradients and
reference 4.9 GiB each; the layers' inputs of its half of a row of 34,816 tokens 28 GiB; in sampling, weights in bfloat16 14.0 GiB and the
latent cache of 16 rows 37 GiB. R1-Zero's last phase has rows of 67,584 tokens, 55 and 71 GiB: larger chips (192 GB, TPU v7), or a `pool`.
The experts that 8,192 outputs passed, which updates replay, take up to 514 GB of the host's memory. DeepSeek used 512 H800 of 80 GB
(secondary), with the latents' cache split over chips as r1jax does not split it.
NOT YET RUN. Expected, from the report: R1-Zero's pass@1 on AIME 2024 from 15.6 % to 71.0 % (cons@16 to 86.7 %) with responses that grow to
ten thousand tokens; R1 79.8 % on AIME 2024, 97.3 % on MATH-500, 71.5 % on GPQA Diamond.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from zero_qwen_1_5b import model

from r1jax.config import (
    GRPO,
    NLL,
    REASONING,
    Agreement,
    BradleyTerry,
    Collect,
    Eval,
    Filter,
    MeshConfig,
    OnPolicy,
    OptimConfig,
    Part,
    Phase,
    Pointwise,
    Recipe,
    RowConfig,
    Rules,
    SampleConfig,
    Stage,
    Stored,
    Threshold,
)
from r1jax.curate.filters import AtLeast, OneLanguage, Reflects, Shorter, ShortParagraphs, Summarised, no_code
from r1jax.data.datasets import ReasoningGym
from r1jax.data.judgements import LengthBalanced, TableLabelled, TablePairs
from r1jax.data.kept import Kept, Mixture
from r1jax.data.sets import Named
from r1jax.data.shots import REFLECTING
from r1jax.data.stored import Made
from r1jax.data.table import Fields, Table, TableExamples
from r1jax.data.template import FewShot, dialogue, r1, r1_zero
from r1jax.data.together import Together
from r1jax.rewards import accuracy, code, form, language, mathematics
from r1jax.rewards.choice import choice
from r1jax.rewards.model import FromStage, Helpfulness, Safety
from r1jax.rewards.repetition import Repetition
from r1jax.types import Example, Problem, Response

# --- sizes


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What differs between a pipeline and a smaller one."""

    name: str
    base: str  # of r1jax.presets, and its folder under weights/
    mesh: MeshConfig
    student: str  # likewise, a smaller base with the same tokenizer; '': none
    student_rate: float  # learning rate

    max_prompt: int  # tokens
    max_tokens: int  # of a response
    later_tokens: int  # of R1-Zero's responses …
    later_from: int  # … from this step on; 0: never
    sft_tokens: int  # of an example, prompt included
    judged_tokens: int  # of a sequence that a reward model reads

    questions: int  # a rollout, by 16 samples
    minibatches: int  # of a rollout, an optimizer step each
    reference_every: int  # steps
    rl_rate: float  # learning rate
    zero_steps: int
    reasoning_steps: int
    all_steps: int
    general_steps: int  # the last of these, with general prompts and preference rewards
    every: int  # steps between evaluations in RL

    cold_examples: int  # at most
    rejection_keep: int  # examples of a prompt, at most
    rejection_examples: int  # at most
    sft_rate: float  # learning rate at its peak
    sft_batch: int
    sft_epochs: int
    judge_rate: float  # of reward models
    judge_batch: int  # pairs, or labelled responses
    student_batch: int
    student_epochs: int


PAPER = Sizes(
    name='r1_671b',
    base='DeepSeek-V3-Base',  # report §2: 671B parameters, 37B of them active
    # As many chips as DeepSeek's 64 × 8 H800 (secondary). The latents' side of q_b and kv_b is split too: 3.3 billion weights
    mesh=MeshConfig(expert=64, sequence=2, tensor=4, rules=Rules(latent=('fsdp', 'expert', 'sequence'))),  # ours
    student='',  # see the head of this file
    student_rate=0.0,
    max_prompt=2048,  # ours
    max_tokens=32_768,  # Methods
    later_tokens=65_536,  # Methods: R1-Zero's maximum from step 8,200 on
    later_from=8_200,
    sft_tokens=32_768,  # secondary
    judged_tokens=8_192,  # Methods
    questions=512,  # Methods: 8,192 outputs a rollout, which are 32 questions a step by 16 samples
    minibatches=16,  # Methods
    reference_every=400,  # Methods
    rl_rate=3e-6,  # Methods
    zero_steps=10_400,  # Methods: 1.6 epochs
    reasoning_steps=2_000,  # ours; the report: until it converges
    all_steps=1_700,  # Methods
    general_steps=400,  # Methods
    every=400,  # ours
    cold_examples=5_000,  # report: thousands
    rejection_keep=8,  # ours
    rejection_examples=600_000,  # report: about 600k of reasoning
    sft_rate=5e-5,  # secondary: cosine to 5e-6
    sft_batch=128,  # secondary
    sft_epochs=2,  # report; 2 to 3 (secondary)
    judge_rate=6e-6,  # Methods
    judge_batch=256,  # Methods
    student_batch=64,  # secondary
    student_epochs=2,  # secondary: 2 to 3
)

# --- data


def named(name: str) -> Named:
    return Named(name, f'data/{name}')


LOGIC = tuple(
    ReasoningGym(task, size=3_000) for task in ('knights_knaves', 'zebra_puzzles', 'syllogism', 'propositional_logic')
)
PROBLEMS = Together((*map(named, ('deepscaler', 'dapo_math_17k', 'code_contests', 'webinstruct_verified')), *LOGIC))
GENERAL = Table('data/ultrafeedback', Fields('prompt', '', kind='general'), split='train_prefs')
BEAVERTAILS = 'data/beavertails/round0/330k/train.jsonl'
UNSAFE = Table(BEAVERTAILS, Fields('prompt', '', kind='safety'), unique=True)


def preferences(side: str) -> TablePairs:
    """Methods: 66k pairs, those alone whose mean scores differ by more than 1. Here as many were judged by GPT-4 (UltraFeedback)."""
    scores = 'score_chosen', 'score_rejected'
    return TablePairs('data/ultrafeedback', scores=scores, gap=1.0, side=side, split='train_prefs')


def labels(side: str) -> TableLabelled:
    """Methods: 106k responses with a label, safe or not. Here 300k were labelled by people (BeaverTails)."""
    return TableLabelled(BEAVERTAILS, side=side, kind='safety')


@dataclasses.dataclass(frozen=True)
class Unreasoned:
    """Answers to general requests in R1's layout, without a chain of thought: simple ones need none (report §2.3.3)."""

    examples: TableExamples

    def load(self) -> Sequence[Example]:
        """Reads the examples when asked for."""
        return Made(self.examples.load(), asked)


def asked(example: Example) -> Example:
    return Example(r1(Problem(0, example.prompt, '')), f'<think>\n\n</think>\n\n{example.response}')


ANSWERS = Unreasoned(TableExamples('data/ultrafeedback', messages='chosen', split='train_sft'))

# --- rewards: rules on what has a right answer, models on general requests; summed (report §2.3.2, §2.3.4)

KINDS = (*REASONING, 'stem')
RULES = (
    Part('accuracy', mathematics.Math(), kinds=('math', 'stem'), deadline=5.0),
    Part('tests', code.Code(), kinds=('code',), deadline=120.0),
    Part('choice', choice, kinds=('choice',), deadline=5.0),
    Part('logic', accuracy.reasoning_gym, kinds=('reasoning_gym',), deadline=5.0),
)
CORRECT = tuple(Threshold(part.name) for part in RULES)
TAGS = Part('format', form.format)  # the same weight as accuracy (report §2.2.2)
WATCHED = Part('language', language.Language(), weight=0.0)  # R1-Zero is not rewarded for it
THINKING = Part('format', form.thinking)
LANGUAGE = Part('language', language.Language())
ALL_LANGUAGE = Part('language', language.Language(read='response'))  # a short answer has no reasoning to read
HELPFUL = Part('helpful', FromStage('helpful_rm', Helpfulness), kinds=('general',))
SAFE = Part('safe', FromStage('safety_rm', Safety), kinds=('safety',))

# --- what is measured: temperature 0.6, top-p 0.95, pass@1 the mean over samples (report §3)


def held_out(s: Sizes, layout: Part, spoken: Part, every: int = 0) -> tuple[Eval, ...]:
    drawn = dataclasses.replace(sample(s, s.max_tokens), temperature=0.6, top_p=0.95)

    def measured(name: str, rule: Any, **kwargs) -> Eval:
        rewards = Part('accuracy', rule, deadline=5.0), layout, dataclasses.replace(spoken, weight=1.0)
        return Eval(name, named(name), rewards, mathematics.final, 16, drawn, **kwargs)

    return (
        measured('aime24', mathematics.Math(), every=every),  # Fig. 2: 16 samples; cons@64 in the tables
        measured('math500', mathematics.Math()),
        measured('gpqa_diamond', choice),
    )


# --- stages


def shards(s: Sizes) -> int:
    return s.mesh.ways('batch')


def sample(s: Sizes, longest: int, temperature: float = 1.0) -> SampleConfig:
    """As few rows at a time as a mesh allows, 16 a shard: a row of 65,536 tokens takes memory."""
    return SampleConfig(longest, s.max_prompt, temperature, slots=16 * shards(s))


def reinforced(s: Sizes, name: str, start: str, steps: int, rewards: tuple[Part, ...], evals, **kwargs) -> Stage:
    phases, problems = kwargs.pop('phases', ()), kwargs.pop('problems', PROBLEMS)
    longest = max(s.max_tokens, *(phase.max_tokens or 0 for phase in phases), 0)
    return Stage(
        name=name,
        start=start,
        steps=steps,
        source=OnPolicy(
            problems=problems,
            sample=sample(s, s.max_tokens, kwargs.pop('temperature', 1.0)),  # Methods
            rewards=rewards,
            questions=s.questions,
            samples=16,  # Methods
            minibatches=s.minibatches,
            inner_epochs=1,  # Methods
            reference_every=s.reference_every,
        ),
        loss=GRPO(
            clip_low=10.0,  # Methods: ε 10, since a low one cuts off the gradients of many tokens
            clip_high=10.0,
            beta=0.001,  # Methods
            kl='k3',  # report eq. 2
            normalise='grpo',  # DeepSeekMath eq. 3
            scale_by_std=True,  # report eq. 3
        ),
        optim=OptimConfig(s.rl_rate),  # constant; AdamW's other numbers were not published
        rows=RowConfig(length=s.max_prompt + longest, per_microbatch=shards(s), prompts=s.max_prompt),
        phases=phases,
        evals=evals,
        checkpoint_every=s.minibatches,
        **kwargs,
    )


def tuned(s: Sizes, name: str, start: str, examples: Any, **kwargs) -> Stage:
    fixed = {'batch': s.sft_batch, 'epochs': s.sft_epochs, 'rate': s.sft_rate} | kwargs
    return Stage(
        name=name,
        start=start,
        steps=0,
        source=Stored(examples, batch=fixed.pop('batch'), epochs=fixed.pop('epochs')),
        loss=NLL(),
        optim=OptimConfig(fixed.pop('rate'), schedule='cosine', final=0.1),  # secondary
        rows=RowConfig(length=s.sft_tokens, per_microbatch=shards(s)),
        template=r1,
        checkpoint_every=200,
        **fixed,
    )


def zero(s: Sizes) -> Stage:
    later = (Phase(s.later_from, max_tokens=s.later_tokens),) if s.later_from else ()
    evals = held_out(s, TAGS, WATCHED, s.every)
    return reinforced(s, 'zero', base(s), s.zero_steps, (*RULES, TAGS, WATCHED), evals, phases=later)


def readable(problem: Problem, response: Response) -> str:
    r"""R1-Zero's layout as R1's, closed by a summary. The paper's authors had DeepSeek-V3 and people rewrite what stood between as well.

    `<think> … </think> <answer> 7 </answer>` → `<think> … </think>\n\nThe final answer is \boxed{7}.`; a program stays as it is.
    """
    thought, _, rest = response.text.partition('</think>')
    said = accuracy.answer(rest) or rest.strip()
    told = (
        f'The program below solves the problem.\n\n{said}'
        if problem.kind == 'code'
        else f'The final answer is \\boxed{{{said}}}.'
    )
    return f'{thought.strip()}</think>\n\n{told}'


def cold_start_data(s: Sizes) -> tuple[Stage, Stage]:
    """Report §2.3.1: long chains that read well, of one language, that reflect and end in a summary; of R1-Zero, and of the base model
    after worked examples.
    """
    own = written(s, 'cold_start_data', 'zero', r1_zero)
    return own, written(s, 'cold_start_shots', base(s), FewShot(dialogue, REFLECTING))


def written(s: Sizes, name: str, start: str, template) -> Stage:
    source = Collect(
        problems=PROBLEMS,
        sample=sample(s, s.max_tokens),
        rewards=RULES,
        samples=16,
        questions=shards(s),
        correct=CORRECT,
        keep=1,
        prefer='longest',
        template=template,  # to sample with; what is stored has R1's
        rewrite=readable,
        filters=(
            Filter('no_reflection', Reflects(1)),
            Filter('mixed_language', OneLanguage(0.95)),
            Filter('long_paragraph', ShortParagraphs(300)),
            Filter('repetition', AtLeast(Repetition(20), -0.2)),
            Filter('no_summary', Summarised(), rewritten=True),
            Filter('overlong', Shorter(s.sft_tokens - s.max_prompt), rewritten=True),
        ),
    )
    return Stage(name, 0, source, start=start, template=r1)


def cold_start(s: Sizes) -> Stage:
    """Settings are those of `sft`: none were published of this stage alone."""
    kept = Mixture(tuple((Kept(stage.name, limit=s.cold_examples // 2), 1.0) for stage in cold_start_data(s)))
    return tuned(s, 'cold_start', base(s), kept, evals=held_out(s, THINKING, LANGUAGE))


def reasoning_rl(s: Sizes) -> Stage:
    evals = held_out(s, THINKING, LANGUAGE, s.every)
    rewards = *RULES, THINKING, LANGUAGE  # report §2.3.2: accuracy and language consistency summed
    return reinforced(s, 'reasoning_rl', 'cold_start', s.reasoning_steps, rewards, evals, template=r1)


def rejection(s: Sizes) -> Stage:
    """Report §2.3.3: several samples a prompt; the correct ones stay, without mixed languages, long paragraphs and code blocks."""
    source = Collect(
        problems=PROBLEMS,
        sample=sample(s, s.max_tokens),
        rewards=RULES,
        samples=16,  # ours; the report: multiple
        questions=shards(s),
        correct=CORRECT,
        keep=s.rejection_keep,
        filters=(
            Filter('layout', AtLeast(form.thinking, 1.0)),
            Filter('mixed_language', OneLanguage(0.95)),
            Filter('long_paragraph', ShortParagraphs(300)),
            Filter('code_block', no_code),
            Filter('repetition', AtLeast(Repetition(20), -0.2)),
            Filter('overlong', Shorter(s.sft_tokens - s.max_prompt)),
        ),
    )
    return Stage('rejection', 0, source, start='reasoning_rl', template=r1)


def curated(s: Sizes) -> Mixture:
    """What `sft` and the students learn from. Secondary: 804,745 examples, of which mathematics 395,285, code 211,129, STEM 10,124, logic
    10,395 and general 177,812; here 61k general ones, three times each.
    """
    return Mixture(((Kept('rejection', limit=s.rejection_examples), 1.0), (ANSWERS, 3.0)))


def sft(s: Sizes) -> Stage:
    return tuned(s, 'sft', base(s), curated(s), evals=held_out(s, THINKING, ALL_LANGUAGE))


def judges(s: Sizes) -> tuple[Stage, Stage]:
    """Methods: helpfulness from pairs, balanced in length; safety from labels. One epoch."""

    def judge(name: str, examples: Any, unseen: Any, loss: Any) -> Stage:
        return Stage(
            name=name,
            start='sft',
            steps=0,
            source=Stored(examples, batch=s.judge_batch, epochs=1),
            loss=loss,
            optim=OptimConfig(s.judge_rate),
            rows=RowConfig(length=2 * s.judged_tokens, per_microbatch=shards(s)),  # a pair lies in one row
            template=r1,
            evals=(Agreement('held_out', unseen),),
            checkpoint_every=50,
        )

    return (
        judge('helpful_rm', LengthBalanced(preferences('train')), preferences('held_out'), BradleyTerry()),
        judge('safety_rm', labels('train'), labels('held_out'), Pointwise()),
    )


def all_scenarios(s: Sizes) -> Stage:
    """Methods: general prompts and preference rewards come in the last steps alone, since longer they are hacked."""
    before = *RULES, *(dataclasses.replace(part, kinds=KINDS) for part in (THINKING, ALL_LANGUAGE))
    after = *RULES, THINKING, ALL_LANGUAGE, HELPFUL, SAFE
    return reinforced(
        s,
        'all_scenarios',
        'sft',
        s.all_steps,
        before,
        held_out(s, THINKING, ALL_LANGUAGE, s.every),
        problems=Together((PROBLEMS, GENERAL, UNSAFE)),
        temperature=0.7,  # Methods: a higher one mixes languages
        phases=(Phase(s.all_steps - s.general_steps, rewards=after),),
        template=r1,
    )


def distill(s: Sizes) -> Stage:
    """Report §2.4: a smaller base learns from the same examples, without RL."""
    student = {'batch': s.student_batch, 'epochs': s.student_epochs, 'rate': s.student_rate}
    evals = held_out(s, THINKING, ALL_LANGUAGE)
    return tuned(s, 'distill', weights(s.student), curated(s), model=model(s.student), evals=evals, **student)


def weights(name: str) -> str:
    return f'weights/{name}/'


def base(s: Sizes) -> str:
    return weights(s.base)


def pipeline(s: Sizes) -> Recipe:
    """All stages, of these sizes."""
    first = (zero(s), *cold_start_data(s), cold_start(s), reasoning_rl(s), rejection(s), sft(s))
    last = (*judges(s), all_scenarios(s), *((distill(s),) if s.student else ()))
    return Recipe(s.name, first + last, r1_zero, model(s.base), mesh=s.mesh)


def recipe() -> Recipe:
    return pipeline(PAPER)
