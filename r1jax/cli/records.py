"""Commands that read what was recorded, and what a machine has: report, diagnose, grade, doctor."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, ClassVar

from r1jax import runtime
from r1jax.cli.arguments import FlagCreatePairsOff, Positional, Unsandboxed, arg


@dataclasses.dataclass(frozen=True)
class Report:
    """Write a workdir's report.html anew, or one page of several runs: curves, results, the papers' tables, samples to search."""

    afterwards: ClassVar[str] = ''

    paths: Annotated[Positional[tuple[Path, ...]], arg('WORKDIR', '(several)')]
    """Where experiments were run; also folders that r1jax eval wrote."""
    out: Annotated[Path | None, arg('FILE', '(default: WORKDIR/report.html, of several report.html here)')] = None
    """Where the page is written."""
    samples: Annotated[int | None, arg('N', '(default: 2000)')] = None
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

    workdir: Annotated[Positional[Path], arg('WORKDIR')]
    """Where an experiment was run."""
    json: Annotated[bool, FlagCreatePairsOff] = False
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

    file: Annotated[Positional[Path], arg('FILE')]
    """JSON lines with id, kind (math, code, …), prompt, answer, completion and, where the kind needs it, meta."""
    json: Annotated[bool, FlagCreatePairsOff] = False
    """Print a JSON line for each: id, accuracy, outcome."""
    deadline: Annotated[float | None, arg('SECONDS', '(default: by the kind)')] = None
    """How long grading one completion may take."""
    workers: Annotated[int, arg('N', '(default: as many as cores)')] = 0
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
class Doctor:
    """Say what this machine gives to a run, and what to do where something is in the way. Exit status 1: something is."""

    afterwards: ClassVar[str] = ''

    json: Annotated[bool, FlagCreatePairsOff] = False
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
