"""The recipes of the whole R1 at full size: the paper's numbers where it gave them, stages in order, texts as the rewards want them."""

import json
import pathlib
import re

import pytest

from r1jax.config import OnPolicy, stages_read
from r1jax.curate.filters import Summarised
from r1jax.data.table import TableExamples
from r1jax.rewards import form, mathematics
from r1jax.rewards.codetext import program
from r1jax.settings import load_recipe
from r1jax.types import Example, Problem, Response

EXPERIMENTS = pathlib.Path(__file__).parents[1] / 'experiments'
STAGES = 'zero cold_start_data cold_start_shots cold_start reasoning_rl rejection sft helpful_rm safety_rm all_scenarios'.split()


@pytest.fixture(scope='module')
def full():
    recipe = load_recipe(EXPERIMENTS / 'r1_671b.py')
    return recipe, {stage.name: stage for stage in recipe.stages}


def test_stages_are_the_papers_and_read_what_they_should(full):
    _, stages = full
    assert list(stages) == STAGES
    assert {name: stage.start for name, stage in stages.items()} == {
        **dict.fromkeys(('zero', 'cold_start_shots', 'cold_start', 'sft'), 'weights/DeepSeek-V3-Base/'),
        'cold_start_data': 'zero',
        'reasoning_rl': 'cold_start',
        'rejection': 'reasoning_rl',
        **dict.fromkeys(('helpful_rm', 'safety_rm', 'all_scenarios'), 'sft'),
    }
    reads = {name: stages_read(stage) for name, stage in stages.items() if stages_read(stage)}
    assert reads == {
        'cold_start': ('cold_start_data', 'cold_start_shots'),
        'sft': ('rejection',),
        'all_scenarios': ('helpful_rm', 'safety_rm'),
    }
    for name in ('r1_qwen_7b', 'r1_qwen_1_5b'):
        assert [stage.name for stage in load_recipe(EXPERIMENTS / f'{name}.py').stages] == [*STAGES, 'distill']


@pytest.mark.parametrize(
    'name, steps, temperature', [('zero', 10_400, 1.0), ('reasoning_rl', None, 1.0), ('all_scenarios', 1_700, 0.7)]
)
def test_reinforcement_has_the_papers_numbers(full, name, steps, temperature):
    stage = full[1][name]
    source, loss = stage.source, stage.loss
    assert steps in (None, stage.steps) and source.sample.temperature == temperature
    assert (stage.optim.learning_rate, loss.beta, loss.clip_low, loss.clip_high) == (3e-6, 0.001, 10, 10)
    assert source.samples == 16 and source.questions * source.samples == 8_192
    assert source.minibatches == 16 and source.inner_epochs == 1 and source.questions // source.minibatches == 32
    assert source.sample.max_tokens == 32_768 and source.reference_every == 400
    assert (loss.kl, loss.normalise, loss.scale_by_std) == ('k3', 'grpo', True)


def test_phases_are_the_papers(full):
    zero, last = full[1]['zero'].phases, full[1]['all_scenarios']
    assert [(phase.step, phase.max_tokens) for phase in zero] == [(8_200, 65_536)]
    (phase,) = last.phases
    assert last.steps - phase.step == 400
    before, after = ({part.name for part in parts} for parts in (last.source.rewards, phase.rewards))
    assert after - before == {'helpful', 'safe'}
    assert all(
        part.kinds and not {'general', 'safety'} & set(part.kinds) for part in last.source.rewards
    )  # nothing for general prompts
    assert {part.name for part in full[1]['reasoning_rl'].source.rewards} - {
        part.name for part in full[1]['zero'].source.rewards
    } == set()
    weights = {name: {p.name: p.weight for p in full[1][name].source.rewards} for name in ('zero', 'reasoning_rl')}
    assert weights['zero']['language'] == 0 and weights['reasoning_rl']['language'] == weights['zero']['format'] == 1


def test_supervised_stages_have_the_papers_numbers(full):
    for name in ('cold_start', 'sft'):
        stage = full[1][name]
        assert (stage.optim.learning_rate, stage.optim.schedule, stage.optim.final) == (5e-5, 'cosine', 0.1)
        assert (stage.source.batch, stage.source.epochs, stage.rows.length) == (128, 2, 32_768)
    for name in ('helpful_rm', 'safety_rm'):
        stage = full[1][name]
        assert (stage.optim.learning_rate, stage.source.batch, stage.source.epochs) == (6e-6, 256, 1)
        assert stage.rows.length == 2 * 8_192
    assert full[1]['helpful_rm'].source.examples.pairs.gap == 1.0


