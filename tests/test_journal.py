"""Samples on the disk as they come: what a kill leaves of a rollout is taken over, bit for bit."""

import itertools
import os
import zlib

import jax
import numpy as np
import pytest
from test_graded import PROBLEMS, PROMPTS, Digits
from tiny import MODEL, params_of

from r1jax.config import Part, SampleConfig
from r1jax.evals.graded import Asker
from r1jax.rewards.combine import Scores
from r1jax.rewards.pool import Pool
from r1jax.sample import Row, Sampler
from r1jax.sample.engine import Engine
from r1jax.train import journal
from r1jax.train.journal import Journal, Page
from r1jax.train.step import fingerprint

ROWS = [
    Row(4, np.arange(3, dtype=np.int32), np.array([-1.5, -0.25, -3.0], np.float32), 'stop', None),
    Row(0, np.zeros(0, np.int32), np.zeros(0, np.float32), 'limit', np.full((2, 1, 2), 7, np.int16)),
]
SCORES = Scores(
    np.array([1.0, 0.0], np.float32),
    {'a b': np.array([1.0, np.nan], np.float32)},
    np.array([True, False]),
    ['graded', 'timeout'],
)


def equal(a, b):
    return jax.tree.all(
        jax.tree.map(lambda x, y: np.array_equal(x, y) and np.asarray(x).dtype == np.asarray(y).dtype, a, b)
    )


def test_what_is_written_is_read_again(tmp_path):
    path = str(tmp_path / 'rollouts' / '3')
    page = Page(path, 'key')
    assert [row.index for row in page.through(2, True, lambda without: iter(ROWS))] == [4, 0]
    page.graded(SCORES)
    again = Page(path, 'key')
    assert list(again.rows) == [4, 0] and all(equal(again.rows[row.index], row) for row in ROWS)
    assert equal(again.scores.parts['a b'], SCORES.parts['a b']) or np.isnan(again.scores.parts['a b'][1])
    assert again.scores.outcome == SCORES.outcome and equal(again.scores.valid, SCORES.valid)
    assert list(again.through(2, False, None)) == list(again.rows.values())  # nothing is sampled
    assert not Page(path, 'another key').rows and os.path.getsize(path) < 500  # it was thrown away


def test_a_torn_end_is_cut_off_and_written_again(tmp_path):
    path = str(tmp_path / 'x')
    list(Page(path, 'key').through(2, True, lambda without: iter(ROWS)))
    whole = os.path.getsize(path)
    Page(str(tmp_path / 'none'), 'key').close()
    first = os.path.getsize(tmp_path / 'none') + 20  # within the first row
    for size in (whole - 1, whole - 20):
        os.truncate(path, size)
        page = Page(path, 'key')
        assert list(page.rows) == [4]
        assert [
            r.index for r in page.through(2, True, lambda without: iter([r for r in ROWS if r.index not in without]))
        ] == [4, 0]
        assert os.path.getsize(path) == whole
    with open(path, 'r+b') as file:  # a byte of the first row is another: what follows is not trusted either
        file.seek(first)
        byte = file.read(1)
        file.seek(first)
        file.write(bytes([byte[0] ^ 1]))
    assert len(Page(path, 'key').rows) < 2
    page = Page(path, 'key')
    page.rows = {4: ROWS[0]}
    assert [r.index for r in page.through(2, False, lambda without: iter(ROWS))] == [
        4,
        0,
    ] and not page.rows  # not separable


def test_what_another_version_wrote_is_drawn_again(tmp_path):
    path = str(tmp_path / 'x')
    list(Page(path, 'key').through(2, True, lambda without: iter(ROWS)))
    with open(path, 'ab') as file:
        for data in b'PK\x03\x04\xff and so on', b'\x02':
            file.write(journal._HEAD.pack(len(data), zlib.crc32(data)) + data)
    page = Page(path, 'key')
    assert list(page.rows) == [4, 0] and not page.scores


