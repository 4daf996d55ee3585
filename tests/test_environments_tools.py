"""Tools: what the policy asked for is found, answered or explained; arithmetic is exact and bounded; programs run in the sandbox."""

import dataclasses
import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1jax.config import INLINE, Frame
from r1jax.environments import Calculator, Dialogue, Python, Search, ToolError, Tools
from r1jax.environments.calculator import value, written
from r1jax.environments.tools import WithTools
from r1jax.rewards import process
from r1jax.rewards.environment import CHARACTERS, Called, inline, reply
from r1jax.types import Problem, Reply, Response

PROBLEM = Problem(0, 'question', '42')
TOOLS = Tools((Calculator(),))


def asked(environment, *turns):
    return environment(PROBLEM, Response('\n'.join(turns[::2]), 1, True, turns))


def call(name='calculator', **arguments):
    return f'<tool_call>{json.dumps({"name": name, "arguments": arguments})}</tool_call>'


@pytest.mark.parametrize(
    ('text', 'texts', 'outcomes'),
    [
        ('the answer is 42', None, None),
        (f'think {call(expression="6*7")}', ('42',), ('answered',)),
        (call(expression='6*7') + call(expression='1/0'), ('42', 'error: division by zero'), ('answered', 'failed')),
        ('<tool_call>6*7</tool_call>', ('error: a call is JSON: {"name": ..., "arguments": {...}}',), ('malformed',)),
        ('<tool_call>[1]</tool_call>', ('error: a call is JSON: {"name": ..., "arguments": {...}}',), ('malformed',)),
        ('<tool_call>' + '[' * 9000 + '</tool_call>', None, ('malformed',)),
        ('<tool_call>{"name": "calc', ('error: a call ends with </tool_call>',), ('malformed',)),
        (call('calc', expression='1'), ('error: no such tool; there are calculator',), ('unknown',)),
        (call(), ('error: calculator needs expression',), ('malformed',)),
        (call(x='1', expression='1'), ('error: calculator takes expression, not x',), ('malformed',)),
        (call(expression=6), ('error: expression of calculator is a string',), ('malformed',)),
        (call(expression='import os'), ('error: import is not arithmetic',), ('failed',)),
        (call(expression='1') * 6, ('1',) * 4 + ('error: only 4 calls of a turn are answered',) * 2, None),
    ],
)
def test_each_call_is_answered_or_told_what_is_wrong(text, texts, outcomes):
    said = asked(TOOLS, text)
    if texts is None and outcomes is None:
        assert said is None
        return
    assert texts is None or said.texts == texts
    assert outcomes is None or said.outcomes == outcomes


def test_only_the_last_turn_is_read_and_a_call_may_be_a_text_alone():
    assert asked(TOOLS, call(expression='1'), '<tool_response>1</tool_response>', 'so it is 1') is None
    plain = dataclasses.replace(TOOLS, form='text', call=('<<', '>>'))
    assert asked(plain, 'well << 2+2 >>').texts == ('4',)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'tools': ()}, 'Tools.tools needs tools with names of their own, not []'),
        ({'tools': (Calculator(), Calculator())}, "not ['calculator', 'calculator']"),
        ({'call': ('', 'x')}, "Tools.call=('', 'x') must be two texts"),
        ({'form': 'xml'}, "Tools.form='xml' must be 'json' or 'text'"),
        (
            {'form': 'text', 'tools': (Calculator(), Python())},
            'for one tool of one argument, not for calculator, python',
        ),
        ({'calls': 0}, 'Tools.calls=0 must be at least 1'),
    ],
)
def test_tools_that_do_not_go_together_are_refused(change, message):
    with pytest.raises(ValueError) as error:
        dataclasses.replace(TOOLS, **change)
    assert message in str(error.value)


@dataclasses.dataclass(frozen=True)
class Lister:
    """Lists things."""

    name: str = 'list'

    def __call__(self, problem: Problem, things: list) -> str:
        return str(things)


def test_a_tool_of_arguments_that_json_schemas_of_ours_have_not_is_refused():
    with pytest.raises(ValueError, match=r'Lister.__call__: things is annotated list, and arguments are str, int'):
        Tools((Lister(),))


def test_templates_are_given_the_tools_schemas():
    (schema,) = TOOLS.schemas()
    assert schema['function'] == {
        'name': 'calculator',
        'description': 'Computes an arithmetic expression, such as 12*(3+4)/5.',
        'parameters': {'type': 'object', 'properties': {'expression': {'type': 'string'}}, 'required': ['expression']},
    }

    class Chatting:
        def chat(self, messages, tools):
            return repr((messages, tools))

    messages = [{'role': 'system', 'content': 'be kind'}, {'role': 'user', 'content': 'question'}]
    assert WithTools(TOOLS, 'be kind')(PROBLEM, Chatting()) == repr((messages, [schema]))


@pytest.mark.parametrize(
    ('expression', 'result'),
    [
        ('12*(3+4)/5', '16.8'),
        ('-2**2', '-4'),
        ('2**-1', '0.5'),
        ('2^3^2', '512'),
        ('7//2 + 7%2', '4'),
        ('1/3', '0.333333333333'),
        ('−3×2÷4', '-1.5'),
        ('.5+1.', '1.5'),
        ('0.1+0.2', '0.3'),
        ('1/10**13', '0'),
        ('--3', '3'),
    ],
)
def test_arithmetic(expression, result):
    assert written(value(expression)) == result


