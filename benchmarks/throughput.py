"""Tokens a second on requests of mixed lengths: the engine beside transformers' `generate` in batches and Tunix's sampler. They take
turns, round by round, on an otherwise idle machine.

    python -m venv torch && torch/bin/pip install torch transformers
    python3.12 -m venv tunix && tunix/bin/pip install google-tunix transformers
    python benchmarks/peers/hf_folder.py --out smollm2-hf
    python benchmarks/throughput.py --torch torch/bin/python --tunix tunix/bin/python --model smollm2-hf

All get the same 256 requests in one order (`workload.mixed`); the peers in batches of --batch, which end with their longest row. Each line
that they print is passed on; the last is the summary, with each peer's time over ours.
"""

import argparse
import json
import pathlib
import sys

import alternate

HERE = pathlib.Path(__file__).parent
KEYS = ('tokens_s', 'seconds', 'peak_rss_gb')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--torch', help='python of an environment with torch and transformers')
    parser.add_argument('--tunix', help="python of Tunix's environment")
    parser.add_argument('--model', required=True, help='folder of peers/hf_folder.py')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--requests', type=int, default=256)
    parser.add_argument('--slots', type=int, default=64, help="the engine's")
    parser.add_argument('--batch', type=int, default=64, help="the peers'")
    a = parser.parse_args()
    count = ['--requests', str(a.requests)]
    commands = {'r1jax': [sys.executable, str(HERE / 'mixed.py'), *count, '--slots', str(a.slots)]}
    for name, python in (('hf', a.torch), ('tunix', a.tunix)):
        if python:
            script = str(HERE / 'peers' / f'{name}_mixed.py')
            commands[name] = [python, script, *count, '--batch', str(a.batch), '--model', a.model]
    medians = alternate.medians(alternate.run(commands, a.rounds), KEYS)
    ours = medians['r1jax']['tokens_s']
    ratios = {name: round(ours / m['tokens_s'], 3) for name, m in medians.items() if name != 'r1jax'}
    print(json.dumps({'requests': a.requests, 'rounds': a.rounds, 'medians': medians, 'times_as_fast': ratios}))


if __name__ == '__main__':
    main()
