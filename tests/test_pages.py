"""Pages: what rows hold follows their tokens, what they read is what slots read, and a row's bits are its own matter."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st
from tiny import MODEL, params_of

from r1jax import sharding
from r1jax.checks import validate
from r1jax.config import MLA, MeshConfig, MoE, SampleConfig
from r1jax.nn import pages
from r1jax.nn.attention import attend
from r1jax.nn.mla import attend_latent
from r1jax.nn.transformer import shardings
from r1jax.sample import Decode, Engine, Request, Sampler
from r1jax.sample.memory import InPages
from r1jax.sample.pool import Pool
from r1jax.sample.sampler import key_data
from r1jax.settings import BadInput, override

S, K, N, H, V, P, M = 3, 2, 4, 8, 6, 4, 5


def filled(rng, heads=K, width=H, values=V):
    """Keys and values of rows, and pages in any order with the same ones."""
    size, count = P * M, S * M + 2
    k = rng.normal(size=(S, heads, width, size)).astype(np.float32)
    v = rng.normal(size=(S, heads, size, values)).astype(np.float32)
    table = rng.permutation(count)[: S * M].reshape(S, M).astype(np.int32)
    pool = [np.full((heads, count, P, n), 1e9, np.float32) for n in (width, values)]
    for s in range(S):
        for m in range(M):
            pool[0][:, table[s, m]] = k[s, :, :, m * P : (m + 1) * P].swapaxes(1, 2)
            pool[1][:, table[s, m]] = v[s, :, m * P : (m + 1) * P]
    return (k, v), tuple(pool), table


@pytest.mark.parametrize('latent', [False, True])
@pytest.mark.parametrize('platform', ['cpu', 'gpu'])  # one row after the other, or all side by side
def test_a_row_reads_its_pages_as_one_piece(latent, platform, monkeypatch):
    """And writes its last: lengths within, at the end of and at the beginning of a page; a row that is over touches nothing."""
    monkeypatch.setattr(sharding, 'platform', lambda: platform)
    rng = np.random.default_rng(0)
    kv, pool, table = filled(rng, *((1, 3, 6) if latent else ()))
    length = np.array([6, 8, 3], np.int32)
    new = [rng.normal(size=s).astype(np.float32) for s in ((S, *kv[0].shape[1:3], 1), (S, kv[1].shape[1], 1, V))]
    q = rng.normal(size=(S, N, 1, H)).astype(np.float32)
    each = attend
    if latent:
        each, q = attend_latent, (rng.normal(size=(S, N, 1, V)).astype(np.float32), q[..., :3])
    run = functools.partial(each, dtype='float32')
    for s, n in enumerate(length):
        kv[0][s, :, :, n], kv[1][s, :, n] = new[0][s, ..., 0], new[1][s, :, 0]
    seen = np.arange(P * M) <= length[:, None]
    want = run(jax.tree.map(jnp.array, q), *kv, seen[:, None])[0].swapaxes(1, 2)
    pool = tuple(map(jnp.array, pool))
    cache = pages.Pages((pool,), jnp.array(table), jnp.array(length)).without(jnp.array([False, False, True]))
    got, (keys, values) = jax.jit(lambda c: c.attend(run, q, *new, pool))(cache)
    np.testing.assert_allclose(got[:2], want[:2], atol=1e-6)
    assert not got[2].any()
    expected = [np.array(a) for a in pool]
    for s in (0, 1):
        page, at = table[s, length[s] // P], length[s] % P
        expected[0][:, page, at], expected[1][:, page, at] = new[0][s, ..., 0], new[1][s, :, 0]
    for a, b in zip((keys, values), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_kernel_of_tpus_computes_the_same():
    """Interpreted, with heads as wide as it asks for."""
    from jax.experimental.pallas import tpu as pltpu

    if not hasattr(pltpu, 'force_tpu_interpret_mode'):
        pytest.skip('this jax does not interpret kernels for TPUs')
    rng = np.random.default_rng(0)
    wide = [rng.normal(size=(1, 5, 16, 128)).astype(np.float32) for _ in 'kv']
    table, length = np.array([[3, 0], [1, 5]], np.int32), np.array([20, 7], np.int32)
    q = rng.normal(size=(2, 2, 1, 128)).astype(np.float32)
    want, _ = pages.by_pages(functools.partial(attend, dtype='float32'), q, wide, jnp.array(table), jnp.array(length))
    with pltpu.force_tpu_interpret_mode():
        got = pages.by_kernel(jnp.array(q), wide, jnp.array(table), jnp.array(length))
    np.testing.assert_allclose(got[:, 0], want[:, :, 0], atol=2e-2)  # it multiplies in bfloat16


# --- which pages are whose


def test_samples_share_the_whole_pages_of_their_prompt():
    pool = Pool(tokens=40, page=4, longest=20)
    first = pool.admit(0, b'q', size=10, entries=14)
    assert first == [(page, 4 * i) for i, page in enumerate(pool.rows[0][:3])]
    assert pool.lacks(b'q', 10, 14) == 2
    ((own, first),) = pool.admit(1, b'q', size=10, entries=14)
    assert first == 8 and pool.rows[1][:2] == pool.rows[0][:2] and own not in pool.rows[0]
    assert pool.used == 6
    pool.leave(0)
    assert pool.used == 4 and (0, b'q') in pool.prompts
    assert pool.grow(1, 20) and len(pool.rows[1]) == 5 and pool.used == 5
    pool.move([1])
    np.testing.assert_array_equal(pool.table(2), [pool.rows[0], [10] * 5])
    pool.leave(0)
    assert pool.used == 0 and not pool.prompts
    with pytest.raises(ValueError, match='a row of 20 tokens takes 5 pages of 4, but a pool of 16 tokens has 4'):
        Pool(16, 4, 20)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 9), st.integers(1, 8)), max_size=30))
def test_every_page_is_free_or_held_by_those_who_have_it(events):
    pool = Pool(tokens=48, page=4, longest=24, devices=2)
    for slot, prompt, size, more in events:
        name = bytes([prompt, size])
        if slot in pool.rows:
            pool.leave(slot)
        elif pool.lacks(name, size, size + more, slot % 2) <= len(pool.free[slot % 2]):
            pool.admit(slot, name, size, size + more, slot % 2)
            pool.grow(slot, size + more + 4)
        held = [page for row in pool.rows.values() for page in row]
        assert sorted([*set(held), *pool.free[0], *pool.free[1]]) == list(range(pool.count))
        assert all(page // 6 == slot % 2 for slot, row in pool.rows.items() for page in row)
        np.testing.assert_array_equal(np.bincount(held, minlength=pool.count), pool.holders)
        whole = {s: tuple(row[: pool.names[s][1][1] // 4]) for s, row in pool.rows.items()}
        for s, row in whole.items():
            assert all(row == other for t, other in whole.items() if pool.names[t] == pool.names[s])
            own = set(pool.rows[s][len(row) :])
            assert not any(own & set(other) for t, other in pool.rows.items() if t != s)


# --- in the engine

CFG = dataclasses.replace(MODEL, layers=1, context=160)
PROMPTS = [np.random.default_rng(0).integers(4, CFG.vocab, n) for n in (5, 33, 17, 1)]
FEW, MANY = {'page': 8, 'pool': 112}, {'page': 8, 'pool': 3 * 112}  # tokens: of one longest row, of one in each slot


def engine_of(cfg=CFG, where=None, slots=3, routes=False, **options):
    engine = Engine(Decode(cfg, 64, (cfg.vocab,), 0, routes=routes), slots, 40, columns=8, **options)
    engine.load(jax.device_put(params_of(cfg), where))
    return engine


def ask(engine, numbers=range(8)):
    """Two samples of each prompt, with limits of their own, which they reach, by number."""
    out = {}
    for i in numbers:
        key = key_data(0, 0, np.array([i // 2], np.int32), np.array([i % 2], np.int32))[0]
        out[i] = engine.submit(Request(PROMPTS[i // 2], 10 + 7 * i, key))
    return [out[i] for i in sorted(out)]


def drained(engine, answers):
    most = 0
    while not engine.idle:
        engine.advance()
        most = max(most, engine.seats.memory.pool.used if isinstance(engine.seats.memory, InPages) else 0)
    assert engine.seats.memory.layers is None and not (most and engine.seats.memory.pool.used)
    assert sum(len(a.tokens) for a in answers) == sum(ran.tokens for ran in engine.ran)  # nothing is drawn twice
    return answers, most


@pytest.fixture(scope='module')
def in_slots():
    engine = engine_of()
    return drained(engine, ask(engine))[0]


@pytest.fixture(scope='module')
def in_pages():
    engine = engine_of(**MANY)
    answers, most = drained(engine, ask(engine))
    assert engine.left == 0 and 14 < most < 3 * 14
    return answers


def same(a, b, exactly=True):
    for x, y in zip(a, b, strict=True):
        assert x.why == y.why
        np.testing.assert_array_equal(x.tokens, y.tokens)
        np.testing.assert_allclose(x.logp, y.logp, atol=0 if exactly else 1e-4, rtol=0)
        np.testing.assert_array_equal(x.routes, y.routes)


def test_rows_in_pages_are_rows_in_slots(in_slots, in_pages):
    same(in_pages, in_slots, exactly=False)


def test_where_pages_run_out_rows_leave_and_go_on_with_the_same_bits(in_pages):
    """In another order, too: a row's bits depend on it alone."""
    engine = engine_of(**FEW)
    answers, most = drained(engine, ask(engine, (7, 5, 6, 0, 2, 1, 3, 4)))
    assert engine.left > 0 and most <= 14
    same(answers, in_pages)


