"""`MultiheadAttention`: torch's interface, option by option. Encoder and decoder layers call it.

Heads are not copied: products with the stacked query/key/value weight are looked at through strides, and the attention
writes its heads side by side into the rows that the output projection reads. Further keys, as torch has them, need
no arrays of scores: the bias key is in front of the others, in a row that the projection leaves for it, and
the zero key is a logit of 0 that joins the denominator. Options that torch does not have belong to `SelfAttention`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.functional.arrays import as_array
from transformer_fast.nn import init
from transformer_fast.nn.attention.masks import check_heads, visible, weights_form
from transformer_fast.nn.linear import Linear
from transformer_fast.nn.module import Module
from transformer_fast.nn.packed_weights import PackedParameters


class MultiheadAttention(Module):
    """Attention with several heads as torch.nn.MultiheadAttention, with its parameter names (Vaswani et al., 2017).

    dropout is accepted and does nothing at inference. add_bias_kv: a learned key and value that every query sees.
    add_zero_attn: a key and value of zeros that every query sees. kdim, vdim: widths of key and value, by default
    embed_dim; if one differs, the projections are three parameters q_proj_weight, k_proj_weight and v_proj_weight.
    One policy differs from torch: a query that may attend no key gets zeros, not NaN.

    Fresh input projections are Xavier-uniform, bias_k and bias_v Xavier-normal, the output projection is as in Linear,
    biases are 0.

    Raises:
        ValueError: embed_dim is no multiple of num_heads, or a width is not positive.

    Example:
        >>> import numpy as np
        >>> from transformer_fast.nn import MultiheadAttention
        >>> attention = MultiheadAttention(16, 4, batch_first=True)
        >>> output, weights = attention(*[np.ones((2, 5, 16), np.float32)] * 3)
        >>> output.shape, weights.shape
        ((2, 5, 16), (2, 5, 5))
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
        check_heads(embed_dim, num_heads)
        self.embed_dim = embed_dim
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        if self.kdim <= 0 or self.vdim <= 0:
            raise ValueError(f"kdim={kdim} and vdim={vdim}; needed: positive numbers, or None for embed_dim")
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.dropout = dropout
        self.add_zero_attn = add_zero_attn
        self.batch_first = batch_first
        stacked = self.kdim == self.vdim == embed_dim
        for name, width in (("q_proj_weight", embed_dim), ("k_proj_weight", self.kdim), ("v_proj_weight", self.vdim)):
            self.register_parameter(name, None if stacked else (embed_dim, width), init.xavier_uniform, packed=True)
        shape = (3 * embed_dim, embed_dim) if stacked else None
        self.register_parameter("in_proj_weight", shape, init.xavier_uniform, packed=True)
        self.register_parameter("in_proj_bias", (3 * embed_dim,) if bias else None, init.zeros)
        for name in ("bias_k", "bias_v"):
            self.register_parameter(name, (1, 1, embed_dim) if add_bias_kv else None, init.xavier_normal)
        self.out_proj = Linear(embed_dim, embed_dim, bias)
        if bias:
            self.out_proj.bias = init.zeros((embed_dim,))
        E = embed_dim
        if stacked:
            ranges = ((0, 3), (0, 1), (1, 3), (1, 2), (2, 3))
            self._packs = {(a, b): PackedParameters("in_proj_weight", rows=(a * E, b * E)) for a, b in ranges}
        else:
            self._packs = {(i, i + 1): PackedParameters(f"{part}_proj_weight") for i, part in enumerate("qkv")}

    def forward(
        self,
        query: np.ndarray,
        key: np.ndarray,
        value: np.ndarray,
        key_padding_mask: np.ndarray | None = None,
        need_weights: bool | str = True,
        attn_mask: np.ndarray | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        *,
        mask: Any = None,
    ) -> tuple[np.ndarray, Any]:
        """(output, weights or None).

        query (Lq, B, E), key (Lk, B, kdim) and value (Lk, B, vdim); with batch_first (B, L, ...); without a batch
        (L, ...). **True in a boolean mask means NOT allowed**, as in torch; a float mask is added to the scores.
        key_padding_mask (B, Lk), without a batch (Lk,); attn_mask (Lq, Lk) or (B * H, Lq, Lk). is_causal lets query i
        attend keys up to i, with or without attn_mask; torch only takes it for a hint at what attn_mask holds.

        The output has the query's shape. weights are (B, Lq, Lk), or (B, H, Lq, Lk) if not average_attn_weights;
        without a batch the first axis is missing. The bias key and the zero key are their last columns.
        mask: a structure of `transformer_fast.masks` or `functional.KeyRanges`: **what it has is seen**, and all else
        costs nothing. Torch has no such option.
        need_weights=False is faster and needs less memory; "sparse" gives for each matrix (Lq, Lk) a
        scipy.sparse.csr_array of what mask, causal order and padding at the end leave, in an array (B,) or (B, H).
        Torch has no such value.

        Raises:
            ValueError, TypeError: shapes or types do not fit, or a mask or sparse weights meet a bias key.
        """
        weights = weights_form(need_weights, average_attn_weights)
        return self._attend(query, key, value, key_padding_mask, attn_mask, is_causal, weights, mask=mask)

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
        mask=None,
    ):
        """`forward`, with functional's return_weights, and a residual that the output projection adds."""
        if mask is not None and self.bias_k is not None:
            raise ValueError("mask was given to a module with a bias key, which it does not know; needed: attn_mask")
        if return_weights in ("sparse", "sparse-mean") and (self.bias_k is not None or self.add_zero_attn):
            raise ValueError(
                'need_weights is "sparse" in a module with a bias key or a zero key, which have columns of their own; '
                "needed: True or False"
            )
        products = self._products(query, key, value)
        arrays = [np.asarray(array) for array in (query, key, value)]
        self._check_shapes(*arrays)
        batched = arrays[0].ndim == 3
        axis = 1 if self.batch_first or not batched else 0
        if not batched:
            arrays = [array[None] for array in arrays]
            key_padding_mask = (
                None if key_padding_mask is None else as_array(key_padding_mask, "key_padding_mask")[None]
            )
        front = 0 if self.bias_k is None else 1
        q, k, v = (
            self._heads(projected, axis)
            for first, last in products
            for projected in self._project(arrays[first], first, last, axis)
        )
        query = arrays[0]
        shape = (len(q), self.num_heads, q.shape[2], k.shape[2] - front)
        seen = visible(attn_mask, key_padding_mask, is_causal, shape, front)
        context = np.empty(query.shape, np.float32)
        result = F.scaled_dot_product_attention(
            q,
            k,
            v,
            seen.attn_mask,
            is_causal=seen.is_causal,
            causal_offset=front,
            kv_lengths=seen.kv_lengths,
            sinks=np.zeros(self.num_heads, np.float32) if self.add_zero_attn else None,
            mask=mask,
            return_weights=return_weights,
            out=self._heads(context, axis),
        )
        if residual is not None:
            residual = np.asarray(residual).reshape(query.shape)
        output = self.out_proj(context, residual=residual)
        weights = _in_torch_order(result[1], front, self.add_zero_attn) if return_weights else None
        if batched:
            return output, weights
        return output[0], None if weights is None else weights[0]

    def _project(self, input: np.ndarray, first: int, last: int, axis: int) -> Iterator[np.ndarray]:
        """The query (0), key (1) and value (2) projections from `first` to before `last`, by one product.

        If there is a bias key, keys and values have it in front of the rows of the input, along `axis`.
        """
        E = self.embed_dim
        front = 0 if self.bias_k is None or last == 1 else 1
        if front:
            input = _with_room(input, axis)
        bias = None if self.in_proj_bias is None else self.in_proj_bias[first * E : last * E]
        projected = F.linear(input, self._packed(first, last), bias)
        for i in range(first, last):
            part = projected[..., (i - first) * E : (i - first + 1) * E]
            rows = part.swapaxes(0, axis)
            if front and i > 0:
                rows[0] = (self.bias_k if i == 1 else self.bias_v).reshape(E)
            yield rows[front:].swapaxes(0, axis) if i == 0 else part

    def _products(self, query, key, value) -> list[tuple[int, int]]:
        """(first, last) of each product that `_project` makes: as few as the inputs and the weights allow."""
        if self.in_proj_weight is not None and value is key:
            return [(0, 3)] if query is key else [(0, 1), (1, 3)]
        return [(0, 1), (1, 2), (2, 3)]

    def _packed(self, first: int, last: int) -> F.PackedWeight:
        """The packed rows that make the projections from `first` to before `last`."""
        return self._packs[first, last].get(self)

    def _heads(self, projected: np.ndarray, axis: int) -> np.ndarray:
        """(B, L, E) or (L, B, E), L on `axis` -> a view (B, H, L, D)."""
        heads = projected.reshape(*projected.shape[:2], self.num_heads, self.head_dim)
        return heads.transpose(1 - axis, 2, axis, 3)

    def _check_shapes(self, query: np.ndarray, key: np.ndarray, value: np.ndarray) -> None:
        for name, array, width in (
            ("query", query, self.embed_dim),
            ("key", key, self.kdim),
            ("value", value, self.vdim),
        ):
            if array.ndim not in (2, 3) or array.ndim != query.ndim or array.shape[-1] != width:
                raise ValueError(
                    f"{name} has shape {array.shape}; needed: three axes (two without a batch), the same number for "
                    f"query, key and value, and {width} in the last"
                )
        batch_axis = 0 if self.batch_first else 1
        if key.shape[:-1] != value.shape[:-1] or (query.ndim == 3 and key.shape[batch_axis] != query.shape[batch_axis]):
            raise ValueError(
                f"query, key and value have shapes {query.shape}, {key.shape}, {value.shape}; "
                "needed: one batch size, and as many values as keys"
            )

    def _loaded(self) -> None:
        for first, last in [(0, 3)] if self.in_proj_weight is not None else [(0, 1), (1, 2), (2, 3)]:
            self._packed(first, last)

    def extra_repr(self) -> str:
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, batch_first={self.batch_first}"


def _with_room(input: np.ndarray, axis: int) -> np.ndarray:
    """`input` after one row of zeros along `axis`."""
    shape = list(input.shape)
    shape[axis] += 1
    wide = np.empty(shape, input.dtype)
    rows = wide.swapaxes(0, axis)
    rows[0], rows[1:] = 0, input.swapaxes(0, axis)
    return wide


def _in_torch_order(weights: np.ndarray, front: int, zero_key: bool) -> np.ndarray:
    """(..., front + Lk) -> (..., Lk + front + zero_key): the bias key after the others, the zero key's weight last."""
    if not front and not zero_key:
        return weights
    parts = [weights[..., front:], weights[..., :front]]
    if zero_key:
        parts.append(1 - weights.sum(axis=-1, keepdims=True))
    return np.concatenate(parts, axis=-1)
