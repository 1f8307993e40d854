"""`StackCache`: the keys and values that layers of one shape have seen so far; `KeyValueCache`: those of one layer.

A decoder has one `StackCache` for its layers of each shape (models.common.decoding): these share their lengths, so
that a step makes room and counts once, whatever their number, and csrc/ops/decoder.c writes and reads the arrays of
all layers in one call. An attention layer that runs by itself has a `KeyValueCache`, appends at each step, and gives
`keys`, `values` and `lengths` (as kv_lengths) to `functional.scaled_dot_product_attention`. A row's positions are 0,
1, ... whatever its neighbours' lengths are: padding is never stored. Another type of stored numbers: `_Store`, and its
twin csrc/ops/cache.h.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from transformer_fast import functional as F

# In the order of tfast_dtype.
_DTYPES = ("float32", "float16", "bfloat16")


class _Store:
    """Keys, or values, of all layers: an array (B, Hkv, capacity, width) for each, where they are in memory.

    One array a layer and not one for all: a system may refuse one allocation of many GB that it would grant in pieces.
    """

    def __init__(self, layers: int, shape: tuple[int, int, int, int], dtype: np.dtype) -> None:
        self.arrays = [np.empty(shape, dtype) for _ in range(layers)]
        self._locate()

    def _locate(self) -> None:
        self.addresses = np.array([array.ctypes.data for array in self.arrays], np.int64)

    def replace(self, length: int, capacity: int, index: np.ndarray | None = None) -> None:
        """The first `length` positions (of the rows `index`) go into new arrays with room for `capacity`."""
        for layer, array in enumerate(self.arrays):
            self.arrays[layer] = _copied(array, length, capacity, index)
        self._locate()


class StackCache:
    """Keys (B, Hkv, n, D) and values (B, Hkv, n, Dv) of `layers` layers that have the same lengths: one for each row.

    A call makes room with `reserve`, each layer writes behind the lengths with `write` or `write_packed`, and `advance`
    counts what was written; a call that fails in between leaves the cache as it was.

    capacity positions are reserved; the system commits their memory when they are written. Beyond that the arrays grow
    by doubling, so that a step never copies the past. Dv defaults to D.

    With a window W only what later queries of layers with a sliding window of W keys (their own included) can see is
    sure to be kept: about 2 W positions instead of the whole past. Where older ones were dropped, `lengths` count what
    is stored. That is what attention needs, since causal order and window only compare positions.

    dtype is the type in which keys and values are stored: float32, or float16 or bfloat16 (ml_dtypes), which round what
    is appended and take half the memory. A float32 query attends to any of them.

    Raises:
        ValueError: a size is negative, or window is not positive.
        TypeError: dtype is another type.

    Example:
        >>> import numpy as np
        >>> from transformer_fast.nn.cache import StackCache
        >>> cache, new = StackCache(2, 1, 1, 4, capacity=8), np.ones((1, 1, 3, 4), np.float32)
        >>> cache.reserve(3)
        >>> for layer in range(2):
        ...     cache.write(layer, new, new)
        >>> cache.advance(3)
        >>> cache.lengths, cache.seen(1)[0].shape
        (array([3]), (1, 1, 3, 4))
    """

    def __init__(
        self,
        layers: int,
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
        if dtype.name not in _DTYPES:
            raise TypeError(f"dtype is {dtype}; needed: {', '.join(_DTYPES[:-1])} or {_DTYPES[-1]}")
        self.window = window
        self._code = _DTYPES.index(dtype.name)
        capacity = capacity if window is None else min(capacity, 2 * window)
        self.lengths = np.zeros(B, np.int64)
        self.uniform = True  # all rows have the same length: then a step is one assignment
        self._keys = _Store(layers, (B, Hkv, capacity, D), dtype)
        self._values = _Store(layers, (B, Hkv, capacity, Dv), dtype)
        self._shapes = {"key": (B, Hkv, D), "value": (B, Hkv, Dv)}
        self._capacity = capacity
        self._longest = 0

    def __len__(self) -> int:
        """The number of rows, B."""
        return len(self.lengths)

    @property
    def capacity(self) -> int:
        """How many positions a row can have before the arrays grow."""
        return self._capacity

    @property
    def dtype(self) -> np.dtype:
        """The type in which keys and values are stored."""
        return self._keys.arrays[0].dtype

    def seen(self, layer: int, more: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Keys (B, Hkv, max(lengths) + more, D) and values of a layer, views. more: what is written but not counted.

        Values beyond a row's length mean nothing.
        """
        length = self._longest + more
        return self._keys.arrays[layer][:, :, :length], self._values.arrays[layer][:, :, :length]

    def reserve(self, counts: int | np.ndarray) -> None:
        """Makes room for counts[b] (or as many each) more positions in row b."""
        if self._needed(counts) <= self.capacity:
            return
        if self.window is not None:
            self._drop()
        needed = self._needed(counts)
        if needed > self.capacity:
            self._capacity = max(needed, 2 * self.capacity)
            for store in (self._keys, self._values):
                store.replace(self._longest, self._capacity)

    def write(self, layer: int, key: np.ndarray, value: np.ndarray, counts: np.ndarray | None = None) -> None:
        """Row b's first counts[b] (default n) of key (B, Hkv, n, D) and value (B, Hkv, n, Dv) go behind its length."""
        keys, values = self._keys.arrays[layer], self._values.arrays[layer]
        if counts is None and self.uniform:
            place = slice(self._longest, self._longest + key.shape[2])
            keys[:, :, place] = key
            values[:, :, place] = value
            return
        for b, first in enumerate(self.lengths):
            count = key.shape[2] if counts is None else counts[b]
            keys[b, :, first : first + count] = key[b, :, :count]
            values[b, :, first : first + count] = value[b, :, :count]

    def write_packed(
        self, layer: int, key: np.ndarray, value: np.ndarray, cu_seqlens: np.ndarray, counts: np.ndarray
    ) -> None:
        """Of row b's positions cu_seqlens[b]:cu_seqlens[b + 1] of key (T, Hkv, D) and value (T, Hkv, Dv) the last
        counts[b] go behind its length."""
        keys, values = self._keys.arrays[layer], self._values.arrays[layer]
        for b, first in enumerate(self.lengths):
            rows = slice(cu_seqlens[b + 1] - counts[b], cu_seqlens[b + 1])
            keys[b, :, first : first + counts[b]] = key[rows].swapaxes(0, 1)
            values[b, :, first : first + counts[b]] = value[rows].swapaxes(0, 1)

    def engine_arrays(self, kept: np.ndarray) -> F.CacheArrays:
        """What functional.Decoder takes: kept[b] positions of row b are written, and have been reserved."""
        keys, values = self._keys.addresses, self._values.addresses
        return F.CacheArrays(self._code, self._capacity, keys, values, None, None, self.lengths, kept)

    def kept_of_prompts(self, counts: np.ndarray) -> np.ndarray:
        """How many of counts[b] positions of a prompt without a past are worth storing, the last ones.

        A prompt's queries are answered from its own keys: with a window later queries see window - 1 of them.
        """
        return counts if self.window is None else np.minimum(counts, self.window - 1)

    def advance(self, counts: int | np.ndarray) -> None:
        """Counts what every layer has written: counts[b] (or as many each) positions of row b."""
        self.lengths = self.lengths + counts
        if isinstance(counts, int):
            self._longest += counts if len(self) else 0
        else:
            self._count()

    def reorder(self, index: np.ndarray) -> None:
        """Row i becomes what row index[i] was; there may be more or fewer rows than before.

        Raises:
            IndexError: there is no such row.
        """
        index = np.asarray(index)
        lengths = self.lengths[index]
        for store in (self._keys, self._values):
            if lengths.shape == self.lengths.shape:
                changed = np.flatnonzero(index != np.arange(len(index)))
                for array in store.arrays:
                    array[changed, :, : self._longest] = array[index[changed], :, : self._longest]
            else:
                store.replace(self._longest, self.capacity, index)
        self.lengths = lengths
        self._shapes = {name: (len(index), *shape[1:]) for name, shape in self._shapes.items()}
        self._count()

    def _count(self) -> None:
        self._longest = int(self.lengths.max(initial=0))
        self.uniform = bool((self.lengths == self._longest).all())

    def _needed(self, counts: int | np.ndarray) -> int:
        return self._longest + counts if isinstance(counts, int) else int((self.lengths + counts).max(initial=0))

    def _drop(self) -> None:
        """Moves the last window - 1 positions of each row to the front: the next query sees no others."""
        kept = self.window - 1
        for b in np.flatnonzero(self.lengths > kept):
            for array in (*self._keys.arrays, *self._values.arrays):
                array[b, :, :kept] = array[b, :, self.lengths[b] - kept : self.lengths[b]].copy()
        self.lengths = np.minimum(self.lengths, kept)
        self._count()


