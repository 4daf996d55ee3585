"""Layouts: arrays change meshes on the devices, whatever the split, and sampling has a mesh of its own."""

import dataclasses

import jax
import numpy as np
import pytest
import toy
from test_engine import questions
from tiny import MODEL, params_of

from r1jax import resharding, sharding
from r1jax.checks import validate
from r1jax.config import LoRA, MeshConfig, SampleConfig
from r1jax.nn import layout, lora
from r1jax.nn.transformer import shardings, unbox
from r1jax.sample import Sampler
from r1jax.settings import BadInput

DEVICES = jax.devices()


def mesh_of(devices, *shape):
    return sharding.make_mesh(MeshConfig(*shape), devices)


@pytest.mark.parametrize(
    ('source', 'target'),
    [
        (mesh_of(DEVICES, 1, 8, 1), mesh_of(DEVICES, 4, 1, 2)),  # the same devices
        (mesh_of(DEVICES, 1, 4, 2), mesh_of(DEVICES[::-1], 2, 2, 2)),  # in another order
        (mesh_of(DEVICES[:4], 1, 4, 1), mesh_of(DEVICES[4:], 2, 1, 2)),  # others, as many
        (mesh_of(DEVICES[:2], 1, 2, 1), mesh_of(DEVICES[2:6], 2, 1, 2)),  # more
        (mesh_of(DEVICES[:4], 1, 4, 1), mesh_of(DEVICES[6:], 1, 1, 2)),  # fewer
        (mesh_of(DEVICES[:1], 1, 1, 1), mesh_of(DEVICES[1:2], 1, 1, 1)),
    ],
)
def test_arrays_change_meshes_without_passing_the_host(source, target):
    values = {
        'both': np.arange(64, dtype=np.float32).reshape(8, 8),
        'one': np.arange(24, dtype=np.int8).reshape(8, 3),
        'none': np.arange(5, dtype=np.float32),
    }
    specs = {'both': ('embed', 'heads'), 'one': (None, None), 'none': (None,)}
    tree = {name: jax.device_put(a, sharding.named(source, *specs[name])) for name, a in values.items()}
    with jax.set_mesh(source), jax.transfer_guard('disallow'):
        got = resharding.moved(tree, {name: sharding.named(target, *axes) for name, axes in specs.items()})
        jax.block_until_ready(got)
    for name, a in got.items():
        assert a.sharding == sharding.named(target, *specs[name]), name
        np.testing.assert_array_equal(a, values[name])


def test_no_array_is_read_by_the_host_on_its_way(monkeypatch):
    """The guard above does not see CPUs read themselves: `device_put` of an array that is cut otherwise reads `_value`."""
    source, target = mesh_of(DEVICES, 1, 8, 1), mesh_of(DEVICES, 4, 1, 2)
    array = jax.device_put(np.ones((8, 8), np.float32), sharding.named(source, 'embed', 'heads'))
    read = []
    kind, value = type(array), type(array)._value
    monkeypatch.setattr(kind, '_value', property(lambda a: read.append(a) or value.fget(a)))
    where = sharding.named(target, 'embed', 'heads')
    jax.block_until_ready(jax.device_put(array, where))
    assert read  # what a plain `device_put` does
    read.clear()
    jax.block_until_ready(resharding.moved({'a': array}, {'a': where}))
    few = mesh_of(DEVICES[:4], 1, 4, 1)
    array = jax.device_put(np.ones((8, 8), np.float32), sharding.named(few, 'embed', 'heads'))
    read.clear()
    for shape, devices in [((2, 1, 2), DEVICES[4:]), ((1, 1, 2), DEVICES[6:])]:
        where = sharding.named(mesh_of(devices, *shape), 'embed', 'heads')
        jax.block_until_ready(resharding.moved({'a': array}, {'a': where}))
    assert not read


def test_meshes_that_share_some_devices_are_refused():
    tree = [jax.device_put(np.ones(4), sharding.named(mesh_of(DEVICES[:4], 1, 4, 1), 'embed'))]
    with pytest.raises(ValueError, match='4 devices cannot hand arrays to 4, of which they share 2'):
        resharding.moved(tree, [sharding.named(mesh_of(DEVICES[2:6], 1, 4, 1), 'embed')])
    with pytest.raises(ValueError, match='4 devices cannot hand arrays to 3, of which they share 0'):
        resharding.moved(tree, [sharding.named(mesh_of(DEVICES[4:7], 3, 1, 1), 'embed')])
    with pytest.raises(ValueError, match='lays out 4 devices, and the mesh that it takes them from has 8'):
        resharding.relaid(mesh_of(DEVICES, 1, 8, 1), MeshConfig(data=4))


