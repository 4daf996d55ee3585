"""Other algorithms than the recipe's own: each runs, and the documents say what they are."""

import dataclasses
import pathlib
import re

import numpy as np
import pytest
import smallest

from r1jax.algorithms import ALGORITHMS, DAPO, with_algorithm
from r1jax.config import DPO, GRPO, Stored
from r1jax.data.tiny import TinySums
from r1jax.data.tiny_pairs import TinyPairs
from r1jax.rewards import accuracy
from r1jax.settings import BadInput
from r1jax.train import stage
from r1jax.train.log import read
from r1jax.train.rollout import soft_overlong
from r1jax.types import Response

ROOT = pathlib.Path(__file__).parents[1]


def short(last):
    """The smallest recipe with another last stage, of two steps and no evaluations."""
    recipe = smallest.recipe()
    base = dataclasses.replace(recipe.stages[0], steps=1)
    return dataclasses.replace(recipe, stages=(base, dataclasses.replace(last, steps=2, evals=(), phases=())))


@pytest.mark.slow
def test_each_algorithm_runs_as_a_stage(tmp_path):
    zero = smallest.recipe().stages[1]
    source = dataclasses.replace(zero.source, overlong='keep', overlong_buffer=0, reference_every=0)
    plain = dataclasses.replace(zero, source=source)
    for name, algorithm in ALGORITHMS.items():
        last = with_algorithm(plain, algorithm)
        assert last.loss == algorithm.loss
        workdir = tmp_path / re.sub(r'\W', '', name)
        stage.run(short(last), str(workdir))
        lines = [m for m in read(str(workdir / 'metrics.jsonl')) if m['stage'] == 'zero']
        assert [line['step'] for line in lines] == [1, 2], name
        assert all(abs(line['loss']) < 10 for line in lines), name


def test_dapo_docks_what_is_nearly_too_long():
    zero = smallest.recipe().stages[1]
    keep = dataclasses.replace(zero, source=dataclasses.replace(zero.source, overlong='keep', overlong_buffer=0))
    source = with_algorithm(keep, DAPO).source
    assert (source.overlong, source.overlong_buffer, source.max_refills) == (
        'soft',
        keep.source.sample.max_tokens // 5,
        4,
    )
    assert with_algorithm(zero, DAPO).source.overlong_buffer == 8  # what the stage says
    with pytest.raises(
        ValueError, match='stage base has the source Stored: these algorithms sample, which takes OnPolicy'
    ):
        with_algorithm(smallest.recipe().stages[0], DAPO)


def dpo(**loss):
    zero = smallest.recipe().stages[1]
    pairs = TinyPairs(TinySums(size=40, terms=(2, 3)))
    return dataclasses.replace(zero, name='dpo', source=Stored(pairs, batch=8), loss=DPO(**loss))


@pytest.mark.slow
def test_a_policy_learns_from_pairs(tmp_path):
    recipe = short(dpo())
    recipe = dataclasses.replace(recipe, stages=(recipe.stages[0], dataclasses.replace(recipe.stages[1], steps=12)))
    stage.run(recipe, str(tmp_path))
    lines = [m for m in read(str(tmp_path / 'metrics.jsonl')) if m['stage'] == 'dpo']
    assert lines[0]['loss'] == pytest.approx(0.6931, abs=1e-3)  # log 2: at first the policy is its reference
    assert lines[0]['preference/margin'] == pytest.approx(0, abs=1e-4)
    assert lines[-1]['loss'] < 0.6 and lines[-1]['preference/margin'] > 0.2 and lines[-1]['preference/accuracy'] > 0.8


def test_dpo_refuses_what_it_cannot_learn_from(tmp_path):
    with pytest.raises(BadInput, match=r'dpo\.loss\.beta=0(\.0)? must be in \(0, inf\)'):
        stage.run(short(dpo(beta=0.0)), str(tmp_path))
    zero = smallest.recipe().stages[1]
    with pytest.raises(BadInput, match='DPO'):
        stage.run(short(dataclasses.replace(zero, loss=DPO())), str(tmp_path))
    small = dataclasses.replace(dpo(), rows=dataclasses.replace(zero.rows, length=16))
    with pytest.raises(BadInput, match=r'pair 0 has \d+ tokens, rows.length=16'):
        stage.run(short(small), str(tmp_path))


def test_pairs_of_the_tiny_world_are_what_they_say():
    pairs = TinyPairs(TinySums(size=60)).load()
    assert pairs == TinyPairs(TinySums(size=60)).load()
    for pair in pairs:
        right, wrong = (accuracy.exact(pair.problem, Response(text, 0, True)) for text in (pair.chosen, pair.rejected))
        assert (right, wrong) == (1.0, 0.0)
    guesses = sum('=' not in pair.rejected for pair in pairs)
    assert 15 < guesses < 55  # half, and of those that work theirs out the ones that happen to be right are drawn again


def test_the_table_of_the_documents_is_what_the_values_are():
    text = (ROOT / 'docs' / 'algorithms.md').read_text(encoding='utf-8')
    rows = {
        cells[0]: cells[1]
        for line in text.splitlines()
        if len(cells := [c.strip() for c in line.strip('|').split('|')]) == 4
    }
    for name, algorithm in ALGORITHMS.items():
        differs = {f.name: getattr(algorithm.loss, f.name) for f in dataclasses.fields(GRPO)
                   if getattr(algorithm.loss, f.name) != f.default}  # fmt: skip
        told = dict(re.findall(r'`(\w+)=([^`]+)`', rows[name]))
        assert told == {k: repr(v) for k, v in (differs | dict(algorithm.source)).items()}, name


def test_soft_overlong_by_hand():
    """DAPO eq. 13: of 100 tokens the last 20 are docked, linearly to -1."""
    answers = [Response('', n, True) for n in (0, 80, 85, 90, 100)]
    np.testing.assert_allclose(soft_overlong(answers, 100, 20), [0, 0, -0.25, -0.5, -1])
