"""Attention by one score function, without heads or projections of values of its own.

`ScaledDotProductAttention` (Vaswani) and `AdditiveAttention` (Bahdanau), for encoder-decoders with recurrent parts and
for models that are put together by hand. Another score function is another class here.
"""

from __future__ import annotations

import numpy as np

from transformer_fast import functional as F
from transformer_fast.functional.arrays import as_array
from transformer_fast.nn import init
from transformer_fast.nn.linear import Linear
from transformer_fast.nn.module import Module


class ScaledDotProductAttention(Module):
    """softmax(query key^T * scale) value (Vaswani et al., 2017, section 3.2.1); no parameters.

    scale: by default 1 / sqrt(D); T5 has 1. window and softcap as in `functional.scaled_dot_product_attention`.

    Example:
        >>> import numpy as np
        >>> from transformer_fast.nn import ScaledDotProductAttention
        >>> x = np.ones((2, 4, 5, 8), np.float32)
        >>> ScaledDotProductAttention(scale=1.0)(x, x, x, is_causal=True).shape
        (2, 4, 5, 8)
    """

    def __init__(self, scale: float | None = None, *, window: tuple[int, int] = (-1, -1), softcap: float = 0.0) -> None:
        super().__init__()
        self.scale = scale
        self.window = window
        self.softcap = softcap

    def forward(
        self,
        query: np.ndarray,
        key: np.ndarray,
        value: np.ndarray,
        attn_mask: np.ndarray | None = None,
        is_causal: bool = False,
        *,
        need_weights: bool = False,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """query (..., H, Lq, D), key (..., Hkv, Lk, D), value (..., Hkv, Lk, Dv) -> (..., H, Lq, Dv).

        attn_mask broadcasts to (..., H, Lq, Lk): bool with **True = attend**, as in torch's function of this name, or
        added to the scores. need_weights adds the weights (..., H, Lq, Lk). H is a multiple of Hkv.

        Raises ValueError, TypeError where shapes or types do not fit.
        """
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask,
            is_causal=is_causal,
            scale=self.scale,
            enable_gqa=True,
            window=self.window,
            softcap=self.softcap,
            return_weights="heads" if need_weights else False,
        )

    def extra_repr(self) -> str:
        return f"scale={self.scale}, window={self.window}, softcap={self.softcap}"


class AdditiveAttention(Module):
    """softmax_j(v . tanh(W_q query_i + W_k key_j + b)) value_j (Bahdanau et al., 2014, arXiv:1409.0473, A.1.2).

    Parameters: query_proj.weight (A, query_dim) and query_proj.bias (A,), key_proj.weight (A, key_dim), v (A,), with
    A = attention_dim. Fresh ones are as in Linear. An Lq x Lk x A array is never made.

    Example:
        >>> import numpy as np
        >>> from transformer_fast.nn import AdditiveAttention
        >>> attention = AdditiveAttention(6, 8, 16)
        >>> context, weights = attention(np.ones((2, 1, 6), np.float32), np.ones((2, 9, 8), np.float32))
        >>> context.shape, weights
        ((2, 1, 8), None)
    """

    def __init__(self, query_dim: int, key_dim: int, attention_dim: int, bias: bool = True) -> None:
        super().__init__()
        for name, size in (("query_dim", query_dim), ("key_dim", key_dim), ("attention_dim", attention_dim)):
            if size <= 0:
                raise ValueError(f"{name} is {size}; needed: a positive number")
        self.query_proj = Linear(query_dim, attention_dim, bias)
        self.key_proj = Linear(key_dim, attention_dim, bias=False)
        self.register_parameter("v", (attention_dim,), init.uniform(attention_dim))

    def project_keys(self, key: np.ndarray) -> np.ndarray:
        """key (..., Lk, key_dim) -> (..., Lk, A), for `forward`: a decoder makes them once and not at each step."""
        return self.key_proj(key)

    def forward(
        self,
        query: np.ndarray,
        key: np.ndarray,
        value: np.ndarray | None = None,
        key_padding_mask: np.ndarray | None = None,
        *,
        projected_keys: np.ndarray | None = None,
        need_weights: bool = False,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """(context (..., Lq, Dv), weights (..., Lq, Lk) or None).

        query (..., Lq, query_dim), key (..., Lk, key_dim), value (..., Lk, Dv), by default the keys.
        key_padding_mask (..., Lk), bool: **True is NOT allowed**; a sequence with nothing allowed gives zeros.
        projected_keys: what `project_keys` made of the keys. Weights take a second pass over the scores.

        Raises ValueError, TypeError where shapes or types do not fit.
        """
        key = np.asarray(key)
        value = key if value is None else np.asarray(value)
        mask = None if key_padding_mask is None else _allowed(key_padding_mask, key.shape[:-1])
        queries = self.query_proj(query)
        keys = self.key_proj(key) if projected_keys is None else projected_keys
        context = F.additive_attention(queries, keys, value, self.v, mask=mask)
        if not need_weights:
            return context, None
        # Values that are the rows of an identity give back what each is multiplied by.
        identity = np.eye(key.shape[-2], dtype=np.float32)
        identity = np.broadcast_to(identity, key.shape[:-2] + identity.shape)
        return context, F.additive_attention(queries, keys, identity, self.v, mask=mask)


def _allowed(key_padding_mask, shape: tuple[int, ...]) -> np.ndarray:
    """(..., 1, Lk) for functional: True = attend."""
    mask = as_array(key_padding_mask, "key_padding_mask")
    if mask.dtype != np.bool_:
        raise TypeError(f"key_padding_mask has dtype {mask.dtype}; needed: bool (True = not allowed)")
    if mask.shape != shape:
        raise ValueError(f"key_padding_mask has shape {mask.shape}; needed: {shape}")
    return ~mask[..., None, :]
