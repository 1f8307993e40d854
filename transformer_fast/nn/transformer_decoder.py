"""`TransformerDecoderLayer` and `TransformerDecoder` as in torch.nn: attention to itself and to a memory.

Called by nn.transformer and users. Generation with cached keys and values goes through these layers' parts too:
nn.seq2seq.
"""

from __future__ import annotations

import numpy as np

from transformer_fast.nn.attention import MultiheadAttention
from transformer_fast.nn.feed_forward import Activation, feed_forward
from transformer_fast.nn.linear import Linear
from transformer_fast.nn.masks import split_causal
from transformer_fast.nn.module import Module, ModuleList, clones
from transformer_fast.nn.norm import LayerNorm


class TransformerDecoderLayer(Module):
    """One decoder layer as torch.nn.TransformerDecoderLayer, with its parameter names (Vaswani et al., 2017).

    Options as in `TransformerEncoderLayer`.

    Example:
        >>> import numpy as np
        >>> layer = TransformerDecoderLayer(8, 2, dim_feedforward=16, batch_first=True)
        >>> layer(np.ones((3, 5, 8), np.float32), np.ones((3, 7, 8), np.float32), tgt_is_causal=True).shape
        (3, 5, 8)
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
        self.multihead_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first)
        self.linear1 = Linear(d_model, dim_feedforward, bias)
        self.linear2 = Linear(dim_feedforward, d_model, bias)
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.norm3 = LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.activation = activation
        self.norm_first = norm_first

    def forward(
        self,
        tgt: np.ndarray,
        memory: np.ndarray,
        tgt_mask: np.ndarray | None = None,
        memory_mask: np.ndarray | None = None,
        tgt_key_padding_mask: np.ndarray | None = None,
        memory_key_padding_mask: np.ndarray | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> np.ndarray:
        """tgt (T, B, d_model), memory (S, B, d_model) -> (T, B, d_model); with batch_first (B, T, d_model) and so on;
        without a batch (T, d_model) and (S, d_model).

        tgt_mask (T, T), memory_mask (T, S), or with B * H before them, and the padding masks (B, T) and (B, S): True =
        NOT allowed, or float, as in `MultiheadAttention`. tgt_is_causal and memory_is_causal let position i attend
        those up to i, with or without a mask.

        Raises:
            ValueError, TypeError: shapes or types do not fit.
        """

        def attention(x: np.ndarray, residual: np.ndarray) -> np.ndarray:
            return self.self_attn._attend(x, x, x, tgt_key_padding_mask, tgt_mask, tgt_is_causal, residual=residual)[0]

        def cross(x: np.ndarray, residual: np.ndarray) -> np.ndarray:
            options = (memory_key_padding_mask, memory_mask, memory_is_causal)
            return self.multihead_attn._attend(x, memory, memory, *options, residual=residual)[0]

        return self.run(tgt, attention, cross)

    def run(self, x: np.ndarray, attention, cross) -> np.ndarray:
        """The layer around its two attentions, functions of (input, residual): what `forward` and caches share."""

        def ffn(x: np.ndarray, residual: np.ndarray) -> np.ndarray:
            return feed_forward(x, self.linear1, self.linear2, self.activation, residual=residual)

        if self.norm_first:
            x = attention(self.norm1(x), x)
            x = cross(self.norm2(x), x)
            return ffn(self.norm3(x), x)
        x = self.norm1(attention(x, x))
        x = self.norm2(cross(x, x))
        return self.norm3(ffn(x, x))

    def extra_repr(self) -> str:
        return f"norm_first={self.norm_first}"


class TransformerDecoder(Module):
    """num_layers decoder layers and a final norm, as torch.nn.TransformerDecoder, with its parameter names.

    decoder_layer is copied num_layers times; each copy has parameters of its own (that start out equal). norm is a
    module, or None.

    Example:
        >>> import numpy as np
        >>> decoder = TransformerDecoder(TransformerDecoderLayer(8, 2, 16, batch_first=True), num_layers=2)
        >>> decoder(np.ones((3, 5, 8), np.float32), np.ones((3, 7, 8), np.float32)).shape
        (3, 5, 8)
    """

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        self.layers: ModuleList = clones(decoder_layer, num_layers)
        self.num_layers = num_layers
        self.norm = norm

    def forward(
        self,
        tgt: np.ndarray,
        memory: np.ndarray,
        tgt_mask: np.ndarray | None = None,
        memory_mask: np.ndarray | None = None,
        tgt_key_padding_mask: np.ndarray | None = None,
        memory_key_padding_mask: np.ndarray | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> np.ndarray:
        """As `TransformerDecoderLayer`, layer after layer, then the norm.

        A mask that is exactly `Transformer.generate_square_subsequent_mask` is run as a flag.

        Raises:
            ValueError, TypeError: shapes or types do not fit.
        """
        tgt_mask, tgt_is_causal = split_causal(tgt_mask, tgt_is_causal)
        memory_mask, memory_is_causal = split_causal(memory_mask, memory_is_causal)
        x = tgt
        for layer in self.layers:
            x = layer(
                x,
                memory,
                tgt_mask=tgt_mask,
                memory_mask=memory_mask,
                tgt_key_padding_mask=tgt_key_padding_mask,
                memory_key_padding_mask=memory_key_padding_mask,
                tgt_is_causal=tgt_is_causal,
                memory_is_causal=memory_is_causal,
            )
        return x if self.norm is None else self.norm(x)

    def extra_repr(self) -> str:
        return f"num_layers={self.num_layers}"
