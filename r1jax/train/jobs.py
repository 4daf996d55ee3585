"""What a stage works on, as tokens: its problems or examples, and the questions of its evaluations.

In: a stage whose model, template and tokenizer are known. Out: a `Job`. Data are read, graded for fitness and encoded here, and whatever
is wrong with them raises here. What earlier stages will have written (a source with `stages`, see `config.Problems`) is read when the
stage's turn comes; everything else before anything is compiled. Of several processes the first looks at all data once, for what is wrong
with them and their digests.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from r1jax import distributed
from r1jax.config import (
    DPO,
    PAIRED,
    REWARD_MODELS,
    Agreement,
    BradleyTerry,
    Collect,
    Environment,
    Eval,
    OnPolicy,
    Part,
    Recipe,
    SampleConfig,
    Stage,
    Stored,
    stages_read,
)
from r1jax.curate import contamination
from r1jax.curate.choose import without_effect
from r1jax.data.stored import Made
from r1jax.data.template import exchange
from r1jax.evals.agreement import Agreeing
from r1jax.evals.run import Measure
from r1jax.evals.talk import stops
from r1jax.rewards.combine import applies, unfit
from r1jax.rewards.pool import Pool
from r1jax.rl.judged import pair_items, pair_size
from r1jax.sample import Sampler
from r1jax.settings import BadInput
from r1jax.train.phases import derive, longest
from r1jax.types import Example, Labelled, Pair, Problem

Tokens = Sequence[int]
Judged = tuple[Tokens, Any]  # (chosen, rejected) or (response, label: a float)


@dataclasses.dataclass(frozen=True)
class Job:
    """A stage with its data."""

    stage: Stage  # its model, template and steps filled in
    seed: int
    measures: tuple[Measure | Agreeing, ...]
    data: str  # digest of what it trains on, as tokens
    measured: str  # digest of the questions of its evaluations
    problems: Sequence[Problem] = ()  # OnPolicy and Collect
    prompts: Sequence[Tokens] = ()  # OnPolicy and Collect, tokens of each problem
    examples: Sequence[Judged] = ()  # Stored, prompt and response, or what a reward model reads
    removed: int = 0  # OnPolicy and Collect, problems that no reward could have graded
    found: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # Collect, for the data card
    notes: tuple[str, ...] = ()  # what is worth a line before the stage begins


class Read(NamedTuple):
    """A piece of a job."""

    value: Any  # of the source: fields of the Job; of an evaluation: its Measure
    digest: str
    notes: list[str]


class Jobs:
    """Makes the jobs of a run. `early` reads what is there before the run, `job` the rest.

    Raises, both of them:
      BadInput: empty or ill-formed data, a prompt or an example that does not fit, problems that no reward grades.
    """

    def __init__(self, workdir: str, recipe: Recipe, tokenizer: Any, pool: Pool):
        self.workdir, self.recipe, self.tokenizer, self.pool = workdir, recipe, tokenizer, pool
        self.seed = recipe.seed
        self._read: dict[tuple[str, str | None], Read] = {}

    def early(self, stage: Stage) -> None:
        """Reads all of a stage that waits for no other stage."""
        for name, source, make in self._pieces(stage):
            if not stages_read(source):
                self._read[stage.name, name] = make()

    def job(self, stage: Stage) -> Job:
        """The whole of a stage, when those that it reads are finished."""
        pieces = {name: self._read.get((stage.name, name)) or make() for name, _, make in self._pieces(stage)}
        notes = tuple(note for piece in pieces.values() for note in piece.notes)
        source = pieces.pop(None)
        measures = tuple(piece.value for piece in pieces.values())
        measured = digest(piece.digest for piece in pieces.values())
        stage = dataclasses.replace(stage, steps=stage.steps or _steps(stage, source.value))
        seed = derive(self.seed, stage.name)
        return Job(stage, seed, measures, source.digest, measured, notes=notes, **source.value)

    def digests(self, stage: Stage) -> tuple[str | None, str | None]:
        """`Job.data` and `Job.measured`, each as far as it is read."""
        pieces = {name: self._read.get((stage.name, name)) for name, _, _ in self._pieces(stage)}
        source, measures = pieces.pop(None), list(pieces.values())
        return source and source.digest, None if None in measures else digest(piece.digest for piece in measures)

    def _pieces(self, stage: Stage) -> list[tuple[str | None, Any, Callable[[], Read]]]:
        """(name of the evaluation, or None; where its items come from; what reads it), evaluations first."""
        evals = [
            (e.name, e.examples, lambda e=e: self._agreement(stage, e))
            if isinstance(e, Agreement)
            else (e.name, e.problems, lambda e=e: self._measure(stage, e))
            for e in stage.evals
        ]
        attribute, read = _SOURCES[type(stage.source)]
        return [*evals, (None, getattr(stage.source, attribute), lambda: read(self, stage))]

    def load(self, where: str, source: Any) -> Sequence:
        """The items of a source."""
        items = blamed(where, lambda: source.load(self.workdir) if stages_read(source) else source.load())
        if not len(items):
            raise BadInput(f'{where}: {source} is empty')
        return items

    def on_policy(self, stage: Stage) -> Read:
        where, source, notes = f'stage {stage.name}', stage.source, []
        assert isinstance(source, OnPolicy)
        self._turns_end(stage, stage.environment)
        loaded = self.load(where, source.problems)
        notes += _left_out(where, loaded)
        phases = [phase.rewards for phase in stage.phases if phase.rewards is not None]
        mixes = dict.fromkeys(each for each in (source.rewards, *phases) if each)
        problems = fit(where, loaded, mixes, self.pool, notes) if mixes else loaded  # a teacher needs no rewards
        prompts, data = self.prompts(where, stage, problems, source.sample)
        fields = {'problems': problems, 'prompts': prompts, 'removed': len(loaded) - len(problems)}
        return Read(fields, data, notes)

    def _turns_end(self, stage: Stage, environment: Environment | None) -> Sequence[int]:
        """The tokens that end a turn; an environment that is called in this process is made ready, others are by those that grade."""
        if environment and not environment.deadline:
            blamed(f'{stage.name}.environment', getattr(environment, 'warm', bool))
        return blamed(stage.name, lambda: stops(environment, self.tokenizer))

    def collect(self, stage: Stage) -> Read:
        where, cfg, notes = f'stage {stage.name}', stage.source, []
        assert isinstance(cfg, Collect)
        loaded = self.load(where, cfg.problems)
        notes += _left_out(where, loaded)
        seen: set[int] = set()
        for p in loaded:
            if p.id in seen:
                raise BadInput(
                    f'{where}: two problems have the id {p.id}, and would be sampled alike: give them ids of their own'
                )
            seen.add(p.id)
        problems = fit(where, loaded, [cfg.rewards], self.pool, notes)
        if wrong := without_effect(cfg, {p.kind: p for p in problems}.values()):
            raise BadInput(f'{where}: {wrong}')
        clean, report = self._clean(where, problems, cfg, notes)
        sampled = dataclasses.replace(stage, template=cfg.template or stage.template)
        prompts, data = self.prompts(where, sampled, clean, cfg.sample)
        found = {'loaded': len(loaded), 'contaminated': len(problems) - len(clean), 'contamination': report}
        fields = {'problems': clean, 'prompts': prompts, 'removed': len(loaded) - len(problems), 'found': found}
        return Read(fields, data, notes)

    def _clean(
        self, where: str, problems: Sequence[Problem], cfg: Collect, notes: list[str]
    ) -> tuple[Sequence[Problem], dict | None]:
        """The problems that share nothing with an evaluation, and what the data card says of the others."""
        if cfg.decontaminate is None:
            return problems, None
        n, index = cfg.decontaminate.words, contamination.Index(cfg.decontaminate.words)
        sets = [(repr(source), source) for source in cfg.decontaminate.against]
        if not sets:  # but those that stages have yet to write
            evals = (
                e for s in self.recipe.stages for e in s.evals if isinstance(e, Eval) and not stages_read(e.problems)
            )
            sets = [(repr(e.problems), e.problems) for e in evals]
        questions = {}
        for name, source in dict(sets).items():
            items = self.load(f'{where}: decontaminate', source)
            index.add(name, (p.prompt for p in items))
            questions[name] = len(items)
        hits = [index.find(p.prompt) for p in problems]
        removed = {name: hits.count(name) for name in questions}
        rows = [i for i, hit in enumerate(hits) if hit is None]
        count = f'{len(hits) - len(rows)} of {len(hits)} problems share {n} words with an evaluation'
        if not rows:
            raise BadInput(f'{where}: {count}: if these are words of a template, raise source.decontaminate.words')
        if len(rows) < len(hits):
            notes.append(f'{where}: {count} and are left out')
        told = [{'set': name, 'questions': size, 'prompts': removed[name]} for name, size in questions.items()]
        return _those(problems, rows), {'words': n, 'sets': told}

    def prompts(
        self, where: str, stage: Stage, problems: Sequence[Problem], cfg: SampleConfig
    ) -> tuple[Sequence[Tokens], str]:
        """Tokens of each problem's prompt, and a digest of both."""

        def encode(p: Problem) -> Tokens:
            return self.tokenizer.encode(blamed(where, lambda: stage.template(p, self.tokenizer)))

        prompts = _made(problems, encode)

        def facts():
            for p, tokens in zip(problems, prompts, strict=True):
                if not 0 < len(tokens) <= cfg.max_prompt:
                    raise BadInput(
                        f'{where}: the prompt of problem {p.id} has {len(tokens)} tokens, sample.max_prompt={cfg.max_prompt}: '
                        f'{p.prompt[:60]!r}'
                    )
                yield repr((p.id, p.answer, p.kind, p.language, p.meta))
                yield tokens

        return prompts, distributed.told(lambda: digest(facts()))

    def stored(self, stage: Stage) -> Read:
        source = stage.source
        assert isinstance(source, Stored)
        if isinstance(stage.loss, (DPO, *REWARD_MODELS)):
            judged, data = self._judged(f'stage {stage.name}', stage, source.examples)
            return Read({'examples': judged}, data, [])

        def encode(example: Example) -> tuple[Tokens, Tokens]:
            prompt = self.tokenizer.encode(example.prompt) or [self.tokenizer.eos]  # a text follows the end of another
            return prompt, [*self.tokenizer.encode(example.response), self.tokenizer.eos]

        pairs = _made(self.load(f'stage {stage.name}', source.examples), encode)

        def facts():
            for i, (prompt, response) in enumerate(pairs):
                name, room = ('block', stage.rows.block) if stage.rows.block else ('length', stage.rows.length)
                if (size := len(prompt) + len(response)) > room:
                    raise BadInput(f'stage {stage.name}: example {i} has {size} tokens, rows.{name}={room}')
                yield prompt
                yield response

        return Read({'examples': pairs}, distributed.told(lambda: digest(facts())), [])

    def _agreement(self, stage: Stage, cfg: Agreement) -> Read:
        judged, data = self._judged(f'evaluation {cfg.name} of stage {stage.name}', stage, cfg.examples, packed=False)
        paired = isinstance(stage.loss, BradleyTerry)
        return Read(Agreeing(cfg, pairs=judged) if paired else Agreeing(cfg, labelled=judged), data, [])

    def _judged(self, where: str, stage: Stage, source: Any, packed: bool = True) -> tuple[Sequence[Judged], str]:
        """What is judged, (chosen, rejected) or (response, label), and a digest of it: for a reward model as an exchange, for a policy
        behind the prompt that it is given. It fits into the stage's rows if it is to be packed, else a sequence into the model's context.
        """

        def form(problem: Problem, response: str) -> Tokens:
            if not isinstance(stage.loss, DPO):
                return exchange(problem, response, self.tokenizer)
            prompt = self.tokenizer.encode(stage.template(problem, self.tokenizer))
            return [*prompt, *self.tokenizer.encode(response), self.tokenizer.eos]

        paired = isinstance(stage.loss, PAIRED)
        wanted = Pair if paired else Labelled
        rows = ('rows.block', stage.rows.block) if stage.rows.block else ('rows.length', stage.rows.length)
        name, room = rows if packed else ('model.context', stage.model.context)

        def encode(item: Pair | Labelled) -> Judged:
            if not isinstance(item, wanted):
                needs = f'{type(stage.loss).__name__} learns from {wanted.__name__}'
                raise BadInput(f'{where}: {source} has {type(item).__name__}, and {needs}')
            if isinstance(item, Pair):
                return form(item.problem, item.chosen), form(item.problem, item.rejected)
            return form(item.problem, item.response), float(item.label)

        judged = _made(self.load(where, source), encode)

        def facts():
            for i, both in enumerate(judged):
                if paired:
                    blamed(f'{where}: pair {i}', lambda both=both: pair_items([both]))
                elif not 0 <= both[1] <= 1:
                    raise BadInput(f'{where}: the label of answer {i} is {both[1]}, and 1 is safe, 0 unsafe')
                size = pair_size(both) if paired and packed else max(map(len, both if paired else both[:1]))
                if size > room:
                    what = ('pair' if packed else 'an answer of pair') if paired else 'labelled answer'
                    raise BadInput(f'{where}: {what} {i} has {size} tokens, {name}={room}')
                yield both[0]
                yield both[1] if paired else repr(both[1])

        return judged, distributed.told(lambda: digest(facts()))

    def _measure(self, stage: Stage, cfg: Eval) -> Read:
        where, source = f'evaluation {cfg.name} of stage {stage.name}', stage.source
        notes: list[str] = []
        # the policy is measured, not what drew its rollouts; an evaluation's own settings may ask for the rounded one
        own = dataclasses.replace(source.sample, weights='same') if isinstance(source, OnPolicy) else None
        sample = cfg.sample or own
        problems = fit(where, self.load(where, cfg.problems), [cfg.rewards], self.pool, notes)
        accuracy = next((part for part in cfg.rewards if part.name == 'accuracy'), None)
        if other := next((problem for problem in problems if accuracy and not applies(accuracy, problem)), None):
            raise BadInput(
                f'{where}: its accuracy does not apply to problem {other.id} of kind {other.kind!r}, and decides pass@1'
            )
        size = sample.max_tokens if cfg.sample else longest(stage)
        seed = derive(derive(self.seed, stage.name), 'eval', cfg.name)
        cfg = dataclasses.replace(cfg, sample=sample)
        environment = None if cfg.alone else stage.environment
        ends = self._turns_end(stage, environment)
        sampler = Sampler.create(stage.model, sample, cfg.samples, self.tokenizer, seed, size, stops=ends)
        prompts, data = self.prompts(where, stage, problems, sample)
        return Read(Measure(cfg, problems, prompts, sampler, self.tokenizer, self.pool, environment), data, notes)


