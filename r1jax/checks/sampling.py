"""What samples and grades: rollouts, collecting stages and evaluations."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from r1jax import config
from r1jax.checks.models import rows_over
from r1jax.checks.rows import Row, naming, under
from r1jax.config import GRPO, Collect, Eval, MeshConfig, ModelConfig, OnPolicy, Part, SampleConfig, Stage
from r1jax.settings import nearest


def on_policy(stage: Stage, model: ModelConfig | None, mesh: MeshConfig) -> Iterator[Row]:
    source = stage.source
    assert isinstance(source, OnPolicy)
    sample = source.sample
    Q, G, minibatches, buffer = source.questions, source.samples, source.minibatches, source.overlong_buffer
    limits = [sample.max_tokens, *(phase.max_tokens for phase in stage.phases if phase.max_tokens)]
    longest = dataclasses.replace(sample, max_tokens=max(limits))
    yield sample.temperature > 0, 'source.sample.temperature=0: greedy sampling has no log-probabilities to learn from'
    yield Q * G % minibatches == 0, f'source: questions×samples = {Q}×{G} must be a multiple of {minibatches=}'
    yield from sampling('source.sample', longest, G, source.split.mesh if source.split else mesh, model)
    rows, total = stage.rows, longest.max_prompt + longest.max_tokens
    if rows.prompts:
        yield (
            rows.prompts >= longest.max_prompt,
            f'rows.prompts={rows.prompts} must hold max_prompt={longest.max_prompt}',
        )
        room = rows.block or rows.length - rows.prompts
        yield room >= longest.max_tokens, f'rows.block={room} must hold max_tokens={longest.max_tokens}'
    else:
        name, room = ('block', rows.block) if rows.block else ('length', rows.length)
        yield room >= total, f'rows.{name}={room} must hold max_prompt + max_tokens = {_sum(longest)}'
    if source.overlong == 'soft':
        yield 1 <= buffer <= min(limits), f'source.overlong_buffer={buffer} must be in [1, max_tokens={min(limits)}]'
    else:
        yield buffer == 0, f"source.overlong_buffer={buffer} has no effect without overlong='soft'"
    if source.budget:
        yield from _carrying(stage, source, max(limits))
    yield from _compared(stage.loss, source) if isinstance(stage.loss, GRPO) else _taught(source)
    if source.rewards or isinstance(stage.loss, GRPO):
        yield from rewards('source.rewards', source.rewards)


def _carrying(stage: Stage, source: OnPolicy, longest: int) -> Iterator[Row]:
    """Partial rollouts: what is carried is of older policies, and of one distribution."""
    at = f'source.budget={source.budget}'
    yield source.budget < longest, f'{at} has no effect: no sample is longer than max_tokens={longest}'
    few = source.minibatches <= source.samples
    yield (
        few,
        f'{at}: minibatches={source.minibatches} must be at most samples={source.samples}, which may be all that is over',
    )
    if isinstance(stage.loss, GRPO):
        corrected = stage.loss.importance_cap > 0
        yield (
            corrected,
            f'loss.importance_cap=0 leaves what older policies drew uncorrected: with {at} give a cap, such as 2',
        )
    for i, phase in enumerate(stage.phases):
        same = phase.temperature in (None, source.sample.temperature)
        yield same, f'phases.{i}.temperature={phase.temperature} changes in the middle of samples that {at} carries'


def _compared(loss: GRPO, source: OnPolicy) -> Iterator[Row]:
    G = source.samples
    yield G >= 2, f'source.samples={G} must be at least 2: GRPO compares the samples of a question'
    yield G > loss.std_ddof, f'loss.std_ddof={loss.std_ddof} must be below source.samples={G}'
    yield loss.beta > 0 or not source.reference_every, 'source.reference_every has no effect with loss.beta=0'
    weights = source.sample.weights
    yield (
        weights == 'same' or loss.importance_cap > 0,
        f'source.sample.{weights=} draws from another policy than the one that is trained: correct for it by '
        'loss.importance_cap=2.0 (any cap above 1), or leave weights at its default',
    )


def _taught(source: OnPolicy) -> Iterator[Row]:
    """A teacher needs no rewards: they are logged, and decide nothing."""
    for field in ('max_refills', 'reference_every'):
        value = getattr(source, field)
        yield not value, f'source.{field}={value} has no effect with loss=Distil, which has no rewards and no reference'
    yield source.overlong != 'soft', "source.overlong='soft' has no effect with loss=Distil: it changes rewards"


def collect(stage: Stage, model: ModelConfig | None, mesh: MeshConfig) -> Iterator[Row]:
    source = stage.source
    assert isinstance(source, Collect)
    sample, n = source.sample, source.samples
    for field, nothing in (
        ('steps', 0),
        ('loss', None),
        ('optim', None),
        ('rows', None),
        ('lora', None),
        ('offload', ()),
        ('phases', ()),
        ('evals', ()),
    ):
        unused = getattr(stage, field) == nothing
        yield unused, f'{field} has no effect: a stage that collects trains nothing; leave it {nothing!r}'
    yield sample.temperature > 0 or n == 1, f'source.sample.temperature=0: greedy sampling draws {n} times the same'
    yield from sampling('source.sample', sample, n, mesh, model)
    yield from rewards('source.rewards', source.rewards)
    names, decide = [part.name for part in source.rewards], [each.part for each in source.correct]
    yield bool(decide), 'source.correct is empty: nothing says what is kept'
    for i, name in enumerate(decide):
        yield name in names, f'source.correct.{i}.part={name!r} is none of the rewards{nearest(name, names)}'
        yield name not in decide[:i], f'source.correct has {name!r} twice'
    fates = ('sampled', *config.FATES, *config.FATES_OF_REWRITING, *config.LAST_FATES)
    yield from naming('source.filters', [each.name for each in source.filters], reserved=fates)
    rewrites = source.rewrite is not None
    for each in source.filters:
        where = f'source.filters.{each.name}.rewritten=True'
        yield rewrites or not each.rewritten, f'{where} has no effect without source.rewrite'
    rates = source.pass_rate
    ordered = len(rates) == 2 and 0 <= rates[0] <= rates[1] <= 1
    yield ordered, f'source.pass_rate={rates} must be (lowest, highest), both in [0, 1]'


def evaluation(
    cfg: Eval, sample: SampleConfig | None, before: Sequence[str], model: ModelConfig | None, mesh: MeshConfig
) -> Iterator[Row]:
    yield sample is not None, 'sample must be given: the stage itself does not sample'
    yield from sampling('sample', sample, cfg.samples, mesh, model)
    yield from rewards('rewards', cfg.rewards)
    rated = 'accuracy' in [part.name for part in cfg.rewards]
    yield rated or cfg.answer is None, 'rewards must have a part accuracy, which decides pass@1, or answer must be None'
    yield rated or cfg.split is None, 'split has no effect: rewards have no part accuracy'
    yield (
        cfg.answer is not None or not rated,
        'answer must be given: the majority vote needs what each response answers',
    )
    hint = nearest(cfg.cap_at, before)
    yield cfg.cap_at in ('', *before), f'cap_at={cfg.cap_at!r} must name an evaluation listed before it{hint}'


def sampling(at: str, cfg: SampleConfig, samples: int, mesh: MeshConfig, model: ModelConfig | None) -> Iterator[Row]:
    mesh = cfg.mesh or mesh
    shards = mesh.ways('batch')
    unit = f'samples × mesh {rows_over(mesh)} = {samples}×{shards}'
    yield cfg.slots % (samples * shards) == 0, f'{at}.slots={cfg.slots} must be a multiple of {unit}'
    if cfg.pool:
        least = -(-(cfg.max_prompt + cfg.max_tokens) // cfg.page) * cfg.page * shards
        where = f' on each of mesh {rows_over(mesh)} = {shards} devices' if shards > 1 else ''
        must = (
            f'must be at least {least}: pages of {cfg.page} for a row of max_prompt + max_tokens = {_sum(cfg)}{where}'
        )
        yield cfg.pool >= least, f'{at}.pool={cfg.pool} {must}'
    else:
        yield cfg.page == SampleConfig.page, f'{at}.page={cfg.page} has no effect with pool=0: slots have no pages'
    if model:
        fits = cfg.max_prompt + cfg.max_tokens <= model.context
        yield fits, f'{at}: max_prompt + max_tokens = {_sum(cfg)} exceeds model.context={model.context}'


def _sum(cfg: SampleConfig) -> str:
    return f'{cfg.max_prompt} + {cfg.max_tokens} = {cfg.max_prompt + cfg.max_tokens}'


def rewards(at: str, parts: Sequence[Part]) -> Iterator[Row]:
    yield bool(parts), f'{at} is empty'
    yield from naming(at, [part.name for part in parts], reserved=('mean',))  # the metric reward/mean is their sum's
    rules = [part for part in parts if part.name == 'accuracy' and not learned(part)]
    reasoning = {*config.REASONING, *(kind for part in rules for kind in part.kinds)}
    everywhere = any(not part.kinds for part in rules)
    for part in parts:
        yield from under(f'{at}.{part.name}', _part(part, reasoning, everywhere))


def _part(part: Part, reasoning: Collection[str], everywhere: bool) -> Iterator[Row]:
    """`reasoning` are the kinds that learned rewards stay away from; `everywhere`: a rule's accuracy applies to all kinds."""
    batched = part.deadline == 0 or not hasattr(part.fn, 'many')
    yield (
        batched,
        f'deadline={part.deadline} has no effect: {_name_of(part.fn)} is graded in batches, not by a worker process',
    )
    yield learned(part) or not part.on_reasoning, 'on_reasoning has no effect: the reward is not learned'
    if learned(part) and not part.on_reasoning:
        fix = 'name other kinds, or ask for it by on_reasoning=True'
        yield (
            bool(part.kinds),
            f'kinds=() has a learned reward grade reasoning as well, where policies find its holes: {fix}',
        )
        meets = next((kind for kind in part.kinds if kind in reasoning), None)
        yield (
            meets is None,
            f'kinds has {meets!r}, a kind of reasoning, where policies find the holes of a learned reward: {fix}',
        )
        yield (
            not everywhere,
            f'kinds meet the rule accuracy, which applies to all: give accuracy kinds, or {fix}',
        )


def learned(part: Part) -> bool:
    return bool(getattr(part.fn, 'learned', False))


def _name_of(fn: Any) -> str:
    return getattr(fn, '__name__', type(fn).__name__)
