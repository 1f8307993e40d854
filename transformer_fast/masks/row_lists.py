"""`RowLists`: lists of key ranges while a mask is computed, and the union, intersection and complement of them.

Structures make them (`of_ranges`), `All`, `Any` and `Not` in mask.py combine them, and `key_ranges` turns the result
into what attention reads. To combine all lists at once, they lie one after the other on one line: list n takes the
places n * (Lk + 1) to n * (Lk + 1) + Lk, so that ranges of two lists never touch. On the line every operation is
two sorts of int64, of low ends and of high ends; which end belonged to which range does not matter. What is sorted
is mostly two sorted arrays in a row, which NumPy's stable sort merges.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from transformer_fast.functional.key_ranges import KeyRanges


class RowLists(NamedTuple):
    """list_of_row (B or 1, H or 1, Lq) int64; n lists; low, high: the ranges on the line, sorted and apart; Lk."""

    list_of_row: np.ndarray
    n: int
    low: np.ndarray
    high: np.ndarray
    Lk: int

    def key_ranges(self) -> KeyRanges:
        of = self.low // (self.Lk + 1)
        begin = np.zeros(self.n + 1, np.int64)
        np.cumsum(np.bincount(of, minlength=self.n), out=begin[1:])
        of *= self.Lk + 1
        bounds = np.empty((len(of), 2), np.int32)
        np.subtract(self.low, of, out=bounds[:, 0], casting="unsafe")
        np.subtract(self.high, of, out=bounds[:, 1], casting="unsafe")
        return KeyRanges.trusted(self.list_of_row.astype(np.int32, order="C"), begin, bounds, self.Lk)


def of_ranges(
    list_of_row: np.ndarray, n: int, of: np.ndarray | int, low: np.ndarray, high: np.ndarray, Lk: int
) -> RowLists:
    """Of ranges [low, high) in any order, each of list `of`: clipped to the keys, empty ones dropped, merged.

    list_of_row: (Lq,), or (B or 1, H or 1, Lq).
    """
    low, high = np.clip(low, 0, Lk), np.clip(high, 0, Lk)
    start = np.multiply(of, Lk + 1, dtype=np.int64)
    kept = low < high
    low, high = (low + start)[kept], (high + start)[kept]
    lead = list_of_row if list_of_row.ndim == 3 else list_of_row[None, None]
    return RowLists(lead, n, *_merged(low, high), Lk)


def _merged(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The union of ranges on the line: sorted, none touching another."""
    low, high = np.sort(low, kind="stable"), np.sort(high, kind="stable")
    # The k ranges that begin first have all ended before the next one begins: the union has a gap there.
    gap = high[:-1] < low[1:]
    first, last = np.ones(len(low), bool), np.ones(len(low), bool)
    first[1:] = last[:-1] = gap
    return low[first], high[last]


def _common(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is covered twice by ranges that cover nothing more often than that; the result is sorted and apart."""
    low, high = np.sort(low, kind="stable")[1:], np.sort(high, kind="stable")[:-1]
    # Of the ranges that begin up to low[k], k + 2 with the one that was cut off, fewer than k + 1 have ended.
    twice = low < high
    return low[twice], high[twice]


def union(a: RowLists, b: RowLists) -> RowLists:
    return _paired(a, b, _merged)


def intersection(a: RowLists, b: RowLists) -> RowLists:
    return _paired(a, b, _common)


def _paired(a: RowLists, b: RowLists, combine) -> RowLists:
    """One list for each pair of lists that some row has, made of the ranges of both."""
    shape = heads_of([a.list_of_row.shape, b.list_of_row.shape])
    codes = a.list_of_row * b.n + b.list_of_row if a.n * b.n else np.zeros(shape, np.int64)
    # Neighbours often have the same pair, so that little is left to sort.
    flat = codes.reshape(-1)
    changes = np.ones(len(flat), bool)
    np.not_equal(flat[1:], flat[:-1], out=changes[1:])
    pairs, pair_of_change = np.unique(flat[changes], return_inverse=True)
    list_of_row = pair_of_change[np.cumsum(changes) - 1].reshape(shape)
    parts = [_chosen(a, pairs // max(b.n, 1)), _chosen(b, pairs % max(b.n, 1))]
    low, high = (np.concatenate(ends) for ends in zip(*parts, strict=True))
    return RowLists(list_of_row, len(pairs), *combine(low, high), a.Lk)


def _chosen(lists: RowLists, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ranges of the lists that `which` names, in this order, as lists 0, 1, ... of a new line."""
    step = lists.Lk + 1
    begin = np.searchsorted(lists.low, np.arange(lists.n + 1) * step)
    count = np.diff(begin)[which]
    # Where the ranges of each list lie, and how far its part of the line moves.
    first = np.cumsum(count) - count
    at = np.repeat(begin[which] - first, count) + np.arange(count.sum())
    move = np.repeat((np.arange(len(which)) - which) * step, count)
    return lists.low[at] + move, lists.high[at] + move


def complement(lists: RowLists) -> RowLists:
    starts = np.arange(lists.n) * (lists.Lk + 1)
    # What is between the ranges, and between them and the ends of their list: the ends swap their roles.
    low = np.sort(np.concatenate([starts, lists.high]), kind="stable")
    high = np.sort(np.concatenate([lists.low, starts + lists.Lk]), kind="stable")
    kept = low < high
    return lists._replace(low=low[kept], high=high[kept])


def joined(heads: Sequence[RowLists], which: np.ndarray) -> RowLists:
    """Several (1, 1, Lq) as one (B, H, Lq): `which` (B, H) says which of them a batch entry and a head has."""
    before = np.cumsum([0, *(head.n for head in heads)])
    rows = np.concatenate([head.list_of_row[0] + n for head, n in zip(heads, before, strict=False)])
    starts = before * (heads[0].Lk + 1)
    low = np.concatenate([head.low + start for head, start in zip(heads, starts, strict=False)])
    high = np.concatenate([head.high + start for head, start in zip(heads, starts, strict=False)])
    return RowLists(rows[which], int(before[-1]), low, high, heads[0].Lk)


def heads_of(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape that those of several parts of a mask broadcast to: (B, H), with what follows the same in all."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        known = " and ".join(sorted({str(shape[:2]) for shape in shapes}))
        raise ValueError(
            f"parts of the mask are for (batch, heads) {known}; needed: the same numbers, or 1 where shared"
        ) from None
