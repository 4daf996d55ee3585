"""Rejection sampling as a stage: on the smallest model, killed and resumed, and the same file twice."""

import dataclasses
import hashlib
import json
import os
import signal

import pytest
import smallest

from r1jax.config import (
    NLL,
    Collect,
    Decontaminate,
    Filter,
    NearDuplicates,
    OptimConfig,
    Part,
    Recipe,
    RowConfig,
    SampleConfig,
    Stage,
    Stored,
    Threshold,
)
from r1jax.curate import filters
from r1jax.data.kept import Kept
from r1jax.data.template import r1_zero
from r1jax.data.tiny import TinyCorpus, TinySums, TinyTokenizer
from r1jax.rewards import form
from r1jax.settings import BadInput
from r1jax.train import collect, collected, stage
from r1jax.train.log import read
from r1jax.types import Problem


def lucky(problem, response):
    """A rule that a model which has learned next to nothing satisfies now and then."""
    return float(sum(map(ord, response.text)) % 2)


def digits(problem, response):
    return any(letter.isdigit() for letter in response.text)


def few_shot(problem, tokenizer):
    return f'3+4=? (mod 10) 7. {problem.prompt}'


def tidied(problem, response):
    return response.text.strip().replace(' hm', '') or None


SAMPLE = SampleConfig(max_tokens=16, max_prompt=24, slots=16)
SOURCE = Collect(
    TinySums(size=22, terms=(2, 3)),
    SAMPLE,
    (Part('accuracy', lucky), Part('format', form.format, weight=0.5)),
    samples=4,
    questions=8,
    filters=(Filter('digits', digits),),
    pass_rate=(0.0, 0.99),
    keep=2,
    decontaminate=Decontaminate(10, (TinySums('held_out', size=20, terms=(2, 3)),)),
)


def recipe(**change):
    rows = RowConfig(length=64)
    base = Stage('base', 6, Stored(TinyCorpus(size=300, terms=(2, 3)), batch=16), NLL(), OptimConfig(1e-2), rows)
    picked = Stage('picked', 0, dataclasses.replace(SOURCE, **change), start='base')
    sft = Stage('sft', 0, Stored(Kept('picked'), batch=8, epochs=2), NLL(), OptimConfig(1e-3), rows, start='base')
    return Recipe('collecting', (base, picked, sft), r1_zero, smallest.MODEL, TinyTokenizer())


FILES = ('all.jsonl', 'jsonl', 'card.json', 'card.md')


def files(workdir, kinds=FILES):
    return {kind: (workdir / 'data' / f'picked.{kind}').read_bytes() for kind in kinds}


@pytest.fixture(scope='module')
def based(tmp_path_factory):
    """A workdir in which the first stage is finished."""
    workdir = tmp_path_factory.mktemp('based')
    stage.run(recipe(), str(workdir), stage='base')
    return workdir


@pytest.fixture(scope='module')
def whole(based):
    stage.run(recipe(), str(based))
    return based


def begun(based, workdir, **change):
    """Another run from the same first stage, up to the end of the second."""
    (workdir / 'checkpoints').mkdir(parents=True)
    (workdir / 'checkpoints' / 'base').symlink_to(based / 'checkpoints' / 'base')
    (workdir / 'metrics.jsonl').write_bytes((based / 'metrics.jsonl').read_bytes())  # cut back to where `base` ended
    changed = recipe(**change)
    stage.run(changed, str(workdir), stage='picked')
    return workdir


def test_what_is_kept_is_what_was_asked_for(whole):
    everything, kept = (list(read(str(whole / 'data' / f'picked.{kind}'))) for kind in ('all.jsonl', 'jsonl'))
    assert [(line['question'], line['sample']) for line in everything] == [(q, s) for q in range(22) for s in range(4)]
    sampled = {(line['question'], line['sample']): line for line in everything}
    assert len(kept) > 5
    for line in kept:
        source = sampled[line['question'], line['sample']]
        assert line['response'] == source['completion'] and line['tokens'] == source['tokens'] and source['finished']
        problem = Problem(line['question'], line['problem'], line['answer'])
        assert lucky(problem, collected.sample(source).response) == 1 and digits(
            problem, collected.sample(source).response
        )
        group = [sampled[line['question'], s]['verdict'] == 'correct' for s in range(4)]
        assert line['pass_rate'] == sum(group) / 4 <= 0.99
        assert line['prompt'] == r1_zero(problem) and line['kind'] == 'math' and line['language'] == 'en'
    asked = [line['question'] for line in kept]
    assert asked == sorted(asked) and max(map(asked.count, asked)) == 2
    assert len({(line['problem'], line['response']) for line in kept}) == len(kept)


