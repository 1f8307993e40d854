"""What the clients of a soak do, one after the other at random; soak.py runs them.

A kind of traffic is a method of `Traffic` and a line in KINDS. It raises where the server did something wrong:
whatever else it raises, the run goes on and reports it.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter

import numpy as np
from served_requests import chat, essence, requests
from soak_http import Answer, Connection, request
from soak_watch import Watch

LIMIT = 60.0  # seconds in which a whole answer has to be there
MAX_BODY = 1 << 20  # what soak.py gives --max-body

# Kind -> how often, next to the others.
KINDS = {
    "ordinary": 12,
    "kept_alive": 3,
    "cancelled": 5,
    "half_a_request": 2,
    "bad": 4,
    "slow_reader": 1,
    "stalled_reader": 0.3,
    "slow_writer": 1,
    "stalled_writer": 0.3,
    "silent": 0.3,
    "too_large": 1,
    "too_large_in_chunks": 0.3,
    "garbage": 1,
    "burst": 0.05,
}
_GAUGE = re.compile(r"^(\w*(?:in_flight|queue|running|waiting)\w*(?:\{[^}]*\})?) (\S+)$", re.MULTILINE)
# Path, body, statuses that say what is wrong; None: GET.
BAD: list[tuple[str, object, set[int]]] = [
    ("/v1/embeddings", b"{", {400}),
    ("/v1/embeddings", b"\xff\xfe", {400}),
    ("/v1/embeddings", b"[" * 100_000, {400}),
    ("/v1/embeddings", {}, {400}),
    ("/v1/embeddings", {"model": "embed", "input": [[10**12]]}, {400}),
    ("/v1/embeddings", {"model": "embed", "input": "a", "dimensions": -1}, {400}),
    ("/v1/embeddings", {"model": "none", "input": "a"}, {404}),
    ("/v1/embeddings", {"model": "embed", "input": ["a"] * 5_000}, {400}),
    ("/v1/rerank", {"model": "rerank", "query": 1, "documents": []}, {400}),
    ("/v1/chat/completions", {"model": "chat", "messages": []}, {400}),
    ("/v1/chat/completions", {"model": "chat", "messages": [{"role": "user"}]}, {400}),
    ("/v1/chat/completions", {"model": "embed", "messages": [{"role": "user", "content": "a"}]}, {400, 404}),
    ("/v1/chat/completions", chat("a", max_tokens=10**9)[1], {400}),
    ("/v1/chat/completions", chat("a" * 10_000)[1], {400}),
    ("/v1/chat/completions", chat("a", temperature="hot")[1], {400}),
    ("/v1/chat/completions", chat("a", response_format={"type": "json_schema"})[1], {400}),
    ("/v1/completions", {"model": "chat", "prompt": "a", "logit_bias": {"x": 1}}, {400}),
    ("/tokenize", {"model": "none", "prompt": "a"}, {400, 404}),
    ("/no/such/path", {}, {404}),
    ("/../../etc/passwd", None, {404}),
    ("/v1/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd", None, {404}),
    ("/v1/embeddings", None, {405}),
]


class Traffic:
    """Clients of one server, and what became of their requests."""

    def __init__(self, port: int, key: str, rng: np.random.Generator, timeout: float) -> None:
        """timeout: --read-timeout and --write-timeout of the server, in seconds."""
        self.port, self.key, self.rng, self.timeout = port, key, rng, timeout
        self.kinds: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.failures: list[str] = []
        self.right = 0
        self._known: list[tuple[bytes, object]] = []

    async def learn(self) -> None:
        """The right answer to each ordinary request: what it gets alone."""
        for path, body in requests(self.rng):
            sent = request(path, self.key, body)
            answer = await self._ask(sent)
            assert answer.status == 200, answer
            self._known.append((sent, essence(answer.headers["content-type"], answer.text)))

    async def client(self, number: int, end: float) -> None:
        kinds, weights = list(KINDS), np.array(list(KINDS.values()))
        while time.monotonic() < end:
            kind = str(self.rng.choice(kinds, p=weights / weights.sum()))
            self.kinds[kind] += 1
            try:
                await asyncio.wait_for(getattr(self, kind)(), LIMIT)
            except Exception as error:
                self.failures.append(f"{kind}: {type(error).__name__}: {str(error)[:500]}")
            await asyncio.sleep(self.rng.exponential(0.02))

    def report(self) -> dict:
        return {
            "kinds": dict(self.kinds),
            "statuses": dict(self.statuses),
            "right": self.right,
            "failures": self.failures,
        }

    # What clients do.

    async def ordinary(self) -> None:
        await self._right(*self._some())

    async def kept_alive(self) -> None:
        """Several requests over one connection."""
        connection = await Connection.open(self.port)
        try:
            for _ in range(int(self.rng.integers(2, 6))):
                await self._right(*self._some(), connection)
        finally:
            connection.close()

    async def cancelled(self) -> None:
        """A whole request, whose client goes before or while it is answered."""
        sent = self._long() if self.rng.integers(2) else self._some()[0]
        connection = await Connection.open(self.port)
        await connection.send(sent)
        await asyncio.sleep(self.rng.uniform(0, 0.3))
        if self.rng.integers(2):
            await connection.reader.read(int(self.rng.integers(1, 2_000)))
        await self._leave(connection)

    async def half_a_request(self) -> None:
        sent = self._some()[0]
        connection = await Connection.open(self.port)
        await connection.send(sent[: self.rng.integers(1, len(sent))])
        await asyncio.sleep(self.rng.uniform(0, 0.2))
        await self._leave(connection)

    async def bad(self) -> None:
        path, body, statuses = BAD[self.rng.integers(len(BAD))]
        answer = await self._ask(request(path, self.key, body))
        assert answer.status in statuses | {429}, (path, str(body)[:200], answer)
        wrong_key = await self._ask(request("/v1/embeddings", "wrong", {"model": "embed", "input": "a"}))
        assert wrong_key.status == 401, wrong_key

    async def slow_reader(self) -> None:
        """Takes a long answer in small pieces, but takes it all."""
        connection = await Connection.open(self.port, receive_buffer=4096)
        try:
            await connection.send(self._long())
            answer = await connection.answer(pause=0.002, piece=256)
            self._count(answer)
            assert answer.status == 429 or answer.text.rstrip().endswith("data: [DONE]"), answer.text[-300:]
        finally:
            connection.close()

    async def stalled_reader(self) -> None:
        """Takes the beginning and nothing more: the server may drop it, and must not wait for it."""
        connection = await Connection.open(self.port, receive_buffer=4096)
        await connection.send(self._long())
        await connection.reader.read(100)
        await asyncio.sleep(1.5 * self.timeout)
        await self._leave(connection)

    async def slow_writer(self) -> None:
        """Sends a request in pieces, in less than the time that it has."""
        sent, expected = self._some()
        connection = await Connection.open(self.port)
        try:
            cuts = sorted(self.rng.integers(0, len(sent), 4))
            for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
                await connection.send(sent[start:end])
                await asyncio.sleep(self.timeout / 10)
            self._check(await connection.answer(), expected)
        finally:
            connection.close()

    async def stalled_writer(self) -> None:
        """Sends a part and then nothing: it gets 408 or the end of the connection."""
        sent = self._some()[0]
        await self._dropped(sent[: self.rng.integers(1, len(sent))])

    async def silent(self) -> None:
        await self._dropped(b"")

    async def too_large(self) -> None:
        """A body that is too large by its own account."""
        head = request("/v1/embeddings", self.key, b"", content_length=str(MAX_BODY + 1))
        answer = await self._ask(head)
        assert answer.status == 413, answer

    async def too_large_in_chunks(self) -> None:
        """A body without an account, and without an end."""
        connection = await Connection.open(self.port)
        try:
            head = request("/v1/embeddings", self.key, b"", transfer_encoding="chunked")
            await connection.send(re.sub(rb"content-length: 0\r\n", b"", head))
            chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
            for _ in range(MAX_BODY // 0x10000 + 2):
                await connection.send(chunk)
            answer = await connection.answer()
            self._count(answer)
            assert answer.status == 413, answer
        except ConnectionError:
            self.statuses["reset"] += 1  # the server did not read on, which it must not
        finally:
            connection.close()

    async def garbage(self) -> None:
        connection = await Connection.open(self.port)
        try:
            await connection.send(self.rng.bytes(int(self.rng.integers(1, 300))) + b"\r\n\r\n")
            connection.writer.write_eof()
            status, _ = await connection.head()
            self.statuses[str(status)] += 1
            assert 400 <= status < 500, status
        except (EOFError, ConnectionError):
            self.statuses["closed"] += 1
        finally:
            connection.close()

    async def burst(self) -> None:
        await asyncio.gather(*(self.ordinary() for _ in range(100)))

    # The end of the run.

    async def quiet(self) -> None:
        """Waits until nothing is in flight, or five times as long as a slow client may take."""
        end = time.monotonic() + 5 * self.timeout
        while any((await self.in_flight()).values()) and time.monotonic() < end:
            await asyncio.sleep(0.2)
        await asyncio.sleep(1)

    async def in_flight(self) -> dict[str, float]:
        """The gauges of /metrics that have to be 0 when nobody asks, without this very request."""
        answer = await self._ask(request("/metrics", self.key))
        assert answer.status == 200, answer
        found = dict(_GAUGE.findall(answer.text))
        own = "transformer_fast_http_requests_in_flight"
        return {name: float(value) - (name == own) for name, value in found.items()}

    async def descriptors(self, watch: Watch) -> int:
        """Those of a server that has answered and whose clients are gone."""
        await asyncio.sleep(1)
        return int(watch.now()["descriptors"])

    async def idle_connection(self) -> Connection:
        """Has had an answer and stays."""
        connection = await Connection.open(self.port)
        await connection.send(request("/health", self.key))
        assert (await connection.answer()).status == 200
        return connection

    async def long_stream(self) -> None:
        connection = await Connection.open(self.port)
        try:
            await connection.send(self._long(tokens=3_000))
            answer = await connection.answer()
            assert answer.status == 200 and answer.text.rstrip().endswith("data: [DONE]"), answer
        finally:
            connection.close()

    async def refused(self) -> str:
        """What a request gets that comes after SIGTERM."""
        try:
            return str((await self._ask(self._some()[0])).status)
        except (EOFError, ConnectionError):
            return "refused"

    # What they share.

    def _some(self) -> tuple[bytes, object]:
        return self._known[self.rng.integers(len(self._known))]

    def _long(self, tokens: int = 400) -> bytes:
        path, body = chat("go " * 5, max_tokens=tokens, temperature=0, stream=True)
        return request(path, self.key, body)

    async def _ask(self, sent: bytes, connection: Connection | None = None) -> Answer:
        used = connection or await Connection.open(self.port)
        try:
            await used.send(sent)
            answer = await used.answer()
        finally:
            if connection is None:
                used.close()
        self._count(answer)
        return answer

    async def _right(self, sent: bytes, expected: object, connection: Connection | None = None) -> None:
        self._check(await self._ask(sent, connection), expected, counted=True)

    def _check(self, answer: Answer, expected: object, counted: bool = False) -> None:
        if not counted:
            self._count(answer)
        if answer.status == 429:
            assert int(answer.headers["retry-after"]) >= 1, answer
            return
        assert answer.status == 200, answer
        assert essence(answer.headers["content-type"], answer.text) == expected, "not the answer that it has alone"
        self.right += 1

    async def _dropped(self, sent: bytes) -> None:
        connection = await Connection.open(self.port)
        began = time.monotonic()
        try:
            await connection.send(sent)
            try:
                answer = await asyncio.wait_for(connection.answer(), 3 * self.timeout)
                self._count(answer)
                assert answer.status in (400, 408), answer
            except (EOFError, ConnectionError):
                self.statuses["closed"] += 1
            except asyncio.TimeoutError:
                waited = time.monotonic() - began
                raise AssertionError(f"still open after {waited:.1f} s, {len(sent)} bytes sent") from None
        finally:
            connection.close()

    async def _leave(self, connection: Connection) -> None:
        if self.rng.integers(2):
            connection.reset()
        else:
            connection.close()

    def _count(self, answer: Answer) -> None:
        self.statuses[str(answer.status)] += 1
