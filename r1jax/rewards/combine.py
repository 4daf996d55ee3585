"""From responses to numbers: every reward part of every sample, and their weighted sum.

Rewards are plain functions `(problem, response) -> float`. One that raises could not grade: its sample is marked
invalid, which the caller counts and takes out of the group, because a silent zero would teach the model that a good
answer was wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from r1jax.config import Part
from r1jax.types import Problem, Response

_log = logging.getLogger(__name__)


def score(
    problems: Sequence[Problem], responses: Sequence[Response], parts: Sequence[Part]
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Grades responses.

    Args:
      problems: B problems, the i-th belongs to the i-th response.
      responses: B responses.
      parts: what is graded, with a weight each.

    Returns:
      reward: f32[B], Σ weight · part; 0 where not valid.
      parts: name -> f32[B], unweighted; NaN where that part could not grade.
      valid: bool[B], every part graded and gave a finite number.

    Raises:
      ValueError: numbers of problems and responses differ, or two parts have one name.
      ImportError: a part needs a package that is not installed, which no sample is to blame for.
    """
    if len(problems) != len(responses):
        raise ValueError(f'{len(problems)} problems for {len(responses)} responses: give one problem a response')
    if len({part.name for part in parts}) != len(parts):
        raise ValueError(f'reward parts need names of their own, not {[part.name for part in parts]}')
    graded = {part.name: np.full(len(responses), np.nan, np.float32) for part in parts}
    for part in parts:
        errors = []
        for i, (problem, response) in enumerate(zip(problems, responses, strict=True)):
            try:
                graded[part.name][i] = part.fn(problem, response)
            except ImportError:
                raise
            except Exception as error:  # whatever else a reward function does, it costs this sample only
                errors.append(f'{type(error).__name__}: {error}')
        if errors:
            _log.warning('%s could not grade %d of %d responses: %s', part.name, len(errors), len(responses), errors[0])
    valid = np.ones(len(responses), bool)
    reward = np.zeros(len(responses), np.float32)
    for part in parts:
        valid &= np.isfinite(graded[part.name])
        reward += np.float32(part.weight) * graded[part.name]
    return np.where(valid, reward, np.float32(0)), graded, valid
