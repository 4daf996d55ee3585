"""What a client asks: the bodies of OpenAI's chat completions and completions, read into `Asked`, or refused with the field's name.

A field that would change the answer and that is not implemented is refused unless it has the value that changes nothing; a field that
no one knows is refused, too, as it may be a misspelt one. What only the caller's bookkeeping reads is let through.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from r1jax.serve.errors import Refused

MOST_SHOWN = 20  # of top_logprobs, as OpenAI has it
_STOPS, _STOP_LENGTH = 16, 256
_ROLES = ('system', 'developer', 'user', 'assistant', 'tool')
_BOOKKEEPING = ('user', 'metadata', 'service_tier', 'safety_identifier', 'prompt_cache_key', 'parallel_tool_calls')
# Not implemented: fields with the values that ask for nothing
_INERT: dict[str, tuple] = {
    'frequency_penalty': (0, None),
    'presence_penalty': (0, None),
    'logit_bias': ({}, None),
    'response_format': ({'type': 'text'}, None),
    'modalities': (['text'], None),
    'audio': (None,),
    'prediction': (None,),
    'web_search_options': (None,),
    'functions': (None,),
    'function_call': (None,),
    'reasoning_effort': (None,),
    'verbosity': (None,),
    'store': (False, None),
    'suffix': (None, ''),
}


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request that is well-formed."""

    messages: Sequence[Mapping[str, Any]] | None  # of a chat
    prompts: Sequence[str | Sequence[int]]  # of completions
    limit: int | None  # most new tokens; None: as many as there is room for
    temperature: float | None  # None: the server's
    top_p: float | None
    n: int  # answers to each prompt
    stops: tuple[str, ...]
    seed: int | None
    logprobs: bool
    shown: int  # most likely tokens beside each
    stream: bool
    usage: bool  # at the end of a stream
    echo: bool = False  # completions: the text begins with the prompt
    tools: Sequence[Mapping[str, Any]] | None = None
    variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the chat template
    apart: bool = True  # thinking goes into reasoning_content


def parsed(text: str | bytes) -> Any:
    """The value of a client's JSON. ValueError: it is none, is nested too deeply, or has half of a surrogate pair, which no answer or
    error could repeat.
    """
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError(f'it is nested too deeply: {error}') from None
    return value


def chat(body: Any, model: str, most: int) -> Asked:
    """Reads the body of a chat completion. `model`: the name that is served; `most`: answers that may be asked for at once.

    Raises Refused.
    """
    fields = _Fields(body, model)
    messages = _messages(fields.take('messages', list, None))
    logprobs = fields.take('logprobs', bool, False)
    shown = fields.number('top_logprobs', int, 0, 0, MOST_SHOWN)
    if shown and not logprobs:
        raise Refused(400, 'top_logprobs needs logprobs: true', 'top_logprobs')
    longest, old = (fields.number(name, int, None, 1) for name in ('max_completion_tokens', 'max_tokens'))
    variables = fields.take('chat_template_kwargs', dict, {})
    for name in ('messages', 'tools', 'add_generation_prompt', 'bos_token', 'eos_token'):
        if name in variables:
            raise Refused(400, f'chat_template_kwargs must not set {name}', 'chat_template_kwargs')
    asked = Asked(
        messages=messages,
        prompts=(),
        limit=old if longest is None else longest,
        logprobs=logprobs,
        shown=shown,
        tools=_tools(fields),
        variables=variables,
        apart=fields.take('separate_reasoning', bool, True),
        **_common(fields, most),
    )
    fields.done()
    return asked