def test_the_card_counts_everything(whole):
    card, kept = json.loads(files(whole)['card.json']), files(whole)['jsonl']
    fates = dict(card['samples'])
    assert fates.pop('sampled') == 88 == sum(fates.values()) and fates['kept'] == kept.count(b'\n')
    assert fates['wrong'] and fates['unfinished'] and fates['kept']
    assert sum(card['pass_rate'].values()) == card['prompts']['sampled'] == 22 == card['prompts']['loaded']
    assert card['file']['sha256'] == hashlib.sha256(kept).hexdigest() and card['file']['bytes'] == len(kept)
    assert card['contamination']['sets'][0]['questions'] == 20 and card['prompts']['contaminated'] == 0
    assert card['settings']['sample']['slots'] == 16
    assert f'| kept | {fates["kept"]} |' in files(whole)['card.md'].decode()
    entry = json.loads((whole / 'summary.json').read_text())['stages']['picked']
    assert entry['steps'] == 3 and entry['collected']['samples'] == card['samples']


def test_metrics_tell_of_every_call_and_a_later_stage_learns_from_what_was_kept(whole):
    lines = [line for line in read(str(whole / 'metrics.jsonl')) if line['stage'] == 'picked']
    assert [line['step'] for line in lines] == [1, 2, 3] and [line['rollout/samples'] for line in lines] == [32, 32, 24]
    assert all(0 < line['collect/correct'] < 1 for line in lines)
    learned = [line['loss'] for line in read(str(whole / 'metrics.jsonl')) if line['stage'] == 'sft']
    assert len(learned) == -(-2 * files(whole)['jsonl'].count(b'\n') // 8) and learned[-1] < learned[0]


class Killed(BaseException):
    pass


KILLS = {
    'before a write': (collect.Collecting, '_finish', 2),
    'after a write': (collect.Collecting, '_log', 2),
    'choosing': (collect.Collecting, '_line', 3),
    'verifying': (collect.Collecting, '_verify', 1),
    'between the card and the file': (collect.card, 'to_markdown', 1),
}


@pytest.mark.parametrize('where', KILLS)
def test_killed_and_resumed_it_ends_with_the_same_bytes(whole, tmp_path, monkeypatch, where):
    owner, name, at = KILLS[where]
    real, calls = getattr(owner, name), []

    def dies(*args):
        calls.append(args)
        if len(calls) == at:
            raise Killed
        return real(*args)

    with monkeypatch.context() as m:
        m.setattr(owner, name, dies)
        with pytest.raises(Killed):
            begun(whole, tmp_path)
    assert not (tmp_path / 'data' / 'picked.jsonl').exists()
    torn = tmp_path / 'data' / 'picked.all.jsonl'
    with open(torn, 'ab') as file:
        file.write(files(whole)['all.jsonl'][torn.stat().st_size :][:700])  # some whole lines, and one that is not
    stage.run(recipe(), str(tmp_path), stage='picked')
    assert files(tmp_path) == files(whole)
    for name in ('metrics.jsonl', 'samples.jsonl'):
        ours, theirs = ([line for line in read(str(d / name)) if line['stage'] == 'picked'] for d in (tmp_path, whole))
        assert ours and [dict(line, seconds=0) for line in ours] == [dict(line, seconds=0) for line in theirs]


def test_a_signal_ends_it_with_all_that_was_sampled(whole, tmp_path, monkeypatch):
    """In the second call, which is given up at once; the first call's samples are kept."""
    real, calls = collect.Collecting._draw, []

    def draw(*args):
        calls.append(args)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(collect.Collecting, '_draw', draw)
    with pytest.raises(stage.Stopped) as stopped:
        begun(whole, tmp_path)
    assert stopped.value.code == 128 + signal.SIGTERM
    first = files(tmp_path, ('all.jsonl',))['all.jsonl']
    assert first.count(b'\n') == 32 and files(whole)['all.jsonl'].startswith(first)


def test_samples_of_other_problems_are_not_taken_for_ours(whole, tmp_path):
    (tmp_path / 'data').mkdir()
    lines = files(whole)['all.jsonl'].splitlines(keepends=True)
    (tmp_path / 'data' / 'picked.all.jsonl').write_bytes(b''.join(lines[4:]))
    with pytest.raises(BadInput, match=r'samples of other problems.*remove it'):
        begun(whole, tmp_path)


def test_the_same_whatever_is_sampled_together(whole, tmp_path):
    begun(whole, tmp_path, questions=4)
    assert files(tmp_path) == files(whole)


def test_a_changed_choice_asks_the_samples_that_there_are(whole, tmp_path, monkeypatch):
    fresh, workdir = begun(whole, tmp_path / 'fresh', keep=1), begun(whole, tmp_path / 'changed')
    with monkeypatch.context() as m:
        m.setattr(collect.Collecting, '_draw', None)  # nothing is sampled
        stage.run(recipe(keep=1), str(workdir), stage='picked')
        assert files(workdir) == files(fresh)
        assert files(workdir / 'stale' / 'picked.1') == files(whole)
        stage.run(recipe(keep=1), str(workdir), stage='picked')  # finished
        with pytest.raises(TypeError):
            stage.run(recipe(template=few_shot), str(workdir), stage='picked')
    stage.run(recipe(template=few_shot), str(workdir), stage='picked')
    assert files(workdir)['all.jsonl'] != files(whole)['all.jsonl']
    assert (workdir / 'stale' / 'picked.2').exists()


def test_keeping_nothing_is_an_error(whole, tmp_path):
    with pytest.raises(RuntimeError, match=r'picked kept none of 88 samples: .*picked.card.md says why'):
        begun(whole, tmp_path, filters=(Filter('none', filters.Reflects(9)),))
    assert not (tmp_path / 'data' / 'picked.jsonl').exists()
    assert json.loads(files(tmp_path, ('card.json',))['card.json'])['samples']['none'] > 0


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ({'keep': 1}, lambda card: card['samples']['beyond_keep'] > 0),
        ({'keep': 0}, lambda card: card['samples']['beyond_keep'] == 0),
        ({'prefer': 'shortest', 'keep': 1}, None),
        ({'unfinished': True}, lambda card: card['samples']['unfinished'] == 0),
        ({'pass_rate': (0.5, 1.0)}, lambda card: card['samples']['too_hard'] > 0),
        ({'filters': (Filter('long', filters.Shorter(8)),)}, lambda card: card['samples']['long'] > 0),
        ({'correct': (Threshold('accuracy', 0.0),), 'pass_rate': (0.0, 1.0)}, lambda card: card['samples']['wrong'] == 0),
        ({'near_duplicates': NearDuplicates(0.3, words=1)}, lambda card: card['samples']['near_duplicate'] > 0),
        ({'decontaminate': Decontaminate(10, (TinySums(size=5, terms=(2, 3)),))}, lambda card: card['prompts']['contaminated'] == 5),
        ({'decontaminate': None}, lambda card: card['contamination'] is None),
        ({'rewrite': tidied}, lambda card: card['samples']['wrong_rewritten'] > 0),
        ({'template': few_shot}, None),
    ],
    ids=lambda x: '-'.join(x) if isinstance(x, dict) else '',
)  # fmt: skip
def test_every_option_changes_something(whole, tmp_path, change, said):
    begun(whole, tmp_path, **change)
    ours, theirs = (files(d, ('all.jsonl', 'jsonl', 'card.json')) for d in (tmp_path, whole))
    assert ours['card.json'] != theirs['card.json']
    assert said is None or said(json.loads(ours['card.json']))
    assert (ours['jsonl'] != theirs['jsonl']) == (change not in ({'keep': 0}, {'decontaminate': None}))
    assert (ours['all.jsonl'] != theirs['all.jsonl']) == (
        'template' in change or bool(change.get('decontaminate')) or 'correct' in change
    )
    prompts = {line['prompt'] for line in map(json.loads, ours['jsonl'].splitlines())}
    assert all(prompt.startswith('A conversation') for prompt in prompts)  # however they were sampled


