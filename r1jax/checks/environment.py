"""What answers the policy between its turns."""

from __future__ import annotations

import math
from collections.abc import Iterator

from r1jax.checks.rows import Row
from r1jax.config import Collect, Eval, Frame, OnPolicy, Stage


def environment(stage: Stage) -> Iterator[Row]:
    """`Stage.environment` by itself, and whether anything of the stage meets it."""
    cfg, evals = stage.environment, [each for each in stage.evals if isinstance(each, Eval)]
    for each in evals:
        yield (
            cfg is not None or not each.alone,
            f'evals.{each.name}.alone=True has no effect: the stage has no environment',
        )
    if cfg is None:
        return
    yield (
        not isinstance(stage.source, Collect),
        'environment: a stage that collects keeps what the policy says as one text, and would lose what it was told between: leave it None',
    )
    met = isinstance(stage.source, OnPolicy) or any(not each.alone for each in evals)
    yield met, 'environment has no effect: the stage draws no rollouts, and no evaluation of it meets an environment'
    yield (
        callable(cfg),
        f'environment={cfg!r:.80} must be called with a problem and a response, and say what comes next',
    )
    yield isinstance(cfg.frame, Frame), f'environment.frame must be a Frame, not {cfg.frame!r:.80}'
    texts = all(isinstance(text, str) for text in cfg.frame.stops)
    yield (
        isinstance(cfg.frame.stops, tuple) and texts,
        f'environment.frame.stops={cfg.frame.stops!r} must be a tuple of texts',
    )
    for name, least in (('turns', 2), ('output', 1)):
        value = getattr(cfg, name)
        why = ': an environment speaks between two turns' if name == 'turns' else ''
        whole = isinstance(value, int) and not isinstance(value, bool)
        yield whole and value >= least, f'environment.{name}={value!r} must be a whole number of at least {least}{why}'
    number = isinstance(cfg.deadline, (int, float)) and 0 <= cfg.deadline < math.inf
    yield number, f'environment.deadline={cfg.deadline!r} must be in [0, inf) seconds'
