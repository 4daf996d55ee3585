"""Stages with a model, a template and a length of their own, for real; and a changed stage ends as a new one would."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import smallest

from r1jax.config import NLL, OptimConfig, Recipe, RowConfig, Stage, Stored
from r1jax.data.template import plain, r1_zero
from r1jax.data.tiny import TinyCorpus, TinyTokenizer
from r1jax.settings import BadInput, override
from r1jax.train import checkpoint, restore, stage
from r1jax.train.log import read

SMALL = dataclasses.replace(smallest.MODEL, width=16, hidden=32)


def recipe() -> Recipe:
    """A teacher, a smaller student for two epochs, and what goes on from the student."""
    rows = RowConfig(length=64, per_microbatch=8)
    corpus = Stored(TinyCorpus(size=20, terms=(2, 3)), batch=16)
    teacher = Stage('teacher', 1, corpus, NLL(), OptimConfig(1e-2), rows)
    epochs = dataclasses.replace(corpus, epochs=2)
    student = dataclasses.replace(teacher, name='student', steps=0, source=epochs, model=SMALL, template=plain)
    longer = dataclasses.replace(SMALL, context=96)
    older = dataclasses.replace(teacher, name='older', start='student', model=longer)
    return Recipe('pair', (teacher, student, older), r1_zero, smallest.MODEL, TinyTokenizer())


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('models')
    stage.run(recipe(), str(workdir))
    return workdir


def test_each_stage_has_its_own_model_and_template(whole):
    found = {name: restore.restore(f'{whole}:{name}') for name in ('teacher', 'student', 'older')}
    assert {name: each.source.config for name, each in found.items()} == {
        'teacher': smallest.MODEL,
        'student': SMALL,
        'older': dataclasses.replace(SMALL, context=96),
    }
    assert [each.template.partition(':')[2] for each in found.values()] == ['r1_zero', 'plain', 'r1_zero']
    for each in found.values():
        assert each.source.params['embed'].shape == (96, each.source.config.width)
    assert restore.restore(str(whole)).what == f'{whole}, stage older, step 1'


def test_epochs_say_how_many_steps(whole):
    steps = [(line['stage'], line['step']) for line in read(str(whole / 'metrics.jsonl'))]
    assert steps == [('teacher', 1), *(('student', i) for i in (1, 2, 3)), ('older', 1)]  # 40 examples, 16 a step
    assert json.loads((whole / 'summary.json').read_text())['stages']['student']['steps'] == 3


@pytest.mark.slow
def test_a_changed_stage_ends_as_a_new_one_would(whole, tmp_path):
    """And so does what starts from it; what it does not start from is left as it is."""
    changed = override(recipe(), ['student.optim.learning_rate=2e-2'])
    stage.run(changed, str(tmp_path / 'new'))
    before = {each: checkpoint.read_done(str(whole), each)['outputs']['weights'] for each in ('student', 'older')}
    stage.run(changed, str(whole))
    for name in ('teacher', 'student', 'older'):
        a, b = (restore.restore(f'{folder}:{name}').source.params for folder in (whole, tmp_path / 'new'))
        jax.tree.map(np.testing.assert_array_equal, a, b)
        done = [checkpoint.read_done(str(folder), name) for folder in (whole, tmp_path / 'new')]
        assert done[0]['outputs'] == done[1]['outputs'] and done[0]['inputs'] == done[1]['inputs']
        assert name == 'teacher' or done[0]['outputs']['weights'] != before[name]
    assert sorted(path.name for path in (whole / 'stale').iterdir()) == ['older.1', 'student.1']


def test_a_stage_cannot_start_from_another_shape(tmp_path):
    first, second, third = recipe().stages
    wider = dataclasses.replace(third, model=dataclasses.replace(SMALL, hidden=48))
    with pytest.raises(
        BadInput, match=r'older.model has another shape than that of student, where it starts: hidden 32'
    ):
        stage.run(dataclasses.replace(recipe(), stages=(first, second, wider)), str(tmp_path))
    narrow = dataclasses.replace(second, model=dataclasses.replace(SMALL, vocab=64))
    with pytest.raises(BadInput, match=r'the tokenizer has 96 tokens, more than model.vocab=64 of stage student'):
        stage.run(dataclasses.replace(recipe(), stages=(first, narrow)), str(tmp_path))
