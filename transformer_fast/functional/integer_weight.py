"""`StoredWeight`: a weight that a checkpoint holds in a form of its own; `IntegerWeight`: the one of 8-bit integers.

Models read them where a folder has them (models/common/quantised.py, mxfp4.py), and modules keep them as parameters.
Integers are packed as they are, others by their values. A further form derives from `StoredWeight` where it is read.
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


class IntegerWeight(StoredWeight):
    """integers (N, K) int8 with a scale (N,) float32: W[n, k] = integers[n, k] * scale[n]. Immutable.

    It is what `state_dict` has for such a parameter; np.asarray gives its values.

    Attributes: integers, scale, shape, ndim.

    Raises:
        ValueError: the shapes do not fit.

    Example:
        >>> weight = F.IntegerWeight(np.array([[2, -4]], np.int8), np.array([0.5]))
        >>> weight.dequantised(), weight.shape
        (array([[ 1., -2.]], dtype=float32), (1, 2))
    """

    __slots__ = ("integers", "scale")

    def __init__(self, integers: np.ndarray, scale: np.ndarray) -> None:
        integers, scale = np.asarray(integers), np.asarray(scale, np.float32)
        if integers.dtype != np.int8 or integers.ndim != 2 or scale.shape != integers.shape[:1]:
            raise ValueError(
                f"integers are {integers.dtype} of shape {integers.shape}, scale has shape {scale.shape}; "
                "needed: int8 (N, K) and (N,)"
            )
        self.integers, self.scale = integers.view(), scale.view()
        self.integers.flags.writeable = self.scale.flags.writeable = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self.integers.shape

    def __getitem__(self, rows: slice | np.ndarray) -> IntegerWeight:
        """Some of the rows."""
        return IntegerWeight(self.integers[rows], self.scale[rows])

    def dequantised(self) -> np.ndarray:
        """The values, (N, K) float32."""
        return self.integers * self.scale[:, None]

    def __reduce__(self) -> tuple:
        return IntegerWeight, (self.integers, self.scale)


def concatenated(parts: Sequence[np.ndarray | StoredWeight]) -> np.ndarray | StoredWeight:
    """Rows one after the other; floats where not all of them are integers."""
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part, IntegerWeight) for part in parts):
        integers, scales = zip(*((part.integers, part.scale) for part in parts), strict=True)
        return IntegerWeight(np.concatenate(integers), np.concatenate(scales))
    return np.concatenate([as_floats(part) for part in parts])


def as_floats(weight: np.ndarray | StoredWeight) -> np.ndarray:
    """An array as it is; the values of a StoredWeight."""
    return weight.dequantised() if isinstance(weight, StoredWeight) else weight
