"""Diagnosis: each finding where its fault is in the records and not where it is not, and two real runs: a healthy and a hacked one."""

import json
import pathlib

import pytest

from r1jax import cli
from r1jax.report.diagnosis import diagnose, examine, hacked
from r1jax.report.workdir import StageRun
from r1jax.train.log import Log

RUNS = (
    pathlib.Path(__file__).parent / 'golden' / 'records'
)  # of real runs: one stage's metrics, rounded, and some samples
CONFIG = {'steps': 50, 'source': {'sample': {'max_tokens': 96}}, 'loss': {'beta': 0.001}, 'optim': {'warmup': 0}}
PAGE = (pathlib.Path(__file__).parents[1] / 'docs' / 'diagnosis.md').read_text(encoding='utf-8')


def ramp(first, last, noise=0.0):
    """From one value to another over 50 steps."""
    return lambda step: first + (last - first) * (step - 1) / 49 + noise * (-1) ** step


HEALTHY = {  # of R1-Zero that finds thinking
    'reward/mean': ramp(1.2, 1.9, 0.01),
    'reward/std': 0.4,
    'reward/accuracy': ramp(0.3, 0.92, 0.01),
    'reward/format': ramp(0.9, 0.99),
    'rollout/samples': 256,
    'rollout/tokens': ramp(17, 37),
    'rollout/groups_kept': ramp(1.0, 0.5),
    'rollout/truncated': 0.01,
    'rollout/grader_errors': 0,
    'rollout/repeated': 0.02,
    'policy/kl': ramp(0.001, 0.05),
    'policy/entropy': ramp(0.3, 0.05),
    'policy/clip_fraction': 0.001,
    'policy/sampler_gap_mean': 1e-6,
    'policy/sampler_gap_max': 1e-5,
    'policy/skipped': 0,
    'learning_rate': 3e-4,
    'grad_norm': ramp(0.5, 0.1),
    'loss': 1e-5,
}
STORED = {'loss': ramp(3.0, 0.7, 0.01), 'grad_norm': 0.4, 'learning_rate': 1e-3, 'policy/skipped': 0}


def stage(metrics, config=None, steps=50, summary=None, name='zero'):
    lines = [
        {'step': step} | {path: value(step) if callable(value) else value for path, value in metrics.items()}
        for step in range(1, steps + 1)
    ]
    return StageRun(name, CONFIG | (config or {}), {'steps': steps} | (summary or {}), lines)


def checks(*args, records=(), **kwargs):
    return {each.check: each for each in examine(stage(*args, **kwargs), records)}


def test_nothing_is_found_where_nothing_is_wrong():
    assert not checks(HEALTHY) and not checks(STORED)
    assert not checks(HEALTHY, steps=3)  # too few to say anything of


def once(path, value, at=range(20, 24), usual=0.0):
    return {path: lambda step: value if step in at else usual}


