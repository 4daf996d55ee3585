"""The benchmarks measure what they say: the floor's arithmetic, and a step that samples the lengths that were asked for."""

import dataclasses
import gzip
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'benchmarks'))

import agreement
import algorithms
import apart
import grpo_step
import long
import partial
import slots
import tpu_compile
import workload
from tiny import MODEL

from r1jax import sharding
from r1jax.checks import validate
from r1jax.config import MLA, MeshConfig, MoE, Rules
from r1jax.plan import hlo
from r1jax.sample.engine import Ran
from r1jax.settings import load_recipe


def test_the_floor_is_the_least_work():
    w = dict(workload.W, layers=1, d=4, heads=1, kv=1, hd=4, ffn=8, vocab=10, questions=1, group=2, prompt=3, new=2)
    assert workload.layer_params(w) == 4 * 4 * 4 + 3 * 4 * 8
    assert workload.total_params(w) == 160 + 8 + 4 + 40
    # forward over 3 prompt and 2·2 response tokens: products, causal attention with 4·4 a pair, the head on responses
    forward = 2 * 160 * 7 + 16 * (1 + 2 + 3) + 2 * 16 * (4 + 5) + 2 * 40 * 4
    floor = workload.floor(w, gflops=1e-9, gbs=1e9)
    assert floor['score'] == pytest.approx(forward) and floor['train'] == pytest.approx(3 * forward)
    # the prompt once, its last token's head once; then one more token a sample
    assert floor['gen'] == pytest.approx(2 * 160 * 3 + 16 * 6 + 2 * 40 + 2 * 2 * 200 + 2 * 16 * 4)
    assert floor['step'] == pytest.approx(floor['gen'] + floor['score'] + floor['train'])
    assert workload.floor(w, gflops=1e9, gbs=1e-9)['train'] == pytest.approx(40 * 212)  # bytes: AdamW


@pytest.mark.parametrize(('name', 'mean'), [('W', 128), ('T', 64), ('V', 90.16), ('TV', 45.11)])
def test_lengths_are_those_of_the_workload(name, mean):
    lens = workload.lengths(workload.WORKLOADS[name])
    assert sum(lens) / len(lens) == pytest.approx(mean, abs=0.01)


def test_mixed_requests_have_every_length_of_prompt_and_the_tail_of_v():
    sizes = workload.mixed()
    prompts, new = zip(*sizes, strict=True)
    assert len(sizes) == 256 and (min(prompts), max(prompts)) == (8, 128) and (min(new), max(new)) == (8, 256)
    assert sum(new) / 256 == pytest.approx(90, abs=1) and prompts != tuple(sorted(prompts))


def test_the_figure_of_slots_shows_how_many_there_are_and_how_often_one_is_taken_again():
    ran = [Ran(slots=4, steps=3, tokens=12, admitted=4), Ran(4, 2, 7, 1), Ran(2, 5, 6, 0)]
    first, second = slots.lines(ran)
    assert [line.name for line in first] == ['slots', 'rows in them']
    assert [*first[0].x] == [0, 3, 3, 5, 5, 10] and [*first[0].y] == [4, 4, 4, 4, 2, 2]  # both ends of each chunk
    assert [*first[1].y] == [4, 4, 3.5, 3.5, 1.2, 1.2] and [*second[0].y] == [0, 0, 1, 1, 1, 1]
    assert slots.drawn(ran).count('<polyline') == 3


@pytest.mark.slow
def test_a_step_samples_the_given_lengths_and_its_logprobs_are_the_full_pass_s():
    w = dict(workload.TV, layers=1, questions=2, group=4, prompt=5, new=16)
    step = grpo_step.Step(w, grpo_step.RowConfig(10 + 2 * 16, 2, prompts=10, block=16), buckets=3, dtype='float32')
    seen = step()  # raises where a response has another length
    assert seen['gap'] < 1e-4 and 0 <= seen['padding'] < 1
    assert seen['step'] == pytest.approx(seen['gen'] + seen['score'] + seen['train'])
    assert 1 <= step.decoded()['decoded_per_kept'] < 2


