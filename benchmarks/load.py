"""The load of `benchmarks.serving`: clients of an embeddings endpoint, in a process of their own that costs little.

    python -m benchmarks.load       reads a JSON object a line, writes one a line

Requests are bytes that are made before the clock starts, answers are counted and not parsed; the clients are protocols
of one event loop, which on a machine of two processors leaves the server what it needs. `serving.py` starts it.

Two loads: closed, so many clients that send their next request when they have an answer; and open, requests at random
times (Poisson) whatever the answers do, whose latency counts from the time at which a request was due.
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

# Words of captions and news, as the sentences of STS benchmarks have.
_WORDS = (
    "a the man woman dog cat child group people is are was in on at with of and to for from near over under through "
    "playing riding walking running cooking eating reading talking sitting standing dancing singing holding watching "
    "guitar horse street field water kitchen table ball bike car train mountain beach house tree park city river "
    "red blue green white black small large young old two three several many new first government minister company "
    "police president market shares officials report million percent year week monday friday killed said announced"
).split()
# Fewest and most words of a text, and how many texts there are.
TEXTS = {"short": (8, 16, 2048), "mixed": (8, 250, 512)}


def texts_of(kind: str) -> list[str]:
    """The texts of a kind: the same in every process."""
    least, most, count = TEXTS[kind]
    rng = random.Random(kind)
    return [" ".join(rng.choices(_WORDS, k=rng.randint(least, most))) for _ in range(count)]


def requests_of(kind: str, size: int, port: int, path: str, model: str) -> list[bytes]:
    """One request after the other, of `size` texts each."""
    texts, made = texts_of(kind), []
    for start in range(0, len(texts) - size + 1, size):
        body = json.dumps({"model": model, "input": texts[start : start + size]}).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        made.append(head.encode() + body)
    return made


class _Client(asyncio.Protocol):
    """A connection, with one request at a time."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._held, self._whole = 0, None
        self._done: Callable[[_Client, bytes], None] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def send(self, request: bytes, done: Callable[[_Client, bytes], None]) -> None:
        self._done = done
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)
        self._held += len(data)
        if self._whole is None:
            data = b"".join(self._parts)
            head, found, _ = data.partition(b"\r\n\r\n")
            if not found:
                return
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"the server answered {data[:300]!r}")
            self._whole = len(head) + 4 + int(fields[b"content-length"])
        if self._held < self._whole:
            return
        done, answer = self._done, self._parts
        self._parts, self._held, self._whole, self._done = [], 0, None, None
        done(self, answer)

    def connection_lost(self, error: Exception | None) -> None:
        if self._done is not None:
            raise RuntimeError("the server closed the connection")


class _Load:
    """One measurement."""

    def __init__(self, requests: list[bytes], port: int) -> None:
        self._requests, self._port = requests, port
        self._next = 0
        self.latencies: list[float] = []
        self._ended = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().set_exception_handler(self._failed)

    async def closed(self, clients: int, seconds: float) -> float:
        """So many clients; returns the seconds until the last answer."""
        connections, waiting = [await self._connect() for _ in range(clients)], clients
        start = time.perf_counter()

        def send(client: _Client) -> None:
            begun = time.perf_counter()

            def done(client: _Client, answer: list[bytes]) -> None:
                nonlocal waiting
                now = time.perf_counter()
                self.latencies.append(now - begun)
                if now - start < seconds:
                    send(client)
                else:
                    waiting -= 1
                    if not waiting:
                        self._ended.set_result(None)

            client.send(self._request(), done)

        for client in connections:
            send(client)
        await self._ended
        lasted = time.perf_counter() - start
        for client in connections:
            client.transport.close()
        return lasted

    async def open(self, rate: float, seconds: float, connections: int = 64) -> float:
        """`rate` requests a second at random times; returns the seconds until the last answer."""
        loop, rng = asyncio.get_running_loop(), random.Random(0)
        free = [await self._connect() for _ in range(connections)]
        late: deque[float] = deque()  # due, and no connection is free
        sent, start, last = 0, time.perf_counter(), False

        def done(client: _Client, due: float) -> None:
            nonlocal sent
            self.latencies.append(time.perf_counter() - due)
            sent -= 1
            free.append(client)
            if late:
                begin(late.popleft())
            elif last and not sent:
                self._ended.set_result(None)

        def begin(due: float) -> None:
            nonlocal sent
            if not free:
                late.append(due)
                return
            sent += 1
            free.pop().send(self._request(), lambda client, answer: done(client, due))

        due = start
        while (due := due + rng.expovariate(rate)) < start + seconds:
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            loop.call_soon(begin, due)
        await asyncio.sleep(0)
        last = True
        if sent:
            await self._ended
        lasted = time.perf_counter() - start
        for client in free:
            client.transport.close()
        return lasted

    async def sample(self, count: int) -> list[Any]:
        """The parsed answers to the first requests."""
        client, answers = await self._connect(), []
        for request in self._requests[:count]:
            got = asyncio.get_running_loop().create_future()
            client.send(request, lambda client, answer, got=got: got.set_result(answer))
            answers.append(json.loads(b"".join(await got).partition(b"\r\n\r\n")[2]))
        client.transport.close()
        return answers

    def _request(self) -> bytes:
        self._next += 1
        return self._requests[self._next % len(self._requests)]

    async def _connect(self) -> _Client:
        _, client = await asyncio.get_running_loop().create_connection(_Client, "127.0.0.1", self._port)
        return client

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not self._ended.done():
            self._ended.set_exception(context.get("exception") or RuntimeError(context["message"]))


async def _measure(job: dict[str, Any]) -> dict[str, Any]:
    requests = requests_of(job["kind"], job["size"], job["port"], job["path"], job["model"])
    load = _Load(requests, job["port"])
    if "sample" in job:
        answers = await load.sample(job["sample"])
        return {"vectors": [one["embedding"] for answer in answers for one in answer["data"]]}
    before = resource.getrusage(resource.RUSAGE_SELF)
    if "rate" in job:
        lasted = await load.open(job["rate"], job["seconds"])
    else:
        lasted = await load.closed(job["clients"], job["seconds"])
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"latencies": load.latencies, "seconds": lasted, "cpu_seconds": spent}


def main() -> None:
    for line in sys.stdin:
        try:
            answer = asyncio.run(_measure(json.loads(line)))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
