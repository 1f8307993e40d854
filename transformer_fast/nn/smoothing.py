"""Factors that move size from the columns of an activation into those of a weight, before both are rounded to 8 bits.

`PackedParameters` asks for them where a module says which norm its input comes from (`Module.follows`) and its weights
are packed as "int8". No data is needed: what a norm can give is known from its parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from transformer_fast.functional.integer_weight import as_floats
from transformer_fast.functional.stored_weight import StoredWeight

if TYPE_CHECKING:
    from transformer_fast.nn.module import Module

# a^0.6 / w^1.4. all-MiniLM-L6-v2, 2,000 sentences, exponents of a and w, mean and least cosine to float32: 0.5 and 1
# 0.99903 0.99714, 0.6 and 1.4 0.99913 0.99756. With x to 255 and weights bounded by twos: without smoothing 0.99882
# 0.99696; 0.4 and 0.6 0.99914 0.99771; 0.3 and 1 0.99926 0.99820; 0.5 and 1 0.99926 0.99776; 0.6 and 1.4 0.99932
# 0.99843; 0.7 and 1.6 0.99932 0.99847; 0.5 and 0.3 0.99901 0.99755; 0 and 0.5 0.99908 0.99786. A column of the weight
# counts by its mean; by its largest weight 0.99903 at best. Query, key and value, which share one x, each have a say:
# one mean over all rows of the three 0.99894 where the mean of the three gave 0.99914.
_INPUT_EXPONENT, _WEIGHT_EXPONENT = 0.6, 1.4
# A column below this share of the largest one is taken for as large: factors stay within some thousand of each other.
_LEAST = 1e-3
_BLOCK_ROWS = 1024


def smoothing_factors(norm: Module, parts: Sequence[np.ndarray | StoredWeight]) -> np.ndarray | None:
    """(K,) positive float32: the weight's columns times it, those of its input divided by it; None: no sense in it.

    a^0.6 / w^1.4, with a the size of the norm's outputs (`output_range`) and w, for each of the parts (n, K), the mean
    of |W| over its rows, each divided by its largest; of all parts the geometric mean. Source: Xiao et al. 2022,
    SmoothQuant, https://arxiv.org/abs/2211.10438, with what the norm says in place of calibration.

    Example:
        >>> import numpy as np
        >>> norm = nn.LayerNorm(2)
        >>> norm.weight = np.array([1, 32], np.float32)
        >>> smoothing_factors(norm, [np.ones((3, 2), np.float32)])
        array([0.3536, 2.8284], dtype=float32)
    """
    inputs, weights = norm.output_range(), [_relative_size(part) for part in parts]
    sizes = [size for size in (inputs, *weights) if np.isfinite(size).all() and size.any()]
    if len(sizes) <= len(parts):
        return None
    a, *w = (np.log(np.maximum(size, _LEAST * size.max()), dtype=np.float64) for size in sizes)
    logarithms = _INPUT_EXPONENT * a - _WEIGHT_EXPONENT * np.mean(w, axis=0)
    return np.exp(logarithms - logarithms.mean()).astype(np.float32)


def _relative_size(part: np.ndarray | StoredWeight) -> np.ndarray:
    """(K,): the mean over the rows of |W| / the largest of the row, some rows at a time."""
    total = np.zeros(part.shape[1])
    for first in range(0, len(part), _BLOCK_ROWS):
        rows = np.abs(as_floats(part[first : first + _BLOCK_ROWS]).astype(np.float32))
        largest = rows.max(axis=1, keepdims=True, initial=0)
        rows /= np.where(largest > 0, largest, 1)
        total += rows.sum(axis=0)
    return total / max(len(part), 1)
