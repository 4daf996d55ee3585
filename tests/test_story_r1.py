"""The whole recipe as a story: every stage runs at the smallest size, and at a small one each does what it is for."""

import json
import pathlib

import killing
import numpy as np
import pytest
import smallest_r1
import tiny_r1
from killing import timeless

from r1jax.train import stage
from r1jax.train.log import read


def summary(workdir: pathlib.Path) -> dict:
    return json.loads((workdir / 'summary.json').read_text(encoding='utf-8'))['stages']


def test_every_stage_runs(tmp_path):
    recipe = smallest_r1.nothing_learned()
    stage.run(recipe, str(tmp_path))
    found = summary(tmp_path)
    assert list(found) == [each.name for each in recipe.stages]
    held_out = found['all_scenarios']['evals']['held_out']['after']
    assert {'pass@1', 'cons@4', 'language_consistency', 'format', 'response_tokens'} <= set(held_out)
    general = {name: result['after'] for name, result in found['all_scenarios']['evals'].items() if name != 'held_out'}
    assert {name: [*result['parts']] for name, result in general.items()} == {
        'general': ['rule'],
        'unsafe': ['refused'],
        'harmless': ['answered'],
    }
    metrics = list(read(str(tmp_path / 'metrics.jsonl')))
    first, last = (m for m in metrics if m['stage'] == 'all_scenarios')
    models = {'reward/helpful', 'reward/safe'}  # of which a rollout of four questions may have met one
    assert not models & set(first) and models & set(last)


def assert_same(a, b):
    """The bits of two finished runs: lineage.json has digests of weights and of what was collected."""
    for name in ('metrics.jsonl', 'samples.jsonl'):
        assert timeless(a / name) == timeless(b / name), name
    one, two = (json.loads((d / 'lineage.json').read_text(encoding='utf-8')) for d in (a, b))
    assert one == two
    assert [dict(e, seconds=0) for e in summary(a).values()] == [dict(e, seconds=0) for e in summary(b).values()]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_ten_kills_over_the_whole_recipe(tmp_path):
    killing.killed('smallest_r1.py', tmp_path, kills=10, last=100, same=assert_same)


@pytest.fixture(scope='module')
def told(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('tiny_r1')
    stage.run(tiny_r1.recipe(smallest_r1.SMALL), str(workdir))
    return workdir


def part(result, name):
    return result['parts'][name]['mean']


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_stage_does_what_it_is_for(told):
    """Directions, at a size that has no room for more."""
    stages = summary(told)
    sums = {name: entry['evals']['held_out'] for name, entry in stages.items() if 'held_out' in entry.get('evals', {})}
    zero, reasoning, sft, final = (sums[name] for name in ('zero', 'reasoning_rl', 'sft', 'all_scenarios'))

    assert zero['after']['pass@1'] > zero['before']['pass@1'] + 0.2  # reward rises …
    assert zero['after']['language_consistency'] < 0.9  # … and R1-Zero mixes languages
    assert sums['cold_start']['after']['language_consistency'] > zero['after']['language_consistency'] + 0.1
    assert reasoning['after']['pass@1'] > reasoning['before']['pass@1']
    assert final['after']['language_consistency'] > 0.95 and final['after']['format'] > 0.95  # mixing is gone
    assert sft['after']['pass@1'] > sft['before']['pass@1'] + 0.2
    assert final['after']['pass@1'] > zero['after']['pass@1'] - 0.05  # and has cost no accuracy

    for name in ('helpful_rm', 'safety_rm'):
        assert stages[name]['evals']['held_out']['after']['accuracy'] > 0.75, name
    base = {name: each['before'] for name, each in stages['sft']['evals'].items()}
    general = {name: each['after'] for name, each in stages['all_scenarios']['evals'].items()}
    for name, rule in (('general', 'rule'), ('harmless', 'answered'), ('unsafe', 'refused')):
        assert part(general[name], rule) > part(base[name], rule) + 0.2, name

    assert sums['distill']['after']['pass@1'] > sums['student_zero']['after']['pass@1']  # the paper's Table 6


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_curves_go_the_right_way(told):
    metrics = list(read(str(told / 'metrics.jsonl')))
    for name in ('zero', 'reasoning_rl', 'student_zero'):
        accuracy = np.array([m['reward/accuracy'] for m in metrics if m['stage'] == name])
        assert accuracy[-5:].mean() > accuracy[:5].mean(), name
    for name in ('base', 'cold_start', 'sft', 'distill'):
        loss = np.array([m['loss'] for m in metrics if m['stage'] == name])
        assert loss[-5:].mean() < loss[:5].mean(), name
