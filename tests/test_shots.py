"""Few-shot prompts: worked examples as the template asks them, each ended as an answer is."""

import pytest
from test_data_chat import tokenizer

from r1jax.curate.filters import Reflects
from r1jax.data.shots import REFLECTING
from r1jax.data.template import FewShot, dialogue
from r1jax.rewards import form, mathematics
from r1jax.types import Example, Problem, Response

PROBLEM = Problem(0, '1+1', '2')


def test_the_question_comes_last_and_each_example_ends_as_an_answer_does():
    own = tokenizer('qwen2_5')
    prompt = FewShot(dialogue, (Example('2+2', ' four'), Example('3+3', ' six')))(PROBLEM, own)
    end = own.piece(own.eos)
    assert prompt == (f' User: 2+2. Assistant: four{end} User: 3+3. Assistant: six{end} User: 1+1. Assistant:')
    assert own.encode(prompt).count(own.eos) == 2

    class Plain:
        eos, special_texts = 1, ()

        def piece(self, id):
            return '</s>'

    assert FewShot(dialogue, (Example('2+2', ' four'),))(PROBLEM, Plain()) == (
        ' User: 2+2. Assistant: four\n\n User: 1+1. Assistant:'
    )
    with pytest.raises(ValueError, match='shots is empty'):
        FewShot(dialogue, ())


@pytest.mark.parametrize('shot, answer', list(zip(REFLECTING, ('24', '60'), strict=True)))
def test_examples_are_what_they_should_teach(shot, answer):
    problem, response = Problem(0, shot.prompt, answer), Response(shot.response, 1, True)
    assert form.format(problem, response) == 1.0
    assert mathematics.Math()(problem, response) == 1.0
    assert Reflects(1)(problem, response)