def test_a_program_s_products_and_collectives_are_counted_as_often_as_they_run():
    mesh = jax.make_mesh((2,), ('x',), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    split, whole = jax.sharding.PartitionSpec('x'), jax.sharding.PartitionSpec()

    def layers(weights, x):  # five products of 4 of 8 rows, each gathered
        def layer(x, w):
            return jax.lax.all_gather(jnp.tanh(x @ w)[: x.shape[0] // 2], 'x', tiled=True), None

        return jax.lax.scan(layer, x, weights)[0]

    fn = jax.jit(jax.shard_map(layers, mesh=mesh, in_specs=(whole, split), out_specs=split, check_vma=False))
    text = fn.lower(jnp.ones((5, 16, 16)), jnp.ones((8, 16))).compile().as_text()
    flops, moved = hlo.Program(text).total()
    assert flops == 5 * 2 * 4 * 16 * 16
    assert {kind: n for (kind, _), n in moved.items()} == {'all-gather': 5 * 4 * 4 * 16}


LATENT = dataclasses.replace(
    MODEL, heads=4, kv_heads=4, head_dim=64, mla=MLA(kv_rank=64, q_rank=64, rotary=16, value=48), moe=MoE(8, 3, 64)
)


@pytest.mark.parametrize(
    ('model', 'rules', 'weight'),
    [(MODEL, Rules(), 512 * MODEL.kv_heads * MODEL.head_dim), (LATENT, Rules(latent=('fsdp',)), 64 * 4 * 64)],
    ids=['grouped queries', 'latent attention, experts'],
)
def test_the_decoding_loop_gathers_no_weights(model, rules, weight):
    """What was split for training is gathered once, before the loop. Compiled for a mesh of CPUs; the script does so for TPUs."""
    mesh = sharding.make_mesh(MeshConfig(fsdp=4, tensor=2, rules=rules))
    model = dataclasses.replace(model, width=512)  # so that the smallest weight is larger than what activations move
    with sharding.ruled(rules):
        text = tpu_compile.sample_program(model, mesh, questions=4, samples=2, prompt=6, new=8).as_text()
    _, moved = hlo.Program(text, lambda loop: 1).total()
    inside = {scope: n for (kind, scope), n in moved.items() if kind == 'all-gather' and 'decode/while' in scope}
    before = sum(n for (kind, scope), n in moved.items() if kind == 'all-gather' and 'decode/while' not in scope)
    assert max(inside.values(), default=0) < 4 * weight // 2 < before  # the smallest matrix's part of a device, bytes


def test_what_partial_rollouts_cost_is_read_from_their_metrics(tmp_path):
    lines = [{'stage': 'base', 'step': 1, 'tokens_per_second': 9.0}]
    for step, (drawn, seconds, groups, most) in enumerate([(60, 2.0, 3, 0), (80, 4.0, 1, 2), (90, 3.0, 2, 1)]):
        common = {'stage': 'zero', 'tokens_per_second': 10.0 + step, 'policy/importance_capped': 0.1}
        rollout = {'rollout/drawn': drawn, 'rollout/samples': 4 * groups, 'rollout/tokens': 5.0, 'rollout/carried': 6}
        ages = {'rollout/staleness': most / 4, 'rollout/staleness_max': most}
        lines += [
            {**common, **rollout, **ages, 'time/sample': seconds},
            {**common, **rollout, **ages},
        ]  # two steps a rollout
    (tmp_path / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    seen = partial.costs([tmp_path], 'zero', samples=4)
    assert seen == {
        'sampled_per_s': 30,
        'trained_per_s': 11,
        'step_s': [3.0, 4.0],
        'groups': [2, 1.0],
        'staleness': [0.25, 1, 2],
        'capped': 0.1,
        'carried': 6,
    }
    whole = [
        {k: v for k, v in line.items() if k.split('/')[-1] not in ('drawn', 'carried', 'staleness', 'staleness_max')}
        for line in lines
    ]
    (tmp_path / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, whole)))
    seen = partial.costs([tmp_path], 'zero', samples=4)  # drawn is what was graded: 60, 20 and 40
    assert seen['sampled_per_s'] == round(40 / 3) and 'staleness' not in seen


def test_overlap_is_when_both_groups_compute(tmp_path):
    def event(start, end, device, **args):
        return {
            'ph': 'X',
            'ts': start * 1e6,
            'dur': (end - start) * 1e6,
            'name': 'dot',
            'args': {'device_ordinal': str(device), **args},
        }

    spans = [(0, 2, 1), (1, 3, 2), (5, 6, 0), (2.5, 5.5, 4), (7, 8, 7)]
    events = [event(*span, hlo_op='dot') for span in spans] + [event(0, 9, 5)]  # the last is no operation
    folder = tmp_path / 'plugins' / 'profile' / 'now'
    folder.mkdir(parents=True)
    (folder / 'host.xplane.pb').write_bytes(b'')
    with gzip.open(folder / 'perfetto_trace.json.gz', 'wt') as file:
        json.dump({'traceEvents': [*events, {'ph': 'M', 'name': 'process_name'}]}, file)
    assert apart.overlap(tmp_path) == {'train_s': 4.0, 'sample_s': 4.0, 'both_s': 1.0, 'events': 7}


def test_a_curve_is_the_mean_reward_of_each_quarter(tmp_path):
    lines = [{'stage': 'zero', 'step': i + 1, 'reward/mean': float(i)} for i in range(10)]
    (tmp_path / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    assert apart.curve(tmp_path, 'zero') == [0.5, 3.0, 6.0, 8.5]


def test_settings_agree_where_the_interval_of_their_difference_holds_0():
    def ends(*means):
        return {seed: {'pass@1': mean, 'pass@1_ci': [mean - 0.1, mean + 0.1]} for seed, mean in enumerate(means)}

    near = agreement.compared(ends(0.5, 0.6), ends(0.52, 0.57))
    assert near['agree'] and near['on'] == [[0.5, 0.4, 0.6], [0.6, 0.5, 0.7]]
    mean, low, high = near['difference']  # t with one degree of freedom: 12.706 · 0.025
    assert mean == pytest.approx(0.005) and [low, high] == pytest.approx([0.005 - 0.3177, 0.005 + 0.3177], abs=1e-3)
    assert not agreement.compared(ends(0.5, 0.6), ends(0.3, 0.4001))['agree']


@pytest.mark.slow
def test_long_rows_take_turns_in_a_pool_that_holds_few_of_them():
    found = long.measure(tokens=2048, slots=3, pool=3072, page=64)
    assert found['drawn'] == found['tokens'] == sum(int(2048 * share) - long.PROMPT for share in long.SHARES)
    assert found['left'] > 0 and found['need_mb'] < 3 * found['slots_mb'] / 4  # of 6144 tokens, in a pool of 3072
    assert 1 < found['ratio'] < 1.2


def test_a_line_is_fitted_to_medians():
    chunks = [(float(n), 2e-3 + 5e-8 * n + (1e-3 if n % 9 == 0 else 0)) for n in range(240)]  # one in nine is slow
    found = long.line(chunks)
    assert found['base_us'] == pytest.approx(2000, rel=1e-2) and found['each_ns'] == pytest.approx(50, rel=0.1)
    assert found['r2'] > 0.95 and len(found['points']) == 12
    assert long.drawn(found).count('<polyline') == 2  # as measured and as fitted, neither smoothed


def test_each_algorithm_of_the_curves_can_run():
    recipe = load_recipe(pathlib.Path(__file__).parents[1] / 'experiments' / 'tiny_zero.py')
    stages = algorithms.lasts(recipe.stages[-1])
    assert 'DPO' in stages and len(stages) > 5
    for last in stages.values():
        validate(dataclasses.replace(recipe, stages=(*recipe.stages[:-1], last)), 1)
