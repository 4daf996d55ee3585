"""`--profile`: which step is asked for, and what an operation is called. Of a trace itself: tests/test_split.py."""

import types

import pytest
import toy

from r1jax.settings import BadInput
from r1jax.train import profile


def test_what_is_asked_for():
    stages = toy.recipe().stages
    assert profile.wanted('2', stages) == profile.Wanted('base', 2)
    assert profile.wanted('zero:4', stages) == profile.Wanted('zero', 4)
    assert profile.wanted('7', [types.SimpleNamespace(name='a', loss=1, steps=0)]) == profile.Wanted('a', 7)
    for text, message in [
        ('5', '--profile 5: give STEP or STAGE:STEP, with a step from 1 to 4 of stage base'),
        ('0', '--profile 0: give STEP or STAGE:STEP, with a step from 1 to 4 of stage base'),
        ('zero:x', '--profile zero:x: give STEP or STAGE:STEP'),
        ('one:1', '--profile one:1: one is none of the stages that train here (base, zero)'),
    ]:
        with pytest.raises(BadInput) as error:
            profile.wanted(text, stages)
        assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ('path', 'words'),
    [
        ('jit(update)/while/body/transpose(jvp(head))/dot_general', 'update/head, backward'),
        ('jit(update)/while/body/jvp(attention)/jit(_where)/select_n', 'update/attention'),
        ('jit(chunk)/decode/while/body/closed_call/mlp/dot_general', 'chunk/decode/mlp'),
        ('jit(update)/transpose(jvp(checkpoint))/rematted_computation/mlp/add', 'update/mlp, backward'),
        ('jit(update)/mul', 'update'),
        (
            'jit(sample)/decode/while/Transformer.__call__/branch_0_fun/attention/bkqh,bkhs->bkqs/dot',
            'sample/decode/attention',
        ),
        ('jit(_threefry_fold_in)/_uniform/add', '_threefry_fold_in'),
    ],
)
def test_scopes_of_a_path(path, words):
    assert profile.words(path) == words
