"""The socket and the process: the only door to uvicorn.

    with Server(app, service, host, port) as server: …    # in a thread of its own, for tests and programs
    Server(app, service, host, port).run()                # until SIGTERM or an interrupt

At SIGTERM nothing new is taken, what runs has a time of grace, and the process ends with status 0.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable

try:
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as error:
    raise ImportError("serving needs uvicorn: pip install 'r1jax[serve]'") from error

from r1jax.serve.options import Limits
from r1jax.serve.service import Service

log = logging.getLogger('r1jax.serve')
_HEADERS = 32 * 1024  # bytes


def _protocol(limits: Limits) -> type[H11Protocol]:
    class Protocol(H11Protocol):
        """HTTP, with an end to the patience for clients that send or read too slowly."""

        _headers: asyncio.TimerHandle | None = None
        _reading: asyncio.TimerHandle | None = None

        def connection_made(self, transport):
            super().connection_made(transport)
            self._await_headers()

        def connection_lost(self, exc):
            for timer in (self._headers, self._reading):
                if timer:
                    timer.cancel()
            super().connection_lost(exc)

        def data_received(self, data):
            idle = self.cycle is None or self.cycle.response_complete
            before = self.cycle
            if idle and not self._headers:
                self._await_headers()
            super().data_received(data)
            if self.cycle is not before and self._headers:  # the headers are there
                self._headers.cancel()
                self._headers = None

        def _await_headers(self):
            self._headers = self.loop.call_later(limits.body_seconds, self.transport.abort)

        def pause_writing(self):
            super().pause_writing()
            self._reading = self.loop.call_later(limits.stall, self.transport.abort)

        def resume_writing(self):
            super().resume_writing()
            if self._reading:
                self._reading.cancel()
                self._reading = None

    return Protocol


class Server(uvicorn.Server):
    """A server for one application."""

    should_exit: bool  # uvicorn's own

    def __init__(self, app: Callable, service: Service, host: str = '127.0.0.1', port: int = 0):
        """Binds the port, 0 for any that is free. OSError: it is taken."""
        limits = service.limits
        config = uvicorn.Config(
            app,
            http=_protocol(limits),
            ws='none',
            lifespan='off',
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=_HEADERS,
            limit_concurrency=limits.connections,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=int(limits.grace) + 5,
        )
        super().__init__(config)
        self._service = service
        family = socket.AF_INET6 if ':' in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=512)
        self.host, self.port = host, self._socket.getsockname()[1]
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f'http://[{self.host}]:{self.port}' if ':' in self.host else f'http://{self.host}:{self.port}'

    def run(self, sockets=None) -> None:
        """Until a signal."""
        super().run([self._socket])

    def handle_exit(self, sig, frame) -> None:
        """Of a signal: the first begins the end, another hurries it. None is raised again when all is over."""
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True

    async def shutdown(self, sockets=None) -> None:
        """Takes nothing more, and waits for what there is; after the time of grace cuts it."""
        for server in self.servers:
            server.close()
        if self._service.open:
            log.warning('stopping: %d requests have %g s', len(self._service.open), self._service.limits.grace)
        self._service.draining, loop = True, asyncio.get_running_loop()
        end = loop.time() + self._service.limits.grace
        while self._service.open and loop.time() < end and not self.force_exit:
            await asyncio.sleep(0.05)
        self._service.cut()
        await super().shutdown(sockets)

    def __enter__(self) -> Server:
        self._thread = threading.Thread(target=self.run, name='http', daemon=True)
        self._thread.start()
        while not self.started:
            self._thread.join(0.01)
            if not self._thread.is_alive():
                raise RuntimeError('the server did not start')
        return self

    def __exit__(self, *_: object) -> None:
        self.should_exit = True
        self._thread.join()
