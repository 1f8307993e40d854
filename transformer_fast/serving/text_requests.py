"""`TextRequest`: what `TextEngine` knows of one request, from its tokens to its result.

The engine makes one a call; its texts may run in several batches. A figure that each request has goes here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence, Sized
from concurrent.futures import Future
from typing import Any, Protocol

import numpy as np


class Job(Protocol):
    """A call of a pipeline without its texts (`SentenceEncoder.prepared` and its like)."""

    together: Hashable
    width: int

    def rows(self, tokens: Sequence[Any]) -> np.ndarray:
        """(B, width) of texts that run together; a row does not depend on the others."""

    def finished(self, rows: np.ndarray) -> np.ndarray:
        """The result of the rows of all texts."""


class TextRequest:
    """Texts of one call. result: what is made of their finished rows and the number of tokens.

    Attributes:
        future: its result. lengths: tokens of each text. size: their sum. begun: texts that have been taken to run.
        group: see `FairQueue`. ended: nothing of it is to run any more.
    """

    def __init__(self, job: Job, tokens: Sequence[Sized], result: Callable[[np.ndarray, int], Any]) -> None:
        self.job, self.tokens, self._result = job, tokens, result
        self.future: Future[Any] = Future()
        self.lengths = [len(one) for one in tokens]
        self.size, self.group = sum(self.lengths), job.together
        self.begun, self.ended = 0, False
        self._rows = np.empty((len(tokens), job.width), np.float32)
        self._missing = len(tokens)

    def put(self, index: int, row: np.ndarray) -> bool:
        """Take the row of a text; are all there?"""
        self._rows[index] = row
        self._missing -= 1
        return self._missing == 0

    def finished(self) -> Any:
        """The result, of all rows."""
        return self._result(self.job.finished(self._rows), self.size)

    def complete(self) -> None:
        """Give a request without texts its result."""
        self.future.set_result(self.finished())
