"""Sampling and training apart: which policy draws what, that nothing else changes, and that a killed run ends with the same bits."""

import dataclasses
import gzip
import json
import threading

import jax
import numpy as np
import pytest
import toy
from killing import timeless
from smallest_split import recipe
from test_train import Killed, final_params, interrupt

from r1jax import sharding
from r1jax.checks import validate
from r1jax.config import GRPO, MeshConfig, OnPolicy, Split
from r1jax.settings import BadInput
from r1jax.train import ahead, profile, stage
from r1jax.train.drawer import Drawn
from r1jax.train.log import read


class Draws:
    """A drawer that says what it was asked."""

    def __init__(self, staleness, steps):
        source = OnPolicy(None, None, (), 1, 1, split=Split(MeshConfig(), staleness))
        self.stage = dataclasses.replace(toy.recipe().stages[1], source=source, steps=steps)
        self.cfg, self.asked, self.go = source, [], threading.Event()
        self.go.set()

    def __call__(self, params, began, version):
        self.go.wait()
        if params['w'].shape != (4,):
            raise RuntimeError('not these weights')
        self.asked.append((began, version, float(params['w'][0]), params['w'].devices(), jax.sharding.get_mesh()))
        return Drawn(
            began,
            len(self.asked),
            {'w': np.asarray(params['w'])},
            {'n': began},
            [{'text': 'a', 'x': np.float32(version)}],
        )


def meshes():
    devices = jax.devices()
    return [sharding.make_mesh(MeshConfig(), [each]) for each in devices[:2]]


def weights(mesh, value):
    return {'w': jax.device_put(np.full(4, value, np.float32), sharding.named(mesh, 'norm'))}


@pytest.fixture(autouse=True)
def whole_weights(monkeypatch):
    """Weights of no model are whole on each device."""
    plain = ahead.layout.shardings

    def shardings(params, model, mesh):
        if model is None:
            return jax.tree.map(lambda a: sharding.named(mesh, 'norm'), params)
        return plain(params, model, mesh)

    monkeypatch.setattr(ahead.layout, 'shardings', shardings)


@pytest.mark.parametrize(('staleness', 'stride'), [(0, 1), (1, 1), (2, 1), (2, 2), (3, 2), (1, 2), (5, 2)])
def test_a_rollout_is_drawn_by_the_policy_of_exactly_so_many_steps_before(staleness, stride):
    train, sample = meshes()
    draws = Draws(staleness, steps=7)
    one = ahead.Ahead(draws, sample, stride)
    for step in range(7):
        one.begin(weights(train, step), step)
        if step % stride == 0:
            drawn = one.take()
            assert drawn.began == step
    assert not one.settled()  # none is drawn that nobody takes
    one.close()
    want = [(u, max(u - staleness, 0)) for u in range(0, 7, stride)]
    assert [(u, v) for u, v, *_ in draws.asked] == want
    for _, version, value, devices, mesh in draws.asked:
        assert value == version and devices == set(sample.devices.flat) and mesh == sample


def test_weights_are_handed_over_while_a_rollout_is_drawn_and_what_stays_is_not_sent_again():
    train, sample = meshes()
    draws = Draws(1, steps=3)
    draws.go.clear()
    one, base = ahead.Ahead(draws, sample, 1), weights(train, 7)['w']
    for step in range(2):
        one.begin({'w': weights(train, step)['w'], 'base': base}, step)  # does not wait
    pieces, _ = one._handed_over({'w': weights(train, 2)['w'], 'base': base})
    assert [piece is None for piece in pieces] == [True, False]
    one.begin({'w': weights(train, 2)['w'], 'base': base}, 2)
    draws.go.set()
    assert [drawn.began for drawn in one.settled()] == [0, 1, 2]
    assert [one.take().began for _ in range(3)] == [0, 1, 2]
    one.close()


def test_what_goes_wrong_beside_training_is_raised():
    train, sample = meshes()
    one = ahead.Ahead(Draws(0, steps=3), sample, 1)
    one.begin({'w': jax.device_put(np.ones(3), sharding.named(train, 'norm'))}, 0)
    with pytest.raises(RuntimeError, match='not these weights'):
        one.take()
    one.close()


