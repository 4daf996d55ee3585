"""The story of the calculator: experiments/tiny_tools.py, held against what docs/results says of it."""

import json
import pathlib

import pytest

from r1jax.settings import load_recipe
from r1jax.train import stage

ROOT = pathlib.Path(__file__).parents[1]


def assert_learned_to_call(entry):
    """What the experiment is for, on one seed's entry in summary.json."""
    held_out, alone = entry['evals']['held_out'], entry['evals']['alone']
    base, zero = held_out['before'], held_out['after']
    assert base['pass@1'] < 0.30 and zero['pass@1'] > 0.90 and zero['pass@1_ci'][0] > 0.85
    assert base['environment_asked'] < 0.35 and zero['environment_asked'] > 0.95
    called = base['by_mode']['called']
    assert called['accuracy'] > base['by_mode']['direct']['accuracy']  # calling pays in the base
    assert zero['pass@1'] > called['accuracy'] + 0.05  # and it does not only call more often, it calls better
    assert max(alone[when]['pass@1'] for when in ('before', 'after')) < 0.30  # the head cannot do it


def test_the_committed_results_show_it():
    runs = json.loads((ROOT / 'docs' / 'results' / 'tiny_tools.json').read_text(encoding='utf-8'))['runs']
    for run in runs:
        assert_learned_to_call(run['stages']['zero'])


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_new_run_shows_it(tmp_path):
    stage.run(load_recipe(ROOT / 'experiments' / 'tiny_tools.py'), str(tmp_path))
    assert_learned_to_call(json.loads((tmp_path / 'summary.json').read_text())['stages']['zero'])
