"""Serving without a model: text as it may be shown, and what is refused of a request."""

import math

import pytest
import serving
from hypothesis import given
from hypothesis import strategies as st

from r1jax.serve import asked
from r1jax.serve.errors import Refused
from r1jax.serve.guard import Keys
from r1jax.serve.model import name_of
from r1jax.serve.options import Limits
from r1jax.serve.text import Reading, Thoughts

TOKENIZER = serving.tokenizer()
CHAT = {'model': 'm', 'messages': [{'role': 'user', 'content': 'x'}]}


def read(ids, stops=()):
    """All that is said of some tokens, piece by piece, and the reading."""
    reading, out = Reading(TOKENIZER, stops), []
    for id in ids:
        out.append(reading.add(id))
        if reading.hit is not None:
            break
    return [*out, reading.end()], reading


@given(st.text('aé你好 \n<think>/', max_size=40))
def test_text_comes_whole_and_never_in_broken_characters(text):
    pieces, reading = read(TOKENIZER.encode(text))
    assert ''.join(pieces) == text and reading.told == reading.decoded == len(text)
    assert not any('\ufffd' in piece for piece in pieces)


def test_bytes_that_are_no_text_do_not_hold_up_what_follows():
    lead = TOKENIZER.encode('é')[0]
    pieces, _ = read([lead] * 12 + TOKENIZER.encode('abc'))
    assert ''.join(pieces).endswith('abc') and '\ufffd' in ''.join(pieces)
    assert any(pieces[:11])  # not only at the end


@given(st.text('ab.', max_size=30), st.lists(st.text('ab.', min_size=1, max_size=4), max_size=3))
def test_text_ends_before_the_first_stop_and_nothing_is_taken_back(text, stops):
    pieces, reading = read(TOKENIZER.encode(text), stops)
    found = {stop: text.find(stop) for stop in stops if stop in text}
    said = ''.join(pieces)
    if not found:
        assert said == text and reading.hit is None
    else:  # the first that is complete
        ends = {stop: at + len(stop) for stop, at in found.items()}
        first = min(ends.values())
        assert reading.hit in {stop for stop, end in ends.items() if end == first}
        assert said + reading.hit == text[: len(said) + len(reading.hit)] and len(said) + len(reading.hit) == first
    assert reading.told == len(said)


def thoughts(text, cuts, primed=False):
    split, said = Thoughts(primed), []
    for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True):
        said += split.add(text[a:b])
    said += split.end()
    assert all(each.text for each in said)
    return tuple(''.join(each.text for each in said if each.kind == kind) for kind in ('reasoning', 'content'))


@pytest.mark.parametrize(
    ('text', 'primed', 'want'),
    [
        (' <think> a < b </think>\n\nThe answer. ', False, ('a < b', 'The answer. ')),
        ('no <think> here', False, ('', 'no <think> here')),
        ('  plain', False, ('', '  plain')),
        ('<thin', False, ('', '<thin')),
        ('', False, ('', '')),
        ('a thought</think> b </think>', True, ('a thought', 'b </think>')),
        ('<think>\n\n</think>\n\nhi', False, ('', 'hi')),
        ('<think> never ends </thin', False, ('never ends </thin', '')),
    ],
)
def test_thinking_is_told_apart_wherever_the_text_is_cut(text, primed, want):
    for size in (1, 2, 3, 5, 100):
        assert thoughts(text, list(range(size, len(text), size)), primed) == want


def test_bytes_of_tokens():
    ids = TOKENIZER.encode('é 你\n<think>')
    assert b''.join(map(TOKENIZER.token_bytes, ids)).decode() == 'é 你\n<think>'
    assert len(TOKENIZER.token_bytes(ids[0])) == 1 and TOKENIZER.token_bytes(TOKENIZER.eos) == b'</s>'


def test_what_is_asked():
    got = asked.chat(
        CHAT | {'stop': 'a', 'max_tokens': 3, 'top_p': 1, 'user': 'me', 'frequency_penalty': 0, 'stream_options': None},
        'm',
        4,
    )
    assert (got.stops, got.limit, got.top_p, got.temperature, got.n, got.seed) == (('a',), 3, 1.0, None, 1, None)
    parts = [{'type': 'text', 'text': 'a'}, {'type': 'text', 'text': 'b'}]
    call = {'id': 'c', 'type': 'function', 'function': {'name': 'f', 'arguments': '{"x": 1}'}}
    messages = [
        {'role': 'developer', 'content': parts},
        {'role': 'assistant', 'content': None, 'tool_calls': [call], 'reasoning_content': 'r'},
        {'role': 'tool', 'content': 'y', 'tool_call_id': 'c'},
    ]
    got = asked.chat(
        {'model': 'm', 'messages': messages, 'tools': [{'function': {'name': 'f'}}], 'tool_choice': 'none'}, 'm', 4
    )
    assert got.tools is None and got.messages[0] == {'role': 'system', 'content': 'ab'}
    assert got.messages[1]['tool_calls'][0]['function'] == {'name': 'f', 'arguments': {'x': 1}}
    assert asked.completion({'model': 'm', 'prompt': [1, 2]}, 'm', 4).prompts == [[1, 2]]
    assert asked.completion({'model': 'm', 'prompt': ['a', [1]], 'n': 2}, 'm', 4).prompts == ['a', [1]]


