"""Reward models as stages: pairs and labels become batches that any cut leaves alone; a stage that learns them, measured on held-out
ones; its scores as the reward of a later stage.
"""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
import smallest
from tiny import MODEL, params_of

from r1jax import sharding
from r1jax.checks import validate
from r1jax.config import (
    GRPO,
    NLL,
    Agreement,
    BradleyTerry,
    Eval,
    LoRA,
    MeshConfig,
    OnPolicy,
    OptimConfig,
    Part,
    Phase,
    Pointwise,
    Recipe,
    RowConfig,
    SampleConfig,
    Stage,
    Stored,
)
from r1jax.data.template import exchange, r1_zero
from r1jax.data.tiny import TinySums, TinyTokenizer
from r1jax.nn import heads
from r1jax.nn.scorer import Scorer
from r1jax.rewards.model import FromStage, Helpfulness, Safety
from r1jax.rewards.model import summary as summary_of
from r1jax.rl import loss as losses
from r1jax.rl.batch import pack
from r1jax.rl.judged import labelled_items, linked, pair_items, pair_size
from r1jax.settings import BadInput
from r1jax.train import checkpoint, restore
from r1jax.train import step as compiled
from r1jax.train.log import Log, read
from r1jax.train.stage import run
from r1jax.train.start import Lineage
from r1jax.types import Labelled, Pair

# --- batches


def random_pairs(count=7, seed=0):
    rng = np.random.default_rng(seed)
    questions = [rng.integers(3, 61, rng.integers(1, 9)).tolist() for _ in range(count)]
    return [tuple(q + rng.integers(3, 61, rng.integers(1, 12)).tolist() + [1] for _ in 'ab') for q in questions]


def test_a_pair_shares_its_question_and_knows_both_ends():
    q, a, b = [5, 6, 7], [8, 9, 1], [8, 1]
    items = pair_items([(q + a, q + b), (q + b, q + a)])
    assert [i.prompt.tolist() for i in items] == [[5, 6, 7, 8]] * 4
    assert [i.response.tolist() for i in items] == [[9, 1], [1], [1], [9, 1]]
    assert pair_size((q + a, q + b)) == 7
    batch, _, places = pack(items, 8, 1, 2)
    linked(batch, items, places)
    weighted = np.argwhere(batch.weight)
    assert len(weighted) == 2 and batch.weight.sum() == 1
    for m, r, t in weighted:
        other = batch.source[m, r, t]
        assert batch.tokens[m, r, t] == batch.tokens[m, r, other] == 1
        assert batch.segment[m, r, t] != batch.segment[m, r, other]
        assert batch.parent[m, r, t] == batch.parent[m, r, other]


@pytest.mark.parametrize(
    ('pair', 'message'),
    [(([5, 6, 1], [5, 6, 1]), 'not the same'), (([5, 6, 1], [7, 6, 1]), 'not answers to different questions')],
)
def test_what_is_no_pair_is_refused(pair, message):
    with pytest.raises(ValueError, match=message):
        pair_items([pair])


@functools.partial(jax.jit, static_argnums=0)
def _gradients(loss, params, batch, count):
    return compiled.gradients(MODEL, loss, params, batch, count, 1.0, True)


def gradients(loss, items, length=64, rows=4, mesh=(1, 1, 1)):
    batch, count, places = pack(items, length, rows, len(items))
    if isinstance(loss, BradleyTerry):
        batch = linked(batch, items, places)
    mesh = sharding.make_mesh(MeshConfig(*mesh))
    with jax.set_mesh(mesh):
        params = compiled.with_value_head(MODEL, params_of(), jax.random.key(1), mesh)
        return jax.device_get(_gradients(loss, params, compiled.place(batch, mesh), np.int32(count)))


