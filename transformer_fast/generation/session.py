"""`GenerationSession`: generations that follow each other, each of which computes only what the last one has not.

For chats, and for prompts with a common beginning. It stands on `generate` and `stream` of a decoder and on what its
past offers: `get_seq_length`, `crop`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from transformer_fast.functional import arrays
from transformer_fast.functional.one_call import OneCall, one_call


class GenerationSession:
    """One row of text that grows, or is taken back: the past of its longest known beginning is not computed again.

    model: a decoder. kv_cache_dtype: as in `generate`. A session is one conversation: threads share the model and have
    sessions of their own. Layers with a sliding window keep all positions here, so that any beginning can be used.

    Raises:
        TypeError: the model is no decoder.
        RuntimeError: when it is called while a call of another thread is in it, or when a `stream` goes on after a
            later call has begun.

    Example:
        >>> from transformer_fast.generation import GenerationSession
        >>> from transformer_fast.models.gpt2 import GPT2Config, GPT2LMHeadModel
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=32, n_embd=8, n_layer=1, n_head=2))
        >>> session = GenerationSession(model, kv_cache_dtype="float16")
        >>> text = session.generate([[3, 1, 4, 1]], max_new_tokens=5, eos_token_id=None)
        >>> len(session.ids)  # all but the last one, whose scores nobody has asked for
        8
        >>> session.generate(np.c_[text, [[5, 9]]], max_new_tokens=5, eos_token_id=None).shape  # of 16 computes 7
        (1, 16)
    """

    def __init__(self, model: Any, *, kv_cache_dtype: str | None = None) -> None:
        if not all(hasattr(model, name) for name in ("extend", "empty_past")):
            raise TypeError(f"model is a {type(model).__name__}; needed: a decoder, with extend() and empty_past()")
        self.model, self.kv_cache_dtype = model, kv_cache_dtype
        self._in_turn: object = None  # what tells the last call that has begun from those before
        self.in_use = OneCall("the session")
        self.clear()

    @one_call
    def clear(self) -> None:
        """Forget everything."""
        self._in_turn = None
        self._past = self.model.empty_past(1, kv_cache_dtype=self.kv_cache_dtype)
        self._ids = np.zeros(0, np.int64)

    @property
    def ids(self) -> np.ndarray:
        """(n,) The ids whose keys and values the session holds."""
        return self._ids.copy()

    def generate(self, input_ids: Any, **options: Any) -> np.ndarray:
        """As the model's `generate`: input_ids (1, L), the whole text -> (1, L + new).

        Raises:
            ValueError: there are several rows, padding or beams. Otherwise as `generate`.
        """
        streamer = options.pop("streamer", None)
        row = self._row(input_ids)
        if streamer is not None:
            streamer.put(row)
        new = []
        for ids in self.stream(row, **options):
            new.append(ids)
            if streamer is not None:
                streamer.put(ids)
        if streamer is not None:
            streamer.end()
        return np.concatenate([row, np.stack(new, axis=1)], axis=1)

    @one_call
    def stream(self, input_ids: Any, **options: Any) -> Iterator[np.ndarray]:
        """As the model's `stream`, one token at a time; it may be stopped after any of them."""
        row = self._row(input_ids)
        self._forget_what_differs(row[0])
        ids = self.model.stream(row, np.ones_like(row), past_key_values=self._past, **options)
        turn = self._in_turn = object()
        return self._followed(turn, row[0], ids)

    def _followed(self, turn: object, row: np.ndarray, stream: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields what `stream` does, and notes what the past then holds."""
        known = row.tolist()
        try:
            while (ids := self._next(turn, stream)) is not None:
                known.append(int(ids[0]))
                yield ids
        except GeneratorExit:
            raise
        except BaseException:
            if self._in_turn is turn:
                self.clear()  # a call that fails half-way leaves a past that nobody knows
            raise
        finally:
            if self._in_turn is turn:
                self._note(known)

    @one_call
    def _next(self, turn: object, stream: Iterator[np.ndarray]) -> np.ndarray | None:
        if self._in_turn is not turn:
            raise RuntimeError("a later call of the session has begun, or clear(); needed: one generation at a time")
        return next(stream, None)

    @one_call
    def _note(self, known: list[int]) -> None:
        """The past holds `known`, or less: speculation is ahead of what it has yielded."""
        held = self._past.get_seq_length()
        self._past.crop(min(held, len(known)))
        self._ids = np.array(known[: self._past.get_seq_length()], np.int64)

    def _row(self, input_ids: Any) -> np.ndarray:
        ids = arrays.as_array(input_ids, "input_ids", arrays.PADDED)
        if ids.ndim != 2 or len(ids) != 1 or ids.shape[1] == 0 or ids.dtype.kind not in "iu":
            raise ValueError(f"input_ids is {ids.dtype} of shape {ids.shape}; needed: integers (1, L) with L >= 1")
        return ids.astype(np.int64)

    def _forget_what_differs(self, row: np.ndarray) -> None:
        """Keeps the longest common beginning, but for the last id: its scores are what a generation begins with."""
        both = min(len(self._ids), len(row) - 1)
        differ = np.flatnonzero(self._ids[:both] != row[:both])
        common = int(differ[0]) if len(differ) else both
        self._past.crop(common)
        self._ids = self._ids[:common]
