"""The tiny world with a calculator is what its docstring says, and the calculator of `r1jax.environments` understands it."""

import itertools
import json
import pathlib
import statistics

import pytest

from r1jax.data import tiny_calls
from r1jax.data.tiny_calls import CallsTokenizer, TinyArithmetic, TinyCalls
from r1jax.environments import Calculator, Tools
from r1jax.rewards import accuracy, form
from r1jax.settings import load_recipe
from r1jax.types import Problem, Response

EXPERIMENT = pathlib.Path(__file__).parents[1] / 'experiments' / 'tiny_tools.py'
TOOLS = Tools((Calculator(),))


def documents(**change):
    """(row, the response's turns as an environment would see them)."""
    for row in TinyCalls(size=3_000, **change).rows():
        first, called, rest = row['response'].partition('</tool_call>')
        yield row, first + called, rest


def test_held_out_questions_occur_nowhere_else():
    small = {'digits': (1, 1)}  # few questions, so that splits would collide
    held_out = {row['prompt'] for row in TinyArithmetic('held_out', 8, **small).rows()}
    train = {row['prompt'] for row in TinyArithmetic('train', 8, seed=1, **small).rows()}
    corpus = {row['problem'] for row in TinyCalls(size=3_000, **small).rows()}
    assert len(held_out) == 8 and len(corpus) > 100
    assert not held_out & (train | corpus)
    asked = list(itertools.islice(TinyArithmetic(size=30).rows(), 30))
    assert all(row['answer'] == str(eval(row['prompt'].removesuffix('=?'))) for row in asked)  # of our own making
    assert len({row['prompt'] for row in asked}) == 30 and all(len(row['prompt']) >= 7 for row in asked)


def test_what_is_called_is_understood_and_answered_as_it_is_written_there():
    slips = []
    for row, turn, rest in documents(called=1.0, malformed=0.0, misread=0.0):
        said = TOOLS(Problem(0, '', ''), Response(turn, 1, True, (turn,)))
        assert said.outcomes == ('answered',) and f'<tool_response> {said.texts[0]} </tool_response>' in rest
        slips.append(accuracy.answer(rest) != row['answer'])
    assert statistics.mean(slips) == pytest.approx(0.1, abs=0.02)


def test_documents_are_mixed_as_stated():
    found = list(documents())
    graded = [(Problem(0, '', row['answer']), Response(row['response'], 1, True)) for row, *_ in found]
    assert statistics.mean('tool' in row['response'] for row, *_ in found) == pytest.approx(0.3, abs=0.02)
    assert statistics.mean(form.format(*each) for each in graded) == pytest.approx(0.93, abs=0.03)
    direct = [each for each in graded if 'tool' not in each[1].text]
    assert statistics.mean(accuracy.exact(*each) for each in direct) < 0.05
    assert 0.05 < statistics.mean(accuracy.exact(*each) for each in graded) < 0.3
    wrong = list(documents(called=1.0, malformed=1.0))
    outcomes = {TOOLS(Problem(0, '', ''), Response(turn, 1, True, (turn,))) for _, turn, _ in wrong}
    assert {each.outcomes for each in outcomes if each} >= {('malformed',), ('unknown',), ('answered',)}


def test_the_tokenizer_ends_a_turn_with_one_token_and_gives_back_every_text(tmp_path):
    tokenizer = CallsTokenizer().load(str(tmp_path))
    frame = load_recipe(EXPERIMENT).stages[1].environment.frame
    assert [len(tokenizer.encode(text)) for text in (*frame.stops, tiny_calls.HEAD, tiny_calls.TAIL)] == [1, 1, 1]
    for row, turn, rest in itertools.islice(documents(malformed=0.5), 200):
        whole = tokenizer.encode(row['response'])
        assert tokenizer.decode(whole) == row['response'] and len(whole) <= 40
        assert whole == [*tokenizer.encode(turn), *tokenizer.encode(rest)]  # as turns are put together in RL
    said = 'error: no such tool; there are calculator'
    assert tokenizer.decode(tokenizer.encode(said)) == said
    call = f'{tiny_calls.HEAD}1+2{tiny_calls.TAIL}'
    assert json.loads(call) == {'name': 'calculator', 'arguments': {'expression': '1+2'}}


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: TinyCalls(size=0), 'size=0 must be at least 1'),
        (lambda: TinyCalls(digits=(3, 2)), r'digits=\(3, 2\) must be \(fewest, most\)'),
        (lambda: TinyCalls(slip=2.0), 'TinyCalls.slip=2.0 must be between 0 and 1'),
        (lambda: TinyArithmetic(split='test'), "TinyArithmetic.split='test' must be"),
        (
            lambda: TinyArithmetic(digits=(1, 1), size=90),
            'more than half of the about 16 such questions: allow more digits',
        ),
    ],
)
def test_worlds_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
