"""`KeyValueCache`: the keys and values that one attention layer has seen so far.

Decoders make one for each layer, append at each step, and give `keys`, `values` and `lengths` (as kv_lengths) to
`functional.scaled_dot_product_attention`. A row's positions stand at 0, 1, ... whatever its neighbours' lengths are:
padding is never stored. To store keys in another form (quantised, in pages), write a second class with the same
methods.
"""

from __future__ import annotations

import numpy as np


class KeyValueCache:
    """Keys (B, Hkv, n, D) and values (B, Hkv, n, Dv) of one layer, with a length for each row.

    capacity positions are reserved; the system commits their memory when they are written. Beyond that the arrays grow
    by doubling, so that a step never copies the past. Dv defaults to D.

    With a window W only what later queries of a layer with a sliding window of W keys (their own included) can see is
    sure to be kept: about 2 W positions instead of the whole past. Where older ones were dropped, `lengths` count what
    is stored. That is what attention needs, since causal order and window only compare positions.

    dtype is the type in which keys and values are stored: float32, or float16 or bfloat16 (ml_dtypes), which round what
    is appended and take half the memory. A float32 query attends to any of them.

    Raises:
        ValueError: a size is negative, or window is not positive.
        TypeError: dtype is another type.

    Example:
        >>> import numpy as np
        >>> cache = KeyValueCache(2, 1, 4, capacity=8)
        >>> cache.append(np.ones((2, 1, 3, 4), np.float32), np.ones((2, 1, 3, 4), np.float32), np.array([3, 1]))
        >>> cache.lengths, cache.keys.shape
        (array([3, 1]), (2, 1, 3, 4))
    """

    def __init__(
        self,
        B: int,
        Hkv: int,
        D: int,
        capacity: int,
        Dv: int | None = None,
        *,
        window: int | None = None,
        dtype: np.dtype | type = np.float32,
    ) -> None:
        Dv = D if Dv is None else Dv
        if min(B, Hkv, D, Dv, capacity) < 0:
            raise ValueError(
                f"B={B}, Hkv={Hkv}, D={D}, Dv={Dv} and capacity={capacity}; needed: sizes that are not negative"
            )
        if window is not None and window < 1:
            raise ValueError(f"window is {window}; needed: at least 1, or None")
        dtype = np.dtype(dtype)
        if dtype.name not in ("float32", "float16", "bfloat16"):
            raise TypeError(f"dtype is {dtype}; needed: float32, float16 or bfloat16")
        self.window = window
        capacity = capacity if window is None else min(capacity, 2 * window)
        self.lengths = np.zeros(B, np.int64)
        self.uniform = True  # all rows have the same length: then a step is one assignment
        self._keys = np.empty((B, Hkv, capacity, D), dtype)
        self._values = np.empty((B, Hkv, capacity, Dv), dtype)
        self._longest = 0

    def __len__(self) -> int:
        """The number of rows, B."""
        return len(self.lengths)

    @property
    def capacity(self) -> int:
        """How many positions a row can have before the arrays grow."""
        return self._keys.shape[2]

    @property
    def keys(self) -> np.ndarray:
        """(B, Hkv, max(lengths), D), a view; values beyond a row's length mean nothing."""
        return self._keys[:, :, : self._longest]

    @property
    def values(self) -> np.ndarray:
        """(B, Hkv, max(lengths), Dv), a view; values beyond a row's length mean nothing."""
        return self._values[:, :, : self._longest]

    def append(self, key: np.ndarray, value: np.ndarray, counts: np.ndarray | None = None) -> None:
        """Row b gets the first counts[b] (default n) of key (B, Hkv, n, D) and value (B, Hkv, n, Dv).

        Raises:
            ValueError: shapes do not fit, or a count is not in 0..n.
        """
        self._check(key, value, (0, 1, 3))
        n = key.shape[2]
        if not len(self):
            return
        if counts is None:
            if self._longest + n > self.capacity:
                self._reserve(np.full(len(self), n))
            if self.uniform:
                place = slice(self._longest, self._longest + n)
                self._keys[:, :, place] = key
                self._values[:, :, place] = value
                self.lengths += n
                self._longest += n
                return
            counts = np.full(len(self), n)
        counts = np.asarray(counts)
        if counts.shape != (len(self),) or ((counts < 0) | (counts > n)).any():
            raise ValueError(f"counts is {counts}; needed: {len(self)} numbers from 0 to {n}")
        self._reserve(counts)
        for b, count in enumerate(counts):
            self._put(b, key[b, :, :count], value[b, :, :count])
        self._count()

    def append_packed(self, key: np.ndarray, value: np.ndarray, cu_seqlens: np.ndarray) -> None:
        """Row b gets the positions cu_seqlens[b]:cu_seqlens[b + 1] of key (T, Hkv, D) and value (T, Hkv, Dv).

        For prompts, whose queries have been answered from the packed arrays: with a window only the last window - 1 of
        them are stored, which is all that later queries can see.

        Raises:
            ValueError: shapes do not fit.
        """
        if cu_seqlens.shape != (len(self) + 1,):
            raise ValueError(f"cu_seqlens has shape {cu_seqlens.shape}; needed: ({len(self) + 1},)")
        self._check(key[None].swapaxes(1, 2), value[None].swapaxes(1, 2), (1, 3))
        first, last = cu_seqlens[:-1], cu_seqlens[1:]
        if self.window is not None:
            first = np.maximum(first, last - (self.window - 1))
        self._reserve(last - first)
        for b in range(len(self)):
            rows = slice(first[b], last[b])
            self._put(b, key[rows].swapaxes(0, 1), value[rows].swapaxes(0, 1))
        self._count()

    def reorder(self, index: np.ndarray) -> None:
        """Row i becomes what row index[i] was; there may be more or fewer rows than before.

        Raises:
            IndexError: there is no such row.
        """
        index = np.asarray(index)
        if index.shape == self.lengths.shape:
            changed = np.flatnonzero(index != np.arange(len(index)))
            sources = index[changed]
            for array in (self._keys, self._values):
                array[changed, :, : self._longest] = array[sources, :, : self._longest]
            self.lengths = self.lengths[index]
        else:
            self.lengths = self.lengths[index]
            self._keys = _copied(self._keys, self._longest, self.capacity, index)
            self._values = _copied(self._values, self._longest, self.capacity, index)
        self._count()

    def _put(self, b: int, key: np.ndarray, value: np.ndarray) -> None:
        place = slice(self.lengths[b], self.lengths[b] + key.shape[1])
        self._keys[b, :, place] = key
        self._values[b, :, place] = value
        self.lengths[b] = place.stop

    def _count(self) -> None:
        self._longest = int(self.lengths.max(initial=0))
        self.uniform = bool((self.lengths == self._longest).all())

    def _reserve(self, counts: np.ndarray) -> None:
        """Makes room for counts[b] more positions in row b."""
        if self._needed(counts) <= self.capacity:
            return
        if self.window is not None:
            self._drop()
        needed = self._needed(counts)
        if needed > self.capacity:
            capacity = max(needed, 2 * self.capacity)
            self._keys = _copied(self._keys, self._longest, capacity)
            self._values = _copied(self._values, self._longest, capacity)

    def _needed(self, counts: np.ndarray) -> int:
        return int((self.lengths + counts).max(initial=0))

    def _drop(self) -> None:
        """Moves the last window - 1 positions of each row to the front: the next query sees no others."""
        kept = self.window - 1
        for b, length in enumerate(self.lengths):
            if length > kept:
                for array in (self._keys, self._values):
                    array[b, :, :kept] = array[b, :, length - kept : length].copy()
                self.lengths[b] = kept
        self._count()

    def _check(self, key: np.ndarray, value: np.ndarray, axes: tuple[int, ...]) -> None:
        for name, array, own in (("key", key, self._keys), ("value", value, self._values)):
            if array.ndim != 4 or any(array.shape[axis] != own.shape[axis] for axis in axes):
                B, Hkv, _, D = own.shape
                raise ValueError(f"{name} has shape {array.shape}; needed: (B, Hkv, n, D) = ({B}, {Hkv}, n, {D})")
        if key.shape[2] != value.shape[2]:
            raise ValueError(f"key has {key.shape[2]} positions, value has {value.shape[2]}; needed: the same number")


def _copied(array: np.ndarray, length: int, capacity: int, index: np.ndarray | None = None) -> np.ndarray:
    """The first `length` positions of `array` (or of its rows `index`) in a new array with room for `capacity`."""
    source = array[:, :, :length] if index is None else array[index, :, :length]
    result = np.empty((source.shape[0], source.shape[1], capacity, source.shape[3]), array.dtype)
    result[:, :, :length] = source
    return result
