"""Stages are run again when what they are made of has changed, and only then. What they had is set aside, whenever a run is killed.

Nothing is trained here: a stage writes lines and ends with 'weights' that are a digest of what it was made of.
"""

import dataclasses
import json
import math
import os
import shutil

import pytest
import toy

from r1jax.config import Stored
from r1jax.data.datasets import JSONLinesExamples
from r1jax.data.kept import Kept, Mixture, collected
from r1jax.settings import BadInput, override
from r1jax.train import aside, checkpoint, inputs, stage
from r1jax.train.log import read

NAMES = ('base', 'zero', 'keep', 'sft', 'side')
KEPT = 3  # examples that `keep` writes


class Killed(BaseException):
    pass


class Fake:
    """Runs a stage in no time."""

    ran: list[str] = []

    def __init__(self, context, job):
        self.context, self.job, self.name = context, job, job.stage.name

    def run(self):
        self.ran.append(self.name)
        for step in range(1, self.job.stage.steps + 1):
            self.context.log.metrics(self.name, step, 0.0, {'loss': 1.0})
            self.context.log.samples(self.name, step, [{'completion': self.name}] * 2)
        if self.name == 'keep':
            path = collected(self.context.workdir, 'keep')
            path.parent.mkdir(exist_ok=True)
            lines = [{'prompt': f'{i}', 'response': self.outputs()['weights']} for i in range(KEPT)]
            path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
        return {'steps': self.job.stage.steps, 'seconds': 0.0}

    def outputs(self):
        made_of = checkpoint.read_begun(self.context.workdir, self.name)['inputs']
        decides = ('stage', 'model', 'template', 'start', 'data', 'ends')
        return {'weights': inputs.key({name: made_of[name] for name in decides})}


def recipe(texts):
    """base → zero → keep, whose examples sft learns from, from base again; and side, from base."""
    base, zero = toy.recipe().stages
    base = dataclasses.replace(base, source=Stored(JSONLinesExamples(str(texts)), batch=2))

    def stored(name, **changes):
        return dataclasses.replace(base, **({'name': name, 'steps': 2, 'start': 'base'} | changes))

    kept = Stored(Mixture(((Kept('keep'), 2.0), (toy.Texts(2), 1.0))), batch=4, epochs=2)
    sft = stored('sft', source=kept, steps=0)
    stages = (base, zero, stored('keep', start='zero'), sft, stored('side', evals=(with_sample(zero),)))
    return dataclasses.replace(toy.recipe(), stages=stages)


def with_sample(zero):
    return dataclasses.replace(zero.evals[0], sample=zero.source.sample)


def write_texts(path, text='2'):
    path.write_text(''.join(json.dumps({'prompt': '1+1=', 'response': text}) + '\n' for _ in range(4)))


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    for kind in stage.RUNNERS:
        monkeypatch.setitem(stage.RUNNERS, kind, Fake)
    monkeypatch.setattr(Fake, 'ran', [])


@pytest.fixture(scope='module')
def once(tmp_path_factory):
    """A finished run: its texts and its workdir."""
    folder = tmp_path_factory.mktemp('once')
    write_texts(folder / 'texts.jsonl')
    with pytest.MonkeyPatch.context() as patch:
        for kind in stage.RUNNERS:
            patch.setitem(stage.RUNNERS, kind, Fake)
        stage.run(recipe(folder / 'texts.jsonl'), str(folder / 'run'))
    return folder


@pytest.fixture
def workdir(once, tmp_path):
    """A copy of it, which holds the path of the texts of `once`."""
    shutil.copytree(once / 'run', tmp_path / 'run')
    return tmp_path / 'run'


@pytest.fixture
def plain(once):
    return recipe(once / 'texts.jsonl')


def run(workdir, recipe, **kwargs):
    """The stages that a run ran."""
    Fake.ran.clear()
    stage.run(recipe, str(workdir), **kwargs)
    return tuple(Fake.ran)


def lines(workdir, name):
    """Stage -> its lines' steps."""
    found = {}
    for line in read(str(workdir / name)):
        found.setdefault(line['stage'], []).append(line['step'])
    return found


def assert_whole(workdir, steps=None):
    """Each stage is finished, and has each of its lines once."""
    steps = {'base': 4, 'zero': 4, 'keep': 2, 'sft': 4, 'side': 2} | (steps or {})
    assert lines(workdir, 'metrics.jsonl') == {name: list(range(1, n + 1)) for name, n in steps.items()}
    assert {name: len(found) for name, found in lines(workdir, 'samples.jsonl').items()} == {
        name: 2 * n for name, n in steps.items()
    }
    summary = json.loads((workdir / 'summary.json').read_text())['stages']
    assert {name: entry['steps'] for name, entry in summary.items()} == steps
    assert all(each['finished'] for each in lineage(workdir).values())


def lineage(workdir):
    return json.loads((workdir / 'lineage.json').read_text())['stages']


