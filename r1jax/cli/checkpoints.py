"""Commands that take a checkpoint: export, eval, serve, chat."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from r1jax import runtime
from r1jax.cli.arguments import FlagCreatePairsOff, OmitArgPrefixes, Positional, Unsandboxed, UseAppendAction, arg
from r1jax.serve.options import Decoding, Limits


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a checkpoint as a Hugging Face folder, which transformers and vLLM load, or a stage's adapters as one for PEFT."""

    afterwards: ClassVar[str] = 'nothing was written'

    checkpoint: Annotated[Positional[str], arg('CHECKPOINT')]
    """A workdir (its last stage), WORKDIR:STAGE, a Hugging Face folder, or a GGUF."""
    directory: Annotated[Positional[Path], arg('DIR')]
    """A folder that does not exist yet."""
    dtype: Annotated[
        Literal['bfloat16', 'float16', 'float32', 'stored'] | None,
        arg('{bfloat16,float16,float32,stored}', '(default: bfloat16; of adapters: stored)'),
    ] = None
    """Of the weights; stored: as the checkpoint has them."""
    adapter: Annotated[bool, FlagCreatePairsOff] = False
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
class Eval:
    """Measure a checkpoint by benchmarks, as the R1 report does, and set the figures beside its own. Every sample is stored with its
    grade; the same command goes on where it was stopped, and with a larger --k or --limit adds to what is there.
    """

    afterwards: ClassVar[str] = 'the same command goes on from the samples that are stored'

    checkpoint: Annotated[Positional[str], arg('CHECKPOINT', '(left out with --compare and --judgements)')] = ''
    """A workdir (its last stage), WORKDIR:STAGE, a Hugging Face folder, or a GGUF."""
    benchmark: Annotated[tuple[str, ...], arg('NAME', '(several)')] = ()
    """Benchmarks, such as aime24 math500 gsm8k humaneval, or lm-eval:TASK."""
    compare: Annotated[tuple[str, ...], arg('DIR', '(two)')] = ()
    """Compare two folders of results, A and B, on the questions that both have."""
    judgements: Annotated[tuple[str, ...], arg('NAME=FILE', '(several)')] = ()
    """Win rates of judgements that were made before: alpaca_eval=annotations.json, arena_hard=judgements.jsonl."""
    k: Annotated[int | None, arg('K', '(default: by the benchmark, 4 to 64)')] = None
    """Samples a question."""
    data: Annotated[Path | None, arg('DIR')] = None
    """Where the problems lie: DIR/NAME, a copy of the set's repository on the Hugging Face hub, or DIR/NAME.jsonl."""
    limit: Annotated[int, arg('N', '(default: all)')] = 0
    """The first so many questions of each benchmark, and of each subtask of a group of lm-eval's."""
    since: Annotated[str, arg('YYYY-MM-DD')] = ''
    """Of problems with a date (livecodebench, codeforces) those from this day on."""
    until: Annotated[str, arg('YYYY-MM-DD')] = ''
    """And before this one."""
    max_tokens: Annotated[int | None, arg('N', '(default: 32768, or what the context leaves)')] = None
    """Longest response, tokens."""
    temperature: Annotated[float, arg('T')] = 0.6
    """Of the draws; 0 is greedy, with --k 1."""
    top_p: Annotated[float, arg('P')] = 0.95
    """Only the most likely tokens that together have this probability are drawn."""
    at: Annotated[tuple[int, ...], arg('N', '(several; default: powers of two up to K)')] = ()
    """Of which n pass@n is reported."""
    seed: Annotated[int, arg('N')] = 0
    """Of the draws."""
    slots: Annotated[int, arg('N')] = 32
    """Rows decoded together. Samples are the same bits at the same number only."""
    template: Annotated[str | None, arg('NAME', "(default: the stage's, or the tokenizer's)")] = None
    """How a problem is asked: chat, chat_r1_zero, r1, r1_zero, dialogue, plain."""
    mesh: Annotated[tuple[str, ...], arg('AXIS=N', '(several)')] = ()
    """Devices, such as data=4 tensor=2."""
    out: Annotated[Path | None, arg('DIR', '(default: runs/evals/CHECKPOINT)')] = None
    """Where samples and results are written."""
    beside: Annotated[tuple[str, ...], arg('MODEL', '(several; default: R1, R1-Zero, Distill-Qwen-1.5B)')] = ()
    """Models of the paper to show."""
    ratings: Annotated[Path | None, arg('FILE')] = None
    """Codeforces ratings of people, JSON, for the percentile of a rating."""
    judge: Annotated[str, arg('URL')] = ''
    """An OpenAI-compatible endpoint that judges what no rule can, such as http://localhost:8000/v1."""
    judge_model: Annotated[str, arg('NAME')] = ''
    """The model to ask there."""
    judge_key: Annotated[str, arg('VARIABLE')] = ''
    """Name of the environment variable that holds its key."""
    shots: Annotated[int | None, arg('N', "(default: the task's)")] = None
    """Examples in the prompts of lm-eval's tasks."""
    sampled: Annotated[bool, FlagCreatePairsOff] = False
    """Have lm-eval's tasks draw with --temperature and --top-p, where most generate greedily."""
    workers: Annotated[int, arg('N', '(default: as many as cores)')] = 0
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

    checkpoint: Annotated[Positional[str], arg('CHECKPOINT')]
    """A workdir (its last stage), WORKDIR:STAGE, a Hugging Face folder, or a GGUF."""
    host: Annotated[str, arg('HOST')] = '127.0.0.1'
    """Where to listen. Beyond loopback there must be API keys."""
    port: Annotated[int, arg('N')] = 8000
    """Where to listen; 0 takes one that is free."""
    name: Annotated[str | None, arg('NAME', "(default: the checkpoint's)")] = None
    """What clients call the model."""
    api_keys: Annotated[Path | None, arg('FILE')] = None
    """API keys that are taken, one a line."""
    allow_host: Annotated[tuple[str, ...], UseAppendAction, arg('NAME')] = ()
    """A name besides those of loopback under which a server there is called, as by a proxy."""
    temperature: Annotated[float | None, arg('T', "(default: the checkpoint's, or 0.6)")] = None
    """Where a request has none."""
    top_p: Annotated[float | None, arg('P', "(default: the checkpoint's, or 0.95)")] = None
    """Where a request has none."""
    decoding: OmitArgPrefixes[Decoding] = dataclasses.field(default_factory=Decoding)
    limits: OmitArgPrefixes[Limits] = dataclasses.field(default_factory=Limits)

    def __call__(self) -> None:
        from r1jax import settings

        with settings.as_bad_input():
            from r1jax.serve import run

        run.run(**{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})


@dataclasses.dataclass(frozen=True)
class Chat:
    """Talk to a checkpoint in the terminal. /help says what can be typed besides."""

    afterwards: ClassVar[str] = ''

    checkpoint: Annotated[Positional[str], arg('CHECKPOINT')]
    """A workdir (its last stage), WORKDIR:STAGE, a Hugging Face folder, or a GGUF."""
    system: Annotated[str, arg('TEXT', '(default: none)')] = ''
    """What the model is told before all else."""
    temperature: Annotated[float | None, arg('T', "(default: the checkpoint's, or 0.6)")] = None
    """0 for the most likely token."""
    top_p: Annotated[float | None, arg('P', "(default: the checkpoint's, or 0.95)")] = None
    """Tokens are drawn from the most likely ones that have this share of all probability."""
    max_tokens: Annotated[int, arg('N', '(default: as many as there is room for)')] = 0
    """Of an answer."""
    seed: Annotated[int | None, arg('N', '(default: another each time)')] = None
    """Of the answers."""
    decoding: OmitArgPrefixes[Decoding] = dataclasses.field(default_factory=lambda: Decoding(slots=1))

    def __call__(self) -> None:
        from r1jax.serve import terminal

        terminal.run(**{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})
