"""`guarded`: one of uvicorn's HTTP protocols with limits for clients that are slow, or send too much, on purpose.

`run` gives it to uvicorn, which itself waits for ever for a request's headers and for a client that does not read, and
which with httptools takes headers of any length.
"""

from __future__ import annotations

from typing import Any

_TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_CHUNK = 16 << 10  # a client that takes less than this in `write_timeout` seconds is cut off


def guarded(base: type, read_timeout: float, write_timeout: float, max_head: int) -> type:
    """A class that derives from uvicorn's and closes connections

    - whose request line and headers have more than `max_head` bytes (431); for h11, uvicorn has a limit of its own;
    - whose headers are not there `read_timeout` seconds after the connection, or after their first byte;
    - that take less than 16 KiB of what waits for them in `write_timeout` seconds.
    """

    class Guarded(base):
        _headers_timer: Any = None
        _write_timer: Any = None
        _waiting = 0
        # Of httptools, which calls on_message_begin and on_headers_complete: between the two, the bytes that came after
        # those with the beginning. What comes of a body after its answer is none of them.
        _in_head = _begins = False
        _head = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._await_headers()

        def data_received(self, data: bytes) -> None:
            if self._is_idle() and self._headers_timer is None:
                self._await_headers()
            self._begins = False
            super().data_received(data)
            if not self._is_idle():
                self._forget_headers()
            elif self._in_head and not self._begins:
                self._head += len(data)
                if self._head > max_head and not self.transport.is_closing():
                    self.transport.write(_TOO_LONG)
                    self.transport.close()

        def on_message_begin(self) -> None:
            self._in_head = self._begins = True
            self._head = 0
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._in_head = False
            super().on_headers_complete()

        def connection_lost(self, error: Exception | None) -> None:
            self._forget_headers()
            self._forget_write()
            super().connection_lost(error)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._await_write()

        def resume_writing(self) -> None:
            self._forget_write()
            super().resume_writing()

        def _is_idle(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _await_headers(self) -> None:
            self._headers_timer = self.loop.call_later(read_timeout, self._cut_idle)

        def _cut_idle(self) -> None:
            self._headers_timer = None
            if self._is_idle() and not self.transport.is_closing():
                self.transport.close()

        def _forget_headers(self) -> None:
            if self._headers_timer is not None:
                self._headers_timer.cancel()
                self._headers_timer = None

        def _await_write(self) -> None:
            self._waiting = self.transport.get_write_buffer_size()
            self._forget_write()
            self._write_timer = self.loop.call_later(write_timeout, self._check_write)

        def _check_write(self) -> None:
            self._write_timer = None
            if self.transport.get_write_buffer_size() > self._waiting - _CHUNK:
                self.transport.abort()
            else:
                self._await_write()

        def _forget_write(self) -> None:
            if self._write_timer is not None:
                self._write_timer.cancel()
                self._write_timer = None

    return Guarded
