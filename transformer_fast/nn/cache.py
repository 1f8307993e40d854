"""`StackCache`: the keys and values that layers of one shape have seen so far; `KeyValueCache`: those of one layer.

A decoder has one `StackCache` for its layers of each shape (models.common.decoding): these share their lengths, so
that a step makes room and counts once, whatever their number, and csrc/ops/decoder.c writes and reads the arrays of
all layers in one call. An attention layer that runs by itself has a `KeyValueCache`, appends at each step, and gives
`keys`, `values` and `lengths` (as kv_lengths) to `functional.scaled_dot_product_attention`. A row's positions are 0,
1, ... whatever its neighbours' lengths are: padding is never stored. Another type of stored numbers: `Store`, and its
twin csrc/ops/cache.h.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from transformer_fast import functional as F
from transformer_fast.functional.one_call import OneCall, one_call

# In the order of tfast_dtype.
DTYPES = ("float32", "float16", "bfloat16", "int8")


class Store:
    """Keys, or values, of all layers: an array (B, Hkv, capacity, width) for each, where they are in memory.

    One array a layer and not one for all: a system may refuse one allocation of many GB that it would grant in pieces.
    int8: scales has an array (B, Hkv, capacity) for each layer besides, else it is empty.
    """

    def __init__(self, layers: int, shape: tuple[int, int, int, int], dtype: np.dtype) -> None:
        self.arrays = [np.empty(shape, dtype) for _ in range(layers)]
        self.scales = [np.empty(shape[:3], np.float32) for _ in range(layers if dtype == np.int8 else 0)]
        self._locate()

    @property
    def parts(self) -> list[np.ndarray]:
        """All arrays, whose first axes are rows, heads and positions."""
        return self.arrays + self.scales

    def put(self, layer: int, place: tuple, x: np.ndarray) -> None:
        """Writes x, which fits the first three axes of `place`, in the store's type."""
        if self.scales:
            self.arrays[layer][place], self.scales[layer][place] = _integers(x)
        else:
            self.arrays[layer][place] = x

    def _locate(self) -> None:
        self.addresses = np.array([array.ctypes.data for array in self.arrays], np.int64)
        self.scale_addresses = np.array([array.ctypes.data for array in self.scales], np.int64) if self.scales else None

    def grow(self, first: int) -> None:
        """The first axis, which only becomes longer, gets the length `first`."""
        self.arrays = [_lengthened(array, first) for array in self.arrays]
        self.scales = [_lengthened(array, first) for array in self.scales]
        self._locate()

    def replace(self, length: int, capacity: int, index: np.ndarray | None = None) -> None:
        """The first `length` positions (of the rows `index`) go into new arrays with room for `capacity`."""
        self.arrays = [_copied(array, length, capacity, index) for array in self.arrays]
        self.scales = [_copied(array, length, capacity, index) for array in self.scales]
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

    dtype is the type in which keys and values are stored: float32, or float16 or bfloat16
    (`functional.bfloat16_dtype`), which round what is appended and take half the memory, or int8, which takes a fourth
    and 4 bytes: integers of at most 127 times a scale for each position of a head (`scales`). Keys or values with NaN
    or infinity get the scale NaN. A float32 query attends to any of them.

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
        if dtype.name not in DTYPES:
            raise TypeError(f"dtype is {dtype}; needed: {', '.join(DTYPES[:-1])} or {DTYPES[-1]}")
        self.window = window
        self._code = DTYPES.index(dtype.name)
        capacity = capacity if window is None else min(capacity, 2 * window)
        self.lengths = np.zeros(B, np.int64)
        self.uniform = True  # all rows have the same length: then a step is one assignment
        self._keys = Store(layers, (B, Hkv, capacity, D), dtype)
        self._values = Store(layers, (B, Hkv, capacity, Dv), dtype)
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

    def scales(self, layer: int, more: int = 0) -> dict[str, np.ndarray]:
        """What attention needs besides `seen`: key_scale and value_scale (B, Hkv, n) of int8, nothing of others."""
        length = self._longest + more
        stores = {"key_scale": self._keys, "value_scale": self._values}
        return {name: store.scales[layer][:, :, :length] for name, store in stores.items() if store.scales}

    def prepare(self, capacity: int) -> None:
        """Makes room for rows of `capacity` positions in all; with a window there is nothing to do."""
        if self.window is None:
            self.reserve(max(0, capacity - self._longest))

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
        if counts is None and self.uniform:
            place = (slice(None), slice(None), slice(self._longest, self._longest + key.shape[2]))
            self._keys.put(layer, place, key)
            self._values.put(layer, place, value)
            return
        for b, first in enumerate(self.lengths):
            count = key.shape[2] if counts is None else counts[b]
            place = (b, slice(None), slice(first, first + count))
            self._keys.put(layer, place, key[b, :, :count])
            self._values.put(layer, place, value[b, :, :count])

    def write_packed(
        self, layer: int, key: np.ndarray, value: np.ndarray, cu_seqlens: np.ndarray, counts: np.ndarray
    ) -> None:
        """Of row b's positions cu_seqlens[b]:cu_seqlens[b + 1] of key (T, Hkv, D) and value (T, Hkv, Dv) the last
        counts[b] go behind its length."""
        for b, first in enumerate(self.lengths):
            rows = slice(cu_seqlens[b + 1] - counts[b], cu_seqlens[b + 1])
            place = (b, slice(None), slice(first, first + counts[b]))
            self._keys.put(layer, place, key[rows].swapaxes(0, 1))
            self._values.put(layer, place, value[rows].swapaxes(0, 1))

    def engine_arrays(self, kept: np.ndarray) -> F.CacheArrays:
        """What functional.Decoder takes: kept[b] positions of row b are written, and have been reserved."""
        keys, values = self._keys, self._values
        arrays = keys.addresses, values.addresses, keys.scale_addresses, values.scale_addresses
        return F.CacheArrays(self._code, self._capacity, *arrays, self.lengths, kept)

    def kept_of_prompts(self, counts: np.ndarray) -> np.ndarray:
        """How many of counts[b] positions of a prompt without a past are worth storing, the last ones.

        A prompt's queries are answered from its own keys: with a window later queries see window - 1 of them.
        """
        return counts if self.window is None else np.minimum(counts, self.window - 1)

    def advance(self, counts: int | np.ndarray) -> None:
        """Counts what every layer has written: counts[b] (or as many each) positions of row b."""
        self.lengths = self.lengths + counts
        if isinstance(counts, int):
            self._longest += counts if len(self.lengths) else 0
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
                for array in store.parts:
                    array[changed, :, : self._longest] = array[index[changed], :, : self._longest]
            else:
                store.replace(self._longest, self.capacity, index)
        self.lengths = lengths
        self._shapes = {name: (len(index), *shape[1:]) for name, shape in self._shapes.items()}
        self._count()

    def crop(self, lengths: np.ndarray) -> None:
        """Row b keeps its first lengths[b] positions of those that it holds; a length beyond them changes nothing."""
        self.lengths = np.minimum(self.lengths, lengths)
        self._count()

    def held(self) -> dict[str, np.ndarray]:
        """All that the positions of all layers hold, views by name, for a file."""
        stores = {"keys": self._keys, "values": self._values}
        return {
            f"{name}.{i}": array[:, :, : self._longest]
            for name, store in stores.items()
            for i, array in enumerate(store.parts)
        }

    def hold(self, lengths: np.ndarray, arrays: Mapping[str, np.ndarray]) -> None:
        """What `held` gave, of an empty cache of the same shape: rows hold it again, `lengths` positions each.

        Raises:
            ValueError: a name, type or shape is another one.
        """
        longest = int(lengths.max(initial=0))
        own = self.held()
        for name, array in own.items():
            needed = (array.dtype, (*array.shape[:2], longest, *array.shape[3:]))
            given = arrays.get(name)
            if given is None or (given.dtype, given.shape) != needed:
                found = "nothing" if given is None else f"{given.dtype} of shape {given.shape}"
                raise ValueError(f"{name} is {found}; needed: {needed[0]} of shape {needed[1]}")
        self.reserve(longest)
        self.lengths = lengths
        self._count()
        for name, array in self.held().items():
            array[...] = arrays[name]

    def _count(self) -> None:
        self._longest = int(self.lengths.max(initial=0))
        self.uniform = bool((self.lengths == self._longest).all())

    def _needed(self, counts: int | np.ndarray) -> int:
        return self._longest + counts if isinstance(counts, int) else int((self.lengths + counts).max(initial=0))

    def _drop(self) -> None:
        """Moves the last window - 1 positions of each row to the front: the next query sees no others."""
        kept = self.window - 1
        for b in np.flatnonzero(self.lengths > kept):
            for array in (*self._keys.parts, *self._values.parts):
                array[b, :, :kept] = array[b, :, self.lengths[b] - kept : self.lengths[b]].copy()
        self.lengths = np.minimum(self.lengths, kept)
        self._count()


