"""Before a request is read: who it comes from and by what name it called us. A plain ASGI layer.

Keys are kept as hashes and compared in constant time. Without keys whoever reaches the port may ask, which is why a server without
keys listens on loopback alone, and answers to no other name there: a web page whose name was made to point to 127.0.0.1 (DNS rebinding)
is a page of another site.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import pathlib
from collections.abc import Awaitable, Callable, Sequence

from r1jax.serve.errors import Refused
from r1jax.serve.options import LOOPBACK

KEYS = 'R1JAX_API_KEYS'  # in the environment, with commas between
_SHORTEST = 8
_OPEN = ('/', '/health')  # for all


class Keys:
    """The API keys that are taken; none: all requests are."""

    def __init__(self, keys: Sequence[str]):
        for key in keys:
            if len(key) < _SHORTEST or not key.isascii() or not key.isprintable() or ' ' in key:
                raise ValueError(f'an API key must be {_SHORTEST} or more ASCII characters without spaces')  # not shown
        self._known = [hashlib.sha256(key.encode()).digest() for key in dict.fromkeys(keys)]

    @classmethod
    def read(cls, file: pathlib.Path | None) -> Keys:
        """From a file, one a line ('#' begins a comment), and from the environment.

        Raises:
          ValueError: the file has none, or one is too short.
          OSError: the file cannot be read.
        """
        keys = [key.strip() for key in os.environ.get(KEYS, '').split(',') if key.strip()]
        if file is not None:
            lines = (line.partition('#')[0].strip() for line in file.read_text(encoding='utf-8').splitlines())
            found = [line for line in lines if line]
            if not found:
                raise ValueError(f'{file} has no API key: write one a line')
            keys += found
        return cls(keys)

    def __bool__(self) -> bool:
        return bool(self._known)

    def who(self, authorization: str | None) -> str:
        """The number of the key that a header brings, as text; '' where none is asked for. Raises Refused."""
        if not self._known:
            return ''
        scheme, _, key = (authorization or '').partition(' ')
        if scheme.lower() != 'bearer' or not key:
            raise Refused(401, 'no API key: send Authorization: Bearer KEY', code='invalid_api_key')
        digest = hashlib.sha256(key.strip().encode('utf-8', 'surrogateescape')).digest()
        found = [i for i, known in enumerate(self._known) if hmac.compare_digest(digest, known)]
        if not found:
            raise Refused(401, 'the API key is not one of this server', code='invalid_api_key')
        return str(found[0])


class Guard:
    """Lets in who may come; `scope['state']['who']` is then the key's number."""

    def __init__(self, app: Callable, keys: Keys, hosts: Sequence[str], refuse: Callable[[Refused], Callable]):
        """hosts: names under which we may be called; none: any. `refuse` makes an ASGI response."""
        self._app, self._keys, self._hosts, self._refuse = app, keys, hosts, refuse

    async def __call__(self, scope: dict, receive: Callable[[], Awaitable], send: Callable) -> None:
        if scope['type'] != 'http':
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode('latin-1') for name, value in scope['headers']}
        try:
            if self._hosts and (host := _host(headers.get(b'host', ''))) not in self._hosts:
                raise Refused(421, f'this server is not {host[:100]!r}: name it with --allow-host')
            open_ = scope['path'] in _OPEN
            scope.setdefault('state', {})['who'] = '' if open_ else self._keys.who(headers.get(b'authorization'))
        except Refused as refused:
            await self._refuse(refused)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def hosts(host: str, allowed: Sequence[str]) -> tuple[str, ...]:
    """The names that a server on `host` answers to: on loopback those of loopback and what is allowed besides, elsewhere any."""
    return (*LOOPBACK, *(each.lower() for each in allowed)) if host in LOOPBACK else ()


def _host(header: str) -> str:
    """Without the port."""
    if header.startswith('['):
        return header[1:].partition(']')[0]
    return header.rpartition(':')[0].lower() if ':' in header else header.lower()
