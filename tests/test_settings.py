"""Recipes from a path and the command line, and written to JSON."""

import dataclasses
import functools
import json
import pathlib

import pytest
import toy

from r1jax.config import MeshConfig, Part, Recipe, Split, Stored
from r1jax.record import difference, to_json
from r1jax.settings import BadInput, as_bad_input, chosen, load_recipe, override

RECIPE = toy.recipe()


def field(recipe: Recipe, path: str):
    """What the test means by a path, read without the code under test."""
    stages = {stage.name: stage for stage in recipe.stages}
    first, *rest = path.split('.')
    value = stages.get(first) or getattr(recipe, first)
    for name in rest:
        if isinstance(value, tuple):
            value = {getattr(item, 'name', str(i)): item for i, item in enumerate(value)}[name]
        else:
            value = getattr(value, name)
    return value


# --- load_recipe


def write(folder: pathlib.Path, text: str, name: str = 'broken') -> pathlib.Path:
    path = folder / f'{name}.py'
    path.write_text(text, encoding='utf-8')
    return path


def test_an_experiment_is_known_by_its_stem():
    recipe = load_recipe(pathlib.Path(toy.__file__))
    assert recipe.name == 'toy'
    assert to_json(recipe)['template'] == 'toy:template'


def test_an_experiment_may_import_its_neighbour_and_be_loaded_again_from_elsewhere(tmp_path):
    for folder, name in (tmp_path / 'one', 'first'), (tmp_path / 'two', 'second'):
        folder.mkdir()
        write(folder, 'import toy, dataclasses\n', f'neighbour_{name}')
        change = f'dataclasses.replace(n.toy.recipe(), name={name!r})'
        text = f'import dataclasses, neighbour_{name} as n\ndef recipe():\n    return {change}\n'
        assert load_recipe(write(folder, text, 'variant')).name == name


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('x = 1\n', 'broken.py is not an experiment: it defines no function recipe()'),
        ('def recipe():\n    return 3\n', 'broken.py: recipe() must return a Recipe, not int'),
        ('x = 1\ny = 1 / 0\n', 'broken.py:2: ZeroDivisionError: division by zero'),
        ('def recipe():\n    x = 1\n    return nothing\n', "broken.py:3: NameError: name 'nothing' is not defined"),
        ('def recipe(:\n', 'broken.py:1: SyntaxError: '),
        ('import not_a_module\n', "broken.py:1: ModuleNotFoundError: No module named 'not_a_module'"),
        ('raise SystemExit(0)\n', 'broken.py:1: SystemExit: 0'),
        ("raise ValueError('of\\ntwo lines')", 'broken.py:1: ValueError: of two lines'),
        (
            'import dataclasses, toy\n'
            'def recipe():\n    return dataclasses.replace(toy.MODEL, kv_heads=3)\n',
            'broken.py:3: ValueError: heads=4 must be a multiple of kv_heads=3',
        ),
        (
            'import dataclasses, toy\n'
            'def recipe():\n    return dataclasses.replace(toy.recipe(), stages=toy.recipe().stages[0])\n',
            'broken.py: the stages of the recipe must be a tuple of Stage',
        ),
    ],
)  # fmt: skip
def test_a_broken_experiment_is_one_sentence_with_its_line(tmp_path, text, message):
    with pytest.raises(BadInput) as error:
        load_recipe(write(tmp_path, text))
    assert message in str(error.value)
    assert '\n' not in str(error.value)


def test_what_is_not_a_module_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no experiment at .*missing\.py'):
        load_recipe(tmp_path / 'missing.py')
    (tmp_path / 'notes.txt').touch()
    for path in (tmp_path, tmp_path / 'notes.txt'):
        with pytest.raises(BadInput, match='give the path of a Python module'):
            load_recipe(path)
    for name in ('json', 'pytest'):
        with pytest.raises(BadInput, match=f'would hide the module {name}'):
            load_recipe(write(tmp_path, '', name))


def test_a_missing_extra_passes_through(tmp_path):
    text = "raise ImportError('x needs y: run pip install z')"
    with pytest.raises(ImportError, match=r'^x needs y: run pip install z$'):
        load_recipe(write(tmp_path, text))


# --- override


