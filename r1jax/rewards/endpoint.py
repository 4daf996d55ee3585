"""A judge behind an OpenAI-compatible endpoint (`POST BASE_URL/chat/completions`): vLLM, SGLang, llama.cpp, `r1jax serve`, or a
provider. The only door to httpx2, which the extra `judge` installs.

One call is one request; patience, memory and money are `r1jax.rewards.asking`'s. The key is read from the environment when the first
request is made, and is written nowhere.

Left out: streaming, and the clients of providers: one request of one shape needs neither.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import time
from collections.abc import Sequence
from typing import Any, Literal

from r1jax.rewards.answers import Reply, Stop
from r1jax.rewards.asking import Ask, Unavailable

_LARGEST = 8 * 2**20  # bytes of a response that are read: an endpoint must not fill the memory
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}
_OURS = {401, 402, 403, 404, 405}  # wrong key, unpaid, wrong address or model: no other question fares better


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A chat model by its name at `base_url`."""

    model: str
    base_url: str  # as `http://localhost:8000/v1`
    key_variable: str = ''  # name of the environment variable that holds the key; '': no key is sent
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 4096  # of an answer, its reasoning included
    seed: int | None = 0  # of the draws; None: none is sent, for endpoints that refuse the field
    # OpenAI's reasoning models want the second
    limit_field: Literal['max_tokens', 'max_completion_tokens'] = 'max_tokens'
    extra: tuple[tuple[str, Any], ...] = ()  # further fields of the request, as `(('reasoning_effort', 'low'),)`
    timeout: float = 300.0  # seconds for one answer; also for each silence within it
    workers: int = 8
    per_minute: float = 0.0
    price: tuple[float, float] = (0.0, 0.0)
    batch = 1

    @property
    def identity(self) -> str:
        """What changes an answer: everything but the key, time limits and prices."""
        sent = self._body(()) | {'base_url': self.base_url, 'seed': self.seed}
        return json.dumps(sent, sort_keys=True)

    def __call__(self, asks: Sequence[Ask]) -> Sequence[Reply]:
        """The reply to one question.

        Raises:
          Unavailable: too many requests, a fault of the server or the network, no answer in time, or no sense in it.
          Stop: the endpoint refuses us (key, address, model, quota), whatever we ask.
          ImportError: httpx2 is not installed.
        """
        (ask,) = asks
        body = self._body(ask.messages) | ({} if self.seed is None else {'seed': ask.seed(self.seed)})
        status, after, content = self._post(json.dumps(body).encode())
        where = (
            f'{self.base_url}, model {self.model}: HTTP {status}: {content[:300].decode("utf-8", "replace").strip()}'
        )
        if status in _OURS or (b'insufficient_quota' in content[:2000] and status == 429):
            raise Stop(
                f'{where}; check base_url, model and the key in {self.key_variable or "key_variable (none given)"}'
            )
        if status in _PASSING:
            raise Unavailable(where, after)
        if 400 <= status < 500:
            return [Reply('', False, refusal=where)]
        if status != 200:
            raise Unavailable(where)
        return [_reply(content, where)]

    def _body(self, messages: Sequence[tuple[str, str]]) -> dict[str, Any]:
        return {
            'model': self.model,
            'messages': [{'role': role, 'content': content} for role, content in messages],
            'temperature': self.temperature,
            'top_p': self.top_p,
            self.limit_field: self.max_tokens,
        } | dict(self.extra)

    def _post(self, body: bytes) -> tuple[int, float | None, bytes]:
        """Status, seconds that the server asks to wait, and content."""
        httpx2, until = _httpx2(), time.monotonic() + self.timeout
        content = bytearray()
        try:
            with self._client.stream('POST', 'chat/completions', content=body) as response:
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > _LARGEST:
                        raise Unavailable(f'{self.base_url} sent more than {_LARGEST} bytes', charged=True)
                    if time.monotonic() > until:
                        raise Unavailable(f'{self.base_url} took more than {self.timeout} s', charged=True)
                return response.status_code, _seconds(response.headers.get('retry-after')), bytes(content)
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise Stop(f'base_url={self.base_url!r} is no address such as http://localhost:8000/v1: {error}') from error
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            raise Unavailable(f'{self.base_url} is not reached: {error}') from error
        except (httpx2.HTTPError, httpx2.StreamError) as error:  # begun, and perhaps charged
            raise Unavailable(f'{self.base_url}: {type(error).__name__}: {error}', charged=True) from error

    @functools.cached_property
    def _client(self):
        headers = {'content-type': 'application/json'}
        if self.key_variable:
            if not (key := os.environ.get(self.key_variable, '').strip()):
                raise Stop(
                    f'the environment variable {self.key_variable} is not set: it holds the key of {self.base_url}'
                )
            headers['authorization'] = f'Bearer {key}'
        limits = _httpx2().Limits(max_connections=self.workers)
        url = self.base_url.rstrip('/') + '/'
        return _httpx2().Client(base_url=url, headers=headers, timeout=self.timeout, limits=limits)


def _reply(content: bytes, where: str) -> Reply:
    """Reads the body of an answer. Unavailable where it is none: a server that says 200 and sends a page of its proxy."""
    try:
        data = json.loads(content)
        choice = data['choices'][0]
        text = choice['message']['content']
        usage = data.get('usage') or {}
        tokens = usage.get('prompt_tokens'), usage.get('completion_tokens')
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Unavailable(f'no chat completion ({type(error).__name__}): {where}', charged=True) from error
    finished = choice.get('finish_reason') in ('stop', None) and isinstance(text, str)
    asked, answered = (n if isinstance(n, int) and n >= 0 else None for n in tokens)
    return Reply(text if isinstance(text, str) else '', finished, asked, answered)


def _seconds(header: str | None) -> float | None:
    """Retry-After in seconds, at most ten minutes; None where it is missing or a date."""
    try:
        return min(max(float(header), 0.0), 600.0)
    except (TypeError, ValueError):
        return None


def _httpx2():
    try:
        import httpx2
    except ImportError as error:
        raise ImportError("a judge behind an endpoint needs httpx2: pip install 'r1jax[judge]'") from error
    return httpx2
