"""Whether a recipe can run: all that can be said without data or weights, before anything compiles.

A check is a row, `(holds, sentence)`, and `validate` raises the sentence of the first that does not hold. The tables,
in order: each field against its annotation and its range; then what a recipe, its model, each stage and each evaluation
ask of several fields together. A row may rely on those before it, as divisions rely on sizes being positive.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

from r1jax import config
from r1jax.config import (
    GRPO,
    NLL,
    REWARD_MODELS,
    Agreement,
    Collect,
    Distil,
    Eval,
    ModelConfig,
    OnPolicy,
    Part,
    Recipe,
    SampleConfig,
    Stage,
    Stored,
)
from r1jax.presets import PRESETS
from r1jax.settings import BadInput, join, label, nearest

Row = tuple[bool, str]

_ONE_UP, _ZERO_UP, _POSITIVE = '[1, inf)', '[0, inf)', '(0, inf)'
_RANGES: dict[type, dict[str, str]] = {  # intervals, in the notation of the messages
    ModelConfig: {
        **dict.fromkeys(('vocab', 'layers', 'width', 'heads', 'kv_heads', 'head_dim', 'hidden', 'context'), _ONE_UP),
        **dict.fromkeys(('rope_theta', 'norm_eps'), _POSITIVE),
    },
    config.YarnScaling: {
        'original': _ONE_UP,
        **dict.fromkeys(('factor', 'fast', 'slow', 'mscale'), _POSITIVE),
        'mscale_all_dim': _ZERO_UP,
    },
    config.MLA: {**dict.fromkeys(('kv_rank', 'rotary', 'value'), _ONE_UP), 'q_rank': _ZERO_UP},
    config.MoE: {
        **dict.fromkeys(('experts', 'active', 'hidden', 'groups', 'top_groups'), _ONE_UP),
        **dict.fromkeys(('shared', 'dense_layers', 'bias_speed'), _ZERO_UP),
        'scale': _POSITIVE,
    },
    config.Llama3Scaling: {'original': _ONE_UP, **dict.fromkeys(('factor', 'low', 'high'), _POSITIVE)},
    SampleConfig: {
        **dict.fromkeys(('max_tokens', 'max_prompt', 'slots', 'buckets'), _ONE_UP),
        **dict.fromkeys(('temperature', 'top_k'), _ZERO_UP),
        'top_p': '(0, 1]',
    },
    config.OptimConfig: {
        **dict.fromkeys(('learning_rate', 'warmup', 'weight_decay', 'clip_norm'), _ZERO_UP),
        'final': '[0, 1]',
        'b1': '[0, 1)',
        'b2': '[0, 1)',
        'eps': _POSITIVE,
    },
    config.LoRA: {'rank': _ONE_UP, 'alpha': _POSITIVE},
    config.MeshConfig: dict.fromkeys(('data', 'fsdp', 'tensor'), _ONE_UP),
    config.RowConfig: {
        **dict.fromkeys(('length', 'per_microbatch'), _ONE_UP),
        **dict.fromkeys(('prompts', 'block'), _ZERO_UP),
    },
    Part: {'weight': '(-inf, inf)', 'deadline': _ZERO_UP},
    config.GradingConfig: {'workers': _ZERO_UP, 'memory_mb': '[128, inf)'},
    Stored: {'batch': _ONE_UP, 'epochs': _ZERO_UP},
    OnPolicy: {
        **dict.fromkeys(('questions', 'samples', 'minibatches', 'inner_epochs'), _ONE_UP),
        **dict.fromkeys(('max_refills', 'overlong_buffer', 'reference_every'), _ZERO_UP),
    },
    config.Threshold: {'value': '(-inf, inf)'},
    config.Filter: {},
    config.NearDuplicates: {'threshold': '(0, 0.99]', 'words': _ONE_UP, 'permutations': '[16, inf)'},
    config.Decontaminate: {'words': _ONE_UP},
    Collect: {**dict.fromkeys(('samples', 'questions'), _ONE_UP), 'keep': _ZERO_UP},
    NLL: {},
    **{loss: {} for loss in REWARD_MODELS},
    Distil: {'temperature': _POSITIVE},
    GRPO: dict.fromkeys(
        ('clip_low', 'clip_high', 'beta', 'std_ddof', 'std_eps', 'importance_cap', 'sampler_gap'), _ZERO_UP
    ),
    config.Phase: {'step': _ZERO_UP, 'max_tokens': _ONE_UP, 'temperature': _POSITIVE, 'learning_rate': _ZERO_UP},
    Agreement: {'bins': _ONE_UP, 'every': _ZERO_UP},
    Eval: {'samples': _ONE_UP, 'every': _ZERO_UP},
    Stage: {
        **dict.fromkeys(('checkpoint_every', 'keep_checkpoints', 'max_skips'), _ONE_UP),
        **dict.fromkeys(('steps', 'log_samples'), _ZERO_UP),
    },
    Recipe: {},
}
_FITTING = {
    Stored: (NLL, *REWARD_MODELS, Distil),
    OnPolicy: (GRPO, Distil),
}  # the losses that each kind of source can feed


def validate(recipe: Recipe, devices: int) -> None:
    """Refuses a recipe that cannot run on so many devices.

    Sizes of models that are read from weights are checked once they are known: call this again with them filled in, in the recipe
    and in its stages.

    Raises:
      BadInput: the first thing that is wrong, with its path, its value and what it must be.
    """
    for table in (_fields(recipe, ''), _recipe(recipe, devices)):
        for holds, sentence in table:
            if not holds:
                raise BadInput(sentence)


def _fields(value: Any, path: str) -> Iterator[Row]:
    """Annotations and ranges of each field of a config, and of the configs inside it."""
    hints = typing.get_type_hints(type(value))
    for field in dataclasses.fields(value):
        inner, at = getattr(value, field.name), join(path, field.name)
        yield _fits(inner, hints[field.name]), f'{at} must be {field.type}, not {inner!r:.80}'
        interval = _RANGES[type(value)].get(field.name)
        if interval and inner is not None:
            yield _inside(inner, interval), f'{at}={inner} must be in {interval}'
        for i, item in enumerate(inner if isinstance(inner, tuple) else (inner,)):
            if type(item) in _RANGES:
                yield from _fields(item, join(at, label(item, i)) if isinstance(inner, tuple) else at)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is what an annotation of `r1jax.config` asks for. An int is a float, a bool is no int."""
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return value in members
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, member) for member in members)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, members[0]) for item in value)
    if origin is Callable or hint is Callable:
        return callable(value)
    if getattr(hint, '_is_protocol', False):
        return all(hasattr(value, name) for name in vars(hint) if not name.startswith('_'))
    return isinstance(value, (int, float) if hint is float else hint) and (hint is bool or not isinstance(value, bool))


