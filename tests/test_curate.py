"""Filters, decontamination, duplicates, the choice among samples and the data card, on texts made by hand."""

import dataclasses
import random

import pytest

from r1jax.config import Collect, Filter, NearDuplicates, Part, SampleConfig
from r1jax.curate import card, contamination, duplicates, filters
from r1jax.curate.choose import Choice, Sample, pass_rate
from r1jax.rewards import reflection
from r1jax.rewards.repetition import Repetition
from r1jax.types import Problem, Response

ONE = Problem(0, '3+4+8=? (mod 10)', '5')


def response(text, tokens=10, finished=True):
    return Response(text, tokens, finished)


def worked(thought, after='The sum of these is five.'):
    return response(f'<think>{thought}</think> {after} <answer> 5 </answer>')


ENGLISH = 'First we add three and four, which gives seven, and then we add eight.'
CHINESE = '首先我们把三和四相加，得到七，然后再加上八。'


@pytest.mark.parametrize(
    ('keep', 'good', 'bad'),
    [
        (filters.OneLanguage(0.9), worked(ENGLISH), worked(f'{ENGLISH} {CHINESE}')),
        (filters.OneLanguage(0.9), worked(ENGLISH), worked(ENGLISH * 9, after='这几个数字的和是五。')),
        (filters.ShortParagraphs(12), worked('one two three\n\nfour five\n \nsix'), worked('word ' * 6 + '\n' + 'word ' * 7)),
        (filters.no_code, worked('x = 1', after='```python\nx = 1\n```'), worked('let us see\n```python\nx = 1\n```\n')),
        (filters.Shorter(10), response('a', 10), response('a', 11)),
        (filters.Reflects(2), worked('Wait, no. Let me CHECK.'), worked('Wait, no. The checkers await.')),
        (filters.Reflects(), worked('等等，不对。'), worked(CHINESE)),
        (filters.Summarised(4), worked('x'), worked('x', after='so, . !')),
        (filters.Summarised(1), worked('x', after=''), response('<think> never closed, 5')),
        (filters.AtLeast(Repetition(3), -0.5), worked('a b c d e f'), worked('a b c ' * 20)),
    ],
)  # fmt: skip
def test_filters_keep_the_good_and_drop_the_bad(keep, good, bad):
    assert keep(ONE, good) and not keep(ONE, bad)


def test_a_filter_that_would_drop_nothing_is_refused():
    for make in (filters.OneLanguage, filters.ShortParagraphs, filters.Shorter, filters.Reflects, filters.Summarised):
        with pytest.raises(ValueError, match=f'{make.__name__}.*=0 must be'):
            make(0)


def test_reflective_words_are_counted_in_both_languages():
    assert reflection.count('Wait — but 等一下, that is WRONG. Butter awaits; checks, buts.') == 4


def test_contamination_is_words_in_a_row_or_a_whole_short_question():
    index = contamination.Index(4)
    index.add('long', ['Let a, b and c be the sides of a triangle'])
    index.add('short', ['3+4=?'])
    assert index.find('Now  AND (c) — be the winner') == 'long'
    assert index.find('and c be a winner') is None
    assert index.find(' 3 + 4 = ?') == 'short' and index.find('3-4=?') is None and index.find('3+4+5=?') is None
    assert contamination.Index(10).find('') is None
    han = contamination.Index(5)
    han.add('zh', ['请问三加四等于多少'])
    assert han.find('那么三加四等于九') == 'zh' and han.find('三加五等于多少') is None


def seen(threshold=0.7, shingle=3):
    texts = []
    index = duplicates.Seen(threshold, shingle, 128, texts.__getitem__)

    def add(text):
        if (found := index.repeats(text)) is None:
            index.add(len(texts), text)
            texts.append(text)
        return found

    return add


def test_duplicates_exact_and_near():
    add = seen()
    text = ' '.join(f'word{i}' for i in range(60))
    assert add(text) is None
    assert add(text.replace(' ', '  \n')) == 'exact'
    assert add(text.replace('word30', 'other')) == 'near'
    assert add(' '.join(f'word{i}' for i in reversed(range(60)))) is None
    assert add('two words') is None and add('two  words') == 'exact' and add('two wordz') is None
    plain = seen(threshold=0)
    assert plain(text) is None and plain(text.replace('word30', 'other')) is None and plain(text) == 'exact'


