"""The `r1jax` command.

    r1jax run EXPERIMENT            from a recipe to a workdir: trains, evaluates, resumes
    r1jax export CHECKPOINT DIR     writes a Hugging Face folder, or with --adapter one for PEFT
    r1jax report WORKDIR...         writes a workdir's report.html anew, or one page of several runs
    r1jax diagnose WORKDIR          says why a run does not learn, or why not to believe that it does
    r1jax grade FILE                grades a file of problems with completions
    r1jax new NAME                  writes a small experiment with a reward of its own, and its test
    r1jax doctor                    says what this machine gives to a run, and what to do where something is in the way
    r1jax plan EXPERIMENT           what it would need of chips that need not be here
    r1jax eval CHECKPOINT           measures a checkpoint by benchmarks, beside the paper's figures
    r1jax serve CHECKPOINT          an OpenAI-compatible server, with a page
    r1jax chat CHECKPOINT           a conversation in the terminal

Exit status 0 is success, 2 bad input (a line says what is wrong), 1 a failure on the way (with a line that says what
to do, or with its traceback; the state is kept) and 130 an interrupt. What needs jax is imported only once a command
runs, so that `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

import r1jax
from r1jax import runtime
from r1jax.serve.options import Decoding, Limits


def _arg(metavar: str, default: str = '', **kwargs):
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=default, **kwargs)


Unsandboxed = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclasses.dataclass(frozen=True)
class Run:
    """Run an experiment. On a workdir that holds its state, the same command goes on from there.

    A stage that is finished is not run again, unless its settings, its data or what it starts from have changed: then it is, with those
    that were made of it, and what they had is set aside in DIR/stale. To have a stage run again all the same, remove DIR/checkpoints/NAME.
    """

    afterwards: ClassVar[str] = 'the same command goes on from the last checkpoint'

    experiment: Annotated[tyro.conf.Positional[Path], _arg('EXPERIMENT')]
    """Path of a Python module that defines recipe()."""
    workdir: Annotated[Path | None, _arg('DIR', '(default: runs/NAME, by the recipe)')] = None
    """Where everything is written."""
    stage: Annotated[str | None, _arg('NAME')] = None
    """Run this stage only; those that it needs must be finished."""
    first: Annotated[str | None, _arg('NAME', name='from')] = None
    """Run from this stage on, as far as these are not finished."""
    set: Annotated[
        tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, _arg('STAGE.FIELD=VALUE', '(several, or repeated)')
    ] = ()
    """Change settings, such as zero.optim.learning_rate=1e-4 or mesh.data=8."""
    seed: Annotated[int | None, _arg('N')] = None
    """The recipe's seed, as --set seed=N."""
    profile: Annotated[str | None, _arg('STEP', '(or STAGE:STEP)')] = None
    """Trace this optimizer step into DIR/profile, for XProf, TensorBoard and Perfetto."""
    coordinator: Annotated[str | None, _arg('HOST:PORT', '(default: found, under TPU pods, GKE and SLURM)')] = None
    """Of several processes started by hand: where the first one is, on a free port."""
    processes: Annotated[int | None, _arg('N')] = None
    """Of several processes started by hand: how many. 1: this one alone, whatever cluster it runs on."""
    process: Annotated[int | None, _arg('I')] = None
    """Of several processes started by hand: which this is, from 0."""
    allow_unsandboxed: Unsandboxed = False
    """Run model code without a sandbox where this system has none: it can then do whatever you can."""

    def __call__(self) -> None:
        from r1jax import distributed, settings

        runtime.allow_unsandboxed(self.allow_unsandboxed)
        with settings.as_bad_input():
            distributed.start(distributed.by_hand(self.coordinator, self.processes, self.process))
            recipe = settings.load_recipe(self.experiment)
            seed = () if self.seed is None else (f'recipe.seed={self.seed}',)
            recipe = settings.override(recipe, [*(each for group in self.set for each in group), *seed])
            settings.chosen(recipe, self.stage, self.first)

        from r1jax.train import stage

        workdir = self.workdir or Path('runs', recipe.name)
        stage.run(recipe, workdir, stage=self.stage, first=self.first, profile=self.profile)


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a checkpoint as a Hugging Face folder, which transformers and vLLM load, or a stage's adapters as one for PEFT."""

    afterwards: ClassVar[str] = 'nothing was written'

    checkpoint: Annotated[tyro.conf.Positional[str], _arg('CHECKPOINT')]
    """A workdir (its last stage), WORKDIR:STAGE, a Hugging Face folder, or a GGUF."""
    directory: Annotated[tyro.conf.Positional[Path], _arg('DIR')]
    """A folder that does not exist yet."""
    dtype: Annotated[
        Literal['bfloat16', 'float16', 'float32', 'stored'] | None,
        _arg('{bfloat16,float16,float32,stored}', '(default: bfloat16; of adapters: stored)'),
    ] = None
    """Of the weights; stored: as the checkpoint has them."""
    adapter: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Of a stage with LoRA write the adapters alone, not merged into their base."""

    def __call__(self) -> None:
        (self._adapter if self.adapter else self._whole)()

    def _adapter(self) -> None:
        from r1jax import settings
        from r1jax.checks import from_weights
        from r1jax.train import restore
        from r1jax.weights import families, peft

        with settings.as_bad_input():
            found = restore.adapters(self.checkpoint)
            base = found.start if from_weights(found.start) else None
            dtype = None if self.dtype in (None, 'stored') else self.dtype
            names = families.names(found.model)
            files = peft.write(str(self.directory), found.params, found.lora, names, base, dtype)
        print(f'{found.what} -> {self.directory}: {", ".join(files)}')
        if base is None:
            workdir = self.checkpoint.rpartition(':')[0] or self.checkpoint
            put_on = (
                f'r1jax export {workdir}:{found.start}'
                if found.start != 'init'
                else 'no folder: it was drawn at random'
            )
            print(f'their base is {found.start}: {put_on}')
        if found.lora.base == 'int8':
            print('they were trained beside weights rounded to int8: on others, logits differ by that rounding')

    def _whole(self) -> None:
        from r1jax import settings
        from r1jax.train import restore
        from r1jax.weights import export, exported_chat

        with settings.as_bad_input():
            found = restore.restore(self.checkpoint)
            tokenizer = found.source.tokenizer
            template = exported_chat.exported(found.template, tokenizer) if found.template and tokenizer else None
            dtype = None if self.dtype == 'stored' else self.dtype or 'bfloat16'
            files = export.write(str(self.directory), found.source, dtype, chat_template=template)
        for note in found.source.skipped:
            print(f'left out: {note}')
        print(f'{found.what} -> {self.directory}: {", ".join(files)}')


@dataclasses.dataclass(frozen=True)
class Report:
    """Write a workdir's report.html anew, or one page of several runs: curves, results, the papers' tables, samples to search."""

    afterwards: ClassVar[str] = ''

    paths: Annotated[tyro.conf.Positional[tuple[Path, ...]], _arg('WORKDIR', '(several)')]
    """Where experiments were run; also folders that r1jax eval wrote."""
    out: Annotated[Path | None, _arg('FILE', '(default: WORKDIR/report.html, of several report.html here)')] = None
    """Where the page is written."""
    samples: Annotated[int | None, _arg('N', '(default: 2000)')] = None
    """Samples that the page holds at most; 0 leaves the browser out."""

    def __call__(self) -> None:
        from r1jax import report
        from r1jax.settings import BadInput, as_bad_input

        most = report.browser.MOST if self.samples is None else self.samples
        with as_bad_input():
            if not self.paths:
                raise BadInput('name a workdir, or several: r1jax report WORKDIR...')
            if most < 0:
                raise BadInput(f'--samples {most} must be 0 or more')
            if self.out and not self.out.parent.is_dir():
                raise BadInput(f'--out {self.out}: there is no folder {self.out.parent}')
            if self.out and self.out.is_dir():
                raise BadInput(f'--out {self.out} is a folder: name a file, such as {self.out / report.PAGE}')
            print(report.of([str(path) for path in self.paths], str(self.out) if self.out else None, most))


@dataclasses.dataclass(frozen=True)
class Diagnose:
    """Say why a run does not learn, or why not to believe that it does, from its records. Exit status 1: there is a problem.

    It may be going on. Each finding has its evidence and what to do; docs/diagnosis.md has more of each.
    """

    afterwards: ClassVar[str] = ''

    workdir: Annotated[tyro.conf.Positional[Path], _arg('WORKDIR')]
    """Where an experiment was run."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print a JSON line for each finding: stage, check, severity, seen, todo, steps, numbers."""

    def __call__(self) -> None:
        import json

        from r1jax import settings
        from r1jax.report import diagnosis

        if not (self.workdir / 'config.json').is_file():
            raise settings.BadInput(f'{self.workdir} is no workdir: it has no config.json')
        with settings.as_bad_input():
            found = diagnosis.diagnose(self.workdir)
        for each in found:
            print(json.dumps(each.record(), ensure_ascii=False) if self.json else each.lines())
        if not found and not self.json:
            print('none of the faults that are looked for is in its records')
        if any(each.severity == 'problem' for each in found):
            sys.exit(1)


