"""Rewards in the loop: graded beside training, faults that cost their own samples only, problems and parts that fit each other."""

import dataclasses
import itertools
import json
import pathlib
import sys

import graders
import pytest
import smallest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'benchmarks'))

import faults

from r1jax.config import GradingConfig, OnPolicy, Part, Phase, Recipe
from r1jax.data.tiny import TinySums
from r1jax.rewards import combine
from r1jax.rewards.queue import ERRORS
from r1jax.settings import BadInput
from r1jax.train import loop, source, stage
from r1jax.train.log import read
from r1jax.types import Problem

QUESTIONS, SAMPLES = 8, 4


@dataclasses.dataclass(frozen=True)
class Mixed:
    """Sums, of which some have no number for an answer, and some are talk."""

    broken: int = 0
    talk: int = 0
    size: int = 16

    def load(self) -> list[Problem]:
        problems = TinySums(size=self.size, terms=(2, 3)).load()
        for i in range(self.broken):
            problems[3 * i] = dataclasses.replace(problems[3 * i], answer='none')
        for i in range(self.talk):
            problems[-1 - i] = dataclasses.replace(problems[-1 - i], kind='chat')
        return problems


def recipe(*rewards: Part, problems=None, steps=1, phases=(), **change) -> Recipe:
    """The smallest experiment's second stage, on its own and from random weights."""
    whole = smallest.recipe()
    zero = whole.stages[1]
    rollout = OnPolicy(problems or Mixed(), zero.source.sample, rewards, QUESTIONS, SAMPLES, **change)
    zero = dataclasses.replace(
        zero,
        start='init',
        steps=steps,
        source=rollout,
        phases=phases,
        evals=(),
        log_samples=QUESTIONS,
        checkpoint_every=1,
    )
    return dataclasses.replace(whole, stages=(zero,), grading=GradingConfig(workers=2))


def run(path, *args, **kwargs) -> tuple[list[dict], list[dict]]:
    """(metrics, samples) of a run, times apart."""
    stage.run(recipe(*args, **kwargs), str(path))
    untimed = [
        {k: v for k, v in m.items() if k not in ('seconds', 'tokens_per_second') and not k.startswith('time/')}
        for m in read(str(path / 'metrics.jsonl'))
    ]
    return untimed, list(read(str(path / 'samples.jsonl')))


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    return run(tmp_path_factory.mktemp('plain'), Part('length', graders.length))


@pytest.fixture(scope='module')
def faulty(tmp_path_factory):
    part = Part('length', faults.Faulty(graders.length), deadline=0.5)
    return run(tmp_path_factory.mktemp('faulty'), part, steps=4, minibatches=2)


def test_a_pool_changes_no_result(tmp_path, plain):
    metrics, samples = run(tmp_path, Part('length', graders.length, deadline=30.0))
    assert (metrics, samples) == plain
    assert {sample['outcome'] for sample in samples} == {'graded'} and metrics[0]['rollout/grader_errors'] == 0


def test_faults_cost_their_own_samples_only(plain, faulty):
    metrics, samples = faulty
    assert [m['step'] for m in metrics] == [1, 2, 3, 4]  # it finished
    rollout = samples[: QUESTIONS * SAMPLES]
    hit = [sample['outcome'] == 'grader_error' for sample in rollout]
    drawn = [faults.fault(s['question'], s['completion']) for s in rollout]
    assert hit == [fault is not None for fault in drawn] and 1 <= sum(hit) <= 8
    named = {'hang': 'timeout', 'raise': 'raised', 'kill': 'died', None: None}
    assert [sample.get('cause') for sample in rollout] == [named[fault] for fault in drawn]
    for sample, sound, fault in zip(rollout, plain[1], hit, strict=True):
        assert sample['completion'] == sound['completion']
        assert fault or sample['reward'] == sound['reward']
    causes = {cause: sum(sample.get('cause') == cause for sample in rollout) for cause in ERRORS}
    assert metrics[0]['rollout/grader_errors'] == sum(hit)
    assert {cause: metrics[0].get(f'grader/{cause}', 0) for cause in causes} == causes
    # out of their groups: what is left has mean 0, and the two minibatches train on the rest
    assert metrics[0]['tokens'] + metrics[1]['tokens'] == sum(
        s['tokens'] for s, bad in zip(rollout, hit, strict=True) if not bad
    )


class Killed(BaseException):
    pass


