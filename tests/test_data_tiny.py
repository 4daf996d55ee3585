"""The tiny world is what its docstring says: disjoint splits, the stated mixture, a tokenizer that fits it."""

import dataclasses
import itertools
import re
import statistics

import pytest

from r1jax.data import template, tiny
from r1jax.data.tiny import TinyCorpus, TinySums, TinyTokenizer
from r1jax.rewards import accuracy, form
from r1jax.types import Problem, Response


@pytest.fixture(autouse=True)
def data_dir(tmp_path, monkeypatch):
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'tfds'))


def graded(corpus):
    """(response, accuracy, format, mode) of every document."""
    for i, row in enumerate(corpus.rows()):
        problem, response = Problem(i, row['problem'], row['answer']), Response(row['response'], 1, True)
        yield response.text, accuracy.exact(problem, response), form.format(problem, response), tiny.mode(response)


def test_held_out_problems_occur_nowhere_else():
    terms = (2, 3)  # few problems, so that splits would collide
    held_out = {row['prompt'] for row in TinySums('held_out', 80, terms).rows()}
    train = {row['prompt'] for row in TinySums('train', 800, terms, seed=1).rows()}
    corpus = {row['problem'] for row in TinyCorpus(seed=2, size=5_000, terms=terms).rows()}
    assert len(held_out) == 80 and len(train) == 800 and len(corpus) > 600
    assert not held_out & (train | corpus)


def test_answers_are_the_sums():
    for row in TinySums(size=50).rows():
        digits = row['prompt'].removesuffix('=? (mod 10)').split('+')
        assert int(row['answer']) == sum(map(int, digits)) % 10 and 4 <= len(digits) <= 8


def test_a_larger_split_goes_on_from_a_smaller_one():
    small, large = (list(TinySums(size=size).rows()) for size in (20, 40))
    assert large[:20] == small


def test_documents_are_mixed_as_stated():
    documents = list(graded(TinyCorpus(size=6_000)))
    well_formed = [d for d in documents if d[2]]
    worked = [d for d in well_formed if d[3] == 'worked']
    direct = [d for d in well_formed if d[3] == 'direct']
    assert len(well_formed) / len(documents) == pytest.approx(0.92, abs=0.02)
    assert len(worked) / len(well_formed) == pytest.approx(0.28, abs=0.03)
    assert statistics.mean(d[1] for d in direct) == pytest.approx(0.15, abs=0.03)
    assert 0.55 < statistics.mean(d[1] for d in worked) < 0.75
    assert 0.01 < statistics.mean('wait' in d[0] for d in worked) < 0.1


def test_without_slips_the_worked_documents_are_right_and_careful_authors_always_are():
    sure = TinyCorpus(size=200, worked=1, slip=0, malformed=0)
    for corpus in (sure, dataclasses.replace(sure, slip=0.5, careful=1)):
        assert all(correct and formed and mode == 'worked' for _, correct, formed, mode in graded(corpus))


def test_malformed_documents_are_refused_by_the_format_reward():
    assert not any(formed for _, _, formed, _ in graded(TinyCorpus(size=300, malformed=1)))


def test_small_digits_are_common_in_the_corpus_as_skew_says():
    def share_of_zeros(skew):
        text = ''.join(row['problem'].partition('=')[0] for row in TinyCorpus(size=2_000, skew=skew).rows())
        return text.count('0') / (len(text) - text.count('+'))

    assert share_of_zeros(0) == pytest.approx(0.1, abs=0.01)
    assert share_of_zeros(1) == pytest.approx(1 / sum(1 / (d + 1) for d in range(10)), abs=0.02)


def test_steps_follow_the_running_sum():
    for text, *_ in graded(TinyCorpus(size=200, worked=1, careful=0, malformed=0)):
        steps = re.findall(r'(\d)\+\d=(\d)', text)
        assert all(before[1] == after[0] for before, after in itertools.pairwise(steps))


def test_load_gives_what_was_generated_and_reads_it_the_second_time(monkeypatch, tmp_path):
    corpus, sums = TinyCorpus(size=30), TinySums('held_out', size=10)
    first = corpus.load(), sums.load()
    assert [e.response for e in first[0]] == [row['response'] for row in corpus.rows()]
    assert first[0][0].prompt.startswith(template.INSTRUCTION) and first[0][0].prompt.endswith('. Assistant:')
    assert [(p.id, p.prompt, p.answer) for p in first[1]] == [(i, *row.values()) for i, row in enumerate(sums.rows())]
    with monkeypatch.context() as patch:
        patch.setattr(TinyCorpus, '_work', None)  # nothing is generated any more
        patch.setattr(TinyCorpus, '_guess', None)
        assert corpus.load() == first[0]
    other = dataclasses.replace(corpus, seed=1).load()
    assert [e.response for e in other] != [e.response for e in first[0]]  # no stale data


def test_tokenizer_is_trained_once_and_has_a_token_for_each_piece_of_a_sum(tmp_path):
    tokenizer = TinyTokenizer().load(tmp_path)
    written = (tmp_path / 'tokenizer.model').stat().st_mtime_ns
    assert TinyTokenizer().load(tmp_path).vocab_size == tokenizer.vocab_size == 96
    assert (tmp_path / 'tokenizer.model').stat().st_mtime_ns == written
    with pytest.raises(ValueError, match='96 ids, not vocab=100'):
        TinyTokenizer(vocab=100).load(tmp_path)

    assert all(len(tokenizer.encode(symbol)) == 1 for symbol in tiny.SYMBOLS)
    prompt = template.r1_zero(Problem(0, tiny.question((3, 4, 8)), '5'))
    assert len(tokenizer.encode(prompt)) == 2 + 5 + 2  # instruction, user; digits and plusses; question, assistant
    assert len(tokenizer.encode(' <think> 3+4=7 7+8=5 </think> <answer> 5 </answer>')) == 6 * 2 + 6
    assert len(tokenizer.encode(' <think> easy </think> <answer> 5 </answer>')) == 7


def test_tokenizer_gives_every_document_back(tmp_path):
    tokenizer = TinyTokenizer().load(tmp_path)
    for row in TinyCorpus(size=1_000, malformed=0.5).rows():
        prompt = template.r1_zero(Problem(0, row['problem'], row['answer']))
        ids = tokenizer.encode(prompt) + tokenizer.encode(row['response'])
        assert tokenizer.encode(prompt + row['response']) == ids  # a prompt's end and a response's start do not fuse
        assert tokenizer.decode(ids) == prompt + row['response']


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: TinySums('test'), "must be 'train' or 'held_out'"),
        (lambda: TinySums(terms=(5, 4)), r'terms=\(5, 4\)'),
        (lambda: TinyCorpus(size=0), 'size=0 must be at least 1'),
        (lambda: TinyCorpus(slip=1.5), 'TinyCorpus.slip=1.5'),
        (lambda: TinySums('held_out', 500, terms=(2, 2)).load(), 'TinySums has 1. of size=500'),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
