"""What is refused, in the shape that OpenAI's clients know."""

from __future__ import annotations

from typing import Any

KINDS = {401: 'authentication_error', 403: 'permission_error', 404: 'not_found_error', 429: 'rate_limit_error'}


class Refused(Exception):
    """A request that is not answered as asked: a status, and a sentence with the value and the fix."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None, retry: int = 0):
        """retry: seconds after which the same request may do better; 0: it will not."""
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry = status, message, param, code, retry

    @property
    def body(self) -> dict[str, Any]:
        kind = KINDS.get(self.status, 'server_error' if self.status >= 500 else 'invalid_request_error')
        return {'error': {'message': self.message, 'type': kind, 'param': self.param, 'code': self.code}}

    @property
    def headers(self) -> dict[str, str]:
        named = {'www-authenticate': 'Bearer'} if self.status == 401 else {}
        return named | ({'retry-after': str(self.retry)} if self.retry else {})
