"""The story, told in full: experiments/tiny_zero.py from an empty workdir, held against what docs/results says of it."""

import json
import pathlib

import pytest

from r1jax.report.diagnosis import diagnose
from r1jax.settings import load_recipe
from r1jax.train import stage
from r1jax.train.log import read

ROOT = pathlib.Path(__file__).parents[1]
RESULT = ROOT / 'docs' / 'results' / 'tiny_zero.json'


@pytest.fixture(scope='module')
def told(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('tiny_zero')
    stage.run(load_recipe(ROOT / 'experiments' / 'tiny_zero.py'), str(workdir))
    return workdir


def assert_learned_to_reason(entry):
    """What R1-Zero is for, on one seed's entry in summary.json."""
    held_out, capped, longer = (entry['evals'][n] for n in ('held_out', 'capped', 'longer'))
    base, zero = held_out['before'], held_out['after']
    assert base['samples'] == 16
    assert 0.10 <= base['pass@1'] <= 0.35 and base['pass@1_ci'][0] > 0.12  # above a guess, which is right in a tenth
    assert zero['pass@1'] >= 0.90 and zero['cons@16'] >= zero['pass@1']
    assert zero['response_tokens'] >= 2 * base['response_tokens'] and zero['format'] > 0.95
    worked, direct = base['by_mode']['worked'], base['by_mode']['direct']
    assert worked['accuracy'] > direct['accuracy']  # thinking pays in the base
    assert zero['pass@1'] >= worked['accuracy'] + 0.15  # and R1-Zero does not only think more often, it thinks better
    assert capped['after']['pass@1'] < 0.50
    assert longer['after']['pass@1_ci'][0] > longer['before']['pass@1_ci'][1]


def test_the_committed_results_show_it():
    runs = json.loads(RESULT.read_text(encoding='utf-8'))['runs']
    assert len({r['seed'] for r in runs}) >= 3
    for r in runs:
        assert_learned_to_reason(r['stages']['zero'])


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_new_run_shows_it(told):
    assert_learned_to_reason(json.loads((told / 'summary.json').read_text())['stages']['zero'])


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_new_run_has_nothing_wrong(told):
    assert diagnose(told) == []


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_new_run_follows_the_committed_curve(told):
    """Same seed, perhaps another machine or jax: not the same bits, but the same course, within what seeds differ by."""
    runs = json.loads(RESULT.read_text(encoding='utf-8'))['runs']
    new = [m for m in read(str(told / 'metrics.jsonl')) if m['stage'] == 'zero']
    for name, slack in (('reward/accuracy', 0.12), ('reward/format', 0.06), ('rollout/tokens', 6.0)):
        curves = [r['stages']['zero']['curve'] for r in runs]
        for i, step in enumerate(curves[0]['step']):
            window = [m[name] for m in new if m['step'] <= step][-5:]
            got, seeds = sum(window) / len(window), [c[name][i] for c in curves]
            assert min(seeds) - slack <= got <= max(seeds) + slack, (name, step, got, seeds)
