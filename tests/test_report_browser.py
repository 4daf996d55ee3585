"""The samples browser's data: which samples a page keeps, how they are divided and cut, and that nothing in them leaves its element."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from invented import EVIL, Page, browsed, short, written

from r1jax.report import browser
from r1jax.rewards.language import reasoning
from r1jax.train.log import Log


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp('run')
    short(str(folder))
    return written(folder)


def test_every_sample_is_there_as_it_was_logged(source):
    data = browsed(source)
    assert len(data['samples']) == data['total'] == 2 * 12 * 4 and data['parts'] == ['accuracy', 'format', 'language']
    first = data['samples'][0]
    assert first == {
        'run': 0, 'stage': 'zero', 'step': 1, 'when': 'rollout', 'question': '1', 'prompt': 0, 'thinking': 'wait, check that',
        'answer': '<answer>2</answer>', 'expected': '2', 'tokens': 11, 'reward': 3.0, 'parts': [1.0, 1.0, 1.0],
    }  # fmt: skip
    assert data['prompts'][0] == ['Sum 1: 1 + 1 = ?', 0]  # what all begin with, 'Sum ', ends no sentence
    assert 'All 96 samples that were logged' in Page(source).said


def test_nothing_in_a_sample_ends_its_element(source):
    evil = [each for each in browsed(source)['samples'] if each['question'] == '3' and each['reward'] == 0.25]
    assert len(evil) == 4 and all(each['cut'] for each in evil)
    assert evil[0]['thinking'] == EVIL.removeprefix('<think>').strip() and evil[0]['answer'] == ''
    tags = Page(source).tags
    assert tags.count('script') == 4 and source.count('</script') == 4


def test_a_page_holds_so_many_and_says_so(tmp_path):
    with Log(str(tmp_path)) as log:
        for stage, steps in (('long', 100), ('brief', 3)):
            for step in range(1, steps + 1):
                log.samples(
                    stage, step, [{'when': 'rollout', 'question': i, 'completion': f'{step}'} for i in range(10)]
                )
        log.samples(
            'brief', 3, [{'when': 'after', 'eval': 'held', 'question': i, 'completion': 'e'} for i in range(400)]
        )
    data = browser.collect(['x'], browser.sources(0, str(tmp_path)), 200)
    counts, steps = {}, {}
    for each in data['samples']:
        key = each['stage'], each['when']
        counts[key] = counts.get(key, 0) + 1
        steps.setdefault(key, []).append(each['step'])
    assert data['total'] == 1430
    assert counts == {
        ('long', 'rollout'): 85,
        ('brief', 'rollout'): 30,
        ('brief', 'held, after'): 85,
    }  # what is few, is whole
    kept = sorted(set(steps['long', 'rollout']))
    assert kept[0] == 1 and kept[-1] == 100 and max(b - a for a, b in itertools.pairwise(kept)) <= 20
    assert '200 of the 1,430 samples' in browser.section(['x'], browser.sources(0, str(tmp_path)), 200)
    assert browser.section(['x'], browser.sources(0, str(tmp_path)), 0) == ''


@given(st.lists(st.integers(0, 50), max_size=8), st.integers(0, 200))
def test_quotas_are_fair_and_used_up(counts, most):
    quotas = browser.fill(counts, most)
    assert sum(quotas) == min(most, sum(counts)) and all(0 <= q <= n for q, n in zip(quotas, counts, strict=True))
    less = [q for q, n in zip(quotas, counts, strict=True) if q < n]
    assert not less or max(quotas) - min(less) <= 1  # nobody has more than one who could have more


@given(st.lists(st.integers(1, 8), min_size=1, max_size=40), st.integers(0, 200))
def test_pieces_are_spread_to_both_ends(sizes, quota):
    kept = browser.chosen(sizes, quota)
    assert sum(kept.values()) <= quota or quota >= sum(sizes)
    assert all(0 <= lines <= sizes[place] for place, lines in kept.items())
    if quota >= sum(sizes):
        assert kept == dict(enumerate(sizes))
    elif quota > 8:
        assert {0, len(sizes) - 1} <= kept.keys()


@pytest.mark.parametrize(
    'response, thinking, answer',
    [
        ('<think> a </think> b', 'a', 'b'),
        ('a</think>b', 'a', 'b'),  # the template opened it
        ('x <think>a', 'a', 'x'),  # cut off
        ('no tags', None, 'no tags'),
        ('<think></think>', '', ''),
        ('<think>a</think>b</think>c', 'a', 'b</think>c'),
    ],
)
def test_a_response_is_divided_as_the_language_reward_does(response, thinking, answer):
    assert browser.divided(response) == (thinking, answer)
    if thinking is not None:
        assert reasoning(response).strip() == thinking


def test_turns_stand_apart_from_what_the_environment_said(tmp_path):
    record = {'question': 1, 'completion': 'a call', 'turns': ['<think>a</think> call', 'the tool: 7', 'so 7']}
    with Log(str(tmp_path)) as log:
        log.samples('zero', 1, [record])
    (sample,) = browser.collect(['x'], browser.sources(0, str(tmp_path)), 9)['samples']
    assert sample['turns'] == [{'answer': 'call', 'thinking': 'a'}, {'said': 'the tool: 7'}, {'answer': 'so 7'}]
    assert sample['answer'] == '' and 'thinking' not in sample


def test_long_texts_lose_their_middle():
    long = 'a' * browser.FIRST + 'b' * 1234 + 'c' * browser.LAST
    kept = browser.shortened(long)
    assert kept.startswith('a' * browser.FIRST + '\n… 1,234 characters') and kept.endswith(
        'out …\n' + 'c' * browser.LAST
    )
    assert browser.shortened(long[: browser.FIRST + browser.LAST]) == long[: browser.FIRST + browser.LAST]


def test_what_a_record_lacks_or_has_wrong_is_left_out(tmp_path):
    lines = [
        {
            'stage': 's', 'step': 1, 'parts': {'accuracy': float('nan'), 'x': None}, 'reward': 'high', 'completion': '\x00🙂',
            'prompt': 'P: 🙂 1',
        },
        {'stage': 's', 'step': 1, 'outcome': 'grader_error', 'cause': 'timeout', 'prompt': 'P: 🙂 2'},
        ['no', 'record'],
    ]  # fmt: skip
    (tmp_path / 'samples.jsonl').write_text('\n'.join(map(json.dumps, lines)) + '\n{"stage": "s", "ste')
    data = browsed(browser.section(['x'], browser.sources(0, str(tmp_path))))
    assert [each.get('answer') for each in data['samples']] == ['␀🙂', ''] and data['samples'][0]['parts'] == [
        None,
        None,
    ]
    assert 'reward' not in data['samples'][0] and data['samples'][1]['failed'] == 'timeout'
    assert data['prompts'] == [['P: 🙂 1', 3], ['P: 🙂 2', 3]]  # behind the label
