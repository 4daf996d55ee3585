"""`r1jax eval`: benchmarks of a checkpoint, run, stored, and set beside the paper's figures; and two of them compared.

In order: the checkpoint is opened, its template and tokenizer found; problems are read and encoded, sizes checked, graders started;
then the weights are read, and each benchmark draws what is missing of its samples (`r1jax.evals.protocol`). Figures are computed of what
is stored alone, so the same command on a whole folder computes them anew and draws nothing. Benchmarks that lm-eval measures come last.

One process: a mesh may have all devices that it sees, not those of other processes.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from r1jax import columns, report, sharding
from r1jax.config import MeshConfig, Part, SampleConfig
from r1jax.data.template import NAMED
from r1jax.evals import compare, elo, judging, results, winrate
from r1jax.evals.benchmarks import BENCHMARKS, MARK, TOKENS, Benchmark
from r1jax.evals.harness_tasks import HARNESS, PREFIX
from r1jax.evals.kept import Kept, grid, refuse_other
from r1jax.evals.protocol import Bench, Grading
from r1jax.rewards.pool import Pool
from r1jax.sample import Sampler
from r1jax.settings import BadInput, as_bad_input, nearest
from r1jax.train import restore
from r1jax.train import step as compiled
from r1jax.train.jobs import digest
from r1jax.train.phases import derive
from r1jax.types import Problem

EVERY = 10.0  # seconds between lines about progress
CHATS = ('chat', 'chat_r1_zero')  # templates by which lm-eval's tasks are asked as chats
ROUND = 32  # prompts' room is a multiple of it


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line says. None: as the benchmark has it."""

    samples: int | None = None  # k
    limit: int = 0  # the first so many problems; 0: all
    data: str | None = None
    since: str = ''
    until: str = ''
    max_tokens: int | None = None
    temperature: float = 0.6
    top_p: float = 0.95
    seed: int = 0
    slots: int = 32
    at: tuple[int, ...] = ()  # n of pass@n; (): powers of two up to k
    template: str | None = None  # None: the stage's, or the tokenizer's chat template, or none
    beside: tuple[str, ...] = results.BESIDE
    ratings: str | None = None  # a file of people's ratings
    workers: int = 0
    judge: str = ''  # address of an OpenAI-compatible endpoint
    judge_model: str = ''
    judge_key: str = ''  # name of the environment variable that holds its key
    shots: int | None = None  # examples in the prompts of lm-eval's tasks; None: as the task has it
    sampled: bool = False  # lm-eval's tasks draw as the others do; else each generates as it says, most greedily


def run(checkpoint: str, names: Sequence[str], out: Path, mesh: MeshConfig, options: Options) -> list[str]:
    """Runs benchmarks; returns the lines to print.

    Raises:
      BadInput: before the weights are read.
    """
    names = list(dict.fromkeys(names))
    with as_bad_input():
        harness = _harness(names)
        _refuse(names, options)
        found = restore.restore(checkpoint)
        tokenizer, model = found.source.tokenizer, found.source.config
        if tokenizer is None:
            raise BadInput(f'{found.what} has no tokenizer, and its prompts cannot be read without')
        template = _template(options.template, found.template, tokenizer)
        if jax.process_count() > 1:
            raise BadInput(f'r1jax eval runs in one process, not in {jax.process_count()}')
        sharding.make_mesh(mesh)  # there are as many devices
        if options.slots % (ways := mesh.ways('batch')):
            raise BadInput(f'--slots {options.slots} must be a multiple of the {ways} devices that rows are split over')
        judges = judging.parts(options.judge, options.judge_model, options.judge_key, out) if options.judge else {}
    entries = {}
    with sharding.using(mesh) as devices, Pool(options.workers) as pool:
        with as_bad_input():
            ready = [
                _ready(BENCHMARKS[name], model, tokenizer, template, judges, options)
                for name in names
                if name in BENCHMARKS
            ]
            for each in ready:
                refuse_other(out, each.name, each.settings)
            # in one call: workers load what they are to expect when they start
            for loaded in pool.warm([fn for each in ready if (fn := Grading(each.grade, pool).function)]):
                loaded.result()
        params = restore.params(found, devices)
        whose = {'what': found.what, 'weights': f'{int(compiled.fingerprint(params)):08x}'}
        for each in ready:
            settings = whose | each.settings
            with as_bad_input():
                kept = Kept(out, each.name, settings)
            with kept:
                grading = Grading(each.grade, pool)
                try:
                    each.bench.run(params, each.samples, kept, grading, _told(each.name))
                finally:
                    grading.close()
                entries[each.name] = _entry(each, kept, settings, options)
            results.write(out, whose, entries)
        for name in names:
            if name not in BENCHMARKS:
                model_of = harness.Harness(model, params, tokenizer, options.slots, options.seed)
                entries[name] = _by_harness(harness, model_of, name, out, whose, options)
    whole = results.write(out, whose, entries)
    shown = {name: whole['benchmarks'][name] for name in entries}
    report.of([str(out)], str(out / report.PAGE))
    files = [results.RESULTS, results.TABLE, report.PAGE, *(f'{_file(name)}.jsonl' for name in names)]
    return [
        *columns.aligned(results.table(shown, options.beside)),
        '',
        *_notes(shown),
        f'{out}: {", ".join(files)}',
    ]


