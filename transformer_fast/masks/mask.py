"""`Mask`, what every structure is, and what `&`, `|` and `~` make of them: All, Any and Not.

`Structure` is the base of those in positions.py, sequences.py and tables.py: it says once how an argument that differs
by batch entry and head becomes lists for each of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from functools import reduce

import numpy as np

from transformer_fast.functional.key_ranges import KeyRanges
from transformer_fast.masks import arguments
from transformer_fast.masks.arguments import PerHead
from transformer_fast.masks.row_lists import RowLists, complement, heads_of, intersection, joined, union


class Mask(ABC):
    """Which keys each query sees. Immutable, compared by its arguments, and free to be used from many threads.

    `a & b`: both show the key; `a | b`: one of them does; `~a`: a does not. The repr is an expression that makes the
    mask again, except where an argument has more than 1,000 elements.

    Example:
        >>> from transformer_fast.masks import causal, prefix, window
        >>> mask = causal() & window(2, 0) | prefix(1)
        >>> mask
        (causal() & window(2, 0)) | prefix(1)
        >>> mask.ranges(1024, 1024).visible
        4090
        >>> mask.dense(4, 6)[0, 0].astype(int)
        array([[1, 0, 0, 0, 0, 0],
               [1, 1, 0, 0, 0, 0],
               [1, 1, 1, 0, 0, 0],
               [1, 1, 1, 1, 0, 0]])
    """

    __slots__ = ()
    # So that an array beside a mask is an error, and not an array of errors.
    __array_ufunc__ = None

    def ranges(self, Lq: int, Lk: int, offset: int = 0) -> KeyRanges:
        """The mask of Lq queries and Lk keys, compiled: in memory of its ranges, never an Lq x Lk array.

        offset: row i is the query at position i + offset. With `past` keys in a cache it is `past`.

        Raises:
            TypeError: a number is not an integer.
            ValueError: a number is out of range; an argument of the mask has fewer positions than are asked for; two
                parts of it are for different numbers of batch entries or heads.
        """
        Lq = arguments.whole(Lq, "Lq", 0)
        Lk = arguments.whole(Lk, "Lk", 0)
        offset = arguments.whole(offset, "offset", -arguments.MOST)
        return self.lists(offset, Lq, Lk).key_ranges()

    def dense(self, Lq: int, Lk: int, offset: int = 0) -> np.ndarray:
        """The same as a bool array (B or 1, H or 1, Lq, Lk), True where a key is seen: what `attn_mask` takes."""
        return self.ranges(Lq, Lk, offset).dense()

    @abstractmethod
    def lists(self, first: int, Lq: int, Lk: int) -> RowLists:
        """The lists of queries first to first + Lq; numbers are checked."""

    def __and__(self, other: Mask) -> Mask:
        return All.of(self, other) if isinstance(other, Mask) else NotImplemented

    def __or__(self, other: Mask) -> Mask:
        return Any.of(self, other) if isinstance(other, Mask) else NotImplemented

    def __invert__(self) -> Mask:
        return Not(self)

    def __bool__(self) -> bool:
        raise TypeError(
            "a mask is neither true nor false; needed: & instead of `and`, | instead of `or`, ~ instead of `not`"
        )


@dataclass(frozen=True, slots=True, repr=False)
class _Combined(Mask):
    """Two or more masks; those of the same kind inside are taken apart, so that (a & b) & c equals a & (b & c)."""

    parts: tuple[Mask, ...]

    @classmethod
    def of(cls, *masks: Mask) -> Mask:
        return cls(tuple(part for mask in masks for part in (mask.parts if type(mask) is cls else (mask,))))

    def _text(self, sign: str) -> str:
        return sign.join(f"({part!r})" if isinstance(part, _Combined) else repr(part) for part in self.parts)


class All(_Combined):
    """What every part shows."""

    __slots__ = ()

    def lists(self, first: int, Lq: int, Lk: int) -> RowLists:
        return reduce(intersection, (part.lists(first, Lq, Lk) for part in self.parts))

    def __repr__(self) -> str:
        return self._text(" & ")


class Any(_Combined):
    """What at least one part shows."""

    __slots__ = ()

    def lists(self, first: int, Lq: int, Lk: int) -> RowLists:
        return reduce(union, (part.lists(first, Lq, Lk) for part in self.parts))

    def __repr__(self) -> str:
        return self._text(" | ")


@dataclass(frozen=True, slots=True, repr=False)
class Not(Mask):
    """What the part does not show."""

    part: Mask

    def lists(self, first: int, Lq: int, Lk: int) -> RowLists:
        return complement(self.part.lists(first, Lq, Lk))

    def __invert__(self) -> Mask:
        return self.part

    def __repr__(self) -> str:
        return f"~({self.part!r})" if isinstance(self.part, _Combined) else f"~{self.part!r}"


class Structure(Mask):
    """A mask whose fields are its arguments: those that differ by batch entry and head are `PerHead`."""

    __slots__ = ()

    @abstractmethod
    def of_head(self, first: int, Lq: int, Lk: int, *own) -> RowLists:
        """The lists (1, 1, Lq) of one head; own: its own value of each PerHead field, in order."""

    def lists(self, first: int, Lq: int, Lk: int) -> RowLists:
        values = [getattr(self, field.name) for field in fields(self)]  # type: ignore[arg-type]
        by_head = [value for value in values if isinstance(value, PerHead)]
        B, H = heads_of([value.heads for value in by_head]) if by_head else (1, 1)
        which = np.empty((B, H), np.int64)
        known: dict[bytes, int] = {}  # heads with the same arguments have the same lists
        compiled: list[RowLists] = []
        for b, h in np.ndindex(B, H):
            own = [value.of(b, h) for value in by_head]
            key = b"".join(np.asarray(value).tobytes() for value in own)
            if key not in known:
                known[key] = len(compiled)
                compiled.append(self.of_head(first, Lq, Lk, *own))
            which[b, h] = known[key]
        return joined(compiled, which)
