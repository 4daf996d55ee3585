"""The report of a whole recipe, invented: graph, table of stages, self-evolution, aha, data cards, reward models.

To look at it: `python tests/test_report_recipe.py DIR` makes the invented workdir with its report in DIR.
"""

import itertools
import json
import os
import re
import sys

import numpy as np
import pytest
from invented import Page, written

from r1jax import report
from r1jax.evals.metrics import figures, summarise
from r1jax.report import aha, evolution, graph, hacking
from r1jax.report.workdir import StageRun, read
from r1jax.train.log import Log, write_summary

STAGES = {  # name -> (start, what it reads, type of its source, type of its loss, steps)
    'pretrain': ('init', (), 'Stored', 'NLL', 40),
    'zero': ('pretrain', (), 'OnPolicy', 'GRPO', 40),
    'cold': ('zero', (), 'Collect', None, 0),
    'cold_start': ('pretrain', ('cold',), 'Stored', 'NLL', 20),
    'reasoning_rl': ('cold_start', (), 'OnPolicy', 'GRPO', 40),
    'rejection': ('reasoning_rl', (), 'Collect', None, 0),
    'sft': ('pretrain', ('rejection',), 'Stored', 'NLL', 20),
    'helpful_rm': ('sft', (), 'Stored', 'BradleyTerry', 10),
    'all_scenarios': ('sft', ('helpful_rm',), 'OnPolicy', 'GRPO', 20),
    'distill': ('./weights/small', ('rejection',), 'Stored', 'NLL', 20),
}
CARD = {
    'stage': 'rejection',
    'start': 'reasoning_rl',
    'file': {'name': 'rejection.jsonl', 'examples': 1234, 'bytes': 5, 'sha256': 'ab'},
    'prompts': {'loaded': 500, 'ungradable': 0, 'contaminated': 3, 'sampled': 497, 'solved': 400, 'kept': 390},
    'contamination': {'words': 10, 'sets': [{'set': 'TinySums', 'questions': 128, 'prompts': 3}]},
    'samples': {'sampled': 7952, 'wrong': 5000, 'mixed_language': 100, 'code': 0, 'kept': 1234},
    'groups': [{'kind': 'math', 'language': 'zh', 'prompts': {'sampled': 250, 'solved': 200, 'kept': 190},
                'samples': {'sampled': 4000, 'correct': 1500, 'kept': 600}}],
    'pass_rate': {'0': 97, '0.0–0.1': 200, '1': 200, 'ungraded': 0},
    'tokens': {'sampled': {'0': 3, '50': 40, '100': 96}, 'kept': {'0': 9, '50': 44, '100': 90}},
    'settings': {'samples': 16},
}  # fmt: skip


def evaluation(rng, right, language, tokens=30.0, shape=(60, 8)):
    correct = rng.random(shape) < right
    answers = [['7' if c else str(rng.integers(10)) for c in row] for row in correct]
    lengths, well = rng.normal(tokens, 4, shape), rng.random(shape) < 0.9
    parts = {'language': rng.normal(language, 0.05, shape).clip(0, 1)}
    return summarise(correct, answers, lengths, well, well, parts=parts, reflective=rng.poisson(0.4, shape))


def helpfulness(rng, mean):
    grid = np.ones((40, 2))
    return summarise(None, None, grid, grid, grid, parts={'helpful': rng.normal(mean, 0.1, (40, 2))})