# A kind of source -> the field that its items come from, and what reads them
_SOURCES: dict[type, tuple[str, Callable[[Jobs, Stage], Read]]] = {
    Stored: ('examples', Jobs.stored),
    OnPolicy: ('problems', Jobs.on_policy),
    Collect: ('problems', Jobs.collect),
}


def _steps(stage: Stage, data: dict) -> int:
    """Steps that the epochs of a stored source take; the last may begin another epoch. 0: there are none to count."""
    if not isinstance(stage.source, Stored):
        return 0
    return math.ceil(stage.source.epochs * len(data['examples']) / stage.source.batch)


def digest(facts: Iterable[str | Tokens]) -> str:
    """16 hexadecimal digits that other facts, or the same ones cut or ordered otherwise, do not have."""
    whole = hashlib.sha256()
    for fact in facts:
        data = fact.encode('utf-8', 'surrogatepass') if isinstance(fact, str) else np.asarray(fact, np.int32).tobytes()
        whole.update(b'%d:' % len(data))
        whole.update(data)
    return whole.hexdigest()[:16]


def blamed(what: str, load: Callable[[], Any]) -> Any:
    """`load()`, its ValueErrors turned into BadInput that names `what`, such as `stage zero` or `weights PATH`."""
    try:
        return load()
    except BadInput:
        raise
    except ValueError as error:
        named = str(error).startswith(what.partition(' ')[2] or what)  # a path need not be told twice
        raise BadInput(str(error) if named else f'{what}: {error}') from error