def compared(a: str, b: str) -> list[str]:
    """The lines of a comparison of two folders of results. BadInput where they cannot be compared."""
    with as_bad_input():
        found = compare.compare(a, b)
    return [f'A {a}', f'B {b}', '', *columns.aligned(compare.table(found))]


def judged(judgements: Sequence[str], data: str | None, out: Path, beside: Sequence[str]) -> list[str]:
    """The lines of win rates by judgements that are there: each 'alpaca_eval=FILE' or 'arena_hard=FILE'.

    AlpacaEval's tables are taken from DATA/alpaca_eval, where there are any.

    Raises:
      BadInput: another benchmark, or a file that is broken.
    """
    entries = {}
    with as_bad_input():
        for each in judgements:
            name, equals, path = each.partition('=')
            if not equals or name not in ('alpaca_eval', 'arena_hard'):
                raise BadInput(f'--judgements {each} must be alpaca_eval=FILE or arena_hard=FILE')
            entries[name] = results.entry(name, _judgements(name, path, data), {'judgements': path})
        out.mkdir(parents=True, exist_ok=True)
        whole = results.write(out, {'what': ', '.join(judgements)}, entries)
        report.of([str(out)], str(out / report.PAGE))
    return columns.aligned(results.table(whole['benchmarks'], beside))


def _judgements(name: str, path: str, data: str | None) -> dict[str, Any]:
    if name == 'arena_hard':
        return winrate.arena(path)
    found = winrate.alpaca(path)
    return winrate.length_controlled(found, winrate.published(data)) | winrate.win_rate(found.preference)


def _harness(names: Sequence[str]) -> Any:
    """The module that runs lm-eval, where a benchmark needs it. ImportError where it is not installed."""
    if not any(name in HARNESS or name.startswith(PREFIX) for name in names):
        return None
    from r1jax.evals import harness

    return harness


def _by_harness(
    harness: Any, model: Any, name: str, out: Path, whose: Mapping[str, Any], options: Options
) -> dict[str, Any]:
    """A benchmark's entry by lm-eval, whose samples are written as it logs them."""
    drawn = {'do_sample': True, 'temperature': options.temperature, 'top_p': options.top_p} if options.sampled else {}
    if options.max_tokens:
        drawn['max_gen_toks'] = options.max_tokens
    with as_bad_input():
        found, lines = harness.evaluate(
            model, name, options.data, options.limit, options.shots, options.template in CHATS, drawn
        )
    out.mkdir(parents=True, exist_ok=True)
    with open(out / f'{_file(name)}.jsonl', 'w', encoding='utf-8') as file:
        file.writelines(json.dumps(line, ensure_ascii=True, default=str) + '\n' for line in lines)
    return results.entry(name, found, dict(whose) | {'shots': options.shots, 'generation': drawn, 'seed': options.seed})


def _file(name: str) -> str:
    """A benchmark's name as a file's."""
    return name.replace(PREFIX, '').replace('/', '-')


@dataclasses.dataclass(frozen=True)
class Ready:
    """A benchmark that can be run."""

    benchmark: Benchmark
    bench: Bench
    grade: Part
    samples: int
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        return self.benchmark.name


def _refuse(names: Sequence[str], options: Options) -> None:
    known = [*BENCHMARKS, *HARNESS]
    if not names:
        raise BadInput(f'name a benchmark: --benchmark {" | ".join(known)}')
    ours = [name for name in names if name in BENCHMARKS]
    for name in names:
        if name not in known and not name.startswith(PREFIX):
            raise BadInput(f'there is no benchmark {name}{nearest(name, known)}')
    for name in ours:
        if isinstance(BENCHMARKS[name].grade, str) and not (options.judge and options.judge_model):
            raise BadInput(f'{name} is graded by a judge: name one with --judge URL and --judge-model NAME')
    for field, least in (('samples', 1), ('limit', 0), ('max_tokens', 1), ('slots', 1), ('workers', 0), ('seed', 0)):
        value = getattr(options, field)
        if value is not None and value < least:
            raise BadInput(f'--{_OPTION.get(field, field).replace("_", "-")} {value} must be at least {least}')
    if options.temperature < 0 or not 0 < options.top_p <= 1:
        raise BadInput(f'--temperature {options.temperature} must be 0 or more, and --top-p {options.top_p} in (0, 1]')
    for model in options.beside:
        if model not in results.paper.MODELS:
            raise BadInput(f'the paper has no model {model}{nearest(model, results.paper.MODELS)}')
    for name in ours:
        k = options.samples or BENCHMARKS[name].samples
        if options.temperature == 0 and k > 1:
            raise BadInput(f'--temperature 0 draws {k} times the same: give --k 1')
        if above := [n for n in options.at if not 1 <= n <= k]:
            raise BadInput(f'pass@{above[0]} needs as many samples a question, and {name} has --k {k}')