def invent(workdir, lineage=True):
    """A workdir of the whole recipe, finished but for its last stage."""
    rng = np.random.default_rng(0)
    os.makedirs(os.path.join(workdir, 'data'), exist_ok=True)
    entries, configs, recorded = {}, [], {}
    with Log(workdir) as log:
        for name, (start, reads, source, loss, steps) in STAGES.items():
            kind = {'type': f'r1jax.config:{source}'} | ({'problems': {}} if source != 'Stored' else {'batch': 8})
            kind |= (
                {'examples': {'type': 'r1jax.data.kept:Kept', 'stage': reads[0]}}
                if reads and source == 'Stored'
                else {}
            )
            configs.append(
                {'name': name, 'start': start, 'steps': steps, 'source': kind, 'optim': {'learning_rate': 1e-3}}
            )
            configs[-1]['loss'] = {'type': f'r1jax.config:{loss}'} if loss else None
            recorded[name] = {'key': 'k', 'start': start, 'reads': reads, 'finished': name != 'distill'}
            if name == 'distill':
                continue
            entries[name] = {'steps': steps, 'seconds': 60.0}
            if source == 'Collect':
                entries[name]['collected'] = {'samples': {'kept': 1234, 'sampled': 7952}}
                log.metrics(name, 1, 1.0, {'reward/mean': 1.0, 'rollout/tokens': 30.0})
            if source == 'OnPolicy':
                entries[name]['evals'] = rl(log, rng, name, steps)
                entries[name] |= entries[name]['evals']['held_out']
            if name == 'helpful_rm':
                bins = [{'from': 0.5, 'to': 0.75, 'count': 20.0, 'said': 0.6, 'was': 0.7}]
                longer = {'chosen longer': {'pairs': 60, 'accuracy': 0.95, 'accuracy_ci': [0.9, 0.99]}}
                agree = {'pairs': 100, 'accuracy': 0.93, 'accuracy_ci': [0.88, 0.97], 'reliability': bins}
                entries[name]['evals'] = {'pairs': {'after': agree | {'calibration_error': 0.04, 'by_length': longer}}}
    write_summary(workdir, {'recipe': 'tiny_r1', 'seed': 0, 'stages': entries})
    files = {'config.json': {'recipe': {'name': 'tiny_r1', 'stages': configs}}, 'data/rejection.card.json': CARD}
    files |= {'lineage.json': {'stages': recorded}} if lineage else {}
    for file, value in files.items():
        with open(os.path.join(workdir, file), 'w') as out:
            json.dump(value, out)


def rl(log, rng, name, steps):
    """Metrics, samples and evaluations of an invented stage of RL, during which a policy learns to say wait."""
    measured = {0: evaluation(rng, 0.2, 0.9, 20), steps: evaluation(rng, 0.9, 0.7, 40)}
    for step in range(1, steps + 1):
        p = step / steps
        values = {'reward/mean': p + 1, 'reward/std': 0.4, 'rollout/samples': 64, 'rollout/tokens': 20 + 20 * p}
        values |= {
            'rollout/tokens_std': 5.0,
            'reward/format': 0.9,
            'reward/language': 0.9 - 0.2 * p,
            'reflection/mean': p,
        }
        values |= {'reflection/wait': 0.8 * p, 'reflection/share': p} | (
            {'reflection/检查': 0.2 * p} if step > 10 else {}
        )
        if step % 10 == 0 and step < steps:
            measured[step] = evaluation(rng, 0.2 + 0.7 * p, 0.9 - 0.2 * p, 20 + 20 * p)
            values |= {f'eval/held_out/{key}': value for key, value in figures(measured[step])}
        log.metrics(name, step, 2.0 * step, values)
        thought = '3+4=8 wait, 3+4=7' if step >= 12 else 'wait. 3+4=7'
        lines = [
            {'when': 'rollout', 'question': i, 'prompt': f'Q{i} check', 'completion': f'<think>{thought}</think> {7 + i}',
             'finished': True, 'parts': {'accuracy': float(i == 0)}}
            for i in range(2)
        ]  # fmt: skip
        log.samples(name, step, lines)
    evals = {'held_out': {'before': measured[0], 'after': measured[steps]}}
    return evals | {'general': {'before': helpfulness(rng, 0.3), 'after': helpfulness(rng, 0.6)}}


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp('recipe')
    invent(str(path))
    return path


@pytest.fixture(scope='module')
def source(workdir):
    return written(workdir)


@pytest.fixture(scope='module')
def page(source):
    return Page(source)