@pytest.mark.parametrize(
    ('expression', 'message'),
    [
        ('', 'ends too early'),
        ('1+', 'ends too early'),
        ('(1', 'not closed'),
        ('1 2', '2 is not expected'),
        ('*1', r'\* is not expected'),
        ('x', 'x is not arithmetic'),
        ('1/0', 'division by zero'),
        ('0**-1', 'division by zero'),
        ('2**0.5', 'an exponent is a whole number'),
        ('9**9**9**9', 'too large'),
        ('*'.join(['9' * 60] * 4) + '**99', 'too large'),
        ('(' * 100 + '1' + ')' * 100, 'nested too deeply'),
        ('-' * 100 + '1', 'nested too deeply'),
        ('1+' * 200 + '1', 'at most 256 characters'),
        ('٣+1', 'not arithmetic'),
    ],
)
def test_what_is_no_arithmetic_or_too_much_of_it_is_said(expression, message):
    with pytest.raises(ToolError, match=message):
        value(expression)


_numbers = st.integers(0, 999)
_trees = st.recursive(
    _numbers.map(str),
    lambda inner: st.tuples(inner, st.sampled_from('+-*'), inner).map(lambda t: f'({t[0]}{t[1]}{t[2]})'),
)


@given(_trees.filter(lambda text: len(text) <= 256))
def test_sums_and_products_are_those_of_python(text):
    assert value(text) == Fraction(eval(text))  # of our own making


def test_a_program_runs_in_the_sandbox_and_its_failures_are_words():
    python = Tools((Python(seconds=1.0),), deadline=0.0)
    said = asked(python, call('python', code='print(6 * 7)') + call('python', code='print("a")\n1/0'))
    assert said == Reply(
        ('42', 'error: ZeroDivisionError: division by zero (after printing: a)'), ('answered', 'failed')
    )
    assert asked(python, call('python', code='x = 1')).texts == ('(it printed nothing)',)
    code = 'import socket; socket.create_connection(("1.1.1.1", 53), 1)'
    assert asked(python, call('python', code=code)).outcomes == ('failed',)  # no network
    assert asked(python, call('python', code='while True: pass')) == Reply(('error: it took too long',), ('timeout',))
    for fault in ({'seconds': 0}, {'memory': 8}, {'printed': 0}):
        with pytest.raises(ValueError, match='seconds must be above 0, memory at least 64 MiB'):
            Python(**fault)


def test_search_finds_the_paragraph_that_fits_best(tmp_path):
    path = tmp_path / 'text.txt'
    path.write_text('The moon is far.\n\nThe sea is deep, the sea is wide.\n\nMountains are high.\nThe sea is not.\n')
    search = Tools((Search(str(path), results=2),))
    search.warm()
    assert asked(search, call('search', query='deep SEA')).texts == (
        '[1] The sea is deep, the sea is wide.\n\n[2] Mountains are high.\nThe sea is not.',
    )
    assert asked(search, call('search', query='desert')) == Reply(('error: nothing was found',), ('failed',))
    with pytest.raises(ValueError, match=r"Search.path='.*none' cannot be read: No such file"):
        Search(str(tmp_path / 'none')).warm()
    path.write_text('\n')
    with pytest.raises(ValueError, match='has no text'):
        Search(str(path)).warm()


def test_a_user_goes_on_asking():
    problem = Problem(0, 'first', '', meta={'follow_ups': ['second', 'third']})
    said = [Dialogue()(problem, Response('', 1, True, turns)) for turns in (('a',), ('a', 'b', 'c'), tuple('abcde'))]
    assert said == [Reply(('second',)), Reply(('third',)), None]


@dataclasses.dataclass(frozen=True)
class Faulty:
    frame: Frame = INLINE
    turns: int = 2
    output: int = 8
    deadline: float = 0.0

    def __call__(self, problem, response):
        match response.turns[-1]:
            case 'none':
                return None
            case 'long':
                return Reply(('\U0001f600' * CHARACTERS, 'b'))
            case 'text':
                return 'a text'
        raise RuntimeError('broken')


def test_what_an_environment_raises_becomes_words_and_what_it_says_has_an_end():
    def said(turn):
        return reply(inline(Called(Faulty()), PROBLEM, Response(turn, 1, True, (turn,))))

    assert said('none') is None
    assert said('raise') == said('text') == Reply(('error: this failed',), ('raised',))
    assert said('long') == Reply(('\U0001f600' * CHARACTERS, ''))
    detail = Called(Faulty())(PROBLEM, Response('', 1, True, ('long',)))[1]
    assert len(detail) <= Called.longest and len(json.dumps({'detail': detail})) + 200 < process.LONGEST


@pytest.mark.parametrize(('texts', 'outcomes'), [((), ()), (('a',), ('answered', 'failed')), (('a',), ('lost',))])
def test_a_reply_says_something_and_what_became_of_it(texts, outcomes):
    with pytest.raises(ValueError, match='a Reply has'):
        Reply(texts, outcomes)
