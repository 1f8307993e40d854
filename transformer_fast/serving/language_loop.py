"""The thread of a language engine: which request is admitted, which prompt is read, when a step is made.

    submit -> queue --(room for all its positions)--> reading --(last piece)--> running --(an end)--> done
                                                      one piece of prompts, one step, one piece, one step, ...

`language.LanguageEngine` makes requests of options and has one `Loop`; `rows` computes. Order: the queue is first come,
first served, and nobody is admitted past its head. Prompts that are read take turns, a piece each, so that a short one
waits for one piece of a long one at most. Between two steps there is one call for prompts at most: what runs is slowed
down by prompts, and never stopped. An error of one request ends that one; one of a call ends those that were in it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from transformer_fast.serving.answer_text import AnswerText
from transformer_fast.serving.choice import Choice
from transformer_fast.serving.errors import Busy, Stopping
from transformer_fast.serving.results import Generation, Piece
from transformer_fast.serving.rows import PagedRows, Reading, SeparateRows

# Seconds after which a client that was refused may try again: as long as a place in the queue took to become free of
# late, within these bounds.
_RETRY = 1.0, 60.0


@dataclass(eq=False)
class Request:
    """One request on its way. prompt (n,) int64; longest: positions that its row may get; left: ids that may come yet;
    deadline: of time.monotonic(), or None."""

    generation: Generation
    prompt: np.ndarray
    longest: int
    left: int
    eos: frozenset[int]
    choice: Choice
    text: AnswerText
    wants_logprobs: bool
    deadline: float | None = None
    reading: Reading | None = None
    last: int = 0
    cancelled: bool = False
    ended: bool = False

    def take(self, id: int, scores: np.ndarray) -> Piece:
        """The next id, chosen by the scores (V,) -> the piece that it is."""
        self.last = id
        self.left -= 1
        text = self.text.add(id)
        if id in self.eos or self.text.stopped or self.choice.accept(id):
            finish = "stop"
        elif self.left == 0 or (self.deadline is not None and time.monotonic() > self.deadline):
            finish = "length"
        else:
            finish = None
        if finish is not None and not self.text.stopped:
            text += self.text.rest()
        return Piece(text, (id,), self.choice.logprobs(scores, id), finish)

    def cancelled_piece(self) -> Piece:
        """The last piece of a request that was cancelled."""
        return Piece(self.text.rest(), (), () if self.wants_logprobs else None, "cancelled")


class Loop:
    """Requests in, pieces out, in a thread of its own that runs until `stop`."""

    def __init__(
        self, rows: PagedRows | SeparateRows, turns: AbstractContextManager, max_queue: int, name: str
    ) -> None:
        self._rows, self._turns, self._max_queue = rows, turns, max_queue
        self._changed = threading.Condition()
        # Under the lock of _changed; all else belongs to the thread.
        self._queue: deque[Request] = deque()
        self._closing = False
        self._may_admit = self._cancelled = False
        self._reading: list[Request] = []
        self._running: list[Request] = []
        self._counts = dict.fromkeys(
            ("requests", "refused", "stop", "length", "cancelled", "errors", "prompt_tokens", "cached_tokens")
            + ("generated_tokens", "pieces", "steps"),
            0,
        )
        self._seconds = {"seconds_prompts": 0.0, "seconds_steps": 0.0}
        self._pace, self._admitted = _RETRY[0], time.monotonic()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    # --- from any thread ----------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Puts a request at the end of the queue.

        Raises:
            Busy: max_queue requests wait.
            Stopping: the engine ends.
        """
        with self._changed:
            if self._closing:
                raise Stopping("the engine ends what it has and takes no more requests")
            if not self._thread.is_alive():
                raise Stopping("the engine's thread has ended; after a fork, a process makes an engine of its own")
            if len(self._queue) >= self._max_queue:
                self._counts["refused"] += 1
                wait = min(max(self._pace, _RETRY[0]), _RETRY[1])
                raise Busy(f"{len(self._queue)} requests wait, max_queue={self._max_queue}", retry_after=wait)
            self._counts["requests"] += 1
            self._queue.append(request)
            self._may_admit = True
            self._changed.notify()

    def cancel(self, request: Request) -> None:
        """Ends a request before the next step."""
        with self._changed:
            request.cancelled = self._cancelled = True
            self._changed.notify()

    def stats(self) -> dict[str, float]:
        """See `LanguageEngine.stats`."""
        with self._changed:
            queue = len(self._queue)
        return {
            **self._counts,
            **self._seconds,
            "queue": queue,
            "reading": len(self._reading),
            "running": len(self._running),
            "tokens_held": self._rows.held,
            "tokens_known": self._rows.known,
            "max_tokens": self._rows.positions,
        }

    def stop(self, timeout: float | None = None) -> None:
        """Takes no more, and waits until all accepted requests have ended; those left after `timeout` are cancelled."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if threading.current_thread() is self._thread:
            return
        self._thread.join(timeout)
        if self._thread.is_alive():
            for request in self._all():
                self.cancel(request)
            self._thread.join()

    def _all(self) -> list[Request]:
        with self._changed:
            return [*self._queue, *self._reading, *self._running]

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._wait():
            try:
                self._round()
            except Exception as error:  # none of a request's, nor of a call's: nobody is to wait for ever
                self._fail(self._reading, error)
                self._fail(self._running, error)
                self._drop_ended()
        self._rows.forget()

    def _wait(self) -> bool:
        """Waits for something to do; False: there is nothing, and there will not be."""
        with self._changed:
            while not (self._queue or self._reading or self._running):
                if self._closing:
                    return False
                self._changed.wait()
        return True

    def _round(self) -> None:
        """Admits requests, reads one piece and makes one step."""
        if self._cancelled:
            self._drop_cancelled()
        self._admit()
        if self._reading:
            self._read()
        if self._running:
            self._step()

    def _admit(self) -> None:
        while True:
            with self._changed:
                if not self._queue or not self._may_admit:
                    return
                request, self._may_admit = self._queue[0], False
            try:
                reading = self._rows.open(request.prompt, request.longest)
                if reading is None:
                    return
            except Exception as error:
                self._fail([request], error)
            with self._changed:
                self._may_admit = True
                self._queue.popleft()
            if request.ended:
                continue
            request.reading = reading
            self._reading.append(request)
            now = time.monotonic()
            self._pace += (now - self._admitted - self._pace) / 8
            self._admitted = now

    def _read(self) -> None:
        """One call for prompts: the next piece of the one that has waited longest, with others that fit."""
        by_reading = {id(request.reading): request for request in self._reading}
        chosen = self._rows.next_piece([request.reading for request in self._reading])
        requests = [by_reading[id(reading)] for reading in chosen]
        before = sum(reading.done for reading in chosen)
        begin = time.perf_counter()
        try:
            with self._turns:
                ended, logits = self._rows.read(chosen)
        except Exception as error:
            self._fail(requests, error)
            self._drop_ended()
            return
        self._seconds["seconds_prompts"] += time.perf_counter() - begin
        self._counts["pieces"] += 1
        self._counts["prompt_tokens"] += sum(reading.done for reading in chosen) - before
        self._may_admit = True  # pages that were found are not needed twice
        for request in requests:
            self._reading.remove(request)
        if not ended:
            self._reading.extend(requests)
            return
        for request in requests:
            request.generation.cached_tokens = request.reading.found
            self._counts["cached_tokens"] += request.reading.found
            request.reading = None
        self._running.extend(requests)
        self._advance(requests, logits)

    def _step(self) -> None:
        """One call for all rows that run: one id more of each."""
        begin = time.perf_counter()
        try:
            with self._turns:
                logits = self._rows.step(np.array([request.last for request in self._running], np.int64))
        except Exception as error:
            self._fail(self._running, error)
            self._drop_ended()
            return
        self._seconds["seconds_steps"] += time.perf_counter() - begin
        self._counts["steps"] += 1
        self._advance(self._running, logits)

    def _advance(self, requests: Sequence[Request], logits: np.ndarray) -> None:
        """Chooses and delivers the next id of each request by logits (n, V)."""
        logits = np.asarray(logits, np.float32)
        highest = logits.argmax(axis=1).tolist() if any(request.choice.plain for request in requests) else ()
        for i, request in enumerate(requests):
            try:
                id = highest[i] if request.choice.plain else request.choice.next(logits[i])
                piece = request.take(id, logits[i])
                if piece.finish_reason is not None:
                    self._end(request, piece.finish_reason)
                request.generation._deliver(piece)
            except Exception as error:
                self._fail([request], error)
        self._counts["generated_tokens"] += len(requests)
        self._drop_ended()

    def _drop_ended(self) -> None:
        """Rows and readings of requests that have ended give up their pages."""
        for request in [request for request in self._reading if request.ended]:
            self._rows.close(request.reading)
            self._reading.remove(request)
            self._may_admit = True
        kept = [i for i, request in enumerate(self._running) if not request.ended]
        if len(kept) < len(self._running):
            self._rows.keep(kept)
            self._running = [self._running[i] for i in kept]
            self._may_admit = True

    def _end(self, request: Request, reason: str) -> None:
        if not request.ended:
            request.ended = True
            self._counts[reason] += 1

    def _drop_cancelled(self) -> None:
        with self._changed:
            self._cancelled = False
            waiting = [request for request in self._queue if request.cancelled]
            for request in waiting:
                self._queue.remove(request)
            self._may_admit |= bool(waiting)
        for request in [*waiting, *self._reading, *self._running]:
            if request.cancelled:
                self._end(request, "cancelled")
                try:
                    request.generation._deliver(request.cancelled_piece())
                except Exception as error:
                    request.generation._fail(error)
        self._drop_ended()

    def _fail(self, requests: Sequence[Request], error: Exception) -> None:
        for request in requests:
            self._end(request, "errors")
            request.generation._fail(error)
