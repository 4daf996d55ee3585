"""Environments of others: those of verifiers, of both kinds that its versions have; and second chances at a task."""

import asyncio

import pytest

from r1jax.data import template
from r1jax.environments import Retry
from r1jax.environments.adapters import MultiTurn, Questions, Rubric
from r1jax.rewards import accuracy
from r1jax.types import Problem, Reply, Response


class Guess:
    """A number is to be guessed; written as environments of verifiers 0.1.0 are."""

    class rubric:  # noqa: D106
        @staticmethod
        def right(completion, answer, **kwargs):
            return float(completion[-1]['content'] == answer)

        @staticmethod
        def quick(state):
            return 1 / state['turn']

        reward_funcs, reward_weights = [right, quick], [1.0, 0.5]

    def get_dataset(self):
        return [
            {'question': 'a number?', 'answer': '7'},
            {'prompt': [{'role': 'user', 'content': 'and?'}], 'answer': '3'},
        ]

    def is_completed(self, messages, state, **kwargs):
        return messages[-1]['content'] == state['answer']

    def env_response(self, messages, state, **kwargs):
        state['tries'] = state.get('tries', 0) + 1
        more = int(messages[-1]['content']) < int(state['answer'])
        return {'role': 'user', 'content': f'{"more" if more else "less"} (try {state["tries"]})'}, state


class Later(Guess):
    """The same as later versions have it: coroutines, states that are set up, messages alone."""

    class rubric:  # noqa: D106
        @staticmethod
        async def right(completion, answer):
            await asyncio.sleep(0)
            return float(completion[-1]['content'] == answer)

        @staticmethod
        def quick(state):
            return 1 / len(state['trajectory'])

        funcs, weights = [right, quick], [1.0, 0.5]

    async def setup_state(self, state):
        return state | {'tries': 0}

    async def is_completed(self, state):
        return state['trajectory'][-1]['completion'][-1]['content'] == state['answer']

    async def env_response(self, messages, state):
        said, _ = super().env_response(messages, state)
        return [said]


def guess():
    return Guess()


def later():
    return Later()


@pytest.mark.parametrize('make', [guess, later])
def test_an_environment_of_verifiers_speaks_and_grades(make):
    environment, rubric = MultiTurn(make), Rubric(make)
    environment.warm()
    problem, _ = Questions(make).load()
    assert (problem.prompt, problem.answer, problem.meta['messages'][0]['role']) == ('a number?', '7', 'user')
    assert [p.prompt for p in Questions(make, limit=1).load()] == ['a number?']

    def said(*turns):
        return Response('\n'.join(turns[::2]), 1, True, turns)

    assert environment(problem, said('3')) == Reply(('more (try 1)',))
    assert environment(problem, said('3', 'more (try 1)', '9')) == Reply(('less (try 2)',))
    assert environment(problem, said('3', 'more (try 1)', '7')) is None
    assert rubric(problem, said('3', 'more (try 1)', '7')) == 1.25
    assert rubric(problem, said('7')) == 1.5 and rubric(problem, said('5')) == 0.5


def test_what_is_no_rubric_is_named():
    class Bare(Guess):
        rubric = None

    with pytest.raises(ValueError, match='NoneType has none of funcs, reward_funcs: it is no Rubric'):
        Rubric(Bare)(Problem(0, '', '1'), Response('1', 1, True, ('1',)))


def test_questions_of_others_are_asked_by_the_chat_template():
    class Chatting:
        def chat(self, messages):
            return repr(messages)

    problem = Questions(guess).load()[1]
    assert template.chat(problem, Chatting()) == "[{'role': 'user', 'content': 'and?'}]"


def test_a_second_chance_ends_with_the_right_answer():
    again = Retry(accuracy.numeric)
    problem = Problem(0, '2+2', '4')
    wrong, right = '<answer>5</answer>', '<answer>4</answer>'
    assert again(problem, Response(wrong, 1, True, (wrong,))) == Reply(('That is not right. Try again.',))
    assert again(problem, Response(f'{wrong}\n{right}', 1, True, (wrong, 'no', right))) is None
    back = (right, 'no', wrong)  # only the last turn counts
    assert again(problem, Response(f'{right}\n{wrong}', 1, True, back)) == Reply((again.text,))


@pytest.mark.slow  # the package takes seconds to import
def test_a_task_of_reasoning_gym_with_a_second_chance():
    pytest.importorskip('reasoning_gym')
    from r1jax.data.datasets import ReasoningGym

    (problem,) = ReasoningGym('chain_sum', 1).load()
    again = Retry(accuracy.reasoning_gym)
    again.warm()
    for said, over in ((problem.answer, True), ('nothing', False)):
        text = f'<answer>{said}</answer>'
        assert (again(problem, Response(text, 1, True, (text,))) is None) == over
