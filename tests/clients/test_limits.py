"""Clients that send, read or wait too slowly, by the seconds that `serve` is told; and what SIGTERM does to them."""

from __future__ import annotations

import socket
import time

import pytest
from servers import Server

HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 40\r\n"


@pytest.fixture(scope="module")
def hasty(folders):
    options = ("--read-timeout", "0.5", "--write-timeout", "0.5", "--stop-timeout", "1")
    with Server({"embed": folders["embed"]}, *options) as server:
        yield server


def rest(port: int, sent: bytes) -> tuple[bytes, float]:
    """(what comes until the server closes, seconds)"""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        began = time.monotonic()
        connection.sendall(sent)
        parts = []
        while part := connection.recv(1 << 16):
            parts.append(part)
        return b"".join(parts), time.monotonic() - began


@pytest.mark.parametrize("sent, expected", [(b"", b""), (HEAD, b""), (HEAD + b"\r\n" + b"{", b" 408 ")], ids=str)
def test_who_sends_too_slowly_is_cut_off(hasty, sent, expected):
    told, seconds = rest(hasty.port, sent)
    assert expected in told[:20] and bool(told) == bool(expected)
    assert 0.4 < seconds < 10


def test_a_request_that_never_comes_does_not_hold_up_the_stop(folders):
    with Server({"embed": folders["embed"]}, "--read-timeout", "60", "--stop-timeout", "1") as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(HEAD + b"\r\n" + b"{")
            time.sleep(0.2)
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < 10
