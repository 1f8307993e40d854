"""`KeyRanges`: which keys each query sees, as lists of ranges. The form in which the engine reads a sparse mask.

transformer_fast.masks compiles its structures to it; attention takes it as it is. A user whose structure is none of
those may build one: the constructor checks it. The engine trusts every object of this class, so whatever makes one
without the constructor (`KeyRanges.trusted`) has to hold to the same rules.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from transformer_fast.functional import arrays

# Bounds and numbers of lists are int32.
MOST = 2**31 - 1
# A repr of more elements than this says shapes instead of values (NumPy's own threshold for an array's).
REPR_ELEMENTS = 1000


class KeyRanges:
    """The keys that each query of (B, H, Lq, Lk) sees. Immutable.

    Rows that see the same keys may share a list of ranges, and so may batch entries and heads.

    list_of_row: (B or 1, H or 1, Lq) integers; the list of each query row. An axis of 1 is shared.
    begin: (n_lists + 1,) integers; list n has the ranges begin[n] to begin[n + 1].
    bounds: (n_ranges, 2) integers; the ranges [low, high) of keys. Those of a list are sorted, not empty, and neither
        overlap nor touch.
    Lk: the number of keys.

    Attributes: list_of_row (int32), begin (int64) and bounds (int32), read-only copies; shape, (B, H, Lq, Lk) with 1
    for what is shared; n_lists, n_ranges; visible, the number of visible pairs of query and key over that shape.

    Raises:
        TypeError: an array is not of integers.
        ValueError: an array breaks one of the rules above; the message names it.

    Example:
        >>> ranges = F.KeyRanges([[[0, 0, 1]]], begin=[0, 1, 3], bounds=[[0, 2], [0, 1], [3, 5]], Lk=5)
        >>> ranges.dense()[0, 0].astype(int)
        array([[1, 1, 0, 0, 0],
               [1, 1, 0, 0, 0],
               [1, 0, 0, 1, 1]])
        >>> ranges.visible
        7
    """

    __slots__ = ("Lk", "begin", "bounds", "list_of_row", "visible")

    Lk: int
    begin: np.ndarray
    bounds: np.ndarray
    list_of_row: np.ndarray
    visible: int

    def __init__(self, list_of_row: Any, begin: Any, bounds: Any, Lk: int) -> None:
        Lk = arrays.integer(Lk, "Lk")
        if not 0 <= Lk <= MOST:
            raise ValueError(f"Lk is {Lk}; needed: 0 to 2**31 - 1")
        begin = _integers(begin, "begin", 1)
        bounds = _integers(bounds, "bounds", 2)
        list_of_row = _integers(list_of_row, "list_of_row", 3)
        if not len(begin) or begin[0] != 0 or begin[-1] != len(bounds) or (begin[1:] < begin[:-1]).any():
            raise ValueError(
                f"begin does not rise from 0 to {len(bounds)}, the number of ranges in bounds; needed: where each list "
                "begins, and at last where the last one ends"
            )
        _check_bounds(begin, bounds, Lk)
        n_lists = len(begin) - 1
        wrong = (list_of_row < 0) | (list_of_row >= n_lists)
        if wrong.any():
            raise ValueError(f"list_of_row holds {list_of_row[wrong][0]}; needed: 0 to {n_lists - 1}, a list of begin")
        self._set(list_of_row.astype(np.int32), begin, bounds.astype(np.int32), Lk)

    def _set(self, list_of_row: np.ndarray, begin: np.ndarray, bounds: np.ndarray, Lk: int) -> None:
        for array in (list_of_row, begin, bounds):
            array.flags.writeable = False
        # A view of what cannot be written cannot be made writable: the engine trusts these numbers.
        list_of_row, begin, bounds = list_of_row.view(), begin.view(), bounds.view()
        ends = np.concatenate(([0], np.cumsum(bounds[:, 1] - bounds[:, 0], dtype=np.int64)))
        keys_of_list = np.diff(ends[begin])
        visible = int(keys_of_list[list_of_row].sum()) if list_of_row.size else 0
        for name, value in zip(self.__slots__, (Lk, begin, bounds, list_of_row, visible), strict=True):
            object.__setattr__(self, name, value)

    @classmethod
    def trusted(cls, list_of_row: np.ndarray, begin: np.ndarray, bounds: np.ndarray, Lk: int) -> KeyRanges:
        """Of arrays that keep the rules and that nobody else holds: dense int32, int64 and int32, not copied."""
        ranges = cls.__new__(cls)
        ranges._set(list_of_row, begin, bounds, Lk)
        return ranges

    @classmethod
    def from_dense(cls, mask: Any) -> KeyRanges:
        """Of a bool array (Lq, Lk), (B, Lq, Lk) or (B, H, Lq, Lk), where True is visible. Equal rows share a list.

        Raises:
            TypeError: mask is not bool.
            ValueError: mask has fewer than two axes or more than four.

        Example:
            >>> F.KeyRanges.from_dense(np.tri(4, dtype=bool)).bounds.tolist()
            [[0, 1], [0, 2], [0, 3], [0, 4]]
        """
        mask = arrays.as_array(mask, "mask")
        if mask.dtype != np.bool_:
            raise TypeError(f"mask has dtype {mask.dtype}; needed: bool, True where a key is seen")
        if not 2 <= mask.ndim <= 4:
            raise ValueError(f"mask has shape {mask.shape}; needed: (Lq, Lk), (B, Lq, Lk) or (B, H, Lq, Lk)")
        if mask.ndim == 3:
            mask = mask[:, None]
        *lead, Lq, Lk = mask.shape
        shape = (*(lead or (1, 1)), Lq)
        rows = np.ascontiguousarray(mask).reshape(math.prod(shape), Lk)
        if len(rows) and Lk:
            # Rows as strings of bytes: one comparison each instead of one a column.
            packed = np.packbits(rows, axis=1)
            _, first, list_of_row = np.unique(
                packed.view(f"V{packed.shape[1]}")[:, 0], return_index=True, return_inverse=True
            )
            # Lists in the order in which rows first have them.
            order = np.argsort(first)
            place = np.empty(len(order), np.int32)
            place[order] = np.arange(len(order), dtype=np.int32)
            list_of_row, rows = place[list_of_row], rows[first[order]]
        else:
            list_of_row, rows = np.zeros(len(rows), np.int32), np.zeros((1, Lk), bool)
        edges = np.zeros((len(rows), Lk + 2), bool)
        edges[:, 1:-1] = rows
        of, at = np.nonzero(edges[:, 1:] != edges[:, :-1])
        begin = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(np.bincount(of, minlength=len(rows)) // 2, out=begin[1:])
        return cls.trusted(list_of_row.reshape(shape), begin, at.astype(np.int32).reshape(-1, 2), Lk)

    @classmethod
    def packed(cls, sequences: Sequence[KeyRanges]) -> KeyRanges:
        """Of packed sequences, from those of each, all of shape (1, 1, Lq, Lk): what `varlen_attention` takes.

        Raises:
            ValueError: an object has several batch entries or heads.

        Example:
            >>> one, two = (F.KeyRanges.from_dense(np.tri(n, dtype=bool)) for n in (1, 2))
            >>> F.KeyRanges.packed([one, two]).dense()[0, 0].astype(int)  # the keys count within each sequence
            array([[1, 0],
                   [1, 0],
                   [1, 1]])
        """
        for b, one in enumerate(sequences):
            if one.shape[:2] != (1, 1):
                raise ValueError(f"sequences[{b}] has shape {one.shape}; needed: (1, 1, Lq, Lk)")
        lists = np.cumsum([0, *(one.n_lists for one in sequences)])
        ranges = np.cumsum([0, *(one.n_ranges for one in sequences)])
        rows = [one.list_of_row[0, 0] + first for one, first in zip(sequences, lists, strict=False)]
        begin = [one.begin[:-1] + first for one, first in zip(sequences, ranges, strict=False)]
        return cls.trusted(
            np.concatenate([np.zeros(0, np.int32), *rows]).astype(np.int32)[None, None],
            np.concatenate([*begin, ranges[-1:]]),
            np.concatenate([np.zeros((0, 2), np.int32), *(one.bounds for one in sequences)]),
            max((one.Lk for one in sequences), default=0),
        )

    def of_rows(self, rows: np.ndarray | slice) -> KeyRanges:
        """What these query rows see: integers (n,), or a slice of n rows -> shape (B, H, n, Lk).

        Example:
            >>> F.KeyRanges.from_dense(np.tri(3, dtype=bool)).of_rows(np.array([2, 0])).dense()[0, 0].astype(int)
            array([[1, 1, 1],
                   [1, 0, 0]])
        """
        return self.trusted(np.ascontiguousarray(self.list_of_row[:, :, rows]), self.begin, self.bounds, self.Lk)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name} cannot be set: KeyRanges is immutable")

    __delattr__ = __setattr__  # type: ignore[assignment]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        B, H, Lq = self.list_of_row.shape
        return B, H, Lq, self.Lk

    @property
    def n_lists(self) -> int:
        return len(self.begin) - 1

    @property
    def n_ranges(self) -> int:
        return len(self.bounds)

    def dense(self) -> np.ndarray:
        """The mask as a bool array (B, H, Lq, Lk), which `attn_mask` takes: for tests and small masks."""
        # +1 where a range begins, -1 where it ends: ranges of a list do not touch, so no place is written twice.
        steps = np.zeros((self.n_lists, self.Lk + 1), np.int8)
        of = np.repeat(np.arange(self.n_lists), np.diff(self.begin))
        steps[of, self.bounds[:, 0]] = 1
        steps[of, self.bounds[:, 1]] = -1
        seen = np.cumsum(steps, axis=1, dtype=np.int8)[:, : self.Lk].astype(bool)
        return seen[self.list_of_row] if self.list_of_row.size else np.zeros(self.shape, bool)

    def __eq__(self, other: object) -> bool:
        """Whether the arrays are the same; the same mask may also be told by lists in another order."""
        if not isinstance(other, KeyRanges):
            return NotImplemented
        return self.Lk == other.Lk and all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in ("list_of_row", "begin", "bounds")
        )

    def __hash__(self) -> int:
        return hash((self.shape, self.list_of_row.tobytes(), self.begin.tobytes(), self.bounds.tobytes()))

    def __reduce__(self) -> tuple:
        return KeyRanges, (self.list_of_row, self.begin, self.bounds, self.Lk)

    def __repr__(self) -> str:
        if self.list_of_row.size + self.begin.size + self.bounds.size > REPR_ELEMENTS:
            return (
                f"<KeyRanges of shape {self.shape}, {self.n_lists} lists, {self.n_ranges} ranges, "
                f"{self.visible} visible pairs>"
            )
        return (
            f"KeyRanges(list_of_row={self.list_of_row.tolist()}, begin={self.begin.tolist()}, "
            f"bounds={self.bounds.tolist()}, Lk={self.Lk})"
        )


def _integers(x: Any, name: str, ndim: int) -> np.ndarray:
    """An int64 array of `ndim` axes, or an error that names the argument."""
    array = arrays.as_array(x, name)
    if array.dtype.kind not in "iu" and array.size:  # an empty list is an array of float64
        raise TypeError(f"{name} has dtype {array.dtype}; needed: integers")
    if ndim == 2 and array.size == 0:
        array = array.reshape(0, 2)
    if array.ndim != ndim or (ndim == 2 and array.shape[1] != 2):
        needed = {1: "(n_lists + 1,)", 2: "(n_ranges, 2)", 3: "(B or 1, H or 1, Lq)"}[ndim]
        raise ValueError(f"{name} has shape {array.shape}; needed: {needed}")
    if array.dtype.kind == "u" and array.size and array.max() > MOST:
        raise ValueError(f"{name} reaches {array.max()}; needed: integers below 2**31")
    return array.astype(np.int64, order="C")


def _check_bounds(begin: np.ndarray, bounds: np.ndarray, Lk: int) -> None:
    low, high = bounds[:, 0], bounds[:, 1]
    for wrong, needed in (
        ((low < 0) | (high > Lk), f"0 <= low and high <= Lk, {Lk}"),
        (low >= high, "low < high"),
    ):
        if wrong.any():
            n = int(np.argmax(wrong))
            raise ValueError(f"bounds[{n}] is {bounds[n].tolist()}; needed: {needed}")
    follows = np.ones(len(bounds), bool)  # a range that another one of its list precedes
    follows[begin[:-1][begin[:-1] < len(bounds)]] = False
    wrong = np.zeros(len(bounds), bool)
    wrong[1:] = follows[1:] & (low[1:] <= high[:-1])
    if wrong.any():
        n = int(np.argmax(wrong))
        raise ValueError(
            f"bounds[{n}] is {bounds[n].tolist()} after {bounds[n - 1].tolist()} in one list; needed: sorted ranges "
            "that neither overlap nor touch"
        )
