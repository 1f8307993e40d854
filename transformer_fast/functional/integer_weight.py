"""`IntegerWeight`: a weight of 8-bit integers with a scale for each row; and what weights of several forms share.

Models read it where a folder has integers (models/common/quantised.py), modules keep it as a parameter and pack it as
it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from transformer_fast.functional.stored_weight import StoredWeight


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

    def joined(self, others: Sequence[Any]) -> IntegerWeight | None:
        parts = [self, *others]
        if not all(isinstance(part, IntegerWeight) for part in parts):
            return None
        integers, scales = zip(*((part.integers, part.scale) for part in parts), strict=True)
        return IntegerWeight(np.concatenate(integers), np.concatenate(scales))

    def dequantised(self) -> np.ndarray:
        """The values, (N, K) float32."""
        return self.integers * self.scale[:, None]

    def __reduce__(self) -> tuple:
        return IntegerWeight, (self.integers, self.scale)


def concatenated(parts: Sequence[np.ndarray | StoredWeight]) -> np.ndarray | StoredWeight:
    """Rows one after the other; floats where they are not all of one form of StoredWeight."""
    first, *others = parts
    if not others:
        return first
    joined = first.joined(others) if isinstance(first, StoredWeight) else None
    return np.concatenate([as_floats(part) for part in parts]) if joined is None else joined


def as_floats(weight: np.ndarray | StoredWeight) -> np.ndarray:
    """An array as it is; the values of a StoredWeight."""
    return weight.dequantised() if isinstance(weight, StoredWeight) else weight
