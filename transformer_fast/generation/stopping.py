"""When a row ends: its length, an ending id, a stop string, a time that has passed.

`search` and `beams` ask a `Stop` after each token. A new reason to end is a test in `Stop.__call__`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

# A character takes at most four tokens: the bytes of its UTF-8.
_TOKENS_A_CHARACTER = 4


class Stop:
    """Says which rows end with their last id.

    tokenizer is needed for stop strings; it has decode(ids, skip_special_tokens=False) -> text. max_time: seconds from
    now on, after which all rows end with the token that is being made.

    Raises:
        ValueError: stop_strings are given without a tokenizer.
    """

    def __init__(
        self,
        max_length: int,
        eos: tuple[int, ...],
        stop_strings: str | Sequence[str] | None = None,
        tokenizer: Any = None,
        max_time: float | None = None,
    ) -> None:
        if stop_strings is not None and tokenizer is None:
            raise ValueError("stop_strings are given and tokenizer is None; needed: the tokenizer of the model")
        self.max_length = max_length
        self.eos = np.array(eos, np.int64)
        # One comparison for each is cheaper than all at once and the search for a hit in each row: 1 us of 2.
        self._ends = [np.array(id, np.int64) for id in eos]
        self.strings = [stop_strings] if isinstance(stop_strings, str) else list(stop_strings or ())
        self.tokenizer = tokenizer
        self._deadline = None if max_time is None else time.monotonic() + max_time
        self._reach = _TOKENS_A_CHARACTER * max(map(len, self.strings), default=0) + 1

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        """ids (B, n) -> (B,) booleans."""
        if ids.shape[1] >= self.max_length or (self._deadline is not None and time.monotonic() > self._deadline):
            return np.ones(len(ids), bool)
        last, ended = ids[:, -1], np.zeros(len(ids), bool)
        for end in self._ends:
            ended = ended | (last == end)
        if self.strings:
            ended |= [self._has_string(row[-self._reach :].tolist()) for row in ids]
        return ended

    def _has_string(self, ids: list[int]) -> bool:
        """Whether a stop string ends within the last id (it may begin before it, and the id may go on after it)."""
        before = self.tokenizer.decode(ids[:-1], skip_special_tokens=False)
        text = self.tokenizer.decode(ids, skip_special_tokens=False)
        # A half character at the end of `before` may be another one in `text`: what both share is what is old.
        old = next(
            (i for i, (a, b) in enumerate(zip(before, text, strict=False)) if a != b), min(len(before), len(text))
        )
        return any((found := text.rfind(string)) >= 0 and found + len(string) > old for string in self.strings)