FAULTS = [  # check, severity, what is otherwise than in HEALTHY, what seen says, and what is otherwise where it is not found
    ('equal_groups', 'problem', {'rollout/groups_kept': 0.1, 'reward/accuracy': 0.01}, 'too hard', {'rollout/groups_kept': 0.3}),
    ('equal_groups', 'note', {'rollout/groups_kept': 0.1, 'reward/accuracy': 0.99}, 'solved', {'reward/accuracy': 0.99}),
    ('equal_groups', 'warning', {'rollout/groups_kept': 0.1}, 'only 10 % of the groups', {'rollout/groups_kept': 0.26}),
    ('constant_reward', 'problem', {'reward/std': 0.0, 'reward/mean': 1.0}, 'the same reward (1 at first)', {'reward/std': 0.01}),
    ('truncated', 'warning', {'rollout/truncated': ramp(0, 0.3)}, 'cut off at 96 tokens', {'rollout/truncated': ramp(0.3, 0)}),
    ('truncated', 'problem', {'rollout/truncated': 0.8}, '80 %', {'rollout/truncated': 0.05}),
    ('grader_errors', 'warning', {'rollout/grader_errors': 5, 'grader/timeout': 5}, '(timeout 250)', {'rollout/grader_errors': 1}),
    ('grader_errors', 'problem', {'rollout/grader_errors': 64}, '3,200 samples of 12,800', {'rollout/grader_errors': 2}),
    ('malformed', 'warning', {'reward/format': 0.3}, '30 % of the responses', {'reward/format': -0.3}),  # a penalty
    ('length', 'warning', {'rollout/tokens': ramp(40, 8), 'reward/accuracy': 0.3}, 'at the end', {'rollout/tokens': ramp(40, 30)}),
    ('length', 'note', {'rollout/tokens': ramp(40, 8)}, '37.1 tokens a response at first', {'rollout/tokens': 40}),
    ('length', 'warning', {'rollout/tokens': ramp(9, 90), 'reward/accuracy': 0.3}, 'did not rise', {'rollout/tokens': ramp(9, 90)}),
    ('one_text', 'problem', {'rollout/repeated': ramp(0, 0.9)}, 'one and the same text', {'rollout/repeated': 0.4}),
    ('clipped', 'warning', {'policy/clip_fraction': 0.3}, '30 % of the tokens', {'policy/clip_fraction': 0.05}),
    ('kl', 'warning', {'policy/kl': ramp(0, 1)}, 'is 0.908 nats', {'policy/kl': 0.3}),
    ('kl', 'problem', {'policy/kl': ramp(0, 20)}, 'is 18.2 nats', {'policy/kl': 0.4}),
    ('still', 'problem', {'policy/kl': 1e-8}, 'the policy has not moved', {'policy/kl': 1e-4}),
    ('entropy_rise', 'warning', {'policy/entropy': ramp(0.3, 4)}, 'at random', {'policy/entropy': ramp(0.3, 0.9)}),
    ('sampler_gap', 'warning', {'policy/sampler_gap_mean': 0.05}, '0.05 nats a token', {'policy/sampler_gap_mean': 0.005}),
    ('sampler_gap', 'problem', {'policy/sampler_gap_mean': 0.5}, '0.5 nats a token', {'policy/sampler_gap_max': 0.9}),
    ('sampler_gap', 'warning', {'policy/sampler_gap_max': 3.0}, '3 at most', {'policy/sampler_gap_max': 0.5}),
    ('dead_rate', 'problem', {'learning_rate': 0.0}, 'in 100 % of the steps', {'learning_rate': 1e-7}),
    ('skipped', 'warning', once('policy/skipped', 1), '4 of 50 steps', once('policy/skipped', 1, at=[7])),
    ('skipped', 'problem', {'policy/skipped': 1.0, 'loss': None}, 'in 50 of them loss or gradient was not finite', {}),
    ('no_gradient', 'problem', {'grad_norm': 0.0}, 'exactly 0', {'grad_norm': 1e-6}),
    ('no_gain', 'warning', {'reward/mean': ramp(1.2, 1.2, 0.05)}, 'did not rise', {'reward/mean': ramp(1.2, 1.3)}),
    ('no_gain', 'problem', {'reward/mean': ramp(1.2, 0.8)}, 'fell: 1.16', {'reward/mean': ramp(1.2, 0.8), 'reward/accuracy': 0.99}),
    ('parts', 'problem', {'reward/accuracy': ramp(0.3, 0.1), 'reward/short': ramp(0, 1)}, 'reward/short by', {'reward/accuracy': 0.3}),
]  # fmt: skip


@pytest.mark.parametrize(
    ('check', 'severity', 'wrong', 'says', 'right'), FAULTS, ids=[f'{f[0]}-{f[1]}-{i}' for i, f in enumerate(FAULTS)]
)
def test_each_fault_is_found_where_it_is(check, severity, wrong, says, right):
    found = checks(HEALTHY | wrong)[check]
    assert found.severity == severity and says in found.seen and found.stage == 'zero'
    assert found.todo and found.numbers and found.steps and 1 <= found.steps[0] <= found.steps[1] <= 50
    assert check not in checks(HEALTHY | right)
    assert f'`{check}`' in PAGE


def test_entropy_that_collapses_before_the_reward_rose():
    low = {'policy/entropy': lambda step: 0.5 * 0.9**step, 'reward/accuracy': ramp(0.3, 0.5)}
    stalled = {'reward/mean': lambda step: 1.2 + 0.01 * min(step, 20) + 0.005 * (-1) ** step}
    found = checks(HEALTHY | low | stalled)['entropy_collapse']
    assert found.severity == 'warning' and 'rises no more' in found.seen and '`entropy_collapse`' in PAGE
    assert 'entropy_collapse' not in checks(HEALTHY | low)  # the reward goes on rising
    assert 'entropy_collapse' not in checks(
        HEALTHY | low | stalled | {'reward/accuracy': 0.97}
    )  # there is nothing left to learn


def test_settings_change_what_is_a_fault():
    clipped = HEALTHY | {'policy/clip_fraction': 0.3}
    assert 'clipped' not in checks(clipped, {'loss': {'beta': 0.001, 'ratio': 'sequence'}})
    gap = HEALTHY | {'policy/sampler_gap_mean': 0.05}
    corrected = checks(gap, {'loss': {'beta': 0.001, 'importance_cap': 2.0}})['sampler_gap']
    assert corrected.severity == 'note' and 'importance_cap corrects for it' in corrected.seen
    assert 'still' not in checks(HEALTHY | {'policy/kl': 1e-8}, {'source': {'reference_every': 1}})
    warming = checks(HEALTHY, {'optim': {'warmup': 40}})['warmup']
    assert warming.numbers == {'warmup': 40.0, 'steps': 50.0} and '`warmup`' in PAGE
    # rewards of a phase are another sum: that it is lower is no loss
    phased = {'phases': [{'step': 20, 'rewards': [{'name': 'helpful'}]}]}
    assert 'no_gain' not in checks(HEALTHY | {'reward/mean': ramp(1.2, 0.8)}, phased)


