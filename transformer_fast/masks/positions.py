"""Structures that a formula over positions defines: causal, window, prefix, strided, block_local, global_tokens.

They hold for sequences of any length. In the formulas i is the position of the query (its row, plus the `offset` of
`ranges`) and j that of the key. Numbers may differ by batch entry and head: (B,) or (B, H) integers instead of one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from transformer_fast.masks import arguments
from transformer_fast.masks.arguments import PerHead
from transformer_fast.masks.mask import Mask, Structure
from transformer_fast.masks.row_lists import RowLists, of_ranges


def _list_per_row(low: np.ndarray | int, high: np.ndarray | int, Lq: int, Lk: int) -> RowLists:
    """One range a row, (Lq,) bounds or one number for all."""
    rows = np.arange(Lq)
    return of_ranges(rows, Lq, rows, np.broadcast_to(low, Lq), np.broadcast_to(high, Lq), Lk)


# causal, window, prefix ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class Causal(Structure):
    offset: PerHead

    def of_head(self, first: int, Lq: int, Lk: int, offset: int) -> RowLists:
        return _list_per_row(0, np.arange(Lq) + (first + offset + 1), Lq, Lk)

    def __repr__(self) -> str:
        return "causal()" if self == causal() else f"causal({self.offset!r})"


def causal(offset=0) -> Mask:
    """Query i sees key j if j <= i + offset.

    offset: an integer, (B,) or (B, H) integers; negative hides the nearest keys.

    Example:
        >>> print(tf.visualize.mask_text(tf.masks.causal(), 4, 6))
        #·····
        ##····
        ###···
        ####··
    """
    return Causal(arguments.number(offset, "offset"))


@dataclass(frozen=True, slots=True, repr=False)
class Window(Structure):
    left: PerHead
    right: PerHead
    dilation: PerHead
    offset: PerHead

    def of_head(self, first: int, Lq: int, Lk: int, left: int, right: int, dilation: int, offset: int) -> RowLists:
        at = np.arange(Lq) + (first + offset)
        low = at - left * dilation if left >= 0 else at % dilation
        high = at + right * dilation + 1 if right >= 0 else np.full(Lq, Lk)
        if dilation == 1:
            return _list_per_row(low, high, Lq, Lk)
        # The first key from 0 on, and how many follow at this distance.
        low = np.where(low < 0, low % dilation, low)
        count = np.maximum(-(-(np.minimum(high, Lk) - low) // dilation), 0)
        rows = np.repeat(np.arange(Lq), count)
        step = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
        keys = low[rows] + step * dilation
        return of_ranges(np.arange(Lq), Lq, rows, keys, keys + 1, Lk)

    def __repr__(self) -> str:
        plain = window(0, 0)
        more = "".join(
            f", {name}={getattr(self, name)!r}"
            for name in ("dilation", "offset")
            if getattr(self, name) != getattr(plain, name)
        )
        return f"window({self.left!r}, {self.right!r}{more})"


def window(left, right, dilation=1, offset=0) -> Mask:
    """Query i sees `left` keys before it, `right` keys after it and key i, at distances of `dilation`.

    It sees key j if d = j - (i + offset) is a multiple of dilation and -left * dilation <= d <= right * dilation. -1
    is unlimited, as in attention's `window=`. Dilated windows are Longformer's (Beltagy et al. 2020); `window(r, r)` is
    the local attention of LongT5 (Guo et al. 2021).

    left, right (-1 or more), dilation (1 or more), offset: integers, (B,) or (B, H) integers.

    Example:
        >>> print(tf.visualize.mask_text(tf.masks.window(1, 1), 4, 6))
        ##····
        ###···
        ·###··
        ··###·
        >>> print(tf.visualize.mask_text(tf.masks.window(2, 0, dilation=2), 6, 6))
        #·····
        ·#····
        #·#···
        ·#·#··
        #·#·#·
        ·#·#·#
    """
    return Window(
        arguments.number(left, "left", -1),
        arguments.number(right, "right", -1),
        arguments.number(dilation, "dilation", 1),
        arguments.number(offset, "offset"),
    )


@dataclass(frozen=True, slots=True, repr=False)
class Prefix(Structure):
    n: PerHead

    def of_head(self, first: int, Lq: int, Lk: int, n: int) -> RowLists:
        zero = np.zeros(1, np.int64)
        return of_ranges(np.zeros(Lq, np.int64), 1, 0, zero, zero + n, Lk)

    def __repr__(self) -> str:
        return f"prefix({self.n!r})"


def prefix(n) -> Mask:
    """Every query sees the first n keys: j < n.

    `causal() | prefix(n)` is the order of a prefix language model; `prefix(lengths)` with (B,) lengths hides padding.

    n: an integer from 0 on, (B,) or (B, H) integers.

    Example:
        >>> print(tf.visualize.mask_text(tf.masks.causal() | tf.masks.prefix(2), 4, 4))
        ##··
        ##··
        ###·
        ####
    """
    return Prefix(arguments.number(n, "n", 0))


# strided, block_local ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class Strided(Structure):
    stride: PerHead
    offset: PerHead

    def of_head(self, first: int, Lq: int, Lk: int, stride: int, offset: int) -> RowLists:
        # A list for each remainder that a key has, and an empty one for the others.
        n = min(stride, Lk)
        keys = np.arange(Lk)
        remainder = (np.arange(Lq) + (first + offset)) % stride
        return of_ranges(np.minimum(remainder, n), n + 1, keys % stride, keys, keys + 1, Lk)

    def __repr__(self) -> str:
        return (
            f"strided({self.stride!r})"
            if self == Strided(self.stride, _ZERO)
            else f"strided({self.stride!r}, {self.offset!r})"
        )


def strided(stride, offset=0) -> Mask:
    """Query i sees key j if j % stride == (i + offset) % stride: every stride-th key, itself among them at offset 0.

    Together with a window of as many keys, in causal order, it is the strided attention of the Sparse Transformer
    (Child et al. 2019): `causal() & (window(stride, 0) | strided(stride))`. Their fixed attention, where summary
    positions do not move with the query, is `causal() & (block_local(stride) | global_tokens(positions,
    as_query=False))` with the last positions of each block.

    stride (1 or more), offset: integers, (B,) or (B, H) integers.

    Example:
        >>> print(tf.visualize.mask_text(tf.masks.strided(3), 4, 8))
        #··#··#·
        ·#··#··#
        ··#··#··
        #··#··#·
    """
    return Strided(arguments.number(stride, "stride", 1), arguments.number(offset, "offset"))


@dataclass(frozen=True, slots=True, repr=False)
class BlockLocal(Structure):
    size: PerHead
    before: PerHead
    after: PerHead

    def of_head(self, first: int, Lq: int, Lk: int, size: int, before: int, after: int) -> RowLists:
        block = (np.arange(Lq) + first) // size
        n = int(block[-1] - block[0]) + 1 if Lq else 0
        own = (np.arange(n) + (block[0] if Lq else 0)) * size
        return of_ranges(block - (first // size), n, np.arange(n), own - before * size, own + (after + 1) * size, Lk)

    def __repr__(self) -> str:
        if self.before != self.after:
            return f"block_local({self.size!r}, neighbours=({self.before!r}, {self.after!r}))"
        return f"block_local({self.size!r}{'' if self.before == _ZERO else f', neighbours={self.before!r}'})"


def block_local(size, neighbours=0) -> Mask:
    """Queries and keys are cut into blocks of `size`; query i sees the keys of its block and of those next to it.

    It sees key j if i // size - before <= j // size <= i // size + after. One neighbour on each side is the sliding
    window of BigBird (Zaheer et al. 2020).

    size: an integer from 1 on, (B,) or (B, H) integers.
    neighbours: blocks on each side, 0 or more, or a tuple (before, after) of them; (B,) or (B, H) as size.

    Example:
        >>> print(tf.visualize.mask_text(tf.masks.block_local(2, neighbours=(1, 0)), 6, 6))
        ##····
        ##····
        ####··
        ####··
        ··####
        ··####
    """
    sides = neighbours if isinstance(neighbours, tuple) else (neighbours, neighbours)
    if len(sides) != 2:
        raise ValueError(f"neighbours is {neighbours!r}; needed: a number of blocks, or (before, after)")
    before, after = (arguments.number(side, "neighbours", 0) for side in sides)
    return BlockLocal(arguments.number(size, "size", 1), before, after)


# global_tokens -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class GlobalTokens(Structure):
    positions: PerHead  # (B, H, P), sorted; -1 fills up
    as_query: bool
    as_key: bool

    def of_head(self, first: int, Lq: int, Lk: int, positions: np.ndarray) -> RowLists:
        positions = positions[positions >= 0]
        # List 0: the global keys; list 1: all keys, for global queries.
        list_of_row = np.zeros(Lq, np.int64)
        if self.as_query:
            rows = positions - first
            list_of_row[rows[(rows >= 0) & (rows < Lq)]] = 1
        keys = positions if self.as_key else positions[:0]
        of = np.zeros(len(keys) + 1, np.int64)
        of[-1] = 1
        return of_ranges(list_of_row, 2, of, np.append(keys, 0), np.append(keys + 1, Lk), Lk)

    def __repr__(self) -> str:
        n = self.positions.array.shape[2]
        what = str(n) if self.positions == arguments.sequence(np.arange(n), "n") else repr(self.positions)
        sides = "".join(f", {name}=False" for name in ("as_query", "as_key") if not getattr(self, name))
        return f"global_tokens({what}{sides})"


def global_tokens(positions, *, as_query: bool = True, as_key: bool = True) -> Mask:
    """Some positions see all keys, and all queries see them: query i sees key j if i or j is one of `positions`.

    positions: an integer n for the first n positions; (P,), (B, P) or (B, H, P) integers, where -1 stands for none, so
        that rows of different numbers fit in one array; or bool (L,), (B, L), (B, H, L), True where a token is global.
        Positions beyond the sequence have no effect.
    as_query: these positions see all keys. as_key: all queries see these positions.

    Raises:
        TypeError: positions are neither integers nor bool; as_query or as_key is not bool.
        ValueError: a position is below -1; both as_query and as_key are False.

    Example:
        >>> print(tf.visualize.mask_text(tf.masks.global_tokens([0, 3]), 5, 5))
        #####
        #··#·
        #··#·
        #####
        #··#·
        >>> print(tf.visualize.mask_text(tf.masks.global_tokens(1, as_query=False), 3, 5))
        #····
        #····
        #····
    """
    for name, value in (("as_query", as_query), ("as_key", as_key)):
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{name} is {value!r}; needed: True or False")
    if not (as_query or as_key):
        raise ValueError("as_query and as_key are False; needed: at least one of them, or no global_tokens")
    if np.ndim(positions) == 0:
        positions = np.arange(arguments.whole(positions, "positions", 0))
    else:
        positions = np.asarray(positions)
        if positions.dtype == np.bool_:
            positions = _positions_of(positions)
    found = np.sort(arguments.sequence(positions, "positions", "P").array, axis=2)
    if found.size and not -1 <= found.min() <= found.max() <= arguments.MOST:
        wrong = found.min() if found.min() < -1 else found.max()
        raise ValueError(f"positions holds {wrong}; needed: -1 for none, or 0 to {arguments.MOST}")
    return GlobalTokens(PerHead(found), bool(as_query), bool(as_key))


def _positions_of(chosen: np.ndarray) -> np.ndarray:
    """Where a bool array (..., L) is True, as (..., P) with -1 in front where a row has fewer."""
    most = int(chosen.sum(axis=-1).max(initial=0))
    L = chosen.shape[-1]
    return np.sort(np.where(chosen, np.arange(L), -1), axis=-1)[..., L - most :]


_ZERO = arguments.number(0, "offset")