def stale(workdir):
    return sorted(path.name for path in (workdir / 'stale').glob('*')) if (workdir / 'stale').exists() else []


def test_a_run_says_where_everything_came_from(once, plain):
    assert_whole(once / 'run')
    found = lineage(once / 'run')
    assert {name: (each['start'], each['reads']) for name, each in found.items()} == {
        'base': ('init', []),
        'zero': ('base', []),
        'keep': ('zero', []),
        'sft': ('base', ['keep']),
        'side': ('base', []),
    }
    assert len({each['key'] for each in found.values()}) == len(NAMES)
    assert len({each['data'] for each in found.values()}) == 3  # base's texts, which two others have, zero's, sft's
    assert list(found['keep']['outputs']['files']) == ['keep.jsonl'] and 'files' not in found['sft']['outputs']
    done = checkpoint.read_done(str(once / 'run'), 'sft')
    assert done['inputs']['key'] == found['sft']['key'] and done['outputs'] == found['sft']['outputs']
    assert set(done['inputs']['ends']) == {'base', 'keep'}
    steps = math.ceil(2 * (2 * KEPT + 2) / 4)  # two epochs of what `keep` kept, twice each, and of two more
    assert json.loads((once / 'run' / 'summary.json').read_text())['stages']['sft']['steps'] == steps


def test_the_same_recipe_again_does_nothing(workdir, plain):
    before = {path: path.read_bytes() for path in workdir.rglob('*.json*')}
    assert run(workdir, plain) == () == run(workdir, plain, first='keep')
    assert {path: path.read_bytes() for path in workdir.rglob('*.json*')} == before


@pytest.mark.parametrize(
    'assignment',
    [
        'zero.checkpoint_every=7',
        'zero.keep_checkpoints=3',
        'zero.log_samples=1',
        'zero.max_skips=3',
        'zero.rows.per_microbatch=4',
        'zero.source.sample.slots=32',
        'zero.source.sample.buckets=2',
        'model.remat=full',
        'grading.workers=1',
        'mesh.data=2',
    ],
)
def test_what_changes_no_result_makes_nothing_stale(workdir, plain, assignment):
    before, changed = (workdir / 'config.json').read_text(), override(plain, [assignment])
    assert run(workdir, changed) == () and stale(workdir) == []
    assert (workdir / 'config.json').read_text() != before


@pytest.mark.parametrize(
    ('assignments', 'again', 'steps'),
    [
        ('side.optim.learning_rate=1e-5', ('side',), {}),
        ('sft.source.epochs=1', ('sft',), {'sft': 2}),
        ('keep.steps=3', ('keep', 'sft'), {'keep': 3}),
        ('zero.loss.beta=0.01', ('zero', 'keep', 'sft'), {}),
        ('zero.source.sample.temperature=0.9 side.steps=3', ('zero', 'keep', 'sft', 'side'), {'side': 3}),
        ('base.source.shuffle=false', NAMES, {}),
        ('model.norm_eps=1e-4', NAMES, {}),
        ('zero.evals.held_out.samples=2', ('zero',), {}),  # which ends with the same weights
        ('side.evals.held_out.problems.size=3', ('side',), {}),
    ],
)
def test_what_has_changed_is_run_again_with_what_was_made_of_it(workdir, plain, capsys, assignments, again, steps):
    keys = {name: each['key'] for name, each in lineage(workdir).items()}
    changed = override(plain, assignments.split()) if 'size' not in assignments else with_more_questions(plain)
    assert run(workdir, changed) == again
    assert_whole(workdir, steps)
    said = capsys.readouterr().out
    assert stale(workdir) == sorted(f'{name}.1' for name in again)
    for name in NAMES:
        assert (f'set aside in {workdir}/stale/{name}.1' in said.replace('\n', '')) == (name in again)
        assert (lineage(workdir)[name]['key'] != keys[name]) == (name in again)
    for name in again:
        there = workdir / 'stale' / f'{name}.1'
        assert json.loads((there / 'checkpoints' / 'done.json').read_text())['inputs']['key'] == keys[name]
        assert lines(there, 'metrics.jsonl').keys() == {name} == lines(there, 'samples.jsonl').keys()
        assert [path.name for path in (there / 'data').iterdir()] == (['keep.jsonl'] if name == 'keep' else [])
    assert run(workdir, changed) == ()
    assert run(workdir, plain) == again  # and back
    assert f'{again[0]}.2' in stale(workdir)


def with_more_questions(plain):
    side = plain.stages[-1]
    more = dataclasses.replace(side.evals[0], problems=toy.Questions(3))
    return dataclasses.replace(plain, stages=(*plain.stages[:-1], dataclasses.replace(side, evals=(more,))))


def test_data_are_known_by_their_content(workdir, once, plain, tmp_path):
    copy = tmp_path / 'texts.jsonl'
    write_texts(copy)
    moved = recipe(copy)
    run(workdir, moved)
    write_texts(copy, text='3')
    assert run(workdir, moved, stage='side') == ('side',)
    assert set(run(workdir, moved)) == set(NAMES)  # `base` learned from them, and everything from `base`


