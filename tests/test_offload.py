"""What waits in the host's memory: the same bits as without, where it says it is, through checkpoints; and where no such memory is."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smallest
from test_train import final_params
from tiny import MODEL, full_logits, params_of, random_items

from r1jax import sharding
from r1jax.config import GRPO, MeshConfig, OptimConfig
from r1jax.rl.batch import pack
from r1jax.train import checkpoint, optim, stage
from r1jax.train import step as compiled
from r1jax.train.log import read

MESH = MeshConfig(fsdp=2)


def kinds_of(tree):
    return {a.sharding.memory_kind for a in jax.tree.leaves(tree) if a.ndim}  # counts of steps stay on the devices


@pytest.mark.slow
def test_an_optimizer_in_the_host_s_memory_gives_the_same_bits():
    tx = optim.transform(OptimConfig(1e-2))
    mesh = sharding.make_mesh(MESH)
    batch, used, _ = pack(random_items(np.random.default_rng(0), weight=0.01), 64, 4, 12)
    ends = []
    with jax.set_mesh(mesh):
        for offload in (False, True):
            where = compiled.shardings(MODEL, tx, mesh, offload=offload)
            state = compiled.init_state(MODEL, tx, jax.random.key(0), mesh, params_of(), offload=offload)
            update = compiled.build_update(MODEL, GRPO(beta=0.0), tx, where)
            for _ in range(2):
                args = np.int32(used), np.float32(1e-2), np.float32(1), np.bool_(True)
                state, _ = update(state, compiled.place(batch, mesh), *args)
            kinds = kinds_of(state.opt_state)
            assert kinds == {sharding.HOST if offload else sharding.DEVICE}
            assert kinds_of(state.params) == {sharding.DEVICE}
            ends.append(jax.device_get(state))
    jax.tree.map(np.testing.assert_array_equal, *ends)


def test_a_reference_waits_in_the_host_s_memory_and_comes_back():
    mesh = sharding.make_mesh(MESH)
    with jax.set_mesh(mesh):
        params = compiled.init_params(MODEL, jax.random.key(0), mesh)
        waiting = compiled.to_host(params)
        back = compiled.to_device(waiting)
    assert kinds_of(waiting) == {sharding.HOST}
    assert compiled.to_device(params) is params
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(back), strict=True):
        assert a.sharding == b.sharding
        np.testing.assert_array_equal(a, b)


def test_layers_inputs_wait_in_the_host_s_memory():
    """The inputs of all layers [L,B,T,D] do, between the passes; the gradient is that without."""
    rows, params = jnp.arange(24).reshape(2, 12) % MODEL.vocab, params_of()

    def grad(remat):
        cfg = dataclasses.replace(MODEL, remat=remat)
        fn = jax.grad(lambda p: jnp.sum(jnp.sin(full_logits(cfg, p, rows))))
        return str(jax.make_jaxpr(fn)(params)), jax.jit(fn)(params)

    (full, a), (waiting, b) = grad('full'), grad('offload')
    assert '<host>' not in full and f'<host>[{MODEL.layers},2,12,{MODEL.width}]' in waiting
    for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True):
        assert jnp.linalg.norm(x - y) <= 1e-5 * jnp.linalg.norm(x)


def test_devices_without_the_host_s_memory_are_named():
    device = types.SimpleNamespace(
        platform='abacus', addressable_memories=lambda: [types.SimpleNamespace(kind='beads')]
    )
    mesh = types.SimpleNamespace(devices=np.array([device]))
    with pytest.raises(
        ValueError, match=r"zero.offload=.* needs devices with memory of the kind 'pinned_host'; those of 'abacus'"
    ):
        sharding.refuse_without_host_memory(mesh, "zero.offload=('optimizer',)")


@pytest.mark.slow
def test_a_stage_whose_reference_and_optimizer_wait_goes_on_after_a_stop_with_the_same_bits(tmp_path, monkeypatch):
    recipe = smallest.recipe()
    zero = dataclasses.replace(recipe.stages[1], start='init', evals=(), steps=6)
    plain, offloaded = (
        dataclasses.replace(recipe, stages=(dataclasses.replace(zero, offload=each),))
        for each in ((), ('reference', 'optimizer'))
    )
    stage.run(plain, str(tmp_path / 'plain'))
    kinds = []
    save = checkpoint.Checkpoints.save

    def stopped(self, step, state, reference, *args):
        kinds.append(kinds_of((state.opt_state, reference)))
        save(self, step, state, reference, *args)
        if step == 4 and len(kinds) == 3:
            self._manager.wait_until_finished()
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.Checkpoints, 'save', stopped)
    with pytest.raises(KeyboardInterrupt):
        stage.run(offloaded, str(tmp_path / 'waiting'))
    stage.run(offloaded, str(tmp_path / 'waiting'))
    assert kinds and all(each == {sharding.HOST} for each in kinds)
    losses = [[m['loss'] for m in read(str(tmp_path / name / 'metrics.jsonl'))] for name in ('plain', 'waiting')]
    assert losses[0] == losses[1]
    for a, b in zip(*(final_params(tmp_path / name, recipe, 'zero') for name in ('plain', 'waiting')), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_stages_on_meshes_of_their_own(tmp_path):
    """The second stage starts from weights that the first left on another mesh."""
    recipe = smallest.recipe()
    base, zero = recipe.stages
    base = dataclasses.replace(base, mesh=MeshConfig(expert=2, sequence=2), steps=3)
    zero = dataclasses.replace(zero, mesh=MeshConfig(fsdp=2, tensor=2, sequence=2), steps=2, evals=())
    both = dataclasses.replace(recipe, stages=(base, zero))
    alone = dataclasses.replace(recipe, stages=tuple(dataclasses.replace(each, mesh=None) for each in (base, zero)))
    for name, each in (('both', both), ('alone', alone)):
        stage.run(each, str(tmp_path / name))
    losses = [
        [m['loss'] for m in read(str(tmp_path / n / 'metrics.jsonl')) if m['stage'] == 'base']
        for n in ('both', 'alone')
    ]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    for a, b in zip(*(final_params(tmp_path / n, recipe, 'base') for n in ('both', 'alone')), strict=True):
        assert np.linalg.norm(a - b) <= 1e-2 * np.linalg.norm(b)