@dataclasses.dataclass(frozen=True)
class Grade:
    """Grade a file of problems with completions, in worker processes, as training would."""

    afterwards: ClassVar[str] = ''

    file: Annotated[tyro.conf.Positional[Path], _arg('FILE')]
    """JSON lines with id, kind (math, code, …), prompt, answer, completion and, where the kind needs it, meta."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print a JSON line for each: id, accuracy, outcome."""
    deadline: Annotated[float | None, _arg('SECONDS', '(default: by the kind)')] = None
    """How long grading one completion may take."""
    workers: Annotated[int, _arg('N', '(default: as many as cores)')] = 0
    """Processes that grade."""
    allow_unsandboxed: Unsandboxed = False
    """Run model code without a sandbox where this system has none: it can then do whatever you can."""

    def __call__(self) -> None:
        from r1jax import grade, settings

        runtime.allow_unsandboxed(self.allow_unsandboxed)
        with settings.as_bad_input():
            if self.workers < 0:
                raise settings.BadInput(f'--workers {self.workers} must be 0 or more')
            for line in grade.run(self.file, self.json, self.workers, self.deadline):
                print(line)


@dataclasses.dataclass(frozen=True)
class New:
    """Write a small experiment with a reward of its own, and a test of it, to change."""

    afterwards: ClassVar[str] = ''

    name: Annotated[tyro.conf.Positional[str], _arg('NAME')]
    """Of the experiment: DIR/NAME.py and DIR/test_NAME.py are written."""
    directory: Annotated[Path, _arg('DIR', '(default: here)')] = Path('.')
    """Where they are written."""

    def __call__(self) -> None:
        from r1jax import new

        experiment, test = new.write(self.name, self.directory)
        print(f'{experiment}: r1jax run {experiment} --workdir runs/{self.name}')
        print(f'{test}: pytest {test}')


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Say what this machine gives to a run, and what to do where something is in the way. Exit status 1: something is."""

    afterwards: ClassVar[str] = ''

    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print a JSON line for each finding: check, level (ok, note, fix), seen, todo."""

    def __call__(self) -> None:
        import json

        from r1jax import doctor

        well = True
        for each in doctor.examine():
            print(json.dumps(dataclasses.asdict(each)) if self.json else each.line(), flush=True)
            well &= each.level != 'fix'
        if not well:
            sys.exit(1)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Say what an experiment needs of chips that need not be here: memory, time and chip-hours, of every program that it compiles.

    Neither weights nor data are read. Exit status 0: every stage fits; 1: one does not.
    """

    afterwards: ClassVar[str] = ''

    experiment: Annotated[tyro.conf.Positional[Path], _arg('EXPERIMENT')]
    """Path of a Python module that defines recipe()."""
    topology: Annotated[str, _arg('NAME')]
    """Chips, such as v5p:4x4x8, 2*v5p:4x4x8 for two slices of them, or h100:16 (estimates)."""
    stage: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, _arg('NAME', '(repeated; default: all)')] = ()
    """Plan this stage."""
    set: Annotated[
        tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, _arg('STAGE.FIELD=VALUE', '(several, or repeated)')
    ] = ()
    """Change settings, such as mesh.fsdp=16 or zero.rows.per_microbatch=16."""
    tokens: Annotated[int, _arg('N', '(default: as many as it may have)')] = 0
    """Mean length of a response: lengths decide on time, and are not known before."""
    search: Annotated[int, _arg('N', '(default: the mesh of the recipe)')] = 0
    """Weigh all meshes, rows a microbatch and slots by their shapes, and compile the best until N fit."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON."""

    def __call__(self) -> None:
        from r1jax import settings

        os.environ['JAX_PLATFORMS'] = 'cpu'  # it compiles for chips that need not be here
        with settings.as_bad_input():
            for name, value in ('tokens', self.tokens), ('search', self.search):
                if value < 0:
                    raise settings.BadInput(f'--{name} {value} must be 0 or more')
            recipe = settings.load_recipe(self.experiment)
            recipe = settings.override(recipe, [each for group in self.set for each in group])
        from r1jax.plan import command

        if status := command.run(recipe, self.topology, self.stage, self.tokens, self.search, self.json):
            sys.exit(status)


