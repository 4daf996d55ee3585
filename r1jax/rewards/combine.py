"""From responses to numbers: every reward part of every sample, and their weighted sum.

Rewards are plain functions `(problem, response) -> float`, or objects that grade a batch. One that raises, is too slow or kills its
process could not grade: its sample is marked invalid, which the caller counts and takes out of the group, because a silent zero would
teach the model that a good answer was wrong.

`Scoring` takes responses as they come: worker processes grade the parts with a deadline, plain functions are called at once, and what
grades batches is asked when all are there, by `result`, which waits for the rest. `begin` and `score` are for those that are all there.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from r1jax.config import Part, Reward
from r1jax.rewards.pool import Pool
from r1jax.rewards.queue import Grade, Job
from r1jax.types import Problem, Response

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Scores:
    """What B responses earned."""

    reward: np.ndarray  # f32[B], Σ weight · part over the parts that apply; 0 where not valid
    parts: dict[str, np.ndarray]  # name -> f32[B], unweighted; NaN where that part does not apply or could not grade
    valid: np.ndarray  # bool[B], every part that applies gave a finite number
    outcome: list[str]  # B, 'graded', or what became of the first part that could not grade (`queue.ERRORS`)

    @property
    def errors(self) -> collections.Counter[str]:
        """How many samples could not be graded, by outcome."""
        return collections.Counter(each for each in self.outcome if each != 'graded')


class Scoring:
    """Responses on their way to their `Scores`, which may come one after the other.

    Raises:
      ValueError: two parts have one name.
    """

    def __init__(self, parts: Sequence[Part], pool: Pool):
        if len({part.name for part in parts}) != len(parts):
            raise ValueError(f'reward parts need names of their own, not {[part.name for part in parts]}')
        self.parts, self.pool = parts, pool
        self.items: list[tuple[Problem, Response]] = []
        self.rows: dict[str, list[int]] = {part.name: [] for part in parts}  # items that it applies to
        self.later: dict[str, Job] = {part.name: pool.open(part.fn, part.deadline) for part in parts if part.deadline}
        self.now: dict[str, list[Grade]] = {part.name: [] for part in parts if not part.deadline}

    def add(self, problems: Sequence[Problem], responses: Sequence[Response]) -> None:
        """The next responses, with the problem of each.

        Raises:
          ValueError: no part applies to a problem.
          ImportError: a part needs a package that is not installed, which no sample is to blame for.
        """
        for problem in problems:
            if self.parts and not any(applies(part, problem) for part in self.parts):
                raise ValueError(f'no reward part applies to problem {problem.id}, of kind {problem.kind!r}')
        first = len(self.items)
        self.items += zip(problems, responses, strict=True)
        for part in self.parts:
            rows = [i for i in range(first, len(self.items)) if applies(part, self.items[i][0])]
            self.rows[part.name] += rows
            items = [self.items[i] for i in rows]
            if part.deadline:
                self.pool.add(self.later[part.name], items)
            elif not _whole(part):
                self.now[part.name] += _inline(part.fn, items)

    def result(self, order: Sequence[int] | None = None) -> Scores:
        """Grades what is graded in batches, and waits for the rest.

        Args:
          order: of each of the B responses, when it came; None: as they came.

        Raises:
          ImportError: as `add`; likewise whatever a part that grades batches raises.
        """
        B = len(self.items)
        order = range(B) if order is None else order
        graded, outcome = {}, ['graded'] * B
        valid, reward = np.ones(B, bool), np.zeros(B, np.float32)
        waited = {name: self.pool.end(job) for name, job in self.later.items()}
        rows = {p.name: [b for b, i in enumerate(order) if applies(p, self.items[i][0])] for p in self.parts}
        whole = {
            part.name: self._at_once(part.fn, [self.items[order[b]] for b in rows[part.name]])
            for part in self.parts
            if _whole(part)
        }
        now = self.pool.once(lambda: self.now)
        for part in self.parts:
            name, mine = part.name, rows[part.name]
            if name in whole:
                grades = whole[name]
            else:
                came = waited[name].result() if name in waited else now[name]
                of = dict(zip(self.rows[name], came, strict=True))
                grades = [of[order[b]] for b in mine]
            values = np.full(B, np.nan, np.float32)
            values[mine] = [grade.value for grade in grades]
            for b, grade in zip(mine, grades, strict=True):
                if not math.isfinite(values[b]):  # finite as a float64 is not enough
                    valid[b] = False
                    outcome[b] = outcome[b] if outcome[b] != 'graded' else _error(grade)
            _warn(name, grades)
            reward += np.float32(part.weight) * np.where(np.isfinite(values), values, np.float32(0))
            graded[name] = values
        return Scores(np.where(valid, reward, np.float32(0)), graded, valid, outcome)

    def _at_once(self, fn: Reward, items: Sequence[tuple[Problem, Response]]) -> list[Grade]:
        """Grades of a function that grades batches; one that computes on the mesh needs every process."""
        return _inline(fn, items) if getattr(fn, 'on_mesh', False) else self.pool.once(lambda: _inline(fn, items))


def begin(problems: Sequence[Problem], responses: Sequence[Response], parts: Sequence[Part], pool: Pool) -> Scoring:
    """Starts to grade responses; see `score`."""
    if len(problems) != len(responses):
        raise ValueError(f'{len(problems)} problems for {len(responses)} responses: give one problem a response')
    scoring = Scoring(parts, pool)
    scoring.add(problems, responses)
    return scoring


def score(
    problems: Sequence[Problem], responses: Sequence[Response], parts: Sequence[Part], pool: Pool | None = None
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Grades responses.

    Args:
      problems: B problems, the i-th belongs to the i-th response.
      responses: B responses.
      parts: what is graded, with a weight each.
      pool: grades the parts with a deadline; None: one of their own, which costs its start.

    Returns:
      reward, parts, valid: as in `Scores`.

    Raises:
      ValueError: numbers of problems and responses differ, two parts have one name, or no part applies to a problem.
      ImportError: a part needs a package that is not installed, which no sample is to blame for.
    """
    if pool is None:
        with Pool() as own:
            return score(problems, responses, parts, own)
    scores = begin(problems, responses, parts, pool).result()
    return scores.reward, scores.parts, scores.valid


