"""`IntegerWeight`: a weight that a checkpoint holds in 8-bit integers.

Models read it where a folder has one (models/common/quantised.py); modules keep it as a parameter and pack it as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from transformer_fast.functional.block_weight import BlockWeight


class IntegerWeight:
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

    @property
    def ndim(self) -> int:
        return 2

    def __len__(self) -> int:
        return len(self.integers)

    def __getitem__(self, rows: slice | np.ndarray) -> IntegerWeight:
        """Some of the rows."""
        return IntegerWeight(self.integers[rows], self.scale[rows])

    def dequantised(self) -> np.ndarray:
        """The values, (N, K) float32."""
        return self.integers * self.scale[:, None]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """So that `np.asarray` gives the values."""
        if copy is False:
            raise ValueError("the values of an IntegerWeight are computed; needed: a copy")
        values = self.dequantised()
        return values if dtype is None else values.astype(dtype, copy=False)

    def __reduce__(self) -> tuple:
        return IntegerWeight, (self.integers, self.scale)

    def __repr__(self) -> str:
        return f"IntegerWeight(shape={self.shape})"


def concatenated(parts: Sequence[np.ndarray | IntegerWeight | BlockWeight]) -> np.ndarray | IntegerWeight | BlockWeight:
    """Rows one after the other; floats where not all of them are integers, or blocks of one format."""
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part, BlockWeight) for part in parts) and len({part.format for part in parts}) == 1:
        return BlockWeight(parts[0].format, np.concatenate([part.blocks for part in parts]))
    if all(isinstance(part, IntegerWeight) for part in parts):
        integers, scales = zip(*((part.integers, part.scale) for part in parts), strict=True)
        return IntegerWeight(np.concatenate(integers), np.concatenate(scales))
    return np.concatenate([as_floats(part) for part in parts])


def as_floats(weight: np.ndarray | IntegerWeight | BlockWeight) -> np.ndarray:
    """An array as it is; the values of an IntegerWeight or BlockWeight."""
    return weight.dequantised() if isinstance(weight, (IntegerWeight, BlockWeight)) else weight