@pytest.mark.parametrize(
    ('path', 'text', 'value'),
    [
        ('zero.steps', '7', 7),
        ('zero.optim.learning_rate', '3e-4', 3e-4),
        ('zero.optim.learning_rate', '1', 1.0),
        ('zero.loss.scale_by_std', 'False', False),
        ('zero.loss.kl', 'k1', 'k1'),
        ('zero.start', 'init', 'init'),
        ('zero.phases.0.max_tokens', '4', 4),
        ('zero.phases.0.max_tokens', 'none', None),
        ('zero.source.rewards.format.weight', '2', 2.0),
        ('zero.source.problems.terms', '4, 8', (4, 8)),
        ('zero.source.problems.size', '9', 9),
        ('zero.evals.held_out.samples', '8', 8),
        ('base.source.batch', '2', 2),
        ('base.source.epochs', '3', 3),
        ('zero.model', 'none', None),
        ('mesh.data', '8', 8),
        ('model.width', '64', 64),
        ('seed', '-3', -3),
    ],
)
def test_a_value_is_read_as_its_field_is_annotated(path, text, value):
    changed = field(override(RECIPE, [f'{path}={text}']), path)
    assert changed == value
    assert type(changed) is type(value)


def test_the_rest_stays_and_several_apply_together():
    new = override(RECIPE, ['zero.source.rewards.1.weight=2', 'recipe.seed=5', 'model.heads=6', 'model.kv_heads=3'])
    assert (new.seed, new.model.heads, new.model.kv_heads) == (5, 6, 3)  # 6 heads alone would not pass
    assert new.stages[0] is RECIPE.stages[0]
    assert override(RECIPE, []) == RECIPE
    assert override(RECIPE, ['seed=1', 'seed=2']).seed == 2


def test_a_stage_goes_before_a_field_of_the_recipe():
    recipe = dataclasses.replace(RECIPE, stages=(dataclasses.replace(RECIPE.stages[0], name='mesh'),))
    assert override(recipe, ['mesh.steps=9', 'recipe.mesh.data=2']).mesh.data == 2
    with pytest.raises(BadInput, match='mesh has no data'):
        override(recipe, ['mesh.data=2'])


@pytest.mark.parametrize(
    ('assignments', 'message'),
    [
        ('zero.optim.learningrate=1', 'zero.optim has no learningrate; did you mean learning_rate? (known: '),
        ('zro.steps=1', 'the recipe has no zro; did you mean zero? (known: base, zero, name,'),
        ('zero.source.rewards.accurcy.weight=1', 'zero.source.rewards has no accurcy; did you mean accuracy?'),
        ('zero.phases.1.step=1', 'zero.phases has no 1 (known: 0)'),
        ('zero.steps=ten', "zero.steps takes an integer, not 'ten'"),
        ('zero.steps=1.5', "zero.steps takes an integer, not '1.5'"),
        ('zero.optim.learning_rate=nan', "zero.optim.learning_rate takes a number, not 'nan'"),
        ('zero.loss.scale_by_std=0', "zero.loss.scale_by_std takes true or false, not '0'"),
        ('zero.loss.kl=k4', "zero.loss.kl takes one of k1, k2, k3, not 'k4'"),
        ('zero.phases.0.max_tokens=x', "zero.phases.0.max_tokens takes an integer or none, not 'x'"),
        ('zero.source.problems.terms=4', "zero.source.problems.terms takes an integer,an integer, not '4'"),
        ('zero.source.rewards.format.fn=len', 'zero.source.rewards.format.fn holds the function accuracy, which'),
        ('zero.source.problems=gsm8k', 'zero.source.problems holds the data set Questions, which has no spelling'),
        ('template=len', 'template holds the function template, which has no spelling'),
        ('zero.optim=adam', 'zero.optim holds OptimConfig, which has no spelling on the command line: set'),
        ('zero.evals.held_out.sample.slots=4', 'zero.evals.held_out.sample.slots cannot be set: zero.evals'),
        ('zero.model.width=64', 'zero.model.width cannot be set: zero.model is None here: give it a value in the'),
        ('zero.steps.x=4', 'zero.steps.x cannot be set: zero.steps is 4'),
        ('model.heads=5', 'model: heads=5 must be a multiple of kv_heads=2'),
        ('zero.steps', "--set takes STAGE.FIELD=VALUE, not 'zero.steps'"),
        ('=4', "--set takes STAGE.FIELD=VALUE, not '=4'"),
        ('zero..steps=4', "--set takes STAGE.FIELD=VALUE, not 'zero..steps=4'"),
        ('zero.optim=1 zero.optim.b1=1', '--set gives optim as a whole and also its part zero.optim.b1'),
        ('zero.optim.b1=1 zero.optim=1', '--set gives zero.optim as a whole and also a part of it'),
    ],
)  # fmt: skip
def test_a_wrong_override_says_what_would_be_right(assignments, message):
    with pytest.raises(BadInput) as error:
        override(RECIPE, assignments.split())
    assert str(error.value).startswith(message)
    assert '\n' not in str(error.value)


