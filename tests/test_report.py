"""The report of an invented run: whole, partial, hostile and large workdirs."""

import json
import math
import re
import shutil

import numpy as np
import pytest
from invented import Page, browsed, evaluation, invent, written

from r1jax import report
from r1jax.report import chart, findings, hacking, samples
from r1jax.report.page import number, span, text
from r1jax.report.workdir import StageRun
from r1jax.train.log import Log, write_summary


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp('run')
    invent(str(path))
    return path


@pytest.fixture(scope='module')
def page(workdir):
    return Page(written(workdir))


def test_one_file_that_asks_for_nothing_outside(workdir):
    source = written(workdir)
    assert not re.search(r'(src|href)="(?!#)', source)
    assert '://' not in source and '@import' not in source and 'url(' not in source
    assert "default-src 'none'" in source and "'unsafe-inline'; script-src 'sha256-" in source
    assert str(workdir) not in source


def test_verdict_gives_before_and_after_in_words(page):
    assert 'zero from base better' in page.said
    assert re.search(r'On held_out, pass@1 rose by 6\d\.\d points; the 95 % intervals do not overlap', page.said)
    assert re.search(r'majority, cons@16[\d.]+ → [\d.]+ %', page.said)
    assert 'base · 1,200 steps in 1 min 48 s; loss 3.0' in page.said
    assert 'finished' in page.said and 'seed 0' in page.said


def monitored(evals, lines, newest=()):
    """What the monitor says of a stage with these evaluations (step -> pass@1) and metrics a step."""
    measured = [
        {'step': s, 'eval/held_out/pass@1': p, 'eval/held_out/pass@1_ci': [p - 0.02, p + 0.02]}
        for s, p in evals.items()
    ]
    return Page(hacking.monitor(StageRun('zero', {}, {}, [*lines, *measured]), list(newest))).said


def rising(step, **more):
    return {
        'step': step,
        'reward/mean': step / 50 + 0.01 * (step % 3),
        'rollout/samples': 100,
        'rollout/grader_errors': 0,
    } | more


def test_a_reward_that_rises_while_accuracy_falls_is_named():
    lines = [rising(step) for step in range(1, 51)]
    said = monitored({1: 0.3, 20: 0.7, 50: 0.5}, lines)  # over the whole stage, both rose
    assert 'look here' in said
    assert re.search(
        r'fell: on held_out, pass@1 went from 70.0 % at step 20 to 50.0 % at step 50, the reward up by 0\.\d', said
    )
    for evals in ({1: 0.3, 20: 0.7, 50: 0.68}, {1: 0.3, 50: 0.7}):  # within the intervals; up
        said = monitored(evals, lines)
        assert 'Nowhere did held-out accuracy fall' in said and 'nothing suspicious' in said
    falling = [dict(line, **{'reward/mean': -line['reward/mean']}) for line in lines]
    assert 'Nowhere' in monitored({1: 0.7, 50: 0.3}, falling)  # the reward fell, too
    assert 'is not known' in monitored({}, lines)


def test_what_fired_what_repeats_and_what_failed_is_shown(page):
    lines = [
        rising(step, **{
            'fired/format': 0.2 + step / 100, 'rollout/longest': 40 + step, 'rollout/repeated': step / 60,
            'rollout/grader_errors': 3 * (step == 7), **({'grader/timeout': 2, 'grader/died': 1} if step == 7 else {}),
        }) for step in range(1, 51)
    ]  # fmt: skip
    newest = [{'completion': '<b>7</b>', 'tokens': 3}] * 3 + [{'completion': 'a long one', 'tokens': 9}]
    said = monitored({}, lines, newest)
    assert '3 samples of 5,000 could not be graded (died 1, timeout 2): they taught nothing.' in said
    assert (
        'the most frequent text was 75.8 % of a rollout.3 of the 4 that were logged last<b>7</b>' in said
        and 'look here' in said
    )
    assert 'format25.5 %65.5 %' in said  # means of the first and the last ten steps
    assert (
        'Longest response: 50 tokens in the first steps, 90 in the last.the longest that was logged lasta long one'
        in said
    )
    assert 'could not be graded' not in monitored({}, [rising(step) for step in range(1, 9)])
    many = [rising(step, **{'rollout/grader_errors': 2}) for step in range(1, 9)]
    assert 'look here' in monitored({}, many)
    assert 'Can the reward be believed?' in page.said and 'Nowhere did held-out accuracy fall' in page.said
    assert hacking.monitor(StageRun('base', {}, {}, [{'step': 1, 'loss': 2.0}]), []) == ''


