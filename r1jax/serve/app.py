"""HTTP in, HTTP out: the only door to starlette.

    GET  /v1/models, /v1/models/NAME
    POST /v1/chat/completions, /v1/completions
    GET  /health, /metrics, /

Bodies are read up to a size and within a time. An answer is given up as soon as its client is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.resources
import json
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping, Sequence
from typing import Any

try:
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
except ImportError as error:
    raise ImportError("serving needs starlette: pip install 'r1jax[serve]'") from error

from r1jax.serve import asked, replies
from r1jax.serve.errors import Refused
from r1jax.serve.guard import Guard, Keys
from r1jax.serve.metrics import CONTENT_TYPE
from r1jax.serve.service import Generation, Service

log = logging.getLogger('r1jax.serve')
_PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def build(service: Service, keys: Keys, hosts: Sequence[str]) -> Starlette:
    """The ASGI application. `hosts`: see `r1jax.serve.guard`."""
    api = _Api(service, bool(keys))
    routes = [
        Route('/v1/models', api.models),
        Route('/v1/models/{name:path}', api.model),
        Route('/v1/chat/completions', api.chat, methods=['POST']),
        Route('/v1/completions', api.completion, methods=['POST']),
        Route('/health', api.health),
        Route('/metrics', api.metrics),
        Route('/', api.page),
    ]
    handlers: dict[Any, Any] = {Refused: _refused, HTTPException: _http, Exception: _failed}
    middleware = [
        Middleware(_Counted, service=service, paths=[route.path for route in routes]),
        Middleware(Guard, keys=keys, hosts=hosts, refuse=_response),
    ]
    return Starlette(routes=routes, exception_handlers=handlers, middleware=middleware)


class _Api:
    def __init__(self, service: Service, keyed: bool):
        self._service, self._served = service, service.served
        self._since, self._keyed = int(time.time()), keyed
        page = importlib.resources.files('r1jax.serve').joinpath('page.html').read_text(encoding='utf-8')
        self._page = page.replace('"R1JAX"', _script_json(self._settings()))

    async def models(self, request: Request) -> Response:
        return JSONResponse({'object': 'list', 'data': [self._model()]})

    async def model(self, request: Request) -> Response:
        if (name := request.path_params['name']) != self._served.name:
            raise Refused(404, f'the model {name!r} is not here', 'model', 'model_not_found')
        return JSONResponse(self._model())

    async def chat(self, request: Request) -> Response | _Stream:
        wanted = asked.chat(await self._body(request), self._served.name, self._service.most)
        return await self._answer(request, wanted, replies.Chat)

    async def completion(self, request: Request) -> Response | _Stream:
        wanted = asked.completion(await self._body(request), self._served.name, self._service.most)
        return await self._answer(request, wanted, replies.Completion)

    async def health(self, request: Request) -> Response:
        self._service.check()
        return JSONResponse({'status': 'ok', 'model': self._served.name})

    async def metrics(self, request: Request) -> Response:
        return Response(self._service.metrics.text(), headers={'content-type': CONTENT_TYPE})

    async def page(self, request: Request) -> Response:
        headers = {'content-security-policy': _PAGE_POLICY, 'x-content-type-options': 'nosniff'}
        return Response(self._page, media_type='text/html', headers=headers)

    def _model(self) -> dict[str, Any]:
        size = self._served.worker.size
        return {
            'id': self._served.name,
            'object': 'model',
            'created': self._since,
            'owned_by': 'r1jax',
            'max_model_len': size,
        }

    def _settings(self) -> dict[str, Any]:
        served = self._served
        has = {'model': served.name, 'context': served.worker.size, 'keyed': self._keyed, 'most': self._service.most}
        return has | {
            'temperature': served.temperature,
            'topP': served.top_p,
            'chat': bool(served.tokenizer.chat_template),
        }

    async def _body(self, request: Request) -> Any:
        """A request's JSON. Raises Refused: it is too long, too slow, or none."""
        most, seconds = self._service.limits.body, self._service.limits.body_seconds
        if request.headers.get('content-type', '').partition(';')[0].strip().lower() != 'application/json':
            # also what a web page of another site could send without asking
            raise Refused(415, 'send JSON, with content-type: application/json')
        long = Refused(413, f'the body has more than {most} bytes')
        if int(request.headers.get('content-length') or 0) > most:
            raise long
        parts, size = [], 0
        try:
            async with asyncio.timeout(seconds):
                async for part in request.stream():
                    size += len(part)
                    if size > most:
                        raise long
                    parts.append(part)
        except TimeoutError:
            raise Refused(408, f'the body did not come within {seconds:g} s') from None
        try:
            return asked.parsed(b''.join(parts))
        except ValueError as error:
            raise Refused(400, f'the body is not JSON: {str(error)[:200]}') from None

    async def _answer(self, request: Request, wanted: asked.Asked, kind: type[replies.Reply]) -> Response | _Stream:
        generation = await self._service.generation(wanted, request.state.who)
        if wanted.stream:
            await generation.__aenter__()  # what is refused is refused with a status
            return _Stream(generation, _events(generation, kind(self._served, generation)))

        async def whole() -> Response:
            async with generation:
                deltas = [delta async for delta in generation.deltas() if delta]
                return JSONResponse(kind(self._served, generation).whole(deltas))

        return await _while_there(request.receive, whole())