def test_near_duplicates_are_those_of_the_definition():
    """Against comparing everything with everything: nothing unlike is removed, and hardly anything alike is missed."""
    rng, threshold = random.Random(0), 0.7
    texts = []
    for _ in range(40):
        said = [str(rng.randrange(1000)) for _ in range(50)]
        texts += [' '.join(said)]
        for changes in (1, 3, 6, 12):
            other = list(said)
            for place in rng.sample(range(50), changes):
                other[place] = str(rng.randrange(1000))
            texts.append(' '.join(other))
    add, kept, missed, alike = seen(threshold), [], 0, 0
    for text in texts:
        own = duplicates.shingles(text, 3)
        near = any(duplicates.similarity(own, other) >= threshold for other in kept)
        found = add(text)
        assert near or found is None, text
        alike, missed = alike + near, missed + (near and found is None)
        if found is None:
            kept.append(own)
    assert alike > 40 and missed <= 0.05 * alike


# --- the choice

LESS = Filter('mentions_x', lambda problem, answer: 'x' not in answer.text)
BASE = Collect(None, SampleConfig(16, 16), (Part('accuracy', bool),), samples=4, questions=1, near_duplicates=None)


def samples(*each):
    """From (text, verdict, tokens) or (text, verdict)."""
    return [Sample(i, response(e[0], *e[2:]), e[1]) for i, e in enumerate(each)]


def choose(cfg, *groups, verify=None):
    """Chosen (prompt, text), all in one block, and the counts that are not 0."""
    tally = card.Tally(cfg)
    choice = Choice(cfg, 7, verify, lambda text: len(text.split()) + 1, None, tally)
    problems = [dataclasses.replace(ONE, id=i, prompt=f'question {i}') for i in range(len(groups))]
    chosen = choice.block(problems, groups)
    counts = tally.counts()['samples']
    assert counts.pop('sampled') == sum(map(len, groups)) == sum(counts.values())
    return [(each.index, each.response.text) for each in chosen], {k: v for k, v in counts.items() if v}


def test_each_sample_has_one_fate():
    cfg = dataclasses.replace(BASE, filters=(LESS,), keep=2, prefer='shortest')
    group = samples(
        ('wrong x', 'wrong'), ('late', 'ungraded'), ('cut', 'correct', 9, False), ('has x', 'correct'), ('long', 'correct', 8),
        ('same', 'correct', 5), ('same', 'correct', 4), ('short', 'correct', 7),
    )  # fmt: skip
    got, counts = choose(cfg, group)
    assert got == [(0, 'same'), (0, 'short')]
    rest = {
        'wrong': 1,
        'ungraded': 1,
        'unfinished': 1,
        'mentions_x': 1,
        'exact_duplicate': 1,
        'beyond_keep': 1,
        'kept': 2,
    }
    assert counts == rest
    got, counts = choose(dataclasses.replace(cfg, unfinished=True, prefer='longest'), group)
    assert got == [(0, 'cut'), (0, 'long')]


def test_a_filter_may_be_for_some_kinds_only():
    got, _ = choose(
        dataclasses.replace(BASE, filters=(dataclasses.replace(LESS, kinds=('code',)),)), samples(('x', 'correct'))
    )
    assert got == [(0, 'x')]


def test_difficulty_is_the_share_of_graded_samples():
    easy = samples(('a', 'correct'), ('b', 'correct'), ('c', 'ungraded'))
    hard = samples(('d', 'correct'), ('e', 'wrong'), ('f', 'wrong'), ('g', 'wrong'))
    assert pass_rate(easy) == 1 and pass_rate(hard) == 0.25 and pass_rate(samples(('h', 'ungraded'))) is None
    got, counts = choose(dataclasses.replace(BASE, pass_rate=(0.0, 0.9)), easy, hard)
    assert got == [(1, 'd')] and counts == {'too_easy': 2, 'ungraded': 1, 'wrong': 3, 'kept': 1}
    got, counts = choose(dataclasses.replace(BASE, pass_rate=(0.5, 1.0)), easy, hard)
    assert len(got) == 2 and counts['too_hard'] == 1


def test_which_samples_are_kept_depends_on_seed_and_question_alone():
    many = samples(*((f'text {i}', 'correct', 10 - i % 3) for i in range(9)))
    got, _ = choose(dataclasses.replace(BASE, keep=3), many, many)
    assert got == choose(dataclasses.replace(BASE, keep=3), many, many)[0]
    of = [[text for i, text in got if i == index] for index in (0, 1)]
    assert len(of[0]) == len(of[1]) == 3 and of[0] != of[1]
    assert choose(dataclasses.replace(BASE, keep=3), many)[0] == got[:3]


