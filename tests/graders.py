"""Reward functions that misbehave on request, for tests of the pool. Importable without jax, as workers have to."""

import dataclasses
import os
import random
import subprocess
import sys
import time

from r1jax.types import Problem, Response


def number(problem: Problem, response: Response) -> float:
    return float(response.text)


def same(problem: Problem, response: Response) -> float:
    return float(response.text == problem.answer)


def explained(problem: Problem, response: Response) -> tuple[float, str]:
    return 1.0, f'it says {response.text}'


def acts(problem: Problem, response: Response) -> float:
    """Does what the response says."""
    match response.text.split():
        case ['hang']:
            while True:
                pass
        case ['sleep', seconds]:
            time.sleep(float(seconds))
        case ['exit']:
            os._exit(3)
        case ['leave']:
            sys.exit('bye')
        case ['kill']:
            os.kill(os.getpid(), 9)
        case ['grow']:
            held = []
            while True:
                held.append(b'x' * 10_000_000)
        case ['refuse']:
            raise MemoryError
        case ['raise']:
            raise ValueError('no idea')
        case ['nan']:
            return float('nan')
        case ['word']:
            return 'a word'
        case ['shout']:
            print('so long', file=sys.stderr, flush=True)
            os._exit(1)
        case ['tree', file]:  # a child and a grandchild in sessions of their own, and then it hangs
            code = f"import os, sys, time\nif os.fork() == 0: os.setsid()\nopen({file!r}, 'a').write(f'{{os.getpid()}}\\n')\ntime.sleep(99)"
            subprocess.Popen([sys.executable, '-c', code], start_new_session=True)
            time.sleep(99)
    return 1.0


def modules(problem: Problem, response: Response) -> tuple[float, str]:
    return float('jax' in sys.modules), ' '.join(sys.modules)


def process(problem: Problem, response: Response) -> float:
    return float(os.getpid())


def drawn(problem: Problem, response: Response) -> float:
    return random.random() + sum(map(hash, {'a', 'b', response.text})) % 1000


def lacking(problem: Problem, response: Response) -> float:
    raise ImportError("it needs nothing: run pip install 'nothing'")


@dataclasses.dataclass(frozen=True)
class Warmed:
    """Fails as it is warmed, in the way asked for; its calls know that they were warmed."""

    how: str = ''

    def warm(self) -> None:
        global warm
        warm = True
        match self.how:
            case 'missing':
                raise ImportError("it needs nothing: run pip install 'nothing'")
            case 'refuse':
                raise RuntimeError('no sandbox')
            case 'exit':
                os._exit(1)
            case 'slow':
                time.sleep(0.4)

    def __call__(self, problem: Problem, response: Response) -> float:
        return float(warm)


@dataclasses.dataclass(frozen=True)
class Batched:
    """A learned reward of whole batches: the length of the text, NaN for an empty one."""

    learned = True

    def many(self, problems, responses):
        return [len(r.text) or float('nan') for r in responses]


@dataclasses.dataclass(frozen=True)
class Checked:
    """Grades numbers only, and says so of a problem."""

    def check(self, problem: Problem) -> str | None:
        return None if problem.answer.isdecimal() else f'{problem.answer!r} is no number'

    def __call__(self, problem: Problem, response: Response) -> float:
        return float(response.text == problem.answer)


def length(problem: Problem, response: Response) -> float:
    return len(response.text) / 10


def says_a(problem: Problem, response: Response) -> float:
    """For answers of a random model: right if one of three letters is in it."""
    return float(any(letter in response.text for letter in 'aeo'))
