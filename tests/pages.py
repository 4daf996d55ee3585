"""The Markdown of this repository as its tests read it: blocks of code, links, and names in backticks.

A block of code is fenced and says its language. What becomes of it:

- `python`: run, with those before it on the page, in one namespace; if its first line is a comment that names a file, `# mine.py`, it is
  saved as this file instead;
- `sh` under `<!-- run -->`: run, where the page stands between the Python of the same page;
- `sh` under `<!-- command: NAME -->`: run by what `COMMANDS` names;
- either, with `# not run: REASON` as its first line, which readers see: not run, but parsed;
- `text` behind one that is run: what that prints, `…` standing for anything;
- any other language (`math`, `yaml`, directives): shown.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import io
import os
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / 'docs'
COMMANDS = {'run': 'tests/test_story.py', 'test': '.ci/run'}  # blocks of the README -> what runs them
RECORDS = (DOCS / 'results', DOCS / 'plans')  # pages that a script wrote: what was run stands in them
MADE = tuple(DOCS / name for name in ('api', 'notebooks', 'project'))  # by a build of the site
NOT_RUN = '# not run: '
SHELL, PYTHON = 'sh', 'python'
_FENCE = re.compile(r'^```(\S*)(?: .+)?$')  # a directive has arguments
_MARK = re.compile(r'^<!-- (run|command: \w+) -->$')


@dataclasses.dataclass(frozen=True)
class Block:
    page: pathlib.Path
    line: int  # of its first line of code, from 1
    language: str
    code: str
    mark: str = ''  # 'run', 'command: NAME', or ''

    @property
    def where(self) -> str:
        return f'{self.page.relative_to(ROOT)}:{self.line}'

    @property
    def file(self) -> str | None:
        """The file that the block is to be saved as."""
        match = re.match(r'# (\w+\.py)\n', self.code)
        return match and match[1]

    @property
    def reason(self) -> str | None:
        """Why it is not run."""
        first = self.code.partition('\n')[0]
        return first.removeprefix(NOT_RUN).strip() if first.startswith(NOT_RUN) else None


def written() -> list[pathlib.Path]:
    """The pages that people write."""
    beside = *(ROOT / '.github').rglob('*.md'), *(ROOT / 'notebooks').glob('*.md')
    found = [*ROOT.glob('*.md'), *beside, *DOCS.glob('**/*.md')]
    return sorted(p for p in found if not any(map(p.is_relative_to, (*RECORDS, *MADE))))


def everything() -> list[pathlib.Path]:
    """The pages that a reader may come to."""
    return sorted({*written(), *(page for folder in RECORDS for page in folder.glob('*.md'))})


@functools.cache
def blocks(page: pathlib.Path) -> tuple[Block, ...]:
    """The fenced blocks of a page. ValueError: a fence is never closed, or code is indented in place of a fence."""
    found, before, opened = [], '', None
    lines = page.read_text(encoding='utf-8').split('\n')
    for number, line in enumerate(lines, 1):
        if opened:
            if line == '```':
                start, language, mark = opened
                found.append(Block(page, start, language, '\n'.join(lines[start - 1 : number - 1]) + '\n', mark))
                opened = None
        elif match := _FENCE.match(line):
            mark = _MARK.match(before)
            opened = number + 1, match[1], mark[1] if mark else ''
        elif line.startswith('    ') and not lines[number - 2].strip():
            raise ValueError(f'{page}:{number}: code is fenced, and says its language')
        before = line or before
    if opened:
        raise ValueError(f'{page}:{opened[0]}: the block is never closed')
    return tuple(found)


def runs(block: Block) -> bool:
    """Whether running the page runs it."""
    return block.mark == 'run' or (block.language == PYTHON and block.reason is None)


def headings(page: pathlib.Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MyST make them."""
    text = re.sub(r'^```.*?^```$', '', page.read_text(encoding='utf-8'), flags=re.DOTALL | re.MULTILINE)
    return {anchor(title) for title in re.findall(r'^#+ (.+)$', text, re.MULTILINE)}