def test_a_rewritten_sample_is_verified_filtered_and_replaced_by_the_next():
    def rewrite(problem, answer):
        return None if answer.text == 'none' else answer.text.upper()

    asked = []

    def verify(problems, answers):
        asked.extend(each.text for each in answers)
        return ['wrong' if each.text == 'BAD' else 'correct' for each in answers]

    cfg = dataclasses.replace(BASE, keep=1, prefer='shortest', rewrite=rewrite, filters=(
        Filter('low', lambda problem, answer: answer.text.islower()),
        Filter('no_y', lambda problem, answer: 'Y' not in answer.text, rewritten=True),
    ))  # fmt: skip
    group = samples(
        *((text, 'correct', i) for i, text in enumerate(('none', 'UP', 'bad', 'my', 'fine', 'never asked')))
    )
    got, counts = choose(cfg, group, verify=verify)
    assert got == [(0, 'FINE')] and asked == ['BAD', 'MY', 'FINE']
    assert counts == {'not_rewritten': 1, 'low': 1, 'wrong_rewritten': 1, 'no_y': 1, 'beyond_keep': 1, 'kept': 1}

    class Many:
        def many(self, problems, answers):
            return [rewrite(*pair) for pair in zip(problems, answers, strict=True)]

    assert choose(dataclasses.replace(cfg, rewrite=Many()), group, verify=verify) == (got, counts)


def test_near_duplicates_are_found_across_blocks():
    cfg = dataclasses.replace(BASE, near_duplicates=NearDuplicates(0.6, words=2))
    tally, stored = card.Tally(cfg), []
    choice = Choice(cfg, 0, None, None, lambda number: stored[number], tally)
    text = 'a b c d e f g h i j k l m n o p q r s t u v w x y z'
    for i, changed in enumerate((text, text.replace('m', '1'), 'others say other things')):
        problem = dataclasses.replace(ONE, prompt=f'{i}')
        for chosen in choice.block([problem], [samples((changed, 'correct'))]):
            stored.append(f'{problem.prompt}\n{chosen.response.text}')
    assert len(stored) == 2 and tally.counts()['samples']['near_duplicate'] == 1


# --- the card


def test_quantiles_and_bins():
    lengths = dict.fromkeys(range(1, 101), 1)
    assert card.quantiles(lengths) == {'0': 1, '5': 5, '25': 25, '50': 50, '75': 75, '95': 95, '100': 100}
    assert card.quantiles({4: 1, 9: 3}) == {'0': 4, '5': 4, '25': 4, '50': 9, '75': 9, '95': 9, '100': 9}
    assert card.quantiles({}) == {}
    assert [card.bin_of(rate) for rate in (0, 1 / 64, 0.1, 0.5, 15 / 16, 1)] == [
        '0',
        '0.0–0.1',
        '0.0–0.1',
        '0.4–0.5',
        '0.9–1.0',
        '1',
    ]


def test_the_card_is_json_and_a_page():
    cfg = dataclasses.replace(BASE, filters=(LESS,))
    tally = card.Tally(cfg)
    choice = Choice(cfg, 0, None, None, None, tally)
    other = dataclasses.replace(ONE, id=1, kind='general', language='zh')
    choice.block([ONE, other], [samples(('a', 'correct'), ('x', 'correct')), samples(('b', 'wrong'), ('c', 'wrong'))])
    counts = tally.counts()
    assert counts['prompts'] == {'sampled': 2, 'solved': 1, 'kept': 1}
    general, math = counts['groups']
    assert (general['kind'], general['language']) == ('general', 'zh') and (math['kind'], math['language']) == (
        'math',
        'en',
    )
    assert list(general['prompts'].values()) == [1, 0, 0] and list(general['samples'].values()) == [2, 0, 0]
    assert list(math['prompts'].values()) == [1, 1, 1] and list(math['samples'].values()) == [2, 2, 1]
    assert {k: v for k, v in counts['pass_rate'].items() if v} == {'0': 1, '1': 1}
    whole = {'recipe': 'r', 'stage': 's', 'start': 'z', 'seed': 0, 'key': 'k', 'settings': {'a': 1}, **counts}
    whole['prompts'] = {'loaded': 3, 'ungradable': 0, 'contaminated': 1, **counts['prompts']}
    whole['contamination'] = {'words': 10, 'sets': [{'set': 'held_out', 'questions': 9, 'prompts': 1}]}
    whole['file'] = {'name': 's.jsonl', 'sha256': 'abc', 'examples': 1, 'bytes': 10}
    page = card.to_markdown(whole)
    assert (
        '| removed: contaminated | 1 |' in page
        and '| mentions x | 1 | 25.0 % |' in page
        and '| `held_out` | 9 | 1 |' in page
    )
    assert card.to_json(whole) == card.to_json(dict(whole))