@dataclasses.dataclass(frozen=True)
class Eval:
    """Measure a checkpoint by benchmarks, as the R1 report does, and set the figures beside its own. Every sample is stored with its
    grade; the same command goes on where it was stopped, and with a larger --k or --limit adds to what is there.
    """

    afterwards: ClassVar[str] = 'the same command goes on from the samples that are stored'

    checkpoint: Annotated[
        tyro.conf.Positional[str], _arg('CHECKPOINT', '(left out with --compare and --judgements)')
    ] = ''
    """A workdir (its last stage), WORKDIR:STAGE, a Hugging Face folder, or a GGUF."""
    benchmark: Annotated[tuple[str, ...], _arg('NAME', '(several)')] = ()
    """Benchmarks, such as aime24 math500 gsm8k humaneval, or lm-eval:TASK."""
    compare: Annotated[tuple[str, ...], _arg('DIR', '(two)')] = ()
    """Compare two folders of results, A and B, on the questions that both have."""
    judgements: Annotated[tuple[str, ...], _arg('NAME=FILE', '(several)')] = ()
    """Win rates of judgements that were made before: alpaca_eval=annotations.json, arena_hard=judgements.jsonl."""
    k: Annotated[int | None, _arg('K', '(default: by the benchmark, 4 to 64)')] = None
    """Samples a question."""
    data: Annotated[Path | None, _arg('DIR')] = None
    """Where the problems lie: DIR/NAME, a copy of the set's repository on the Hugging Face hub, or DIR/NAME.jsonl."""
    limit: Annotated[int, _arg('N', '(default: all)')] = 0
    """The first so many questions of each benchmark."""
    since: Annotated[str, _arg('YYYY-MM-DD')] = ''
    """Of problems with a date (livecodebench, codeforces) those from this day on."""
    until: Annotated[str, _arg('YYYY-MM-DD')] = ''
    """And before this one."""
    max_tokens: Annotated[int | None, _arg('N', '(default: 32768, or what the context leaves)')] = None
    """Longest response, tokens."""
    temperature: Annotated[float, _arg('T')] = 0.6
    """Of the draws; 0 is greedy, with --k 1."""
    top_p: Annotated[float, _arg('P')] = 0.95
    """Only the most likely tokens that together have this probability are drawn."""
    at: Annotated[tuple[int, ...], _arg('N', '(several; default: powers of two up to K)')] = ()
    """Of which n pass@n is reported."""
    seed: Annotated[int, _arg('N')] = 0
    """Of the draws."""
    slots: Annotated[int, _arg('N')] = 32
    """Rows decoded together. Samples are the same bits at the same number only."""
    template: Annotated[str | None, _arg('NAME', "(default: the stage's, or the tokenizer's)")] = None
    """How a problem is asked: chat, chat_r1_zero, r1, r1_zero, dialogue, plain."""
    mesh: Annotated[tuple[str, ...], _arg('AXIS=N', '(several)')] = ()
    """Devices, such as data=4 tensor=2."""
    out: Annotated[Path | None, _arg('DIR', '(default: runs/evals/CHECKPOINT)')] = None
    """Where samples and results are written."""
    beside: Annotated[tuple[str, ...], _arg('MODEL', '(several; default: R1, R1-Zero, Distill-Qwen-1.5B)')] = ()
    """Models of the paper to show."""
    ratings: Annotated[Path | None, _arg('FILE')] = None
    """Codeforces ratings of people, JSON, for the percentile of a rating."""
    judge: Annotated[str, _arg('URL')] = ''
    """An OpenAI-compatible endpoint that judges what no rule can, such as http://localhost:8000/v1."""
    judge_model: Annotated[str, _arg('NAME')] = ''
    """The model to ask there."""
    judge_key: Annotated[str, _arg('VARIABLE')] = ''
    """Name of the environment variable that holds its key."""
    shots: Annotated[int | None, _arg('N', "(default: the task's)")] = None
    """Examples in the prompts of lm-eval's tasks."""
    sampled: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Have lm-eval's tasks draw with --temperature and --top-p, where most generate greedily."""
    workers: Annotated[int, _arg('N', '(default: as many as cores)')] = 0
    """Processes that grade."""
    allow_unsandboxed: Unsandboxed = False
    """Run model code without a sandbox where this system has none: it can then do whatever you can."""

    def __call__(self) -> None:
        runtime.allow_unsandboxed(self.allow_unsandboxed)
        from r1jax import evaluate, settings
        from r1jax.evals.results import BESIDE

        with settings.as_bad_input():
            mesh = settings.mesh_of(self.mesh)
            asked = [name for name in ('checkpoint', 'compare', 'judgements') if getattr(self, name)]
            if len(asked) != 1:
                raise settings.BadInput('name one of a CHECKPOINT, --compare A B and --judgements NAME=FILE')
            if self.compare and len(self.compare) != 2:
                raise settings.BadInput(f'--compare takes two folders of results, not {len(self.compare)}')
        beside = self.beside or BESIDE
        if self.compare:
            lines = evaluate.compared(*self.compare)
        elif self.judgements:
            out = self.out or evaluate.folder_of('judgements')
            lines = evaluate.judged(self.judgements, str(self.data) if self.data else None, out, beside)
        else:
            lines = self._measured(evaluate, mesh, beside)
        print('\n'.join(lines))

    def _measured(self, evaluate, mesh, beside) -> list[str]:
        same = {name: getattr(self, name) for name in (
            'limit', 'since', 'until', 'max_tokens', 'temperature', 'top_p', 'at', 'seed', 'slots', 'template', 'workers',
            'judge', 'judge_model', 'judge_key', 'shots', 'sampled',
        )}  # fmt: skip
        paths = {name: None if (path := getattr(self, name)) is None else str(path) for name in ('data', 'ratings')}
        options = evaluate.Options(samples=self.k, beside=beside, **paths, **same)
        return evaluate.run(
            self.checkpoint, self.benchmark, self.out or evaluate.folder_of(self.checkpoint), mesh, options
        )