def test_who_is_cancelled_gives_pages_back(in_pages):
    """While it waits to go on, and while it runs."""
    engine = engine_of(**FEW)
    answers = ask(engine, (5, 6, 7))
    while not engine.left:
        engine.advance()
    (waits,) = (a for a in answers if a.paused)
    runs = next(a for a in engine.running if a is not answers[0])
    for answer in (waits, runs):
        engine.cancel(answer)
    assert waits.why == 'cancelled' and not waits.paused
    drained(engine, answers)
    assert runs.why == 'cancelled'
    for answer, whole in zip(answers, in_pages[5:], strict=True):
        n = len(answer.tokens)
        assert 0 < n and (answer.why == 'cancelled' or (answer.why, n) == (whole.why, len(whole.tokens)))
        np.testing.assert_array_equal(answer.logp, whole.logp[:n])


@pytest.mark.slow
def test_on_a_mesh_each_device_has_pages_for_its_own_rows(in_slots):
    """Some rows have to leave on one device while others go on beside it; heads are split, too."""
    mesh = sharding.make_mesh(MeshConfig(data=3, tensor=2))
    with jax.set_mesh(mesh):
        engine = engine_of(where=shardings(CFG, mesh), slots=6, **MANY)
        got, most = drained(engine, ask(engine, (7, 5, 6, 0, 2, 1, 3, 4)))
        assert engine.left > 0 and most > 14  # pages of more than one device
    same(got, in_slots, exactly=False)


