"""Every experiment loads, passes the checks and can be written to config.json."""

import pathlib

import pytest

from r1jax.checks import validate
from r1jax.record import difference, to_json
from r1jax.settings import load_recipe

EXPERIMENTS = sorted((pathlib.Path(__file__).parents[1] / 'experiments').glob('*.py'))


@pytest.mark.parametrize('path', EXPERIMENTS, ids=lambda p: p.stem)
def test_experiment_can_run(path):
    recipe = load_recipe(path)
    validate(recipe, devices=1)
    assert recipe.name == path.stem
    assert not difference(to_json(recipe), to_json(load_recipe(path)))
