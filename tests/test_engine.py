"""The engine: an answer has the same bits alone and among others, and its log-probabilities are the model's."""

import dataclasses
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import MODEL, full_logits, params_of, row_logprobs

from r1jax import sharding
from r1jax.config import MLA, MeshConfig, ModelConfig, MoE
from r1jax.nn.transformer import shardings
from r1jax.sample import Decode, Engine, Request, Sampler, programs, sample
from r1jax.sample.draw import draw
from r1jax.sample.sampler import key_data

DECODE = Decode(MODEL, max_tokens=20, stop=(1, 2), pad=0)
SLOTS, P = 8, 70  # a slot is two blocks of the cache long, and prompts have two lengths
LATENT = ModelConfig(
    vocab=62, layers=2, width=32, heads=4, kv_heads=4, head_dim=16, hidden=48, context=96,
    mla=MLA(kv_rank=12, rotary=8, value=10), moe=MoE(8, 3, 20, score='sigmoid', shared=1, dense_layers=1),
)  # fmt: skip


@pytest.fixture(scope='module')
def params():
    return params_of(scale=0.15)


@pytest.fixture(scope='module')
def engine(params):
    made = Engine(DECODE, SLOTS, P)
    made.load(params)
    return made


def requests(count, seed=0, longest=P, hot=(1.0, 0.7, 0.0)):
    """Prompts of all lengths, every fourth like the one before it; limits, temperatures and keys of their own."""
    rng = np.random.default_rng(seed)
    keys, out = key_data(seed, 0, np.arange(count), np.zeros(count, int)), []
    for i in range(count):
        long = rng.random() < 0.2
        prompt = rng.integers(3, 61, rng.integers(1, longest + 1 if long else min(longest, 30))).tolist()
        prompt = out[-1].prompt if i % 4 == 3 else prompt
        out.append(Request(prompt, int(rng.integers(0, 21)), keys[i], float(rng.choice(hot)), tag=i))
    return out