def test_the_graph_has_every_stage_and_line_and_leads_to_the_results(workdir, source, page):
    targets = {value for name, value in page.attributes if name == 'id'}
    links = [value for name, value in page.attributes if name == 'href' and value.startswith('#stage-')]
    assert {link[1:] for link in links} == {f'stage-{name}' for name in STAGES} <= targets
    assert source.count('<g class="edge start">') == 9 and source.count('<g class="edge read">') == 4  # init is no box
    assert source.count('<g class="stage weights">') == 1 and source.count('<g class="stage open">') == 1
    assert 'sft: next token, starts from pretrain, reads rejection.' in page.said
    assert 'rejection: rejection sampling, starts from reasoning_rl.' in page.said
    assert 'rejection samplingkept 1,234 of 7,952' in page.said  # in its box
    assert 'helpful_rmreward model, pairsagreement 93.0 %' in page.said  # steps do not fit
    assert 'rejection from reasoning_rl · kept 1,234 of 7,952 samples, in 1 min 0 s.' in page.said
    assert 'distill: next token, starts from ./weights/small, reads rejection, not finished.' in page.said
    assert '://' not in source and 'url(' not in source


def test_without_lineage_the_graph_comes_from_the_config(tmp_path):
    invent(str(tmp_path), lineage=False)
    found = {stage.name: (stage.start, stage.reads) for stage in read(str(tmp_path)).stages}
    expected = {name: (start, reads) for name, (start, reads, *_) in STAGES.items()}
    assert found == expected | {'all_scenarios': ('sft', ())}  # its reward says it by a field that this config has not


def test_boxes_of_a_layer_do_not_overlap_and_lines_run_downwards(workdir):
    boxes, lines = graph._layered(read(str(workdir)).stages)
    layers = graph._arranged(boxes, lines)
    for layer in layers:
        for one, other in itertools.pairwise(layer):
            assert other.x - one.x >= (one.width + other.width) / 2 + graph.ACROSS - 1e-6
    for line in lines:
        assert [place.layer for place in line.places] == list(range(line.places[0].layer, line.places[-1].layer + 1))


def test_stages_that_no_recipe_could_have_do_not_hang_the_graph():
    loop = [StageRun('a', {}, {}, [], 'b', ('b',)), StageRun('b', {}, {}, [], 'a', ('a', 'nowhere'))]
    boxes, lines = graph._layered(loop)
    assert graph._arranged(boxes, lines) and len(lines) == 2


def test_the_table_has_a_row_a_stage(page):
    heads = re.search(r'stage(pass@1.*?)before zero', page.said)[1]
    assert (
        heads
        == 'pass@1 [95 %]majority [95 %]tokenslanguageformatreflective wordsgeneral: helpfulpairs: agreementpretrain––––––––'
    )
    assert re.search(r'before zero2\d\.\d % \[', page.said) and re.search(
        r'helpful_rm–{7}93\.0 % \[88\.0, 97\.0\]', page.said
    )
    assert re.search(r'distill–{8}', page.said)


def test_self_evolution_is_drawn_as_in_the_paper(workdir, source, page):
    drawn = [json.loads(v) for k, v in page.attributes if k == 'data-chart']
    accuracy = next(d for d in drawn if d['lines'][0]['name'] == 'pass@1')
    assert [line['name'] for line in accuracy['lines']] == ['pass@1', 'cons@8']
    for line in accuracy['lines']:
        assert line['x'] == [0, 10, 20, 30, 40] and line['exact'] and line['mean'] == line['y']
        assert all(low <= y <= high for low, y, high in zip(line['low'], line['y'], line['high'], strict=True))
    length = next(d for d in drawn if d['lines'][0]['name'] == 'Response length')
    assert length['lines'][0]['low'][0] < 20.5 < length['lines'][0]['high'][0] and len(length['marks']) == 7
    words = next(d for d in drawn if d['lines'][0]['name'] == 'all')
    assert [line['name'] for line in words['lines']] == ['all', 'wait', '检查']
    assert words['lines'][2]['y'][:11] == [0] * 10 + [0.055]  # 0 where it was not logged
    language = next(d for d in drawn if d['lines'][0]['name'] == 'Language')
    assert [mark['x'] for mark in language['marks']] == [0, 10, 20, 30, 40]
    zero = next(stage for stage in read(str(workdir)).stages if stage.name == 'zero')
    for line in zero.lines:
        line.pop('reward/language')  # R1-Zero is not rewarded for it, and its evaluations tell of it
    unrewarded = Page(evolution.section(zero))
    drawn = [json.loads(v) for k, v in unrewarded.attributes if k == 'data-chart']
    (line,) = next(d['lines'] for d in drawn if d['lines'][0]['name'] == 'held_out')
    assert (
        line['x'] == [0, 10, 20, 30, 40] and line['exact'] and 'Language reasoning in the language' in unrewarded.said
    )
    assert source.count('<b>Response length</b>') == 3  # of the stages of RL; those that collect are none
    assert 'held_out at 5 checkpoints' in page.said and 'wait90730' in page.said  # a thousand responses