@pytest.mark.parametrize('loss', [BradleyTerry(), Pointwise()], ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize('mesh', [(1, 1, 1), pytest.param((2, 2, 2), marks=pytest.mark.slow)])
def test_any_cut_gives_the_loss_of_the_scorer_s_scores(loss, mesh):
    pairs = random_pairs()
    score = Scorer.create(MODEL, heads.with_value_head(params_of(), jax.random.key(1)))
    if isinstance(loss, BradleyTerry):
        items = pair_items(pairs)
        want, metrics = losses.bradley_terry(*(score([pair[k] for pair in pairs]) for k in (0, 1)))
    else:
        labelled = [(a, float(i % 2)) for i, (a, _) in enumerate(pairs)]
        items = labelled_items(labelled)
        want, metrics = losses.pointwise(score([ids for ids, _ in labelled]), np.array([y for _, y in labelled]))
    one, cut = gradients(loss, items), gradients(loss, items, 36, 4, mesh)
    for value, (sums, tops), grads in ((g[0], g[1:3], g[3]) for g in (one, cut)):
        assert value == pytest.approx(float(want), rel=1e-5)
        assert not tops and sums['weighted'].keys() == {'score/accuracy', 'score/margin'}
        for name, x in sums['weighted'].items():
            assert x == pytest.approx(float(metrics[name.removeprefix('score/')]), rel=1e-4)
        for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(grads), jax.tree.leaves(one[3]), strict=True):
            # a bias common to both answers of a pair has no gradient: only rounding is there
            assert np.linalg.norm(x - y) <= max(2e-5 * np.linalg.norm(y), 1e-6), path
    assert np.linalg.norm(one[3]['value']) > 0 and 'unembed' not in one[3]


# --- stages

