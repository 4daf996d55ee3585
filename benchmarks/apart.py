"""Sampling and training apart: what is learned, and what overlaps. R1-Zero on the tiny world, four devices that train and four that sample.

    python benchmarks/apart.py WORKDIR [--seeds 0 1 2] [--staleness 0 1 2] [--steps N]

Eight virtual devices of a CPU. Pretrains once a seed, then runs the RL stage on the four that train (fsdp 4, which also sample, in turns)
and with four more that sample (data 2 × tensor 2), for each staleness; importance weights are truncated at 2 where it is not 0. One JSON
line a staleness:

- pass@1 at the end as in agreement.py, apart against in turns; `curve`: the mean reward in each quarter of the steps, likewise, and
  `agree` says whether the interval of each of the five holds 0,
- `apart`, `turns`: what the two cost and how old the tokens are, as in partial.py; `wait_s`: the median of the seconds that a step waits
  for its rollout,
- `overlap`: in the trace of step `--trace` of the first seed (`r1jax run --profile`), the seconds in which the devices that train compute,
  those in which the ones that sample do, and those in which both do. Virtual devices share the machine's cores: overlap shows that neither
  waits for the other, not how fast real ones would be.
"""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
import os
import pathlib
import statistics
from collections.abc import Iterable
from typing import Any

import branches
from agreement import changed, compared, difference
from partial import costs
from workload import emit

from r1jax import runtime
from r1jax.config import MeshConfig, Split
from r1jax.train.log import read

TRAIN, SAMPLE = MeshConfig(fsdp=4), MeshConfig(data=2, tensor=2)
QUARTERS = 4

Intervals = list[tuple[float, float]]


def busy(events: Iterable[dict], devices: range) -> Intervals:
    """When any of these devices computes, in seconds: of a trace's events, those that are operations of theirs, joined."""
    spans = sorted(
        (e['ts'] * 1e-6, (e['ts'] + e['dur']) * 1e-6)
        for e in events
        if 'hlo_op' in (args := e.get('args') or {}) and int(args.get('device_ordinal', -1)) in devices
    )
    out: Intervals = []
    for start, end in spans:
        if out and start <= out[-1][1]:
            out[-1] = out[-1][0], max(out[-1][1], end)
        else:
            out.append((start, end))
    return out


def both(a: Intervals, b: Intervals) -> float:
    """Seconds that two sorted lists of intervals have in common."""
    total, i, j = 0.0, 0, 0
    while i < len(a) and j < len(b):
        total += max(0.0, min(a[i][1], b[j][1]) - max(a[i][0], b[j][0]))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return total


def overlap(folder: pathlib.Path) -> dict[str, float]:
    """Of the last trace in a folder."""
    from r1jax.train import profile

    with gzip.open(profile.newest(folder) / 'perfetto_trace.json.gz', 'rt', encoding='utf-8') as file:
        events = json.load(file)['traceEvents']
    train, sample = busy(events, range(4)), busy(events, range(4, 8))
    if not (train and sample):
        raise SystemExit(f'{folder}: its trace has no operations of the devices that {"sample" if train else "train"}')
    seconds = {
        'train_s': sum(b - a for a, b in train),
        'sample_s': sum(b - a for a, b in sample),
        'both_s': both(train, sample),
    }
    # jax keeps the first million events of a trace: where there are as many, the seconds are those of its beginning
    return {name: round(value, 3) for name, value in seconds.items()} | {'events': len(events)}


def curve(path: pathlib.Path, stage: str) -> list[float]:
    """The mean reward in each quarter of a run's steps."""
    rewards = [m['reward/mean'] for m in read(str(path / 'metrics.jsonl')) if m['stage'] == stage]
    ends = [round(i * len(rewards) / QUARTERS) for i in range(QUARTERS + 1)]
    return [statistics.mean(rewards[a:b]) for a, b in itertools.pairwise(ends)]


def waits(paths: Iterable[pathlib.Path], stage: str) -> float:
    lines = [m for path in paths for m in read(str(path / 'metrics.jsonl')) if m['stage'] == stage]
    return round(statistics.median(m['time/wait'] for m in lines if 'time/wait' in m), 3)


def main() -> None:
    parser = branches.parser(__doc__)
    parser.add_argument('--staleness', type=int, nargs='+', default=[0, 1, 2], help='optimizer steps')
    parser.add_argument('--trace', type=int, default=5, help='the step that is traced')
    args, recipe = branches.asked(parser)
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count=8'.strip()
    runtime.configure()
    recipe = dataclasses.replace(recipe, mesh=TRAIN)
    last = recipe.stages[-1]
    kinds = {'turns': last} | {
        f'apart{k}': changed(
            last, None, {'source': {'split': Split(SAMPLE, k)}, 'loss': {'importance_cap': 2.0} if k else {}}
        )
        for k in args.staleness
    }
    trace = f'{last.name}:{args.trace}'
    ends = branches.by_seed(args.workdir, recipe, args.seeds, kinds, {name: trace for name in kinds if name != 'turns'})

    def paths(name: str) -> list[pathlib.Path]:
        return [args.workdir / f'seed{seed}' / name for seed in args.seeds]

    curves = {name: [curve(path, last.name) for path in paths(name)] for name in kinds}
    cost = {name: costs(paths(name), last.name, last.source.samples) for name in kinds}
    for k in args.staleness:
        name = f'apart{k}'
        ended = compared(ends[name], ends['turns'])
        pairs = zip(zip(*curves[name], strict=True), zip(*curves['turns'], strict=True), strict=True)
        quarters = [difference([a - b for a, b in zip(*each, strict=True)]) for each in pairs]
        said: dict[str, Any] = ended | {'agree': all(each['agree'] for each in (ended, *quarters))}
        told = {'curve': [each['difference'] for each in quarters], 'wait_s': waits(paths(name), last.name)}
        found = overlap(paths(name)[0] / 'profile')
        emit(staleness=k, **said, **told, apart=cost[name], turns=cost['turns'], overlap=found)


if __name__ == '__main__':
    main()