def test_says_whether_thinking_pays(page):
    assert re.search(
        r'Yes\. Before zero, worked answers were right 6\d\.\d % \[[\d., ]+\] of the time, direct answers 1', page.said
    )
    assert 'it did not only switch to its longer mode' in page.said


def test_curves_have_intervals_evaluations_and_values(page):
    drawn = {
        data['lines'][0]['name']: data for data in (json.loads(v) for k, v in page.attributes if k == 'data-chart')
    }
    assert {'Reward', 'Accuracy', 'Response length', 'Format', 'KL', 'Entropy', 'Loss', 'time/train'} <= drawn.keys()
    accuracy = drawn['Accuracy']
    assert len(accuracy['lines'][0]['x']) == 60
    line = accuracy['lines'][0]
    assert all(low <= mean <= high for low, mean, high in zip(line['low'], line['mean'], line['high'], strict=True))
    marks = [(mark['name'], mark['x']) for mark in accuracy['marks'] if mark['name'] == 'held_out']
    assert marks == [('held_out', x) for x in (0, 20, 40, 60)]
    assert all(mark['low'] < mark['y'] < mark['high'] for mark in accuracy['marks'])
    assert all(np.isfinite(drawn['Loss']['lines'][0]['y'])) and 17 not in drawn['Loss']['lines'][0]['x']
    assert '1 skipped' in page.said


def test_samples_show_the_same_questions_on_both_sides(page):
    assert page.said.count('question 0 · expected') == 1
    assert '<answer>' in page.said and 'evaluation held_out; the first that were logged' in page.said


def test_config_command_and_versions_are_in_it(page):
    for words in (
        'r1jax run experiments/tiny_zero.py',
        '0123abc',
        'versions.jax',
        '16 questions × 16 samples',
        '"clip_low": 0.2',
    ):
        assert words in page.said


def test_evaluation_table_has_every_evaluation(page):
    assert 'zero · 100 questions × 16at most 17 tokens' in page.said
    for name in ('held_out', 'one_term_longer', 'capped'):
        assert f'{name}zero · 100 questions × 16' in page.said


@pytest.mark.parametrize('missing', ['config.json', 'metrics.jsonl', 'samples.jsonl', 'summary.json'])
@pytest.mark.parametrize('how', ['missing', 'empty', 'torn'])
def test_any_file_may_be_missing_empty_or_torn(workdir, tmp_path, missing, how):
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    path = tmp_path / missing
    if how == 'missing':
        path.unlink()
    else:
        path.write_text('' if how == 'empty' else path.read_text()[:-20])
    said = Page(written(tmp_path)).said
    assert 'zero' in said


def test_an_empty_workdir_and_none(tmp_path):
    assert 'no results yet' in Page(written(tmp_path)).said
    with pytest.raises(FileNotFoundError, match='no workdir at'):
        report.write(str(tmp_path / 'nowhere'))


def test_a_half_finished_run(tmp_path):
    invent(str(tmp_path), base_steps=30, finished=False)
    said = Page(written(tmp_path)).said
    assert 'not finished' in said and 'step 20 of 60' in said
    assert 'Measured on held_out before the stage only' in said
    assert 'Not there yet' in said and 'Yes. Before zero' in said


def test_what_a_model_writes_stays_text(tmp_path):
    evil = '</pre><script>alert(1)</script><img src=x onerror="alert(2)">\x00\x1b[31m \ud800 <think>a</think>'
    record = {
        'question': evil,
        'prompt': evil,
        'completion': evil,
        'answer': evil,
        'reward': 1,
        'parts': {evil: 1.0},
        'when': 'before',
    }
    with Log(str(tmp_path)) as log:
        log.samples('zero', 1, [record | {'eval': evil}])
        log.metrics('zero', 1, 1.0, {'eval/<b>/pass@1': 0.5, 'reward/accuracy': 0.5, '<script>': 1.0})
    config = {'recipe': {'name': evil, 'stages': []}, 'command': evil}
    (tmp_path / 'config.json').write_text(json.dumps(config))
    source = written(tmp_path)
    page = Page(source)
    assert page.tags.count('script') == 4 and 'img' not in page.tags  # three of ours, and the data
    assert not any(name.startswith('on') for name, _ in page.attributes)
    assert 'alert(2)' in page.said and '\x00' not in page.said
    (sample,) = browsed(source)['samples']
    assert sample['thinking'] == 'a' and sample['answer'].startswith('</pre><script>alert(1)</script>')
    assert '␀␛[31m ?' in sample['answer']


