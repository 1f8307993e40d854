"""`ApiError`: an answer that is an error, in OpenAI's form; and which errors of engines are the client's.

Every file of the package raises it; `calls` and `app` send it. {"error": {"message", "type", "param", "code"}}.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import orjson
from pydantic import ValidationError
from starlette.responses import Response

from transformer_fast.serving import Busy, Stopping

# Status -> OpenAI's type of error.
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    501: "server_error",
    503: "server_error",
    504: "server_error",
}
# What engines, tokenizers and chats raise about what a client sent.
_CLIENTS = (ValueError, TypeError, IndexError, NotImplementedError)
_SHOWN_ERRORS = 4  # of a body with many mistakes


class ApiError(Exception):
    """An answer other than 2xx: status, text, the parameter that it is about, a short code, further headers."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def content(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "invalid_request_error")
        # A client's text may hold half a surrogate pair, which no answer can.
        message = self.message.encode("utf-8", "backslashreplace").decode()
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        return Response(orjson.dumps(self.content()), self.status, self.headers, "application/json")


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, param, code)


@contextmanager
def engine_errors(param: str | None = None) -> Iterator[None]:
    """What engines, tokenizers and chat formats raise, as answers; a block of this holds nothing but their calls.

    Most are the library's texts about what the client sent; ImportError is an extra of this server
    that is not installed.
    """
    try:
        yield
    except (*_CLIENTS, Busy, Stopping, ImportError) as error:
        raise as_api_error(error, param) from error


def as_api_error(error: BaseException, param: str | None = None) -> ApiError:
    """The answer to what an engine raises; 500, without its text, for what it does not mean to raise."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Busy):
        wait = {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
        return ApiError(429, str(error), None, "server_busy", wait)
    if isinstance(error, Stopping):
        return stopping()
    if isinstance(error, ImportError):
        return ApiError(501, str(error), param, "not_installed")
    if isinstance(error, _CLIENTS):
        return bad_request(str(error), param)
    return ApiError(500, "the server failed; its log has the reason", None, "internal_error")


def stopping() -> ApiError:
    return ApiError(503, "the server is stopping", None, "stopping", {"Retry-After": "5", "Connection": "close"})


def from_validation(error: ValidationError) -> ApiError:
    """The answer to a body that does not fit its model: 400, which names the first parameter at fault."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    first = found[0]
    name = ".".join(str(part) for part in first["loc"])
    head = str(first["loc"][0]) if first["loc"] else None
    if first["type"] == "json_invalid":
        return bad_request(f"the body is no JSON: {first['msg'].removeprefix('Invalid JSON: ')}", None, "invalid_json")
    if first["type"] == "extra_forbidden":
        return bad_request(f"unknown parameter: {name!r:.200}", name[:200], "unknown_parameter")
    if first["type"] == "missing":
        return bad_request(f"missing parameter: {name!r:.200}", name[:200], "missing_required_parameter")
    # A parameter of several forms has an error for each of them.
    texts = dict.fromkeys(_told(one["msg"]) for one in found if one["loc"][:1] == first["loc"][:1])
    shown = "; or ".join(list(texts)[:_SHOWN_ERRORS])
    param = name if len(texts) == 1 else head
    return bad_request(f"{param or 'the body'}: {shown}", param and param[:200], "invalid_value")


def _told(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:300]