def test_where_there_is_none_a_dataclass_is_made_of_its_fields():
    path = 'zero.source.split'
    changed = override(RECIPE, [f'{path}.mesh.data=4', f'{path}.staleness=2', 'zero.source.sample.mesh.tensor=2'])
    source = changed.stages[1].source
    assert source.split == Split(MeshConfig(data=4), 2) and source.sample.mesh == MeshConfig(tensor=2)
    for assignment, message in [
        (f'{path}.staleness=2', f'{path}.staleness cannot be set: {path} is None here'),
        (f'{path}.mesh.dat=2', f'{path}.mesh has no dat; did you mean data?'),
        (f'{path}.mesh.data=x', f"{path}.mesh.data takes an integer, not 'x'"),
    ]:
        with pytest.raises(BadInput) as error:
            override(RECIPE, [assignment])
        assert str(error.value).startswith(message)


def test_stages_are_chosen_by_name():
    base, zero = RECIPE.stages
    assert chosen(RECIPE) == (base, zero)
    assert chosen(RECIPE, stage='base') == (base,)
    assert chosen(RECIPE, first='zero') == (zero,)
    with pytest.raises(BadInput, match=r'the recipe has no stage zer.*did you mean zero\?'):
        chosen(RECIPE, stage='zer')
    with pytest.raises(BadInput, match='exclude each other'):
        chosen(RECIPE, stage='base', first='zero')


# --- to_json, difference


def test_a_recipe_survives_json():
    written = to_json(RECIPE)
    assert json.loads(json.dumps(written)) == written
    assert written['stages'][1]['source']['rewards'][1] == {
        'type': 'r1jax.config:Part', 'name': 'format', 'fn': 'toy:accuracy', 'weight': 0.5, 'kinds': [], 'deadline': 0.0,
        'on_reasoning': False,
    }  # fmt: skip
    assert written['stages'][0]['source']['examples'] == {'type': 'toy:Texts', 'size': 4}


@pytest.mark.parametrize('fn', [lambda p, r: 1.0, functools.partial(toy.accuracy), toy.Letters().encode, float('inf')])
def test_what_has_no_name_cannot_be_written(fn):
    stage = dataclasses.replace(
        RECIPE.stages[1], source=dataclasses.replace(RECIPE.stages[1].source, rewards=(Part('a', fn),))
    )
    with pytest.raises(BadInput, match=r'^zero\.source\.rewards\.a\.fn cannot be written to config\.json: '):
        to_json(dataclasses.replace(RECIPE, stages=(stage,)))


@pytest.mark.parametrize(
    ('assignment', 'line'),
    [
        ('zero.optim.learning_rate=2e-4', 'zero.optim.learning_rate: 0.0001 (workdir) != 0.0002 (now)'),
        ('mesh.data=2', 'mesh.data: 1 (workdir) != 2 (now)'),
        ('zero.loss.kl=k1', 'zero.loss.kl: "k3" (workdir) != "k1" (now)'),
        ('zero.source.problems.terms=3,9', 'zero.source.problems.terms: [2, 5] (workdir) != [3, 9] (now)'),
        ('zero.source.rewards.format.weight=1', 'zero.source.rewards.format.weight: 0.5 (workdir) != 1.0 (now)'),
        ('zero.phases.0.max_tokens=none', 'zero.phases.0.max_tokens: 8 (workdir) != null (now)'),
    ],
)
def test_a_difference_has_the_path_that_set_takes(assignment, line):
    assert difference(to_json(RECIPE), to_json(override(RECIPE, [assignment]))) == [line]
    assert difference(to_json(RECIPE), to_json(RECIPE)) == []


def test_a_difference_in_structure():
    base, zero = RECIPE.stages

    def against(*stages):
        return difference(to_json(RECIPE), to_json(dataclasses.replace(RECIPE, stages=stages)))

    assert against(zero, base) == ['stages: base, zero (workdir) != zero, base (now)']
    assert against(base) == ['zero: Stage (workdir) != absent (now)']
    swapped = dataclasses.replace(zero, source=Stored(toy.Texts(), 2))
    assert against(base, swapped) == ['zero.source: OnPolicy (workdir) != Stored (now)']


@pytest.mark.parametrize(
    ('raised', 'message'),
    [
        (ValueError('x is y'), 'x is y'),
        (PermissionError('cannot write to w'), 'cannot write to w'),
        (FileNotFoundError(2, 'No such file or directory', 'f'), 'f: No such file or directory'),
        (ImportError("x needs y: run pip install 'r1jax[z]'"), "x needs y: run pip install 'r1jax[z]'"),
    ],
)
def test_what_goes_wrong_before_a_run_is_bad_input(raised, message):
    with pytest.raises(BadInput) as caught, as_bad_input():
        raise raised
    assert str(caught.value) == message
    with pytest.raises(ImportError, match='no module x'), as_bad_input():
        raise ImportError('no module x')