def test_every_number_says_where_it_is_from():
    source = (EXPERIMENTS / 'r1_671b.py').read_text(encoding='utf-8')
    block = source[source.index('PAPER = Sizes(') : source.index('# --- data')]
    numbers = [line for line in block.splitlines() if re.search(r'=[^#]*\d', line) and 'name=' not in line]
    assert len(numbers) > 20
    following = {line.strip(): after for line, after in zip(numbers, numbers[1:] + [''], strict=True)}
    for line in numbers:
        if line.strip().startswith(('student_rate', 'later_from')):  # told by the line before
            continue
        assert re.search(r'# .*(report|Methods|secondary|ours)', line), (line, following[line.strip()])


def test_smaller_pipelines_differ_by_sizes_alone(full):
    def shape(recipe):
        return [
            (
                s.name,
                type(s.source),
                type(s.loss),
                getattr(s.source, 'rewards', None),
                type(getattr(s.source, 'examples', None)),
            )
            for s in recipe.stages[: len(STAGES)]
        ]

    for name in ('r1_qwen_7b', 'r1_qwen_1_5b'):
        assert repr(shape(load_recipe(EXPERIMENTS / f'{name}.py'))) == repr(shape(full[0]))


def test_what_is_drawn_fits_what_learns_from_it(full):
    for name in ('r1_671b', 'r1_qwen_7b', 'r1_qwen_1_5b'):
        stages = {stage.name: stage for stage in load_recipe(EXPERIMENTS / f'{name}.py').stages}
        for made, learns in (('cold_start_data', 'cold_start'), ('rejection', 'sft')):
            source = stages[made].source
            (limit,) = (each.keep.tokens for each in source.filters if each.name == 'overlong')
            assert source.sample.max_prompt + limit <= stages[learns].rows.length
        longest = max(s.source.sample.max_tokens for s in stages.values() if isinstance(s.source, OnPolicy))
        assert longest <= stages['zero'].rows.length - stages['zero'].rows.prompts


@pytest.fixture(scope='module')
def module():
    load_recipe(EXPERIMENTS / 'r1_671b.py')
    import r1_671b

    return r1_671b


@pytest.mark.parametrize('answer', ['7', '\\frac{1}{2}', '(A)'])
def test_a_chain_of_r1_zero_is_rewritten_as_the_rewards_want_it(module, answer):
    problem = Problem(0, 'What is it?', answer)
    response = Response(f'<think> So it is.\n\nWait. Yes. </think>\n<answer> {answer} </answer>', 20, True)
    text = module.readable(problem, response)
    assert text == f'<think> So it is.\n\nWait. Yes.</think>\n\nThe final answer is \\boxed{{{answer}}}.'
    new = Response(text, 20, True)
    assert form.thinking(problem, new) == 1 and form.format(problem, new) == 0
    assert mathematics.final(text) == answer and Summarised()(problem, new)


def test_a_program_stays_a_program(module):
    said = '```python\nprint(int(input()) + 1)\n```'
    problem = Problem(0, 'Add one.', '', 'code', meta={'tests': [{'input': '1', 'output': '2'}]})
    text = module.readable(problem, Response(f'<think>x</think><answer>{said}</answer>', 9, True))
    assert (
        program(text) == program(said) and text.endswith(said) and form.thinking(problem, Response(text, 9, True)) == 1
    )


def test_general_answers_have_nothing_between_the_tags(module, tmp_path):
    turns = [{'role': 'user', 'content': 'hello'}, {'role': 'assistant', 'content': 'Hi!'}]
    (tmp_path / 'a.jsonl').write_text(json.dumps({'chosen': turns}) + '\n')
    source = module.Unreasoned(TableExamples(str(tmp_path / 'a.jsonl'), messages='chosen'))
    (example,) = source.load()
    assert example == Example('<｜User｜>hello<｜Assistant｜>', '<think>\n\n</think>\n\nHi!')
    assert form.thinking(Problem(0, 'hello', '', 'general'), Response(example.response, 5, True)) == 1