class KeyValueCache(StackCache):
    """Keys (B, Hkv, n, D) and values (B, Hkv, n, Dv) of one layer, with a length for each row; see `StackCache`.

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
        super().__init__(1, B, Hkv, D, capacity, Dv, window=window, dtype=dtype)

    @property
    def keys(self) -> np.ndarray:
        """(B, Hkv, max(lengths), D), a view; values beyond a row's length mean nothing."""
        return self._keys.arrays[0][:, :, : self._longest]

    @property
    def values(self) -> np.ndarray:
        """(B, Hkv, max(lengths), Dv), a view; values beyond a row's length mean nothing."""
        return self._values.arrays[0][:, :, : self._longest]

    def append(self, key: np.ndarray, value: np.ndarray, counts: np.ndarray | None = None) -> None:
        """Row b gets the first counts[b] (default n) of key (B, Hkv, n, D) and value (B, Hkv, n, Dv).

        Raises:
            ValueError: shapes do not fit, or a count is not in 0..n.
        """
        self._check(key, value, (0, 1, 2))
        n = key.shape[2]
        if counts is None:
            self.reserve(n)
            self.write(0, key, value)
            self.advance(n)
            return
        counts = np.asarray(counts)
        if counts.shape != (len(self),) or ((counts < 0) | (counts > n)).any():
            raise ValueError(f"counts is {counts}; needed: {len(self)} numbers from 0 to {n}")
        self.reserve(counts)
        self.write(0, key, value, counts)
        self.advance(counts)

    def append_packed(self, key: np.ndarray, value: np.ndarray, cu_seqlens: np.ndarray) -> None:
        """Row b gets the positions cu_seqlens[b]:cu_seqlens[b + 1] of key (T, Hkv, D) and value (T, Hkv, Dv).

        For prompts, whose queries have been answered from the packed arrays: with a window only the last window - 1 of
        them are stored, which is all that later queries can see.

        Raises:
            ValueError: shapes do not fit.
        """
        if cu_seqlens.shape != (len(self) + 1,):
            raise ValueError(f"cu_seqlens has shape {cu_seqlens.shape}; needed: ({len(self) + 1},)")
        self._check(key[None].swapaxes(1, 2), value[None].swapaxes(1, 2), (1, 2))
        counts = self.kept_of_prompts(np.diff(cu_seqlens))
        self.reserve(counts)
        self.write_packed(0, key, value, cu_seqlens, counts)
        self.advance(counts)

    def _check(self, key: np.ndarray, value: np.ndarray, axes: Sequence[int]) -> None:
        """axes: of (B, Hkv, D), those that have to fit."""
        for name, array in (("key", key), ("value", value)):
            own = self._shapes[name]
            if array.ndim != 4 or any((*array.shape[:2], array.shape[3])[axis] != own[axis] for axis in axes):
                B, Hkv, D = own
                raise ValueError(f"{name} has shape {array.shape}; needed: (B, Hkv, n, D) = ({B}, {Hkv}, n, {D})")
        if key.shape[2] != value.shape[2]:
            raise ValueError(f"key has {key.shape[2]} positions, value has {value.shape[2]}; needed: the same number")


def _copied(array: np.ndarray, length: int, capacity: int, index: np.ndarray | None = None) -> np.ndarray:
    """The first `length` positions of `array` (or of its rows `index`) in a new array with room for `capacity`."""
    source = array[:, :, :length] if index is None else array[index, :, :length]
    result = np.empty((source.shape[0], source.shape[1], capacity, source.shape[3]), array.dtype)
    result[:, :, :length] = source
    return result
