"""Reward models as stages: pairs and labels become batches that any cut leaves alone; a stage that learns them, measured on held-out
ones; its scores as the reward of a later stage.
"""

import functools

import jax
import numpy as np
import pytest
from tiny import MODEL, params_of

from r1jax import sharding
from r1jax.config import BradleyTerry, MeshConfig, Pointwise
from r1jax.nn import heads
from r1jax.nn.scorer import Scorer
from r1jax.rl import loss as losses
from r1jax.rl.batch import pack
from r1jax.rl.judged import labelled_items, linked, pair_items, pair_size
from r1jax.train import step as compiled

# --- batches


def random_pairs(count=7, seed=0):
    rng = np.random.default_rng(seed)
    questions = [rng.integers(3, 61, rng.integers(1, 9)).tolist() for _ in range(count)]
    return [tuple(q + rng.integers(3, 61, rng.integers(1, 12)).tolist() + [1] for _ in 'ab') for q in questions]


def test_a_pair_shares_its_question_and_knows_both_ends():
    q, a, b = [5, 6, 7], [8, 9, 1], [8, 1]
    items = pair_items([(q + a, q + b), (q + b, q + a)])
    assert [i.prompt.tolist() for i in items] == [[5, 6, 7, 8]] * 4
    assert [i.response.tolist() for i in items] == [[9, 1], [1], [1], [9, 1]]
    assert pair_size((q + a, q + b)) == 7
    batch, _, places = pack(items, 8, 1, 2)
    linked(batch, items, places)
    weighted = np.argwhere(batch.weight)
    assert len(weighted) == 2 and batch.weight.sum() == 1
    for m, r, t in weighted:
        other = batch.source[m, r, t]
        assert batch.tokens[m, r, t] == batch.tokens[m, r, other] == 1
        assert batch.segment[m, r, t] != batch.segment[m, r, other]
        assert batch.parent[m, r, t] == batch.parent[m, r, other]


@pytest.mark.parametrize(
    ('pair', 'message'),
    [(([5, 6, 1], [5, 6, 1]), 'not the same'), (([5, 6, 1], [7, 6, 1]), 'not answers to different questions')],
)
def test_what_is_no_pair_is_refused(pair, message):
    with pytest.raises(ValueError, match=message):
        pair_items([pair])


@functools.partial(jax.jit, static_argnums=0)
def _gradients(loss, params, batch, count):
    return compiled.gradients(MODEL, loss, params, batch, count, 1.0, True)


def gradients(loss, items, length=64, rows=4, mesh=(1, 1, 1)):
    batch, count, places = pack(items, length, rows, len(items))
    if isinstance(loss, BradleyTerry):
        batch = linked(batch, items, places)
    mesh = sharding.make_mesh(MeshConfig(*mesh))
    with jax.set_mesh(mesh):
        params = compiled.with_value_head(MODEL, params_of(), jax.random.key(1), mesh)
        return jax.device_get(_gradients(loss, params, compiled.place(batch, mesh), np.int32(count)))


@pytest.mark.parametrize('loss', [BradleyTerry(), Pointwise()], ids=lambda loss: type(loss).__name__)
def test_any_cut_gives_the_loss_of_the_scorer_s_scores(loss):
    pairs = random_pairs()
    score = Scorer.create(MODEL, heads.with_value_head(params_of(), jax.random.key(1)))
    if isinstance(loss, BradleyTerry):
        items = pair_items(pairs)
        want, metrics = losses.bradley_terry(*(score([pair[k] for pair in pairs]) for k in (0, 1)))
    else:
        labelled = [(a, float(i % 2)) for i, (a, _) in enumerate(pairs)]
        items = labelled_items(labelled)
        want, metrics = losses.pointwise(score([ids for ids, _ in labelled]), np.array([y for _, y in labelled]))
    one, cut = gradients(loss, items), gradients(loss, items, 36, 4, (2, 2, 2))
    for value, (sums, tops), grads in ((g[0], g[1:3], g[3]) for g in (one, cut)):
        assert value == pytest.approx(float(want), rel=1e-5)
        assert not tops and sums['weighted'].keys() == {'score/accuracy', 'score/margin'}
        for name, x in sums['weighted'].items():
            assert x == pytest.approx(float(metrics[name.removeprefix('score/')]), rel=1e-4)
        for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(grads), jax.tree.leaves(one[3]), strict=True):
            assert np.linalg.norm(x - y) <= 2e-5 * np.linalg.norm(y), path
    assert np.linalg.norm(one[3]['value']) > 0 and 'unembed' not in one[3]