def test_a_collected_file_can_be_edited(workdir, plain):
    path = collected(str(workdir), 'keep')
    path.write_text(path.read_text().replace('"prompt": "1"', '"prompt": "7"'))
    assert run(workdir, plain) == ('sft',) and run(workdir, plain) == ()
    path.unlink()  # made again, as it was before it was edited
    assert run(workdir, plain) == ('keep', 'sft')
    path.unlink()
    assert run(workdir, plain) == ('keep',)  # as it was: nothing else follows
    assert_whole(workdir)


def test_a_stage_that_was_removed_by_hand_is_made_again(workdir, plain):
    shutil.rmtree(workdir / 'checkpoints' / 'zero')
    assert run(workdir, plain) == ('zero',)
    assert_whole(workdir)


def test_a_stage_that_the_recipe_has_no_more_is_set_aside(workdir, plain):
    fewer = dataclasses.replace(plain, stages=plain.stages[:-1])
    assert run(workdir, fewer) == () and stale(workdir) == ['side.1']
    assert 'side' not in json.loads((workdir / 'summary.json').read_text())['stages']
    assert run(workdir, plain) == ('side',)
    assert_whole(workdir)


def test_one_stage_needs_those_before_it_as_they_are_now(workdir, plain, tmp_path):
    with pytest.raises(BadInput, match=r'stage keep starts from zero, which is not finished in .*: run it first'):
        run(tmp_path / 'new', plain, stage='keep')
    changed = override(plain, ['keep.steps=3'])
    with pytest.raises(
        BadInput, match=r'sft reads what was made by keep, which is to be run again first.*keep.steps: 2'
    ):
        run(workdir, changed, first='sft')
    assert stale(workdir) == [] and run(workdir, plain) == ()  # nothing was touched
    assert run(workdir, changed, stage='keep') == ('keep',)
    assert stale(workdir) == ['keep.1', 'sft.1']  # sft was made of the old one
    assert [name for name, each in lineage(workdir).items() if not each['finished']] == ['sft']
    assert run(workdir, changed, first='sft') == ('sft',)
    assert_whole(workdir, {'keep': 3})


def test_another_name_or_seed_is_another_recipe(workdir, plain):
    for change in ({'seed': 1}, {'name': 'other'}):
        with pytest.raises(BadInput, match='holds a run of another recipe'):
            run(workdir, dataclasses.replace(plain, **change))


def test_what_no_record_tells_of_is_set_aside(workdir, plain):
    (workdir / 'checkpoints' / 'side' / 'stage.json').unlink()
    assert run(workdir, plain) == ('side',) and stale(workdir) == ['side.1']


def test_weights_are_known_by_their_content(tmp_path):
    for name in ('a', 'b', 'c'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'model.safetensors').write_bytes(bytes(3_000_000) + (b'!' if name == 'c' else b'?'))
        (tmp_path / name / 'README.md').write_text(name)
    a, b, c = (inputs._start(str(tmp_path / name)) for name in ('a', 'b', 'c'))
    assert a == b != c and list(a) == ['model.safetensors']
    assert inputs._start(str(tmp_path / 'a' / 'model.safetensors')) == a


def test_a_kill_while_things_are_set_aside_loses_nothing(workdir, plain, tmp_path, monkeypatch):
    """Before each operation on files in turn; then the recipe is even changed back, and changed again."""
    changed = override(plain, ['keep.steps=3'])
    reference = tmp_path / 'reference'
    shutil.copytree(workdir, reference)
    run(reference, changed)
    at, done = 0, False
    while not done:
        at += 1
        here = tmp_path / f'killed-{at}'
        shutil.copytree(workdir, here)
        with monkeypatch.context() as m:
            killing = Killing(os, at)
            m.setattr(aside, 'os', killing)
            m.setattr(aside, 'open', killing.open, raising=False)
            try:
                run(here, changed)
                done = True
            except Killed:
                pass
        if not done and at % 2:
            run(here, plain, stage='side')  # another command ends the setting aside
        run(here, changed)
        assert_whole(here, {'keep': 3})
        assert lineage(here) == lineage(reference) and stale(here) == stale(reference)
        for path in (reference / 'stale').rglob('*'):
            if path.is_file() and path.suffix != '.tfevents':
                assert (here / path.relative_to(reference)).read_bytes() == path.read_bytes()
    assert at > 10  # two stages, several operations each


class Killing:
    """The module `os`, whose operation on files number `at` is a kill; `open` counts as one."""

    def __init__(self, real, at):
        self.real, self.left, self.path = real, at, real.path

    def __getattr__(self, name):
        operation = open if name == 'open' else getattr(self.real, name)

        def counted(*args, **kwargs):
            self.left -= 1
            if not self.left:
                raise Killed
            return operation(*args, **kwargs)

        return counted