def drained(engine, wanted, cancel=(), later=0):
    """The answers to some requests by their tags. Those with a tag in `cancel` are cancelled while others go on; so many come `later`,
    two at a time, while those before them run.
    """
    come = list(wanted[len(wanted) - later :])
    answers = {r.tag: engine.submit(r) for r in wanted[: len(wanted) - later]}
    over, before = [], len(engine.ran)
    while come or not engine.idle:
        over += engine.advance()
        answers |= {r.tag: engine.submit(r) for r in come[:2]}
        del come[:2]
        if engine.unfinished:  # the device is at work while the caller looks at what is over
            assert engine.flight is not None
        for tag in cancel:
            if tag in answers and not answers[tag].why and (answers[tag].tokens.size or len(over) > len(wanted) // 2):
                engine.cancel(answers[tag])
    assert sorted(a.request.tag for a in over) == sorted(answers)  # each once
    assert sum(ran.tokens for ran in engine.ran[before:]) == sum(len(a.tokens) for a in over)
    return answers


def same(a, b):
    np.testing.assert_array_equal(a.tokens, b.tokens)
    np.testing.assert_array_equal(a.logp, b.logp)
    assert a.why == b.why


@pytest.mark.parametrize('count', [60, pytest.param(500, marks=pytest.mark.slow)])
def test_an_answer_has_the_same_bits_alone_and_among_others(engine, params, count):
    asked = requests(count)
    random.Random(0).shuffle(asked)
    cancelled = [r.tag for r in asked[::7]]
    among = drained(engine, asked, cancelled, later=count // 2)
    assert (
        max(ran.admitted for ran in engine.ran[1:]) > 0 and engine.seats.memory.layers is None
    )  # slots were filled again, and given back
    why = [answer.why for answer in among.values()]
    assert {*why} == {'stop', 'limit', 'cancelled'}
    cut = [a for a in among.values() if a.why == 'cancelled']
    assert any(a.tokens.size for a in cut) and any(not a.tokens.size for a in cut)
    for request in asked:
        alone = drained(engine, [request])[request.tag]
        answer = among[request.tag]
        if answer.why == 'cancelled':
            n = len(answer.tokens)
            np.testing.assert_array_equal(answer.tokens, alone.tokens[:n])
            np.testing.assert_array_equal(answer.logp, alone.logp[:n])
        else:
            same(answer, alone)
            stops = np.isin(answer.tokens, DECODE.stop)
            assert not stops[:-1].any() and answer.finished == stops[-1:].any()
            assert len(answer.tokens) == request.limit or answer.finished


@jax.jit
def one_more(params, row, at, key, temperature):
    """The token that a plain loop over one row draws behind position `at`, and how far its draw was from another token."""
    logits = full_logits(MODEL, params, row[None])[0, at]
    token, _ = draw(logits[None], key[None], temperature, 1.0, 0)
    edges = jnp.cumsum(jax.nn.softmax(logits / jnp.where(temperature == 0, 1.0, temperature)))
    top = jnp.sort(logits)[-2:]
    return token[0], jnp.where(temperature == 0, top[1] - top[0], abs(edges - jax.random.uniform(key, ())).min())


@pytest.mark.parametrize('count', [20, pytest.param(500, marks=pytest.mark.slow)])
def test_an_answer_is_that_of_a_loop_over_one_row(engine, params, count):
    asked = requests(count, seed=5)
    random.Random(1).shuffle(asked)
    among, near = drained(engine, asked, later=count // 2), 0
    for request in asked:
        row, n = np.zeros(P + 20, np.int32), len(request.prompt)
        row[:n] = request.prompt
        key = jax.random.wrap_key_data(jnp.asarray(request.key))
        for i, token in enumerate(among[request.tag].tokens):
            drawn, margin = one_more(params, row, n + i - 1, jax.random.fold_in(key, i), request.temperature)
            if drawn != token:
                assert margin < 1e-5  # a draw within rounding of the edge between two tokens
                near += 1
            row[n + i] = token
    assert near <= count // 100


def test_logprobs_are_those_of_the_full_pass_and_greedy_takes_the_likeliest(engine, params):
    for answer in drained(engine, requests(24, seed=1, longest=19)).values():
        r = answer.request
        want = row_logprobs(MODEL, params, r.prompt, answer.tokens, r.temperature or 1.0)
        np.testing.assert_allclose(answer.logp, want, atol=1e-4)
        if r.temperature == 0 and len(answer.tokens):
            row = np.zeros((1, 40), np.int32)
            row[0, : len(r.prompt) + len(answer.tokens)] = [*r.prompt, *answer.tokens]
            logits = np.asarray(full_logits(MODEL, params, row))[0, len(r.prompt) - 1 :][: len(answer.tokens)]
            assert (logits.max(-1) - np.take_along_axis(logits, answer.tokens[:, None], 1)[:, 0] < 1e-4).all()


def test_the_size_of_chunks_changes_nothing(engine, params):
    asked = requests(20, seed=2)
    want = drained(engine, asked)
    small = Engine(DECODE, SLOTS, P, columns=3)
    small.load(params)
    for tag, answer in drained(small, asked).items():
        same(answer, want[tag])
    assert max(ran.steps for ran in small.ran) == 3 < max(ran.steps for ran in engine.ran)


def test_what_goes_on_later_has_the_draws_that_it_would_have_had(engine):
    asked = requests(12, seed=4, longest=30)
    whole = drained(engine, asked)
    cut = drained(engine, [dataclasses.replace(r, limit=min(r.limit, 7)) for r in asked])
    left = [r for r in asked if cut[r.tag].why == 'limit']
    later = drained(engine, [_behind(r, cut[r.tag].tokens) for r in left])
    assert sum(len(answer.tokens) for answer in later.values()) > 20
    for r in left:
        parts = cut[r.tag], later[r.tag]
        np.testing.assert_array_equal(np.concatenate([p.tokens for p in parts]), whole[r.tag].tokens)
        np.testing.assert_allclose(np.concatenate([p.logp for p in parts]), whole[r.tag].logp, atol=1e-5)


def _behind(r, tokens):
    return Request([*r.prompt, *tokens], r.limit - len(tokens), r.key, r.temperature, len(tokens), r.tag)


def test_a_prompt_is_computed_once_for_all_that_wait_with_it(engine, monkeypatch):
    seen = []

    def counted(params, tokens, length, cfg, plain=programs.prefill):
        seen.extend(length[length > 0].tolist())
        return plain(params, tokens, length, cfg)

    monkeypatch.setattr(programs, 'prefill', counted)
    keys = key_data(0, 0, np.zeros(20, int), np.arange(20))
    prompts = [[5, 6, 7], [8, 9, 10, 11]]
    drained(engine, [Request(prompts[i // 10], 3, keys[i], tag=i) for i in range(20)])
    assert sorted(seen) == [2, 3]  # but the last token of each, which a slot reads


def test_what_does_not_fit_is_refused(engine, params):
    key = np.zeros(2, np.uint32)
    with pytest.raises(ValueError, match='71 tokens and limit=20 exceed a slot of 90'):
        engine.submit(Request([3] * 71, 20, key))
    with pytest.raises(ValueError, match='needs a token'):
        engine.submit(Request([], 4, key))
    answer = engine.submit(Request([3], 4, key))
    with pytest.raises(ValueError, match='1 requests are unfinished'):
        engine.load(params)
    engine.cancel(answer)
    assert engine.advance() == [answer] and engine.idle
    with pytest.raises(ValueError, match='has no weights'):
        Engine(DECODE, SLOTS, P).advance()
    with (
        jax.set_mesh(sharding.make_mesh(MeshConfig(fsdp=3))),
        pytest.raises(ValueError, match='multiple of the 3 devices'),
    ):
        Engine(DECODE, SLOTS, P)


# --- through Sampler


def questions(count, seed=0, longest=9):
    rng = np.random.default_rng(seed)
    return list(range(count)), [rng.integers(3, 61, rng.integers(1, longest + 1)).tolist() for _ in range(count)]


def compilations():
    each = programs.chunk, programs.prefill, programs.admit, programs.resized, programs.prepared, programs.empty, sample
    return [function._cache_size() for function in each]


def test_rows_in_turn_are_those_of_one_batch_and_no_rollout_compiles_again(params):
    decode = dataclasses.replace(DECODE, buckets=2)
    sampler, rng = Sampler(decode, P, 4, questions=2, seed=3), np.random.default_rng(0)
    ids, prompts = questions(5)
    want = dataclasses.replace(sampler, questions=5)(params, ids, prompts, 4, 12, 1.0)
    got = sampler(params, ids, prompts, 4, 12, 1.0)
    assert {ran.slots for ran in sampler.engine.ran} == {8, 5}  # fewer slots when nobody waits
    for name in ('tokens', 'sampled', 'question', 'sample', 'finished'):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
    np.testing.assert_allclose(got.logp, want.logp, atol=1e-5)
    rows = list(sampler.stream(params, ids, prompts, 4, 12, 1.0))
    assert [row.index for row in rows] != sorted(row.index for row in rows)  # as they end
    compiled = compilations()
    for number in range(20):
        ids, prompts = questions(int(rng.integers(3, 9)), seed=number)
        sampler(params, ids, prompts, number, rng.integers(0, 13, 4 * len(ids)), float(rng.random()))
    assert compilations() == compiled


def test_with_fixed_slots_a_row_does_not_depend_on_how_many_are_asked_for(params):
    sampler = Sampler(dataclasses.replace(DECODE, buckets=3), P, 4, questions=2, seed=3, fixed=True)
    ids, prompts = questions(5)
    many, few = sampler(params, ids, prompts, 4, 12, 1.0), sampler(params, ids[:1], prompts[:1], 4, 12, 1.0)
    assert {ran.slots for ran in sampler.engine.ran} == {8}
    np.testing.assert_array_equal(few.tokens, many.tokens[:4])
    np.testing.assert_array_equal(few.logp, many.logp[:4])


def test_latent_attention_and_experts_with_their_routes():
    params = params_of(LATENT, scale=0.15)
    decode = Decode(LATENT, 12, (1, 2), 0, routes=True)
    sampler = Sampler(decode, 9, 4, questions=2, seed=3)
    ids, prompts = questions(5)
    want = dataclasses.replace(sampler, questions=5)(params, ids, prompts, 4, 12, 1.0)
    got = sampler(params, ids, prompts, 4, 12, 1.0)
    np.testing.assert_array_equal(got.tokens, want.tokens)
    np.testing.assert_allclose(got.logp, want.logp, atol=1e-5)
    np.testing.assert_array_equal(got.routes, want.routes)
    again = sampler(params, [*ids[1:], 0], [*prompts[1:], prompts[0]], 4, 12, 1.0)  # in another order
    np.testing.assert_array_equal(again.logp[:16], got.logp[4:])
    np.testing.assert_array_equal(again.logp[16:], got.logp[:4])


def test_eight_devices_sample_what_one_does(params):
    decode = dataclasses.replace(DECODE, buckets=2)
    ids, prompts = questions(6)
    want = Sampler(DECODE, P, 4, questions=2, seed=3)(params, ids, prompts, 4, 8, 1.0)
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    with jax.set_mesh(mesh):
        sampler = Sampler(decode, P, 4, questions=4, seed=3)
        placed = jax.device_put(params, shardings(MODEL, mesh))
        got = sampler(placed, ids, prompts, 4, 8, 1.0)
        assert {ran.slots for ran in sampler.engine.ran} == {16, 12}
        compiled = programs.chunk._cache_size()
        sampler(placed, ids, prompts, 5, 8, 1.0)
        assert programs.chunk._cache_size() == compiled
    np.testing.assert_array_equal(got.tokens, want.tokens)
    np.testing.assert_allclose(got.logp, want.logp, atol=1e-5)
