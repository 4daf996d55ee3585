"""Distillation: the divergence and its gradients against a plain computation, on meshes and cuts; a student that comes to say what its
teacher says, from stored texts and from its own samples.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smallest
from tiny import MODEL, params_of, random_items

from r1jax import sharding
from r1jax.checks import validate
from r1jax.config import (
    NLL,
    Distil,
    MeshConfig,
    OnPolicy,
    OptimConfig,
    Phase,
    Recipe,
    RowConfig,
    SampleConfig,
    Stage,
    Stored,
)
from r1jax.data.template import r1_zero
from r1jax.data.tiny import TinyCorpus, TinySums, TinyTokenizer
from r1jax.nn.transformer import forward, unembedding
from r1jax.rl import logprobs
from r1jax.rl.batch import pack
from r1jax.rl.distil import NAMES, divergence
from r1jax.settings import BadInput
from r1jax.train import checkpoint
from r1jax.train import step as compiled
from r1jax.train.log import Log, read
from r1jax.train.stage import run

TEACHER = dataclasses.replace(
    MODEL, layers=1, width=24, heads=2, kv_heads=2, hidden=40
)  # another shape, the same vocabulary


@functools.cache
def rows():
    """Hidden states of a student and a teacher [B,T,D], their unembeddings, sources, and which tokens are wanted."""
    rng = np.random.default_rng(3)
    f32 = lambda *shape: jnp.array(rng.normal(size=shape), jnp.float32)  # noqa: E731
    B, T, V = 4, 9, 14
    source = jnp.array(rng.integers(0, T, (B, T)))
    return f32(B, T, 6), f32(V, 6), f32(B, T, 4), f32(V, 4), source, jnp.array(rng.random((B, T)) < 0.6)


def plain(kl, temperature, hidden, unembed, theirs, head, source, where):
    """The definition, on the whole [B,T,V]."""
    logp, logq = (
        jax.nn.log_softmax(jnp.take_along_axis(h, source[..., None], 1) @ w.T / temperature)
        for h, w in ((hidden, unembed), (theirs, head))
    )
    a, b = (logq, logp) if kl == 'forward' else (logp, logq)
    return jnp.where(where, jnp.sum(jnp.exp(a) * (a - b), -1), 0), logp, logq


def ours(kl, temperature, hidden, unembed, theirs, head, source, where):
    return divergence((hidden, unembed, 'float32'), (theirs, head, 'float32'), source, temperature, kl, where)


def same(got, want, tolerance=1e-5):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert np.linalg.norm(np.asarray(a) - b) <= tolerance * np.linalg.norm(b)


@pytest.mark.parametrize('mesh', [None, (2, 2, 2)])
@pytest.mark.parametrize('temperature', [1.0, 2.5])
@pytest.mark.parametrize('kl', ['forward', 'reverse'])
def test_divergence_and_gradients_are_those_of_the_definition(monkeypatch, kl, temperature, mesh):
    monkeypatch.setattr(logprobs, '_LOGITS', 2 * 14 * 4 * 2)  # several chunks
    args, at = rows(), jnp.array(np.random.default_rng(0).random((4, 9)), jnp.float32)

    def loss(by, hidden, unembed):
        return jnp.sum(at * by(kl, temperature, hidden, unembed, *args[2:])[0])

    with jax.set_mesh(sharding.make_mesh(MeshConfig(*(mesh or (1, 1, 1))))):
        got = jax.jit(jax.value_and_grad(functools.partial(loss, ours), argnums=(0, 1)))(*args[:2])
        kls, measured = jax.jit(functools.partial(ours, kl, temperature))(*args)
    same(got, jax.value_and_grad(functools.partial(loss, plain), argnums=(0, 1))(*args[:2]))
    want, logp, logq = plain(kl, temperature, *args)
    same(kls, want)
    same(measured[f'distil/{kl}'], want)
    where = args[-1]
    same(measured['policy/entropy'], jnp.where(where, -jnp.sum(jnp.exp(logp) * logp, -1), 0))
    same(measured['distil/teacher_entropy'], jnp.where(where, -jnp.sum(jnp.exp(logq) * logq, -1), 0))
    np.testing.assert_array_equal(measured['distil/agreement'], where & (logp.argmax(-1) == logq.argmax(-1)))
    assert set(measured) == set(NAMES)


def test_no_gradient_reaches_the_teacher_and_equals_do_not_diverge():
    hidden, unembed, *_, source, where = rows()
    grads = jax.grad(lambda h, w: ours('reverse', 1.0, hidden, unembed, h, w, source, where)[0].sum(), argnums=(0, 1))
    assert all(not np.any(g) for g in grads(hidden + 1, unembed))
    kls, measured = ours('forward', 1.0, hidden, unembed, hidden, unembed, source, where)
    assert np.abs(kls).max() < 1e-6 and measured['distil/agreement'].sum() == where.sum()
    with pytest.raises(ValueError, match='a student of 14 tokens cannot learn from a teacher of 13'):
        ours('forward', 1.0, hidden, unembed, hidden, unembed[:13], source, where)


# --- the update


@functools.partial(jax.jit, static_argnums=0)
def _gradients(loss, params, taught, batch, count):
    return compiled.gradients(MODEL, loss, params, batch, count, 1.0, True, None, (TEACHER, taught))


@functools.partial(jax.jit, static_argnums=0)
def _definition(loss, params, taught, tokens, where):
    """Both models read each response behind its prompt alone, in a row of its own."""
    zero = jnp.zeros_like(tokens)
    place = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)

    def total(params):
        read = []
        for cfg, weights in ((MODEL, params), (TEACHER, taught)):
            read += [forward(cfg, weights, tokens, place, zero, zero - 1)[0], unembedding(weights)]
        return plain(loss.kl, loss.temperature, *read, jnp.maximum(place - 1, 0), where)[0].sum() / 100

    return jax.value_and_grad(total)(params)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('kl', 'temperature', 'mesh'),
    [('forward', 2.0, (1, 1, 1)), pytest.param('reverse', 1.0, (2, 2, 2), marks=pytest.mark.slow)],
)
def test_packed_rows_in_microbatches_give_the_update_of_the_definition(kl, temperature, mesh):
    loss, items = Distil('teacher', kl, temperature), random_items(np.random.default_rng(5), weight=1 / 100)
    tokens = np.zeros((len(items), 32), np.int32)
    where = np.zeros(tokens.shape, bool)
    for i, item in enumerate(items):
        both = [*item.prompt, *item.response]
        tokens[i, : len(both)], where[i, len(item.prompt) : len(both)] = both, True
    params, taught = params_of(MODEL, 0), params_of(TEACHER, 9)
    value, grads = _definition(loss, params, taught, tokens, where)
    batch, count, _ = pack(items, 56, 4, len(items), prompts=32)
    assert count > 1
    mesh = sharding.make_mesh(MeshConfig(*mesh))
    with jax.set_mesh(mesh):
        params, taught = (
            jax.device_put(weights, compiled.weight_shardings(cfg, mesh))
            for cfg, weights in ((MODEL, params), (TEACHER, taught))
        )
        got = jax.device_get(_gradients(loss, params, taught, compiled.place(batch, mesh), np.int32(count)))
    assert got[0] == pytest.approx(float(value), rel=1e-4)
    same(got[3], jax.device_get(grads), 1e-4)
    assert got[1]['tokens'] == where.sum()
    assert got[1][f'distil/{kl}'] == pytest.approx(100 * float(value), rel=1e-4)


# --- stages

ROWS = RowConfig(length=64, per_microbatch=8)
SMALL = dataclasses.replace(smallest.MODEL, width=16, head_dim=8, hidden=32)
SAMPLE = SampleConfig(max_tokens=16, max_prompt=12, slots=16, buckets=1)
SUMS = OnPolicy(TinySums(size=50, terms=(2, 3)), SAMPLE, (), questions=8, samples=2)


def student(name, source, kl, steps=6, **change):
    stage = Stage(name, steps, source, Distil('teacher', kl), OptimConfig(1e-2), ROWS, model=SMALL, checkpoint_every=2)
    return dataclasses.replace(stage, **change)


def recipe(*students):
    corpus = TinyCorpus(size=300, terms=(2, 3))
    teacher = Stage('teacher', 8, Stored(corpus, batch=16), NLL(), OptimConfig(1e-2), ROWS)
    students = students or (
        student('stored', Stored(corpus, batch=16), 'forward'),
        student(
            'own',
            dataclasses.replace(SUMS, minibatches=2),
            'reverse',
            start='stored',
            steps=5,
            phases=(Phase(4, rewards=smallest.REWARDS),),
        ),
    )
    return Recipe('distilled', (teacher, *students), r1_zero, smallest.MODEL, TinyTokenizer())


def lines(workdir, stage=None):
    found = list(read(str(workdir / 'metrics.jsonl')))
    drop = ('seconds', 'tokens_per_second')
    found = [{k: v for k, v in m.items() if k not in drop and not k.startswith('time/')} for m in found]
    return [m for m in found if stage in (None, m['stage'])]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('whole')
    run(recipe(), str(workdir))
    return workdir


@pytest.mark.slow
def test_a_smaller_student_comes_near_its_teacher_on_stored_texts_and_on_its_own(whole):
    stored, own = lines(whole, 'stored'), lines(whole, 'own')
    for steps, kl in ((stored, 'forward'), (own, 'reverse')):
        assert all(m['loss'] == pytest.approx(m[f'distil/{kl}'], rel=1e-4) for m in steps)
        assert all(0 <= m['distil/agreement'] <= 1 and m['distil/teacher_entropy'] > 0 for m in steps)
    assert stored[-1]['loss'] < 0.6 * stored[0]['loss']
    assert stored[-1]['distil/agreement'] > stored[0]['distil/agreement']
    # a rollout of 16 serves two steps, without a reward
    assert [m['policy/version'] for m in own] == [0, 0, 2, 2, 4] and own[0]['rollout/samples'] == 16
    assert not any('reward/' in name or 'sampler_gap' in name for name in own[0])
    assert 'reward/accuracy' in own[4] and own[4]['tokens'] > 0  # rewards are logged, and decide nothing
    assert own[0]['tokens'] + own[1]['tokens'] == 16 * own[0]['rollout/tokens']


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bits(whole, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    real, seen = Log.metrics, []

    def metrics(self, *args):
        real(self, *args)
        seen.append(args)
        if len(seen) == 17:  # in the middle of a rollout
            raise Killed

    with monkeypatch.context() as m:
        m.setattr(Log, 'metrics', metrics)
        with pytest.raises(Killed):
            run(recipe(), str(tmp_path))
    run(recipe(), str(tmp_path))
    assert lines(tmp_path) == lines(whole)
    ends = [checkpoint.read_done(str(d), 'own')['outputs'] for d in (tmp_path, whole)]
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'loss': Distil('nobody')}, "source, rewards or loss read what 'nobody' ends with, which is no stage"),
        ({'loss': Distil('other')}, "what 'other' ends with, which does not come before it"),
        ({'loss': Distil('teacher', temperature=0.0)}, r'student.loss.temperature=0.0 must be in \(0, inf\)'),
        ({'model': dataclasses.replace(SMALL, vocab=128)}, 'model.vocab=128 must be that of its teacher teacher, 96'),
        ({'source': dataclasses.replace(SUMS, max_refills=1)}, 'source.max_refills=1 has no effect with loss=Distil'),
        ({'source': dataclasses.replace(SUMS, reference_every=1)}, 'source.reference_every=1 has no effect with'),
        ({'source': dataclasses.replace(SUMS, overlong='soft', overlong_buffer=2)}, "overlong='soft' has no effect"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else '',
)
def test_what_no_teacher_can_teach_is_refused(change, message):
    with pytest.raises(BadInput, match=message):
        one = dataclasses.replace(student('student', SUMS, 'forward'), **change)
        validate(recipe(one, student('other', SUMS, 'forward')), 1)
