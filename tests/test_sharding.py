"""Meshes and rules: axes, slices, what is split over what, and rules of one's own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from r1jax import sharding
from r1jax.config import AXES, MeshConfig, Rules

EIGHT = MeshConfig(data=1, fsdp=2, tensor=1, expert=2, sequence=2)


def test_axes_stand_in_their_order():
    mesh = sharding.make_mesh(EIGHT)
    assert mesh.axis_names == AXES and dict(mesh.shape) == {
        'data': 1,
        'fsdp': 2,
        'expert': 2,
        'sequence': 2,
        'tensor': 1,
    }
    assert sharding.abstract_mesh(EIGHT).shape == mesh.shape
    assert (
        EIGHT.devices == 8 and EIGHT.ways('batch') == 4 and EIGHT.over('batch', 'length') == dict.fromkeys(AXES[1:4], 2)
    )


@pytest.mark.parametrize(
    ('axes', 'expected'),
    [
        (('batch', 'length', None), P(('fsdp', 'expert'), 'sequence', None)),
        (('embed', 'hidden'), P(('fsdp', 'expert', 'sequence'), None)),  # one device along tensor
        (
            ('expert', 'embed', 'hidden'),
            P('expert', ('fsdp', 'sequence'), None),
        ),  # an axis goes to the first that names it
        ((('batch', 'length'), None), P(('fsdp', 'expert', 'sequence'), None)),
        (('norm',), P(None)),
    ],
)
def test_logical_axes_become_those_of_the_mesh(axes, expected):
    assert sharding.named(sharding.make_mesh(EIGHT), *axes).spec == expected


def test_an_unknown_axis_is_refused():
    with pytest.raises(ValueError, match=r"unknown logical axis 'bach'; known: batch, length"):
        sharding.named(sharding.make_mesh(EIGHT), 'bach')
    with pytest.raises(ValueError, match='unknown logical axis'):
        sharding.constrain(jnp.zeros(2), 'bach')


@dataclasses.dataclass(frozen=True)
class Chip:
    """A device of a topology of several slices, as a mesh asks for it."""

    id: int
    slice_index: int
    process_index: int = 0
    platform: str = 'gpu'
    device_kind: str = 'none'


def chip(number, of):
    return Chip(number, number // of)


def test_the_data_axis_alone_crosses_slices():
    devices = [chip(i, of=4) for i in (5, 0, 6, 1, 7, 2, 4, 3)]
    mesh = sharding.make_mesh(MeshConfig(data=4, fsdp=2, slices=2), devices)
    of = np.vectorize(lambda each: each.slice_index)(mesh.devices)[:, :, 0, 0, 0]
    assert of.tolist() == [[0, 0], [0, 0], [1, 1], [1, 1]]
    part = sharding.make_mesh(MeshConfig(data=2, tensor=2, slices=2), devices)  # of each slice the half
    assert sorted(each.slice_index for each in part.devices.flat) == [0, 0, 1, 1]
    one = sharding.make_mesh(MeshConfig(tensor=4), devices)
    assert {each.slice_index for each in one.devices.flat} == {0}


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (MeshConfig(data=16), 'mesh data=16 needs 16 devices, 8 are here'),
        (MeshConfig(data=3, slices=2), 'mesh.data=3 must be a multiple of mesh.slices=2'),
        (MeshConfig(data=4, slices=4), 'mesh.slices=4 of 1 devices each: here are 2 slices of 4, 4 devices'),
        (MeshConfig(tensor=8), 'needs 8 devices, but a slice has 4: give mesh.slices, of 2 here'),
    ],
)
def test_meshes_that_cannot_be(cfg, message):
    with pytest.raises(ValueError, match=message):
        sharding.make_mesh(cfg, [chip(i, of=4) for i in range(8)])


def test_slices_of_devices_that_know_none_are_cut_in_order():
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=4, slices=2))
    assert mesh.devices.ravel().tolist() == jax.devices()


def test_rules_of_one_s_own_hold_while_they_are_used():
    cfg = dataclasses.replace(EIGHT, rules=Rules(batch=('data',), length=('fsdp', 'sequence'), embed=()))
    traces = []

    @jax.jit
    def place(x):
        traces.append(sharding.ways('length'))
        return sharding.constrain(x, 'batch', 'length')

    x = jnp.arange(64.0).reshape(8, 8)
    with sharding.using(EIGHT):
        assert place(x).sharding.spec == P(('fsdp', 'expert'), 'sequence')
        with sharding.using(cfg):  # the same mesh: what was traced must be forgotten
            assert place(x).sharding.spec == P(None, ('fsdp', 'sequence'))
        assert place(x).sharding.spec == P(('fsdp', 'expert'), 'sequence')
    assert traces == [2, 4, 2]


@pytest.mark.parametrize(
    ('rules', 'message'),
    [
        ({'length': ('data',)}, 'batch and length meet in one array, so they cannot both be split over data'),
        ({'embed': ('fsdp', 'tensor')}, 'embed and vocab meet in one array'),
        ({'kv_heads': ()}, 'a query head reads where it stands'),
    ],
)
def test_rules_that_contradict_each_other(rules, message):
    with pytest.raises(ValueError, match=message):
        Rules(**rules)
