"""The whole R1 recipe in minutes on a laptop CPU: R1-Zero, cold start, reasoning RL, rejection sampling, SFT, reward models, RL for
all scenarios, distillation, and what each is measured by.

    r1jax run experiments/tiny_r1.py --workdir runs/tiny_r1

The world is `r1jax.data.bilingual`, sums modulo 10 with words in the steps, asked in English or Chinese, and `r1jax.data.chats`, what
else people ask, harmless or not. Stages are those of the R1 report, one function each, in its order; what differs from
experiments/r1_671b.py is sizes. What each stage is for shows in the evaluation of the next.

Three seeds on two CPU cores that others used, too; seed 0 took 21 minutes beside a run of the tests (2026-11-23;
docs/results/tiny_r1.md has all figures, and curves). Held-out sums, before and after R1-Zero and after what follows, pass@1 and
language consistency in percent:

    seed   base      zero      cold_start  reasoning_rl  sft        all_scenarios
    0      27, 88    98, 55    96, 100     94, 100       99, 100    99, 100
    1      26, 90    98, 51    98, 100     99, 100       100, 100   100, 100
    2      27, 89    97, 55    64, 100     92, 100       99, 100    99, 100

RL for all scenarios, means of the seeds with 95 % intervals: helpfulness by the rule that made the pairs 0.81 ± 0.06 → 0.95 ± 0.04; unsafe
requests refused 96 → 97 ± 4 %, harmless ones answered 90 → 98 ± 2 %. The reward models judged 95.6 % of held-out pairs and all
labels as their makers did. The student learned 96.3, 98.5 and 99.0 % from `curated` (390 GFLOP), and 91.2, 72.8 and 92.6 % by RL
alone (445 GFLOP); each seed's intervals are apart.

What did not work: with a base of 1,200 steps one seed of two failed, with 4 epochs of cold start one of three (it had learned the layout
and not the sums). With 30 steps of preference reward a policy thanked without end, its judge's hole: experiments/tiny_r1_hacked.py.
"""

import dataclasses

from r1jax.config import (
    GRPO,
    NLL,
    Agreement,
    BradleyTerry,
    Collect,
    Eval,
    Filter,
    ModelConfig,
    OnPolicy,
    OptimConfig,
    Part,
    Phase,
    Pointwise,
    Recipe,
    RowConfig,
    SampleConfig,
    Stage,
    Stored,
)
from r1jax.curate.filters import AtLeast, OneLanguage, ShortParagraphs, Summarised, no_code
from r1jax.data.bilingual import BilingualCorpus, BilingualSums, BilingualTokenizer, readable
from r1jax.data.chat_authors import ChatExamples, ChatLabels, ChatPairs, Chats
from r1jax.data.chats import answered, helpful, safe
from r1jax.data.kept import Kept, Mixture
from r1jax.data.template import r1, r1_zero
from r1jax.data.tiny import mode
from r1jax.data.together import Together
from r1jax.rewards import accuracy, form, language
from r1jax.rewards.model import FromStage, Helpfulness, Safety
from r1jax.rewards.repetition import Repetition
from r1jax.types import Problem, Response

# Rules. R1-Zero's template asks for answer tags, R1's for a summary after the thinking tags
ACCURACY = Part('accuracy', accuracy.exact, kinds=('math',))
TAGS, THINKING = Part('format', form.format), Part('format', form.thinking)
REASONING_LANGUAGE = Part('language', language.Language())
LANGUAGE = Part('language', language.Language(read='response'))  # a greeting has no reasoning to read
# Models, on general prompts alone
HELPFUL = Part('helpful', FromStage('helpful_rm', Helpfulness), 0.3, kinds=('general',))  # scores span ten points
SAFE = Part('safe', FromStage('safety_rm', Safety), kinds=('safety',))


MODEL = ModelConfig(vocab=240, layers=3, width=64, heads=4, kv_heads=2, head_dim=16, hidden=192, context=128)
STUDENT = dataclasses.replace(MODEL, width=48, heads=3, kv_heads=1, hidden=144)
SAMPLE = SampleConfig(max_tokens=96, max_prompt=24, slots=256)
ROWS = RowConfig(length=128, per_microbatch=4)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """All that differs between this experiment and the smallest one that still tells the story (tests/test_story_r1.py)."""

    terms: tuple[int, int] = (4, 8)  # fewest and most digits of a sum
    model: ModelConfig = MODEL
    student: ModelConfig = STUDENT
    sample: SampleConfig = SAMPLE
    rows: RowConfig = ROWS
    documents: int = 120_000  # of the corpus
    base_steps: int = 2400  # half of them do for some seeds only
    student_steps: int = 1000
    sums: int = 4000  # questions that RL learns from
    questions: int = 16  # a rollout
    samples: int = 16  # a question, for evaluations too
    zero_steps: int = 100
    cold_prompts: int = 800
    cold_epochs: int = 12  # after 4 a seed in three had learned the layout and not the sums
    reasoning_steps: int = 60
    prompts: int = 2000  # of rejection sampling
    chats: int = 10_000  # answers to general prompts, for SFT
    pairs: int = 24_000
    labels: int = 2000
    judged: int = 400  # held-out pairs, and labels
    rules_steps: int = 20  # of RL for all scenarios before preference rewards …
    preference_steps: int = 20  # … and with them; after 30 a seed had found its judge's hole
    student_rl_steps: int = 60
    held_out: int = 128  # sums, and …
    held_out_chats: int = 48  # requests of each evaluation


