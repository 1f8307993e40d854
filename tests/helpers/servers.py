"""`transformer-fast serve` in a process of its own, for tests of what clients see: sockets, signals, exit codes.

tests/clients and tests/server/soak.py use it. Endpoints alone are tested without a process (tests/server).
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from subprocesses import PACKAGE_PARENT, environment

KEY = "a-key-of-the-tests"
_LISTENING = re.compile(r"http://127\.0\.0\.1:(\d+)")


class Server:
    """A server of these folders on a free port, until the end of the `with` block.

    url: without a slash at its end. lines: the last ones that it wrote.
    """

    def __init__(self, models: Mapping[str, Path], *options: str, start_timeout: float = 60, **variables: str) -> None:
        named = [part for name, folder in models.items() for part in ("--model", f"{name}={folder}")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "transformer_fast", "serve", "--port", "0", *named, *options],
            env=environment(**variables),
            cwd=PACKAGE_PARENT,  # a checkout would hide the installed package
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self.lines: deque[str] = deque(maxlen=200)
        self._port: str | None = None
        self._told = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        told = self._told.wait(start_timeout)
        if not told or self._port is None:
            self.process.kill()
            self._reader.join(5)
            raise RuntimeError("the server did not start:\n" + "".join(self.lines))

    @property
    def port(self) -> int:
        return int(self._port or 0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _read(self) -> None:
        """A pipe that nobody reads would stop the server at its 64th kilobyte of log."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            found = None if self._port else _LISTENING.search(line)
            if found:
                self._port = found[1]
                self._told.set()
        self._told.set()

    def stop(self, timeout: float = 30) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        finally:
            self.process.kill()
            self._reader.join(5)

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        code = self.stop()
        if error is None:
            assert code == 0, f"exit code {code}:\n" + "".join(self.lines)
