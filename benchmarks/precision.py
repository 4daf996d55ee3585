"""One GRPO step in several precisions, which take turns on an otherwise idle machine: time beside the sampler gap that comes with it.

    python benchmarks/precision.py --workload W [--kinds float32 bfloat16 bfloat16+int8] [--rounds 3]

A kind is the type of the matrix products (`ModelConfig.dtype`), with +int8 the sampler's weights rounded (`SampleConfig.weights`). Each is
a process of `grpo_step.py`, whose lines are passed on. The last line is the summary: medians of each kind, how many times as fast as
the first it is, and the difference between the sampler's and the update's log-probability of a token, the largest and the mean, nats.
"""

import argparse
import itertools
import json
import pathlib
import sys

import alternate

STEP = pathlib.Path(__file__).with_name('grpo_step.py')
PARTS = ('step_s', 'gen_s', 'score_s', 'train_s')
TYPES, WEIGHTS = ('float32', 'bfloat16'), ('same', 'int8')
KINDS = {
    '+'.join([dtype, *([how] if how != 'same' else [])]): (dtype, how)
    for dtype, how in itertools.product(TYPES, WEIGHTS)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--workload', choices=('W', 'T', 'V', 'TV'), default='W')
    parser.add_argument(
        '--kinds', choices=list(KINDS), nargs='+', default=list(TYPES), help='the first is what others are compared to'
    )
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--steps', type=int, default=0, help='timed steps a round (default: as grpo_step.py says)')
    a = parser.parse_args()
    own = ['--workload', a.workload, '--no-ceilings', *(['--steps', str(a.steps)] if a.steps else [])]
    commands = {
        kind: [sys.executable, str(STEP), *own, '--dtype', dtype, '--weights', how]
        for kind, (dtype, how) in KINDS.items()
        if kind in a.kinds
    }
    seen = alternate.run({kind: commands[kind] for kind in a.kinds}, a.rounds)
    medians = alternate.medians(seen, (*PARTS, 'peak_rss_gb', 'sampler_gap_mean'))
    first = medians[a.kinds[0]]
    summary = {
        'workload': a.workload,
        'rounds': a.rounds,
        'jax': seen[a.kinds[0]][0]['jax'],
        'python': seen[a.kinds[0]][0]['python'],
        'medians': medians,
        'sampler_gap_max': {kind: max(line['sampler_gap_max'] for line in lines) for kind, lines in seen.items()},
        'times_as_fast': {kind: {p: round(first[p] / m[p], 3) for p in PARTS} for kind, m in medians.items()},
    }
    print(json.dumps(summary))


if __name__ == '__main__':
    main()