def test_a_killed_run_replays_its_grades(tmp_path, faulty, monkeypatch):
    part = Part('length', faults.Faulty(graders.length), deadline=0.5)
    write, seen = stage.Log.metrics, []

    def metrics(self, *args):
        write(self, *args)
        seen.append(args)
        if len(seen) == 3:  # in the middle of the second rollout, whose first half is in a checkpoint
            raise Killed

    with monkeypatch.context() as m:
        m.setattr(stage.Log, 'metrics', metrics)
        with pytest.raises(Killed):
            run(tmp_path, part, steps=4, minibatches=2)
    assert run(tmp_path, part, steps=4, minibatches=2) == faulty


def test_graders_work_while_the_reference_passes(tmp_path, monkeypatch):
    events = []

    def noted(name, function):
        return lambda *args: events.append(name) or function(*args)

    monkeypatch.setattr(combine.Scoring, 'add', noted('begin', combine.Scoring.add))
    monkeypatch.setattr(combine.Scoring, 'result', noted('result', combine.Scoring.result))
    monkeypatch.setattr(loop.Training, 'logprobs', noted('pass', loop.Training.logprobs))
    run(tmp_path / 'plain', Part('length', graders.length, deadline=30.0))
    assert [name for name, _ in itertools.groupby(events)] == ['begin', 'pass', 'result']
    events.clear()  # with dynamic sampling the grades decide on what to pass over
    run(tmp_path / 'refills', Part('accuracy', graders.same, deadline=30.0), max_refills=1)
    assert [name for name, _ in itertools.groupby(events)][:2] == ['begin', 'result'] and 'pass' not in events[:-1]


def test_problems_that_cannot_be_graded_are_removed_and_counted(tmp_path, capsys):
    part = Part('accuracy', graders.Checked(), deadline=5.0)
    _, samples = run(tmp_path, part, problems=Mixed(broken=3))
    assert {0, 3, 6}.isdisjoint(sample['question'] for sample in samples)
    assert json.loads((tmp_path / 'summary.json').read_text())['stages']['zero']['problems_removed'] == 3
    said = "stage zero: 3 of 16 problems removed, which cannot be graded; the first is 0: accuracy: 'none' is no number"
    assert said in capsys.readouterr().out


def test_a_phase_draws_the_problems_that_it_rewards(tmp_path):
    sums, talk = Part('accuracy', graders.same, kinds=('math',)), Part('helpful', graders.Batched(), kinds=('chat',))
    problems = Mixed(talk=8)
    metrics, samples = run(tmp_path, sums, problems=problems, steps=2, phases=(Phase(1, rewards=(sums, talk)),))
    kinds = {problem.id: problem.kind for problem in problems.load()}
    drawn = [{kinds[s['question']] for s in samples if s['step'] == step} for step in (1, 2)]
    assert drawn == [{'math'}, {'math', 'chat'}]
    assert 'reward/helpful' not in metrics[0] and metrics[1]['reward/helpful'] > 0
    parts = [s['parts'] for s in samples if s['step'] == 2 and kinds[s['question']] == 'chat']
    assert all(part['accuracy'] is None and part['helpful'] > 0 for part in parts)


@pytest.mark.parametrize(
    ('parts', 'problems', 'message'),
    [
        (
            (Part('helpful', graders.Batched(), kinds=('chat',)),),
            Mixed(talk=2),
            "no reward part applies to problems of kind 'math'",
        ),
        ((Part('accuracy', graders.Checked()),), Mixed(broken=1, size=1), '1 of 1 problems removed'),
        ((Part('same', graders.Warmed('missing'), deadline=5.0),), Mixed(), "pip install 'nothing'"),
        ((Part('same', graders.Warmed('refuse'), deadline=5.0),), Mixed(), 'Warmed cannot grade here: no sandbox'),
    ],
)
def test_what_cannot_be_graded_is_refused_before_training(tmp_path, parts, problems, message):
    with pytest.raises(BadInput, match=message):
        run(tmp_path, *parts, problems=problems)
    assert not (tmp_path / 'metrics.jsonl').exists()


def test_a_phase_that_rewards_nothing_is_refused(tmp_path):
    talk = Phase(1, rewards=(Part('helpful', graders.Batched(), kinds=('chat',)),))
    with pytest.raises(BadInput, match='the rewards helpful apply to none of the problems'):
        run(tmp_path, Part('same', graders.same), phases=(talk,))


def test_a_checkpoint_of_other_problems_is_refused():
    zero = recipe(Part('same', graders.same)).stages[0]
    rollout = source.OnPolicySource(zero, Mixed(size=3).load(), [(1,)] * 3, None, None, None, 0, None)
    with pytest.raises(BadInput, match='zero has 3 problems, at the checkpoint it had 16: its data have changed'):
        rollout.restore({'problems': 16}, None)
