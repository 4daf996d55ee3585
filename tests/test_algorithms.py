"""Other algorithms than the recipe's own: each runs, and the documents say what they are."""

import dataclasses
import math
import pathlib
import re

import jax
import numpy as np
import pytest
import smallest

from r1jax.algorithms import ALGORITHMS, DAPO, with_algorithm
from r1jax.config import DPO, GRPO, Stored
from r1jax.data.tiny import TinySums
from r1jax.data.tiny_pairs import TinyPairs
from r1jax.rewards import accuracy
from r1jax.rl.advantage import group_advantage
from r1jax.rl.batch import Item, pack, token_weights
from r1jax.rl.loss import grpo
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


# A group of three that was drawn with a limit of 5 tokens: two tokens that earn 2, five and one that earn nothing; ratios to the policy
# that drew, which is the reference too. R1's advantages are (2, -1, -1)/√3.
RATIOS = (3.0, 0.5), (0.5,) * 5, (2.0,)
R1_GAIN = (2 * (1.2 + 0.5) / 2 - 0.8 - 2) / math.sqrt(3) / 3
R1_KL = ((1 / 3 + 2 + math.log(1.5) - 2) / 2 + (2 + math.log(0.5) - 1) + (0.5 + math.log(2) - 1)) / 3  # k3
BY_HAND = {  # what is minimised
    'GRPO': -R1_GAIN + 0.001 * R1_KL,
    # Advantages (4, -2, -2)/3, not divided by their spread, and the limit in place of each length
    'Dr. GRPO': -(4 / 3 * (1.2 + 0.5) - 2 / 3 * 5 * 0.8 - 2 / 3 * 2) / (3 * 5),
    # Five tokens are the limit and cost 1: rewards (2, -1, 0), advantages (5, -4, -1)/√21; of eight tokens each weighs the same
    'DAPO': -(5 * (1.28 + 0.5) - 4 * 5 * 0.8 - 1 * 2) / math.sqrt(21) / 8,
    # Ratios √1.5, ½ and 2: the first two are clipped, the last loses more as it is
    'GSPO': -(2 * (1 + 4e-4) - (1 - 3e-4) - 2) / math.sqrt(3) / 3,
    # Each against the mean of the two others, 0 and twice 1; nothing is clipped
    'RLOO': -(2 * (3 + 0.5) - 1 * 5 * 0.5 - 1 * 2) / (3 * 5),
}


@pytest.mark.parametrize('name', ALGORITHMS)
def test_the_loss_of_each_by_hand(name):
    """From rewards to the loss, by the settings of the value and no others."""
    cfg, source = ALGORITHMS[name].loss, ALGORITHMS[name].source
    lengths = list(map(len, RATIOS))
    reward = np.array([[2.0, 0.0, 0.0]])
    if source.get('overlong') == 'soft':
        reward += soft_overlong([Response('', n, True) for n in lengths], 5, 1)
    how = cfg.scale_by_std, cfg.std_ddof, cfg.std_eps, cfg.baseline
    (advantage,) = group_advantage(reward, np.ones((1, 3), bool), *how)
    weight = token_weights(lengths, np.ones(3, bool), cfg.normalise, 5)
    each = zip(lengths, weight, advantage, strict=True)
    items = [Item(np.array([7]), np.arange(1, n + 1), w, 0, a) for n, w, a in each]
    batch, _, places = pack(items, 12, 1, 1)
    logp = np.zeros_like(batch.weight)
    for (m, r, t), ratio in zip(places, RATIOS, strict=True):
        logp[m, r, t : t + len(ratio)] = np.log(ratio)
    row = jax.tree.map(lambda a: a[0], batch)
    loss = grpo(logp[0], row, (cfg.clip_low, cfg.clip_high), cfg.beta, cfg.kl, cfg.importance_cap, cfg.ratio)
    np.testing.assert_allclose(loss, BY_HAND[name], rtol=1e-5)


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