@pytest.mark.parametrize('base', ['float32', 'int8'])
def test_weights_have_a_layout_in_whatever_form_they_are_held(base):
    cfg, (train, sample) = LoRA(4, 8.0, base=base), (mesh_of(DEVICES, 2, 4, 1), mesh_of(DEVICES, 4, 1, 2))
    params = lora.frozen(params_of(), cfg)
    added = unbox(lora.init_boxed(MODEL, cfg, jax.random.key(1)))
    whole = lora.attach(params, added, cfg)
    there = jax.device_put(whole, layout.shardings(whole, MODEL, train))
    with jax.set_mesh(train):
        here = resharding.moved(there, layout.shardings(there, MODEL, sample))
    assert jax.tree.structure(here) == jax.tree.structure(whole)
    for a, b in zip(jax.tree.leaves(here), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(a, b)
    q = here['stack_0']['q']
    assert q.a.sharding.is_fully_replicated and q.b.sharding.spec[2] == 'tensor'
    if base == 'int8':
        assert q.weight.values.sharding.spec[2] == q.weight.scale.sharding.spec[2] == 'tensor'
        assert there['stack_0']['q'].weight.scale.sharding.is_fully_replicated  # its inputs are split, it has none
    plain = layout.shardings(params_of(), MODEL, train)
    assert plain == shardings(MODEL, train)


@pytest.mark.parametrize('in_turn', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_rows_are_those_of_one_device(in_turn):
    """As one batch, and in slots that rows take in turn; the mesh is set while rows are computed and not where they are used."""
    ids, prompts = questions(4)
    train, params = mesh_of(DEVICES, 1, 8, 1), params_of()
    want = {row.index: row for row in _sampler(None).stream(params, ids, prompts, 4, 8, 1.0)}
    sampler = dataclasses.replace(_sampler(MeshConfig(data=4, tensor=2)), fixed=in_turn)
    params, got = jax.device_put(params, shardings(MODEL, train)), {}
    with jax.set_mesh(train):
        for row in sampler.stream(params, ids, prompts, 4, 8, 1.0):
            assert jax.sharding.get_mesh() == train
            got[row.index] = row
    assert not in_turn or sampler.engine.devices == 4
    assert want.keys() == got.keys() == set(range(16))
    for b, row in got.items():
        assert row.tokens.tolist() == want[b].tokens.tolist()
        np.testing.assert_allclose(row.logp, want[b].logp, atol=1e-5)


def _sampler(layout):
    cfg = SampleConfig(8, max_prompt=16, slots=16, buckets=1, mesh=layout)
    return Sampler.create(MODEL, cfg, 4, toy.Letters(), seed=3)


def sampled(**change):
    """The toy recipe on a mesh of fsdp 4, its second stage's sampling changed."""
    recipe = toy.recipe()
    zero = recipe.stages[1]
    source = dataclasses.replace(zero.source, sample=dataclasses.replace(zero.source.sample, **change))
    stages = recipe.stages[0], dataclasses.replace(zero, source=source)
    return dataclasses.replace(recipe, stages=stages, mesh=MeshConfig(fsdp=4))


@pytest.mark.parametrize(
    ('mesh', 'message'),
    [
        (MeshConfig(data=8), 'zero.source.sample.mesh has 8 devices, and the stage is on 4, which it must lay out'),
        (MeshConfig(tensor=4), 'zero.source.sample.mesh: model.kv_heads=2 is split over mesh.tensor=4'),
        (MeshConfig(data=0), 'zero.source.sample.mesh.data=0 must be in [1, inf)'),
    ],
)
def test_layouts_that_cannot_be_are_refused(mesh, message):
    validate(sampled(mesh=MeshConfig(data=2, tensor=2)), 8)
    with pytest.raises(BadInput) as error:
        validate(sampled(mesh=mesh), 8)
    assert str(error.value).startswith(message)


def test_slots_are_shared_by_the_devices_that_decode():
    recipe = sampled(mesh=MeshConfig(data=4), slots=12)
    with pytest.raises(
        BadInput, match=r'source\.sample\.slots=12 must be a multiple of samples × mesh data×fsdp = 4×4'
    ):
        validate(recipe, 8)
    validate(sampled(mesh=MeshConfig(data=2, tensor=2), slots=8), 8)
