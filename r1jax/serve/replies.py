"""OpenAI's JSON: whole answers and the events of a stream."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

import r1jax
from r1jax.serve.model import Served
from r1jax.serve.service import Delta, Generation, Likely
from r1jax.serve.text import Said


class Reply:
    """What is said of one request; `Chat` and `Completion` differ in its choices."""

    prefix = kind = streamed = ''

    def __init__(self, served: Served, generation: Generation):
        self._tokenizer, self._generation = served.tokenizer, generation
        named = f'{r1jax.__version__} {served.what} {served.config}'
        self._head = {
            'id': f'{self.prefix}-{secrets.token_hex(12)}',
            'created': int(time.time()),
            'model': served.name,
            'system_fingerprint': f'r1jax-{hashlib.blake2b(named.encode(), digest_size=5).hexdigest()}',
        }

    def whole(self, deltas: Sequence[Delta]) -> dict[str, Any]:
        """The answer to a request that is over, of all that came."""
        choices = []
        for voice in self._generation.voices:
            own = [delta for delta in deltas if delta.index == voice.index]
            said = [each for delta in own for each in delta.said]
            logprobs = [each for delta in own for each in delta.logprobs]
            choices.append(self.choice(voice.index, said, logprobs, voice.finish))
        return {**self._head, 'object': self.kind, 'choices': choices, 'usage': self.usage()}

    def first(self) -> Iterator[dict[str, Any]]:
        """Events before anything has come."""
        return iter(())

    def event(self, delta: Delta) -> Iterator[dict[str, Any]]:
        """Events of what has come."""
        if delta.said or delta.logprobs or delta.finish:
            yield self.chunk([self.change(delta)])

    def last(self) -> Iterator[dict[str, Any]]:
        """Events when all is over."""
        if self._generation.asked.usage:
            yield self.chunk([]) | {'usage': self.usage()}

    def chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        usage = {'usage': None} if self._generation.asked.usage else {}
        return {**self._head, 'object': self.streamed, 'choices': choices, **usage}

    def usage(self) -> dict[str, Any]:
        generation = self._generation
        prompt, new = generation.prompt_tokens, sum(voice.tokens for voice in generation.voices)
        thought = sum(voice.reasoning for voice in generation.voices)
        details = {'completion_tokens_details': {'reasoning_tokens': thought}} if thought else {}
        return {'prompt_tokens': prompt, 'completion_tokens': new, 'total_tokens': prompt + new, **details}

    def choice(
        self, index: int, said: Sequence[Said], logprobs: Sequence[Likely], finish: str | None
    ) -> dict[str, Any]:
        raise NotImplementedError

    def change(self, delta: Delta) -> dict[str, Any]:
        raise NotImplementedError

    def _written(self, token: int) -> tuple[str, list[int]]:
        """A token as text and as bytes; text shows what is no character as U+FFFD."""
        raw = self._tokenizer.token_bytes(token)
        return raw.decode('utf-8', 'replace'), list(raw)


class Chat(Reply):
    prefix, kind, streamed = 'chatcmpl', 'chat.completion', 'chat.completion.chunk'

    def first(self):
        for voice in self._generation.voices:
            opening = {'role': 'assistant', 'content': ''}
            yield self.chunk([{'index': voice.index, 'delta': opening, 'logprobs': None, 'finish_reason': None}])

    def choice(self, index, said, logprobs, finish):
        message = {'role': 'assistant', 'content': _text(said, 'content'), 'refusal': None}
        if thought := _text(said, 'reasoning'):
            message['reasoning_content'] = thought
        return {'index': index, 'message': message, 'logprobs': self._logprobs(logprobs), 'finish_reason': finish}

    def change(self, delta):
        named = {'reasoning_content': _text(delta.said, 'reasoning'), 'content': _text(delta.said, 'content')}
        new = {name: text for name, text in named.items() if text}
        logprobs = self._logprobs(delta.logprobs)
        return {'index': delta.index, 'delta': new, 'logprobs': logprobs, 'finish_reason': delta.finish}

    def _logprobs(self, likely: Sequence[Likely]) -> dict[str, Any] | None:
        if not self._generation.asked.logprobs:
            return None
        content = [
            self._entry(each.id, each.logprob) | {'top_logprobs': [self._entry(*other) for other in each.others]}
            for each in likely
        ]
        return {'content': content, 'refusal': None}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        text, raw = self._written(token)
        return {'token': text, 'logprob': _finite(logprob), 'bytes': raw}


class Completion(Reply):
    prefix, kind, streamed = 'cmpl', 'text_completion', 'text_completion'

    def __init__(self, served: Served, generation: Generation):
        super().__init__(served, generation)
        self._offset = [0] * len(generation.voices)  # characters of each answer whose tokens were told

    def first(self):
        if self._generation.asked.echo:
            for voice in self._generation.voices:
                echo = self._echo(voice.index)
                yield self.chunk([{'index': voice.index, 'text': echo, 'logprobs': None, 'finish_reason': None}])

    def choice(self, index, said, logprobs, finish):
        text = (self._echo(index) if self._generation.asked.echo else '') + _text(said, 'content')
        return {'index': index, 'text': text, 'logprobs': self._logprobs(index, logprobs), 'finish_reason': finish}

    def change(self, delta):
        logprobs = self._logprobs(delta.index, delta.logprobs)
        text = _text(delta.said, 'content')
        return {'index': delta.index, 'text': text, 'logprobs': logprobs, 'finish_reason': delta.finish}

    def _echo(self, index: int) -> str:
        i = index // self._generation.asked.n
        prompt = self._generation.asked.prompts[i]
        return prompt if isinstance(prompt, str) else self._tokenizer.decode(prompt)

    def _logprobs(self, index: int, likely: Sequence[Likely]) -> dict[str, Any] | None:
        if not self._generation.asked.logprobs:
            return None
        out: dict[str, Any] = {'tokens': [], 'token_logprobs': [], 'top_logprobs': [], 'text_offset': []}
        for each in likely:
            text, _ = self._written(each.id)
            out['tokens'].append(text)
            out['token_logprobs'].append(_finite(each.logprob))
            out['top_logprobs'].append({self._written(i)[0]: _finite(logprob) for i, logprob in each.others})
            out['text_offset'].append(self._offset[index])
            self._offset[index] += len(text)
        return out


def _text(said: Sequence[Said], kind: str) -> str:
    return ''.join(each.text for each in said if each.kind == kind)


def _finite(logprob: float) -> float:
    return max(logprob, -9999.0)  # as OpenAI writes what cannot be: JSON has no infinity