_OPTION = {'samples': 'k'}


def _template(asked: str | None, stage: Any, tokenizer: Any) -> tuple[str, Callable]:
    """(its name, the function) that turns a problem into model input."""
    if asked is None and stage is not None:
        asked = str(stage).removeprefix('r1jax.data.template:')
        if asked not in NAMED:
            raise BadInput(
                f'the stage was trained with a template of its own ({stage}): name one with --template {" | ".join(NAMED)}'
            )
    asked = asked or ('chat' if tokenizer.chat_template else 'plain')
    if asked not in NAMED:
        raise BadInput(f'there is no template {asked}{nearest(asked, NAMED)}')
    return asked, NAMED[asked]


def _ready(
    benchmark: Benchmark, model, tokenizer, template: tuple[str, Callable], judges: Mapping[str, Part], options: Options
) -> Ready:
    """Reads and encodes the problems, all of them: room and digest must not depend on how many of them are asked."""
    problems = list(benchmark.problems(options.data, options.since, options.until))
    prompts = [tokenizer.encode(template[1](_asked(benchmark, p), tokenizer)) for p in problems]
    room = -(-max(map(len, prompts)) // ROUND) * ROUND
    left = model.context - room
    limit = min(TOKENS, left) if options.max_tokens is None else options.max_tokens
    if limit > left or limit < 1:
        raise BadInput(
            f"{benchmark.name}: prompts of up to {room} tokens leave {left} of the model's context of {model.context}, and "
            f'--max-tokens is {options.max_tokens or "its rest"}: give at most {left}'
        )
    seed = derive(options.seed, 'eval', benchmark.name)
    cfg = SampleConfig(limit, room, options.temperature, options.top_p, slots=options.slots, buckets=1)
    sampler = Sampler.create(model, cfg, 1, tokenizer, seed, fixed=True)
    facts = (fact for p, ids in zip(problems, prompts, strict=True) for fact in (f'{p.id} {p.kind} {p.answer}', ids))
    settings = {
        'benchmark': benchmark.name,
        'data': digest(facts),
        'template': template[0],
        'ask': benchmark.ask,
        'temperature': options.temperature,
        'top_p': options.top_p,
        'max_tokens': limit,
        'max_prompt': room,
        'seed': options.seed,
        'slots': options.slots,
    }
    keep = slice(options.limit or None)
    bench = Bench(benchmark, problems[keep], prompts[keep], sampler, tokenizer, options.temperature)
    grade = judges[benchmark.grade] if isinstance(benchmark.grade, str) else benchmark.grade
    if isinstance(benchmark.grade, str):
        settings['judge'] = f'{options.judge_model} at {options.judge}'
    return Ready(benchmark, bench, grade, options.samples or benchmark.samples, settings)


def _asked(benchmark: Benchmark, problem: Problem) -> Problem:
    return dataclasses.replace(problem, prompt=benchmark.ask.replace(MARK, problem.prompt), meta={})


def _entry(ready: Ready, kept: Kept, settings: Mapping[str, Any], options: Options) -> dict[str, Any]:
    rows = grid(kept.lines(), [p.id for p in ready.bench.problems], ready.samples, str(kept.path))
    ks = options.at or results.powers(ready.samples)
    if ready.name == 'alpaca_eval':
        found = judging.figures(rows, ks, winrate.published(options.data))
    else:
        found = ready.benchmark.figures(rows, ks)
    if options.ratings and found.get('rating') is not None:
        found['percentile'] = elo.percentile(found['rating'], elo.people(options.ratings))
    return results.entry(ready.name, found, settings)


def _told(name: str) -> Callable[[int, int], None]:
    """Tells of progress on standard error, now and then."""
    began = last = time.monotonic()

    def tell(stored: int, whole: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= EVERY or stored == whole:
            last = now
            print(f'{name}: {stored} of {whole} samples, {now - began:.0f} s', file=sys.stderr, flush=True)

    return tell


def _notes(entries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = [
        f'{name}: {found["grader_errors"]} samples could not be graded ({found["grader_outcomes"]}) and count as wrong'
        for name, found in entries.items()
        if found.get('grader_errors')
    ]
    cut = [f'{name} {100 * found["truncated"]:.0f} %' for name, found in entries.items() if found.get('truncated')]
    return [*lines, *([f'cut off at --max-tokens: {", ".join(cut)}'] if cut else [])]


def folder_of(checkpoint: str) -> Path:
    """Where results go where no folder is named."""
    name = Path(checkpoint.rstrip('/')).name.replace(':', '-') or 'checkpoint'
    return Path('runs', 'evals', name)
