"""What needs a real socket: clients that go, that are slow or send too much, and how the server stops.

Engines are stand-ins that never answer by themselves, so that a test knows what runs when.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import importlib
import importlib.util
import json
import re
import signal
import socket
import threading
import time

import numpy as np
import pytest

HOST = "127.0.0.1"
HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


class Engine:
    """Futures that the test completes."""

    def __init__(self):
        self.futures: list[concurrent.futures.Future] = []
        self.arrived = threading.Semaphore(0)

    def is_brief(self, inputs):
        return True

    def embed(self, inputs, **options):
        self.futures.append(concurrent.futures.Future())
        self.arrived.release()
        return self.futures[-1]

    def next(self):
        assert self.arrived.acquire(timeout=10)
        return self.futures[-1]

    def stats(self):
        return {}


def found(count: int = 1, size: int = 4):
    from transformer_fast.serving import Embeddings

    return Embeddings(np.zeros((count, size), np.float32), 1)


@contextlib.contextmanager
def running(models, **settings):
    """(a server in a thread, its port, what SIGTERM calls)"""
    pytest.importorskip("uvicorn")
    from transformer_fast.server import Settings, create_app
    from transformer_fast.server.run import Stopper, run

    ports, stopper = [], Stopper()
    ready = threading.Event()

    def started(port):
        ports.append(port)
        ready.set()

    settings = Settings(port=0, **settings)
    app = create_app(models, settings)
    thread = threading.Thread(target=run, args=(app, settings), kwargs={"started": started, "stopper": stopper})
    thread.start()
    assert ready.wait(10)
    try:
        yield ports[0], stopper, thread
    finally:
        stopper.stop()
        stopper.stop()
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture(autouse=True, params=["h11", "httptools"])
def protocol(request, monkeypatch):
    """What parses requests, in whose event loop: as without httptools and uvloop, and with them."""
    run = importlib.import_module("transformer_fast.server.run") if importlib.util.find_spec("uvicorn") else None
    if run is None:
        return request.param
    if request.param == "h11":
        from uvicorn.protocols.http.h11_impl import H11Protocol as protocol
    else:
        pytest.importorskip("httptools")
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as protocol
    loop = "asyncio" if request.param == "h11" else "auto"
    monkeypatch.setattr(run, "AutoHTTPProtocol", protocol)
    monkeypatch.setattr(run.uvicorn, "Config", functools.partial(run.uvicorn.Config, loop=loop))
    return request.param


@pytest.fixture
def engine():
    return Engine()


@pytest.fixture
def models(engine):
    pytest.importorskip("starlette")
    from transformer_fast.server import Served

    return {"slow": Served("slow", "embeddings", engine, None, dimensions=4)}


def connect(port: int, sent: bytes = b"", receive_buffer: int | None = None) -> socket.socket:
    made = socket.socket()
    if receive_buffer is not None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    made.settimeout(10)
    made.connect((HOST, port))
    made.sendall(sent)
    return made


def post(body: bytes = b'{"input": "a"}', head: bytes = HEAD) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def everything(connection: socket.socket) -> bytes:
    parts = []
    try:
        while part := connection.recv(1 << 16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def until(condition) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_what_runs_for_a_client_that_goes_is_cancelled(models, engine):
    with running(models) as (port, *_), connect(port, post()) as connection:
        future = engine.next()
        assert not future.cancelled()
        connection.close()
        until(future.cancelled)


def test_a_request_that_takes_too_long_is_cancelled(models, engine):
    with running(models, timeout=0.2) as (port, *_), connect(port, post()) as connection:
        future = engine.next()
        assert b" 504 " in connection.recv(1000)
        assert future.cancelled()


@pytest.mark.parametrize(
    "sent, answer",
    [(b"", b""), (HEAD, b""), (HEAD + b"Content-Length: 9\r\n\r\n{", b" 408 "), (b"nonsense\r\n\r\n", b" 400 ")],
    ids=["nothing", "half a head", "half a body", "no http"],
)
def test_slow_senders_are_cut_off(models, sent, answer):
    with running(models, read_timeout=0.2) as (port, *_), connect(port, sent) as connection:
        told = everything(connection)  # until the server closes
        assert answer in told[:40] and bool(told) == bool(answer)


def test_a_client_that_does_not_read_is_cut_off(models, engine):
    with running(models, write_timeout=0.2) as (port, *_), connect(port, post(), 4096) as connection:
        engine.next().set_result(found(500, 4096))  # 4 MB
        time.sleep(1)
        assert len(everything(connection)) < 4 << 20


def test_a_client_that_reads_slowly_gets_everything(models, engine):
    with running(models, write_timeout=0.5) as (port, *_), connect(port, post(), 4096) as connection:
        engine.next().set_result(found(100, 2048))
        size = 0
        length = None
        while length is None or size < length:
            part = connection.recv(1 << 17)
            assert part, "cut off"
            if length is None:
                head, part = part.split(b"\r\n\r\n", 1)
                length = int(re.search(rb"content-length: (\d+)", head.lower())[1])
            size += len(part)
            time.sleep(0.005)


def test_too_large_a_body_is_refused_before_it_is_sent(models):
    with running(models, max_body=1000) as (port, *_):
        with connect(port, HEAD + b"Content-Length: 99999\r\n\r\n") as connection:
            assert b" 413 " in everything(connection)[:40]
        chunk = b"190\r\n" + b"x" * 400 + b"\r\n"
        with connect(port, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 3) as connection:
            assert b" 413 " in everything(connection)[:40]


@pytest.mark.parametrize("name", [b"X-Long: ", b"X-Long"], ids=["a value", "a name"])
def test_too_long_a_head_is_refused(models, protocol, name):
    """Without the end that a parser waits for."""
    with running(models) as (port, *_), connect(port, HEAD + name) as connection:
        with contextlib.suppress(ConnectionError):
            for _ in range(40):
                connection.sendall(b"x" * 8192)
                time.sleep(0.001)
        assert {"h11": b" 400 ", "httptools": b" 431 "}[protocol] in everything(connection)[:40]


def test_the_body_of_a_refused_request_is_no_head(models, engine):
    """A client that is refused by its headers, and sends its body all the same, may ask again."""
    with running(models) as (port, *_), connect(port) as connection:
        connection.sendall(HEAD.replace(b"localhost", b"elsewhere") + b"Content-Length: 400000\r\n\r\n")
        told = b""
        while b"unknown_host" not in told:
            told += connection.recv(1 << 16)
        assert told.startswith(b"HTTP/1.1 403 ")
        for _ in range(40):
            connection.sendall(b" " * 10_000)
            time.sleep(0.001)
        connection.sendall(post())
        engine.next().set_result(found())
        told = b""
        while b"total_tokens" not in told:
            part = connection.recv(1 << 16)
            assert part, "cut off"
            told += part
        assert told.startswith(b"HTTP/1.1 200 ")


def test_a_long_head_after_another_request(models, engine):
    """What came before does not count."""
    with running(models) as (port, *_), connect(port) as connection:
        for _ in range(3):
            connection.sendall(post(head=HEAD + b"X-Long: " + b"x" * 40_000 + b"\r\n"))
            engine.next().set_result(found())
            told = b""
            while b"total_tokens" not in told:
                told += connection.recv(1 << 16)
            assert told.startswith(b"HTTP/1.1 200 ")


def test_a_connection_is_kept_after_an_answer(models, engine):
    with running(models) as (port, *_), connect(port) as connection:
        for _ in range(3):
            connection.sendall(post())
            engine.next().set_result(found())
            told = b""
            while b"total_tokens" not in told:
                told += connection.recv(1 << 16)
            assert told.startswith(b"HTTP/1.1 200 ")


def test_a_stop_lets_running_requests_end(models, engine):
    with running(models) as (port, stopper, thread), connect(port, post()) as connection, connect(port):
        future = engine.next()
        stopper.stop()
        for sent in (post(), b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"):
            with connect(port, sent) as late:
                told = everything(late)
                assert b" 503 " in told[:40] and b"retry-after" in told.lower()
        assert not future.cancelled() and thread.is_alive()
        future.set_result(found())
        assert b" 200 " in everything(connection)[:40]
        ended = time.monotonic()
        thread.join(10)
        assert time.monotonic() - ended < 2


@pytest.mark.parametrize("twice", [False, True])
def test_what_does_not_end_is_cancelled(models, engine, twice):
    """After the second signal, or after stop_timeout."""
    with running(models, stop_timeout=60 if twice else 0.3) as (port, stopper, thread), connect(port, post()):
        future = engine.next()
        stopper.stop()
        if twice:
            stopper.stop()
        thread.join(10)
        assert not thread.is_alive() and future.cancelled()


def test_streams(served):
    """A client that leaves a stream ends its generation; one that waits is answered meanwhile."""
    body = {"model": "chat", "prompt": "a", "max_tokens": 4000, "stream": True}
    head = HEAD.replace(b"embeddings", b"completions")
    engine = served["chat"].engine
    before = engine.stats()["cancelled"]
    with running({"chat": served["chat"]}) as (port, *_):
        with connect(port, post(json.dumps(body).encode(), head)) as connection:
            assert b"data: " in connection.recv(1 << 16) + connection.recv(1 << 16)
        until(lambda: engine.stats()["cancelled"] == before + 1)
        with connect(port, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n") as connection:
            assert b" 200 " in connection.recv(1000)


def test_the_command(tmp_path):
    """Loads, answers, says where, and ends with 0 after SIGTERM and after Ctrl-C."""
    pytest.importorskip("httpx")
    import httpx
    from model_folders import write_sentence_model
    from servers import Server

    folder = write_sentence_model(tmp_path / "minilm")
    keys = tmp_path / "keys"
    keys.write_text("# of tests\n\n k-1 \n")
    for sent in (signal.SIGTERM, signal.SIGINT):
        with Server({"m": folder}, "--api-key-file", str(keys), "--log-json", "--threads", "1") as server:
            answer = httpx.post(f"{server.url}/v1/embeddings", json={"input": "the cat"})
            assert answer.status_code == 401
            headers = {"Authorization": "Bearer k-1"}
            answer = httpx.post(f"{server.url}/v1/embeddings", json={"input": "the cat"}, headers=headers)
            assert answer.status_code == 200 and answer.json()["model"] == "m"
            server.process.send_signal(sent)
            assert server.process.wait(10) == 0
        lines = [json.loads(line) for line in server.lines if line.startswith("{")]
        assert [line["status"] for line in lines] == [401, 200]
        assert any("m (embeddings)" in line for line in server.lines)
