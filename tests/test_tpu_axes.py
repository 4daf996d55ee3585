"""Compiled for TPUs that are not here: what talks along which axis is what was meant to. Needs libtpu (pip install r1jax[tpu])."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import plan, sharding
from r1jax.config import (
    GRPO,
    MeshConfig,
    Mixture,
    ModelConfig,
    MoE,
    OnPolicy,
    OptimConfig,
    RowConfig,
    SampleConfig,
    Stage,
)
from r1jax.plan.measure import measured
from r1jax.plan.program import Setting
from r1jax.plan.sampling import of_sampling
from r1jax.train import optim
from r1jax.train import step as compiled
from r1jax.types import Batch

MODEL = ModelConfig(
    vocab=512, layers=2, width=512, heads=4, kv_heads=2, head_dim=128, hidden=512, context=4096, dtype='bfloat16',
    remat='full', moe=MoE(8, 2, 256, dense_layers=1),
)  # fmt: skip
DENSE = dataclasses.replace(MODEL, moe=None)


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


@pytest.mark.slow
def test_the_cache_is_written_where_it_lies(chips):
    """The decoding loop holds it once, and rows move to fewer slots with nothing beside."""
    sample = SampleConfig(slots=32, max_prompt=64, max_tokens=960, buckets=2)
    source = OnPolicy(Mixture(()), questions=32, samples=16, sample=sample)
    stage = Stage('zero', 1, source, GRPO(), OptimConfig(1e-6), RowConfig(1024, 1), model=DENSE)
    mesh = sharding.make_mesh(MeshConfig(), chips[:1])
    with jax.set_mesh(mesh):
        params = compiled.described_params(DENSE, mesh)
        making = of_sampling(Setting(stage, mesh, {}), {'parameters': params}, params)
        found = {m.name: m for m in measured(making, plan.parse('v5e:1x1'), mesh, {})}
    for name in 'decode', 'resize':
        assert found[name].bytes['temporaries'] < found['slots'].bytes['cache'] / 10, name
