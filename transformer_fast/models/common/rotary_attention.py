"""`rotary_attention`: attention of packed tokens whose queries and keys are rotated by their positions.

The layers of ModernBERT, NomicBERT and GTE call it between their two projections. Another encoder with rotary positions
does the same; what it attends to is in `options`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.models.common.encoder import EncoderBatch
from transformer_fast.nn import Collector


def rotary_attention(
    projected: np.ndarray,
    num_heads: int,
    batch: EncoderBatch,
    angles: tuple[np.ndarray, np.ndarray],
    options: dict[str, Any],
    collect: Collector | None,
    pooled: np.ndarray | None = None,
) -> np.ndarray:
    """projected (T, 3 H D), queries, keys and values, is written over -> context (T, H D).

    angles: cos and sin (T, D / 2). options: of varlen_attention. With pooled (B,), a row of each sequence, counted from
    row 0, those alone are queries: (B, H D); options are theirs then.
    """
    T, n = len(projected), projected.shape[1] // 3
    H, D = num_heads, n // num_heads
    rotated = projected[:, : 2 * n].reshape(T, 2 * H, D).swapaxes(0, 1)
    F.rotary_embedding(rotated, *angles, out=rotated)
    query, key, value = (projected[:, i * n : (i + 1) * n].reshape(T, H, D) for i in range(3))
    cu_queries = cu_keys = batch.cu_seqlens
    if batch.keys is not None:
        rows, cu_keys = batch.keys
        key, value = key[rows], value[rows]
    if pooled is not None:
        query, cu_queries = query[pooled], np.arange(len(pooled) + 1)
    context = F.varlen_attention(query, key, value, cu_queries, cu_keys, **options)
    if collect is not None:
        collect.add_weights(query, key, options)
    return context.reshape(-1, n)