class KeyValueCache(StackCache):
    """Keys (B, Hkv, n, D) and values (B, Hkv, n, Dv) of one layer, with a length for each row; see `StackCache`.

    One thread at a time: a call that meets another one's in the same cache is refused (RuntimeError).

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
        self.in_use = OneCall("the cache")

    @property
    def keys(self) -> np.ndarray:
        """(B, Hkv, max(lengths), D), a view; values beyond a row's length mean nothing."""
        return self._keys.arrays[0][:, :, : self._longest]

    @property
    def values(self) -> np.ndarray:
        """(B, Hkv, max(lengths), Dv), a view; values beyond a row's length mean nothing."""
        return self._values.arrays[0][:, :, : self._longest]

    def scales(self, layer: int = 0, more: int = 0) -> dict[str, np.ndarray]:
        """key_scale and value_scale (B, Hkv, max(lengths)) for attention where dtype is int8, else nothing."""
        return super().scales(layer, more)

    @one_call
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

    @one_call
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

    @one_call
    def reorder(self, index: np.ndarray) -> None:
        """As `StackCache.reorder`."""
        super().reorder(index)

    @one_call
    def crop(self, lengths: np.ndarray) -> None:
        """As `StackCache.crop`."""
        super().crop(lengths)

    def _check(self, key: np.ndarray, value: np.ndarray, axes: Sequence[int]) -> None:
        """axes: of (B, Hkv, D), those that have to fit."""
        for name, array in (("key", key), ("value", value)):
            own = self._shapes[name]
            if array.ndim != 4 or any((*array.shape[:2], array.shape[3])[axis] != own[axis] for axis in axes):
                B, Hkv, D = own
                raise ValueError(f"{name} has shape {array.shape}; needed: (B, Hkv, n, D) = ({B}, {Hkv}, n, {D})")
        if key.shape[2] != value.shape[2]:
            raise ValueError(f"key has {key.shape[2]} positions, value has {value.shape[2]}; needed: the same number")


