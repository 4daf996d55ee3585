"""The data card: every count from the prompts that were loaded to the examples that were kept, as JSON and to read.

Nothing in it depends on when or where it was made, so that the same samples give the same card.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Mapping, Sequence
from typing import Any

from r1jax.config import FATES, FATES_OF_REWRITING, LAST_FATES, Collect
from r1jax.types import Problem

QUANTILES = (0, 5, 25, 50, 75, 95, 100)  # percent
RATES = (
    '0',
    *(f'{low / 10:.1f}–{(low + 1) / 10:.1f}' for low in range(10)),
    '1',
)  # bins of pass rates, between 0 and 1 open below


class Tally:
    """Counts, whose size does not grow with the samples."""

    def __init__(self, cfg: Collect):
        first = [each.name for each in cfg.filters if not each.rewritten]
        second = [each.name for each in cfg.filters if each.rewritten]
        rewriting = FATES_OF_REWRITING if cfg.rewrite else ()
        self.fates = (*FATES, *first, *rewriting, *second, *LAST_FATES)
        self.samples: collections.Counter[tuple[str, str, str]] = collections.Counter()  # (kind, language, fate)
        self.prompts: collections.Counter[tuple[str, str, str]] = (
            collections.Counter()
        )  # (kind, language, what they have)
        self.rates: collections.Counter[str] = collections.Counter()  # prompts
        self.sampled_tokens: collections.Counter[int] = collections.Counter()
        self.kept_tokens: collections.Counter[int] = collections.Counter()

    def prompt(self, problem: Problem, rate: float | None, tokens: Sequence[int]) -> None:
        """A prompt with its samples' lengths."""
        key = problem.kind, problem.language
        self.prompts[(*key, 'sampled')] += 1
        self.prompts[(*key, 'solved')] += bool(rate)
        self.rates['ungraded' if rate is None else bin_of(rate)] += 1
        self.sampled_tokens.update(tokens)

    def sample(self, problem: Problem, fate: str) -> None:
        """What became of a sample."""
        self.samples[problem.kind, problem.language, fate] += 1

    def kept(self, problem: Problem, tokens: int) -> None:
        """A sample was kept, and is stored with so many tokens."""
        self.sample(problem, 'kept')
        self.kept_tokens[tokens] += 1

    def prompt_kept(self, problem: Problem) -> None:
        """Something of a prompt was kept."""
        self.prompts[problem.kind, problem.language, 'kept'] += 1

    def counts(self) -> dict[str, Any]:
        """The card's figures."""
        fates: collections.Counter[str] = collections.Counter()
        for (_, _, fate), count in self.samples.items():
            fates[fate] += count
        total = {
            what: sum(c for (*_, w), c in self.prompts.items() if w == what) for what in ('sampled', 'solved', 'kept')
        }
        groups = sorted({(kind, language) for kind, language, _ in self.prompts})
        return {
            'prompts': total,
            'samples': {'sampled': fates.total(), **{fate: fates[fate] for fate in self.fates}},
            'groups': [self._group(*group) for group in groups],
            'pass_rate': {name: self.rates[name] for name in (*RATES, 'ungraded')},
            'tokens': {'sampled': quantiles(self.sampled_tokens), 'kept': quantiles(self.kept_tokens)},
        }

    def _group(self, kind: str, language: str) -> dict[str, Any]:
        fates = {fate: self.samples[kind, language, fate] for fate in self.fates}
        wrong = fates['ungraded'] + fates['wrong']
        total = sum(fates.values())
        return {
            'kind': kind,
            'language': language,
            'prompts': {what: self.prompts[kind, language, what] for what in ('sampled', 'solved', 'kept')},
            'samples': {'sampled': total, 'correct': total - wrong, 'kept': fates['kept']},
        }


def bin_of(rate: float) -> str:
    """The bin of RATES that a pass rate falls into: 0.1 into 0.0–0.1."""
    if rate in (0, 1):
        return str(int(rate))
    return RATES[next(i for i in range(1, 11) if rate <= i / 10)]


def quantiles(lengths: Mapping[int, int]) -> dict[str, int]:
    """Percent -> the shortest length that so many percent do not exceed; {} of nothing. `lengths`: length -> how many have it."""
    total, out, passed, values = sum(lengths.values()), {}, 0, iter(sorted(lengths.items()))
    value = 0
    for percent in QUANTILES if total else ():
        while passed * 100 < max(percent * total, 1):
            value, count = next(values)
            passed += count
        out[str(percent)] = value
    return out


def to_json(card: Mapping[str, Any]) -> str:
    return json.dumps(card, ensure_ascii=False, indent=2) + '\n'


def to_markdown(card: Mapping[str, Any]) -> str:
    """The card to read."""
    prompts, samples, file = card['prompts'], card['samples'], card['file']
    lines = [
        f'# {card["recipe"]}: what the stage {card["stage"]} kept',
        '',
        f'{file["examples"]:,} examples of {prompts["kept"]:,} prompts, {_share(samples["kept"], samples["sampled"])} of '
        f'{samples["sampled"]:,} samples. `{file["name"]}`, {file["bytes"]:,} bytes, sha256 `{file["sha256"]}`.',
        '',
        f'Sampled from `{card["start"]}` with seed {card["seed"]}; key of the stage `{card["key"]}`.',
        '',
        '## Prompts',
        '',
        *_table(
            ('', 'prompts'),
            [
                ('loaded', prompts['loaded']),
                ('removed: cannot be graded', prompts['ungradable']),
                ('removed: contaminated', prompts['contaminated']),
                ('sampled', prompts['sampled']),
                ('with a correct sample', prompts['solved']),
                ('with an example kept', prompts['kept']),
            ],
        ),
    ]
    if contamination := card['contamination']:
        rows = [(f'`{each["set"]}`', each['questions'], each['prompts']) for each in contamination['sets']]
        lines += ['', f'Contaminated: {contamination["words"]} words in a row, or a whole question, shared with', '']
        lines += _table(('evaluation set', 'questions', 'prompts removed'), rows)
    fates = [(name.replace('_', ' '), count, _share(count, samples['sampled'])) for name, count in samples.items()]
    lines += ['', '## Samples', '', 'Each is counted once, under the first reason why it was not kept.', '']
    lines += _table(('', 'samples', ''), fates)
    rows = [
        (each['kind'], each['language'], *each['prompts'].values(), *each['samples'].values())
        for each in card['groups']
    ]
    lines += ['', '## By kind and language', '']
    lines += _table(('kind', 'language', 'prompts', 'solved', 'kept of', 'samples', 'correct', 'kept'), rows)
    rates = [(name, count) for name, count in card['pass_rate'].items() if count]
    lines += ['', '## Pass rates', '', 'Share of a prompt’s graded samples that are correct.', '']
    lines += _table(('pass rate', 'prompts'), rates)
    lines += ['', '## Tokens', '', 'A response with its end token; what so many percent do not exceed.', '']
    lines += _table(
        ('', *(f'{percent} %' for percent in QUANTILES)),
        [(name, *values.values()) for name, values in card['tokens'].items() if values],
    )
    lines += ['', '## Settings', '', '```json', json.dumps(card['settings'], ensure_ascii=False, indent=2), '```', '']
    return '\n'.join(lines)


def _share(part: int, whole: int) -> str:
    return f'{100 * part / whole:.1f} %' if whole else '–'


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    cells = [[f'{cell:,}' if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    return [f'| {" | ".join(row)} |' for row in (head, ['---'] * len(head), *cells)]