def marked(outcome: str) -> dict[str, str]:
    """How records say what became of a grading: an answer that could not be graded is an error of the grader, and not wrong."""
    return {'outcome': outcome} if outcome == 'graded' else {'outcome': 'grader_error', 'cause': outcome}


def applies(part: Part, problem: Problem) -> bool:
    return not part.kinds or problem.kind in part.kinds


_TOGETHER = 10_000  # problems that are in memory while they are looked through


def unfit(problems: Sequence[Problem], parts: Sequence[Part], pool: Pool) -> dict[int, str]:
    """Problems that a part could never grade, such as one whose ground truth cannot be read: index -> why.

    Asks `check(problem)` of the parts that have it, in the pool where the part has a deadline.
    """
    found: dict[int, str] = {}
    for part in (part for part in parts if hasattr(part.fn, 'check')):
        for start in range(0, len(problems), _TOGETHER):
            some = {i: problems[i] for i in range(start, min(start + _TOGETHER, len(problems))) if i not in found}
            rows = [i for i, p in some.items() if applies(part, p)]
            items, fn = [(some[i], Response('', 0, True)) for i in rows], Check(part.fn)
            # time enough on a busy machine: which problems remain must not depend on it
            grades = (
                pool.grade(fn, items, 10 * part.deadline) if part.deadline else pool.once(lambda: _inline(fn, items))
            )
            wrong = {i: g.detail or g.outcome for i, g in zip(rows, grades, strict=True) if g.value != 1}
            found |= {i: f'{part.name}: {why}' for i, why in wrong.items()}
    return found


@dataclasses.dataclass(frozen=True)
class Check:
    """A reward's `check` in the form of a reward: 1 for a problem that it can grade, else 0 and why not."""

    fn: Any  # has `check(problem)`

    def warm(self) -> None:
        getattr(self.fn, 'warm', bool)()

    def __call__(self, problem: Problem, response: Response) -> tuple[float, str]:
        why = self.fn.check(problem)
        return float(why is None), why or ''


def _whole(part: Part) -> bool:
    """Whether a part grades all responses at once, when they are there."""
    return not part.deadline and hasattr(part.fn, 'many')


def _inline(fn: Reward, items: Sequence[tuple[Problem, Response]]) -> list[Grade]:
    """Grades in this process: a batch at once where `fn` can, else item by item."""
    if not items:
        return []
    if hasattr(fn, 'many'):  # says NaN of what it cannot grade; what it raises, no sample is to blame for
        values = np.asarray(fn.many([p for p, _ in items], [r for _, r in items]), np.float32)
        if values.shape != (len(items),):
            raise ValueError(f'{fn!r:.80} gave values of shape {values.shape} for {len(items)} responses')
        return [Grade(float(value), 'graded' if math.isfinite(value) else 'raised') for value in values]
    grades = []
    for item in items:
        try:
            value, detail = fn(*item), ''
            if isinstance(value, tuple):
                value, detail = value
            grades.append(Grade(float(value), 'graded', detail))
        except ImportError:
            raise
        except Exception as error:  # whatever else a reward function does, it costs this sample only
            grades.append(Grade(math.nan, 'raised', f'{type(error).__name__}: {error}'))
    return grades


def _error(grade: Grade) -> str:
    return grade.outcome if grade.outcome != 'graded' else 'raised'  # it gave a number that is none


_told: set[tuple[str, str]] = set()


def _warn(name: str, grades: Sequence[Grade]) -> None:
    """Says what a part could not grade and why, once an outcome: how often is in the metrics."""
    for grade in grades:
        if not math.isfinite(grade.value) and (name, _error(grade)) not in _told:
            _told.add((name, _error(grade)))
            _log.warning(
                '%s could not grade a response (%s; more of these are only counted): %s',
                name,
                _error(grade),
                grade.detail,
            )
