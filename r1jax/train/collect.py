"""A stage that collects: sample, grade, keep what is good (R1 report, section 2.3.3). It trains nothing.

Three passes, of which the first alone costs an accelerator's time:

1. `questions` prompts at a time are sampled, `samples` each, and graded while the next are sampled. STAGE.all.jsonl grows by a line a
   sample, in the order of the prompts. Killed anywhere, the stage goes on behind the last call whose lines are all there.
2. That file is read again and chosen from (`r1jax.curate.choose`); what is kept goes to STAGE.jsonl.part.
3. That file is read again, and every example is graded once more as it will be read: one that is not correct ends the run. Then the
   data card is written, and the file takes its name.

A stage that is run again because only its filters or another choice have changed takes over the samples that it had.

Memory holds a call's samples, `BLOCK` prompts' samples, and the index of what was kept: nothing that grows with the samples. Draws
depend on the seed, the prompt's id and the sample's number, and their last bits on nothing else that is sampled (`Sampler.fixed`); so the
files' bytes depend on neither `questions` nor on where a run was killed. Grades that depend on the clock (a deadline that a busy machine
misses) are counted as not graded.

Of several processes all sample, grade their shares and choose; the first writes, and reads what was sampled before.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from r1jax import distributed
from r1jax.config import Collect
from r1jax.curate import card
from r1jax.curate.choose import BLOCK, Choice, Chosen, Verdict
from r1jax.evals.graded import Asker, Graded
from r1jax.evals.run import records
from r1jax.pulse import beat
from r1jax.record import to_json
from r1jax.rewards.combine import Scores, begin
from r1jax.sample import Sampler
from r1jax.train import aside, checkpoint, collected, log
from r1jax.train.interrupt import Interrupted, Stopped
from r1jax.train.jobs import Job
from r1jax.train.loop import Context
from r1jax.train.phases import derive
from r1jax.types import Problem, Response

AGAIN = 3  # times that an example may fail to be graded when it is verified: deadlines are wall-clock
# Fields of a Collect that say what is kept of the samples, and not which there are
CHOOSING = {'filters', 'unfinished', 'pass_rate', 'keep', 'prefer', 'rewrite', 'near_duplicates', 'decontaminate'}
SLACK = 1e-3  # of a learned reward's threshold when it is verified: its last bits depend on what it is scored beside


class Collecting:
    """One collecting stage on its way."""

    def __init__(self, context: Context, job: Job):
        self.context, self.job, self.stage = context, job, job.stage
        assert isinstance(job.stage.source, Collect)
        self.cfg = job.stage.source
        self.rewards = self.cfg.rewards
        self.tokenizer = context.ready.tokenizer
        self.steps = math.ceil(len(job.problems) / self.cfg.questions)
        self.learned = {part.name for part in self.rewards if getattr(part.fn, 'learned', False)}
        self.began = time.monotonic()

    def run(self) -> dict:
        """Runs the stage to its end and returns its entry in summary.json.

        Raises:
          RuntimeError: nothing was kept, or what was kept is not correct when it is graded again.
        """
        distributed.told(lambda: os.makedirs(os.path.dirname(self._path('jsonl')), exist_ok=True))
        self.context.view.stage(self.stage.name, self.steps, 0)
        for note in self.job.notes:
            self.context.view.note(note)
        self._sample()
        tally, part = card.Tally(self.cfg), self._path('jsonl.part')
        mine = open(part, 'w+b', buffering=0) if distributed.first() else tempfile.TemporaryFile('w+b', buffering=0)  # noqa: SIM115
        with mine as file:  # all make it, and read in it what they chose
            self._choose(collected.Lines(file), tally)
            os.fsync(file.fileno())
        distributed.wait()
        self._verify(part)
        made = distributed.told(lambda: self._card(tally, part))
        prompts, samples = made['prompts'], made['samples']
        if not samples['kept']:
            raise RuntimeError(
                f'stage {self.stage.name} kept none of {samples["sampled"]:,} samples: {self._path("card.md")} says why'
            )
        distributed.told(lambda: os.replace(part, self._path('jsonl')))
        self.context.view.note(
            f'{self.stage.name}: {samples["kept"]:,} examples of {prompts["kept"]:,} prompts kept of {samples["sampled"]:,} samples; '
            f'see {self._path("card.md")}'
        )
        return {
            'steps': self.steps,
            'seconds': round(time.monotonic() - self.began, 1),
            'collected': {'prompts': prompts, 'samples': samples, 'sha256': made['file']['sha256']},
        }

    def outputs(self) -> dict:
        """What the stage ended with besides its collected."""
        return {}

    def _path(self, kind: str) -> str:
        return collected.path(self.context.workdir, self.stage.name, kind)

    def _stop(self) -> None:
        """Ends the run if a signal asks for it."""
        if received := self.context.signals.agreed():
            self.context.view.note(
                f'{signal.Signals(received).name}: what was sampled is kept; the same command goes on'
            )
            raise Stopped(128 + received)

    # --- sample and grade

    def _take_over(self) -> None:
        """Copies the samples that the stage had before it was changed, if only what is asked of them has changed."""
        workdir, name, path = self.context.workdir, self.stage.name, self._path('all.jsonl')
        if os.path.exists(path):
            return
        ours = drawn(checkpoint.read_begun(workdir, name))
        for folder in aside.left(workdir, name):
            theirs = os.path.join(folder, aside.DATA, os.path.basename(path))
            if os.path.exists(theirs) and drawn(aside.begun(folder)) == ours:
                shutil.copyfile(theirs, path + '.part')
                os.replace(path + '.part', path)
                self.context.view.note(
                    f'{name}: the samples are those of {folder}, of which it now asks something else'
                )
                return

    def _sample(self) -> None:
        """Brings STAGE.all.jsonl to its end."""
        distributed.told(self._take_over)
        context, cfg, problems = self.context, self.cfg, self.job.problems
        path = self._path('all.jsonl') if distributed.first() else os.devnull
        with open(path, 'a+b', buffering=0) as file:
            done = distributed.told(lambda: self._resume(file))
            if done == len(problems):
                return
            params = context.lineage().start(self.stage.name)
            sampler = Sampler.create(
                self.stage.model, cfg.sample, cfg.samples, self.tokenizer, self.job.seed, fixed=True
            )
            before = None
            ask = Asker(sampler, self.tokenizer, context.pool)
            for start in range(done, len(problems), cfg.questions):
                try:
                    with context.signals.at_once():
                        draw = start, self._draw(ask, params, start)
                except Interrupted:
                    draw = None  # sampled again; the call before is graded by now, or nearly
                if before:
                    self._finish(file, *before)
                before = draw
                if context.signals.agreed():
                    break
            if before:
                self._finish(file, *before)
            self._stop()

    def _draw(self, ask: Asker, params, start: int) -> Graded:
        """A call's responses, to the prompts from `start` on."""
        cfg = self.cfg
        rows = range(start, min(start + cfg.questions, len(self.job.problems)))
        problems = [self.job.problems[i] for i in rows]
        prompts = [self.job.prompts[i] for i in rows]
        limit, temperature = cfg.sample.max_tokens, cfg.sample.temperature
        return ask(params, problems, prompts, self.rewards, 0, limit, temperature)

    def _finish(self, file: BinaryIO, start: int, draw: Graded) -> None:
        """Waits for the grades and writes a call's lines."""
        scores, lines = draw.result(), []
        if not distributed.first():
            return
        for i, record in enumerate(records(draw.problems, draw.answers, scores, scores.reward)):
            lines.append(
                log.plain(
                    record | {'sample': i % self.cfg.samples, 'verdict': collected.verdict(self.cfg.correct, scores, i)}
                )
            )
        log.append(file, lines)
        os.fsync(file.fileno())
        self._log(start, lines)

    def _log(self, start: int, lines: Sequence[dict]) -> None:
        """A call's lines of metrics.jsonl and samples.jsonl, made of what stands in the file: the same when it is read again."""
        step, seconds = start // self.cfg.questions + 1, time.monotonic() - self.began
        metrics = collected.measured(lines)
        self.context.log.metrics(self.stage.name, step, seconds, metrics)
        shown = lines[: self.stage.log_samples * self.cfg.samples]
        self.context.log.samples(self.stage.name, step, [{'when': 'rollout', **line} for line in shown])
        self.context.view.step(self.stage.name, step, metrics)
        beat()

    def _resume(self, file: BinaryIO) -> int:
        """Cuts STAGE.all.jsonl behind its last whole call, whose metrics are logged anew; returns the prompts that are done."""
        done = 0
        for lines in collected.whole_calls(file, self.job.problems, self.cfg.questions, self.cfg.samples):
            self._log(done, lines)
            done += len(lines) // self.cfg.samples
        return done

    # --- choose

    def _choose(self, out: collected.Lines, tally: card.Tally) -> None:
        """Reads every sample and writes those that are kept."""
        problems, cfg = self.job.problems, self.cfg
        if cfg.rewrite is not None:
            cfg = dataclasses.replace(cfg, rewrite=_Told(cfg.rewrite))
        choice = Choice(cfg, derive(self.job.seed, 'keep'), self._verdicts, self._tokens, out.text, tally)
        lines = log.read(self._path('all.jsonl'))
        for start in range(0, len(problems), BLOCK):
            block = [problems[i] for i in range(start, min(start + BLOCK, len(problems)))]
            groups = [[collected.sample(line) for line in itertools.islice(lines, cfg.samples)] for _ in block]
            chosen = choice.block(block, groups)
            out.write([self._line(block[each.index], each) for each in chosen], [each.index for each in chosen])
            self._stop()

    def _line(self, problem: Problem, chosen: Chosen) -> dict:
        """What is stored of an example."""
        return {
            'question': problem.id,
            'kind': problem.kind,
            'language': problem.language,
            'prompt': self.stage.template(problem, self.tokenizer),
            'response': chosen.response.text,
            'tokens': chosen.response.tokens,
            'finished': chosen.response.finished,
            'problem': problem.prompt,
            'answer': problem.answer,
            'sample': chosen.sample,
            'pass_rate': chosen.pass_rate,
            'rewritten': chosen.rewritten,
        }

    def _tokens(self, text: str) -> int:
        return len(self.tokenizer.encode(text)) + 1

    def _grade(self, problems: Sequence[Problem], answers: Sequence[Response]) -> Scores:
        return begin(problems, answers, self.rewards, self.context.pool).result()

    def _verdicts(self, problems: Sequence[Problem], answers: Sequence[Response]) -> list[Verdict]:
        scores = self._grade(problems, answers)
        return [collected.verdict(self.cfg.correct, scores, i) for i in range(len(answers))]

    # --- verify

    def _verify(self, part: str) -> None:
        """Grades what was kept once more, as it stands in the file.

        Raises:
          RuntimeError: an example is not correct, or cannot be graded.
        """
        slack = dict.fromkeys(self.learned, SLACK)
        pairs = self._read(part)
        while block := list(itertools.islice(pairs, BLOCK)):
            for turn in range(AGAIN):
                scores = self._grade(*zip(*block, strict=True))
                verdicts = [collected.verdict(self.cfg.correct, scores, i, slack) for i in range(len(block))]
                if 'wrong' in verdicts or (turn == AGAIN - 1 and 'ungraded' in verdicts):
                    bad = verdicts.index('wrong' if 'wrong' in verdicts else 'ungraded')
                    parts = {name: float(values[bad]) for name, values in scores.parts.items()}
                    raise RuntimeError(
                        f'stage {self.stage.name}: an example of question {block[bad][0].id} that was kept as correct is '
                        f'{verdicts[bad]} when it is graded again: {parts}; a reward has to say the same of the same text'
                    )
                block = [pair for pair, each in zip(block, verdicts, strict=True) if each == 'ungraded']
                if not block:
                    break
            self._stop()

    def _read(self, part: str) -> Iterator[tuple[Problem, Response]]:
        """The examples of a file, which are in the order of the problems."""
        ordered = iter(self.job.problems)
        problem = None
        for line in log.read(part):
            while problem is None or problem.id != line['question']:
                problem = next(ordered)
            yield problem, Response(line['response'], line['tokens'], line['finished'])

    # --- tell

    def _card(self, tally: card.Tally, part: str) -> dict[str, Any]:
        """Writes the data card, and returns what it says."""
        counts, found = tally.counts(), self.job.found
        settings = to_json(
            self.context.ready.stage(self.stage.name).source
        )  # as it was written: models are not put in yet
        del settings['questions']  # it changes nothing
        digest, size = hashlib.sha256(), 0
        with open(part, 'rb') as file:
            while data := file.read(1 << 20):
                digest.update(data)
                size += len(data)
        counts['prompts'] = {
            'loaded': found['loaded'],
            'ungradable': self.job.removed,
            'contaminated': found['contaminated'],
        } | counts['prompts']
        made = {
            'recipe': self.context.ready.recipe.name,
            'stage': self.stage.name,
            'start': self.stage.start,
            'seed': self.job.seed,
            'key': checkpoint.read_begun(self.context.workdir, self.stage.name)['key'],
            **counts,
            'contamination': found['contamination'],
            'file': {
                'name': os.path.basename(self._path('jsonl')),
                'sha256': digest.hexdigest(),
                'examples': counts['samples']['kept'],
                'bytes': size,
            },
            'settings': settings,
        }
        collected.write(self._path('card.json'), card.to_json(made))
        collected.write(self._path('card.md'), card.to_markdown(made))
        return made


@dataclasses.dataclass(frozen=True)
class _Told:
    """What rewrites, asked by one process for all: it may be a server, which does not say the same twice."""

    rewrite: Any

    def many(self, problems: Sequence[Problem], responses: Sequence[Response]) -> list[str | None]:
        if hasattr(self.rewrite, 'many'):
            return distributed.told(lambda: list(self.rewrite.many(problems, responses)))
        return distributed.told(lambda: [self.rewrite(*each) for each in zip(problems, responses, strict=True)])


def drawn(record: dict | None) -> Any:
    """What the samples of a stage depend on, of what stage.json says of it; None where there is nothing."""
    if record is None:
        return None
    inputs = {name: value for name, value in record['inputs'].items() if name not in ('evals', 'measured')}
    source = {name: value for name, value in inputs['stage']['source'].items() if name not in CHOOSING}
    return inputs | {'stage': inputs['stage'] | {'source': source}}
