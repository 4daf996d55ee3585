"""r1jax beside its peers on one workload: they alternate, round by round, on an otherwise idle machine, and the ratios of their medians
are printed.

    python -m venv trl && trl/bin/pip install torch trl
    python3.12 -m venv tunix && tunix/bin/pip install google-tunix transformers
    python benchmarks/peers/hf_folder.py --out smollm2-hf                                    # for W and V
    python benchmarks/compare.py --workload W --trl trl/bin/python --tunix tunix/bin/python --model smollm2-hf

Each peer runs in its own environment and its own process; without --trl or --tunix it is left out. Each line that they print is passed
on, and the last line is the summary. r1jax runs before, between and after its peers, in every round. A step of theirs takes minutes on W
and V: `--rounds 1 --steps 3` then loads and warms each up once.
"""

import argparse
import json
import pathlib
import statistics
import sys

import alternate

HERE = pathlib.Path(__file__).parent
PARTS = ('step_s', 'gen_s', 'score_s', 'train_s', 'peak_rss_gb')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--workload', choices=('W', 'T', 'V', 'TV'), default='T')
    parser.add_argument('--trl', help="python of TRL's environment")
    parser.add_argument('--tunix', help="python of Tunix's environment")
    parser.add_argument('--model', default='', help='folder of peers/hf_folder.py, for W and V')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument(
        '--own-steps', type=int, default=0, help='timed steps of a run of ours (default: as its script says)'
    )
    parser.add_argument(
        '--steps', type=int, default=0, help='timed steps of a run of a peer (default: as its script says)'
    )
    a = parser.parse_args()
    own = ['--workload', a.workload]
    ours = ['--steps', str(a.own_steps)] if a.own_steps else []
    commands, order = {'r1jax': [sys.executable, str(HERE / 'grpo_step.py'), *own, *ours]}, ['r1jax']
    for name in ('trl', 'tunix'):
        if python := getattr(a, name):
            model = ['--model', a.model] if a.model else []
            steps = ['--steps', str(a.steps)] if a.steps else []
            commands[name] = [python, str(HERE / 'peers' / f'{name}_step.py'), *own, *steps, *model]
            order += [name, 'r1jax']
    seen = alternate.run(commands, a.rounds, order)
    medians = alternate.medians(seen, PARTS)
    ours = medians['r1jax']
    ratios = {n: {p: round(m[p] / ours[p], 3) for p in PARTS} for n, m in medians.items() if n != 'r1jax'}
    floors = [x['floor_s'] for x in seen['r1jax']]
    share = round(statistics.median(x['floor_s'] / x['step_s'] for x in seen['r1jax']), 3)
    print(
        json.dumps(
            {
                'workload': a.workload,
                'rounds': a.rounds,
                'medians': medians,
                'ratios': ratios,
                'floor_s': floors,
                'of_floor': share,
            }
        )
    )


if __name__ == '__main__':
    main()
