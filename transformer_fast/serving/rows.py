"""The rows of a language engine: prompts that are read in pieces, and rows that go on step by step.

`language_loop` decides what runs next, and calls these. `PagedRows` keeps the past of all rows in pools of pages, reads
prompts in pieces and finds their beginnings in a `PromptIndex`; a step is one call for all rows. `SeparateRows` gives
each row a state and calls of its own, for models whose rotations depend on the longest row of a call
(`Decoder.rotates_by_length`): in one call with others a row would have other bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transformer_fast.models.common.decoding import DecoderBatch, DecoderState, cache_dtype
from transformer_fast.nn.page_pool import check_page_size
from transformer_fast.serving.prompts import KnownPiece, PromptIndex


@dataclass(eq=False)
class Reading:
    """A prompt that is being read: its ids (n,) int64, of which the first `done` are, and how long its row may get.

    found: how many of the first ids were found, and not computed.
    """

    ids: np.ndarray
    longest: int
    done: int = 0
    found: int = 0
    state: DecoderState | None = None
    known: KnownPiece | None = None  # the last whole piece

    @property
    def ended(self) -> bool:
        return self.done == len(self.ids)


class PagedRows:
    """Rows over pools of `positions` positions in all.

    piece: positions that one call for prompts reads at most; prompts are cut at its multiples, whatever else there is
    to do, since a token's bits depend on which of those before it are in the same call.
    """

    def __init__(
        self, model: Any, positions: int, piece: int, share: bool, kv_cache_dtype: str | None, page_size: int
    ) -> None:
        self._model, self.piece, self.page_size = model, piece, page_size
        kept = {"kv_cache_dtype": kv_cache_dtype, "kv_page_size": page_size}
        self._running = model.body.new_state(0, 0, trimmed=False, **kept).beside(0)
        self._pools = [cache.pool for cache in self._running.caches]
        self._limit = positions // page_size
        self._index = PromptIndex(self._pools) if share else None
        for pool in self._pools:
            pool.limit = self._limit
            pool.reclaim = None if self._index is None else self._index.reclaim
        self._readings: list[Reading] = []
        self._needs: list[int] = []  # of the running rows: pages that each may come to hold

    @property
    def positions(self) -> int:
        """How many positions rows may have in all."""
        return self._limit * self.page_size

    @property
    def held(self) -> int:
        """How many positions are in pages that rows hold, or known prompts."""
        return self._pools[0].held * self.page_size

    @property
    def known(self) -> int:
        """How many positions are in pages that known prompts alone hold."""
        return 0 if self._index is None else self._index.spare() * self.page_size

    def open(self, ids: np.ndarray, longest: int) -> Reading | None:
        """A reading of a prompt whose row may get `longest` positions, all of which are set aside for it; None where
        there is no room now. What is known of the prompt is found here."""
        reading = Reading(ids, longest, state=self._running.beside(1))
        self._find(reading)
        self._readings.append(reading)
        if self._promised() > self._limit:
            self.close(reading)
            return None
        return reading

    def close(self, reading: Reading) -> None:
        """Gives up a reading that has not ended."""
        self._readings.remove(reading)
        reading.state.reorder(np.zeros(0, np.int64))

    def next_piece(self, waiting: Sequence[Reading]) -> list[Reading]:
        """Those of `waiting` that the next call reads: the first, and where it begins, others that begin and fit."""
        first = waiting[0]
        self._find(first)
        if first.done:
            return [first]
        chosen, tokens = [first], len(first.ids)
        for other in waiting[1:]:
            tokens += len(other.ids)
            if tokens > self.piece or other.done:
                break
            chosen.append(other)
        return chosen

    def read(self, chosen: Sequence[Reading]) -> tuple[list[Reading], np.ndarray]:
        """Reads the next piece of each -> those that have ended, which are running rows now, behind the others, and
        the logits (n, V) that follow each of them."""
        begins = [reading.done for reading in chosen]
        ends = [min(len(reading.ids), begin + self.piece) for reading, begin in zip(chosen, begins, strict=True)]
        counts = np.subtract(ends, begins)
        starts = np.concatenate([[0], np.cumsum(counts)])
        parts = list(zip(chosen, begins, ends, strict=True))
        # Several readings begin together: their rows are in one state from then on.
        state = chosen[0].state if len(chosen) == 1 else self._running.beside(len(chosen))
        ids = np.concatenate([reading.ids[begin:end] for reading, begin, end in parts])
        positions = np.concatenate([np.arange(begin, end) for _, begin, end in parts])
        try:
            hidden = self._model.body.last_hidden(ids, positions, DecoderBatch(starts, state), starts[1:] - 1)
        except BaseException:
            if len(chosen) > 1:
                state.reorder(np.zeros(0, np.int64))
            raise
        state.count_step(counts)
        for reading, begin, end in parts:
            reading.done = end
            if end - begin == self.piece and self._index is not None:
                self._learn(reading, begin)
        if not chosen[0].ended:
            return [], np.zeros((0, 0), np.float32)
        logits = self._model.logits(hidden)
        self._running.join(state)
        for reading in chosen:
            self._readings.remove(reading)
            self._needs.append(self._pages(reading.longest))
        return list(chosen), logits

    def step(self, ids: np.ndarray) -> np.ndarray:
        """ids (B,), one more of each running row -> logits (B, V)."""
        return self._model.step(ids, self._running)

    def keep(self, index: Sequence[int]) -> None:
        """The running rows `index` stay, in this order; the pages of the others are free."""
        self._running.reorder(np.array(index, np.int64))
        self._needs = [self._needs[i] for i in index]

    def forget(self) -> None:
        """Lets go of all prompts that are known."""
        if self._index is not None:
            self._index.clear()

    def _pages(self, positions: int) -> int:
        return -(-positions // self.page_size)

    def _promised(self) -> int:
        """Pages that rows hold, each counted once, and those that they may take yet: never more than there are, so
        that no row that has begun waits for a page. Pages that the index alone holds are given up for them."""
        held = self._pools[0].held - (0 if self._index is None else self._index.spare())
        rows = [self._running, *(reading.state for reading in self._readings)]
        own = sum(int((state.caches[0].table >= 0).sum()) for state in rows)
        needed = sum(self._needs) + sum(self._pages(reading.longest) for reading in self._readings)
        return held + needed - own

    def _find(self, reading: Reading) -> None:
        """Takes over all next pieces that are known; the last id of a prompt is always computed."""
        if self._index is None or reading.done % self.piece:
            return
        while reading.done + self.piece < len(reading.ids):
            ids = reading.ids[reading.done : reading.done + self.piece]
            found = self._index.find(reading.known, ids)
            if found is None:
                return
            for cache, pages in zip(reading.state.caches, found.pages, strict=True):
                cache.adopt(0, pages)
            reading.state.count_step(self.piece)
            reading.known = found
            reading.done += self.piece
            reading.found += self.piece

    def _learn(self, reading: Reading, begin: int) -> None:
        first, last = begin // self.page_size, (begin + self.piece) // self.page_size
        pages = [cache.table[0, first:last].copy() for cache in reading.state.caches]
        reading.known = self._index.add(reading.known, reading.ids[begin : begin + self.piece], pages)


class SeparateRows:
    """Rows with a state each, as `model.generate` makes it: prompts are read whole, and nothing is shared."""

    known = 0

    def __init__(self, model: Any, positions: int, kv_cache_dtype: str | None) -> None:
        self._model, self.positions, self._dtype = model, positions, kv_cache_dtype
        self._states: list[Any] = []
        self._lengths: list[int] = []
        self._readings: list[Reading] = []

    @property
    def held(self) -> int:
        """How many positions are set aside for rows."""
        return sum(self._lengths) + sum(reading.longest for reading in self._readings)

    def open(self, ids: np.ndarray, longest: int) -> Reading | None:
        """As `PagedRows.open`."""
        if self.held + longest > self.positions:
            return None
        self._readings.append(Reading(ids, longest))
        return self._readings[-1]

    def close(self, reading: Reading) -> None:
        """As `PagedRows.close`."""
        self._readings.remove(reading)

    def next_piece(self, waiting: Sequence[Reading]) -> list[Reading]:
        """The first of them."""
        return [waiting[0]]

    def read(self, chosen: Sequence[Reading]) -> tuple[list[Reading], np.ndarray]:
        """As `PagedRows.read`."""
        (reading,) = chosen
        logits, state = self._model.start(reading.ids[None], capacity=reading.longest, kv_cache_dtype=self._dtype)
        reading.done = len(reading.ids)
        self._readings.remove(reading)
        self._states.append(state)
        self._lengths.append(reading.longest)
        return [reading], logits

    def step(self, ids: np.ndarray) -> np.ndarray:
        """As `PagedRows.step`; a call for each row."""
        rows = enumerate(self._states)
        return np.concatenate([np.array(self._model.step(ids[i : i + 1], state)) for i, state in rows])

    def keep(self, index: Sequence[int]) -> None:
        """As `PagedRows.keep`."""
        self._states = [self._states[i] for i in index]
        self._lengths = [self._lengths[i] for i in index]

    def forget(self) -> None:
        """Nothing: no prompt is known."""


def rows_of(
    model: Any, positions: int, piece: int, share: bool, kv_cache_dtype: str | None, page_size: int
) -> PagedRows | SeparateRows:
    """The rows that fit the model.

    Raises:
        ValueError, TypeError: a size does not fit, or there is no such kv_cache_dtype.
    """
    check_page_size(page_size)
    cache_dtype(kv_cache_dtype)
    if piece < 1 or piece % page_size:
        raise ValueError(f"prompt_piece is {piece}; needed: a multiple of kv_page_size={page_size}")
    if positions < page_size:
        raise ValueError(f"max_tokens_in_flight is {positions}; needed: at least kv_page_size={page_size}")
    if model.body.rotates_by_length():
        return SeparateRows(model, positions, kv_cache_dtype)
    return PagedRows(model, positions, piece, share, kv_cache_dtype, page_size)