ROWS = RowConfig(length=64, per_microbatch=8)


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Answers to sums, of which the better one ends politely; seeded."""

    size: int = 64
    seed: int = 0
    wrong: str = ''  # what is wrong with them

    def load(self):
        if self.wrong == 'labels':
            return Labels(self.size).load()
        sums = TinySums(size=self.size, terms=(2, 3), seed=self.seed).load()
        good, bad = ' <answer> {} </answer>', ' {}'
        long = ' ' + '3' * 80 if self.wrong == 'long' else ''
        good = bad if self.wrong == 'same' else good
        return [Pair(p, good.format(p.answer) + long, bad.format(p.answer)) for p in sums]


@dataclasses.dataclass(frozen=True)
class Labels:
    size: int = 64
    seed: int = 0
    unsafe: float = 0.0

    def load(self):
        pairs = Pairs(self.size, self.seed).load()
        return [
            Labelled(p.problem, p.chosen, 1.0) if i % 2 else Labelled(p.problem, p.rejected, self.unsafe)
            for i, p in enumerate(pairs)
        ]


@dataclasses.dataclass(frozen=True)
class Requests:
    def load(self):
        return [dataclasses.replace(p, kind='general') for p in TinySums(size=16, terms=(2, 3)).load()]


def judge(name, loss, data, held, start='init', **change):
    stage = Stage(
        name,
        0,
        Stored(data, batch=16, epochs=2),
        loss,
        OptimConfig(5e-3),
        ROWS,
        start=start,
        evals=(Agreement('held_out', held, every=5),),
        checkpoint_every=3,
    )
    return dataclasses.replace(stage, **change)


def rewarded(**change):
    parts = tuple(
        Part(name, FromStage(f'{name}_rm', reads, settings), kinds=('general',))
        for name, reads, settings in (('helpful', Helpfulness, (('missing', -3.0),)), ('safe', Safety, ()))
    )
    source = OnPolicy(Requests(), SampleConfig(max_tokens=12, max_prompt=12, slots=16, buckets=1), parts[1:], 4, 4)
    stage = Stage(
        'rl',
        3,
        source,
        GRPO(beta=0.0),
        OptimConfig(1e-3),
        ROWS,
        phases=(Phase(1, rewards=parts),),
        evals=(Eval('judged', Requests(), parts, samples=4),),
        checkpoint_every=1,
    )
    return dataclasses.replace(stage, **change)


SUMS = Eval('sums', Requests(), smallest.REWARDS, samples=1)


def recipe(*stages):
    stages = stages or (
        judge('helpful_rm', BradleyTerry(), Pairs(), Pairs(24, seed=1)),
        judge('safe_rm', Pointwise(), Labels(), Labels(24, seed=1), start='helpful_rm'),
        rewarded(),
    )
    return Recipe('judged', stages, r1_zero, smallest.MODEL, TinyTokenizer())


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('whole')
    run(recipe(), str(workdir))
    return workdir


def lines(workdir, stage=None):
    found = list(read(str(workdir / 'metrics.jsonl')))
    drop = ('seconds', 'tokens_per_second')
    found = [{k: v for k, v in m.items() if k not in drop and not k.startswith('time/')} for m in found]
    return [m for m in found if stage in (None, m['stage'])]


def test_reward_models_learn_what_was_preferred_and_say_how_sure_they_are(whole):
    summary = json.loads((whole / 'summary.json').read_text())['stages']
    for name, count in (('helpful_rm', 'pairs'), ('safe_rm', 'labels')):
        before, after = summary[name]['before'], summary[name]['after']
        assert summary[name]['steps'] == 8 and after[count] == 24 and after['accuracy'] == 1
        assert after['accuracy_ci'] == [1, 1] and after['calibration_error'] < 0.2 and after['loss'] < before['loss']
        assert sum(row['count'] for row in after['reliability']) == 24
        steps = lines(whole, name)
        assert steps[-1]['score/accuracy'] == pytest.approx(1) and steps[-1]['score/margin'] > 1
        assert steps[-1]['loss'] < steps[0]['loss'] and 'policy/entropy' not in steps[0]
        assert steps[4]['eval/held_out/accuracy'] >= 0.5 and 'eval/held_out/accuracy' not in steps[3]
    assert set(summary['helpful_rm']['after']['by_length']) == {'chosen longer'}
    assert set(summary['safe_rm']['after']['by_label']) == {'safe', 'unsafe'}
    # the second began as the first: with its head
    assert summary['safe_rm']['before']['accuracy'] > 0.9 and summary['helpful_rm']['before']['loss'] > 0.3


def test_rewards_of_a_stage_are_its_scores(whole):
    samples = [s for s in read(str(whole / 'samples.jsonl')) if s['stage'] == 'rl']
    workdir, job = recipe(), recipe().stages[2]
    mesh = sharding.make_mesh(MeshConfig())
    tokenizer = TinyTokenizer().load(str(whole))
    with jax.set_mesh(mesh):
        lineage = Lineage.of(workdir, str(whole), mesh, None)
        scores = {n: Scorer.create(smallest.MODEL, lineage.end(f'{n}_rm'), mesh) for n in ('helpful', 'safe')}
    problems = {p.id: p for p in Requests().load()}
    assert {tuple(s['parts']) for s in samples if s.get('eval')} == {('helpful', 'safe')}
    assert [{tuple(s['parts']) for s in samples if s['step'] == k and not s.get('eval')} for k in (1, 2)] == [
        {('safe',)},
        {('helpful', 'safe')},
    ]
    for s in samples:
        problem = problems[s['question']]
        for name, text in (('safe', s['completion']), ('helpful', summary_of(s['completion']))):
            if name not in s['parts']:
                continue
            ids = exchange(problem, text, tokenizer)
            want = float(scores[name]([ids])[0])
            if name == 'helpful' and not text:
                want = -3.0
            elif np.isnan(want):  # longer than the model reads: not graded
                assert len(ids) > smallest.MODEL.context and s['parts'][name] is None and s['outcome'] == 'grader_error'
                continue
            want = 1 / (1 + np.exp(-want)) if name == 'safe' else want
            assert s['parts'][name] == pytest.approx(want, rel=1e-5, abs=1e-6)
    assert job.source.rewards[0].fn.stages == ('safe_rm',)
    with pytest.raises(RuntimeError, match='the model of stage safe_rm was to take this place'):
        job.source.rewards[0].fn.many([problem], [])


class Killed(BaseException):
    pass


@pytest.mark.slow
def test_a_run_killed_twice_ends_with_the_same_bits(whole, tmp_path, monkeypatch):
    real, seen = Log.metrics, []

    def metrics(self, *args):
        real(self, *args)
        seen.append(args)
        if len(seen) in (5, 20):  # in the first reward model's stage; in the one that is rewarded
            raise Killed

    with monkeypatch.context() as m:
        m.setattr(Log, 'metrics', metrics)
        for name in ('helpful_rm', 'rl'):
            with pytest.raises(Killed):
                run(recipe(), str(tmp_path))
            assert seen[-1][0] == name
    run(recipe(), str(tmp_path))
    assert lines(tmp_path) == lines(whole)
    assert list(read(str(tmp_path / 'samples.jsonl'))) == list(read(str(whole / 'samples.jsonl')))
    for name in ('helpful_rm', 'safe_rm', 'rl'):
        one, other = (checkpoint.read_done(str(d), name) for d in (tmp_path, whole))
        assert one['outputs'] == other['outputs'] and dict(one['entry'], seconds=0) == dict(other['entry'], seconds=0)


def test_a_reward_model_is_no_policy(whole):
    with pytest.raises(BadInput, match='stage safe_rm is a reward model, which gives scores and says no words'):
        restore.restore(f'{whole}:safe_rm')
    assert 'stage rl' in restore.restore(str(whole)).what


@pytest.mark.parametrize(
    ('stages', 'message'),
    [
        ((rewarded(),), "source, rewards or loss read what 'safe_rm' ends with, which is no stage"),
        (
            (judge('helpful_rm', BradleyTerry(), Pairs(), Pairs()), judge('safe_rm', NLL(), Pairs(), Pairs(), evals=()), rewarded()),
            'reward safe takes the scores of safe_rm, whose loss=NLL must be Pointwise',
        ),
        (
            (judge('a', BradleyTerry(), Pairs(), Pairs()), judge('b', NLL(), Pairs(), Pairs(), start='a', evals=())),
            "b.start='a' is a reward model, which says no words",
        ),
        ((judge('a', BradleyTerry(), Pairs(), Pairs(), lora=LoRA(2, 4.0)),), 'a.lora: with loss=BradleyTerry all'),
        ((judge('a', NLL(), Pairs(), Pairs()),), 'a.evals.held_out must be Eval with loss=NLL'),
        ((judge('a', BradleyTerry(), Pairs(), Pairs(), evals=(SUMS,)),), 'a.evals.sums must be Agreement with'),
    ],
    ids=['absent', 'no judge', 'start', 'lora', 'agreement', 'eval'],
)  # fmt: skip
def test_recipes_that_mix_up_reward_models_and_policies_are_refused(stages, message):
    with pytest.raises(BadInput, match=message):
        validate(recipe(*stages), 1)


@pytest.mark.parametrize(
    ('data', 'held', 'message'),
    [
        (Labels(), Pairs(), r'stage a: .* has Labelled, and BradleyTerry learns from Pair'),
        (Pairs(), Labels(), r'evaluation held_out of stage a: .* has Labelled'),
        (Pairs(wrong='same'), Pairs(), 'stage a: pair 0: a pair is of two answers to one question, not the same'),
        (Pairs(wrong='long'), Pairs(), r'stage a: pair 0 has \d+ tokens, rows.length=64'),
        (Pairs(), Pairs(wrong='long'), r'held_out of stage a: an answer of pair 0 has \d+ tokens, model.context=64'),
    ],
    ids=['kind', 'held kind', 'same', 'long', 'held long'],
)
def test_what_cannot_be_judged_is_refused_before_training(tmp_path, data, held, message):
    with pytest.raises(BadInput, match=message):
        run(recipe(judge('a', BradleyTerry(), data, held)), str(tmp_path))
    assert not (tmp_path / 'metrics.jsonl').exists()


def test_a_label_is_between_safe_and_unsafe(tmp_path):
    with pytest.raises(BadInput, match=r'the label of answer 0 is 2\.0, and 1 is safe, 0 unsafe'):
        run(recipe(judge('a', Pointwise(), Labels(unsafe=2.0), Labels())), str(tmp_path))


def test_a_setting_that_no_reward_has_is_refused():
    with pytest.raises(ValueError, match="Safety has no setting 'missing': it has none"):
        FromStage('a', Safety, (('missing', 0.0),))