async def _events(generation: Generation, reply: replies.Reply) -> AsyncGenerator[bytes]:
    """The lines of a stream."""
    try:
        for event in reply.first():
            yield _event(event)
        async for delta in generation.deltas():
            if delta is None:
                yield b': waiting\n\n'
                continue
            for event in reply.event(delta):
                yield _event(event)
        for event in reply.last():
            yield _event(event)
        yield b'data: [DONE]\n\n'
    except Refused as refused:  # too late for a status
        yield _event(refused.body)


class _Stream:
    """Server-sent events, for as long as someone reads them; then the generation, which is entered already, is left."""

    def __init__(self, generation: Generation, events: AsyncGenerator[bytes]):
        self._generation, self._events = generation, events

    async def __call__(self, scope, receive, send) -> None:
        async def told() -> None:
            headers = [(b'content-type', b'text/event-stream; charset=utf-8'), (b'cache-control', b'no-store')]
            headers.append((b'x-accel-buffering', b'no'))
            await send({'type': 'http.response.start', 'status': 200, 'headers': headers})
            async for event in self._events:
                await send({'type': 'http.response.body', 'body': event, 'more_body': True})
            await send({'type': 'http.response.body', 'body': b'', 'more_body': False})

        try:
            with contextlib.suppress(ClientDisconnect):
                await _while_there(receive, told())
        finally:
            await self._events.aclose()
            await self._generation.__aexit__()


async def _while_there(receive: Callable[[], Awaitable[MutableMapping[str, Any]]], doing: Awaitable[Any]) -> Any:
    """What `doing` returns; it is cancelled as soon as the client is gone. Raises ClientDisconnect."""

    async def gone() -> None:
        while (await receive())['type'] != 'http.disconnect':
            pass

    tasks = [asyncio.ensure_future(doing), asyncio.ensure_future(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ClientDisconnect
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Counted:
    """Counts requests by path and status, and lets a client that is gone be gone."""

    def __init__(self, app: Callable, service: Service, paths: Sequence[str]):
        self._app, self._metrics, self._paths = app, service.metrics, paths

    async def __call__(self, scope, receive, send) -> None:
        if scope['type'] != 'http':
            await self._app(scope, receive, send)
            return
        status = 499  # as nginx has it: the client was gone before there was one

        async def noted(message) -> None:
            nonlocal status
            if message['type'] == 'http.response.start':
                status = message['status']
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except ClientDisconnect:
            await _silence(send)
        except Exception:
            status = 500
            raise
        finally:
            path = scope['path'] if scope['path'] in self._paths else 'other'
            self._metrics.request(path, status)


async def _silence(send) -> None:
    """Ends a response that no one reads, so that the server misses none."""
    await send({'type': 'http.response.start', 'status': 499, 'headers': [(b'connection', b'close')]})
    await send({'type': 'http.response.body', 'body': b'', 'more_body': False})


def _event(value: dict[str, Any]) -> bytes:
    return b'data: ' + json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b'\n\n'


def _script_json(value: Any) -> str:
    """JSON that may stand in a script of a page."""
    return json.dumps(value).replace('<', '\\u003c')


def _response(refused: Refused) -> Response:
    # what is left of a body that was not read is not worth reading
    close = {'connection': 'close'} if refused.status in (408, 413, 415, 421) else {}
    return JSONResponse(refused.body, refused.status, refused.headers | close)


async def _refused(request: Request, refused: Refused) -> Response:
    return _response(refused)


async def _http(request: Request, error: HTTPException) -> Response:
    said = {404: f'there is no {request.url.path}', 405: f'{request.url.path} has no method {request.method}'}
    response = _response(Refused(error.status_code, said.get(error.status_code, str(error.detail))[:300]))
    response.headers.update(error.headers or {})  # of 405, what is allowed
    return response


async def _failed(request: Request, error: Exception) -> Response:
    log.error('a request failed', exc_info=error)
    return _response(Refused(500, 'the server failed at this request: its log says how'))
