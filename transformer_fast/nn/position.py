"""Positions of tokens: encodings added to inputs, rotations of queries and keys, and biases of scores.

Called by models and users. Added to the input: `SinusoidalPositionalEncoding`, its form for images, and
`LearnedPositionalEmbedding`. Rotating queries and keys: `RotaryEmbedding` (its frequencies: rope_scaling.py). Added to
the scores of attention, as tables of length Lq + Lk - 1 instead of Lq x Lk arrays: `alibi_slopes` (alibi_slopes= of
attention) and `RelativePositionBias` (relative_bias=). A new scheme is one more class or function here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.nn import init
from transformer_fast.nn.module import Module
from transformer_fast.nn.rope_scaling import RopeScaling

# ----------------------------------------------------------------------------------------------------------------------
# Added to the input


class SinusoidalPositionalEncoding(Module):
    """Adds sin(p / base^(2i / d)) in columns 2i and the cosine in columns 2i + 1 (Vaswani et al., 2017, section 3.5).

    interleaved=False puts all sines before all cosines instead (Marian). No parameters, and no greatest length. An odd
    d_model has one sine more than cosines.

    Example:
        >>> import numpy as np
        >>> from transformer_fast.nn import SinusoidalPositionalEncoding
        >>> SinusoidalPositionalEncoding(4)(np.zeros((2, 3, 4), np.float32))[0, 0]
        array([0., 1., 0., 1.], dtype=float32)
    """

    def __init__(self, d_model: int, base: float = 10000.0, *, interleaved: bool = True) -> None:
        super().__init__()
        _check_positive("d_model", d_model)
        self.d_model = d_model
        self.base = base
        self.interleaved = interleaved

    def table(self, positions: np.ndarray) -> np.ndarray:
        """Positions (...) -> (..., d_model) float32, from angles in float64."""
        positions = _positions("positions", positions)
        sines = (self.d_model + 1) // 2
        angles = positions[..., None] * self.base ** (-2 * np.arange(sines) / self.d_model)
        table = np.empty((*positions.shape, self.d_model), np.float32)
        if self.interleaved:
            table[..., 0::2], table[..., 1::2] = np.sin(angles), np.cos(angles[..., : self.d_model // 2])
        else:
            table[..., :sines], table[..., sines:] = np.sin(angles), np.cos(angles[..., : self.d_model // 2])
        return table

    def forward(self, input: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
        """input (..., L, d_model) plus the encoding of positions (L,) or (..., L), by default 0 to L - 1."""
        input = _input(input, self.d_model)
        return input + self.table(_positions_of(input, positions))

    def extra_repr(self) -> str:
        return f"{self.d_model}, base={self.base:g}, interleaved={self.interleaved}"


class SinusoidalPositionalEncoding2d(Module):
    """Adds an encoding of row and column to the patches of an image (He et al., 2021, "MAE").

    The first half of a patch's d_model values encodes its row, the second half its column, each with all sines before
    all cosines, as in transformers' ViTMAE. d_model is a multiple of 4.

    Example:
        >>> import numpy as np
        >>> from transformer_fast.nn import SinusoidalPositionalEncoding2d
        >>> SinusoidalPositionalEncoding2d(8)(np.zeros((1, 14, 14, 8), np.float32)).shape
        (1, 14, 14, 8)
    """

    def __init__(self, d_model: int, base: float = 10000.0) -> None:
        super().__init__()
        if d_model <= 0 or d_model % 4:
            raise ValueError(f"d_model is {d_model}; needed: a positive multiple of 4")
        self.d_model = d_model
        self.base = base
        self._line = SinusoidalPositionalEncoding(d_model // 2, base, interleaved=False)

    def table(self, rows: int, columns: int) -> np.ndarray:
        """(rows, columns, d_model) float32."""
        table = np.empty((rows, columns, self.d_model), np.float32)
        table[..., : self.d_model // 2] = self._line.table(np.arange(rows))[:, None]
        table[..., self.d_model // 2 :] = self._line.table(np.arange(columns))
        return table

    def forward(self, input: np.ndarray) -> np.ndarray:
        """input (..., rows, columns, d_model) plus the encoding."""
        input = _input(input, self.d_model, axes=3)
        return input + self.table(*input.shape[-3:-1])

    def extra_repr(self) -> str:
        return f"{self.d_model}, base={self.base:g}"


class LearnedPositionalEmbedding(Module):
    """Adds row (position + offset) of weight (max_length + offset, d_model): BERT, GPT-2; with offset 2 BART.

    Fresh weights are N(0, 1), as in Embedding.

    Example:
        >>> import numpy as np
        >>> from transformer_fast.nn import LearnedPositionalEmbedding
        >>> LearnedPositionalEmbedding(512, 16)(np.zeros((2, 7, 16), np.float32)).shape
        (2, 7, 16)
    """

    def __init__(self, max_length: int, d_model: int, *, offset: int = 0) -> None:
        super().__init__()
        _check_positive("max_length", max_length)
        _check_positive("d_model", d_model)
        if offset < 0:
            raise ValueError(f"offset is {offset}; needed: a number >= 0")
        self.max_length = max_length
        self.d_model = d_model
        self.offset = offset
        self.register_parameter("weight", (max_length + offset, d_model), init.normal, half=True)

    def forward(self, input: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
        """input (..., L, d_model) plus the rows of positions (L,) or (..., L), by default 0 to L - 1.

        Raises IndexError for a position outside of [0, max_length).
        """
        input = _input(input, self.d_model)
        positions = _positions_of(input, positions)
        if positions.size and (positions.min() < 0 or positions.max() >= self.max_length):
            raise IndexError(
                f"positions reach from {positions.min()} to {positions.max()}; "
                f"needed: 0 to {self.max_length - 1} (max_length - 1)"
            )
        return input + F.embedding(positions + self.offset, self.weight)

    def extra_repr(self) -> str:
        return f"{self.max_length}, {self.d_model}, offset={self.offset}"


# ----------------------------------------------------------------------------------------------------------------------
# Rotations of queries and keys


# Of rotations: rows of cosines and sines that are kept from the beginning, and at most: 8 MB for heads of 128.
_FIRST_POSITIONS, _KEPT_POSITIONS = 1024, 16384


class RotaryEmbedding(Module):
    """Rotates pairs of columns of queries and keys by angles that grow with the position (Su et al., 2021, "RoPE").

    dim: how many of the columns of a head are rotated, its first ones; even. base: the longest wave is near 2 pi base.
    scaling: a checkpoint's rope_scaling or rope_parameters: a dict with "rope_type" (older: "type") "default",
    "linear", "dynamic", "llama3", "yarn" or "longrope" and that kind's fields. Its rope_theta takes the place of base;
    its partial_rotary_factor is what dim was made with, and is not applied again. max_position_embeddings: the
    checkpoint's field, for kinds that refer to it. interleaved: pairs are columns 2i and 2i + 1 (GPT-J) instead of i
    and i + dim / 2 (Llama, GPT-NeoX).

    Angles are float32 products, as in transformers: checkpoints were trained with their rounding.

    Raises ValueError for a scaling that is unknown, incomplete, or has fields that its kind does not know.

    Example:
        >>> import numpy as np
        >>> from transformer_fast.nn import RotaryEmbedding
        >>> rope = RotaryEmbedding(64, 500000.0)
        >>> rope(np.ones((2, 4, 10, 64), np.float32)).shape
        (2, 4, 10, 64)
    """

    def __init__(
        self,
        dim: int,
        base: float = 10000.0,
        *,
        scaling: Mapping[str, Any] | None = None,
        max_position_embeddings: int | None = None,
        interleaved: bool = False,
    ) -> None:
        super().__init__()
        self.scaling = RopeScaling.read(dim, base, scaling, max_position_embeddings)
        self.dim = dim
        self.interleaved = interleaved
        self._kept_rows = (np.empty((0, dim // 2), np.float32),) * 2

    def tables(self, positions: np.ndarray, *, length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Positions (L,) or (B, L) -> cos and sin, (L, dim / 2) or (B, L, dim / 2), float32.

        For all layers of a model that share positions. An attention factor (yarn, longrope) is in both. "dynamic" and
        "longrope" depend on the length of the text, by default the greatest position + 1, over the whole batch as in
        transformers.
        """
        if not self.scaling.depends_on_length and type(positions) is np.ndarray and positions.dtype == np.int64:
            try:
                cos, sin = self._kept_rows  # one tuple, read once: another thread may replace it
                return F.embedding(positions, cos), F.embedding(positions, sin)
            except IndexError:  # looking for the greatest position before took as long as both
                cos, sin = self._rows_for(positions)
            if cos is not None:
                return F.embedding(positions, cos), F.embedding(positions, sin)
        positions = _positions("positions", positions)
        if length is None:
            length = int(positions.max(initial=-1)) + 1 if self.scaling.depends_on_length else 0
        return self._compute(positions, length)

    def _rows_for(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
        """Tables of positions 0, 1, ... that have all of these, kept from now on, or Nones: too many rows, or a
        negative position.

        A step's tables took 12 us, its rows of these 1 us.
        """
        least, most = int(positions.min()), int(positions.max())
        if least < 0 or most >= _KEPT_POSITIONS:
            return None, None
        rows = np.arange(min(max(2 * most, _FIRST_POSITIONS), _KEPT_POSITIONS))
        # Not an attribute of the module: that would give it, and all that it is a part of, another version.
        kept = self.__dict__["_kept_rows"] = self._compute(rows, 0)
        return kept

    def _compute(self, positions: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        inverse, attention_factor = self.scaling.frequencies(length)
        angles = (positions[..., None].astype(np.float32) * inverse).astype(np.float64)
        factor = np.float32(attention_factor)
        return np.cos(angles).astype(np.float32) * factor, np.sin(angles).astype(np.float32) * factor

    def forward(
        self, input: np.ndarray, positions: np.ndarray | None = None, *, out: np.ndarray | None = None
    ) -> np.ndarray:
        """input (H, L, D) or (B, H, L, D) with D >= dim, rotated by positions (L,) or (B, L), by default 0 to L - 1.

        Columns from dim on stay as they are. Any strides; out may be the input itself.
        """
        input = np.asarray(input)
        if input.dtype != np.float32:
            raise TypeError(f"input has dtype {input.dtype}; needed: float32")
        if input.ndim not in (3, 4) or input.shape[-1] < self.dim:
            raise ValueError(
                f"input has shape {input.shape}; needed: (H, L, D) or (B, H, L, D) with D >= {self.dim} (dim)"
            )
        rows = input.shape[:-3] + input.shape[-2:-1]
        positions = np.arange(rows[-1]) if positions is None else _positions("positions", positions)
        if positions.shape not in (rows[-1:], rows):
            raise ValueError(
                f"positions has shape {positions.shape}; needed: {rows[-1:]} or {rows} for an input of shape "
                f"{input.shape}"
            )
        return F.rotary_embedding(input, *self.tables(positions), interleaved=self.interleaved, out=out)

    def extra_repr(self) -> str:
        return f"{self.dim}, base={self.scaling.base:g}, scaling={self.scaling.kind}, interleaved={self.interleaved}"


# ----------------------------------------------------------------------------------------------------------------------
# Biases of scores


def alibi_slopes(num_heads: int) -> np.ndarray:
    """(H,) float32: the slope of each head for alibi_slopes= of attention (Press et al., 2021, "ALiBi").

    For a power of two, 2^(-8 h / H) with h = 1 to H. Other numbers take the slopes of the next smaller power of two,
    then every second slope of twice that power, as the paper's code and transformers do.

    Raises ValueError unless num_heads is positive.

    Example:
        >>> from transformer_fast.nn import alibi_slopes
        >>> alibi_slopes(8)[:3]
        array([0.5  , 0.25 , 0.125], dtype=float32)
    """
    _check_positive("num_heads", num_heads)
    power = 2 ** int(math.log2(num_heads))
    slopes = 2.0 ** (-8 * np.arange(1, power + 1) / power)
    between = 2.0 ** (-4 * np.arange(1, 2 * power + 1, 2) / power)
    return np.concatenate([slopes, between])[:num_heads].astype(np.float32)


def relative_position_bucket(
    relative_position: np.ndarray, bidirectional: bool = True, num_buckets: int = 32, max_distance: int = 128
) -> np.ndarray:
    """Distances j - i (any shape of integers) -> buckets in [0, num_buckets), int64 (Raffel et al., 2019, "T5").

    Half of the buckets hold one distance each, the others logarithmic ranges up to max_distance; all that is farther
    falls into the last. bidirectional splits the buckets between keys before and after the query; without it, keys
    after it are in bucket 0.

    Raises ValueError for numbers that leave no room for both kinds of buckets.

    Example:
        >>> from transformer_fast.nn import relative_position_bucket
        >>> relative_position_bucket([-200, -1, 0, 1, 20])
        array([15,  1,  0, 17, 26])
    """
    relative = _positions("relative_position", relative_position)
    side = num_buckets // 2 if bidirectional else num_buckets
    exact = side // 2
    if exact < 1 or max_distance <= exact:
        raise ValueError(
            f"num_buckets={num_buckets} and max_distance={max_distance}; needed: at least two buckets a "
            f"direction, and a max_distance greater than half of them"
        )
    distance = np.abs(relative) if bidirectional else np.maximum(-relative, 0)
    # In float32, as T5 computes it: on the borders between buckets the rounding decides.
    ratio = np.maximum(distance, exact).astype(np.float32) / np.float32(exact)
    steps = np.log(ratio) / np.float32(math.log(max_distance / exact)) * np.float32(side - exact)
    far = np.minimum(exact + steps.astype(np.int64), side - 1)
    buckets = np.where(distance < exact, distance, far)
    return buckets + np.where(relative > 0, side, 0) if bidirectional else buckets


class RelativePositionBias(Module):
    """A learned bias of scores for each head and bucket of distances: weight (num_buckets, num_heads), as in T5.

    Fresh weights are N(0, 1).

    Example:
        >>> from transformer_fast.nn import RelativePositionBias
        >>> RelativePositionBias(32, 128, num_heads=8).table(5, 7).shape
        (8, 11)
    """

    def __init__(
        self, num_buckets: int = 32, max_distance: int = 128, num_heads: int = 8, bidirectional: bool = True
    ) -> None:
        super().__init__()
        _check_positive("num_heads", num_heads)
        relative_position_bucket(np.zeros(0, np.int64), bidirectional, num_buckets, max_distance)
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.num_heads = num_heads
        self.bidirectional = bidirectional
        self.register_parameter("weight", (num_buckets, num_heads), init.normal)

    def table(self, Lq: int, Lk: int, offset: int = 0) -> np.ndarray:
        """(H, Lq + Lk - 1) float32, for relative_bias= of attention; query i is at position i + offset.

        Entry j - i + Lq - 1 is the bias of query i and key j. With a cache of P keys, offset is P.
        """
        distances = np.arange(1 - Lq, Lk) - offset
        buckets = relative_position_bucket(distances, self.bidirectional, self.num_buckets, self.max_distance)
        return np.ascontiguousarray(self.weight[buckets].T)

    def forward(self, Lq: int, Lk: int, offset: int = 0) -> np.ndarray:
        """`table`."""
        return self.table(Lq, Lk, offset)

    def extra_repr(self) -> str:
        return (
            f"num_buckets={self.num_buckets}, max_distance={self.max_distance}, num_heads={self.num_heads}, "
            f"bidirectional={self.bidirectional}"
        )


# ----------------------------------------------------------------------------------------------------------------------
# Checks


def _check_positive(name: str, value: int) -> None:
    if value <= 0:
        raise ValueError(f"{name} is {value}; needed: a positive number")


def _positions(name: str, values) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {values.dtype}; needed: integers")
    return values.astype(np.int64, copy=False)


def _input(input, width: int, axes: int = 2) -> np.ndarray:
    input = np.asarray(input)
    if input.dtype != np.float32:
        raise TypeError(f"input has dtype {input.dtype}; needed: float32")
    if input.ndim < axes or input.shape[-1] != width:
        raise ValueError(f"input has shape {input.shape}; needed: at least {axes} axes, the last of width {width}")
    return input


def _positions_of(input: np.ndarray, positions) -> np.ndarray:
    """`positions`, by default 0 to L - 1, that fit the input (..., L, d)."""
    if positions is None:
        return np.arange(input.shape[-2])
    positions = _positions("positions", positions)
    if positions.shape not in (input.shape[-2:-1], input.shape[:-1]):
        raise ValueError(
            f"positions has shape {positions.shape}; needed: {input.shape[-2:-1]} or {input.shape[:-1]} for an input "
            f"of shape {input.shape}"
        )
    return positions
