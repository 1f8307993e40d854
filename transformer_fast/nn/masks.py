"""Masks of nn.Transformer: the causal one, made and recognised.

Called by nn.attention and the stacks of nn.transformer and nn.transformer_decoder. As a flag the causal order lets the
engine skip the keys that no query sees; as a mask it is read for each of them.
"""

from __future__ import annotations

import numpy as np

from transformer_fast.functional.arrays import as_array


def square_subsequent_mask(size: int, dtype=np.float32) -> np.ndarray:
    """(size, size): query i may attend keys up to i. float32: 0, and -inf above the diagonal; bool: True above it."""
    hidden = ~np.tri(size, dtype=bool)
    return hidden if np.dtype(dtype) == np.bool_ else np.where(hidden, np.float32(-np.inf), np.float32(0))


def split_causal(mask, is_causal: bool | None) -> tuple[np.ndarray | None, bool]:
    """(mask, is_causal) that mean the same, without a mask where it is the causal one and nothing else.

    Comparing reads the mask once, for all layers and heads.
    """
    if mask is None or not _is_causal(as_array(mask, "attn_mask")):
        return mask, bool(is_causal)
    return None, True


def _is_causal(mask: np.ndarray) -> bool:
    if mask.dtype not in (np.bool_, np.float32) or mask.ndim != 2 or mask.shape[0] != mask.shape[1] or not len(mask):
        return False
    # The corners tell most other masks apart.
    hidden = True if mask.dtype == np.bool_ else -np.inf
    if len(mask) > 1 and (mask[0, -1] != hidden or mask[-1, 0] == hidden):
        return False
    return np.array_equal(mask, square_subsequent_mask(len(mask), mask.dtype))