def test_aha_is_found_by_search(workdir, page):
    found = aha.search(str(workdir))['zero']
    assert found.first[0] == found.corrected[0][0] == 12  # until then wait comes before any step
    assert found.steps[1] == {'read': 1} and found.steps[40] == {'read': 1, 'reflect': 1, 'correct themselves': 1}
    assert 'logged at step 12, the first that corrects itself at step 12.' in page.said
    assert 'reflect0.0 %100.0 %' in page.said


@pytest.mark.parametrize(
    'response, word, corrects',
    [
        ('<think>3+4=8 wait, 3+4=7</think>', 'wait', True),
        ('<think>先3+4=8等等，3+4=7</think>', '等等', True),
        ('<think>3+4=7. Let me check: 3+4=7</think>', 'check', False),
        ('<think>wait, 3+4=7</think>', None, False),  # before any step
        ('<think>3+4=7</think> but wait', None, False),  # not in the reasoning
        ('<think>The area is six. However, it is a triangle.</think>', 'however', False),
        ('<think>a=1 wait b=2</think>', 'wait', False),
    ],
)
def test_what_counts_as_aha(response, word, corrects):
    assert aha.word(response) == word and aha.corrects_itself(response) is corrects


def test_data_cards_and_reward_models_are_shown(page):
    assert 'rejection kept 1,234 examples, 15.5 % of 7,952 samples, sampled from reasoning_rl' in page.said
    assert 'mixed language100' in page.said and 'code0' not in page.said and 'TinySums1283' in page.said
    assert 'mathzh2502001904,0001,500600' in page.said
    assert 'helpful_rm on pairs, 100 pairs: judges as its data 93.0 % [88.0, 97.0] of the time' in page.said
    assert 'chosen longer6095.0 %' in page.said and 'off by 4.0 % in the mean' in page.said


@pytest.mark.parametrize('card', ['', '[]', '{}', '{"samples": 3, "groups": {}, "tokens": {"kept": 1}}'])
def test_a_card_may_say_nothing(tmp_path, card):
    invent(str(tmp_path))
    (tmp_path / 'data' / 'rejection.card.json').write_text(card)
    assert 'all_scenarios' in Page(written(tmp_path)).said


def test_a_learned_reward_that_rises_while_its_rule_falls_is_named():
    def monitored(rule, learned):
        lines = [
            {'step': step, 'reward/mean': 1.0, 'reward/helpful': learned(step)}
            | ({'eval/general/part/helpful': rule[step], 'eval/general/part/helpful_ci': [rule[step] - 0.1, rule[step] + 0.1]}
               if step in rule else {})
            for step in range(11, 41)
        ]  # fmt: skip
        parts = {'parts': {'helpful': {'mean': 9.0, 'ci': [8.9, 9.1]}}}  # before the stage, and the reward's phase
        return Page(hacking.monitor(StageRun('rl', {}, {'evals': {'general': {'before': parts}}}, lines), [])).said

    said = monitored({12: 2.0, 25: 1.5, 40: 0.5}, lambda step: step / 10 + 0.01 * (step % 2))
    assert 'look here' in said and 'Reward/helpful rose while the held-out helpful fell' in said
    assert 'on general, helpful went from 2 at step 12 to 0.5 at step 40' in said
    assert 'nothing suspicious' in monitored({12: 1.0, 40: 1.5}, lambda step: step / 10)
    assert 'nothing suspicious' in monitored({12: 1.5, 40: 0.5}, lambda step: -step / 10)


if __name__ == '__main__':
    invent(sys.argv[1])
    print(report.write(sys.argv[1]))