def completion(body: Any, model: str, most: int) -> Asked:
    """Reads the body of a completion, as `chat`."""
    fields = _Fields(body, model)
    prompts = _prompts(fields.take('prompt', (str, list), None))
    shown = fields.number('logprobs', int, None, 0, MOST_SHOWN)
    echo, limit = fields.take('echo', bool, False), fields.number('max_tokens', int, 16, 0)
    if echo and shown is not None:
        raise Refused(400, 'echo with logprobs is not implemented: those of a prompt are not computed', 'echo')
    common = _common(fields, max(most // len(prompts), 1))
    if fields.number('best_of', int, None, 1) not in (None, common['n']):
        raise Refused(400, 'best_of is not implemented: ask for n and choose', 'best_of')
    if len(prompts) > most:
        raise Refused(400, f'{len(prompts)} prompts are more than the {most} that may be asked at once', 'prompt')
    asked = Asked(None, prompts, limit, logprobs=shown is not None, shown=shown or 0, echo=echo, **common)
    fields.done()
    return asked


def _common(fields: _Fields, most: int) -> dict[str, Any]:
    stream = fields.take('stream', bool, False)
    options = fields.take('stream_options', dict, {})
    if options and not stream:
        raise Refused(400, 'stream_options needs stream: true', 'stream_options')
    usage = options.get('include_usage', False)
    if not isinstance(usage, bool) or options.keys() - {'include_usage', 'include_obfuscation'}:
        raise Refused(400, 'stream_options has include_usage, a boolean, and nothing else', 'stream_options')
    stops = fields.take('stop', (str, list), [])
    stops = [stops] if isinstance(stops, str) else stops
    for stop in stops:
        if not isinstance(stop, str) or not 0 < len(stop) <= _STOP_LENGTH:
            raise Refused(400, f'stop must be strings of 1 to {_STOP_LENGTH} characters', 'stop')
    if len(stops) > _STOPS:
        raise Refused(400, f'{len(stops)} stop strings are more than {_STOPS}', 'stop')
    return {
        'temperature': fields.number('temperature', float, None, 0, 2),
        'top_p': fields.number('top_p', float, None, 0, 1),
        'n': fields.number('n', int, 1, 1, most),
        'stops': tuple(stops),
        'seed': fields.number('seed', int, None, -(2**63), 2**63 - 1),
        'stream': stream,
        'usage': usage,
    }


class _Fields:
    """A body, of which each field is taken once."""

    def __init__(self, body: Any, model: str):
        if not isinstance(body, dict):
            raise Refused(400, 'the body must be a JSON object')
        self._left = dict(body)
        if (asked := self.take('model', str, None)) is None:
            raise Refused(400, f'model is missing: this server has {model!r}', 'model')
        if asked != model:
            message = f'the model {asked!r} is not here: this server has {model!r}'
            raise Refused(404, message, 'model', 'model_not_found')

    def take(self, name: str, kind: type | tuple[type, ...], default: Any) -> Any:
        value = self._left.pop(name, None)
        if value is None:
            return default
        if not isinstance(value, kind) or (isinstance(value, bool) and kind in (int, float, (int, float))):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            raise Refused(400, f'{name} must be {" or ".join(_KINDS[each] for each in kinds)}', name)
        return value

    def number(self, name: str, kind: type, default: Any, low: float, high: float | None = None) -> Any:
        value = self.take(name, (int, float) if kind is float else int, default)
        if value is default:
            return default
        if not (low <= value and (high is None or value <= high)):  # so that NaN is refused, too
            raise Refused(
                400, f'{name}={value} must be {low} or more' + (f', and at most {high}' if high else ''), name
            )
        return kind(value)

    def done(self) -> None:
        """What is left is refused, if it could matter."""
        for name, value in self._left.items():
            if name in _INERT and value not in _INERT[name]:
                raise Refused(400, f'{name} is not implemented: leave it out', name)
            if name not in _INERT and name not in _BOOKKEEPING:
                raise Refused(400, f'there is no field {name}', name)


_KINDS = {str: 'a string', list: 'an array', dict: 'an object', bool: 'a boolean', int: 'an integer', float: 'a number'}


def _messages(messages: Any) -> list[dict[str, Any]]:
    if not messages:
        raise Refused(400, 'messages must be an array with a message in it', 'messages')
    return [_message(each, f'messages[{i}]') for i, each in enumerate(messages)]


def _message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, dict) or message.get('role') not in _ROLES:
        raise Refused(400, f'{where} must be an object with a role: {", ".join(_ROLES)}', where)
    role = 'system' if message['role'] == 'developer' else message['role']
    content, calls = message.get('content'), message.get('tool_calls')
    if isinstance(content, list):
        parts = [
            part.get('text') if isinstance(part, dict) and part.get('type') == 'text' else None for part in content
        ]
        if not all(isinstance(part, str) for part in parts):
            raise Refused(400, f'{where}.content has a part that is no text: this model reads nothing else', where)
        content = ''.join(parts)
    if not isinstance(content, str) and not (content is None and role == 'assistant'):
        raise Refused(400, f'{where}.content must be a string', where)
    out = {'role': role, 'content': content or ''}
    for name in ('name', 'tool_call_id', 'reasoning_content'):
        if (value := message.get(name)) is not None:
            if not isinstance(value, str):
                raise Refused(400, f'{where}.{name} must be a string', where)
            out[name] = value
    if calls is not None:
        out['tool_calls'] = [_call(call, where) for call in calls] if isinstance(calls, list) else _call(None, where)
    return out


def _call(call: Any, where: str) -> dict[str, Any]:
    """A tool's call. Templates want its arguments as data, OpenAI's clients send them as JSON text."""
    function = call.get('function') if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get('name'), str):
        raise Refused(400, f'{where}.tool_calls must be an array of calls with function.name', where)
    arguments = function.get('arguments')
    if isinstance(arguments, str):
        try:
            arguments = parsed(arguments or '{}')
        except ValueError:
            raise Refused(400, f'{where}: the arguments of {function["name"]} are not JSON', where) from None
    return {**call, 'function': {**function, 'arguments': arguments}}


def _tools(fields: _Fields) -> list[dict[str, Any]] | None:
    tools, choice = fields.take('tools', list, None), fields.take('tool_choice', (str, dict), None)
    for i, tool in enumerate(tools or ()):
        function = tool.get('function') if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get('name'), str):
            raise Refused(400, f'tools[{i}] must be an object with function.name', f'tools[{i}]')
    if choice not in (None, 'auto', 'none'):
        raise Refused(400, "tool_choice must be 'auto' or 'none': no call can be forced", 'tool_choice')
    return None if choice == 'none' else tools


def _prompts(prompt: Any) -> list[str | list[int]]:
    if isinstance(prompt, str):
        return [prompt]
    if prompt and all(_is_ids(each) or isinstance(each, str) for each in prompt):
        return prompt
    if prompt and _is_ids(prompt):
        return [prompt]
    raise Refused(400, 'prompt must be a string, an array of token ids, or an array of either', 'prompt')


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(i) is int for i in value)
