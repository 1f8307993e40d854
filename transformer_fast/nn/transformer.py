"""`TransformerEncoderLayer`, `TransformerEncoder` and `Transformer` as in torch.nn; the decoder has a file of its own.

Called by users and nn.seq2seq. Where nothing but causal order and padding is asked for, the layers of an encoder run
in one call of `functional.Encoder`, else one after the other; both give the same bits.
"""

from __future__ import annotations

import numpy as np

from transformer_fast import functional as F
from transformer_fast.functional.arrays import as_array
from transformer_fast.nn import init
from transformer_fast.nn.attention import MultiheadAttention
from transformer_fast.nn.encoder_stack import EncoderStackCache, StackSpec
from transformer_fast.nn.feed_forward import Activation, feed_forward
from transformer_fast.nn.linear import Linear
from transformer_fast.nn.masks import split_causal, square_subsequent_mask
from transformer_fast.nn.module import Module, ModuleList, clones
from transformer_fast.nn.norm import LayerNorm
from transformer_fast.nn.sequences import PackedSequences
from transformer_fast.nn.transformer_decoder import TransformerDecoder, TransformerDecoderLayer


class TransformerEncoderLayer(Module):
    """One encoder layer as torch.nn.TransformerEncoderLayer, with its parameter names (Vaswani et al., 2017).

    activation is "relu", "gelu", another name that `functional.linear` knows, or a function of an array. norm_first
    normalises before each half (pre-norm) instead of after it. dropout is accepted and does nothing at inference.

    Example:
        >>> import numpy as np
        >>> layer = TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
        >>> layer(np.ones((3, 5, 8), np.float32)).shape
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

        src_mask and src_key_padding_mask are attn_mask and key_padding_mask of `MultiheadAttention`. With is_causal
        each position attends itself and those before it, with or without a mask (in torch it is a hint about the mask).

        Raises:
            ValueError, TypeError: shapes or types do not fit.
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


def _spec(layers: ModuleList) -> StackSpec | None:
    """The layers for functional.Encoder; None where they hold something that it does not know."""
    if not all(_is_plain(layer) for layer in layers):
        return None
    options = [_options(layer) for layer in layers]
    if any(other != options[0] for other in options):
        return None
    return StackSpec([_parts(layer) for layer in layers], options[0])


def _is_plain(layer: Module) -> bool:
    """Whether a layer and its parts are this file's, and not subclasses or replacements that compute something else."""
    if type(layer) is not TransformerEncoderLayer or not isinstance(layer.activation, str):
        return False
    parts = {
        "self_attn": MultiheadAttention,
        "linear1": Linear,
        "linear2": Linear,
        "norm1": LayerNorm,
        "norm2": LayerNorm,
    }
    if any(type(getattr(layer, name)) is not kind for name, kind in parts.items()):
        return False
    attention = layer.self_attn
    return attention.in_proj_weight is not None and attention.bias_k is None and not attention.add_zero_attn


def _options(layer: TransformerEncoderLayer) -> tuple:
    return layer.self_attn.num_heads, layer.activation, (layer.norm1.eps, layer.norm2.eps), layer.norm_first


def _parts(layer: TransformerEncoderLayer) -> tuple:
    """The first fields of functional.EncoderLayer."""
    attention, linears, norms = layer.self_attn, (layer.linear1, layer.linear2), (layer.norm1, layer.norm2)
    return (
        attention._packed(0, 3),
        *(linear.packed() for linear in (attention.out_proj, *linears)),
        attention.in_proj_bias,
        *(linear.bias for linear in (attention.out_proj, *linears)),
        *(vector for norm in norms for vector in (norm.weight, norm.bias)),
    )


