"""Compiled for TPUs that are not here: what talks along which axis is what was meant to. Needs libtpu (pip install r1jax[tpu])."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import sharding
from r1jax.config import GRPO, MeshConfig, ModelConfig, MoE, OptimConfig
from r1jax.train import optim
from r1jax.train import step as compiled
from r1jax.types import Batch

MODEL = ModelConfig(
    vocab=512, layers=2, width=512, heads=4, kv_heads=2, head_dim=128, hidden=512, context=4096, dtype='bfloat16',
    remat='full', moe=MoE(8, 2, 256, dense_layers=1),
)  # fmt: skip


@pytest.fixture
def chips(monkeypatch):
    pytest.importorskip('libtpu')
    from jax.experimental import topologies

    monkeypatch.setenv('TPU_SKIP_MDS_QUERY', '1')
    return topologies.get_topology_desc('v5e:2x4', 'tpu').devices


def update(mesh, model, offload=False, length=1024):
    tx = optim.transform(OptimConfig(1e-6))
    where = compiled.shardings(model, tx, mesh, offload=offload)
    state = compiled.described(model, tx, mesh, offload=offload)
    place = sharding.named(mesh, 'micro', 'batch', 'length')
    kinds = dict.fromkeys(('tokens', 'position', 'segment', 'parent', 'source'), jnp.int32)
    kinds |= dict.fromkeys(('weight', 'advantage', 'sampler_logp', 'old_logp', 'ref_logp'), jnp.float32)
    batch = Batch(
        **{n: jax.ShapeDtypeStruct((1, 8, length), kind, sharding=place) for n, kind in kinds.items()},
        prompts=0,
        block=length,
    )
    scalar = functools.partial(jax.ShapeDtypeStruct, ())
    with jax.set_mesh(mesh):
        step = compiled.build_update(model, GRPO(), tx, where)
        args = batch, scalar(np.int32), scalar(np.float32), scalar(np.float32), scalar(np.bool_)
        return step.lower(state, *args).compile()


@pytest.mark.slow
def test_experts_and_rings_talk_as_they_should(chips):
    """Tokens reach their experts by ragged all-to-alls, keys and values go round, and splash reads each part."""
    program = update(sharding.make_mesh(MeshConfig(expert=4, sequence=2), chips), MODEL)
    text = program.as_text()
    for what in 'ragged-all-to-all', 'collective-permute', 'tpu_custom_call':
        assert what in text, what


@pytest.mark.slow
def test_what_waits_in_the_host_s_memory_leaves_the_chip_s(chips):
    mesh = sharding.make_mesh(MeshConfig(fsdp=8), chips)
    here, there = (update(mesh, MODEL, offload).memory_analysis() for offload in (False, True))
    moments = 2 * 4 * sum(leaf.size for leaf in jax.tree.leaves(compiled.described_params(MODEL, mesh))) / 8
    assert (
        there.host_argument_size_in_bytes == pytest.approx(moments, rel=0.05) and here.host_argument_size_in_bytes == 0
    )
    assert here.argument_size_in_bytes - there.argument_size_in_bytes == pytest.approx(moments, rel=0.05)