@pytest.mark.slow
def test_latent_attention_and_experts_in_pages():
    cfg = dataclasses.replace(
        CFG, layers=2, kv_heads=4, head_dim=16, mla=MLA(kv_rank=12, rotary=8, value=10, q_rank=20),
        moe=MoE(8, 3, 20, score='sigmoid', shared=1, dense_layers=1),
    )  # fmt: skip
    slots, few, many = (engine_of(cfg, routes=True, **options) for options in ({}, FEW, MANY))
    want, got, roomy = (drained(engine, ask(engine))[0] for engine in (slots, few, many))
    assert few.left > 0
    same(got, roomy)
    same(got, want, exactly=False)


# --- through a recipe


class Brief(toy.Letters):
    stops = tuple(range(2, 12))


def test_a_sampler_with_a_pool_draws_what_one_without_draws():
    cfg = SampleConfig(20, max_prompt=8, slots=4)
    ids, prompts = [3, 4], [[5, 6, 7], [8, 9]]
    rows = []
    for change in ({}, {'pool': 64, 'page': 4}):
        sampler = Sampler.create(CFG, dataclasses.replace(cfg, **change), 2, Brief(), seed=0)
        rows.append(sampler(params_of(CFG), ids, prompts, 1, 20, 1.0))
        assert bool(change) == ('engine' in vars(sampler))  # rows that all have a slot are one batch, but in pages
    assert sampler.engine.seats.memory.pool.count == 16
    np.testing.assert_array_equal(rows[0].tokens, rows[1].tokens)
    np.testing.assert_array_equal(rows[0].finished, rows[1].finished)
    assert rows[0].finished.any()
    np.testing.assert_allclose(rows[0].logp, rows[1].logp, atol=1e-4)


def test_what_cannot_be_shared_is_refused():
    from smallest import recipe

    sample = 'zero.source.sample.'
    for change, says in (
        (
            ['pool=32', 'page=16'],
            'pool=32 must be at least 48: pages of 16 for a row of max_prompt + max_tokens = 12 + 24 = 36',
        ),
        (['pool=-1'], 'pool=-1 must be in'),
        (['page=16'], 'page=16 has no effect with pool=0'),
    ):
        with pytest.raises(BadInput, match=re.escape(says)):
            validate(override(recipe(), [sample + each for each in change]), 8)
    with pytest.raises(BadInput, match=r'at least 96: .* = 36 on each of mesh data×fsdp = 2 devices'):
        validate(override(recipe(), [sample + 'pool=64', sample + 'page=16', 'mesh.data=2']), 8)
    validate(override(recipe(), [sample + 'pool=96', sample + 'page=16', 'mesh.data=2']), 8)
