"""Tools that the policy calls in its text: `<tool_call>{"name": "calculator", "arguments": {"expression": "6*7"}}</tool_call>`.

In: what the policy wrote in its last turn. Out: an answer to each call, or None where it called nothing, which ends the response. A call
that cannot be read, names no tool, or fails is answered with what is wrong, so that the policy can do better; all of it is counted
(`types.OUTCOMES`).

The tags are those of Hermes and of Qwen's templates by default, and data. What stands around the answers is the environment's `Frame`.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from r1jax.config import CHATML, Frame
from r1jax.types import OUTCOMES, Problem, Reply, Response

LONGEST = 16_384  # characters of a call that is still read


class Tool(Protocol):
    """A frozen dataclass that is called with the arguments that the policy gave, and returns a text.

    The annotations of its `__call__` say what the arguments are, and its docstring's first line what it does. A `ToolError` that it raises
    is the policy's fault; whatever else it raises is its own.
    """

    @property
    def name(self) -> str: ...

    def __call__(self, problem: Problem, /, **arguments: Any) -> str: ...


class ToolError(Exception):
    """A tool could not do what it was asked; the text is told to the policy."""

    def __init__(self, text: str, outcome: str = 'failed'):
        """outcome: one of `types.OUTCOMES`."""
        super().__init__(text)
        self.outcome = outcome


@dataclasses.dataclass(frozen=True)
class Call:
    """What the policy asked for, or why it cannot be read."""

    tool: str
    arguments: Mapping[str, Any]
    error: str = ''


@dataclasses.dataclass(frozen=True)
class Tools:
    """An environment (`r1jax.config.Environment`) that answers calls of tools.

    Raises:
      ValueError: no tools, two of one name, tags that are empty, several tools that are called by a text alone, or a number that is too
        small.
    """

    tools: tuple[Tool, ...]
    frame: Frame = CHATML
    call: tuple[str, str] = ('<tool_call>', '</tool_call>')  # what a call stands between
    # What it is: {"name": …, "arguments": {…}}; or the text that is the only argument of the only tool, for models too small for JSON
    form: Literal['json', 'text'] = 'json'
    turns: int = 4  # see `Environment`
    calls: int = 4  # of one turn that are answered; the others are told so
    output: int = 256  # tokens of an answer
    deadline: float = 20.0  # seconds that all calls of a turn may take together; a tool's own limits are below it

    def __post_init__(self):
        names = [tool.name for tool in self.tools]
        if not names or len(set(names)) < len(names):
            raise ValueError(f'Tools.tools needs tools with names of their own, not {names}')
        if len(self.call) != 2 or not all(self.call):
            raise ValueError(f'Tools.call={self.call} must be two texts, between which a call stands')
        if self.form not in ('json', 'text'):
            raise ValueError(f"Tools.form={self.form!r} must be 'json' or 'text'")
        sizes = [len(_parameters(tool)) for tool in self.tools]
        if self.form == 'text' and sizes != [1]:
            raise ValueError(
                f"Tools.form='text' names no tool: it is for one tool of one argument, not for {', '.join(names)}"
            )
        if self.calls < 1:
            raise ValueError(f'Tools.calls={self.calls} must be at least 1')

    def warm(self) -> None:
        """Asks each tool whether it can work here. Raises what a tool raises where it cannot."""
        for tool in self.tools:
            getattr(tool, 'warm', bool)()

    def __call__(self, problem: Problem, response: Response) -> Reply | None:
        found = list(self.asked(response.turns[-1]))
        if not found:
            return None
        said = [self._answer(problem, call) for call in found[: self.calls]]
        said += [(f'error: only {self.calls} calls of a turn are answered', 'failed')] * (len(found) - self.calls)
        texts, outcomes = zip(*said, strict=True)
        return Reply(texts, outcomes)

    def asked(self, text: str) -> Iterator[Call]:
        """The calls in a turn, in their order."""
        opened, closed = self.call
        at = text.find(opened)
        while at >= 0:
            start = at + len(opened)
            end = text.find(closed, start)
            if end < 0:
                yield Call('', {}, f'a call ends with {closed.strip()}')
                return
            yield self._read(text[start:end])
            at = text.find(opened, end + len(closed))

    def _read(self, body: str) -> Call:
        if len(body) > LONGEST:
            return Call('', {}, f'a call has at most {LONGEST} characters')
        if self.form == 'text':
            return Call(self.tools[0].name, {_parameters(self.tools[0])[0].name: body.strip()})
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            return Call('', {}, 'a call is JSON: {"name": ..., "arguments": {...}}')
        if not isinstance(found, dict) or not isinstance(found.get('name'), str):
            return Call('', {}, 'a call is JSON: {"name": ..., "arguments": {...}}')
        arguments = found.get('arguments', {})
        if not isinstance(arguments, dict):
            return Call('', {}, '"arguments" is an object')
        return Call(found['name'], arguments)

    def _answer(self, problem: Problem, call: Call) -> tuple[str, str]:
        """What a call is told, and its outcome."""
        if call.error:
            return f'error: {call.error}', 'malformed'
        tool = next((tool for tool in self.tools if tool.name == call.tool), None)
        if tool is None:
            return f'error: no such tool; there are {", ".join(tool.name for tool in self.tools)}', 'unknown'
        if wrong := _unfit(tool, call.arguments):
            return f'error: {wrong}', 'malformed'
        try:
            return str(tool(problem, **call.arguments)), 'answered'
        except ToolError as error:
            assert error.outcome in OUTCOMES, error.outcome
            return f'error: {error}', error.outcome

    def schemas(self) -> list[dict[str, Any]]:
        """The tools as a chat template takes them (`Tokenizer.chat(…, tools=…)`): JSON schemas of functions."""
        return [
            {
                'type': 'function',
                'function': {
                    'name': tool.name,
                    'description': (inspect.getdoc(type(tool)) or '').partition('\n')[0],
                    'parameters': {
                        'type': 'object',
                        'properties': {p.name: {'type': _KINDS[_kind(p)]} for p in _parameters(tool)},
                        'required': [p.name for p in _parameters(tool) if p.default is p.empty],
                    },
                },
            }
            for tool in self.tools
        ]


@dataclasses.dataclass(frozen=True)
class WithTools:
    """A template that tells the policy of its tools, by the tokenizer's chat template.

    Stage(…, template=WithTools(TOOLS), environment=TOOLS)

    Raises:
      ValueError: the tokenizer has no chat template.
    """

    environment: Tools
    system: str = ''  # what else stands in the system's turn

    def __call__(self, problem: Problem, tokenizer: Any) -> str:
        asked = problem.meta.get('messages') or [{'role': 'user', 'content': problem.prompt}]
        system = [{'role': 'system', 'content': self.system}] if self.system else []
        return tokenizer.chat([*system, *asked], tools=self.environment.schemas())


_KINDS = {'str': 'string', 'int': 'integer', 'float': 'number', 'bool': 'boolean'}  # annotation -> JSON schema
_TYPES: dict[str, tuple[type, ...]] = {'str': (str,), 'int': (int,), 'float': (int, float), 'bool': (bool,)}


def _parameters(tool: Tool) -> Sequence[inspect.Parameter]:
    """What a tool is called with, besides the problem."""
    _, _, *found = inspect.signature(type(tool).__call__).parameters.values()
    for each in found:
        if _kind(each) not in _KINDS:
            name = type(tool).__name__
            raise ValueError(
                f'{name}.__call__: {each.name} is annotated {_kind(each)}, and arguments are {", ".join(_KINDS)}'
            )
    return found


def _kind(parameter: inspect.Parameter) -> str:
    """The annotation of a parameter, which is a text where its module says `from __future__ import annotations`."""
    kind = parameter.annotation
    return kind if isinstance(kind, str) else getattr(kind, '__name__', repr(kind))


def _unfit(tool: Tool, arguments: Mapping[str, Any]) -> str:
    """What is wrong with arguments; '' where they fit."""
    known = {p.name: p for p in _parameters(tool)}
    if unknown := [name for name in arguments if name not in known]:
        return f'{tool.name} takes {", ".join(known)}, not {unknown[0]:.40}'
    for name, p in known.items():
        if name not in arguments:
            if p.default is p.empty:
                return f'{tool.name} needs {name}'
            continue
        value, kind = arguments[name], _kind(p)
        if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != 'bool'):
            return f'{name} of {tool.name} is a {_KINDS[kind]}'
    return ''
