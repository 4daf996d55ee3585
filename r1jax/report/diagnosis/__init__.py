"""Why does my run not learn? From a run's records to findings, each with its evidence and what to do.

    for finding in diagnose('runs/mine'): print(finding.lines())

In: a workdir, of a run that is going on, is over or was killed: config.json, metrics.jsonl, summary.json, samples.jsonl, as far as they
are there. Out: findings, the gravest first. A check is a function of one stage; its thresholds are constants beside it, each with where
it comes from. docs/diagnosis.md goes through them in the order in which one asks.

    rollouts   is there anything to learn from: groups that differ, responses that end, grades
    policy     where the policy goes: clipping, KL, entropy, the sampler's gap
    learning   is anything learned: rate, skipped steps, gradient, loss, reward
    hacked     is the reward to be believed

No findings do not mean that a run is good: they mean that none of these faults is in its records. Nothing here trains or starts jax.
"""

from __future__ import annotations

import os

from r1jax.report.diagnosis import hacked, learning, policy, rollouts
from r1jax.report.diagnosis.finding import SEVERITIES, Finding
from r1jax.report.workdir import StageRun, read

__all__ = ['SEVERITIES', 'Finding', 'diagnose', 'examine']

CHECKS = (*rollouts.CHECKS, *policy.CHECKS, *learning.CHECKS, *hacked.CHECKS)


def diagnose(workdir: str | os.PathLike) -> list[Finding]:
    """The findings of a workdir, the gravest first, and then by stage.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: metrics.jsonl is damaged before its last line.
    """
    run = read(os.fspath(workdir))
    trained = [stage for stage in run.stages if stage.lines and stage.column('loss')[1].size]
    ends = hacked.at_the_end(os.fspath(workdir), [stage for stage in trained if stage.reinforced])
    found = [each for stage in trained for each in examine(stage, ends.get(stage.name, ()))]
    return sorted(found, key=lambda each: SEVERITIES.index(each.severity))  # stable: stages stay in their order


def examine(stage: StageRun, records: list[hacked.Record] | tuple = ()) -> list[Finding]:
    """The findings of one stage. `records`: of samples.jsonl, of the end of the stage."""
    return [
        *(found for check in CHECKS for found in check(stage)),
        *hacked.constant_answers(stage, records),
    ]
