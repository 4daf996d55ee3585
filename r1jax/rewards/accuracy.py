r"""Accuracy rewards: is the final answer, in its stated place, the right one?

In: a problem and a response. Out: 1.0 or 0.0. `answer` takes the final answer out of the text: the last
`<answer>…</answer>`, else the last `\boxed{…}`; the other functions compare it, as a string, as a number, or by a
task's own scorer.

Model text is never evaluated, and work on it is bounded: numbers are read by a pattern and compared as fractions. A
scorer that evaluates what it grades (`eval`, sympy's `parse_expr`) must not be used here, in the process that trains:
one sample could forge every later reward. `reasoning_gym` refuses tasks whose scorer does. What needs more than this
is graded in processes that can be killed (`r1jax.rewards.mathematics`, `r1jax.rewards.pool`).
"""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

from r1jax.data.braces import braced
from r1jax.data.datasets import gym_task
from r1jax.types import Problem, Response

LONGEST = 64  # characters of a number that is still read: Python's big numbers take their time
EXPONENT = 64  # largest power of ten of a number that is still read

_BOX = '\\boxed{'
_DECIMAL = r'[+-]?(?:\d+(?:,\d{3})*(?:\.\d*)?|\.\d+)'
_NUMBER = re.compile(rf'({_DECIMAL})(?:e([+-]?\d{{1,4}}))?(?:\s*/\s*({_DECIMAL}))?', re.ASCII | re.IGNORECASE)
IN_TEXT = re.compile(r'(?<![\w.,/])[+-]?(?:\d+(?:,\d+)*(?:\.\d+)?|\.\d+)(?:/\d+)?', re.ASCII)
_DOLLARS = re.compile(r'^([+-])\s*\\?\$')  # -$5


def answer(text: str) -> str | None:
    r"""The final answer, stripped: the last `<answer>…</answer>`, else the last `\boxed{…}`, else None."""
    end = text.rfind('</answer>')
    start = text.rfind('<answer>', 0, end) if end >= 0 else -1
    if start >= 0:
        return text[start + len('<answer>') : end].strip()
    box = last_box(text)
    return box and box[1]


def last_box(text: str) -> tuple[int, str] | None:
    r"""Where the last `\boxed{…}` begins and what is in it, stripped; None without a box or when it is never closed."""
    begin = text.rfind(_BOX)
    if begin < 0:
        return None
    inside = braced(text, begin + len(_BOX))
    return None if inside is None else (begin, inside)


def exact(problem: Problem, response: Response) -> float:
    """1.0 if the final answer is the ground truth, whitespace apart."""
    given = answer(response.text)
    return float(given is not None and given.split() == problem.answer.split())


def numeric(problem: Problem, response: Response) -> float:
    """1.0 if the final answer is the same number as the ground truth.

    Raises:
      ValueError: the ground truth is not a number.
    """
    return _same_number(problem, answer(response.text))


def last_number(problem: Problem, response: Response) -> float:
    """As `numeric`, but without tags or a box the last number in the text is the answer: for models that know neither.

    Raises:
      ValueError: the ground truth is not a number.
    """
    given = answer(response.text)
    if given is None:
        numbers = IN_TEXT.findall(response.text)
        given = numbers[-1] if numbers else None
    return _same_number(problem, given)


def reasoning_gym(problem: Problem, response: Response) -> float:
    """1.0 if the task's own scorer gives the final answer at least 0.99; partial credit counts as wrong.

    Args:
      problem: one of `r1jax.data.datasets.ReasoningGym`.

    Raises:
      ImportError: reasoning-gym is not installed.
      ValueError: the problem is none of reasoning-gym's, or the task's scorer evaluates what it grades.
    """
    if 'entry' not in problem.meta:
        raise ValueError(f'problem {problem.id} is not of reasoning-gym (kind {problem.kind!r}): use exact or numeric')
    score = _scorer(problem.meta['task'], problem.meta['settings'])
    given = answer(response.text)
    return float(given is not None and score(given[:4096], problem.meta['entry']) >= 0.99)


def number(text: str) -> Fraction | None:
    r"""The number that `text` is, or None.

    Read are decimals (1,234.50), simple fractions (1/2) and powers of ten (1e-3), with a sign; dollar and percent
    signs, brackets of math mode and a full stop around them are dropped. 20% is 20, since answers are asked for in
    percent. Text longer than 64 characters and exponents beyond ±64 are not read.
    """
    text = text.strip()
    if len(text) > LONGEST:
        return None
    text = text.replace('−', '-').lstrip(' $\\(').rstrip(' $%\\).')
    text = _DOLLARS.sub(r'\1', text)
    match = _NUMBER.fullmatch(text)
    if not match:
        return None
    above, power, below = match.groups()
    if power and abs(int(power)) > EXPONENT:
        return None
    value = Fraction(Decimal(above.replace(',', ''))) * Fraction(10) ** int(power or 0)
    if below is None:
        return value
    divisor = Fraction(Decimal(below.replace(',', '')))
    return value / divisor if divisor else None


def _same_number(problem: Problem, given: str | None) -> float:
    truth = number(problem.answer)
    if truth is None:
        raise ValueError(f'the answer {problem.answer!r} of problem {problem.id} is not a number: use accuracy.exact')
    return float(given is not None and number(given) == truth)


@functools.cache
def _scorer(task: str, settings: tuple[tuple[str, Any], ...]) -> Callable[[str, Any], float]:
    """The scorer of a task, if it only compares."""
    if task == 'composite':
        raise ValueError("the task 'composite' hides which scorers it passes answers to: use its parts as tasks")
    data = gym_task(task, settings)
    if evaluates(type(data).score_answer, type(data)):
        raise ValueError(
            f'the scorer of the task {task!r} evaluates model text, which forges rewards: choose another task'
        )
    return data.score_answer


def evaluates(function: Callable, owner: type = object) -> bool:
    """Whether a function, or one that it calls in its own package, names something that runs text as code.

    Reads the names in the compiled code, so it errs on the side of refusing. A call through another package is not
    followed, which is why sympy's parsers are on the list.
    """
    package = function.__module__.partition('.')[0]
    seen, waiting = set(), [function]
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        for name in _names(current.__code__):
            found = current.__globals__.get(name) or getattr(owner, name, None)
            found = getattr(found, '__func__', found)
            if isinstance(found, types.FunctionType) and found.__module__.partition('.')[0] == package:
                waiting.append(found)
            elif name in _EVALUATORS:
                return True
    return False


_EVALUATORS = {'eval', 'exec', 'compile', '__import__', 'parse_expr', 'sympify', 'simplify', 'S', 'Poly', 'parse_latex'}


def _names(code: types.CodeType) -> set[str]:
    """Global and attribute names in a code object, those of its inner functions and comprehensions included."""
    return set(code.co_names).union(*(_names(inner) for inner in code.co_consts if isinstance(inner, types.CodeType)))


def _readable(problem: Problem) -> str | None:
    return None if number(problem.answer) is not None else f'the answer {problem.answer!r} is not a number'


# What `r1jax.config.Part` asks of a reward beyond a call: problems that it could not grade, and what it imports before it is timed.
numeric.check = last_number.check = _readable  # type: ignore[attr-defined]  # functions have a __dict__
reasoning_gym.warm = functools.partial(gym_task, 'chain_sum')  # type: ignore[attr-defined]  # as above
