"""Running generations of a request: waiting for all of them, or sending their pieces as server-sent events.

`chat` and `completions` call `started`, then `finished` or `Events`. Every generation ends when the client goes,
when it reads too slowly, or when the request takes too long.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from transformer_fast.server.calls import CLIENT_GONE, Call, Deadline
from transformer_fast.server.errors import ApiError, as_api_error, stopping
from transformer_fast.server.served import Served
from transformer_fast.serving import Completion, Generation, Piece

# Pieces that wait for a client that reads slowly: 2 MB of usual events.
_MOST_WAITING = 8192
# Seconds without an event after which a comment is sent, so that no proxy takes the connection for a dead one.
_PING = 15.0
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would collect events
]


@dataclass(frozen=True)
class Prompt:
    """What a generation begins with. options: of `LanguageEngine.submit`."""

    ids: Sequence[int]
    options: dict[str, Any]


def submitted(model: Served, prompts: Sequence[Prompt], count: int) -> Submitted:
    """`count` generations of each prompt, in that order; all of them or none. It may compile a constraint.

    Raises:
        as `LanguageEngine.submit`.
    """
    running = Submitted()
    try:
        for prompt in prompts:
            for i in range(count):
                options = prompt.options
                if i and "seed" in options:
                    options = {**options, "seed": options["seed"] + i}
                running.append(model.engine.submit(prompt.ids, **options))
    except BaseException:
        running.cancel()
        raise
    return running


class Submitted(list[Generation]):
    def cancel(self) -> None:
        for one in self:
            one.cancel()


async def started(call: Call, model: Served, prompts: Sequence[Prompt], count: int) -> Submitted:
    """As `submitted`, in a thread: admission may compile a schema."""
    return await call.in_thread(submitted, model, prompts, count, param="prompt")


async def finished(call: Call, model: Served, running: Submitted) -> list[Completion]:
    """The whole answers.

    Raises:
        ApiError: 504, or what the engine raises. ClientGone.
    """
    try:
        futures = [asyncio.wrap_future(_whole(one)) for one in running]
        answers = await call.outcome(asyncio.gather(*futures))
    finally:
        running.cancel()
    if any(one.finish_reason == "cancelled" for one in answers):
        raise stopping()
    _count(call, model, running, sum(len(one.ids) for one in answers))
    return answers


def _whole(running: Generation) -> Future[Completion]:
    """A future of the whole answer: the event loop is called once, not for each piece."""
    done: Future[Completion] = Future()

    def take(piece: Piece) -> None:
        if piece.finish_reason is not None and done.set_running_or_notify_cancel():
            done.set_result(running.result())

    def fail(error: BaseException) -> None:
        if done.set_running_or_notify_cancel():
            done.set_exception(error)

    running.listen(take, fail)
    return done


def usage(running: Iterable[Generation], count: int, new_tokens: int) -> dict[str, Any]:
    """OpenAI's `usage`; a prompt counts once for its `count` answers."""
    prompts = list(running)[::count]
    read, known = sum(one.prompt_tokens for one in prompts), sum(one.cached_tokens for one in prompts)
    return {
        "prompt_tokens": read,
        "completion_tokens": new_tokens,
        "total_tokens": read + new_tokens,
        "prompt_tokens_details": {"cached_tokens": known},
    }


def _count(call: Call, model: Served, running: Submitted, new_tokens: int) -> None:
    call.state.metrics.prompt_tokens.add(model.name, amount=sum(one.prompt_tokens for one in running))
    call.state.metrics.new_tokens.add(model.name, amount=new_tokens)


class Events:
    """An ASGI response that sends the pieces of generations as they come.

    first: events before any piece. piece: (index, piece) -> events; last: tokens of all answers -> events.
    """

    def __init__(
        self,
        call: Call,
        model: Served,
        running: Submitted,
        first: Sequence[Any],
        piece: Callable[[int, Piece], Iterable[Any]],
        last: Callable[[int], Iterable[Any]],
    ) -> None:
        self._call, self._model, self._running = call, model, running
        self._first, self._piece, self._last = first, piece, last
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[int, Piece | BaseException] | None] = deque()
        self._arrived = asyncio.Event()
        self._gone = False
        self._open, self._tokens = len(running), 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        watch = self._loop.create_task(self._watch(receive))
        self._timer = self._loop.call_later(_PING, self._ping)
        try:
            with Deadline(self._call.state.settings.timeout):
                await self._send_all(send)
        except TimeoutError:
            seconds = self._call.state.settings.timeout
            await self._end(send, ApiError(504, f"the answer did not end within {seconds:g} s", None, "timeout"))
        finally:
            self._running.cancel()
            watch.cancel()
            self._timer.cancel()
        if self._gone:
            scope["transformer_fast.status"] = CLIENT_GONE
        _count(self._call, self._model, self._running, self._tokens)

    async def _send_all(self, send: Send) -> None:
        for i, one in enumerate(self._running):
            self._listen(i, one)
        await _send(send, [_event(one) for one in self._first])
        told = False
        while self._open:
            await self._arrived.wait()
            self._arrived.clear()
            if self._gone:
                return
            written = []
            while self._waiting:
                item = self._waiting.popleft()
                if item is None:
                    written.append(b": waiting\n\n")
                    continue
                index, piece = item
                if isinstance(piece, BaseException):
                    return await self._end(send, as_api_error(piece), written)
                if piece.finish_reason == "cancelled":
                    return await self._end(send, stopping(), written)
                self._tokens += len(piece.ids)
                self._open -= piece.finish_reason is not None
                written += [_event(one) for one in self._piece(index, piece)]
            if written:
                await _send(send, written)
            if not told and self._tokens:
                told = True
                seconds = time.perf_counter() - self._call.scope["transformer_fast.start"]
                self._call.state.metrics.first_token.observe(seconds, self._model.name)
        await _send(send, [*(_event(one) for one in self._last(self._tokens)), b"data: [DONE]\n\n"])
        await send({"type": "http.response.body", "body": b""})

    async def _end(self, send: Send, error: ApiError, written: Sequence[bytes] = ()) -> None:
        """An error in place of what was still to come: the status has been sent."""
        await _send(send, [*written, _event(error.content())])
        await send({"type": "http.response.body", "body": b""})

    def _listen(self, index: int, running: Generation) -> None:
        def take(piece: Piece | BaseException) -> None:
            self._loop.call_soon_threadsafe(self._take, index, piece)

        running.listen(take, take)

    def _take(self, index: int, piece: Piece | BaseException) -> None:
        self._waiting.append((index, piece))
        self._arrived.set()
        if len(self._waiting) > _MOST_WAITING:
            self._give_up()

    def _ping(self) -> None:
        if not self._waiting:
            self._waiting.append(None)
            self._arrived.set()
        self._timer = self._loop.call_later(_PING, self._ping)

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._give_up()

    def _give_up(self) -> None:
        self._gone = True
        self._running.cancel()
        self._arrived.set()


def _event(content: Any) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"


async def _send(send: Send, events: Sequence[bytes]) -> None:
    await send({"type": "http.response.body", "body": b"".join(events), "more_body": True})
