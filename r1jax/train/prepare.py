"""Everything that can go wrong cheaply, before anything is compiled: weights and tokenizer read, data loaded and encoded, sizes checked.

In: a recipe that passed `r1jax.checks`. Out: `Job`s, in which every text is tokens. Whatever is wrong with files or data raises here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from r1jax import weights
from r1jax.checks import from_weights, validate
from r1jax.config import Eval, ModelConfig, OnPolicy, Part, Recipe, SampleConfig, Stage
from r1jax.data.stored import Made
from r1jax.evals.run import Measure
from r1jax.presets import PRESETS
from r1jax.rewards.combine import applies, unfit
from r1jax.rewards.pool import Pool
from r1jax.sample import Sampler
from r1jax.settings import BadInput
from r1jax.train.phases import derive, longest
from r1jax.types import Example, Problem

Tokens = Sequence[int]


@dataclasses.dataclass(frozen=True)
class Job:
    """A stage with its data."""

    stage: Stage
    seed: int
    measures: tuple[Measure, ...]
    problems: Sequence[Problem] = ()  # OnPolicy
    prompts: Sequence[Tokens] = ()  # OnPolicy, tokens of each problem
    examples: Sequence[tuple[Tokens, Tokens]] = ()  # Stored, prompt and response
    removed: int = 0  # OnPolicy, problems that no reward could have graded
    notes: tuple[str, ...] = ()  # what is worth a line before the stage begins


@dataclasses.dataclass(frozen=True)
class Prepared:
    model: ModelConfig
    tokenizer: Any
    jobs: tuple[Job, ...]
    files: dict[str, Any]  # where a stage starts -> the opened `r1jax.weights.Reader`; None: a preset, drawn at random


def prepare(recipe: Recipe, workdir: str, wanted: Sequence[str], devices: int, pool: Pool) -> Prepared:
    """Loads what the stages named in `wanted` need; of weights everything but the weights. `pool` grades for their measures, and checks
    problems of rewards with a deadline.

    Raises:
      BadInput: empty or ill-formed data, a prompt or an example that does not fit, weights of another shape, problems that no reward
        grades.
    """
    files: dict[str, Any] = {}
    model, tokenizer = recipe.model, None
    starts = {s.start: None for s in recipe.stages if from_weights(s.start)}
    for start in starts:
        reader = files[start] = _opened(start)
        theirs = PRESETS[start] if reader is None else reader.config
        if model is not None and (differ := _differences(model, theirs)):
            raise BadInput(f"{start} has another shape than the recipe's model: {differ}")
        model = model or theirs
        if tokenizer is None and reader is not None and recipe.tokenizer is None:
            tokenizer = _blamed(f'weights {start}', lambda reader=reader: reader.tokenizer)
    if recipe.tokenizer is not None:
        tokenizer = _blamed('tokenizer', lambda: recipe.tokenizer.load(workdir))
    if model is None or tokenizer is None:
        raise BadInput(
            'a recipe needs a model and a tokenizer, or a first stage that starts from weights that have both'
        )
    if tokenizer.vocab_size > model.vocab:
        raise BadInput(f'the tokenizer has {tokenizer.vocab_size} tokens, more than model.vocab={model.vocab}')
    validate(dataclasses.replace(recipe, model=model), devices)  # what depends on the model's sizes
    jobs = tuple(_job(recipe, s, model, tokenizer, pool) for s in recipe.stages if s.name in wanted)
    return Prepared(model, tokenizer, jobs, files)


def _opened(start: str) -> Any:
    return None if start in PRESETS else _blamed(f'weights {start}', lambda: weights.opened(start))


def _differences(ours: ModelConfig, theirs: ModelConfig) -> str:
    free = {'context', 'remat', 'dtype'}  # a run may choose these for any weights
    if ours.moe and theirs.moe:
        chosen = {n: getattr(ours.moe, n) for n in ('bias_speed', 'replay')}
        if 'none' not in (ours.moe.router_bias, theirs.moe.router_bias):
            chosen['router_bias'] = ours.moe.router_bias
        theirs = dataclasses.replace(theirs, moe=dataclasses.replace(theirs.moe, **chosen))
    names = [f.name for f in dataclasses.fields(ModelConfig) if f.name not in free]
    return ', '.join(
        f'{n} {getattr(theirs, n)} != {getattr(ours, n)}' for n in names if getattr(ours, n) != getattr(theirs, n)
    )


def _blamed(what: str, load):
    """`load()`, its ValueErrors turned into BadInput that names `what`."""
    try:
        return load()
    except BadInput:
        raise
    except ValueError as error:
        raise BadInput(f'{what}: {error}') from error


def _job(recipe: Recipe, stage: Stage, model: ModelConfig, tokenizer, pool: Pool) -> Job:
    seed = derive(recipe.seed, stage.name)
    notes: list[str] = []
    measures = tuple(_measure(recipe, stage, e, model, tokenizer, seed, pool, notes) for e in stage.evals)
    if isinstance(stage.source, OnPolicy):
        where = f'stage {stage.name}'
        loaded = _load(where, stage.source.problems)
        notes += _left_out(where, loaded)
        phases = [phase.rewards for phase in stage.phases if phase.rewards is not None]
        problems = _fit(where, loaded, dict.fromkeys([stage.source.rewards, *phases]), pool, notes)
        prompts = _prompts(where, recipe, problems, tokenizer, stage.source.sample)
        removed = len(loaded) - len(problems)
        return Job(stage, seed, measures, problems=problems, prompts=prompts, removed=removed, notes=tuple(notes))
    return Job(stage, seed, measures, examples=_examples(stage, tokenizer), notes=tuple(notes))


def _fit(
    where: str, problems: Sequence[Problem], mixes: Iterable[tuple[Part, ...]], pool: Pool, notes: list[str]
) -> Sequence[Problem]:
    """The problems that can be graded: where a reward of any phase says that it never could, they are removed, with a note.

    Raises:
      BadInput: none is left, a kind of problem has no reward in any phase, or a phase rewards none of them.
    """
    mixes = list(mixes)
    kinds = {problem.kind: problem for problem in problems}.values()
    for problem in kinds:
        if not any(applies(part, problem) for parts in mixes for part in parts):
            raise BadInput(
                f'{where}: no reward part applies to problems of kind {problem.kind!r}, such as {problem.id}: name it in kinds'
            )
    for parts in mixes:
        if not any(applies(part, problem) for part in parts for problem in kinds):
            named = ', '.join(part.name for part in parts)
            raise BadInput(f'{where}: the rewards {named} apply to none of the problems: they name other kinds')
    parts = list({id(part.fn): part for parts in mixes for part in parts}.values())
    wrong = _blamed(where, lambda: unfit(problems, parts, pool))
    if not wrong:
        return problems
    first, why = next(iter(sorted(wrong.items())))
    count = f'{len(wrong)} of {len(problems)} problems removed, which cannot be graded'
    if len(wrong) == len(problems):
        raise BadInput(f'{where}: {count}; problem {problems[first].id}: {why}')
    notes.append(f'{where}: {count}; the first is {problems[first].id}: {why}')
    kept = [i for i in range(len(problems)) if i not in wrong]
    return [problems[i] for i in kept] if isinstance(problems, (list, tuple)) else Made(kept, problems.__getitem__)


def _load(where: str, source) -> Sequence:
    items = _blamed(where, source.load)
    if not len(items):
        raise BadInput(f'{where}: {source} is empty')
    return items


def _left_out(where: str, items: Sequence) -> list[str]:
    """What a table says of rows that it passed over, in a note."""
    said = getattr(items, 'notes', {})
    counts = [(said.get('skipped'), 'have no answer that can be checked'), (said.get('repeated'), 'repeat a prompt')]
    return [f'{where}: {count} of {said["rows"]} rows left out, which {why}' for count, why in counts if count]


def _prompts(where: str, recipe: Recipe, problems: Sequence[Problem], tokenizer, cfg: SampleConfig) -> Sequence[Tokens]:
    def encode(p: Problem) -> Tokens:
        return tokenizer.encode(_blamed(where, lambda: recipe.template(p, tokenizer)))

    prompts = _made(problems, encode)
    for p, tokens in zip(problems, prompts, strict=True):
        if not 0 < len(tokens) <= cfg.max_prompt:
            raise BadInput(
                f'{where}: the prompt of problem {p.id} has {len(tokens)} tokens, sample.max_prompt={cfg.max_prompt}: '
                f'{p.prompt[:60]!r}'
            )
    return prompts


def _made(items: Sequence, make) -> Sequence:
    """What `make` makes of each item: at once of a list; of what is on disk because memory has no room for it, when asked."""
    return [make(item) for item in items] if isinstance(items, (list, tuple)) else Made(items, make)


def _examples(stage: Stage, tokenizer) -> Sequence[tuple[Tokens, Tokens]]:
    def encode(example: Example) -> tuple[Tokens, Tokens]:
        prompt = tokenizer.encode(example.prompt) or [tokenizer.eos]  # a text on its own follows the end of another
        return prompt, [*tokenizer.encode(example.response), tokenizer.eos]

    pairs = _made(_load(f'stage {stage.name}', stage.source.examples), encode)
    for i, (prompt, response) in enumerate(pairs):
        name, room = ('block', stage.rows.block) if stage.rows.block else ('length', stage.rows.length)
        if (size := len(prompt) + len(response)) > room:
            raise BadInput(f'stage {stage.name}: example {i} has {size} tokens, rows.{name}={room}')
    return pairs


def _measure(
    recipe: Recipe, stage: Stage, cfg: Eval, model: ModelConfig, tokenizer, seed: int, pool: Pool, notes: list[str]
) -> Measure:
    where = f'evaluation {cfg.name} of stage {stage.name}'
    own = cfg.sample is None and isinstance(stage.source, OnPolicy)
    sample = stage.source.sample if own else cfg.sample
    problems = _fit(where, _load(where, cfg.problems), [cfg.rewards], pool, notes)
    accuracy = next((part for part in cfg.rewards if part.name == 'accuracy'), None)
    if other := next((problem for problem in problems if accuracy and not applies(accuracy, problem)), None):
        raise BadInput(
            f'{where}: its accuracy does not apply to problem {other.id} of kind {other.kind!r}, and decides pass@1'
        )
    size = longest(stage) if own else sample.max_tokens
    cfg = dataclasses.replace(cfg, sample=sample)
    sampler = Sampler.create(model, sample, cfg.samples, tokenizer, derive(seed, 'eval', cfg.name), size)
    return Measure(cfg, problems, _prompts(where, recipe, problems, tokenizer, sample), sampler, tokenizer, pool)