CALLS = []


def fickle(problem, response):
    """Thinks better of it when it is asked again."""
    CALLS.append(response.text)
    return float(len(CALLS) <= 88)


def test_an_example_that_is_not_correct_again_ends_the_run(whole, tmp_path):
    CALLS.clear()
    with pytest.raises(RuntimeError, match=r"kept as correct is wrong when it is graded again: \{'accuracy': 0.0\}"):
        begun(whole, tmp_path, rewards=(Part('accuracy', fickle),), pass_rate=(0.0, 1.0))
    assert not (tmp_path / 'data' / 'picked.jsonl').exists()


def busy(problem, response):
    """Cannot grade every third text at the first time."""
    CALLS.append(response.text)
    if CALLS.count(response.text) == 1 and len(set(CALLS)) % 3 == 0:
        raise TimeoutError
    return lucky(problem, response)


def test_what_could_not_be_graded_is_counted_apart(whole, tmp_path):
    CALLS.clear()
    begun(whole, tmp_path, rewards=(Part('accuracy', busy),), keep=0, pass_rate=(0.0, 1.0))
    card = json.loads(files(tmp_path)['card.json'])
    assert card['samples']['ungraded'] > 0 and card['samples']['kept'] > 0
    verdicts = [line['verdict'] for line in read(str(tmp_path / 'data' / 'picked.all.jsonl'))]
    assert verdicts.count('ungraded') == card['samples']['ungraded']