def fit(
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
    each = list({id(part.fn): part for parts in mixes for part in parts}.values())
    wrong = blamed(where, lambda: unfit(problems, each, pool))
    if not wrong:
        return problems
    first, why = next(iter(sorted(wrong.items())))
    count = f'{len(wrong)} of {len(problems)} problems removed, which cannot be graded'
    if len(wrong) == len(problems):
        raise BadInput(f'{where}: {count}; problem {problems[first].id}: {why}')
    notes.append(f'{where}: {count}; the first is {problems[first].id}: {why}')
    return _those(problems, [i for i in range(len(problems)) if i not in wrong])


def _those(items: Sequence, rows: Sequence[int]) -> Sequence:
    """Some of the items, read when asked for where the items are."""
    if len(rows) == len(items):
        return items
    return [items[i] for i in rows] if isinstance(items, (list, tuple)) else Made(rows, items.__getitem__)


def _left_out(where: str, items: Sequence) -> list[str]:
    """What a table says of rows that it passed over, in a note."""
    said = getattr(items, 'notes', {})
    counts = [(said.get('skipped'), 'have no answer that can be checked'), (said.get('repeated'), 'repeat a prompt')]
    return [f'{where}: {count} of {said["rows"]} rows left out, which {why}' for count, why in counts if count]


def _made(items: Sequence, make) -> Sequence:
    """What `make` makes of each item: at once of a list; of what is on disk because memory has no room for it, when asked."""
    return [make(item) for item in items] if isinstance(items, (list, tuple)) else Made(items, make)