@dataclasses.dataclass(frozen=True)
class Serve:
    """Serve a checkpoint as OpenAI's chat completions and completions, and a page to talk to it.

    Ends at SIGTERM or an interrupt, after what runs has had its time of grace. API keys also come from R1JAX_API_KEYS, with commas between.
    """

    afterwards: ClassVar[str] = ''

    checkpoint: Annotated[tyro.conf.Positional[str], _arg('CHECKPOINT')]
    """A workdir (its last stage), WORKDIR:STAGE, a Hugging Face folder, or a GGUF."""
    host: Annotated[str, _arg('HOST')] = '127.0.0.1'
    """Where to listen. Beyond loopback there must be API keys."""
    port: Annotated[int, _arg('N')] = 8000
    """Where to listen; 0 takes one that is free."""
    name: Annotated[str | None, _arg('NAME', "(default: the checkpoint's)")] = None
    """What clients call the model."""
    api_keys: Annotated[Path | None, _arg('FILE')] = None
    """API keys that are taken, one a line."""
    allow_host: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, _arg('NAME')] = ()
    """A name besides those of loopback under which a server there is called, as by a proxy."""
    temperature: Annotated[float | None, _arg('T', "(default: the checkpoint's, or 0.6)")] = None
    """Where a request has none."""
    top_p: Annotated[float | None, _arg('P', "(default: the checkpoint's, or 0.95)")] = None
    """Where a request has none."""
    decoding: tyro.conf.OmitArgPrefixes[Decoding] = dataclasses.field(default_factory=Decoding)
    limits: tyro.conf.OmitArgPrefixes[Limits] = dataclasses.field(default_factory=Limits)

    def __call__(self) -> None:
        from r1jax import settings

        with settings.as_bad_input():
            from r1jax.serve import run

        run.run(**{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})