def anchor(title: str) -> str:
    title = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', title)
    return re.sub(r'[^\w\- ]', '', title.strip().lower()).replace(' ', '-')


def prose(page: pathlib.Path) -> str:
    """A page without its blocks."""
    return re.sub(r'^```.*?^```$', '', page.read_text(encoding='utf-8'), flags=re.DOTALL | re.MULTILINE)


def words(code: str) -> Iterator[list[str]]:
    """The commands of a shell block, a list of words each; settings of variables before a command are left out, brackets around what
    may be left out are taken away.
    """
    text = code.replace('\\\n', ' ')
    for line in text.split('\n'):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        command: list[str] = []
        for word in [*lexer, ';']:
            if word not in ('&&', ';', '|', '&', '||'):
                command.append(word)
                continue
            while command and re.fullmatch(r'\w+=\S*', command[0]):
                command = command[1:]
            if command:
                yield [_bare(word) for word in command]
            command = []


def _bare(word: str) -> str:
    """Without the brackets of a synopsis: [--json], [--dtype bfloat16]."""
    word = word.removeprefix('[')
    return word if '[' in word else word.removesuffix(']')


def run(page: pathlib.Path, directory: pathlib.Path) -> None:
    """Runs a page from its top, as its blocks say (see the module), in `directory`, which is the process's own.

    AssertionError: a command fails, or a block prints other than the page says.
    """
    namespace: dict = {'__name__': page.stem}
    printed = None
    for block in blocks(page):
        if block.language == 'text':
            assert printed is None or same(block.code, printed), f'{block.where}: it prints\n{printed}'
            printed = None
        elif block.language == PYTHON and (name := block.file):
            (directory / name).write_text(block.code, encoding='utf-8')
        elif block.language == PYTHON and block.reason is None:
            lines = '\n' * (block.line - 1)  # so that a traceback names the page's line
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(lines + block.code, str(page), 'exec', dont_inherit=True), namespace)
            printed = out.getvalue() or None
        elif block.mark == 'run':
            printed = shell(block, directory) or None
        elif block.language in (SHELL, PYTHON):
            printed = None


def same(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed, `…` standing for anything, and spaces at the ends of lines for nothing."""
    shown, printed = ('\n'.join(map(str.rstrip, text.strip().split('\n'))) for text in (shown, printed))
    return re.fullmatch(re.escape(shown).replace('…', '.*?'), printed, re.DOTALL) is not None


def shell(block: Block, directory: pathlib.Path) -> str:
    """Runs a shell block as a person in `directory` would, with r1jax installed; returns what it prints.

    AssertionError: it fails.
    """
    programs = directory / '.programs'
    programs.mkdir(exist_ok=True)
    for name, module in (
        ('r1jax', '-m r1jax'),
        ('pytest', '-m pytest -p no:cacheprovider -p no:xdist'),
        ('python', ''),
    ):
        path = programs / name
        path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {module} "$@"\n')
        path.chmod(0o755)
    env = os.environ | {
        'PATH': f'{programs}{os.pathsep}{os.environ["PATH"]}',
        'PYTHONPATH': os.pathsep.join(filter(None, (str(ROOT), os.environ.get('PYTHONPATH')))),
        'XLA_FLAGS': '',
    }
    command = ['bash', '-euo', 'pipefail', '-c', block.code]
    done = subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f'{block.where}\n{block.code}\n{done.stdout}\n{done.stderr}'
    return done.stdout


def extras() -> set[str]:
    """Those of setup.py."""
    tree = ast.parse((ROOT / 'setup.py').read_text(encoding='utf-8'))
    named = (k for k in ast.walk(tree) if isinstance(k, ast.keyword) and k.arg == 'extras_require')
    return {key.value for keyword in named for key in keyword.value.keys}
