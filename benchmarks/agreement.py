"""Whether what makes a step fast changes what is learned: R1-Zero on the tiny world, three seeds, each saving on and off.

    python benchmarks/agreement.py WORKDIR [--seeds 0 1 2]

Pretrains once a seed, then runs the RL stage from there in each setting. One JSON line a setting: pass@1 on held-out sums of each seed
with its interval, the mean difference on − off over the seeds with its 95 % interval (Student's t), and whether that holds 0. What
cannot be switched off (the chunked head, the inverse-CDF draw) is tested against plain computations in tests/.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import statistics
from typing import Any

import branches
from scipy import stats
from workload import emit

from r1jax.settings import load_recipe

# what is compared: name -> (on, off), each a pair of settings of the stage's source and rows; {}: the experiment's own
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    'prompts shared in a row': ({'rows': {'prompts': 24, 'block': 96, 'length': 24 + 4 * 96, 'per_microbatch': 2}}, {}),
    'decoding shrinks by buckets': ({}, {'sample': {'buckets': 1}}),
    "old log-probabilities are the sampler's": (
        {'source': {'minibatches': 2}},
        {'source': {'minibatches': 2}, 'loss': {'sampler_gap': 0.0}},
    ),
}


def changed(stage, change: dict[str, Any]):
    """The stage with fields of its parts replaced."""
    sample = dataclasses.replace(stage.source.sample, **change.get('sample', {}))
    return dataclasses.replace(
        stage,
        source=dataclasses.replace(stage.source, sample=sample, **change.get('source', {})),
        loss=dataclasses.replace(stage.loss, **change.get('loss', {})),
        rows=dataclasses.replace(stage.rows, **change.get('rows', {})),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('workdir', type=pathlib.Path, help='where the runs are kept; finished ones are not run again')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--experiment', default='experiments/tiny_zero.py')
    args = parser.parse_args()
    if len(args.seeds) < 2:
        parser.error(f'--seeds {args.seeds}: an interval over seeds needs two')
    recipe = load_recipe(args.experiment)
    kinds = [change for pair in SETTINGS.values() for change in pair]
    names = {repr(change): f'run{kinds.index(change)}' for change in kinds}  # equal settings are one run
    ends: dict[str, dict[int, dict]] = {}
    for seed in args.seeds:
        lasts = {names[repr(change)]: changed(recipe.stages[-1], change) for change in kinds}
        seeded = dataclasses.replace(recipe, seed=seed)
        for name, entry in branches.run(args.workdir / f'seed{seed}', seeded, lasts).items():
            ends.setdefault(name, {})[seed] = entry['after']
    for what, pair in SETTINGS.items():
        on, off = (ends[names[repr(change)]] for change in pair)
        differences = [on[s]['pass@1'] - off[s]['pass@1'] for s in args.seeds]
        n, mean = len(differences), statistics.mean(differences)
        half = stats.t.ppf(0.975, n - 1) * statistics.stdev(differences) / n**0.5
        shown = {
            side: [
                [round(end[s][k], 4) for k in ('pass@1',)] + [round(x, 4) for x in end[s]['pass@1_ci']]
                for s in args.seeds
            ]
            for side, end in (('on', on), ('off', off))
        }
        emit(setting=what, **shown, difference=[mean, mean - half, mean + half], agree=mean - half <= 0 <= mean + half)


if __name__ == '__main__':
    main()
