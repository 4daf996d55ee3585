"""What the pages tell people to type can be typed: each block is run or says why not, and each command parses."""

import ast
import dataclasses
import pathlib
import re

import pages
import pytest

from r1jax import cli, runtime, settings

# Programs that are not ours, of which a page may show the use
OTHERS = {'source', 'bash', 'cat', 'cd', 'cmp', 'git', 'gcloud', 'grep', 'head', 'hf', 'jupyter', 'kubectl', 'ls', 'mypy', 'sbatch',
          'sphinx-build', 'tail', 'tensorboard', 'tpu-info', 'xpk', 'curl'}  # fmt: skip
PAGES = pages.written()
BLOCKS = [block for page in pages.everything() for block in pages.blocks(page)]
SHELL = [block for block in BLOCKS if block.language == pages.SHELL and block.mark != 'run']  # those are run


def test_each_block_is_run_or_says_why_not():
    for page in PAGES:
        for block in pages.blocks(page):
            assert block.language, f'{block.where}: a block says its language'
            assert block.reason != '', f'{block.where}: say why it is not run'
            if block.language == pages.SHELL:
                told = bool(block.mark) + (block.reason is not None)
                assert told == 1, f'{block.where}: <!-- run --> before it, or # not run: REASON as its first line'
            if block.language == pages.PYTHON:
                compile(block.code, block.where, 'exec')
            if block.mark.startswith('command: '):
                by = pages.COMMANDS[block.mark.removeprefix('command: ')]
                assert (pages.ROOT / by).is_file(), block.where


def test_a_block_without_a_mark_is_found(tmp_path, monkeypatch):
    page = tmp_path / 'page.md'
    page.write_text('Text\n\n```sh\nr1jax doctor\n```\n')
    monkeypatch.setattr(pages, 'ROOT', tmp_path)
    monkeypatch.setitem(globals(), 'PAGES', [page])
    with pytest.raises(AssertionError, match=r'page.md:4: <!-- run -->'):
        test_each_block_is_run_or_says_why_not()
    page = tmp_path / 'other.md'
    page.write_text('Text\n\n    r1jax doctor\n')
    with pytest.raises(ValueError, match=r'other.md:3: code is fenced'):
        pages.blocks(page)


def test_shell_blocks_are_read_as_bash_reads_them():
    code = "a=1 b=2 r1jax run 'x y' --set a=1 \\\n  c=2 && cd d; e [--json] f['g']  # h\n"
    assert list(pages.words(code)) == [
        ['r1jax', 'run', 'x y', '--set', 'a=1', 'c=2'],
        ['cd', 'd'],
        ['e', '--json', 'f[g]'],
    ]


def test_commands_parse(monkeypatch):
    """Of r1jax by its own parser, of scripts by the options that they name, of pip and pytest by extras and files."""
    parsed = []
    monkeypatch.setattr(runtime, 'configure', lambda: None)
    for each in vars(cli).values():
        if isinstance(each, type) and dataclasses.is_dataclass(each) and '__call__' in vars(each):
            monkeypatch.setattr(each, '__call__', lambda self: parsed.append(self))
    seen = set()
    for block in SHELL:
        for command in pages.words(block.code):
            if tuple(command) in seen:
                continue
            seen.add(tuple(command))
            program = pathlib.PurePath(command[0]).name
            try:
                if program == 'r1jax':
                    assert cli.main(command[1:]) == 0
                elif command[0].startswith(('launch/', '.ci/')):
                    assert (pages.ROOT / command[0]).is_file()
                else:
                    CHECKS[re.sub(r'3(\.\d+)?$', '', program)](command[1:])
            except (AssertionError, KeyError, SystemExit) as error:
                pytest.fail(f'{block.where}: {" ".join(command)}: {error!r}')
    assert {type(each).__name__ for each in parsed} >= {
        'Run',
        'Eval',
        'Serve',
        'Export',
        'Grade',
        'Plan',
        'New',
        'Doctor',
    }
    for each in parsed:
        if isinstance(each, cli.Run | cli.Plan) and (pages.ROOT / each.experiment).is_file():
            recipe = settings.load_recipe(pages.ROOT / each.experiment)
            settings.override(recipe, [assignment for group in each.set for assignment in group])


def scripted(words):
    """`python SCRIPT …`, `python -m venv …`: the script is there and knows the options."""
    if words[0] in ('-m', '-c'):
        assert words[0] == '-c' or words[1] in ('venv', 'r1jax', 'pip', 'http.server', 'sphinx'), words[1]
        return
    path = next(p for p in (pages.ROOT / words[0], pages.ROOT / 'benchmarks' / words[0]) if p.is_file())
    known = options(path)
    for word in words[1:]:
        if word.startswith('--'):
            assert word.partition('=')[0] in known, f'{path.name} has no {word}'


def options(script: pathlib.Path) -> set[str]:
    """The options that a script's arguments are given, or those of the modules beside it that it imports."""
    found, waiting, seen = set(), [script], set()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Constant) and str(node.value).startswith('--'):
                found.add(node.value)
            imported = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            imported += [node.module] if isinstance(node, ast.ImportFrom) else []
            beside = {path.parent / f'{name}.py' for name in imported}
            waiting += [other for other in beside - seen if other.is_file()]
    return found


def installs(words):
    """`pip install …`: the extras are those of setup.py."""
    for word in words:
        if match := re.fullmatch(r'(?:\.|r1jax)\[([\w,]+)\]', word):
            assert set(match[1].split(',')) <= pages.extras(), f'extras are {sorted(pages.extras())}'


def examined(words):
    """`pytest …`: the files are there, unless a command of the page makes them."""
    for word in words:
        if word.startswith('tests/'):
            assert (pages.ROOT / word.partition('::')[0]).is_file(), word


def lints(words):
    assert words[0] in ('check', 'format'), words


CHECKS = {'python': scripted, 'pip': installs, 'pytest': examined, 'ruff': lints} | dict.fromkeys(
    OTHERS, lambda words: None
)
