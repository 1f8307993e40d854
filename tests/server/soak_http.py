"""HTTP/1.1 over a socket, byte by byte: what a client's library would not let one do wrong. soak_traffic.py uses it."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from dataclasses import dataclass, field

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str] = field(repr=False)
    text: str


def request(path: str, key: str, body: object = None, method: str | None = None, **headers: str) -> bytes:
    """A whole request; body: bytes, or what becomes JSON."""
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"host": HOST, "authorization": f"Bearer {key}", "content-type": "application/json"}
    fields["content-length"] = str(len(content))
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method or ('GET' if body is None else 'POST')} {path} HTTP/1.1\r\n{head}\r\n".encode() + content


class Connection:
    """One connection; whole answers, or as many bytes as one likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port: int, receive_buffer: int | None = None) -> Connection:
        """receive_buffer: bytes that the system keeps of what is not read yet."""
        plain = socket.socket()
        if receive_buffer is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        plain.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(plain, (HOST, port))
            return cls(*await asyncio.open_connection(sock=plain, limit=receive_buffer or 1 << 16))
        except BaseException:
            plain.close()
            raise

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, pause: float = 0.0, piece: int = 1 << 16) -> Answer:
        """The next answer; pause: seconds before each piece of its body is read.

        Raises:
            EOFError, ConnectionError: it is not complete.
        """
        status, headers = await self.head()
        parts = []
        if headers.get("transfer-encoding") == "chunked":
            while size := int(await self.line(), 16):
                parts.append(await self._exactly(size, pause, piece))
                await self.line()
            await self.line()
        else:
            parts.append(await self._exactly(int(headers.get("content-length", 0)), pause, piece))
        return Answer(status, headers, b"".join(parts).decode("utf-8"))

    async def head(self) -> tuple[int, dict[str, str]]:
        first = await self.line()
        headers = {}
        while line := await self.line():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return int(first.split()[1]), headers

    async def line(self) -> str:
        line = await self.reader.readline()
        if not line.endswith(b"\n"):
            raise EOFError(f"the connection ended in {line!r}")
        return line.decode("latin-1").rstrip("\r\n")

    async def _exactly(self, size: int, pause: float, piece: int) -> bytes:
        parts = []
        while size:
            if pause:
                await asyncio.sleep(pause)
            part = await self.reader.read(min(size, piece))
            if not part:
                raise EOFError(f"{size} bytes of the answer are missing")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Closes without a word: the other side's next write fails."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