def test_all_prompts_contaminated_is_an_error(whole, tmp_path):
    with pytest.raises(
        BadInput, match='22 of 22 problems share 2 words with an evaluation: if these are words of a template'
    ):
        begun(whole, tmp_path, decontaminate=Decontaminate(2, SOURCE.decontaminate.against))


@dataclasses.dataclass(frozen=True)
class Mixed:
    """Problems of two kinds."""

    ids: tuple[int, ...] = (0, 1)

    def load(self):
        return [
            Problem(i, f'{k}+{k}=? (mod 10)', '2', kind)
            for k, (i, kind) in enumerate(zip(self.ids, ('math', 'general'), strict=True))
        ]


@dataclasses.dataclass(frozen=True)
class Liked:
    """Stands for a learned reward, whose last bits depend on what is scored beside it."""

    learned = True

    def many(self, problems, responses):
        return [0.5 - abs(len(responses) - 4) * 1e-6 for _ in responses]


def test_a_kind_without_a_right_answer_has_a_threshold_of_its_own(whole, tmp_path):
    parts = Part('accuracy', lucky, kinds=('math',)), Part('liked', Liked(), kinds=('general',))
    decides = Threshold('accuracy'), Threshold('liked', 0.5)
    begun(
        whole,
        tmp_path,
        problems=Mixed(),
        rewards=parts,
        correct=decides,
        filters=(),
        pass_rate=(0.0, 1.0),
        unfinished=True,
    )
    everything = list(read(str(tmp_path / 'data' / 'picked.all.jsonl')))
    assert [line['verdict'] for line in everything if line['question'] == 1] == ['correct'] * 4
    lucky_ones = [lucky(None, collected.sample(line).response) == 1 for line in everything if line['question'] == 0]
    assert [line['verdict'] == 'correct' for line in everything if line['question'] == 0] == lucky_ones
    kept = list(read(str(tmp_path / 'data' / 'picked.jsonl')))
    assert [line['kind'] for line in kept].count(
        'general'
    ) == 2  # who were scored beside other two, and again by themselves
    groups = json.loads(files(tmp_path)['card.json'])['groups']
    assert [group['kind'] for group in groups] == ['general', 'math'] and groups[0]['samples']['correct'] == 4


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ({'problems': Mixed((3, 3))}, 'two problems have the id 3'),
        (
            {'problems': Mixed(), 'rewards': (Part('accuracy', lucky, kinds=('math',)), Part('format', lucky))},
            "nothing in source.correct applies to problems of kind 'general'",
        ),
        ({'filters': (Filter('code', digits, kinds=('code',)),)}, 'source.filters.code names kinds that no problem has'),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_the_problems_are_refused(whole, tmp_path, change, said):
    with pytest.raises(BadInput, match=said):
        begun(whole, tmp_path, **change)
