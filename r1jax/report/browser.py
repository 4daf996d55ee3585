"""The samples browser: what the runs and benchmarks of a page kept of their samples, to be searched, filtered and read.

In: samples.jsonl of workdirs, and the NAME.jsonl that `r1jax eval` writes. Out: JSON in the page, and the controls that web/browser.js
fills. A page holds a bounded number of samples of bounded length, and says so. Where there are more, each stage of each run, its rollouts
and its evaluations apart, has the same share, spread evenly over what was logged: the first and the last are always there, and up to
`PIECE` lines that follow each other stay together, so that samples of one question can be compared.

Everything that a model wrote is put into the page as text, by the script.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.report import page
from r1jax.report.samples import Record, head_of, shared
from r1jax.report.workdir import is_number
from r1jax.train import log

MOST = 2000  # samples of a page, where nothing else is asked for
PIECE = 8  # lines in a row that stay together
FIRST, LAST = 4000, 2000  # characters at the ends of a text that are kept
DATA = 'sample-data'  # id of the element that holds them


@dataclasses.dataclass(frozen=True)
class Source:
    """A file of samples."""

    run: int  # its place among the page's runs
    path: str
    benchmark: str = ''  # of which all lines are; '': the lines of a run say what they are


@dataclasses.dataclass
class _Group:
    """Lines that share a quota: of a source, a stage, and of its rollouts, or of an evaluation before or after it."""

    source: Source
    pieces: list[tuple[int, int]] = dataclasses.field(default_factory=list)  # where in the file, how many lines
    lines: int = 0


def sources(run: int, workdir: str) -> list[Source]:
    """What a workdir has."""
    path = os.path.join(workdir, log.SAMPLES)
    return [Source(run, path)] if os.path.exists(path) else []


def evaluated(run: int, folder: str, entries: Mapping[str, Mapping[str, Any]]) -> list[Source]:
    """What `r1jax eval` kept in a folder; the samples of another harness are its own, and not shown."""
    files = {name: os.path.join(folder, f'{name}.jsonl') for name, entry in entries.items() if 'harness' not in entry}
    return [Source(run, path, name) for name, path in files.items() if os.path.isfile(path)]


def section(runs: Sequence[str], found: Sequence[Source], most: int = MOST) -> str:
    """The browser as HTML, '' where there is no sample.

    Args:
      runs: names, by place.
      found: files of samples.
      most: samples that are kept; 0 leaves the browser out.
    """
    whole = collect(runs, found, most)
    if not whole['samples']:
        return ''
    kept, total = len(whole['samples']), whole['total']
    said = f'All {total:,} samples that were logged.' if kept == total else (
        f'{kept:,} of the {total:,} samples that were logged: a page holds at most {most:,}, shared equally among stages and spread evenly '
        'over their steps.'
    )  # fmt: skip
    said += f' Texts of more than {FIRST + LAST:,} characters are cut in their middle.'
    return f'<p class="muted">{said}</p>{page.asset("browser.html")}{page.data(DATA, whole)}'


def collect(runs: Sequence[str], found: Sequence[Source], most: int) -> dict[str, Any]:
    """What the script reads: `runs`, `parts` (names), `prompts` (`[text, characters that a template gives all]`) and `samples`."""
    groups = [group for source in found for group in _groups(source)]
    quotas = fill([group.lines for group in groups], most)
    records = [
        (group.source, record) for group, quota in zip(groups, quotas, strict=True) for record in _read(group, quota)
    ]
    parts = dict.fromkeys(name for _, record in records for name in _dict(record.get('parts')))
    begins: dict[tuple[Source, str], list[Record]] = collections.defaultdict(list)
    for source, record in records:
        begins[source, str(record.get('stage', ''))].append(record)
    template = {key: shared(each) for key, each in begins.items()}
    prompts: dict[tuple[str, int], int] = {}
    samples = []
    for source, record in records:
        prompt = shortened(str(record.get('prompt', ''))), template[source, str(record.get('stage', ''))]
        place = prompts.setdefault(prompt, len(prompts))
        samples.append(_packed(source, record, place, parts))
    return {
        'runs': [page.visible(name) for name in runs],
        'parts': [page.visible(name) for name in parts],
        'prompts': [[text, _units(text[:begin])] for text, begin in prompts],
        'samples': samples,
        'total': sum(group.lines for group in groups),
    }


def fill(counts: Sequence[int], most: int) -> list[int]:
    """How many of each may be kept, `most` in all: as many as there are, or else the same for all that have more."""
    quotas = [0] * len(counts)
    left = most
    for place, i in enumerate(sorted(range(len(counts)), key=counts.__getitem__)):
        quotas[i] = min(counts[i], left // (len(counts) - place))
        left -= quotas[i]
    return quotas


def chosen(sizes: Sequence[int], quota: int) -> dict[int, int]:
    """Which of a group's pieces are kept, and how many lines of each: `quota` in all, evenly spaced, with both ends."""
    if quota >= sum(sizes):
        return dict(enumerate(sizes))
    count = -(-quota * len(sizes) // sum(sizes))
    places = np.unique(np.linspace(0, len(sizes) - 1, count).round().astype(int)).tolist() if count else []
    return dict(zip(places, fill([sizes[place] for place in places], quota), strict=True))


def divided(response: str) -> tuple[str | None, str]:
    """The thinking of a response, None if it has none, and the rest of it.

    As in `r1jax.rewards.language.reasoning`: before a lone </think> it is thinking, and so is all after an unclosed <think>.
    """
    before, closed, after = response.partition('</think>')
    lead, opened, inside = before.partition('<think>')
    if not opened and not closed:
        return None, response.strip()
    return (inside if opened else before).strip(), ((lead if opened else '') + after).strip()


def shortened(value: str) -> str:
    """A text, its middle left out where it is longer than a page should hold; what cannot be seen made visible."""
    left_out = len(value) - FIRST - LAST
    if left_out > 0:
        value = f'{value[:FIRST]}\n… {left_out:,} characters left out …\n{value[-LAST:]}'
    return page.visible(value)


def _groups(source: Source) -> Iterator[_Group]:
    """The lines of a file by stage and kind, as places in it; torn ones are passed over."""
    groups: dict[tuple[str, str], _Group] = {}
    before, at = None, 0
    with open(source.path, 'rb') as file:
        for line in file:
            head = (source.benchmark, 0, 'benchmark') if source.benchmark else head_of(line)
            if head and line.endswith(b'\n'):
                group = groups.setdefault((head[0], head[2]), _Group(source))
                if head == before and group.pieces[-1][1] < PIECE:
                    group.pieces[-1] = group.pieces[-1][0], group.pieces[-1][1] + 1
                else:
                    group.pieces.append((at, 1))
                group.lines += 1
                before = head
            at += len(line)
    yield from groups.values()


def _read(group: _Group, quota: int) -> Iterator[Record]:
    """Records of a group, `quota` at most."""
    with open(group.source.path, 'rb') as file:
        for place, lines in chosen([size for _, size in group.pieces], quota).items():
            file.seek(group.pieces[place][0])
            for _ in range(lines):
                try:
                    record = json.loads(file.readline())
                except ValueError:
                    continue
                if isinstance(record, dict):
                    yield record


def _packed(source: Source, record: Record, prompt: int, parts: Mapping[str, None]) -> dict[str, Any]:
    """A sample as the script reads it; what it does not have is left out."""
    turns = _turns(record.get('turns'))
    thinking, answer = (None, '') if turns else divided(str(record.get('completion', '')))
    values = _dict(record.get('parts'))
    when = source.benchmark or str(record.get('when', 'rollout'))
    if record.get('eval') and not source.benchmark:
        when = f'{record["eval"]}, {when}'
    failed = record.get('outcome') not in (None, 'graded')
    packed = {
        'run': source.run,
        'stage': page.visible(record['stage']) if 'stage' in record else 'benchmark',
        'step': record['step'] if is_number(record.get('step')) else None,
        'when': page.visible(when),
        'question': page.visible(record.get('question', '?')),
        'prompt': prompt,
        'thinking': None if thinking is None else shortened(thinking),
        'answer': shortened(answer),
        'turns': turns,
        'expected': shortened(str(record['answer'])) if record.get('answer') not in (None, '') else None,
        'tokens': record['tokens'] if is_number(record.get('tokens')) else None,
        'cut': True if record.get('finished') is False else None,
        'reward': record['reward'] if is_number(record.get('reward')) else None,
        'parts': [float(f'{value:.6g}') if is_number(value := values.get(name)) else None for name in parts],
        'failed': page.visible(record.get('cause') or record['outcome']) if failed else None,
    }
    return {name: value for name, value in packed.items() if value is not None}


def _turns(turns: Any) -> list[dict[str, str]] | None:
    """What was said in turns: the policy's as `thinking` and `answer`, what its environment said between them as `said`."""
    if not isinstance(turns, list):
        return None
    found = []
    for i, each in enumerate(turns):
        if i % 2:
            found.append({'said': shortened(str(each))})
        else:
            thinking, answer = divided(str(each))
            found.append(
                {'answer': shortened(answer)} | ({} if thinking is None else {'thinking': shortened(thinking)})
            )
    return found


def _units(value: str) -> int:
    """The length of a text as a script counts it."""
    return len(value.encode('utf-16-le', 'surrogatepass')) // 2


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
