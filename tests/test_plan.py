"""`r1jax plan`: what it says of bytes, operations and collectives is what was compiled, and what it says of a topology is arithmetic."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smallest
from tiny import MODEL

from r1jax import plan, presets, sharding
from r1jax.cli import main
from r1jax.config import GRPO, MeshConfig, OnPolicy, OptimConfig, RowConfig, SampleConfig, Split, Stage
from r1jax.plan import chips, hlo, measure, memory, programs, search, table, work
from r1jax.plan.program import Setting
from r1jax.settings import BadInput

GPUS = chips.parse('h100:4')


@pytest.fixture(scope='module')
def planned():
    """The supervised stage of the smallest recipe on four devices."""
    recipe = smallest.recipe()
    recipe = plan.resolved(dataclasses.replace(recipe, mesh=MeshConfig(fsdp=2, tensor=2)))
    return plan.of(recipe, GPUS, ['base'])


def test_shapes_and_compiler_agree(planned):
    stage = planned.stages[0]
    assert [m.name for m in stage.programs] == ['init', 'optimizer', 'update'] and not planned.disagree
    update = stage.programs[-1]
    assert update.predicted > 0 and update.off < plan.AGREE
    mesh = sharding.abstract_mesh(stage.mesh)
    state = programs.compiled.described(smallest.MODEL, programs.optim.transform(OptimConfig(1.0)), mesh)
    assert update.bytes['parameters'] == update.bytes['gradients'] == memory.on_chip(state.params)
    assert update.bytes['optimizer'] == memory.on_chip(state.opt_state)
    assert update.total == sum(update.bytes.values()) == stage.peak.total and planned.fits


@pytest.mark.parametrize('change', [{'sample.mesh': MeshConfig(data=4)}, {'split': Split(MeshConfig(data=4), 0)}])
def test_other_layouts_for_sampling_are_refused(change):
    recipe = dataclasses.replace(plan.resolved(smallest.recipe()), mesh=MeshConfig(fsdp=4))
    base, zero = recipe.stages
    source = dataclasses.replace(zero.source, split=change.get('split'))
    source = dataclasses.replace(source, sample=dataclasses.replace(source.sample, mesh=change.get('sample.mesh')))
    recipe = dataclasses.replace(recipe, stages=(base, dataclasses.replace(zero, source=source)))
    with pytest.raises(
        BadInput, match=r'zero\.source\.\w+(\.mesh)? has another layout than the stage, and a plan has one: --set'
    ):
        plan.of(recipe, chips.parse('h100:4' if 'sample.mesh' in change else 'h100:8'), ['zero'])


def test_what_a_step_does_is_at_least_what_it_must(planned):
    update = planned.stages[0].programs[-1]
    assert update.useful <= 4 * update.flops  # four devices: none of the products is missing
    assert {c.axes for c in update.collectives} <= {('fsdp',), ('tensor',), ('fsdp', 'tensor')}
    assert any(c.axes == ('fsdp',) for c in update.collectives) and update.seconds > 0 and not update.notes


def test_the_plan_as_text_and_json(planned):
    said = table.text(planned)
    assert said.startswith('# smallest on h100:4: fits') and 'ESTIMATES' in said and '| update ' in said
    figures = json.loads(json.dumps(table.to_json(planned)))
    assert figures['fits'] and figures['stages']['base']['programs']['update']['bytes']['optimizer'] > 0
    tight = dataclasses.replace(planned.stages[0], memory=planned.stages[0].peak.total - 1)
    small = dataclasses.replace(planned, stages=(tight,))
    assert not small.fits and 'DOES NOT FIT' in table.text(small)


def test_loops_count_as_often_as_they_run():
    stage = plan.resolved(smallest.recipe()).stages[0]
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])

    def flops(batch):
        changed = dataclasses.replace(stage, source=dataclasses.replace(stage.source, batch=batch))
        with jax.set_mesh(mesh):
            setting = Setting(changed, mesh, {})
            program = next(p for p in programs.of_stage(setting) if p.name == 'update')
            text = program.fn.lower(*program.args).compile().as_text()
        assert setting.work.microbatches == batch / 8
        return hlo.Program(text, program.trips).operations()

    assert flops(32) == pytest.approx(2 * flops(16), rel=0.01)


def test_devices_of_a_collective_are_those_that_its_attributes_name():
    assert hlo.members('replica_groups={{0,2},{1,3}}, x') == ((0, 2),)
    assert hlo.members('replica_groups=[2,4]<=[8]') == ((0, 1, 2, 3),)
    assert hlo.members('replica_groups=[4,2]<=[2,4]T(1,0)') == ((0, 4),)
    assert hlo.members("replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={1}") == ((0, 1, 2, 3),)
    assert hlo.members("replica_groups=mesh['a'=2,'b'=4] {'a'}") == ((0, 4),)
    assert hlo.members("replica_groups=mesh['a'=2,'b'=4] {'b':(2)2}") == ((0, 1),)
    assert hlo.members("replica_groups=mesh['a'=2,'b'=4] {'b':(1)2}") == ((0, 2),)
    assert hlo.members('source_target_pairs={{0,1},{1,0}}') == ((0, 1), (1, 0)) and hlo.members('') == ()
    mesh = sharding.make_mesh(MeshConfig(fsdp=2, tensor=4), jax.devices())
    assert measure.axes_of(((0, 4),), mesh) == ('fsdp',) and measure.axes_of(((0, 1), (1, 0)), mesh) == ('tensor',)
    assert measure.axes_of(((0, 5),), mesh) == ('fsdp', 'tensor') and measure.axes_of((), mesh) == ('fsdp', 'tensor')


def test_bytes_of_memory_are_those_of_what_is_picked_and_not_of_the_whole():
    def step(table, x):
        def body(i, x):
            return jnp.tanh(x @ jax.lax.dynamic_index_in_dim(table, i, 0, keepdims=False))

        return jax.lax.fori_loop(0, 50, body, x)

    text = jax.jit(step).lower(jnp.ones((50, 64, 64)), jnp.ones((8, 64))).compile().as_text()
    passed = hlo.Program(text).traffic()
    table = 4 * 50 * 64 * 64
    assert table < passed < 10 * table  # read once in all; read whole by each step it would be 50 tables


def test_a_topology_is_read_or_refused():
    assert chips.parse('v5p:4x4x8').chips == 128 and chips.parse('2*v5e:4x4').chips == 32
    assert chips.parse('h100:16').estimated and not chips.parse('v6e:2x2').estimated
    for text, why in (
        ('v5p', 'no topology'),
        ('v5p:4x4', 'v5p:2x2x1'),
        ('v9z:2x2', 'no chip'),
        ('h100:2x2', 'h100:16'),
    ):
        with pytest.raises(BadInput, match=why):
            chips.parse(text)


class _Torus:
    """Devices of a torus, as libtpu describes them."""

    def __init__(self, sides):
        self.axis_names = ('fsdp', 'tensor')
        places = [np.array(at) for at in np.ndindex(*sides)]
        one = np.empty(len(places), object)
        one[:] = [type('Device', (), {'coords': tuple(map(int, at)), 'slice_index': 0})() for at in places]
        self.devices = one.reshape(sides[0] * sides[1], sides[2])


def test_links_along_an_axis_are_those_of_the_torus():
    top = chips.parse('v5p:2x4x4')
    mesh, link = _Torus((2, 4, 4)), 100e9
    assert chips.pace(top, mesh, ('tensor',)) == 2 * link  # a ring of four
    assert chips.pace(top, mesh, ('fsdp',)) == 3 * link  # another, and two neighbours
    eight = sharding.make_mesh(MeshConfig(fsdp=2, tensor=4), jax.devices())
    assert chips.pace(chips.parse('h100:8'), eight, ('fsdp', 'tensor')) == 450e9  # one node


def test_parameters_are_those_that_were_published():
    whole, active = work.parameters(presets.named('DeepSeek-V3'))
    assert whole == pytest.approx(671e9, rel=0.003) and active == pytest.approx(37e9, rel=0.03)
    assert work.parameters(presets.named('Qwen2.5-7B'))[0] == pytest.approx(7.6e9 - 152_064 * 3584, rel=0.01)


def test_work_between_two_rollouts():
    rows = RowConfig(length=20 + 3 * 30, per_microbatch=2, prompts=20, block=30)
    source = OnPolicy(None, SampleConfig(30, 20, slots=8), (), questions=6, samples=4, minibatches=2, inner_epochs=3)
    stage = Stage('zero', 12, source, GRPO(beta=0.1, importance_cap=2.0), OptimConfig(1.0), rows, model=MODEL)
    w = work.of(stage)
    assert (w.updates, w.passes, w.prompts, w.tokens, w.steps) == (6, 4, 6, 720, 12)
    assert (
        w.microbatches == 2 and work.of(stage, mean=10).microbatches == 1
    )  # 12 of 30 in blocks of 30; of 10, three a block
    assert work.of(stage, mean=10).tokens == 240 and work.of(stage, mean=99).tokens == 720


def test_a_search_weighs_every_mesh_and_its_bytes_are_the_state_s():
    recipe = plan.resolved(smallest.recipe())
    stage = recipe.stages[0]
    found = list(search.candidates(recipe, stage, chips.parse('h100:8')))
    sizes = {tuple(getattr(c.stage.mesh, a) for a in ('fsdp', 'tensor', 'sequence')) for c in found}
    assert (8, 1, 1) in sizes and (4, 2, 1) in sizes and (1, 1, 8) in sizes and (1, 4, 2) not in sizes  # two heads
    assert all(c.stage.mesh.devices == 8 and c.bytes > 0 and c.seconds > 0 for c in found)
    assert all(c.stage.rows.per_microbatch % c.stage.mesh.ways('batch') == 0 for c in found)
    one = next(c for c in found if c.stage.mesh.fsdp == 8)
    state = programs.compiled.described_params(stage.model, sharding.abstract_mesh(one.stage.mesh))
    assert 4 * search._Shapes(stage, {}).weights(one.stage.mesh) == memory.on_chip(state)


def test_bad_input_ends_with_2(capsys):
    path = smallest.__file__
    for args, why in (
        (['--topology', 'v5p'], 'is no topology'),
        (['--topology', 'h100:1', '--stage', 'nought'], 'has no stage nought'),
        (['--topology', 'h100:1', '--tokens', '-1'], 'must be 0 or more'),
        (['--topology', 'h100:1', '--set', 'base.nought=1'], 'has no nought'),
    ):
        assert main(['plan', path, *args]) == 2
        assert why in capsys.readouterr().err


@pytest.mark.slow
def test_sampling_is_planned_from_weights_to_decoding(capsys):
    """On CPUs for GPUs: the programs of the engine, each described with what the ones before it give; adapters beside a frozen base."""
    recipe = plan.resolved(smallest.recipe())
    zero = recipe.stages[1]
    source = dataclasses.replace(zero.source, questions=16)  # more rows than slots
    recipe = dataclasses.replace(recipe, stages=(recipe.stages[0], dataclasses.replace(zero, source=source)))
    made = plan.of(recipe, chips.parse('h100:1'), ['zero'])
    names = [m.name for m in made.stages[0].programs]
    assert names == [
        'init',
        'optimizer',
        'weights',
        'slots',
        'prefill',
        'admit',
        'decode',
        'resize',
        'logprobs',
        'update',
    ]
    assert made.fits and not made.disagree and made.stages[0].tokens_a_day > 0 and made.stages[0].hours > 0
    assert {m.name for m in made.stages[0].programs if m.bytes['cache']} >= {'decode', 'admit', 'resize'}


@pytest.mark.slow
def test_tpus_that_are_not_here_are_compiled_for():
    pytest.importorskip('libtpu')
    half = MeshConfig(expert=64, sequence=2, tensor=4)  # axes that are parts of sides
    assert sharding.make_mesh(half, chips.parse('v5p:8x8x8').devices()).devices.size == 512
    recipe = smallest.recipe()
    model = dataclasses.replace(recipe.model, width=256, heads=2, kv_heads=2, head_dim=128, hidden=512, vocab=512)
    recipe = plan.resolved(dataclasses.replace(recipe, model=model, mesh=MeshConfig(fsdp=4)))
    made = plan.of(recipe, chips.parse('v5e:2x2'), ['base'])
    assert made.fits and made.stages[0].memory == int(15.75 * 2**30) and made.stages[0].programs[-1].flops > 0


@pytest.mark.slow
def test_a_pool_of_pages_is_planned_and_read_by_the_kernel_of_tpus():
    """With it, all rows together have memory for so many tokens; the kernel takes heads of 128."""
    pytest.importorskip('libtpu')
    recipe = smallest.recipe()
    model = dataclasses.replace(recipe.model, width=256, heads=2, kv_heads=2, head_dim=128, hidden=512, vocab=512)
    base, zero = recipe.stages[:2]
    sample = dataclasses.replace(zero.source.sample, pool=256, page=16)
    zero = dataclasses.replace(zero, source=dataclasses.replace(zero.source, sample=sample))
    recipe = plan.resolved(dataclasses.replace(recipe, model=model, stages=(base, zero)))
    made = plan.of(recipe, chips.parse('v5e:1x1'), ['zero'])
    found = {m.name: m for m in made.stages[0].programs}
    assert {'slots', 'admit', 'decode'} <= set(found) and 'resize' not in found and made.fits
    pool = 256 * 2 * model.layers * model.kv_heads * model.head_dim * 4
    assert pool <= found['slots'].bytes['cache'] < pool + 4096
    assert any(note.startswith('kernel') for note in found['decode'].notes)


@pytest.mark.slow
def test_decoding_on_a_tpu_holds_its_cache_once():
    """Stored otherwise, XLA would turn it around before the loop; and rows move to fewer slots with nothing beside."""
    pytest.importorskip('libtpu')
    recipe = smallest.recipe()
    model = dataclasses.replace(
        recipe.model,
        layers=2,
        width=1536,
        heads=12,
        kv_heads=2,
        head_dim=128,
        hidden=2048,
        vocab=512,
        dtype='bfloat16',
        context=4096,
    )
    base, zero = recipe.stages[:2]
    sample = dataclasses.replace(zero.source.sample, max_tokens=1472, max_prompt=64, slots=32, buckets=2)
    source = dataclasses.replace(zero.source, sample=sample, questions=32)
    rows = dataclasses.replace(zero.rows, length=1536, prompts=0, block=0)
    zero = dataclasses.replace(zero, source=source, rows=rows, evals=(), phases=())
    recipe = plan.resolved(dataclasses.replace(recipe, model=model, stages=(base, zero)))
    found = {m.name: m for m in plan.of(recipe, chips.parse('v5e:1x1'), ['zero']).stages[0].programs}
    for name in 'decode', 'resize':
        assert found[name].bytes['temporaries'] < found['slots'].bytes['cache'] / 10, name
