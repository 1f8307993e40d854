"""`Guard`: what happens around every request, whatever answers it: ASGI middleware.

`app` puts it before the routes. It compares host, origin and key, refuses what comes while the server stops, numbers
requests, counts and logs them, and sets the headers that keep browsers from doing more than they should. What it logs
is no text of a request unless `Settings.log_texts` says so.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import logging
import re
import secrets
import time
from collections.abc import Collection

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from transformer_fast.server.calls import CLIENT_GONE, Endpoint, State
from transformer_fast.server.errors import ApiError, stopping
from transformer_fast.server.settings import Settings, is_loopback

access = logging.getLogger("transformer_fast.server.access")

_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
# Of answers that say nothing of their own: data, which a browser shows as such and runs nothing of.
_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_METHODS = b"GET, POST, OPTIONS"
# A client's own id of a request: what can stand in a header and in a line of a log.
_ID = re.compile(rb"[\w.:-]{1,64}", re.ASCII)
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]*)(:\d{1,5})?")
_ALWAYS = "/health"  # answered whatever Host says and while the server stops: probes call it by address


class Guard:
    """Around an ASGI application. open_paths: what needs no key."""

    def __init__(self, app: ASGIApp, state: State, open_paths: Collection[str]) -> None:
        self._app, self._state = app, state
        self._settings: Settings = state.settings
        self._keys = [_digest(key.encode()) for key in self._settings.api_keys]
        self._open = frozenset(open_paths)
        self._hosts = {name.lower() for name in self._settings.allowed_hosts}
        self._compares_hosts = self._settings.is_local or bool(self._hosts)
        self._origins = set(self._settings.cors_origins)
        self._start, self._count = secrets.token_hex(4), itertools.count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, state, headers = time.perf_counter(), self._state, dict(scope["headers"])
        scope["transformer_fast.id"] = self._id(headers)
        scope["transformer_fast.start"] = started
        origin = headers.get(b"origin")
        added = [*_HEADERS, (b"x-request-id", scope["transformer_fast.id"].encode()), *self._cors(origin)]
        status, size = 0, 0

        async def answer(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                own = list(message.get("headers", ()))
                policy = [] if any(name.lower() == _POLICY[0] for name, _ in own) else [_POLICY]
                message = {**message, "headers": [*own, *added, *policy]}
            elif message["type"] == "http.response.body":
                size += len(message.get("body", b""))
            await send(message)

        state.in_flight += 1
        try:
            refusal = self._refusal(scope, headers, origin)
            if refusal is not None:
                await refusal.response()(scope, receive, answer)
            elif scope["method"] == "OPTIONS" and origin is not None and b"access-control-request-method" in headers:
                await _preflight(answer)
            else:
                await self._app(scope, receive, answer)
        finally:
            state.in_flight -= 1
            seconds = time.perf_counter() - started
            self._record(scope, scope.get("transformer_fast.status", status or CLIENT_GONE), seconds, size)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes], origin: bytes | None) -> ApiError | None:
        path = scope["path"]
        if self._state.stopping and path != _ALWAYS:
            return stopping()
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self._compares_hosts and path != _ALWAYS and not self._is_known(host):
            message = f"the header Host is {host!r:.100}, which is none of this server's names (--allowed-host)"
            return ApiError(403, message, None, "unknown_host")
        if origin is not None and not self._is_welcome(origin.decode("latin-1"), host):
            message = "pages of this origin may not call the server (--cors-origin)"
            return ApiError(403, message, None, "unknown_origin")
        if scope["method"] == "OPTIONS" or not self._keys or path in self._open:
            return None
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        digest = _digest(key.strip())
        # All keys are compared, so that the time says nothing of which one fits.
        fits = sum(hmac.compare_digest(digest, known) for known in self._keys)
        if scheme.lower() == b"bearer" and fits:
            return None
        message = "no valid key: send the header Authorization: Bearer KEY"
        return ApiError(401, message, None, "invalid_api_key", {"WWW-Authenticate": "Bearer"})

    def _is_known(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        name = match[1].strip("[]") if match else ""
        return name in self._hosts or (self._settings.is_local and is_loopback(name))

    def _is_welcome(self, origin: str, host: str) -> bool:
        same = origin.lower() in (f"http://{host}", f"https://{host}")
        return same or origin in self._origins or "*" in self._origins

    def _cors(self, origin: bytes | None) -> list[tuple[bytes, bytes]]:
        if origin is None or not self._origins or not ({"*", origin.decode("latin-1")} & self._origins):
            return []
        exposed = (b"access-control-expose-headers", b"X-Request-Id, Retry-After")
        return [(b"access-control-allow-origin", origin), (b"vary", b"Origin"), exposed]

    def _id(self, headers: dict[bytes, bytes]) -> str:
        given = headers.get(b"x-request-id", b"")
        return given.decode() if _ID.fullmatch(given) else f"{self._start}-{next(self._count):x}"

    def _record(self, scope: Scope, status: int, seconds: float, size: int) -> None:
        endpoint = scope.get("endpoint")
        path = endpoint.path if isinstance(endpoint, Endpoint) else "other"
        self._state.metrics.requests.add(path, str(status))
        self._state.metrics.seconds.observe(seconds, path)
        if not access.isEnabledFor(logging.INFO):
            return
        line = {
            "client": (scope.get("client") or ("-",))[0],
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "milliseconds": round(seconds * 1000, 2),
            "bytes": size,
            "id": scope["transformer_fast.id"],
        }
        if "transformer_fast.body" in scope:
            line["body"] = scope["transformer_fast.body"].decode("utf-8", "backslashreplace")
        access.info("%s", _json(line) if self._settings.log_json else _words(line))


async def _preflight(send: Send) -> None:
    """What a browser asks before it lets a page of another origin call."""
    headers = [
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-allow-headers", b"Authorization, Content-Type, X-Request-Id"),
        (b"access-control-max-age", b"600"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _digest(key: bytes) -> bytes:
    """Of equal length for all keys, so that neither content nor length decides how long comparing takes."""
    return hashlib.sha256(key).digest()


def _json(line: dict[str, object]) -> str:
    now = time.time()
    clean = {name: _clean(value) if isinstance(value, str) else value for name, value in line.items()}
    return orjson.dumps({"time": round(now, 3), **clean}).decode()


def _words(line: dict[str, object]) -> str:
    return " ".join(_shown(value) if isinstance(value, str) else f"{value} {name}" for name, value in line.items())


def _shown(value: str) -> str:
    """A value that ends neither the line nor the field: a path may have any character."""
    return value if value.isascii() and value.isprintable() and " " not in value else ascii(value)


def _clean(value: str) -> str:
    return value.encode("utf-8", "backslashreplace").decode()