class TransformerEncoder(Module):
    """num_layers encoder layers and a final norm, as torch.nn.TransformerEncoder, with its parameter names.

    encoder_layer is copied num_layers times; each copy has parameters of its own (that start out equal). norm is a
    module, or None. mask_check is accepted and has no effect.

    Example:
        >>> import numpy as np
        >>> encoder = TransformerEncoder(TransformerEncoderLayer(8, 2, 16, batch_first=True), num_layers=2)
        >>> encoder(np.ones((3, 5, 8), np.float32), is_causal=True).shape
        (3, 5, 8)
    """

    def __init__(
        self,
        encoder_layer: Module,
        num_layers: int,
        norm: Module | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        super().__init__()
        self.layers = clones(encoder_layer, num_layers)
        self.num_layers = num_layers
        self.norm = norm
        self.enable_nested_tensor = enable_nested_tensor
        self.mask_check = mask_check
        self._encoder = EncoderStackCache()

    def forward(
        self,
        src: np.ndarray,
        mask: np.ndarray | None = None,
        src_key_padding_mask: np.ndarray | None = None,
        is_causal: bool | None = None,
    ) -> np.ndarray:
        """src (L, B, d_model), with batch_first (B, L, d_model), without a batch (L, d_model) -> the same shape.

        mask (L, L) or (B * H, L, L) and src_key_padding_mask (B, L), without a batch (L,): True = NOT allowed, or
        float, as in `MultiheadAttention`. is_causal applies with or without a mask; a mask that is exactly
        `Transformer.generate_square_subsequent_mask` is run as is_causal.

        Do not rely on the result where src_key_padding_mask hides a token. It is that of torch at inference:
        0 before the final norm where torch takes nested tensors (enable_nested_tensor, post-norm layers with
        batch_first, bias, relu or gelu and an even number of heads, padding after the tokens, no mask), else the
        result of such a position from the tokens that it attends. The former is faster: padding is not computed.

        Raises:
            ValueError, TypeError: shapes or types do not fit.
        """
        mask, is_causal = split_causal(mask, is_causal)
        x = np.asarray(src)
        encoder = None
        if mask is None and self.num_layers:
            encoder = self._encoder.get(self, lambda: _spec(self.layers), is_causal)
        tokens = None
        if encoder is not None and src_key_padding_mask is not None:
            tokens = None if is_causal else self._nested_tokens(x, src_key_padding_mask)
            encoder = None if tokens is None else encoder
        if encoder is None:
            for layer in self.layers:
                x = layer(x, src_mask=mask, src_key_padding_mask=src_key_padding_mask, is_causal=is_causal)
        else:
            x = _run_packed(encoder, x, tokens, self.layers[0].self_attn.batch_first)
        return x if self.norm is None else self.norm(x)

    def _nested_tokens(self, x: np.ndarray, padding) -> np.ndarray | None:
        """(B, L), True = token, where torch would compute only the tokens and put 0 elsewhere; else None."""
        layer, padding = self.layers[0], as_array(padding, "src_key_padding_mask")
        attention = layer.self_attn
        nested = (
            self.enable_nested_tensor
            and attention.batch_first
            and not layer.norm_first
            and attention.in_proj_bias is not None
            and layer.activation in ("relu", "gelu")
            and layer.norm1.eps == layer.norm2.eps
            and attention.num_heads % 2 == 0
        )
        if not nested or x.ndim != 3 or padding.dtype != np.bool_ or padding.shape != x.shape[:2]:
            return None
        at_end = not (padding[:, :-1] & ~padding[:, 1:]).any()
        return ~padding if at_end else None

    def extra_repr(self) -> str:
        return f"num_layers={self.num_layers}"


def _run_packed(encoder: F.Encoder, x: np.ndarray, tokens: np.ndarray | None, batch_first: bool) -> np.ndarray:
    """All layers over x, or only over its tokens (B, L), with 0 elsewhere."""
    if x.ndim not in (2, 3) or x.shape[-1] != encoder.hidden:
        axes = "(B, L, d_model)" if batch_first else "(L, B, d_model)"
        needed = f"needed: {axes}, or (L, d_model) without a batch, with d_model={encoder.hidden}"
        raise ValueError(f"src has shape {x.shape}; {needed}")
    if tokens is not None:
        sequences = PackedSequences(tokens)
        return sequences.unpack(encoder(sequences.pack(x), sequences.cu_seqlens))
    turn = x.ndim == 3 and not batch_first
    rows = x.swapaxes(0, 1) if turn else x
    L = rows.shape[-2]
    B = rows.shape[0] if x.ndim == 3 else 1
    hidden = encoder(np.ascontiguousarray(rows).reshape(B * L, encoder.hidden), np.arange(B + 1) * L).reshape(
        rows.shape
    )
    return np.ascontiguousarray(hidden.swapaxes(0, 1)) if turn else hidden


class Transformer(Module):
    """Encoder and decoder as torch.nn.Transformer, with its parameter names (Vaswani et al., 2017).

    custom_encoder and custom_decoder take the place of the stacks. Fresh matrices are Xavier-uniform. Options as in
    `TransformerEncoderLayer`. `nn.TransformerGenerator` writes texts with it.

    Example:
        >>> import numpy as np
        >>> model = Transformer(8, 2, 1, 1, 16)
        >>> mask = Transformer.generate_square_subsequent_mask(3)
        >>> model(np.ones((5, 2, 8), np.float32), np.ones((3, 2, 8), np.float32), tgt_mask=mask).shape
        (3, 2, 8)
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = "relu",
        custom_encoder: Module | None = None,
        custom_decoder: Module | None = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        options = (d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias)
        if custom_encoder is None:
            norm = LayerNorm(d_model, layer_norm_eps, bias=bias)
            custom_encoder = TransformerEncoder(TransformerEncoderLayer(*options), num_encoder_layers, norm)
        if custom_decoder is None:
            norm = LayerNorm(d_model, layer_norm_eps, bias=bias)
            custom_decoder = TransformerDecoder(TransformerDecoderLayer(*options), num_decoder_layers, norm)
        self.encoder = custom_encoder
        self.decoder = custom_decoder
        self.d_model = d_model
        self.nhead = nhead
        self.batch_first = batch_first
        for _, module in self.named_modules():
            for name, array in module._parameters.items():
                if array is not None and array.ndim > 1:
                    setattr(module, name, init.create(array.shape, init.xavier_uniform))

    def forward(
        self,
        src: np.ndarray,
        tgt: np.ndarray,
        src_mask: np.ndarray | None = None,
        tgt_mask: np.ndarray | None = None,
        memory_mask: np.ndarray | None = None,
        src_key_padding_mask: np.ndarray | None = None,
        tgt_key_padding_mask: np.ndarray | None = None,
        memory_key_padding_mask: np.ndarray | None = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> np.ndarray:
        """src (S, B, d_model) and tgt (T, B, d_model) -> (T, B, d_model); batch_first and no batch as elsewhere.

        Masks as in `TransformerEncoder` and `TransformerDecoder`. src_key_padding_mask does not reach the decoder:
        give it as memory_key_padding_mask too, as with torch.

        Raises:
            ValueError, TypeError: shapes or types do not fit.
        """
        src, tgt = np.asarray(src), np.asarray(tgt)
        for name, array in (("src", src), ("tgt", tgt)):
            if array.ndim not in (2, 3) or array.shape[-1] != self.d_model or array.ndim != src.ndim:
                raise ValueError(
                    f"{name} has shape {array.shape}; needed: two or three axes, the same number for src and tgt, and "
                    f"{self.d_model} (d_model) in the last"
                )
        memory = self.encoder(src, mask=src_mask, src_key_padding_mask=src_key_padding_mask, is_causal=src_is_causal)
        return self.decoder(
            tgt,
            memory,
            tgt_mask=tgt_mask,
            memory_mask=memory_mask,
            tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask,
            tgt_is_causal=tgt_is_causal,
            memory_is_causal=memory_is_causal,
        )

    @staticmethod
    def generate_square_subsequent_mask(sz: int) -> np.ndarray:
        """(sz, sz) float32: 0 on and below the diagonal, -inf above it.

        Raises:
            ValueError: sz is negative.
        """
        if sz < 0:
            raise ValueError(f"sz={sz}; needed: a number that is not negative")
        return square_subsequent_mask(sz)