def narrowed(x: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray | None]:
    """x (..., D) as a cache of this type stores it, and the scales (...) of int8, None of others.

    For keys and values that are made once and never appended to: those of cross-attention. float32 stays x itself.
    """
    return _integers(x) if dtype == np.int8 else (x.astype(dtype, copy=False), None)


def _integers(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(..., D) -> int8 (..., D) and scales (...), as reference.cache_integers and store_int8 of csrc/ops/cache.h."""
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        scale = np.abs(x).max(-1, initial=0) / np.float32(127)
        finite = np.isfinite(scale)
        inverse = np.where(finite & (scale >= np.finfo(np.float32).tiny), np.float32(1) / scale, np.float32(0))
        integers = np.where(finite[..., None], np.rint(x * inverse[..., None]), 0)
    return integers.astype(np.int8), np.where(finite, scale, np.float32(np.nan))


def _lengthened(array: np.ndarray, first: int) -> np.ndarray:
    result = np.empty((first, *array.shape[1:]), array.dtype)
    result[: len(array)] = array
    return result


def _copied(array: np.ndarray, length: int, capacity: int, index: np.ndarray | None = None) -> np.ndarray:
    """The first `length` positions of `array` (or of its rows `index`) in a new array with room for `capacity`."""
    source = array[:, :, :length] if index is None else array[index, :, :length]
    result = np.empty((*source.shape[:2], capacity, *source.shape[3:]), array.dtype)
    result[:, :, :length] = source
    return result
