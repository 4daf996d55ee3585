"""What each algorithm of `r1jax.algorithms`, and DPO, learns on the tiny world: R1-Zero from one pretrained base a seed.

    python benchmarks/algorithms.py WORKDIR [--seeds 0 1 2] [--out docs/results/algorithms]

Every one has the RL stage of experiments/tiny_zero.py with its learning rate, lengths and number of samples, and two updates a rollout,
since with one all ratios are 1. DPO takes as many steps on stored pairs, of right answers and wrong ones (`r1jax.data.tiny_pairs`).
Prints a JSON line each: pass@1 on held-out sums before and after, of each seed with its interval, and tokens a response. --out writes
OUT.md, the table, and OUT.svg, a chart of pass@1 over steps each, a line a seed.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import shlex
import sys
from typing import Any

import branches
import drawing
import numpy as np
from workload import emit

from r1jax.algorithms import ALGORITHMS, with_algorithm
from r1jax.config import DPO, Stage, Stored
from r1jax.data.tiny import TinySums
from r1jax.data.tiny_pairs import TinyPairs
from r1jax.report.chart import Plot, Series
from r1jax.train.log import read

EVERY = 10  # steps between evaluations


def lasts(zero: Stage) -> dict[str, Stage]:
    """The stage by each algorithm."""
    held_out = dataclasses.replace(zero.evals[0], every=EVERY)
    source = dataclasses.replace(zero.source, minibatches=2)
    zero = dataclasses.replace(zero, source=source, evals=(held_out,))
    made = {name: with_algorithm(zero, algorithm) for name, algorithm in ALGORITHMS.items()}
    sums = zero.source.problems
    pairs = Stored(TinyPairs(TinySums(split=sums.split, size=sums.size, terms=sums.terms)), batch=64)
    rows = dataclasses.replace(zero.rows, length=2 * zero.rows.length)  # a pair lies in one
    drawn = dataclasses.replace(held_out, sample=source.sample)  # the stage itself does not sample
    return made | {'DPO': dataclasses.replace(zero, source=pairs, loss=DPO(), rows=rows, evals=(drawn,))}


def course(workdir: pathlib.Path, stage: str, evaluation: str, ends: dict[str, Any]) -> tuple[list[int], list[float]]:
    """Steps, and pass@1 there."""
    lines = [m for m in read(str(workdir / 'metrics.jsonl')) if m['stage'] == stage]
    name = f'eval/{evaluation}/pass@1'
    found = {0: ends['before']['pass@1']} | {m['step']: m[name] for m in lines if name in m}
    found[lines[-1]['step']] = ends['after']['pass@1']
    return list(found), list(found.values())


def shown(ends: dict[str, Any], when: str) -> list[float]:
    return [round(x, 4) for x in (ends[when]['pass@1'], *ends[when]['pass@1_ci'])]


def table(found: dict[str, dict[str, Any]], command: str, chart: str) -> str:
    def cell(side: str, each: dict[str, Any]) -> str:
        return '; '.join(f'{100 * p:.1f} [{100 * low:.1f}, {100 * high:.1f}]' for p, low, high in each[side])

    rows = [
        f'| {name} | {cell("before", each)} | {cell("after", each)} | {", ".join(f"{n:.0f}" for n in each["tokens"])} |'
        for name, each in found.items()
    ]
    about = 'R1-Zero on the tiny world by each algorithm, a value a seed: pass@1 on held-out sums, percent with its 95 % interval.'
    head = ['| algorithm | before | after | tokens a response, after |', '|---|---|---|---|']
    return '\n'.join(
        [
            '# Algorithms',
            '',
            f'![pass@1 over steps, a colour a seed]({chart})',
            '',
            about,
            '',
            '```sh',
            '# not run: takes an hour',
            command,
            '```',
            '',
            *head,
            *rows,
            '',
        ]
    )


def main() -> None:
    parser = branches.parser(__doc__)
    parser.add_argument('--out', type=pathlib.Path, help='writes OUT.md and OUT.svg')
    args, recipe = branches.asked(parser)
    zero = recipe.stages[-1]
    evaluation = zero.evals[0].name
    stages = lasts(zero)
    folders = {name: re.sub(r'\W', '', name).lower() for name in stages}
    ends: dict[str, dict[int, dict]] = {name: {} for name in stages}
    for seed in args.seeds:
        whole = dataclasses.replace(recipe, seed=seed)
        by_folder = {folders[name]: stage for name, stage in stages.items()}
        entries = branches.run(args.workdir / f'seed{seed}', whole, by_folder)
        for name, folder in folders.items():
            ends[name][seed] = entries[folder]
    found, charts = {}, []
    for name, of in ends.items():
        found[name] = {side: [shown(end, side) for end in of.values()] for side in ('before', 'after')}
        found[name]['tokens'] = [round(end['after']['response_tokens'], 1) for end in of.values()]
        emit(algorithm=name, seeds=args.seeds, **found[name])
        series = []
        for seed, end in of.items():
            steps, values = course(args.workdir / f'seed{seed}' / folders[name], zero.name, evaluation, end)
            series.append(Series(f'seed {seed}', np.array(steps, float), np.array(values), exact=True))
        charts.append((f'{name}: pass@1', Plot(name, (), percent=True, whole=True), series))
    if args.out:
        args.out.with_suffix('.svg').write_text(drawing.svg(charts), encoding='utf-8')
        command = shlex.join(['python', 'benchmarks/algorithms.py', *sys.argv[1:]])
        args.out.with_suffix('.md').write_text(table(found, command, f'{args.out.name}.svg'), encoding='utf-8')


if __name__ == '__main__':
    main()
