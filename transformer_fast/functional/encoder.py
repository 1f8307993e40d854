"""Whole encoder layers in one call. Called by models (and users who have the weights); the C is csrc/ops/encoder.c.

What it computes is what linear, varlen_attention and layer_norm compute one after the other, to the bit. To add a kind
of layer: its steps in csrc/ops/encoder.c, its weights in EncoderLayer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from transformer_fast import _core
from transformer_fast.functional import arrays
from transformer_fast.functional.attention_checks import rows_within, starts
from transformer_fast.functional.linear import ACTIVATIONS, PackedWeight

# The vectors of a layer, in the order in which _core.EncoderStack takes them.
_VECTORS = ("qkv_bias", "out_bias", "up_bias", "down_bias")
_VECTORS += ("norm1_weight", "norm1_bias", "norm2_weight", "norm2_bias")


@dataclass(frozen=True, slots=True)
class EncoderLayer:
    """The weights of one layer: packed (3h, h), (h, h), (inner, h), (h, inner); biases, norm parameters (or None).

    Example:
        >>> pack = lambda *shape: F.pack_weight(np.ones(shape, np.float32))
        >>> layer = F.EncoderLayer(pack(24, 8), pack(8, 8), pack(16, 8), pack(8, 16), *[None] * 8)
        >>> layer.qkv.shape, layer.down.shape
        ((24, 8), (8, 16))
    """

    qkv: PackedWeight
    out: PackedWeight
    up: PackedWeight
    down: PackedWeight
    qkv_bias: np.ndarray | None
    out_bias: np.ndarray | None
    up_bias: np.ndarray | None
    down_bias: np.ndarray | None
    norm1_weight: np.ndarray | None
    norm1_bias: np.ndarray | None
    norm2_weight: np.ndarray | None
    norm2_bias: np.ndarray | None


class Encoder:
    """Encoder layers of one shape, checked and ready to run: post-norm as in BERT, or pre-norm (norm_first).

    layers: at least one EncoderLayer, all of the same shapes. num_heads divides h. activation: as in functional.linear.
    eps: of the first and the second layer norm. causal: each position sees itself and those before it. The weights
    belong to the instruction set they were packed under.
    Raises ValueError and TypeError for weights that do not fit together.

    Example:
        >>> pack = lambda *shape: F.pack_weight(np.ones(shape, np.float32))
        >>> layer = F.EncoderLayer(pack(24, 8), pack(8, 8), pack(16, 8), pack(8, 16), *[None] * 8)
        >>> encoder = F.Encoder([layer, layer], num_heads=2)
        >>> encoder(np.ones((5, 8), np.float32), [0, 2, 5]).shape  # two sequences: of two tokens and of three
        (5, 8)
    """

    def __init__(
        self,
        layers: Sequence[EncoderLayer],
        num_heads: int,
        activation: str = "gelu",
        eps: tuple[float, float] = (1e-5, 1e-5),
        norm_first: bool = False,
        *,
        causal: bool = False,
    ) -> None:
        if not layers:
            raise ValueError("layers is empty; needed: at least one")
        self.hidden, inner = layers[0].down.shape
        if num_heads < 1 or self.hidden % num_heads:
            raise ValueError(f"num_heads is {num_heads}; needed: a divisor of the hidden size {self.hidden}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}; needed: one of {list(ACTIVATIONS)}")
        self.num_heads, self.activation, self.norm_first = num_heads, activation, norm_first
        self.causal = causal
        self.eps = tuple(arrays.number(value, "eps") for value in eps)
        self.isa = layers[0].qkv.isa
        self._stack = _core.EncoderStack(
            tuple(_checked(layer, i, self.hidden, inner) for i, layer in enumerate(layers))
        )

    def __call__(self, x, cu_seqlens, *, pooled_rows=None, out=None) -> np.ndarray:
        """x (T, h) float32, sequence b in the rows cu_seqlens[b]:cu_seqlens[b + 1] -> (T, h). out may be x itself.

        With enough sequences each thread takes some of them through all layers; a sequence's rows do not depend on
        that, nor on the other sequences, to the bit. pooled_rows, an int or (B,) integers: the one row of each
        sequence that is wanted, counted from its first (0: what a class token gives) -> (B, h), at the cost of the last
        layer's attention and feed-forward for those rows alone. Their sums are in another order than without.
        Raises TypeError, ValueError (a sequence without that row among them), and RuntimeError under another
        instruction set than the weights'.
        """
        x = arrays.float32(x, "x", last=self.hidden)
        if x.ndim != 2:
            raise ValueError(f"x has shape {x.shape}; needed: (T, {self.hidden})")
        cu_seqlens = starts(cu_seqlens, "cu_seqlens", len(x), "x")
        pooled = None if pooled_rows is None else rows_within(pooled_rows, "pooled_rows", np.diff(cu_seqlens))
        shape = x.shape if pooled is None else (len(pooled), self.hidden)
        if out is not None:
            operands = {"x": x, "cu_seqlens": cu_seqlens, "pooled_rows": pooled_rows}
            arrays.check_out(out, shape, arrays.FLOAT32, operands, in_place=("x",) if pooled is None else ())
        dense = np.ascontiguousarray(x)
        result = out if out is not None and out.flags.c_contiguous else np.empty(shape, arrays.FLOAT32)
        options = (ACTIVATIONS[self.activation], *self.eps, self.norm_first, self.causal)
        _core.encoder(dense, cu_seqlens, self._stack, self.num_heads, *options, pooled, result, 0)
        return arrays.finish(out, result)


def _checked(layer: EncoderLayer, index: int, hidden: int, inner: int) -> tuple:
    shapes = {"qkv": (3 * hidden, hidden), "out": (hidden, hidden), "up": (inner, hidden), "down": (hidden, inner)}
    for name, shape in shapes.items():
        if getattr(layer, name).shape != shape:
            raise ValueError(f"layers[{index}].{name} has shape {getattr(layer, name).shape}; needed: {shape}")
    lengths = {"qkv_bias": 3 * hidden, "up_bias": inner}
    vectors = {}
    for name in _VECTORS:
        vector = getattr(layer, name)
        length = lengths.get(name, hidden)
        vectors[name] = None if vector is None else arrays.vector(vector, f"layers[{index}].{name}", length)
    return (layer.qkv, layer.out, layer.up, layer.down, *vectors.values())
