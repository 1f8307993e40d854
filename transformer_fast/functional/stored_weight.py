"""`StoredWeight`: a weight that a checkpoint holds in a form of its own, and computes when its values are asked for.

Modules keep them as parameters. Integers (`integer_weight`) and blocks (`block_weight`, models/common/group_weight.py
and mxfp4.py) are packed as they are where the format allows it, else by their values, some rows at a time. A further
form derives from it where it is read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np


class StoredWeight(ABC):
    """A matrix whose values are computed when they are asked for. Immutable; np.asarray gives the values."""

    __slots__ = ()

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """(N, K)."""

    @property
    def ndim(self) -> int:
        return 2

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def __getitem__(self, rows: slice | np.ndarray) -> StoredWeight:
        """Some of the rows."""

    @property
    def format(self) -> str | None:
        """Of `block_weight.BLOCK_FORMATS`: `blocks`, (N, bytes) uint8, are its rows in it, without loss. None: it has
        none."""
        return None

    def joined(self, others: Sequence[Any]) -> StoredWeight | None:
        """Its rows and those of others, one after the other, as such a weight; None: their values must be joined."""
        return None

    @abstractmethod
    def dequantised(self) -> np.ndarray:
        """The values, (N, K): float32, or another floating-point type that has them all."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """So that `np.asarray` gives the values."""
        if copy is False:
            raise ValueError(f"the values of an {type(self).__name__} are computed; needed: a copy")
        values = self.dequantised()
        return values if dtype is None else values.astype(dtype, copy=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape})"
