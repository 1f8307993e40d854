"""`TransformerEncoderLayer`: self-attention and feed-forward with residuals and norms, as in torch.

Stacks of layers, decoder layers and the whole Transformer belong in this file too.
"""

from __future__ import annotations

import numpy as np

from transformer_fast.nn.attention import MultiheadAttention
from transformer_fast.nn.feed_forward import Activation, feed_forward
from transformer_fast.nn.linear import Linear
from transformer_fast.nn.module import Module
from transformer_fast.nn.norm import LayerNorm


class TransformerEncoderLayer(Module):
    """One encoder layer as torch.nn.TransformerEncoderLayer, with its parameter names (Vaswani et al., 2017).

    activation is "relu", "gelu", another name that `functional.linear` knows, or a function of an array. norm_first
    normalises before each half (pre-norm) instead of after it. dropout is accepted and does nothing at inference.

    Example:
        >>> layer = nn.TransformerEncoderLayer(16, nhead=2, dim_feedforward=32, batch_first=True)
        >>> layer(np.ones((3, 5, 16), np.float32), is_causal=True).shape
        (3, 5, 16)
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first)
        self.linear1 = Linear(d_model, dim_feedforward, bias)
        self.linear2 = Linear(dim_feedforward, d_model, bias)
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.activation = activation
        self.norm_first = norm_first

    def forward(
        self,
        src: np.ndarray,
        src_mask: np.ndarray | None = None,
        src_key_padding_mask: np.ndarray | None = None,
        is_causal: bool = False,
    ) -> np.ndarray:
        """src (L, B, d_model), with batch_first (B, L, d_model), without a batch (L, d_model) -> the same shape.

        src_mask and src_key_padding_mask are attn_mask and key_padding_mask of `MultiheadAttention`.
        """

        def attention(x: np.ndarray, residual: np.ndarray) -> np.ndarray:
            return self.self_attn._attend(x, x, x, src_key_padding_mask, src_mask, is_causal, residual=residual)[0]

        def ffn(x: np.ndarray, residual: np.ndarray) -> np.ndarray:
            return feed_forward(x, self.linear1, self.linear2, self.activation, residual=residual)

        if self.norm_first:
            x = attention(self.norm1(src), src)
            return ffn(self.norm2(x), x)
        x = self.norm1(attention(src, src))
        return self.norm2(ffn(x, x))

    def extra_repr(self) -> str:
        return f"norm_first={self.norm_first}"
