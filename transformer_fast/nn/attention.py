"""Attention blocks: `MultiheadAttention` (torch's interface) and `PackedSelfAttention` (sequences without padding).

Encoder layers use the first, models the second. Neither copies heads: the product with the stacked query/key/value
weight is looked at through strides, and the attention writes its heads side by side into the rows that the output
projection reads. A block with another projection scheme (grouped heads, rotary positions) becomes a class of its own
here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.nn import init
from transformer_fast.nn.linear import Linear, PackedRows
from transformer_fast.nn.module import Module


class PackedSelfAttention(Module):
    """Self-attention on packed tokens: in_proj (E -> 3E: query, key, value), attention, out_proj (E -> E).

    Example:
        >>> attention = nn.PackedSelfAttention(16, num_heads=2)
        >>> attention(np.ones((5, 16), np.float32), [0, 2, 5]).shape  # two sequences: of two tokens and of three
        (5, 16)
    """

    def __init__(self, embed_dim: int, num_heads: int, bias: bool = True) -> None:
        super().__init__()
        _check_heads(embed_dim, num_heads)
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
        residual: np.ndarray | None = None,
        projected: np.ndarray | None = None,
        context: np.ndarray | None = None,
        out: np.ndarray | None = None,
        **options: Any,
    ) -> np.ndarray:
        """input (T, E), sequence b in rows cu_seqlens[b]:cu_seqlens[b + 1] -> (T, E), with the residual added.

        keys = (rows, cu_seqlens_k) attends only those rows of the input; by default all. projected (T, 3E) and
        context (T, E) are scratch that a caller may reuse. options: is_causal, window, relative_bias, ... of
        functional.varlen_attention.
        """
        E, heads = self.embed_dim, (-1, self.num_heads, self.embed_dim // self.num_heads)
        projected = self.in_proj(input, out=projected)
        query, key, value = (projected[:, i * E : (i + 1) * E].reshape(heads) for i in range(3))
        cu_seqlens_k = cu_seqlens
        if keys is not None:
            rows, cu_seqlens_k = keys
            key, value = key[rows], value[rows]
        if context is None:
            context = np.empty((len(input), E), np.float32)
        F.varlen_attention(query, key, value, cu_seqlens, cu_seqlens_k, out=context.reshape(heads), **options)
        return self.out_proj(context, residual=residual, out=out)

    def extra_repr(self) -> str:
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}"


class MultiheadAttention(Module):
    """Attention with several heads as torch.nn.MultiheadAttention, with its parameter names (Vaswani et al., 2017).

    dropout is accepted and does nothing at inference. add_bias_kv, add_zero_attn, and kdim or vdim other than embed_dim
    raise NotImplementedError. One policy differs from torch: a query that may attend no key gets zeros, not NaN.

    Fresh input projections are Xavier-uniform, the output projection is as in Linear, biases are 0.

    Example:
        >>> attention = nn.MultiheadAttention(16, num_heads=2, batch_first=True)
        >>> x = np.ones((3, 5, 16), np.float32)
        >>> output, weights = attention(x, x, x)
        >>> output.shape, weights.shape
        ((3, 5, 16), (3, 5, 5))
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
    ) -> None:
        super().__init__()
        _check_heads(embed_dim, num_heads)
        if add_bias_kv or add_zero_attn:
            raise NotImplementedError("add_bias_kv and add_zero_attn are not supported; needed: False")
        for name, size in (("kdim", kdim), ("vdim", vdim)):
            if size not in (None, embed_dim):
                raise NotImplementedError(
                    f"{name}={size} other than embed_dim={embed_dim} is not supported; needed: None"
                )
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.dropout = dropout
        self.batch_first = batch_first
        self.register_parameter("in_proj_weight", (3 * embed_dim, embed_dim), init.xavier_uniform)
        self.register_parameter("in_proj_bias", (3 * embed_dim,) if bias else None, init.zeros)
        self.out_proj = Linear(embed_dim, embed_dim, bias)
        if bias:
            self.out_proj.bias = init.zeros((embed_dim,))
        self._packs = PackedRows()

    def forward(
        self,
        query: np.ndarray,
        key: np.ndarray,
        value: np.ndarray,
        key_padding_mask: np.ndarray | None = None,
        need_weights: bool = True,
        attn_mask: np.ndarray | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """(output, weights or None).

        query (Lq, B, E), key and value (Lk, B, E); with batch_first (B, L, E); without a batch (L, E).
        **True in a boolean mask means NOT allowed**, as in torch; a float mask is added to the scores.
        key_padding_mask (B, Lk), without a batch (Lk,); attn_mask (Lq, Lk) or (B * H, Lq, Lk). is_causal lets query i
        attend keys up to i, with or without attn_mask.

        The output has the query's shape. weights are (B, Lq, Lk), or (B, H, Lq, Lk) if not average_attn_weights;
        without a batch the first axis is missing. need_weights=False is faster and needs less memory.

        Raises:
            ValueError, TypeError: shapes or types do not fit.
        """
        weights = ("mean" if average_attn_weights else "heads") if need_weights else False
        return self._attend(query, key, value, key_padding_mask, attn_mask, is_causal, weights)

    def _attend(
        self,
        query,
        key,
        value,
        key_padding_mask=None,
        attn_mask=None,
        is_causal=False,
        return_weights=False,
        residual=None,
    ):
        """`forward`, with functional's return_weights, and a residual that the output projection adds."""
        self_attention = key is query and value is query
        shared = value is key
        query, key, value = (np.asarray(array) for array in (query, key, value))
        self._check_shapes(query, key, value)
        batched = query.ndim == 3
        batch_first = self.batch_first or not batched
        if not batched:
            query, key, value = query[None], key[None], value[None]
            key_padding_mask = None if key_padding_mask is None else np.asarray(key_padding_mask)[None]
        if self_attention:
            projected = self._project(query, 0, 3)
        elif shared:
            projected = [*self._project(query, 0, 1), *self._project(key, 1, 3)]
        else:
            projected = [self._project(x, i, i + 1)[0] for i, x in enumerate((query, key, value))]
        q, k, v = (self._heads(x, batch_first) for x in projected)
        mask = _allowed(attn_mask, key_padding_mask, (len(q), self.num_heads, q.shape[2], k.shape[2]))
        context = np.empty(query.shape, np.float32)
        result = F.scaled_dot_product_attention(
            q,
            k,
            v,
            mask,
            is_causal=is_causal,
            return_weights=return_weights,
            out=self._heads(context, batch_first),
        )
        if residual is not None:
            residual = np.asarray(residual).reshape(query.shape)
        output = self.out_proj(context, residual=residual)
        weights = result[1] if return_weights else None
        if batched:
            return output, weights
        return output[0], None if weights is None else weights[0]

    def _project(self, input: np.ndarray, first: int, last: int) -> list[np.ndarray]:
        """The query (0), key (1) and value (2) projections from `first` to before `last`, by one product."""
        E = self.embed_dim
        weight = self._packs.get(self.in_proj_weight, first * E, last * E)
        bias = None if self.in_proj_bias is None else self.in_proj_bias[first * E : last * E]
        projected = F.linear(input, weight, bias)
        return [projected[..., i * E : (i + 1) * E] for i in range(last - first)]

    def _heads(self, projected: np.ndarray, batch_first: bool) -> np.ndarray:
        """(B, L, E) or (L, B, E) -> a view (B, H, L, D)."""
        heads = projected.reshape(*projected.shape[:2], self.num_heads, self.head_dim)
        return heads.transpose(0, 2, 1, 3) if batch_first else heads.transpose(1, 2, 0, 3)

    def _check_shapes(self, query: np.ndarray, key: np.ndarray, value: np.ndarray) -> None:
        for name, array in (("query", query), ("key", key), ("value", value)):
            if array.ndim not in (2, 3) or array.ndim != query.ndim or array.shape[-1] != self.embed_dim:
                raise ValueError(
                    f"{name} has shape {array.shape}; needed: three axes (two without a batch), the same number for "
                    f"query, key and value, and {self.embed_dim} (embed_dim) in the last"
                )
        batch_axis = 0 if self.batch_first else 1
        if key.shape != value.shape or (query.ndim == 3 and key.shape[batch_axis] != query.shape[batch_axis]):
            raise ValueError(
                f"query, key and value have shapes {query.shape}, {key.shape}, {value.shape}; "
                "needed: one batch size, and as many values as keys"
            )

    def _loaded(self) -> None:
        self._packs.get(self.in_proj_weight, 0, 3 * self.embed_dim)

    def extra_repr(self) -> str:
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, batch_first={self.batch_first}"


def _check_heads(embed_dim: int, num_heads: int) -> None:
    if embed_dim <= 0 or num_heads <= 0 or embed_dim % num_heads:
        raise ValueError(
            f"embed_dim={embed_dim} and num_heads={num_heads}; "
            "needed: positive numbers, embed_dim a multiple of num_heads"
        )


def _allowed(attn_mask, key_padding_mask, shape: tuple[int, int, int, int]) -> np.ndarray | None:
    """torch's two masks (True = not allowed) as one mask of `functional` (True = attend, or float), if there is any.

    shape is (B, H, Lq, Lk).
    """
    B, H, Lq, Lk = shape
    masks = []
    if attn_mask is not None:
        mask = _mask_array("attn_mask", attn_mask)
        if mask.shape == (B * H, Lq, Lk):
            mask = mask.reshape(shape)
        elif mask.shape != (Lq, Lk):
            raise ValueError(f"attn_mask has shape {mask.shape}; needed: {(Lq, Lk)} or {(B * H, Lq, Lk)}")
        masks.append(mask)
    if key_padding_mask is not None:
        mask = _mask_array("key_padding_mask", key_padding_mask)
        if mask.shape != (B, Lk):
            raise ValueError(f"key_padding_mask has shape {mask.shape}; needed: {(B, Lk)}")
        masks.append(mask[:, None, None, :])
    if not masks:
        return None
    if all(mask.dtype == np.bool_ for mask in masks):
        forbidden = masks[0] if len(masks) == 1 else masks[0] | masks[1]
        return ~forbidden
    added = [np.where(m, np.float32(-np.inf), np.float32(0)) if m.dtype == np.bool_ else m for m in masks]
    return added[0] if len(added) == 1 else added[0] + added[1]


def _mask_array(name: str, mask) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.dtype != np.bool_ and mask.dtype != np.float32:
        raise TypeError(f"{name} has dtype {mask.dtype}; needed: bool (True = not allowed) or float32 (added)")
    return mask
