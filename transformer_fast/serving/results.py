"""What a language engine gives: `Generation`, a request that runs, the `Piece`s of its answer, and `Completion`.

`language_loop` makes the pieces, one for each token, and delivers them here; any thread may read them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class TokenLogprobs:
    """logprob: log_softmax of the model's scores at `id`, before penalties, biases and temperature, as OpenAI and vLLM
    have them by default. top: (id, logprob) of the likeliest ids, the likeliest first."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Piece:
    """A part of an answer. text is final, and may be empty: of a character that has not all its bytes, or of what may
    become a stop string, nothing is given yet. finish_reason: None before the last piece, then "stop" (a token or a
    string that ends answers), "length" or "cancelled"."""

    text: str
    ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] | None
    finish_reason: str | None


@dataclass(frozen=True)
class Completion:
    """A whole answer: its pieces together. ids include the token that ended it."""

    text: str
    ids: tuple[int, ...]
    finish_reason: str
    logprobs: tuple[TokenLogprobs, ...] | None
    prompt_tokens: int
    cached_tokens: int


class Generation:
    """A request that an engine has accepted; `LanguageEngine.submit` makes it. Any thread may call its methods.

    prompt_tokens: the length of the prompt. cached_tokens: how many of them were found in pages of other prompts and
    not computed again; known when the first piece comes.

    Example:
        >>> for piece in engine.submit(ids, max_new_tokens=100):                                      # doctest: +SKIP
        ...     print(piece.text, end="", flush=True)
    """

    def __init__(self, prompt_tokens: int, cancel: Callable[[], None]) -> None:
        self.prompt_tokens, self.cached_tokens = prompt_tokens, 0
        self._cancel = cancel
        self._lock = threading.RLock()  # a listener may ask for the result
        self._changed = threading.Condition(self._lock)
        self._pieces: list[Piece] = []
        self._error: BaseException | None = None
        self._ended = False
        self._listener: tuple[Callable[[Piece], None], Callable[[BaseException], None] | None] | None = None

    def __iter__(self) -> Iterator[Piece]:
        """All pieces from the first on; waits for the next one. What ended the request early is raised."""
        read = 0
        while True:
            with self._lock:
                while read == len(self._pieces) and not self._ended:
                    self._changed.wait()
                pieces, error = self._pieces[read:], self._error
            yield from pieces
            read += len(pieces)
            if error is not None:
                raise error
            if pieces and pieces[-1].finish_reason is not None:
                return

    def listen(self, call: Callable[[Piece], None], failed: Callable[[BaseException], None] | None = None) -> None:
        """Lets the engine call `call` with each piece, from its own thread, or `failed` with the error that ended the
        request. Pieces that there are already are given at once, from this thread.

        Neither may block: every row waits meanwhile. An event loop's is
        `lambda piece: loop.call_soon_threadsafe(queue.put_nowait, piece)`. A call that raises cancels the request.

        Raises:
            RuntimeError: something listens already.
        """
        with self._lock:
            if self._listener is not None:
                raise RuntimeError("listen() was called before; needed: one listener")
            self._listener = call, failed
            for piece in self._pieces:
                call(piece)
            if self._error is not None and failed is not None:
                failed(self._error)

    def cancel(self) -> None:
        """Ends the request: its pages are free at the next step, and the last piece says "cancelled". It does nothing
        to one that has ended."""
        self._cancel()

    def result(self, timeout: float | None = None) -> Completion:
        """Waits for the end -> the whole answer.

        Raises:
            TimeoutError: it has not ended after `timeout` seconds; it goes on.
            Exception: what ended the request early.
        """
        with self._lock:
            if not self._changed.wait_for(lambda: self._ended, timeout):
                raise TimeoutError(f"the answer has not ended after {timeout} s")
            if self._error is not None:
                raise self._error
            pieces = self._pieces
            return Completion(
                "".join(piece.text for piece in pieces),
                tuple(id for piece in pieces for id in piece.ids),
                pieces[-1].finish_reason,
                None if pieces[0].logprobs is None else tuple(one for piece in pieces for one in piece.logprobs),
                self.prompt_tokens,
                self.cached_tokens,
            )

    def _deliver(self, piece: Piece) -> None:
        """Called by the engine; raises what the listener raises."""
        with self._lock:
            self._pieces.append(piece)
            if piece.finish_reason is not None:
                self._end()
            self._changed.notify_all()
            if self._listener is not None:
                self._listener[0](piece)

    def _fail(self, error: BaseException) -> None:
        """Called by the engine; an error in the listener's `failed` has nowhere to go."""
        with self._lock:
            if self._ended:
                return
            self._error = error
            self._end()
            self._changed.notify_all()
            listener = self._listener
        if listener is not None and listener[1] is not None:
            try:
                listener[1](error)
            except Exception:  # noqa: S110
                pass

    def _end(self) -> None:
        """What would cancel the request refers to its engine, which is not kept by answers that have ended."""
        self._ended, self._cancel = True, lambda: None
