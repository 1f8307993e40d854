"""`PagedCache`: the keys and values of layers of one shape in pages, which rows share until they part.

A decoder's state has one in place of a `StackCache` where a page size is asked for (models.common.decoding): rows that
continue one prompt (num_return_sequences, beams) then hold it once, and steps read it once. The pages are of a
`page_pool.PagePool`, which other caches may use too: an engine that reads prompts beside the rows that run has two
(serving.rows). The arrays are read by `functional.paged_attention` and by csrc/ops/decoder.c, which also writes them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from transformer_fast import functional as F
from transformer_fast.nn.page_pool import PagePool

_FREE = -1  # in a table: there is no page


class PagedCache:
    """Keys (B, Hkv, n, D) and values (B, Hkv, n, Dv) of `layers` layers, in pages of page_size positions each.

    A call makes room with `reserve`, each layer writes behind the lengths with `write` or `write_packed`, and `advance`
    counts what was written, as with `StackCache`. Pages go back to the pool when nobody holds them. `reorder` copies
    tables, and no keys: rows that come from the same row share its pages, and a page that several hold is copied when
    one of them writes to it. `over` makes a cache of pages of a pool that there is; `join` moves rows from one such
    cache to another.

    table (B, n) int32: the pages of each row, -1 behind the last. shared (B,): how many first keys a row has in common
    with those that it parted from, whole pages; steps read these once for all of them, and sum in another order than
    without sharing. It is set when a row is first taken twice, and never grows, so that a row's bits do not depend on
    what became of the others.

    Raises:
        ValueError: a size is negative, or page_size is not a multiple of 16.
        TypeError: dtype is not float32, float16, bfloat16 (`functional.bfloat16_dtype`) or int8.

    Example:
        >>> import numpy as np
        >>> from transformer_fast.nn.paged_cache import PagedCache
        >>> cache, new = PagedCache(1, 1, 2, 4, page_size=16), np.ones((1, 2, 40, 4), np.float32)
        >>> cache.reserve(40)
        >>> cache.write(0, new, new)
        >>> cache.advance(40)
        >>> cache.reorder(np.array([0, 0]))  # a second row that goes on from the first
        >>> cache.reserve(1)
        >>> cache.table  # of the third page each row has its own copy from now on
        array([[0, 1, 3],
               [0, 1, 2]], dtype=int32)
        >>> cache.lengths, cache.shared
        (array([40, 40]), array([32, 32]))
    """

    window = None  # all that was seen is kept

    def __init__(
        self,
        layers: int,
        B: int,
        Hkv: int,
        D: int,
        page_size: int,
        Dv: int | None = None,
        *,
        dtype: np.dtype | type = np.float32,
    ) -> None:
        self._open(PagePool(layers, Hkv, D, page_size, Dv, dtype=dtype), B)

    @classmethod
    def over(cls, pool: PagePool, B: int) -> PagedCache:
        """B rows without positions, whose pages are of `pool`."""
        cache = cls.__new__(cls)
        cache._open(pool, B)
        return cache

    def _open(self, pool: PagePool, B: int) -> None:
        if B < 0:
            raise ValueError(f"B={B}; needed: a number of rows that is not negative")
        self.pool = pool
        self.page_size = pool.page_size
        self.lengths = np.zeros(B, np.int64)
        self.shared = np.zeros(B, np.int64)
        self.uniform = True  # all rows have the same length
        self.table = np.full((B, 0), _FREE, np.int32)
        self._room = np.zeros(B, np.int64)  # positions that row b may write without more pages or copies

    def __len__(self) -> int:
        """The number of rows, B."""
        return len(self.lengths)

    @property
    def dtype(self) -> np.dtype:
        """The type in which keys and values are stored."""
        return self.pool.dtype

    @property
    def pages(self) -> int:
        """How many pages of the pool are held, each counted once."""
        return self.pool.held

    def prepare(self, capacity: int) -> None:
        """Nothing: pages are taken when they are needed."""

    def reserve(self, counts: int | np.ndarray) -> None:
        """Makes room for counts[b] (or as many each) more positions in row b: pages, and copies of shared ones."""
        needed = self.lengths + counts
        for b in np.flatnonzero(needed > self._room):
            self._part(b)
            held = -(-int(self._room[b]) // self.page_size)
            more = -(-int(needed[b]) // self.page_size) - held
            self._widen(held + more)
            for i in range(held, held + more):
                self.table[b, i] = self.pool.take()
                self._room[b] = (i + 1) * self.page_size  # here: the next page may be one for which there is no memory

    def write(self, layer: int, key: np.ndarray, value: np.ndarray) -> None:
        """key (B, Hkv, n, D) and value (B, Hkv, n, Dv) go behind each row's length."""
        for b in range(len(self)):
            self._write_row(layer, b, key[b].swapaxes(0, 1), value[b].swapaxes(0, 1))

    def write_packed(
        self, layer: int, key: np.ndarray, value: np.ndarray, cu_seqlens: np.ndarray, counts: np.ndarray
    ) -> None:
        """Of row b's positions cu_seqlens[b]:cu_seqlens[b + 1] of key (T, Hkv, D) and value (T, Hkv, Dv) the last
        counts[b] go behind its length."""
        for b, (end, count) in enumerate(zip(cu_seqlens[1:], counts, strict=True)):
            self._write_row(layer, b, key[end - count : end], value[end - count : end])

    def attention(
        self, layer: int, query: np.ndarray, lengths: np.ndarray, rows: slice | np.ndarray = slice(None), **options
    ) -> np.ndarray:
        """Causal attention of query (R, H, n, D), the last n of lengths (R,) positions of the rows `rows`.

        options: of functional.paged_attention.
        """
        shared = self.shared[rows]
        windowed = options.get("window", (-1, -1))[0] != -1
        scales = {}
        if self.pool.keys.scales:
            scales = {"key_scale": self.pool.keys.scales[layer], "value_scale": self.pool.values.scales[layer]}
        return F.paged_attention(
            query,
            self.pool.keys.arrays[layer],
            self.pool.values.arrays[layer],
            self.table[rows],
            lengths,
            shared_keys=0 if windowed or not shared.any() else shared,
            is_causal=True,
            enable_gqa=True,
            **scales,
            **options,
        )

    def seen(self, layer: int, more: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Copies of keys (B, Hkv, max(lengths) + more, D) and values of a layer, as `StackCache.seen`."""
        length = int(self.lengths.max(initial=0)) + more
        return tuple(self._gathered(store.arrays[layer], length) for store in (self.pool.keys, self.pool.values))

    def scales(self, layer: int, more: int = 0) -> dict[str, np.ndarray]:
        """key_scale and value_scale (B, Hkv, n) of int8, copies; nothing of other types."""
        length = int(self.lengths.max(initial=0)) + more
        stores = {"key_scale": self.pool.keys, "value_scale": self.pool.values}
        return {name: self._gathered(store.scales[layer], length) for name, store in stores.items() if store.scales}

    def engine_arrays(self, kept: np.ndarray) -> F.CacheArrays:
        """What functional.Decoder takes: kept[b] positions of row b are written, and have been reserved."""
        keys, values = self.pool.keys, self.pool.values
        arrays = keys.addresses, values.addresses, keys.scale_addresses, values.scale_addresses
        shared = self.shared if self.shared.any() else None
        return F.CacheArrays(self.pool.code, self.page_size, *arrays, self.lengths, kept, self.table, shared)

    def kept_of_prompts(self, counts: np.ndarray) -> np.ndarray:
        """All of them."""
        return counts

    def advance(self, counts: int | np.ndarray) -> None:
        """Counts what every layer has written: counts[b] (or as many each) positions of row b."""
        self._set_lengths(self.lengths + counts)

    def reorder(self, index: np.ndarray) -> None:
        """Row i becomes what row index[i] was; there may be more or fewer rows than before. No key is copied.

        Raises:
            IndexError: there is no such row.
        """
        index = np.asarray(index)
        lengths, shared, table = self.lengths[index], self.shared[index], self.table[index]
        taken = np.bincount(index, minlength=len(self))[index] if len(index) else shared
        whole = lengths // self.page_size * self.page_size
        self.shared = np.where((shared == 0) & (taken > 1), whole, shared)
        self._set_lengths(lengths)
        self._keep_used(table)

    def join(self, other: PagedCache) -> None:
        """The rows of `other`, a cache of the same pool, become rows behind those that there are; it has none then."""
        if other.pool is not self.pool:
            raise ValueError("other has pages of another pool; needed: those of the pool of this cache")
        width = max(self.table.shape[1], other.table.shape[1])
        self._widen(width)
        other._widen(self.table.shape[1])
        self.table = np.concatenate([self.table, other.table[:, : self.table.shape[1]]])
        self.shared = np.concatenate([self.shared, other.shared])
        self._room = np.concatenate([self._room, other._room])
        self._set_lengths(np.concatenate([self.lengths, other.lengths]))
        other._open(other.pool, 0)

    def adopt(self, b: int, pages: np.ndarray) -> None:
        """Row b, which has whole pages only, goes on with `pages` of the pool: all their positions are its own.

        The row reads its own table (`shared` stays as it is), so that its bits are those of a row that has written
        the pages itself.
        """
        first, rest = divmod(int(self.lengths[b]), self.page_size)
        if rest or self._room[b] != self.lengths[b]:
            raise ValueError(f"row {b} has {self.lengths[b]} positions; needed: whole pages, and none reserved")
        self._widen(first + len(pages))
        self.pool.hold(pages)
        self.table[b, first : first + len(pages)] = pages
        lengths = self.lengths.copy()
        lengths[b] += len(pages) * self.page_size
        self._room[b] = lengths[b]
        self._set_lengths(lengths)

    def crop(self, lengths: np.ndarray) -> None:
        """Row b keeps its first lengths[b] positions of those that it holds; a length beyond them changes nothing."""
        self._set_lengths(np.minimum(self.lengths, lengths))
        self.shared = np.minimum(self.shared, self.lengths // self.page_size * self.page_size)
        self._keep_used(self.table)

    def held(self) -> dict[str, np.ndarray]:
        """Copies of all that the positions of all layers hold, as `StackCache.held` gives it."""
        longest = int(self.lengths.max(initial=0))
        stores = {"keys": self.pool.keys, "values": self.pool.values}
        return {
            f"{name}.{i}": self._gathered(array, longest)
            for name, store in stores.items()
            for i, array in enumerate(store.parts)
        }

    def _set_lengths(self, lengths: np.ndarray) -> None:
        self.lengths = lengths
        self.uniform = bool((lengths == lengths[:1]).all())

    def _gathered(self, array: np.ndarray, length: int) -> np.ndarray:
        """(pages, Hkv, page_size, ...) -> (B, Hkv, length, ...); what lies beyond a row's pages means nothing."""
        n = -(-length // self.page_size)
        rows = array[np.maximum(self.table[:, :n], 0)].swapaxes(1, 2)
        return rows.reshape(*rows.shape[:2], n * self.page_size, *rows.shape[4:])[:, :, :length]

    def _write_row(self, layer: int, b: int, key: np.ndarray, value: np.ndarray) -> None:
        """key (n, Hkv, D) and value (n, Hkv, Dv) behind the length of row b."""
        first, n = int(self.lengths[b]), len(key)
        for begin in range(first - first % self.page_size, first + n, self.page_size):
            low, high = max(first, begin), min(first + n, begin + self.page_size)
            place = (self.table[b, begin // self.page_size], slice(None), slice(low - begin, high - begin))
            part = slice(low - first, high - first)
            self.pool.keys.put(layer, place, key[part].swapaxes(0, 1))
            self.pool.values.put(layer, place, value[part].swapaxes(0, 1))

    def _part(self, b: int) -> None:
        """Row b's last page, where it is partly filled and held by others, becomes a copy that b alone holds."""
        i, filled = divmod(int(self.lengths[b]), self.page_size)
        if filled == 0 or self._room[b] > self.lengths[b] // self.page_size * self.page_size:
            return
        page = int(self.table[b, i])
        if self.pool.holders[page] > 1:
            self.table[b, i] = self.pool.copied(page)  # without memory for it nothing has changed
        self._room[b] = (i + 1) * self.page_size

    def _widen(self, n: int) -> None:
        """The table gets room for n pages a row."""
        B, width = self.table.shape
        if n > width:
            wide = np.full((B, max(n, width + width // 2)), _FREE, np.int32)
            wide[:, :width] = self.table
            self.table = wide

    def _keep_used(self, table: np.ndarray) -> None:
        """After lengths have changed: `table` without what lies behind them takes the place of the table, and pages
        that nobody holds any more are free. A row that shares its last page may not write to it."""
        used = np.arange(table.shape[1]) * self.page_size < self.lengths[:, None]
        dropped = self.table[self.table != _FREE]
        self.table = np.where(used, table, np.int32(_FREE))
        self.pool.hold(table[used])
        self.pool.drop(dropped)
        self._room = used.sum(axis=1) * self.page_size
        last = np.maximum(self.lengths - 1, 0) // self.page_size
        for b in np.flatnonzero(self.lengths % self.page_size):
            if self.pool.holders[self.table[b, last[b]]] > 1:
                self._room[b] = self.lengths[b] // self.page_size * self.page_size

    def hold(self, lengths: np.ndarray, arrays: Mapping[str, np.ndarray]) -> None:
        """What `held` gave, of an empty cache of the same shape: rows hold it again, `lengths` positions each.

        Raises:
            ValueError: a name, type or shape is another one.
        """
        longest = int(lengths.max(initial=0))
        self.reserve(lengths)
        stores = {"keys": self.pool.keys, "values": self.pool.values}
        for name, store in stores.items():
            for i, array in enumerate(store.parts):
                needed = (array.dtype, (len(self), array.shape[1], longest, *array.shape[3:]))
                given = arrays.get(f"{name}.{i}")
                if given is None or (given.dtype, given.shape) != needed:
                    found = "nothing" if given is None else f"{given.dtype} of shape {given.shape}"
                    raise ValueError(f"{name}.{i} is {found}; needed: {needed[0]} of shape {needed[1]}")
                for b, length in enumerate(lengths):
                    for begin in range(0, int(length), self.page_size):
                        end = min(begin + self.page_size, int(length))
                        array[self.table[b, begin // self.page_size], :, : end - begin] = given[b, :, begin:end]
        self._set_lengths(lengths)