@dataclasses.dataclass(frozen=True)
class Chat:
    """Talk to a checkpoint in the terminal. /help says what can be typed besides."""

    afterwards: ClassVar[str] = ''

    checkpoint: Annotated[tyro.conf.Positional[str], _arg('CHECKPOINT')]
    """A workdir (its last stage), WORKDIR:STAGE, a Hugging Face folder, or a GGUF."""
    system: Annotated[str, _arg('TEXT', '(default: none)')] = ''
    """What the model is told before all else."""
    temperature: Annotated[float | None, _arg('T', "(default: the checkpoint's, or 0.6)")] = None
    """0 for the most likely token."""
    top_p: Annotated[float | None, _arg('P', "(default: the checkpoint's, or 0.95)")] = None
    """Tokens are drawn from the most likely ones that have this share of all probability."""
    max_tokens: Annotated[int, _arg('N', '(default: as many as there is room for)')] = 0
    """Of an answer."""
    seed: Annotated[int | None, _arg('N', '(default: another each time)')] = None
    """Of the answers."""
    decoding: tyro.conf.OmitArgPrefixes[Decoding] = dataclasses.field(default_factory=lambda: Decoding(slots=1))

    def __call__(self) -> None:
        from r1jax.serve import terminal

        terminal.run(**{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (default: the process's) and returns its exit status; a usage error exits with 2."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv == ['--version']:
        print(f'r1jax {r1jax.__version__}')
        return 0
    about = f'{r1jax.__doc__} This is version {r1jax.__version__}, as --version says.'
    commands = Run | Eval | Serve | Chat | Export | Report | Diagnose | Grade | Plan | New | Doctor
    command = tyro.cli(commands, prog='r1jax', description=about, args=argv)

    runtime.configure()
    from r1jax import distributed
    from r1jax.settings import BadInput, Failed

    try:
        command()
    except KeyboardInterrupt:
        print('\n' + '; '.join(filter(None, ('r1jax: interrupted', command.afterwards))), file=sys.stderr)
        status, why = 130, 'was interrupted'
    except BadInput as error:
        print(f'r1jax: error: {error}', file=sys.stderr)
        status, why = 2, f'found: {error}'
    except Failed as error:
        print(f'r1jax: failed: {"; ".join(filter(None, (str(error), command.afterwards)))}', file=sys.stderr)
        status, why = 1, f'failed: {error}'
    except Exception as error:
        traceback.print_exc()
        who = ' '.join(filter(None, ('r1jax:', distributed.name(), 'failed')))
        print('; '.join(filter(None, (who, distributed.blame(error), command.afterwards))), file=sys.stderr)
        status, why = 1, f'failed:\n{traceback.format_exc()}'
    else:
        return 0
    distributed.fail(why, status)
    return status
