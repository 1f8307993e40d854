"""The dense masks that a peer needs where it lacks an option: causal order, windows and key lengths as arrays.

Used by the backends of attention, outside of what is timed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from cases import AttentionCase


def visible(case: AttentionCase, options: dict[str, Any], causal: bool = True) -> np.ndarray | None:
    """Booleans that broadcast to (B, H, Lq, Lk), True where the query may attend; None where it may everywhere.

    causal=False leaves causal order out, for a peer that has an option for it. A boolean mask of the case is in there.
    """
    parts = []
    p, j = np.arange(case.Lq)[:, None], np.arange(case.Lk)
    if causal and case.is_causal:
        parts.append(j <= p)
    left, right = case.window
    if left >= 0:
        parts.append(j >= p - left)
    if right >= 0:
        parts.append(j <= p + right)
    if "kv_lengths" in options:
        parts.append(j < np.asarray(options["kv_lengths"])[:, None, None, None])
    mask = options.get("attn_mask")
    if mask is not None and mask.dtype == bool:
        parts.append(mask)
    result = None
    for part in parts:
        result = part if result is None else result & part
    return result


def additive(case: AttentionCase, options: dict[str, Any], causal: bool = True) -> np.ndarray | None:
    """As `visible`, but float32 to be added to the scores: 0 or -inf, plus the additive mask of the case."""
    allowed = visible(case, options, causal)
    mask = options.get("attn_mask")
    bias = mask if mask is not None and mask.dtype != bool else None
    if allowed is None:
        return bias
    hidden = np.where(allowed, np.float32(0), np.float32(-np.inf))
    return hidden if bias is None else hidden + bias


def as_4d(case: AttentionCase, mask: np.ndarray | None) -> np.ndarray | None:
    """(B or 1, H or 1, Lq, Lk), as ONNX and OpenVINO want it: only the first two axes are left to broadcast there."""
    if mask is None:
        return None
    mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
    return np.ascontiguousarray(np.broadcast_to(mask, (*mask.shape[:2], case.Lq, case.Lk)))