def test_pages_are_forgotten_one_checkpoint_late(tmp_path):
    pages = Journal(str(tmp_path), 'about', lambda params: 7)
    for number in range(4):
        pages.page(number, None, [1, 2], 24, 1.0)
    pages.saved(2)
    assert sorted(os.listdir(pages.folder)) == ['0', '1', '2', '3']  # that checkpoint may yet fail
    pages.saved(4)
    assert sorted(os.listdir(pages.folder)) == ['2', '3']
    pages.clear()
    assert not os.path.exists(pages.folder)


@pytest.mark.parametrize('change', ['weights', 'number', 'questions', 'limit', 'about'])
def test_samples_of_something_else_are_not_taken_over(tmp_path, change):
    def page(**other):
        now = {'about': 'a', 'weights': 1, 'number': 0, 'questions': (1, 2), 'limit': 24} | other
        pages = Journal(str(tmp_path), now['about'], lambda _: now['weights'])
        os.makedirs(pages.folder, exist_ok=True)
        if 'number' in other:
            os.rename(os.path.join(pages.folder, '0'), os.path.join(pages.folder, '5'))
        return pages.page(now['number'], None, now['questions'], now['limit'])

    list(page().through(2, True, lambda without: iter(ROWS)))
    assert len(page().rows) == 2
    other = {'weights': 2, 'number': 5, 'questions': (2, 1), 'limit': 23, 'about': 'b'}
    assert not page(**{change: other[change]}).rows


@pytest.fixture(scope='module')
def pool():
    with Pool(1) as pool:
        yield pool


calls = []


def counted(problem, response):
    calls.append(problem.id)
    return float(len(response.text))


REWARDS = (Part('counted', counted),)


def test_a_rollout_that_is_cut_short_goes_on_with_the_same_bits(tmp_path, pool, monkeypatch):
    """Twelve rows in four slots; killed when five were over."""
    cfg = SampleConfig(12, max_prompt=8, slots=4, buckets=1)
    sampler, params = Sampler.create(MODEL, cfg, 2, Digits(), seed=0), params_of()
    assert sampler.separable(12) and not sampler.separable(4)  # four rows are one batch
    ask = Asker(sampler, Digits(), pool)
    arguments = params, PROBLEMS, PROMPTS, REWARDS, 3, 12, 1.0
    plain = ask(*arguments)
    scores = plain.result()

    def page():
        return Journal(str(tmp_path), 'about', fingerprint).page(3, params, [p.id for p in PROBLEMS], 12, 1.0)

    rows = page().through(
        12, True, lambda without: sampler.stream(params, range(6), PROMPTS, 3, 12, 1.0, without=without)
    )
    seen = [row.index for row in itertools.islice(rows, 5)]
    asked, real = [], Engine.submit
    monkeypatch.setattr(Engine, 'submit', lambda self, request: asked.append(request.tag) or real(self, request))
    again = ask(*arguments, page())
    assert sorted(asked + seen) == list(range(12))  # nothing twice
    assert equal(again.rollout, plain.rollout) and again.answers == plain.answers
    assert equal(again.result().reward, scores.reward)
    calls.clear()
    third = ask(*arguments, page())
    assert equal(third.rollout, plain.rollout) and equal(third.result().reward, scores.reward)
    assert len(asked) == 12 - len(seen) and not calls  # neither sampled nor graded


def test_rows_of_a_shrinking_tail_are_taken_over_together_or_not_at_all(tmp_path):
    cfg = SampleConfig(12, max_prompt=8, slots=4, buckets=3)
    sampler = Sampler.create(MODEL, cfg, 2, Digits(), seed=0)
    assert not sampler.separable(12)
    with pytest.raises(ValueError, match='12 rows share one batch of 16 slots'):
        whole = Sampler.create(MODEL, SampleConfig(12, max_prompt=8, slots=16), 2, Digits(), seed=0)
        next(whole.stream(None, range(6), PROMPTS, 0, 12, 1.0, without={1}))
