"""`run`: an application behind uvicorn until SIGTERM or Ctrl-C, and how it stops.

`commands/serve.py` calls it. After the first signal running requests end, new ones and /health get 503; after the
second one, or `Settings.stop_timeout` seconds, what still runs is cancelled.
"""

from __future__ import annotations

import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from transformer_fast.server.calls import State
from transformer_fast.server.protocol import guarded
from transformer_fast.server.settings import Settings

# Connections that the system keeps for a server that does not accept: uvicorn's default.
_BACKLOG = 2048
# Seconds that an idle connection stays open: longer than 60, which proxies usually keep theirs.
_KEEP_ALIVE = 75
# Bytes of a request line and headers; longer ones are 431 with httptools, 400 with h11.
_MAX_HEAD = 64 << 10


def bound_socket(settings: Settings) -> socket.socket:
    """A socket at the address, before models are loaded: an address that is taken is known at once.

    Raises:
        OSError: the address is taken, or is none of this machine.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, proto)
        try:
            if sys.platform != "win32":  # there it would let two servers share the address
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
        except BaseException:
            made.close()
            raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"--host {settings.host} --port {settings.port}: {reason}") from error
    return made


def run(
    app: Starlette,
    settings: Settings,
    *,
    listening: socket.socket | None = None,
    started: Callable[[int], None] | None = None,
    stopper: Stopper | None = None,
) -> None:
    """Serves the application until the process is told to end.

    Args:
        listening: a bound socket, instead of one at `settings`' host and port.
        started: called with the port when requests are answered.
        stopper: what stops it besides signals; outside of the main thread there are none.

    Raises:
        OSError: as `bound_socket`.
    """
    listening = bound_socket(settings) if listening is None else listening
    state: State = app.state.server
    protocol = guarded(AutoHTTPProtocol, settings.read_timeout, settings.write_timeout, _MAX_HEAD)
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE,
        h11_max_incomplete_event_size=_MAX_HEAD,
    )
    with _logging(settings), listening:
        server = _Server(config, state, started)
        if stopper is not None:
            stopper.attach(server)
        server.run(sockets=[listening])


class Stopper:
    """Stops a server from another thread, as a signal does: what runs ends first; called again, it is cancelled."""

    _server: _Server | None = None

    def attach(self, server: _Server) -> None:
        self._server = server

    def stop(self) -> None:
        if self._server is not None:
            self._server.handle_exit(signal.SIGTERM, None)


class _Server(uvicorn.Server):
    """uvicorn's, which on a signal lets running requests end before it stops to listen."""

    def __init__(self, config: uvicorn.Config, state: State, started: Callable[[int], None] | None) -> None:
        super().__init__(config)
        self._state, self._told = state, started
        self._deadline: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._told is not None and sockets:
            self._told(sockets[0].getsockname()[1])

    def handle_exit(self, sig: int, frame: Any) -> None:
        if self._state.stopping:
            self._end()
        else:
            self._state.stopping = True
            self._deadline = time.monotonic() + self._state.settings.stop_timeout

    async def on_tick(self, counter: int) -> bool:
        over = await super().on_tick(counter)
        if self._state.stopping and not over:
            if self._state.in_flight == 0 and not any(map(_has_to_send, self.server_state.connections)):
                return True
            if self._deadline is not None and time.monotonic() > self._deadline:
                self._end()
        return over or self.should_exit

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.force_exit:
            for task in list(self.server_state.tasks):
                task.cancel()
            for connection in list(self.server_state.connections):
                connection.transport.abort()
        await super().shutdown(sockets)

    def _end(self) -> None:
        self.should_exit = self.force_exit = True


def _has_to_send(connection: Any) -> bool:
    """Does a part of an answer wait for the client?"""
    return connection.transport.get_write_buffer_size() > 0


class _JsonLines(logging.Formatter):
    """Log records as JSON; lines of the access log are JSON already."""

    def format(self, record: logging.LogRecord) -> str:
        if record.name.endswith(".access"):
            return record.getMessage()
        line = {"time": round(record.created, 3), "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


@contextmanager
def _logging(settings: Settings) -> Iterator[None]:
    """Log lines of the server on stderr while it runs, and uvicorn's warnings."""
    handler = logging.StreamHandler()
    line = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(_JsonLines() if settings.log_json else line)
    own, theirs = logging.getLogger("transformer_fast.server"), logging.getLogger("uvicorn")
    before = [(logger, logger.level, logger.propagate) for logger in (own, theirs)]
    for logger, level in ((own, logging.INFO), (theirs, logging.WARNING)):
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, level, propagate in before:
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