def test_rollouts_stand_in_where_no_evaluation_logged_samples(tmp_path):
    with Log(str(tmp_path)) as log:
        for step in (1, 2, 3):
            records = [
                {'question': q, 'prompt': f'Q: {q}', 'completion': f'step {step}', 'when': 'rollout'} for q in (step, 9)
            ]
            log.samples('zero', step, records)
    what, before, after = samples.read(str(tmp_path))['zero']
    assert what == 'rollouts of step 1 and 3'
    assert [r['completion'] for r in before] == ['step 1'] * 2 and [r['completion'] for r in after] == ['step 3'] * 2
    said = Page(written(tmp_path)).said
    assert 'question 9' in said and 'question 3' not in said  # question 9 was asked on both sides


def test_ten_thousand_steps_are_few_points_and_keep_their_spikes(tmp_path):
    rng = np.random.default_rng(0)
    with open(tmp_path / 'metrics.jsonl', 'w') as file:
        for step in range(1, 10_001):
            values = {
                path: rng.random()
                for path in ('reward/mean', 'reward/std', 'reward/accuracy', 'policy/kl', 'loss', 'grad_norm')
            }
            values['grad_norm'] = 99.0 if step == 4321 else values['grad_norm']
            file.write(json.dumps({'stage': 'zero', 'step': step, 'seconds': step, **values}) + '\n')
    source = written(tmp_path)
    assert len(source) < 1e6
    data = [json.loads(v) for k, v in Page(source).attributes if k == 'data-chart']
    (norm,) = [d['lines'][0] for d in data if d['lines'][0]['name'] == 'Gradient norm']
    assert len(norm['x']) <= 402 and 99.0 in norm['y']


def test_thinking_that_does_not_pay_is_a_warning(tmp_path):
    rng = np.random.default_rng(0)
    base = evaluation(rng, (0.1, 0.4), 0.3, (36, 8))
    write_summary(str(tmp_path), {'stages': {'zero': {'steps': 5, 'seconds': 1, 'before': base, 'after': base}}})
    said = Page(written(tmp_path)).said
    assert 'Warning: no. Before zero, worked answers' in said and 'shorter' in said
    assert 'the 95 % intervals overlap: unsure' in said


def test_apart():
    assert findings.apart([0.1, 0.2], [0.3, 0.4]) and findings.apart([0.3, 0.4], [0.1, 0.2])
    assert not findings.apart([0.1, 0.3], [0.3, 0.4]) and not findings.apart(None, [0.3, 0.4])


@pytest.mark.parametrize(
    'value, expected',
    [
        ('<think>a</think>b', '<T>&lt;think&gt;</T><D>a</D><T>&lt;/think&gt;</T>b'),
        ('a</think>b', '<D>a</D><T>&lt;/think&gt;</T>b'),  # the template opened it
        ('x<think>a', 'x<T>&lt;think&gt;</T><D>a</D>'),  # cut off
        ('2 < 3 & <b>', '2 &lt; 3 &amp; <T>&lt;b&gt;</T>'),
    ],
)
def test_completion_dims_thinking(value, expected):
    shown = samples.completion(value)
    for name, mark in (('think', 'D'), ('tag', 'T')):
        shown = re.sub(rf'<span class="{name}">(.*?)</span>', rf'<{mark}>\1</{mark}>', shown)
    assert shown == expected


def test_ticks_are_round_and_inside():
    assert chart.ticks(0, 1, 5) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert chart.ticks(0.31, 1.93, 5) == [0.5, 1.0, 1.5]
    for low, high in [(0, 1e-7), (-3, 5), (1e6, 1e6 + 1), (0, 12345)]:
        found = chart.ticks(low, high, 5)
        assert 2 <= len(found) <= 9 and low <= found[0] and found[-1] <= high


def test_numbers_and_times():
    assert [number(v) for v in (1234, 0.01234, 3e-6, 0, None, math.inf)] == ['1,234', '0.0123', '3e-6', '0', '–', '–']
    assert [number(v, percent=True) for v in (0.934, 0.0012, 1, 0)] == ['93.4 %', '0.12 %', '100.0 %', '0.0 %']
    assert [span(s) for s in (48, 365, 12000, None)] == ['48 s', '6 min 5 s', '3 h 20 min', '–']
    assert text('<a "b">\x07') == '&lt;a &quot;b&quot;&gt;␇'


def test_what_an_environment_said_stands_between_the_turns():
    record = {'completion': 'call\nso 7', 'turns': ['<b>call', '<tool_response>7', 'so 7']}
    shown = samples.conversation(record)
    assert '<i class="note">&lt;tool_response&gt;7</i>' in shown and '&lt;b&gt;' in shown and shown.endswith('so 7')
    assert samples.conversation({'completion': 'plain'}) == 'plain'