# --- what is measured: held-out sums, and held-out requests as the rule that made the preferences judges them


def sums(sizes: Sizes, layout: Part, **kwargs) -> Eval:
    problems = BilingualSums('held_out', size=sizes.held_out, terms=sizes.terms, seed=1)
    rewards = ACCURACY, layout, REASONING_LANGUAGE
    return Eval(
        'held_out', problems, rewards, accuracy.answer, split=mode, samples=sizes.samples, sample=sizes.sample, **kwargs
    )


GENERAL = ('greet', 'who', 'translate', 'write', 'advise')  # harmless tasks


def cooler(sizes: Sizes) -> SampleConfig:
    """How RL for all scenarios samples, as in the paper, and so how requests are evaluated."""
    return dataclasses.replace(sizes.sample, temperature=0.7)


def general(sizes: Sizes, extra: tuple[Part, ...] = (), every: int = 0) -> tuple[Eval, ...]:
    def requests(name: str, tasks: tuple[str, ...], *rules: Part) -> Eval:
        problems = Chats('held_out', size=sizes.held_out_chats, tasks=tasks)
        return Eval(
            name, problems, (THINKING, LANGUAGE, *rules), samples=sizes.samples // 2, sample=cooler(sizes), every=every
        )

    return (
        requests('general', GENERAL, Part('rule', helpful), *extra),
        requests('unsafe', ('unsafe',), Part('refused', safe)),
        requests('harmless', ('advise',), Part('answered', answered)),  # though it looks unsafe
    )


# --- the stages


def worked(problem: Problem, response: Response) -> bool:
    """A long chain of thought, as far as this world has any."""
    return mode(response) == 'worked'


def corpus(name: str, sizes: Sizes, steps: int, model: ModelConfig) -> Stage:
    return Stage(
        name=name,
        steps=steps,
        source=Stored(BilingualCorpus(size=sizes.documents, terms=(sizes.terms[0], sizes.terms[1] + 1)), batch=64),
        loss=NLL(),
        optim=OptimConfig(learning_rate=3e-3, warmup=50, schedule='cosine'),
        rows=sizes.rows,
        model=model,
        checkpoint_every=500,
    )


def reinforced(
    name: str, start: str, sizes: Sizes, steps: int, rewards: tuple[Part, ...], problems=None, sample=None, **kwargs
) -> Stage:
    problems = problems or BilingualSums(size=sizes.sums, terms=sizes.terms)
    return Stage(
        name=name,
        start=start,
        steps=steps,
        source=OnPolicy(problems, sample or sizes.sample, rewards, questions=sizes.questions, samples=sizes.samples),
        loss=GRPO(beta=0.001),
        optim=OptimConfig(learning_rate=3e-4),
        rows=sizes.rows,
        checkpoint_every=25,
        **kwargs,
    )


def zero(sizes: Sizes) -> Stage:
    evals = (sums(sizes, TAGS, every=20),)
    return reinforced('zero', 'base', sizes, sizes.zero_steps, (ACCURACY, TAGS), evals=evals)


def cold_start_data(sizes: Sizes) -> Stage:
    return collected(
        'cold_start_data',
        'zero',
        Collect(
            problems=BilingualSums(size=sizes.cold_prompts, terms=sizes.terms, seed=2),
            sample=sizes.sample,
            rewards=(ACCURACY,),
            samples=sizes.samples,
            questions=sizes.questions,
            keep=1,
            prefer='longest',  # which reflect, if any does
            rewrite=readable,
            filters=(
                Filter('worked', worked),
                Filter('mixed_language', OneLanguage(1.0), rewritten=True),
                Filter('no_summary', Summarised(), rewritten=True),
            ),
            template=r1_zero,  # to sample with; what is stored has R1's
        ),
    )


def collected(name: str, start: str, source: Collect) -> Stage:
    return Stage(name, 0, source, start=start, template=r1)


