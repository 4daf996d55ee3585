"""Our docstrings as reStructuredText: they are written to be read in the source, with `names` in backticks, lists, indented examples, and
Args, Returns and Raises.

What would mean something to docutils by accident (|o|, *args, a_) is escaped; what is indented below a paragraph is an example.
"""

from __future__ import annotations

import re

SECTIONS = ('Args:', 'Returns:', 'Raises:', 'Yields:')
_CODE = re.compile(r'(``.+?``|`[^`\n]+`)')
_SPECIAL = re.compile(r'([\\*|_`])')
_ITEM = re.compile(r'^(- |\d+\. )')
_ENTRY = re.compile(r'^(\*{0,2}[\w., ]+): (.*)$')


def process(app, what, name, obj, options, lines: list[str]) -> None:
    """Sphinx's event `autodoc-process-docstring`: changes the lines in place."""
    lines[:] = rewritten(lines)


def rewritten(lines: list[str]) -> list[str]:
    """Paragraph by paragraph: sections as field lists, lists as lists, what is indented as it is, the rest as text."""
    out: list[str] = []
    for paragraph in _paragraphs(lines):
        if paragraph[0].strip() in SECTIONS:
            out += [f'**{paragraph[0].strip().rstrip(":")}**', '', *_entries(paragraph[1:])]
        elif all(line.startswith('  ') for line in paragraph):
            out += ['::', '', *(f'    {line}' for line in paragraph)]
        elif any(line.startswith('    ') for line in paragraph) and not any(map(_ITEM.match, paragraph)):
            out += _with_example(paragraph)
        else:
            out += _text(paragraph)
        out.append('')
    return out


def escaped(text: str) -> str:
    """Text with its `code` as literals and nothing else that docutils would read."""
    out = ''
    for i, part in enumerate(_CODE.split(text)):
        if i % 2:
            out += ('\\ ' if out[-1:].isalnum() else '') + f'``{part.strip("`")}``'
        else:  # what follows a literal directly, as in `Part`s, has to be kept apart from it
            out += ('\\ ' if i and part[:1].isalnum() else '') + _SPECIAL.sub(r'\\\1', part)
    return out


def _paragraphs(lines: list[str]) -> list[list[str]]:
    found: list[list[str]] = [[]]
    for line in lines:
        section = line.strip() in SECTIONS
        if not line.strip() or section:
            found.append([])
        if line.strip():
            found[-1].append(line.rstrip())
    return [each for each in found if each]


def _entries(lines: list[str]) -> list[str]:
    """`name: what it is`, with what goes on below it, as a list."""
    out: list[str] = []
    for line in lines:
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if match := _ENTRY.match(text) if indent <= 4 or not out else None:
            out.append(f'- ``{match[1]}``: {escaped(match[2])}')
        else:
            out.append(f'  {escaped(text)}' if out else escaped(text))
    return out


def _text(lines: list[str]) -> list[str]:
    """A paragraph, or a list whose items may go on in the next line."""
    out: list[str] = []
    below = ''  # what goes before the next line of an item
    for line in map(str.strip, lines):
        if item := _ITEM.match(line):
            out += [''] if out and not below else []
            out.append(item[0] + escaped(line[len(item[0]) :]))
            below = ' ' * len(item[0])
        else:
            out.append(below + escaped(line))
    return out


def _with_example(lines: list[str]) -> list[str]:
    """Text and indented lines in one paragraph: the latter as they are."""
    out: list[str] = []
    inside = False
    for line in lines:
        if line.startswith('    ') != inside:
            inside = not inside
            out += ['', '::', ''] if inside else ['']
        out.append(f'    {line}' if inside else escaped(line.strip()))
    return out