def _inside(value: float, interval: str) -> bool:
    low, high = map(float, interval[1:-1].split(','))
    above = low <= value if interval[0] == '[' else low < value
    below = value <= high if interval[-1] == ']' else value < high
    return above and below


def _under(path: str, rows: Iterable[Row]) -> Iterator[Row]:
    """Rows whose sentences begin with a path below `path`."""
    return ((holds, f'{path}.{sentence}') for holds, sentence in rows)


def _recipe(recipe: Recipe, devices: int) -> Iterator[Row]:
    mesh, names = recipe.mesh, [stage.name for stage in recipe.stages]
    need, split = mesh.data * mesh.fsdp * mesh.tensor, f'{mesh.data}×{mesh.fsdp}×{mesh.tensor}'
    here = f'{devices} {"is" if devices == 1 else "are"} here'
    yield bool(names), 'the recipe has no stages'
    yield from _names('recipe', [recipe.name])
    yield from _names('stages', names, reserved=('init', 'recipe', *PRESETS))
    yield need <= devices, f'mesh data×fsdp×tensor = {split} needs {need} devices, {here}'
    first = recipe.stages[0]
    for field in ('model', 'tokenizer'):
        read = from_weights(first.start) and not (field == 'tokenizer' and first.start in PRESETS)  # a preset has none
        known = getattr(recipe, field) is not None or read or (field == 'model' and first.model is not None)
        yield known, f'{field}=None is read from weights, but {first.name}.start={first.start!r} is no weights file'
    if recipe.model:
        yield from _under('model', _model(recipe.model, mesh))
    for i, stage in enumerate(recipe.stages):
        known = ['init', *names[:i]]
        hint = f': {stage.start} does not come before it' if stage.start in names else nearest(stage.start, known)
        hint += '; a folder of weights is written with a slash, as in ./NAME' if stage.start not in names else ''
        yield stage.start in known or from_weights(stage.start), f'{stage.name} cannot start from {stage.start!r}{hint}'
        trains = next((each.source for each in recipe.stages if each.name == stage.start), None)
        fix = f'{stage.start!r}, which trains nothing: it has no weights of its own'
        yield not isinstance(trains, Collect), f'{stage.name} cannot start from {fix}'
        yield from _under(stage.name, _reads(stage, names[:i], names))
        yield from _under(stage.name, _models(stage, recipe))
        yield from _under(stage.name, _stage(stage, recipe))


