"""Structures over a table of blocks: blocks, random_blocks, rows.

A table is a `KeyRanges` whose rows and keys are blocks. It covers the sequence: more positions than it has are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from transformer_fast.functional import arrays
from transformer_fast.functional.key_ranges import KeyRanges
from transformer_fast.masks import arguments
from transformer_fast.masks.arguments import PerHead
from transformer_fast.masks.mask import Mask, Structure
from transformer_fast.masks.row_lists import RowLists, joined, of_ranges

# Random numbers of 8 bytes that are drawn at once: 1 MB, where a table of blocks of one position would need L x L.
_DRAWN = 2**17


# blocks, rows --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class Blocks(Mask):
    table: KeyRanges
    size: tuple[int, int]

    def lists(self, first: int, Lq: int, Lk: int) -> RowLists:
        table, (rows, keys) = self.table, self.size
        n_rows, n_keys = table.shape[2:]
        if first < 0 or first + Lq > n_rows * rows:
            raise ValueError(
                f"the table has {n_rows} rows of blocks of {rows} queries; needed: a row for each position "
                f"from {first} to {first + Lq}"
            )
        if Lk > n_keys * keys:
            raise ValueError(
                f"the table has {n_keys} columns of blocks of {keys} keys; needed: a column for each of {Lk}"
            )
        list_of_row = table.list_of_row.astype(np.int64)[:, :, (np.arange(Lq) + first) // rows]
        of = np.repeat(np.arange(table.n_lists), np.diff(table.begin))
        low, high = table.bounds.astype(np.int64).T * keys
        return of_ranges(list_of_row, table.n_lists, of, low, high, Lk)

    def __repr__(self) -> str:
        if self.size == (1, 1):
            return f"rows({self.table!r})"
        return f"blocks({self.table!r}, {self.size[0] if self.size[0] == self.size[1] else self.size})"


def rows(mask: Any) -> Mask:
    """Query i sees key j if mask[..., i, j]: any structure, of a bool array (for tests) or of ranges that you built.

    mask: a bool array (Lq, Lk), (B, Lq, Lk) or (B, H, Lq, Lk), or a KeyRanges.

    Raises:
        TypeError: mask is neither bool nor a KeyRanges.
        ValueError: mask has other axes. `ranges` asks for more queries or keys than it has.

    Example:
        >>> print(tf.visualize.mask_text(tf.masks.rows(np.eye(3, dtype=bool)) | tf.masks.prefix(1), 3, 3))
        #··
        ##·
        #·#
    """
    return Blocks(mask if isinstance(mask, KeyRanges) else KeyRanges.from_dense(mask), (1, 1))


def blocks(array: Any, size: Any, *, full: Any = None, mask: Mask | None = None) -> Mask:
    """Queries and keys are cut into blocks, and a table says which blocks of keys a block of queries sees.

    Query i sees key j if array[..., i // size, j // size], and, where `mask` is given, if mask shows j to i, too; or if
    full[..., i // size, j // size].

    array: the table of R rows of blocks and C columns, as
        a bool array (R, C), (B, R, C) or (B, H, R, C);
        a scipy.sparse array in the format csr or bsr (R, C), visible where an entry is not zero, or a list of them, or
        a list of lists, for batch entries (and heads);
        a tuple (kv_num_blocks, kv_indices) as torch's BlockMask holds it, (B, H, R) and (B, H, R, C) integers (or
        without H, or without both): the first kv_num_blocks[b, h, r] of kv_indices[b, h, r] are visible;
        a KeyRanges whose rows and keys are blocks.
    size: positions of a block, or a pair (queries, keys) of them. With a sparse array of single positions it is 1: a
        bsr array with blocks of 64 x 64, say, whose entries are the exact mask inside.
    full: another table, of blocks that are visible whatever `mask` says; of a BlockMask (full_kv_num_blocks,
        full_kv_indices).
    mask: what is visible inside the blocks of `array`; all by default.

    Raises:
        TypeError: a table is none of these; mask is not a mask.
        ValueError: a table's shape or numbers do not fit; size is below 1; full is given without a mask. `ranges` asks
            for more queries or keys than the table covers.

    Example:
        >>> table = np.array([[True, False, False], [True, True, False], [False, True, True]])
        >>> print(tf.visualize.mask_text(tf.masks.blocks(table, 2), 6, 6))
        ##····
        ##····
        ####··
        ####··
        ··####
        ··####
        >>> near = np.eye(3, dtype=bool)
        >>> print(tf.visualize.mask_text(tf.masks.blocks(near, 2, full=table & ~near, mask=tf.masks.causal()), 6, 6))
        #·····
        ##····
        ###···
        ####··
        ··###·
        ··####
    """
    size = arguments.pair(size, "size", 1)
    if mask is not None and not isinstance(mask, Mask):
        raise TypeError(
            f"mask is a {type(mask).__name__}; needed: a mask of this package, or rows(mask) of a bool array"
        )
    if full is not None and mask is None:
        raise ValueError("full is given and mask is None; needed: a mask inside the blocks of array, or one table")
    result: Mask = Blocks(_table(array, "array"), size)
    if mask is not None:
        result = result & mask
    return result if full is None else result | Blocks(_table(full, "full"), size)


def _table(array: Any, name: str) -> KeyRanges:
    if isinstance(array, KeyRanges):
        return array
    if isinstance(array, tuple):
        return _of_indices(array, name)
    if _is_sparse(array):
        return _of_sparse(array, name).key_ranges()
    if isinstance(array, list) and array:
        entries = [entry if isinstance(entry, list) else [entry] for entry in array]
        if all(entry and all(map(_is_sparse, entry)) for entry in entries):
            return _of_several(entries, name).key_ranges()
    array = arrays.as_array(array, name)
    if array.dtype != np.bool_:
        raise TypeError(
            f"{name} has dtype {array.dtype}; needed: a bool array, a scipy.sparse array, a tuple (kv_num_blocks, "
            "kv_indices) or a KeyRanges"
        )
    if not 2 <= array.ndim <= 4:
        raise ValueError(f"{name} has shape {array.shape}; needed: (R, C), (B, R, C) or (B, H, R, C)")
    return KeyRanges.from_dense(array)


def _is_sparse(array: Any) -> bool:
    return hasattr(array, "nnz") and hasattr(array, "format")


def _of_several(entries: list[list[Any]], name: str) -> RowLists:
    heads = [array for entry in entries for array in entry]
    if len({len(entry) for entry in entries}) > 1:
        raise ValueError(f"{name} has lists of {[len(entry) for entry in entries]} arrays; needed: one for each head")
    for array in heads:
        if array.shape != heads[0].shape:
            raise ValueError(f"{name} has arrays of shapes {heads[0].shape} and {array.shape}; needed: one shape")
    which = np.arange(len(heads)).reshape(len(entries), -1)
    return joined([_of_sparse(array, name) for array in heads], which)


def _of_sparse(array: Any, name: str) -> RowLists:
    """A list for each row."""
    if array.format not in ("csr", "bsr"):
        raise TypeError(
            f"{name} is a sparse array of the format {array.format}; needed: csr or bsr, as tocsr() makes it"
        )
    if array.ndim != 2:
        raise ValueError(f"{name} has shape {array.shape}; needed: (R, C)")
    R, C = array.shape
    height, width = getattr(array, "blocksize", (1, 1))
    stored = array.indptr[-1]  # the arrays may be longer
    row = np.repeat(np.arange(len(array.indptr) - 1), np.diff(array.indptr)) * height
    column = np.asarray(array.indices[:stored], np.int64) * width
    # Runs of visible entries within the rows of each stored block.
    edges = np.zeros((len(row), height, width + 2), bool)
    np.not_equal(array.data[:stored].reshape(len(row), height, width), 0, out=edges[:, :, 1:-1])
    block, inner, at = np.nonzero(edges[:, :, 1:] != edges[:, :, :-1])
    of = (row[block] + inner)[::2]
    low, high = (column[block] + at).reshape(-1, 2).T
    return of_ranges(np.arange(R), R, of, low, high, C)


def _of_indices(pair: tuple, name: str) -> KeyRanges:
    if len(pair) != 2:
        raise ValueError(f"{name} is a tuple of {len(pair)}; needed: (kv_num_blocks, kv_indices)")
    count, indices = (np.asarray(x) for x in pair)
    for part, array in zip(("kv_num_blocks", "kv_indices"), (count, indices), strict=True):
        if array.dtype.kind not in "iu" and array.size:
            raise TypeError(f"{part} of {name} has dtype {array.dtype}; needed: integers")
    if not 1 <= count.ndim <= 3 or indices.shape[:-1] != count.shape:
        raise ValueError(
            f"{name} has kv_num_blocks of shape {count.shape} and kv_indices of shape {indices.shape}; needed: "
            "(B, H, R) and (B, H, R, C)"
        )
    C = indices.shape[-1]
    if count.size and not 0 <= count.min() <= count.max() <= C:
        raise ValueError(f"kv_num_blocks of {name} has {count.min()} to {count.max()}; needed: 0 to {C}")
    if count.ndim == 2:
        count = count[:, None]
    count = count.reshape(*(1,) * (3 - count.ndim), *count.shape)
    used = np.arange(C) < count.reshape(-1, 1)
    column = indices.reshape(count.size, C)[used].astype(np.int64)
    if column.size and not 0 <= column.min() <= column.max() < C:
        wrong = column.min() if column.min() < 0 else column.max()
        raise ValueError(f"kv_indices of {name} holds {wrong}; needed: 0 to {C - 1}, its last axis being all columns")
    n = count.size
    of = np.repeat(np.arange(n), count.reshape(-1))
    return of_ranges(np.arange(n).reshape(count.shape), n, of, column, column + 1, C).key_ranges()


# random_blocks -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class RandomBlocks(Structure):
    size: tuple[int, int]
    seed: PerHead
    fraction: float | None
    count: int | None

    def of_head(self, first: int, Lq: int, Lk: int, seed: int) -> RowLists:
        rows, keys = self.size
        if first < 0:
            raise ValueError(
                f"offset is {first}; needed: 0 or more, since random_blocks has no blocks before position 0"
            )
        columns = -(-Lk // keys)
        block = (np.arange(Lq) + first) // rows
        begin, n = first // rows, (int(block[-1]) - first // rows + 1 if Lq else 0)
        chosen = _draw(seed, begin, n, columns, self._per_row(columns))
        low = chosen.reshape(-1) * keys
        return of_ranges(block - begin, n, np.repeat(np.arange(n), chosen.shape[1]), low, low + keys, Lk)

    def _per_row(self, columns: int) -> int:
        if self.count is not None:
            return min(self.count, columns)
        assert self.fraction is not None
        return min(max(round(self.fraction * columns), 1 if self.fraction else 0), columns)

    def __repr__(self) -> str:
        size = self.size[0] if self.size[0] == self.size[1] else self.size
        what = f"fraction={self.fraction!r}" if self.count is None else f"count={self.count!r}"
        return f"random_blocks({size}, {what}, seed={self.seed!r})"


def _draw(seed: int, begin: int, n: int, columns: int, count: int) -> np.ndarray:
    """(n, count) columns, drawn without replacement for each of the rows begin to begin + n; whatever n is, a row's
    are the same: it has `columns` numbers of the stream, and takes the places of the smallest."""
    chosen = np.empty((n, count), np.int64)
    if count == columns:
        chosen[:] = np.arange(columns)
    elif count:
        stream = np.random.PCG64(seed).advance(begin * columns)
        some = max(_DRAWN // columns, 1)
        for row in range(0, n, some):
            numbers = stream.random_raw(min(some, n - row) * columns).reshape(-1, columns)
            chosen[row : row + some] = np.argpartition(numbers, count - 1, axis=1)[:, :count]
    return chosen


def random_blocks(size: Any, fraction: float | None = None, *, count: int | None = None, seed: Any) -> Mask:
    """Each block of queries sees some blocks of keys, drawn among those of the sequence without replacement.

    The random part of BigBird (Zaheer et al. 2020). The same arguments give the same blocks on every machine and in
    every release of NumPy; the blocks of a row depend on the number of blocks of keys, not on the number of queries.

    size: positions of a block, or a pair (queries, keys) of them.
    fraction: of the blocks of keys, from 0 to 1; rounded to whole blocks, at least one unless it is 0.
    count: instead, the number of blocks; all where there are not as many.
    seed: an integer from 0 on, (B,) or (B, H) integers: heads with seeds of their own see blocks of their own.

    Raises:
        TypeError: an argument has another type.
        ValueError: a number is out of range; both fraction and count are given, or none of them.

    Example:
        >>> mask = tf.masks.random_blocks(64, fraction=0.02, seed=0)
        >>> mask.ranges(16384, 16384).visible / 16384**2
        0.01953125
    """
    if (fraction is None) == (count is None):
        raise ValueError(f"fraction is {fraction!r} and count is {count!r}; needed: one of them")
    if fraction is not None:
        fraction = arrays.number(fraction, "fraction")
        if not 0 <= fraction <= 1:
            raise ValueError(f"fraction is {fraction}; needed: 0 to 1")
    if count is not None:
        count = arguments.whole(count, "count", 0)
    return RandomBlocks(arguments.pair(size, "size", 1), arguments.number(seed, "seed", 0), fraction, count)
