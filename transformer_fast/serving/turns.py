"""`Turns`: the engines of one process compute one after the other, each with all threads.

A server with several models makes one and gives it to each engine; an engine takes a turn for each batch, each step or
each piece of a prompt, and never holds two.
"""

from __future__ import annotations

import threading
from collections import deque


class Turns:
    """A lock that goes to whoever has waited longest; `threading.Lock` may go to the one that has just let it go.

    Two computations at once with all threads each are slower than one after the other, and one of them may starve.

    Example:
        >>> from transformer_fast.serving import Turns
        >>> turns = Turns()
        >>> with turns:
        ...     pass
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Lock] = deque()

    def __enter__(self) -> Turns:
        with self._lock:
            if not self._taken:
                self._taken = True
                return self
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append(gate)
        try:
            gate.acquire()
        except BaseException:  # Ctrl-C while waiting
            self._leave(gate)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._pass_on()

    def _leave(self, gate: threading.Lock) -> None:
        with self._lock:
            if gate in self._waiting:
                self._waiting.remove(gate)
                return
        self._pass_on()  # the turn had come already

    def _pass_on(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()  # still taken: it is the next one's
            else:
                self._taken = False