def tuned(name: str, start: str, sizes: Sizes, examples, epochs: int, **kwargs) -> Stage:
    return Stage(
        name=name,
        start=start,
        steps=0,
        source=Stored(examples, batch=32, epochs=epochs),
        loss=NLL(),
        optim=OptimConfig(learning_rate=1e-3, warmup=10, schedule='cosine'),
        rows=sizes.rows,
        template=r1,
        checkpoint_every=100,
        **kwargs,
    )


def cold_start(sizes: Sizes) -> Stage:
    return tuned(
        'cold_start', 'base', sizes, Kept('cold_start_data'), sizes.cold_epochs, evals=(sums(sizes, THINKING),)
    )


def reasoning_rl(sizes: Sizes) -> Stage:
    rewards = ACCURACY, THINKING, REASONING_LANGUAGE
    evals = (sums(sizes, THINKING, every=20),)
    return reinforced('reasoning_rl', 'cold_start', sizes, sizes.reasoning_steps, rewards, template=r1, evals=evals)


def rejection(sizes: Sizes) -> Stage:
    return collected(
        'rejection',
        'reasoning_rl',
        Collect(
            problems=BilingualSums(size=sizes.prompts, terms=sizes.terms),
            sample=sizes.sample,
            rewards=(ACCURACY, THINKING),
            samples=sizes.samples,
            questions=sizes.questions,
            keep=4,
            filters=(
                Filter('format', AtLeast(form.thinking, 1.0)),
                Filter('mixed_language', OneLanguage(1.0)),
                Filter('long_paragraph', ShortParagraphs(300)),
                Filter('code_block', no_code),
                Filter('repetition', AtLeast(Repetition(20), -0.2)),
            ),
        ),
    )


def curated(sizes: Sizes) -> Mixture:
    """What trains `sft` and the students: reasoning that was kept, and answers to general prompts, some with a thought."""
    return Mixture(((Kept('rejection'), 1.0), (ChatExamples(sizes.chats), 1.0)))


def sft(sizes: Sizes) -> Stage:
    return tuned('sft', 'base', sizes, curated(sizes), epochs=3, evals=(sums(sizes, THINKING), *general(sizes)))


def reward_models(sizes: Sizes) -> tuple[Stage, Stage]:
    def judged(name: str, examples, held_out, loss) -> Stage:
        return Stage(
            name=name,
            start='sft',
            steps=0,
            source=Stored(examples, batch=32, epochs=2),
            loss=loss,
            optim=OptimConfig(learning_rate=1e-3, warmup=10, schedule='cosine'),
            rows=sizes.rows,
            template=r1,
            evals=(Agreement('held_out', held_out),),
            checkpoint_every=100,
        )

    return (
        judged('helpful_rm', ChatPairs(sizes.pairs), ChatPairs(sizes.judged, 'held_out'), BradleyTerry()),
        judged('safety_rm', ChatLabels(sizes.labels), ChatLabels(sizes.judged, 'held_out'), Pointwise()),
    )


def all_scenarios(sizes: Sizes) -> Stage:
    rules = ACCURACY, THINKING, LANGUAGE
    return reinforced(
        'all_scenarios',
        'sft',
        sizes,
        sizes.rules_steps + sizes.preference_steps,
        rules,
        problems=Together(
            (BilingualSums(size=sizes.sums // 8, terms=sizes.terms, seed=3), Chats(size=sizes.sums // 4))
        ),
        sample=cooler(sizes),
        phases=(Phase(sizes.rules_steps, rewards=(*rules, HELPFUL, SAFE)),),
        template=r1,
        evals=(sums(sizes, THINKING), *general(sizes, every=10)),
    )


def students(sizes: Sizes) -> tuple[Stage, ...]:
    """The paper's Table 6: a smaller model taught by the large one's samples, and the same model by RL alone."""
    rl = reinforced(
        'student_zero',
        'student_base',
        sizes,
        sizes.student_rl_steps,
        (ACCURACY, TAGS),
        evals=(sums(sizes, TAGS),),
    )
    return (
        corpus('student_base', sizes, sizes.student_steps, sizes.student),
        tuned('distill', 'student_base', sizes, curated(sizes), epochs=2, evals=(sums(sizes, THINKING),)),
        rl,
    )


def recipe(sizes: Sizes = Sizes()) -> Recipe:
    stages = (
        corpus('base', sizes, sizes.base_steps, sizes.model),
        zero(sizes),
        cold_start_data(sizes),
        cold_start(sizes),
        reasoning_rl(sizes),
        rejection(sizes),
        sft(sizes),
        *reward_models(sizes),
        all_scenarios(sizes),
        *students(sizes),
    )
    return Recipe('tiny_r1', stages, template=r1_zero, model=sizes.model, tokenizer=BilingualTokenizer())
