"""Whether partial rollouts learn what whole ones do, and what they cost: R1-Zero on the tiny world, a budget of half the longest response.

    python benchmarks/partial.py WORKDIR [--seeds 0 1 2] [--budgets 48 16] [--steps N]

Pretrains once a seed, then runs the RL stage with whole rollouts and with each budget (`OnPolicy.budget`, tokens that a sample may draw in
a rollout; importance weights are truncated at 2). One JSON line a budget: pass@1 as in agreement.py, partial against whole; then of both,
over all steps of all seeds:

- sampled_per_s: the median of tokens sampled a second of sampling; trained_per_s: of tokens trained a second of the whole step,
- step_s: the median and the longest of the seconds that sampling takes a step,
- groups: mean and least number of groups that a step learns from,

and of the partial ones `staleness`, in optimizer steps: the mean over tokens, the mean of each step's largest, and the largest; `carried`,
the mean number of samples that a rollout leaves unfinished; `capped`, the share of tokens whose importance weight is truncated.
"""

from __future__ import annotations

import pathlib
import statistics
from typing import Any

import branches
from agreement import changed, compared
from workload import emit

from r1jax.train.log import read


def costs(paths: list[pathlib.Path], stage: str, samples: int) -> dict[str, Any]:
    """What the metrics of some runs' last stage say; `samples`: of a group."""
    lines = [m for path in paths for m in read(str(path / 'metrics.jsonl')) if m['stage'] == stage]
    rollouts = [m for m in lines if m.get('time/sample')]  # a rollout may serve several steps
    drawn = [m.get('rollout/drawn', m['rollout/tokens'] * m['rollout/samples']) for m in rollouts]
    seconds, groups = [m['time/sample'] for m in rollouts], [m['rollout/samples'] / samples for m in rollouts]
    out = {
        'sampled_per_s': round(statistics.median(n / s for n, s in zip(drawn, seconds, strict=True))),
        'trained_per_s': round(statistics.median(m['tokens_per_second'] for m in lines)),
        'step_s': [round(statistics.median(seconds), 3), round(max(seconds), 3)],
        'groups': [round(statistics.mean(groups), 2), min(groups)],
    }
    if 'rollout/staleness' in lines[0]:
        most = [m['rollout/staleness_max'] for m in rollouts]
        mean = statistics.mean(m['rollout/staleness'] for m in rollouts)
        out['staleness'] = [round(mean, 3), round(statistics.mean(most), 2), max(most)]
    if 'policy/importance_capped' in lines[0]:
        out['capped'] = round(statistics.mean(m['policy/importance_capped'] for m in lines), 4)
    if 'rollout/carried' in lines[0]:
        out['carried'] = round(statistics.mean(m['rollout/carried'] for m in rollouts), 1)
    return out


def main() -> None:
    parser = branches.parser(__doc__)
    parser.add_argument('--budgets', type=int, nargs='+', default=[48, 16], help='tokens of a sample in a rollout')
    args, recipe = branches.asked(parser)
    last = recipe.stages[-1]
    kinds = {'whole': last} | {
        f'budget{n}': changed(last, None, {'source': {'budget': n}, 'loss': {'importance_cap': 2.0}})
        for n in args.budgets
    }
    ends = branches.by_seed(args.workdir, recipe, args.seeds, kinds)
    cost = {
        name: costs([args.workdir / f'seed{seed}' / name for seed in args.seeds], last.name, last.source.samples)
        for name in kinds
    }
    for n in args.budgets:
        name = f'budget{n}'
        agreement = compared(ends[name], ends['whole'])
        emit(budget=n, max_tokens=last.source.sample.max_tokens, **agreement, partial=cost[name], whole=cost['whole'])


if __name__ == '__main__':
    main()