def _reads(stage: Stage, before: Sequence[str], names: Sequence[str]) -> Iterator[Row]:
    """The stages whose output a stage reads, by its data, its rewards or its loss, are earlier ones."""
    for name in config.stages_read(stage):
        hint = ', which does not come before it' if name in names else f', which is no stage{nearest(name, before)}'
        yield name in before, f'source, rewards or loss read what {name!r} ends with{hint}'


def _models(stage: Stage, recipe: Recipe) -> Iterator[Row]:
    """Reward models and policies are told apart: where a stage starts, how it is measured, whose scores it takes, who teaches it."""
    named = {each.name: each for each in recipe.stages}
    judges, loss = isinstance(stage.loss, REWARD_MODELS), stage.loss
    begins = stage.start in named and isinstance(named[stage.start].loss, REWARD_MODELS)
    yield judges or not begins, f'start={stage.start!r} is a reward model, which says no words'
    yield (
        not (judges and stage.lora),
        f'lora: with loss={type(loss).__name__} all weights are trained, for the new head',
    )
    wanted = Agreement if judges else Eval
    other = next((each for each in stage.evals if not isinstance(each, wanted)), None)
    yield other is None, f'evals.{getattr(other, "name", "")} must be {wanted.__name__} with loss={type(loss).__name__}'
    mixes = [stage.source, *stage.phases, *stage.evals]
    for part in (part for mix in mixes for part in getattr(mix, 'rewards', None) or ()):
        for name in getattr(part.fn, 'stages', ()):
            theirs, needs = named[name].loss, part.fn.loss
            said = f'reward {part.name} takes the scores of {name}, whose loss={type(theirs).__name__}'
            yield isinstance(theirs, needs), f'{said} must be {needs.__name__}'
    if isinstance(loss, Distil):
        teacher, model = named[loss.teacher], model_of(recipe, stage)
        policy = isinstance(teacher.loss, (NLL, GRPO, Distil))
        yield policy, f'loss.teacher={loss.teacher!r} ends with no policy: its loss={type(teacher.loss).__name__}'
        theirs = model_of(recipe, teacher)
        same = not (model and theirs) or model.vocab == theirs.vocab
        yield (
            same,
            f'model.vocab={model and model.vocab} must be that of its teacher {loss.teacher}, {theirs and theirs.vocab}',
        )


def model_of(recipe: Recipe, stage: Stage) -> ModelConfig | None:
    """A stage's model: its own, else that of the stage it starts from, else the recipe's. None: it is read from weights."""
    named = {each.name: each for each in recipe.stages}
    while stage.model is None and stage.start in named:
        stage = named[stage.start]
    return stage.model or recipe.model