@pytest.mark.parametrize(
    ('change', 'param', 'said'),
    [
        ({'model': None}, 'model', 'model is missing'),
        ({'model': 'other'}, 'model', "'other' is not here: this server has 'm'"),
        ({'messages': []}, 'messages', 'with a message'),
        ({'messages': 'hi'}, 'messages', 'must be an array'),
        ({'messages': [{'role': 'king', 'content': 'x'}]}, 'messages[0]', 'a role'),
        ({'messages': [{'role': 'user', 'content': 7}]}, 'messages[0]', 'must be a string'),
        ({'messages': [{'role': 'user', 'content': [{'type': 'image_url'}]}]}, 'messages[0]', 'no text'),
        ({'messages': [{'role': 'assistant', 'tool_calls': [{}]}]}, 'messages[0]', 'function.name'),
        ({'temperature': 3}, 'temperature', 'at most 2'),
        ({'temperature': math.nan}, 'temperature', 'must be 0 or more'),
        ({'temperature': True}, 'temperature', 'a number'),
        ({'top_p': -0.1}, 'top_p', 'must be 0 or more'),
        ({'n': 0}, 'n', 'must be 1 or more'),
        ({'n': 5}, 'n', 'at most 4'),
        ({'n': 1.5}, 'n', 'an integer'),
        ({'max_tokens': 0}, 'max_tokens', '1 or more'),
        ({'seed': 'x'}, 'seed', 'an integer'),
        ({'seed': 2**64}, 'seed', 'at most'),
        ({'stop': ['']}, 'stop', '1 to 256'),
        ({'stop': ['a'] * 17}, 'stop', 'more than 16'),
        ({'top_logprobs': 3}, 'top_logprobs', 'needs logprobs'),
        ({'logprobs': True, 'top_logprobs': 21}, 'top_logprobs', 'at most 20'),
        ({'stream': 'yes'}, 'stream', 'a boolean'),
        ({'stream_options': {'include_usage': True}}, 'stream_options', 'needs stream'),
        ({'tools': [{}]}, 'tools[0]', 'function.name'),
        ({'tool_choice': 'required'}, 'tool_choice', 'no call can be forced'),
        ({'chat_template_kwargs': {'messages': []}}, 'chat_template_kwargs', 'must not set messages'),
        ({'presence_penalty': 0.5}, 'presence_penalty', 'not implemented'),
        ({'response_format': {'type': 'json_object'}}, 'response_format', 'not implemented'),
        ({'temprature': 0.5}, 'temprature', 'no field temprature'),
    ],
)
def test_what_is_refused_of_a_chat(change, param, said):
    with pytest.raises(Refused) as refused:
        asked.chat(CHAT | change, 'm', 4)
    assert said in refused.value.message and refused.value.param == param
    assert refused.value.status == (404 if 'not here' in said else 400)


@pytest.mark.parametrize(
    ('change', 'param'),
    [
        ({'prompt': None}, 'prompt'),
        ({'prompt': []}, 'prompt'),
        ({'prompt': [1, 'a']}, 'prompt'),
        ({'prompt': [[]]}, 'prompt'),
        ({'prompt': ['a'] * 5}, 'prompt'),
        ({'prompt': ['a', 'b'], 'n': 3}, 'n'),
        ({'best_of': 2}, 'best_of'),
        ({'echo': True, 'logprobs': 1}, 'echo'),
        ({'suffix': 'x'}, 'suffix'),
        ({'messages': []}, 'messages'),
    ],
)
def test_what_is_refused_of_a_completion(change, param):
    with pytest.raises(Refused) as refused:
        asked.completion({'model': 'm', 'prompt': 'x'} | change, 'm', 4)
    assert refused.value.param == param and refused.value.status == 400


def test_names_limits_and_keys(tmp_path, monkeypatch):
    (tmp_path / 'run').mkdir()
    assert name_of(f'{tmp_path}/run/') == 'run' and name_of(f'{tmp_path}/run:zero') == 'run:zero'
    assert name_of('package:some_package/Model-1B.gguf') == 'Model-1B'
    with pytest.raises(ValueError, match='seconds=0 must be 1 or more'):
        Limits(seconds=0)
    monkeypatch.setenv('R1JAX_API_KEYS', 'from-environment, ')
    file = tmp_path / 'keys'
    file.write_text('# ours\nfrom-the-file # first\n\n')
    keys = Keys.read(file)
    assert keys.who('Bearer from-environment') == '0' and keys.who('bearer from-the-file') == '1'
    for header in (None, 'Bearer', 'Basic from-the-file', 'Bearer from-the-fil', 'Bearer fröm-the-file'):
        with pytest.raises(Refused) as refused:
            keys.who(header)
        assert refused.value.status == 401 and 'fil' not in refused.value.message
    assert Keys(()).who(None) == ''
    file.write_text('# none\n')
    with pytest.raises(ValueError, match='has no API key'):
        Keys.read(file)
    with pytest.raises(ValueError, match='8 or more') as refused:
        Keys(['secret'])
    assert 'secret' not in str(refused.value)