def test_what_was_drawn_ahead_is_in_a_checkpoint():
    drawn = [
        Drawn(2 * i, i + 1, {'tokens': np.full((2, 3), i), 'ref_logp': np.ones(2)}, {'reward/mean': np.float32(i)}, [{'text': str(i)}])
        for i in range(11)
    ]  # fmt: skip
    said, arrays = ahead.packed(drawn)
    arrays['tokens'] = np.zeros(1)  # of the rollout in flight
    got = ahead.unpacked(said, arrays)
    assert list(arrays) == ['tokens']
    for a, b in zip(got, drawn, strict=True):
        assert (a.began, a.number, a.logged, a.metrics) == (b.began, b.number, b.logged, {'reward/mean': b.began / 2})
        assert a.arrays.keys() == b.arrays.keys() and (a.arrays['tokens'] == b.arrays['tokens']).all()
    one = ahead.Ahead(Draws(1, steps=3), meshes()[1], 1)
    one.restore(got[:2], 9)
    assert one.next == 9 and one.settled() == got[:2] and one.take() is got[0]
    one.close()


def test_what_was_taken_can_be_taken_again_and_a_batch_passed_over():
    train, sample = meshes()
    draws = Draws(1, steps=5)
    one = ahead.Ahead(draws, sample, 1)
    for step in range(2):
        one.begin(weights(train, step), step)
        one.mark()
        first = one.take()
    one.undo()
    assert one.take() is first and first.began == 1
    one.begin(
        weights(train, 1), 1, passed=1
    )  # that batch is passed over: step 1 takes another, drawn before, and one more is needed
    assert [one.take().began for _ in range(2)] == [2, 2]
    one.close()
    assert [(u, v) for u, v, *_ in draws.asked] == [(0, 0), (1, 0), (2, 1), (2, 1)]


def test_a_state_that_is_restored_takes_the_place_of_what_is_begun():
    train, sample = meshes()
    draws = Draws(3, steps=9)
    one = ahead.Ahead(draws, sample, 1)
    one.begin(weights(train, 0), 0)
    one.restore([Drawn(4, 1, {}, {}, [])], 5)
    count = len(draws.asked)
    one.begin(weights(train, 4), 4)
    assert [drawn.began for drawn in one.settled()] == [4, 5, 6, 7]
    assert len(draws.asked) == count + 3  # nothing that was begun before goes on
    one.close()


def ran(path, whole, **how):
    """Its metrics without times, samples, and what it ends with."""
    stage.run(whole, str(path), **how)
    return timeless(path / 'metrics.jsonl'), timeless(path / 'samples.jsonl'), final_params(path, whole, 'zero')


@pytest.fixture(scope='module')
def in_turns(tmp_path_factory):
    """A run whose two groups take turns."""
    path = tmp_path_factory.mktemp('split')
    return path, ran(path, recipe(Split(MeshConfig(), 0)), profile='3')


def test_in_turns_two_groups_give_the_bits_of_one(in_turns, tmp_path):
    fused, samples, end = ran(tmp_path, recipe())
    _, (split, others, ours) = in_turns
    new = {'rollout/staleness', 'rollout/staleness_max'}
    assert all(m['rollout/staleness_max'] == 0 and m['rollout/groups_kept'] > 0 for m in split)
    assert [{k: v for k, v in m.items() if k not in new} for m in split] == fused and others == samples
    jax.tree.map(np.testing.assert_array_equal, ours, end)


def test_a_trace_has_the_words_of_the_code(in_turns):
    folder = profile.newest(in_turns[0] / 'profile')
    with gzip.open(folder / 'perfetto_trace.json.gz', 'rt', encoding='utf-8') as file:
        names = {event['name'] for event in json.load(file)['traceEvents'] if event.get('ph') == 'X'}
    assert {'step', 'hand_over', 'sample', 'score', 'wait', 'logprobs', 'update'} <= names
    scopes = {name.partition(': ')[0] for name in names if ': ' in name}  # of operations
    known = set(profile.scopes(next(folder.glob('*.xplane.pb')).read_bytes()).values())  # what XProf reads
    for words in (
        'update/attention',
        'update/head, backward',
        'update/optimizer',
        'sample/decode/attention',
        'sample/prefill/mlp',
    ):
        assert any(words in each for each in known), words
        assert any(words in each for each in scopes), words