def model_differences(ours: ModelConfig, theirs: ModelConfig) -> str:
    """What tells a stage's model from that of the weights where it starts, '' if it can start there."""
    free = {'context', 'remat', 'dtype', 'attention'}  # a run may choose these for any weights
    pairs = [('', ours, theirs, free)]
    if ours.moe and theirs.moe:
        routing = {'bias_speed', 'replay'}
        if 'none' not in (ours.moe.router_bias, theirs.moe.router_bias):
            routing.add('router_bias')  # where there is a bias, whether it moves; weights without one get none
        pairs = [('', ours, theirs, free | {'moe'}), ('moe.', ours.moe, theirs.moe, routing)]
    found = [
        f'{at}{f.name} {getattr(b, f.name)} != {getattr(a, f.name)}'
        for at, a, b, free in pairs
        for f in dataclasses.fields(a)
        if f.name not in free and getattr(a, f.name) != getattr(b, f.name)
    ]
    return ', '.join(found)


def from_weights(start: str) -> bool:
    """Whether a stage's `start` is a folder, a file or a preset rather than 'init' or another stage. A folder has a slash in it."""
    return start.endswith('.gguf') or '/' in start or start in PRESETS


def _names(what: str, names: Sequence[str], reserved: Sequence[str] = ()) -> Iterator[Row]:
    """Names are parts of paths: of files, of metrics and of `--set`."""
    for i, name in enumerate(names):
        yield re.fullmatch(r'[\w-]+', name) is not None, f'{what}: the name {name!r} must be letters, digits, - and _'
        yield name not in reserved, f'{what}: the name {name!r} is taken'
        yield name not in names[:i], f'{what}: the name {name!r} occurs twice'


def _model(model: ModelConfig, mesh: config.MeshConfig) -> Iterator[Row]:
    for field in ('heads', 'kv_heads', 'hidden', 'vocab', 'width'):
        axis = 'fsdp' if field == 'width' else 'tensor'  # as in r1jax.sharding
        size, parts = getattr(model, field), getattr(mesh, axis)
        yield size % parts == 0, f'{field}={size} is split over mesh.{axis}={parts}, so it must be a multiple of it'
    if model.moe:
        size, parts = model.moe.hidden, mesh.tensor
        yield size % parts == 0, f'moe.hidden={size} is split over mesh.tensor={parts}, so it must be a multiple of it'


def _stage(stage: Stage, recipe: Recipe) -> Iterator[Row]:
    shards = recipe.mesh.data * recipe.mesh.fsdp
    if stage.model:
        yield from _under('model', _model(stage.model, recipe.mesh))
        theirs = next((model_of(recipe, each) for each in recipe.stages if each.name == stage.start), None)
        differ = model_differences(stage.model, theirs) if theirs else ''
        yield not differ, f'model has another shape than that of {stage.start}, where it starts: {differ}'
    if isinstance(stage.source, Collect):
        yield from _collect(stage, model_of(recipe, stage), shards)
    else:
        yield from _trained(stage, recipe, shards)


def _trained(stage: Stage, recipe: Recipe, shards: int) -> Iterator[Row]:
    for field in ('loss', 'optim', 'rows'):
        yield getattr(stage, field) is not None, f'{field}=None: only a stage that collects trains nothing'
    source, loss, phases, rows = stage.source, stage.loss, stage.phases, stage.rows.per_microbatch
    fitting, model = _FITTING[type(source)], model_of(recipe, stage)
    needs = ' or '.join(each.__name__ for each in fitting)
    yield isinstance(loss, fitting), f'loss={type(loss).__name__}: {type(source).__name__} needs {needs}'
    yield from _duration(stage)
    cut, block = stage.rows, stage.rows.block or stage.rows.length - stage.rows.prompts
    whole = block > 0 and (cut.length - cut.prompts) % block == 0
    yield whole, f'rows.length={cut.length} must be rows.prompts={cut.prompts} and a multiple of rows.block={cut.block}'
    stored = isinstance(source, Stored)
    yield not (stored and cut.prompts), f'rows.prompts={cut.prompts} has no effect: stored examples share no prompts'
    yield rows % shards == 0, f'rows.per_microbatch={rows} must be a multiple of mesh data×fsdp = {shards}'
    if stage.lora:
        yield from _under('lora', _lora(stage.lora, model))
    for before, after in itertools.pairwise(phase.step for phase in phases):
        yield before < after, f'phases must ascend: one at step {after} follows one at step {before}'
    for i, phase in enumerate(phases):
        samples = phase.max_tokens or phase.temperature or phase.rewards is not None
        yield isinstance(source, OnPolicy) or not samples, f'phases.{i} is about sampling, but a Stored source has none'
        yield from _rewards(f'phases.{i}.rewards', phase.rewards) if phase.rewards is not None else ()
    if isinstance(source, OnPolicy):
        yield from _on_policy(stage, model, shards)
    names = [evaluation.name for evaluation in stage.evals]
    yield from _names('evals', names)
    for i, evaluation in enumerate(stage.evals):
        if isinstance(evaluation, Agreement):
            continue
        own = evaluation.sample or getattr(source, 'sample', None)
        yield from _under(f'evals.{evaluation.name}', _eval(evaluation, own, names[:i], model, shards))


