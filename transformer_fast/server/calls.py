"""`Endpoint` and `Call`: from an ASGI request to a validated body, and from an engine's future to an answer.

`app` makes a route of each `Endpoint`; functions of `endpoints/` take a `Call` and return a response. All that waits
for a client or an engine waits here: a body that comes too slowly, a client that goes, an answer that takes too long.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from transformer_fast.server.errors import ApiError, as_api_error, bad_request, from_validation
from transformer_fast.server.metrics import Metrics
from transformer_fast.server.served import Served
from transformer_fast.server.settings import Settings

log = logging.getLogger("transformer_fast.server")
T = TypeVar("T")
# Long texts that are tokenised, and schemas that are compiled, at once; computing has threads of its own.
_THREADS = 4
CLIENT_GONE = 499  # in log lines and counts, as nginx writes it: nobody is there to get it


class Body(BaseModel):
    """A request's body. What it does not know is refused by name, and so are NaN and numbers of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, regex_engine="rust-regex")


class ClientGone(Exception):
    """The client has closed the connection: what ran for it was cancelled, and nothing is sent."""


@dataclass
class State:
    """What all requests of a server share."""

    models: Mapping[str, Served]
    settings: Settings
    metrics: Metrics
    stopping: bool = False
    in_flight: int = 0
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_THREADS, "server"))


@dataclass(frozen=True, eq=False)
class Endpoint:
    """A path, what it takes and gives, and the function that answers.

    Attributes:
        body, reply: models of the request's and the answer's JSON; `reply` is for /openapi.json and tests alone.
        content: media type -> schema of answers that are no JSON.
        errors: statuses beyond those that every endpoint may have.
        open: answered without a key.
    """

    path: str
    answer: Callable[[Call], Awaitable[Response]]
    summary: str
    method: str = "POST"
    body: type[BaseModel] | None = None
    reply: type[BaseModel] | None = None
    content: Mapping[str, Any] = field(default_factory=dict)
    errors: tuple[int, ...] = ()
    open: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The endpoint as an ASGI application."""
        call = Call(self, scope, receive)
        try:
            if self.body is not None:
                await call.read(self.body)
            response = await self.answer(call)
        except ClientGone as error:
            _forget_frames(error)
            scope["transformer_fast.status"] = CLIENT_GONE
            return
        except ApiError as error:
            response = error.response()
            _forget_frames(error)
        except Exception as error:
            log.exception("%s %s failed", self.method, self.path)
            response = as_api_error(RuntimeError(error)).response()
            _forget_frames(error)
        await response(scope, receive, send)


class Call:
    """One request: its body, the server's state, and ways to wait for an engine."""

    def __init__(self, endpoint: Endpoint, scope: Scope, receive: Receive) -> None:
        self.endpoint, self.scope, self.receive = endpoint, scope, receive
        self.state: State = scope["app"].state.server
        self.body: Any = None

    @property
    def id(self) -> str:
        return self.scope["transformer_fast.id"]

    def model(self, name: str | None, *kinds: str) -> Served:
        """The model of that name; of those kinds the only one where no name is given.

        Raises:
            ApiError: there is none (404), it is of another kind, or a name is missing (400).
        """
        fitting = [one.name for one in self.state.models.values() if one.kind in kinds]
        if name is None:
            if len(fitting) == 1:
                return self.state.models[fitting[0]]
            raise bad_request(
                f"missing parameter: 'model'; {_here(fitting, kinds)}", "model", "missing_required_parameter"
            )
        found = self.state.models.get(name)
        if found is None:
            raise ApiError(404, f"there is no model {name!r:.200}; {_here(fitting, kinds)}", "model", "model_not_found")
        if found.kind not in kinds:
            raise bad_request(f"the model {name!r} is of the kind {found.kind}; {_here(fitting, kinds)}", "model")
        return found

    async def read(self, kind: type[BaseModel]) -> None:
        """Reads and validates the body."""
        data = await self._bytes()
        if self.state.settings.log_texts:
            self.scope["transformer_fast.body"] = data
        try:
            self.body = kind.model_validate_json(data)
        except ValidationError as error:
            raise from_validation(error) from None
        if b"NaN" in data or b"Infinity" in data:
            _refuse_words(data)

    async def result(self, future: concurrent.futures.Future[T], param: str | None = None) -> T:
        """What an engine's future gives; it is cancelled when the client goes or `timeout` is over.

        Raises:
            ApiError: 504, or what the engine raises. ClientGone.
        """
        return await self.outcome(asyncio.wrap_future(future), param)

    async def in_thread(self, function: Callable[..., T], *arguments: Any, param: str | None = None) -> T:
        """What the function gives that would keep the event loop from other requests.

        Raises:
            ApiError, ClientGone: as `result`. The function runs to its end; what it has begun is cancelled.
        """
        running = self.state.threads.submit(function, *arguments)
        try:
            return await self.outcome(asyncio.wrap_future(running), param)
        except BaseException:
            running.add_done_callback(_cancel_result)
            raise

    async def outcome(self, waiting: asyncio.Future[T], param: str | None = None) -> T:
        """As `result`, of an asyncio future."""
        watch = asyncio.get_running_loop().create_task(_cancel_when_gone(self.receive, waiting))
        try:
            with Deadline(self.state.settings.timeout):
                return await waiting
        except asyncio.CancelledError:
            if watch.done() and not watch.cancelled() and watch.result():
                raise ClientGone from None
            raise
        except TimeoutError:
            raise _too_late(self.state.settings.timeout) from None
        except (ApiError, ClientGone):
            raise
        except Exception as error:
            told = as_api_error(error, param)
            if told.status == 500:
                raise
            raise told from error
        finally:
            watch.cancel()
            waiting.cancel()

    async def _bytes(self) -> bytes:
        """The body, of at most `max_body` bytes in at most `read_timeout` seconds, as JSON."""
        limit = self.state.settings.max_body
        kind, length = _content(self.scope)
        if kind.split(b";")[0].strip().lower() != b"application/json":
            # Of a page of another site, a browser sends this type only after asking (CORS), others without.
            raise ApiError(415, "the header Content-Type has to be application/json", None, "unsupported_media_type")
        too_large = ApiError(413, f"the body has more than {limit} bytes", None, "too_large", {"Connection": "close"})
        if length is not None and length > limit:
            raise too_large
        body = b""
        try:
            with Deadline(self.state.settings.read_timeout):
                message = await self.receive()
                body, more = _part(message)
                if more:
                    parts, size = [body], len(body)
                    while more and size <= limit:
                        part, more = _part(await self.receive())
                        parts.append(part)
                        size += len(part)
                    body = b"".join(parts)
        except TimeoutError:
            raise ApiError(408, "the body came too slowly", None, "too_slow", {"Connection": "close"}) from None
        if len(body) > limit:
            raise too_large
        return body


