"""Attention weights as scipy.sparse matrices: which places there are, and the array of values that the engine fills.

Called by functional.attention for return_weights="sparse" and "sparse-mean". What the structure of a call shows is
stored, and nothing else: a row's keys are those of its list of ranges that causal order, window and kv_lengths leave.
These bounds only cut a list at both ends, so the place of a key in its row is its place in the list less a number of
the row; lists stay shared by the rows that share them. A new bound of the keys is an argument of `SparseWeights`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from transformer_fast.functional.key_ranges import KeyRanges

_MOST_INT32 = 2**31 - 1


def csr_array_class() -> Any:
    """scipy.sparse.csr_array.

    Raises:
        ImportError: scipy is not installed.
    """
    try:
        from scipy.sparse import csr_array
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{error.name} is not installed; needed for sparse arrays: pip install 'transformer-fast[sparse]'"
        ) from error
    return csr_array


def all_keys(Lq: int, Lk: int) -> KeyRanges:
    """The ranges of a call without mask: one list for all rows."""
    lists = np.zeros((1, 1, Lq), np.int32)
    return KeyRanges.trusted(lists, np.array([0, min(Lk, 1)], np.int64), np.array([[0, Lk]], np.int32)[:Lk], Lk)


class _Pieces(NamedTuple):
    """Ranges of keys [low, high), sorted by row, none of them empty, and how many each row has."""

    per_row: np.ndarray
    low: np.ndarray
    high: np.ndarray


class _Lists:
    """The lists of KeyRanges, to look up keys of many rows at once."""

    def __init__(self, ranges: KeyRanges) -> None:
        self.ranges = ranges
        self.before = np.zeros(ranges.n_ranges + 1, np.int64)
        np.cumsum(ranges.bounds[:, 1] - ranges.bounds[:, 0], dtype=np.int64, out=self.before[1:])
        # All ranges of all lists on one line, each list on a stretch of its own.
        self._stretch = ranges.Lk + 1
        start = np.repeat(np.arange(ranges.n_lists) * self._stretch, np.diff(ranges.begin))
        self._low, self._high = (start + ranges.bounds[:, end] for end in (0, 1))

    def keys_below(self, lists: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """For each list the number of its keys below one, with those of all lists before it."""
        begin = self.before[self.ranges.begin[lists]]
        if not self.ranges.n_ranges:
            return begin
        last = np.searchsorted(self._low, lists * self._stretch + keys) - 1
        low, high = self.ranges.bounds[last].T
        return np.where(last >= self.ranges.begin[lists], self.before[last] + np.minimum(keys, high) - low, begin)

    def pieces(self, lists: np.ndarray, low: np.ndarray, high: np.ndarray) -> _Pieces:
        """What [low, high) leaves of each list."""
        on_line = lists * self._stretch
        first = np.searchsorted(self._high, on_line + low, side="right")
        per_row = np.searchsorted(self._low, on_line + high) - first
        per_row[low >= high] = 0
        begin = np.cumsum(per_row) - per_row
        bounds = self.ranges.bounds[np.repeat(first - begin, per_row) + np.arange(per_row.sum())]
        return _Pieces(
            per_row,
            np.maximum(bounds[:, 0], np.repeat(low, per_row)),
            np.minimum(bounds[:, 1], np.repeat(high, per_row)),
        )


def _keys(pieces: _Pieces, n: int, dtype: type) -> np.ndarray:
    """All keys of the pieces, n of them: a step of 1 within a piece, a larger one to the next, added up."""
    keys = np.ones(n, dtype)
    if n:
        begin = np.cumsum(pieces.high - pieces.low, dtype=np.int64)
        keys[0] = pieces.low[0]
        keys[begin[:-1]] = pieces.low[1:] - pieces.high[:-1] + 1
        np.cumsum(keys, dtype=dtype, out=keys)
    return keys


def _union(of_heads: list[_Pieces], Lq: int, Lk: int) -> _Pieces:
    """What any head shows of each row."""
    stretch = Lk + 1
    none = np.zeros(0, np.int64)
    starts = [np.repeat(np.arange(Lq) * stretch, pieces.per_row) for pieces in of_heads]
    low, high = (
        np.concatenate(
            [none, *(start + getattr(of_head, end) for start, of_head in zip(starts, of_heads, strict=True))]
        )
        for end in ("low", "high")
    )
    order = np.argsort(low, kind="stable")
    low, reached = low[order], np.maximum.accumulate(high[order])
    first = np.ones(len(low), bool)
    first[1:] = low[1:] > reached[:-1]
    last = np.append(first[1:], True)[: len(first)]
    row, low = np.divmod(low[first], stretch)
    return _Pieces(np.bincount(row, minlength=Lq), low, reached[last] - row * stretch)


class SparseWeights:
    """The weights of a call (B, H, Lq, Lk): places by structure, and values that are 0 until somebody fills them.

    ranges: of shape (B or 1, H or 1, Lq, Lk). left, right: how many keys a query sees on each side of its place, which
    is its row plus offset; offset, lengths: (B,) or None. mean: one matrix for all heads, of what any of them sees.
    """

    def __init__(
        self,
        ranges: KeyRanges,
        B: int,
        H: int,
        left: int,
        right: int,
        offset: np.ndarray | None,
        lengths: np.ndarray | None,
        mean: bool,
        dtype: type,
    ) -> None:
        self._csr_array = csr_array_class()
        Lq, Lk = ranges.shape[2:]
        self.shape = Lq, Lk
        self.mean = mean
        self.heads = 1 if mean else H
        per_batch = [x for x in (offset, lengths) if x is not None]
        one_batch = ranges.shape[0] == 1 and all((x == x[0]).all() for x in per_batch if B)
        bounds = [self._bounds(b, left, right, offset, lengths) for b in range(min(B, 1) if one_batch else B)]
        if mean and ranges.shape[1] != 1:
            ranges = self._of_any_head(ranges, bounds)
        lists = _Lists(ranges)
        # One pattern for all batch entries or heads that share it.
        differ = range(min(self.heads, ranges.shape[1]))
        self.patterns = []
        for b, own in enumerate(bounds):
            of_batch = ranges.list_of_row[b % ranges.shape[0]]
            row = [self._pattern(lists, of_batch[h], *own) for h in differ]
            self.patterns.append([row[h % len(row)] for h in range(self.heads)])
        self.patterns *= B if one_batch else 1
        nnz = np.array([[len(keys) for _, _, keys in row] for row in self.patterns], np.int64)
        ends = np.cumsum(nnz).reshape(nnz.shape)
        self.begin = ends - nnz
        self.data = np.zeros(nnz.sum(), dtype)
        row_begin = np.zeros((B, self.heads, Lq), np.int64)
        for b, row in enumerate(self.patterns):
            for h, (first, _, _) in enumerate(row):
                row_begin[b, h] = self.begin[b, h] + first
        self.row_begin = np.broadcast_to(row_begin, (B, H, Lq)) if mean and H else row_begin
        self.lists = lists

    def _bounds(self, b: int, left: int, right: int, offset, lengths) -> tuple[np.ndarray, np.ndarray]:
        """The first key that each query of a batch entry may see, and where they end."""
        Lq, Lk = self.shape
        place = np.arange(Lq) + (0 if offset is None else offset[b])
        # A side is 2**63 - 1 where it is unlimited: cut before it is added.
        most = int(np.abs(place).max(initial=0)) + Lk
        low = (place - min(left, most)).clip(0, Lk)
        high = (place + min(right, most) + 1).clip(low, Lk)
        return low, high if lengths is None else high.clip(low, np.maximum(low, lengths[b]))

    def _of_any_head(self, ranges: KeyRanges, bounds: list[tuple[np.ndarray, np.ndarray]]) -> KeyRanges:
        lists, (Lq, Lk) = _Lists(ranges), self.shape
        union = [
            _union([lists.pieces(of_row, *own) for of_row in ranges.list_of_row[b % ranges.shape[0]]], Lq, Lk)
            for b, own in enumerate(bounds)
        ]
        begin = np.zeros(len(union) * Lq + 1, np.int64)
        np.cumsum([pieces.per_row for pieces in union], out=begin[1:])
        found = [np.stack([pieces.low, pieces.high], axis=1).astype(np.int32) for pieces in union]
        list_of_row = np.arange(len(union) * Lq, dtype=np.int32).reshape(len(union), 1, Lq)
        return KeyRanges.trusted(list_of_row, begin, np.concatenate([np.zeros((0, 2), np.int32), *found]), Lk)

    def _pattern(
        self, lists: _Lists, of_row: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What is added to a key's place in its list, and indptr and indices of CSR."""
        of_row = of_row.astype(np.int64)
        before, end = (lists.keys_below(of_row, keys) for keys in (low, high))
        indptr = np.zeros(len(of_row) + 1, np.int64)
        np.cumsum(end - before, out=indptr[1:])
        dtype = np.int32 if indptr[-1] <= _MOST_INT32 else np.int64
        keys = _keys(lists.pieces(of_row, low, high), int(indptr[-1]), dtype)
        places, indptr = indptr[:-1] - before, indptr.astype(dtype)
        for array in (indptr, keys):
            array.flags.writeable = False  # shared by matrices: to change one must not change the others
        return places, indptr, keys

    @property
    def places(self) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray, float], np.ndarray, np.ndarray]:
        """What AttentionCall.sparse_weights takes."""
        ranges = self.lists.ranges
        return (ranges.list_of_row, ranges.begin, ranges.bounds, 0.0), self.lists.before, self.row_begin

    def take(self, weights: np.ndarray) -> None:
        """The values, from dense weights."""
        weights = weights.reshape(len(self.patterns), self.heads, *self.shape)
        for b, row in enumerate(self.patterns):
            for h, (_, indptr, keys) in enumerate(row):
                rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
                self._values(b, h)[...] = weights[b, h, rows, keys]

    def _values(self, b: int, h: int) -> np.ndarray:
        return self.data[self.begin[b, h] :][: len(self.patterns[b][h][2])]

    def matrices(self, lead: tuple[int, ...]) -> Any:
        """csr_array of (Lq, Lk) in an array (..., H), or the mean's (...); one matrix where there are no axes."""
        found = np.empty((len(self.patterns), self.heads), object)
        for b, row in enumerate(self.patterns):
            for h, (_, indptr, keys) in enumerate(row):
                matrix = self._csr_array((self._values(b, h), keys, indptr), shape=self.shape)
                matrix.has_canonical_format = True  # sorted, no key twice: scipy would look through all of them
                found[b, h] = matrix
        return found.reshape(lead if self.mean else (*lead, self.heads))[()]
