"""Checks on what a model is called with, shared by the families: ids and masks.

A family's `forward` calls these before it computes anything; each error names the argument, what came and what is
needed.
"""

from __future__ import annotations

import numpy as np

from transformer_fast.functional.arrays import PADDED, as_array, outside

_MASK = "rows of one length, 1 for a token and 0 for padding"


def integers(name: str, array, limit: int | None = None, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """`array` as int64, checked: integers, each in [0, limit), and broadcast to `shape`."""
    array = as_array(array, name, PADDED)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {array.dtype}; needed: integers")
    if limit is not None:
        bad = outside(array, limit)
        if bad is not None:
            raise IndexError(f"{name} holds {bad}; needed: 0 to {limit - 1}")
    if shape is not None and array.shape != shape:
        if array.ndim > len(shape) or array.shape[-1:] != shape[-1:] or array.shape[:-1] not in ((), (1,)):
            raise ValueError(f"{name} has shape {array.shape}; needed: {shape}")
        array = np.broadcast_to(array, shape)
    return array.astype(np.int64, copy=False)


def packed_ids(input_ids, cu_seqlens, vocab_size: int, *, empty: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """input_ids (T,) and cu_seqlens (B + 1,) of packed texts, checked. empty: a text may have no token."""
    input_ids, cu_seqlens = integers("input_ids", input_ids, vocab_size), integers("cu_seqlens", cu_seqlens)
    if (
        input_ids.ndim != 1
        or cu_seqlens.ndim != 1
        or not len(cu_seqlens)
        or cu_seqlens[0]
        or (np.diff(cu_seqlens) < 0).any()
    ):
        raise ValueError("needed: input_ids (T,) and cu_seqlens (B + 1,) that starts at 0 and never falls")
    if cu_seqlens[-1] != len(input_ids):
        raise ValueError(f"cu_seqlens ends at {cu_seqlens[-1]}; needed: T={len(input_ids)}")
    if not empty and not np.diff(cu_seqlens).all():
        raise ValueError(f"text {int(np.argmin(np.diff(cu_seqlens)))} has no token; needed: at least one")
    return input_ids, cu_seqlens


def token_mask(mask, shape: tuple[int, int], name: str = "attention_mask") -> np.ndarray:
    """The attention mask `name` as booleans (B, L)."""
    if mask is None:
        return np.ones(shape, np.bool_)
    mask = as_array(mask, name, _MASK)
    if mask.shape != shape:
        raise ValueError(f"{name} has shape {mask.shape}; needed: {shape}, one value a token")
    if mask.dtype.kind not in "biuf":
        raise TypeError(f"{name} has dtype {mask.dtype}; needed: bool, or numbers that are 0 or 1")
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError(f"{name} holds values other than 0 and 1; needed: 1 for a token, 0 for padding")
    return mask != 0