def _duration(stage: Stage) -> Iterator[Row]:
    epochs = getattr(stage.source, 'epochs', 0)
    by_source = ', or 0 with source.epochs' if isinstance(stage.source, Stored) else ''
    yield stage.steps >= 1 or epochs > 0, f'steps={stage.steps} must be in [1, inf){by_source}'
    yield not (stage.steps and epochs), f'steps={stage.steps} and source.epochs={epochs} both say how long: make one 0'


def _lora(lora: config.LoRA, model: ModelConfig | None) -> Iterator[Row]:
    yield bool(lora.targets), 'targets is empty: nothing would be trained'
    twice = next((t for i, t in enumerate(lora.targets) if t in lora.targets[:i]), None)
    yield twice is None, f'targets has {twice!r} twice'
    if model:
        moving = model.moe is not None and model.moe.router_bias == 'balance'
        yield not moving, "base is frozen, and the routers with it: model.moe.router_bias='balance' must be 'frozen'"
        yield (
            lora.rank <= model.width,
            f'rank={lora.rank} must be at most model.width={model.width}: no update has more',
        )


def _on_policy(stage: Stage, model: ModelConfig | None, shards: int) -> Iterator[Row]:
    source, sample = stage.source, stage.source.sample
    Q, G, minibatches, buffer = source.questions, source.samples, source.minibatches, source.overlong_buffer
    limits = [sample.max_tokens, *(phase.max_tokens for phase in stage.phases if phase.max_tokens)]
    longest = dataclasses.replace(sample, max_tokens=max(limits))
    yield sample.temperature > 0, 'source.sample.temperature=0: greedy sampling has no log-probabilities to learn from'
    yield Q * G % minibatches == 0, f'source: questions×samples = {Q}×{G} must be a multiple of {minibatches=}'
    yield from _sample('source.sample', longest, G, shards, model)
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
    yield from _compared(stage) if isinstance(stage.loss, GRPO) else _taught(stage)
    if source.rewards or isinstance(stage.loss, GRPO):
        yield from _rewards('source.rewards', source.rewards)


def _compared(stage: Stage) -> Iterator[Row]:
    loss, source, G = stage.loss, stage.source, stage.source.samples
    yield G >= 2, f'source.samples={G} must be at least 2: GRPO compares the samples of a question'
    yield G > loss.std_ddof, f'loss.std_ddof={loss.std_ddof} must be below source.samples={G}'
    yield loss.beta > 0 or not source.reference_every, 'source.reference_every has no effect with loss.beta=0'


def _taught(stage: Stage) -> Iterator[Row]:
    """A teacher needs no rewards: they are logged, and decide nothing."""
    source = stage.source
    for field in ('max_refills', 'reference_every'):
        value = getattr(source, field)
        yield not value, f'source.{field}={value} has no effect with loss=Distil, which has no rewards and no reference'
    yield source.overlong != 'soft', "source.overlong='soft' has no effect with loss=Distil: it changes rewards"


