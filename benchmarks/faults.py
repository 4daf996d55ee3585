"""What a run is worth whose graders fail: R1-Zero on the tiny world with a tenth of its grader calls made to hang, raise or die.

    python benchmarks/faults.py WORKDIR [--experiment experiments/tiny_zero.py] [--steps N] [--share 0.1]

Pretrains once, then runs the RL stage twice from there, once with faults. Prints one JSON line: over the first rollout, how many of the
logged samples were hit, and whether the rewards of the others are those of the run without faults; grader errors by outcome; final
pass@1 of both with intervals, and whether the faulty run's lies within the other's.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import random
import signal
import time
from collections.abc import Callable

from r1jax.types import Problem, Response

DEADLINE = 0.5  # seconds; the reward itself takes microseconds


def fault(question: int, text: str, share: float = 0.1) -> str | None:
    """What `Faulty` does at a call: 'hang', 'raise' or 'kill' in `share` of them, else None. The text decides."""
    draw = random.Random(f'{question} {text}').random()
    return ('hang', 'raise', 'kill')[int(3 * draw / share)] if draw < share else None


@dataclasses.dataclass(frozen=True)
class Faulty:
    """`fn`, but a share of its calls go wrong."""

    fn: Callable
    share: float = 0.1

    def __call__(self, problem: Problem, response: Response) -> float:
        match fault(problem.id, response.text, self.share):
            case 'hang':
                time.sleep(3600)
            case 'raise':
                raise ValueError('no idea')
            case 'kill':
                os.kill(os.getpid(), signal.SIGKILL)
        return self.fn(problem, response)


def faulty(stage, share: float):
    """The stage with its accuracy reward made unreliable in training; its evaluations stay as they are."""
    parts = tuple(
        dataclasses.replace(part, fn=Faulty(part.fn, share), deadline=DEADLINE) if part.name == 'accuracy' else part
        for part in stage.source.rewards
    )
    return dataclasses.replace(stage, source=dataclasses.replace(stage.source, rewards=parts))


def compare(workdir: pathlib.Path, experiment: str, steps: int | None, share: float) -> dict:
    import branches

    from r1jax.settings import load_recipe
    from r1jax.train.log import read

    recipe = load_recipe(experiment)
    last = recipe.stages[-1]
    last = dataclasses.replace(last, steps=steps or last.steps, log_samples=last.source.questions)
    runs = {'plain': last, 'faulty': faulty(last, share)}
    results, seen = branches.run(workdir, recipe, runs), {}
    for name in runs:
        path = str(workdir / name)
        metrics = [m for m in read(os.path.join(path, 'metrics.jsonl')) if m['stage'] == last.name]
        rollout = [
            s
            for s in read(os.path.join(path, 'samples.jsonl'))
            if s['stage'] == last.name and s['when'] == 'rollout' and s['step'] == 1
        ]
        seen[name] = metrics, rollout
    metrics, rollout = seen['faulty']
    hit = [sample['outcome'] == 'grader_error' for sample in rollout]
    drawn = [fault(sample['question'], sample['completion'], share) is not None for sample in rollout]
    pairs = list(zip(rollout, seen['plain'][1], hit, strict=True))
    samples = sum(m['rollout/samples'] for m in metrics)
    ends = {name: result['after'] for name, result in results.items()}
    low, high = ends['plain']['pass@1_ci']
    return {
        'steps': len(metrics),
        'first_rollout': len(rollout),
        'hit': sum(hit),
        'hit_as_drawn': hit == drawn,
        'others_equal': all(
            a['completion'] == b['completion'] and (bad or a['reward'] == b['reward']) for a, b, bad in pairs
        ),
        'errors': sum(m['rollout/grader_errors'] for m in metrics) / samples,
        'by_outcome': {
            cause: sum(m.get(f'grader/{cause}', 0) for m in metrics)
            for cause in ('timeout', 'died', 'memory', 'raised')
        },
        'before': results['plain']['before']['pass@1'],
        'after': {name: [end['pass@1'], *end['pass@1_ci']] for name, end in ends.items()},
        'within': low <= ends['faulty']['pass@1'] <= high,
        'seconds': {name: result['seconds'] for name, result in results.items()},
    }


def main() -> None:
    from workload import emit

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('workdir', type=pathlib.Path, help='where the runs are kept; finished ones are not run again')
    parser.add_argument('--experiment', default='experiments/tiny_zero.py')
    parser.add_argument('--steps', type=int, help='of the RL stage (default: as the experiment says)')
    parser.add_argument('--share', type=float, default=0.1, help='of the calls that go wrong')
    args = parser.parse_args()
    emit(**compare(args.workdir, args.experiment, args.steps, args.share))


if __name__ == '__main__':
    import faults  # by its name: workers look for `Faulty` there, and not in a script

    faults.main()