@pytest.mark.slow
@pytest.mark.parametrize('staleness', [1, 3])
def test_a_split_run_that_is_killed_ends_with_the_same_bits(tmp_path, monkeypatch, staleness):
    split = Split(MeshConfig(data=2, tensor=2), staleness)
    whole = recipe(split, MeshConfig(fsdp=4), steps=8)
    want = ran(tmp_path / 'whole', whole)
    lines = list(read(str(tmp_path / 'whole' / 'metrics.jsonl')))
    began = [2 * (i // 2) for i in range(8)]
    assert [m['policy/version'] for m in lines] == [max(u - staleness, 0) for u in began]
    assert [m['rollout/staleness'] for m in lines] == [min(staleness, u) for u in began]

    def die():
        raise Killed

    for after in (3, 2):
        with monkeypatch.context() as m:
            interrupt(m, after, die)
            with pytest.raises(Killed):
                stage.run(whole, str(tmp_path / 'killed'))
    got = ran(tmp_path / 'killed', whole)
    assert got[:2] == want[:2]
    jax.tree.map(np.testing.assert_array_equal, got[2], want[2])


@pytest.mark.parametrize(
    ('split', 'change', 'message'),
    [
        (Split(MeshConfig(data=5), 0), {}, 'zero.source.split.mesh takes 5 devices beside the 4 that train, and 8 are here'),
        (Split(MeshConfig(data=3), 0), {}, 'zero.source.split.mesh: weights of 4 devices go to 3: one number must be a multiple'),
        (Split(MeshConfig(tensor=4), 0), {}, 'zero.source.split.mesh: model.heads=2 is split over mesh.tensor=4'),
        (Split(MeshConfig(), -1), {}, 'zero.source.split.staleness=-1 must be in [0, inf)'),
        (
            Split(MeshConfig(), 1),
            {'loss': GRPO()},
            'zero.loss.importance_cap=0 leaves what older policies drew uncorrected: with source.split.staleness=1',
        ),
    ],
)  # fmt: skip
def test_splits_that_cannot_be_are_refused(split, change, message):
    with pytest.raises(BadInput) as error:
        validate(recipe(split, MeshConfig(fsdp=4), **change), 8)
    assert str(error.value).startswith(message)


def test_of_several_processes_each_has_its_share_of_every_mesh(monkeypatch):
    monkeypatch.setattr(stage.distributed, 'count', lambda: 2)
    four, two, one = MeshConfig(fsdp=4), MeshConfig(data=2), MeshConfig()
    stage._refuse_idle(recipe(Split(two), four))
    for where, whole in [('mesh', recipe(None, one)), ('zero.source.split.mesh', recipe(Split(one), two))]:
        with pytest.raises(BadInput) as error:
            stage._refuse_idle(whole)
        want = f'{where} takes 1 devices, and 2 processes have 8: of several processes it has to take as many of each'
        assert str(error.value) == want
    monkeypatch.setattr(stage.jax, 'default_backend', lambda: 'tpu')
    with pytest.raises(BadInput, match=r'mesh takes 4 devices, .* with TPUs it has to take all, since no program'):
        stage._refuse_idle(recipe(Split(two), four))


def test_devices_of_a_part_of_the_machine_are_of_all_processes():
    class Device:
        platform, device_kind = 'cpu', 'cpu'

        def __init__(self, process):
            self.process_index = process

    devices = [Device(i // 3) for i in range(6)]
    trains = list(sharding.make_mesh(MeshConfig(fsdp=2), devices).devices.flat)
    assert trains == [devices[0], devices[3]]
    rest = [each for each in devices if each not in trains]
    assert list(sharding.make_mesh(MeshConfig(data=4), rest).devices.flat) == rest
    assert list(sharding.make_mesh(MeshConfig(data=3), devices).devices.flat) == devices[:3]  # it does not divide


def test_a_split_has_one_layout_for_sampling_whose_devices_share_the_slots():
    whole = recipe(Split(MeshConfig(data=4)), MeshConfig(fsdp=4))
    validate(whole, 8)
    zero = whole.stages[0]
    for change, message in [
        ({'mesh': MeshConfig(data=4)}, 'zero.source.sample.mesh and source.split both say where rollouts are sampled'),
        ({'slots': 24}, 'zero.source.sample.slots=24 must be a multiple of samples × mesh data×fsdp = 4×4'),
    ]:
        source = dataclasses.replace(zero.source, sample=dataclasses.replace(zero.source.sample, **change))
        stages = (dataclasses.replace(zero, source=source),)
        with pytest.raises(BadInput) as error:
            validate(dataclasses.replace(whole, stages=stages), 8)
        assert str(error.value).startswith(message)