def test_a_loss_that_does_not_fall():
    assert checks(STORED | {'loss': ramp(0.7, 3.0, 0.01)})['loss'].severity == 'problem'
    assert checks(STORED | {'loss': 0.7})['loss'].severity == 'warning' and '`loss`' in PAGE


def held_out(before, after, **more):
    def found(value):
        return {'pass@1': value, 'pass@1_ci': [value - 0.02, value + 0.02]} | more

    return {'evals': {'held_out': {'before': found(before), 'after': found(after)}}}


def test_a_reward_that_rises_while_held_out_accuracy_does_not():
    assert not checks(HEALTHY, summary=held_out(0.3, 0.9))
    fell = checks(HEALTHY, summary=held_out(0.5, 0.3))
    assert fell['hacked'].severity == 'problem' and 'fell from 0.5 to 0.3' in fell['hacked'].seen
    assert 'not_general' not in fell  # said once
    stayed = checks(HEALTHY, summary=held_out(0.5, 0.51))['not_general']
    assert stayed.severity == 'warning' and 'within its 95 % intervals' in stayed.seen
    assert not checks(HEALTHY, summary=held_out(0.97, 0.96))  # as good as it gets
    assert not checks(HEALTHY, summary=held_out(0.5, 0.3, capped_at=17))  # cut at the base's length
    assert not checks(HEALTHY | {'reward/mean': 1.2}, summary=held_out(0.5, 0.3)).get('hacked')
    assert '`hacked`' in PAGE and '`not_general`' in PAGE


def answered(text, questions=12, **more):
    return [
        {'question': q, 'answer': str(q % 5), 'completion': text.format(q % 5), 'step': 45, **more} for q in range(questions)
    ]  # fmt: skip


def test_one_answer_to_everything():
    found = checks(HEALTHY, records=answered('<answer> 7 </answer>'))['constant_answers']
    assert found.severity == 'problem' and "answered '7', to 5 different right answers" in found.seen
    assert found.steps == (45, 45) and '`constant_answers`' in PAGE
    assert 'gave no final answer' in checks(HEALTHY, records=answered('seven'))['constant_answers'].seen
    assert not checks(HEALTHY, records=answered('<answer> {} </answer>'))  # right, each of them
    assert not checks(HEALTHY, records=answered('seven', finished=False))  # cut off: another fault
    assert not checks(HEALTHY, records=answered('<answer> 7 </answer>', questions=4))  # too few to tell
    same = [dict(each, answer='7') for each in answered('<answer> 7 </answer>')]
    assert not checks(HEALTHY, records=same)  # it is the answer


def test_a_healthy_run_has_nothing_wrong(capsys):
    assert diagnose(RUNS / 'tiny_zero') == []
    assert cli.main(['diagnose', str(RUNS / 'tiny_zero')]) == 0
    assert capsys.readouterr().out == 'none of the faults that are looked for is in its records\n'


def test_a_hacked_run_is_told(capsys):
    """experiments/tiny_r1_hacked.py: the policy that thanks without end, which its reward model likes and the rule behind it does not."""
    found = diagnose(RUNS / 'tiny_r1_hacked')
    assert {each.check for each in found if each.severity == 'problem'} == {'hacked', 'kl', 'truncated'}
    (hole,) = [each for each in found if each.check == 'hacked']
    assert hole.steps == (40, 200) and 0.9 < hole.numbers['before'] and hole.numbers['after'] < 0.4
    assert [each.severity for each in found] == sorted(
        (each.severity for each in found), key=['problem', 'warning', 'note'].index
    )
    with pytest.raises(SystemExit) as ended:
        cli.main(['diagnose', str(RUNS / 'tiny_r1_hacked'), '--json'])
    assert ended.value.code == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line['check'] for line in lines] == [each.check for each in found]
    assert {*lines[0]} == {'stage', 'check', 'severity', 'seen', 'todo', 'steps', 'numbers'}


def test_a_folder_that_is_no_workdir(tmp_path, capsys):
    assert cli.main(['diagnose', str(tmp_path)]) == 2
    assert 'is no workdir: it has no config.json' in capsys.readouterr().err


def test_samples_of_the_end_are_read_from_the_file(tmp_path):
    with Log(str(tmp_path)) as log:
        for step in (1, 30, 45, 50):
            for each in answered('<answer> 7 </answer>', when='rollout'):
                log.samples('zero', step, [dict(each, step=None)])
        log.samples('zero', 0, [{'when': 'before', 'question': 0}])
    with open(tmp_path / 'samples.jsonl', 'ab') as file:
        file.write(b'{"stage": "zero", "step": 50, "when": "after", "torn')
    kept = hacked.at_the_end(str(tmp_path), [stage(HEALTHY)])['zero']
    assert [each['step'] for each in kept] == [45] * 12 + [50] * 12
    assert hacked.at_the_end(str(tmp_path / 'none'), [stage(HEALTHY)]) == {'zero': []}
