"""torch's masks (True = not allowed) as options of `functional` (True = attend), as small as they can be.

Called by the blocks of this folder. Padding at the end of sequences, the usual case, becomes key lengths, and the
causal mask a flag: what they hide is never read, and no array is made for it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from transformer_fast.functional.arrays import as_array
from transformer_fast.nn.masks import split_causal


class Visible(NamedTuple):
    """Which keys are attended, in options of `functional.scaled_dot_product_attention`."""

    attn_mask: np.ndarray | None
    kv_lengths: np.ndarray | None
    is_causal: bool


def visible(attn_mask, key_padding_mask, is_causal: bool, shape: tuple[int, int, int, int], front: int = 0) -> Visible:
    """The keys that torch's masks leave, with `front` more before them, which every query sees.

    shape is (B, H, Lq, Lk), with Lk without `front`. attn_mask (Lq, Lk) or (B * H, Lq, Lk), key_padding_mask (B, Lk):
    bool (True = not allowed), or float32, which is added to the scores.

    Raises ValueError for other shapes, TypeError for other types.
    """
    B, H, Lq, Lk = shape
    mask = lengths = None
    if attn_mask is not None:
        mask = _checked("attn_mask", attn_mask, ((Lq, Lk), (B * H, Lq, Lk)))
        mask, is_causal = split_causal(mask, is_causal)
    if mask is not None:
        mask = _widened(mask if mask.ndim == 2 else mask.reshape(shape), front)
    if key_padding_mask is not None:
        padding = _checked("key_padding_mask", key_padding_mask, ((B, Lk),))
        lengths = _lengths(padding)
        if lengths is not None:
            lengths += front
        else:
            padding = _widened(padding, front)[:, None, None]
            mask = padding if mask is None else _both(mask, padding)
    return Visible(mask, lengths, bool(is_causal))


def weights_form(need_weights: bool | str, average: bool) -> Literal[False] | str:
    """What torch's two arguments are as functional's return_weights; "sparse" is this library's own."""
    if isinstance(need_weights, str):
        if need_weights != "sparse":
            raise ValueError(f'need_weights is {need_weights!r}; needed: True, False or "sparse"')
        return "sparse-mean" if average else "sparse"
    return ("mean" if average else "heads") if need_weights else False


def check_heads(embed_dim: int, num_heads: int) -> None:
    if embed_dim <= 0 or num_heads <= 0 or embed_dim % num_heads:
        raise ValueError(
            f"embed_dim={embed_dim} and num_heads={num_heads}; "
            "needed: positive numbers, embed_dim a multiple of num_heads"
        )


def _checked(name: str, mask, shapes: tuple[tuple[int, ...], ...]) -> np.ndarray:
    mask = as_array(mask, name)
    if mask.dtype != np.bool_ and mask.dtype != np.float32:
        raise TypeError(f"{name} has dtype {mask.dtype}; needed: bool (True = not allowed) or float32 (added)")
    if mask.shape not in shapes:
        raise ValueError(f"{name} has shape {mask.shape}; needed: {' or '.join(map(str, shapes))}")
    return mask


def _lengths(padding: np.ndarray) -> np.ndarray | None:
    """(B,) how many keys each sequence has, if all its padding is at the end."""
    if padding.dtype != np.bool_:
        hidden = np.isneginf(padding)
        if padding[~hidden].any():
            return None
        padding = hidden
    lengths = padding.shape[1] - np.count_nonzero(padding, axis=1)
    at_end = np.arange(padding.shape[1]) >= lengths[:, None]
    return lengths if np.array_equal(padding, at_end) else None


def _widened(mask: np.ndarray, front: int) -> np.ndarray:
    """The mask of `functional`: boolean ones inverted, and with `front` keys more that are allowed."""
    if not front:
        return ~mask if mask.dtype == np.bool_ else mask
    wide = np.empty((*mask.shape[:-1], mask.shape[-1] + front), mask.dtype)
    wide[..., :front] = mask.dtype == np.bool_
    if mask.dtype == np.bool_:
        np.logical_not(mask, out=wide[..., front:])
    else:
        wide[..., front:] = mask
    return wide


def _both(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """One mask of `functional` that does what two do."""
    if first.dtype == second.dtype == np.bool_:
        return first & second
    added = (np.where(m, np.float32(0), np.float32(-np.inf)) if m.dtype == np.bool_ else m for m in (first, second))
    return np.add(*added)