class Deadline:
    """Raises TimeoutError inside the block after so many seconds; asyncio.timeout, which Python 3.10 does not have."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._over = False

    def __enter__(self) -> Deadline:
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._end)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._timer.cancel()
        if self._over and kind is asyncio.CancelledError:
            if hasattr(self._task, "uncancel"):
                self._task.uncancel()
            raise TimeoutError

    def _end(self) -> None:
        self._over = True
        self._task.cancel()


def json_response(content: Any, option: int | None = None) -> Response:
    return Response(orjson.dumps(content, option=option), media_type="application/json")


def _forget_frames(error: BaseException | None) -> None:
    """Lets go of what the functions that raised it had in hand: bodies and futures, which refer to the error itself.

    The garbage collector would come for them after many objects, however large these are: bodies refused for their size
    made a server of 100 MB one of 500 MB.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _too_late(seconds: float) -> ApiError:
    return ApiError(504, f"there was no answer within {seconds:g} s", None, "timeout")


def _here(names: list[str], kinds: tuple[str, ...]) -> str:
    wanted = " or ".join(kinds)
    return f"here is no model of the kind {wanted}" if not names else f"here are ({wanted}): {', '.join(names)}"


def _part(message: Message) -> tuple[bytes, bool]:
    if message["type"] == "http.disconnect":
        raise ClientGone
    return message.get("body", b""), message.get("more_body", False)


def _content(scope: Scope) -> tuple[bytes, int | None]:
    """The headers Content-Type and Content-Length."""
    kind, length = b"", None
    for name, value in scope["headers"]:
        if name == b"content-type":
            kind = value
        elif name == b"content-length" and value.isdigit() and len(value) < 20:
            length = int(value)
    return kind, length


async def _cancel_when_gone(receive: Receive, waiting: asyncio.Future) -> bool:
    while (await receive())["type"] != "http.disconnect":
        pass
    return waiting.cancel()


def _refuse_words(data: bytes) -> None:
    """pydantic takes NaN and Infinity for JSON where a body may have any value."""
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"the body is no JSON: {error}", None, "invalid_json") from None


def _cancel_result(done: concurrent.futures.Future) -> None:
    """Cancels what a function has submitted for a client that is no longer there."""
    if not done.cancelled() and done.exception() is None and hasattr(done.result(), "cancel"):
        done.result().cancel()
