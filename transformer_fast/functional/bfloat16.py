"""`bfloat16_dtype`: the NumPy type of arrays of bfloat16 that this library makes.

Readers of files, caches and `integrations` ask here. Ops take any type of that name: a third one would work, too.
"""

from __future__ import annotations

import functools

import numpy as np

from transformer_fast import _core


@functools.cache
def bfloat16_dtype() -> np.dtype:
    """Return the dtype of bfloat16 arrays: that of the package ml_dtypes if it is installed, else the library's own.

    Both have the name "bfloat16" and the same 16 bits (`array.view(np.uint16)`). The library's own converts from and to
    float32 and float64 by `astype`; arithmetic gives float32, where that of ml_dtypes stays bfloat16.

    Example:
        >>> x = np.array([1, 1.001, -2], np.float32).astype(bfloat16_dtype())
        >>> x.dtype.name, x.astype(np.float32).tolist()
        ('bfloat16', [1.0, 1.0, -2.0])
    """
    try:
        from ml_dtypes import bfloat16
    except ModuleNotFoundError:
        return _core.BFLOAT16
    return np.dtype(bfloat16)
