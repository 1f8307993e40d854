"""`PackedSelfAttention`: self-attention on sequences without padding. Models are made of it.

The product with the stacked query/key/value weight is looked at through strides, and attention writes its heads side
by side into the rows that the output projection reads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.nn.attention.masks import check_heads
from transformer_fast.nn.linear import Linear
from transformer_fast.nn.module import Module


class PackedSelfAttention(Module):
    """Self-attention on packed tokens: in_proj (E -> 3E: query, key, value), attention, out_proj (E -> E).

    Example:
        >>> import numpy as np
        >>> from transformer_fast.nn import PackedSelfAttention
        >>> PackedSelfAttention(16, 2)(np.ones((7, 16), np.float32), np.array([0, 3, 7])).shape
        (7, 16)
    """

    def __init__(self, embed_dim: int, num_heads: int, bias: bool = True) -> None:
        super().__init__()
        check_heads(embed_dim, num_heads)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.in_proj = Linear(embed_dim, 3 * embed_dim, bias)
        self.out_proj = Linear(embed_dim, embed_dim, bias)

    def forward(
        self,
        input: np.ndarray,
        cu_seqlens: np.ndarray,
        *,
        keys: tuple[np.ndarray, np.ndarray] | None = None,
        pooled: np.ndarray | None = None,
        residual: np.ndarray | None = None,
        projected: np.ndarray | None = None,
        context: np.ndarray | None = None,
        out: np.ndarray | None = None,
        **options: Any,
    ) -> np.ndarray:
        """input (T, E), sequence b in rows cu_seqlens[b]:cu_seqlens[b + 1] -> (T, E), with the residual added.

        keys = (rows, cu_seqlens_k) attends only those rows of the input; by default all. pooled (B,): rows of the
        input, one of each sequence: only these attend -> (B, E), as are residual, context and out then. projected
        (T, 3E) and context (T, E) are scratch that a caller may reuse. options: is_causal, window, relative_bias, ...
        of functional.varlen_attention.
        """
        E, heads = self.embed_dim, (-1, self.num_heads, self.embed_dim // self.num_heads)
        projected = self.in_proj(input, out=projected)
        query, key, value = (projected[:, i * E : (i + 1) * E].reshape(heads) for i in range(3))
        cu_seqlens_k = cu_seqlens
        if keys is not None:
            rows, cu_seqlens_k = keys
            key, value = key[rows], value[rows]
        if pooled is not None:
            query, cu_seqlens = query[pooled], np.arange(len(pooled) + 1)
        if context is None:
            context = np.empty((len(query), E), np.float32)
        F.varlen_attention(query, key, value, cu_seqlens, cu_seqlens_k, out=context.reshape(heads), **options)
        return self.out_proj(context, residual=residual, out=out)

    def extra_repr(self) -> str:
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}"
