"""Environments written for the library `verifiers` (its MultiTurnEnv and Rubric, versions 0.1), met by our policy and graded by our verbs.

    def load():                                    # at the top of a module: called once a process
        import verifiers
        return verifiers.load_environment('wordle')

    Stage(
        source=OnPolicy(Questions(load), …, rewards=(Part('wordle', Rubric(load), deadline=30.0),)),
        template=template.chat,
        environment=MultiTurn(load),
        …
    )

What is asked of such an object: `env_response(messages, state)`, `is_completed`, `rubric` and `get_dataset`, each as a function or a
coroutine; `setup_state(state)` where it has one. Nothing of `verifiers` is imported here.

Their environments keep a state between turns. Ours have none: what happened is played again from the first turn each time, so an
environment whose moves are drawn at random has to draw them from `state['info']` or the question. Environments that call a model, or hold
a machine of their own over several turns, are beyond this adapter.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r1jax.config import Frame
from r1jax.environments.dialogue import USER
from r1jax.types import Problem, Reply, Response

Messages = list[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class MultiTurn:
    """The turns of such an environment (`r1jax.config.Environment`)."""

    make: Callable[[], Any]
    frame: Frame = USER
    turns: int = 8  # see `Environment`; theirs may end earlier
    output: int = 512
    deadline: float = 30.0

    def warm(self) -> None:
        """Makes it. Raises what making it raises."""
        _made(self.make)

    def __call__(self, problem: Problem, response: Response) -> Reply | None:
        said, _ = _played(_made(self.make), problem, response)
        return Reply(tuple(str(message['content']) for message in said)) if said else None


@dataclasses.dataclass(frozen=True)
class Rubric:
    """Their rewards as one of ours: Σ weight · reward, of the conversation as a list of messages."""

    make: Callable[[], Any]

    def warm(self) -> None:
        """Makes it. Raises what making it raises."""
        _made(self.make)

    def __call__(self, problem: Problem, response: Response) -> float:
        theirs = _made(self.make)
        _, state = _played(theirs, problem, response)
        rubric = theirs.rubric
        functions = _either(rubric, 'funcs', 'reward_funcs')
        weights = _either(rubric, 'weights', 'reward_weights')
        given = {name: state[name] for name in ('prompt', 'completion', 'answer', 'info', 'task')}
        given |= {'state': state, 'parser': getattr(rubric, 'parser', None)}
        return float(sum(w * _waited(_called(f, given)) for f, w in zip(functions, weights, strict=True)))


@dataclasses.dataclass(frozen=True)
class Questions:
    """Their data set as problems: the conversation before the policy's first turn is `meta['messages']`, which `template.chat` reads."""

    make: Callable[[], Any]
    limit: int = 0  # the first so many; 0: all
    kind: str = 'verifiers'

    def load(self) -> list[Problem]:
        """Reads the data set."""
        rows = _made(self.make).get_dataset()
        problems = []
        for i, row in enumerate(rows):
            if i == self.limit != 0:
                break
            prompt = row.get('prompt') or [{'role': 'user', 'content': row['question']}]
            messages = [{'role': 'user', 'content': prompt}] if isinstance(prompt, str) else list(prompt)
            meta = {'messages': messages, 'info': row.get('info') or {}, 'task': row.get('task') or 'default'}
            text = str(messages[-1]['content'])
            problems.append(Problem(i, text, str(row.get('answer') or ''), self.kind, meta=meta))
        return problems


@functools.cache
def _made(make: Callable[[], Any]) -> Any:
    return make()


def _played(theirs: Any, problem: Problem, response: Response) -> tuple[Messages, dict[str, Any]]:
    """What the environment says to the last turn, nothing where it is over, and the state that it has then."""
    prompt = list(problem.meta.get('messages') or [{'role': 'user', 'content': problem.prompt}])
    about = {'info': problem.meta.get('info', {}), 'task': problem.meta.get('task', 'default')}
    state = {'prompt': prompt, 'completion': [], 'answer': problem.answer, **about}
    state |= {'responses': [], 'trajectory': [], 'turn': 0}
    if hasattr(theirs, 'setup_state'):
        state = _waited(theirs.setup_state(state)) or state
    messages = list(prompt)
    said: Any = []
    for turn in response.turns[::2]:
        messages += said
        state['completion'] += said
        step = {'prompt': list(messages), 'completion': [{'role': 'assistant', 'content': turn}]}
        messages += step['completion']
        state['completion'] += step['completion']
        state['responses'].append(turn)
        state['trajectory'].append(step)
        state['turn'] += 1
        if _over(theirs, messages, state):
            return [], state
        answer = _waited(theirs.env_response(messages, state))
        said, state = answer if isinstance(answer, tuple) else (answer, state)
        if isinstance(said, str):
            said = {'role': 'user', 'content': said}
        said = [said] if isinstance(said, dict) else list(said)
    return said, state


def _over(theirs: Any, messages: Messages, state: dict[str, Any]) -> bool:
    """Whether they are over: earlier versions look at the messages, too."""
    both = len(_named(theirs.is_completed)) > 1
    return bool(_waited(theirs.is_completed(messages, state) if both else theirs.is_completed(state)))


def _named(function: Callable) -> Sequence[inspect.Parameter]:
    kinds = inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL
    return [p for p in inspect.signature(function).parameters.values() if p.kind not in kinds]


def _called(function: Callable, given: Mapping[str, Any]) -> Any:
    """A function with those of the arguments that it names; with all, where it takes any."""
    anything = len(_named(function)) < len(inspect.signature(function).parameters)
    wanted = {p.name for p in _named(function)}
    return function(**{name: value for name, value in given.items() if anything or name in wanted})


def _waited(value: Any) -> Any:
    return asyncio.run(value) if inspect.iscoroutine(value) else value


def _either(value: Any, *names: str) -> Any:
    """The attribute that has the first of these names."""
    found = next((getattr(value, name) for name in names if hasattr(value, name)), None)
    if found is None:
        raise ValueError(f'{type(value).__name__} has none of {", ".join(names)}: it is no Rubric of verifiers 0.1')
    return found