def _collect(stage: Stage, model: ModelConfig | None, shards: int) -> Iterator[Row]:
    source, sample, n = stage.source, stage.source.sample, stage.source.samples
    for field, nothing in (
        ('steps', 0),
        ('loss', None),
        ('optim', None),
        ('rows', None),
        ('lora', None),
        ('phases', ()),
        ('evals', ()),
    ):
        unused = getattr(stage, field) == nothing
        yield unused, f'{field} has no effect: a stage that collects trains nothing; leave it {nothing!r}'
    yield sample.temperature > 0 or n == 1, f'source.sample.temperature=0: greedy sampling draws {n} times the same'
    yield from _sample('source.sample', sample, n, shards, model)
    call, Q = sample.slots // n, source.questions
    yield (
        Q % call == 0,
        f'source.questions={Q} must be a multiple of sample.slots / samples = {call}: what is sampled together',
    )
    yield from _rewards('source.rewards', source.rewards)
    names, decide = [part.name for part in source.rewards], [each.part for each in source.correct]
    yield bool(decide), 'source.correct is empty: nothing says what is kept'
    for i, name in enumerate(decide):
        yield name in names, f'source.correct.{i}.part={name!r} is none of the rewards{nearest(name, names)}'
        yield name not in decide[:i], f'source.correct has {name!r} twice'
    fates = ('sampled', *config.FATES, *config.FATES_OF_REWRITING, *config.LAST_FATES)
    yield from _names('source.filters', [each.name for each in source.filters], reserved=fates)
    rewrites = source.rewrite is not None
    for each in source.filters:
        where = f'source.filters.{each.name}.rewritten=True'
        yield rewrites or not each.rewritten, f'{where} has no effect without source.rewrite'
    rates = source.pass_rate
    ordered = len(rates) == 2 and 0 <= rates[0] <= rates[1] <= 1
    yield ordered, f'source.pass_rate={rates} must be (lowest, highest), both in [0, 1]'


def _sample(at: str, cfg: SampleConfig, samples: int, shards: int, model: ModelConfig | None) -> Iterator[Row]:
    unit = f'samples × mesh data×fsdp = {samples}×{shards}'
    yield cfg.slots % (samples * shards) == 0, f'{at}.slots={cfg.slots} must be a multiple of {unit}'
    if model:
        fits = cfg.max_prompt + cfg.max_tokens <= model.context
        yield fits, f'{at}: max_prompt + max_tokens = {_sum(cfg)} exceeds model.context={model.context}'


def _sum(cfg: SampleConfig) -> str:
    return f'{cfg.max_prompt} + {cfg.max_tokens} = {cfg.max_prompt + cfg.max_tokens}'


def _rewards(at: str, parts: Sequence[Part]) -> Iterator[Row]:
    yield bool(parts), f'{at} is empty'
    yield from _names(at, [part.name for part in parts], reserved=('mean',))  # the metric reward/mean is their sum's
    rules = [part for part in parts if part.name == 'accuracy' and not learned(part)]
    reasoning = {*config.REASONING, *(kind for part in rules for kind in part.kinds)}
    everywhere = any(not part.kinds for part in rules)
    for part in parts:
        yield from _under(f'{at}.{part.name}', _part(part, reasoning, everywhere))


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


def _eval(
    cfg: Eval, sample: SampleConfig | None, before: Sequence[str], model: ModelConfig | None, shards: int
) -> Iterator[Row]:
    yield sample is not None, 'sample must be given: the stage itself does not sample'
    yield from _sample('sample', sample, cfg.samples, shards, model)
    yield from _rewards('rewards', cfg.rewards)
    rated = 'accuracy' in [part.name for part in cfg.rewards]
    yield rated or cfg.answer is None, 'rewards must have a part accuracy, which decides pass@1, or answer must be None'
    yield rated or cfg.split is None, 'split has no effect: rewards have no part accuracy'
    yield (
        cfg.answer is not None or not rated,
        'answer must be given: the majority vote needs what each response answers',
    )
    hint = nearest(cfg.cap_at, before)
    yield cfg.cap_at in ('', *before), f'cap_at={cfg.cap_at!r} must name an evaluation listed before it{hint}'
