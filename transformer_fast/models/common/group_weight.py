"""`GroupWeight`: a weight of few bits with a scale and a zero for each group of columns, as a folder stores it.

`quantised_groups` makes them of the tensors of GPTQ, AWQ and compressed-tensors. Nothing is expanded before its rows
are asked for: `functional.pack_weight` takes some MB at a time, as blocks of 32 columns where `block_format` says that
these have the same values, else as float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from transformer_fast.functional.block_weight import BLOCK_FORMATS
from transformer_fast.functional.stored_weight import StoredWeight

# Values that are computed together: temporaries of some MB, whatever a weight's size.
_TOGETHER = 1 << 20
_BLOCK = 32  # columns of a block, in which group and scale are one
_HALF = 8  # the zero of Q4_0


@dataclasses.dataclass(frozen=True)
class GroupMatrix:
    """A matrix (N, K) as a file stores it: W[n, k] = (integers[n, k] - zeros[n, g]) * scales[n, g], g = groups[k].

    integers, zeros: numbers of rows (n,) -> (n, K) uint8, (n, G). scales (N, G): in the file's type. groups (K,).
    """

    bits: int
    integers: Callable[[np.ndarray], np.ndarray]
    zeros: Callable[[np.ndarray], np.ndarray]
    scales: np.ndarray
    groups: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.scales), len(self.groups)

    def values(self, rows: np.ndarray) -> np.ndarray:
        """Rows, (n, K) float32."""
        zeros, scales = self.zeros(rows), self.scales[rows].astype(np.float32)
        found = self.integers(rows).astype(np.float32)
        size = self._group_size()
        if size:  # no table of a number for each column
            grouped = found.reshape(len(rows), -1, size)
            grouped -= zeros[:, :, None]
            grouped *= scales[:, :, None]
        else:
            found -= zeros[:, self.groups]
            found *= scales[:, self.groups]
        return found

    def blocks(self, rows: np.ndarray, format: str) -> np.ndarray:
        """Rows in Q4_0 or Q4_Z, (n, bytes) uint8."""
        groups = self.groups[::_BLOCK]
        codes = self.integers(rows).reshape(len(rows), len(groups), _BLOCK)
        found = np.empty((*codes.shape[:2], BLOCK_FORMATS[format].nbytes), np.uint8)
        scales = self.scales[rows].astype(np.float16)[:, groups]
        found[:, :, :2] = scales[:, :, None].view(np.uint8)
        if format == "Q4_Z":
            found[:, :, 2] = self.zeros(rows)[:, groups]
        found[:, :, -_BLOCK // 2 :] = codes[:, :, : _BLOCK // 2] | codes[:, :, _BLOCK // 2 :] << 4
        return found.reshape(len(rows), -1)

    def block_format(self) -> str | None:
        """The format of blocks that has its values: Q4_0 where all zeros are 8, else Q4_Z; None: there is none.

        There is none for other widths than 4 bits, columns in groups of other multiples than of 32, or in an order of
        their own that leaves no 32 neighbours in one group, and scales that float16 does not have.
        """
        if self.bits != 4 or not len(self.groups) or len(self.groups) % _BLOCK:
            return None
        by_block = self.groups.reshape(-1, _BLOCK)
        if (by_block != by_block[:, :1]).any():
            return None
        some, all_half = max(_TOGETHER // self.scales.shape[1], 1), True
        for first in range(0, len(self.scales), some):
            rows = np.arange(first, min(first + some, len(self.scales)))
            scales = self.scales[rows].astype(np.float32)
            with np.errstate(over="ignore"):
                if (scales.astype(np.float16).astype(np.float32) != scales).any():
                    return None
            all_half = all_half and bool((self.zeros(rows) == _HALF).all())
        return "Q4_0" if all_half else "Q4_Z"

    def _group_size(self) -> int:
        """Columns of a group, where groups follow each other and have as many; else 0."""
        columns, count = len(self.groups), self.scales.shape[1]
        size = columns // count if count and columns % count == 0 else 0
        return size if size and np.array_equal(self.groups, np.arange(columns) // size) else 0


class GroupWeight(StoredWeight):
    """Rows of one `GroupMatrix`, or of several. Immutable.

    parts: (matrix, numbers of its rows). format: one in which the rows of all parts are stored without loss, or None.

    Example:
        >>> codes, zeros, scales = np.array([[1, 3]], np.uint8), np.array([[2]]), np.array([[0.5]], np.float16)
        >>> matrix = GroupMatrix(4, codes.__getitem__, zeros.__getitem__, scales, groups=np.zeros(2, int))
        >>> GroupWeight.of(matrix).dequantised()
        array([[-0.5,  0.5]], dtype=float32)
    """

    __slots__ = ("_format", "_parts")

    def __init__(self, parts: Sequence[tuple[GroupMatrix, np.ndarray]], format: str | None) -> None:
        self._parts, self._format = tuple(parts), format

    @classmethod
    def of(cls, matrix: GroupMatrix) -> GroupWeight:
        """All rows of a matrix."""
        return cls([(matrix, np.arange(len(matrix.scales)))], matrix.block_format())

    @property
    def shape(self) -> tuple[int, int]:
        return sum(len(rows) for _, rows in self._parts), self._parts[0][0].shape[1]

    @property
    def format(self) -> str | None:
        return self._format

    @property
    def blocks(self) -> np.ndarray:
        """The rows in `format`, (N, bytes) uint8: computed."""
        return np.concatenate([matrix.blocks(rows, self._format) for matrix, rows in self._parts])

    def __getitem__(self, rows: slice | np.ndarray) -> GroupWeight:
        """Some of the rows, in any order."""
        wanted, parts = np.arange(len(self))[rows], []
        if len(self._parts) == 1:
            return GroupWeight([(self._parts[0][0], self._parts[0][1][wanted])], self._format)
        owner = np.repeat(np.arange(len(self._parts)), [len(own) for _, own in self._parts])[wanted]
        starts = np.cumsum([0, *(len(own) for _, own in self._parts)])
        for run in np.split(np.arange(len(wanted)), np.flatnonzero(np.diff(owner)) + 1):
            number = owner[run[0]] if len(run) else 0
            matrix, own = self._parts[number]
            parts.append((matrix, own[wanted[run] - starts[number]]))
        return GroupWeight(parts, self._format)

    def joined(self, others: Sequence[Any]) -> GroupWeight | None:
        weights = [self, *others]
        if not all(isinstance(weight, GroupWeight) for weight in weights):
            return None
        formats = {weight.format for weight in weights}
        # Q4_Z has what Q4_0 has.
        format = formats.pop() if len(formats) == 1 else None if None in formats else "Q4_Z"
        return GroupWeight([part for weight in weights for part in weight._parts], format)

    def dequantised(self) -> np.ndarray:
        """The values, (N, K) float32."""
        found, first = np.empty(self.shape, np.float32), 0
        together = max(_TOGETHER // max(self.shape[1], 1), 1)
        for matrix, rows in self._parts:
            for start in range(0, len(rows), together):
                some = rows[start : start + together]
                found[first : first + len(some)] = matrix.values(some)
                first += len(some)
        return found

    def __reduce__(self) -> tuple:
        return GroupWeight, (self._parts, self._format)
