"""Whole decoder layers in one call. Called by models.common.decoder (and users who have the weights); the C is
csrc/ops/decoder.c.

What it computes is what linear, rms_norm, rotary_embedding and attention compute one after the other, to the bit:
models.common.decoder_blocks is the same in Python. To add a kind of layer: its step in csrc/ops/decoder.c, its field in
DecoderLayer and _core_decoder.pxi.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np

from transformer_fast import _core
from transformer_fast.functional import arrays
from transformer_fast.functional.attention_checks import starts
from transformer_fast.functional.linear import ACTIVATIONS, PackedWeight

Norm = tuple[np.ndarray, np.ndarray | None]
Rotation = tuple[np.ndarray, np.ndarray]


class CacheArrays(NamedTuple):
    """The past of layers that share their lengths, as csrc/ops/decoder.c writes and reads it; see nn.cache.StackCache.

    dtype: its code in the engine. keys, values: of each layer, the address of an array (B, Hkv, capacity, D). scales:
    likewise for int8, else None. lengths (B,): positions stored so far. kept (B,): how many of a row's new positions
    are stored, the last ones; there is room for them. With table (B, n) int32, a row's pages, the arrays are
    (pages, Hkv, capacity, D), and capacity is that of a page; shared (B,), or None: as shared_keys of paged_attention.

    Example:
        >>> from transformer_fast.nn.cache import StackCache
        >>> StackCache(2, 1, 1, 4, capacity=8).engine_arrays(np.array([3])).capacity
        8
    """

    dtype: int
    capacity: int
    keys: np.ndarray
    values: np.ndarray
    key_scales: np.ndarray | None
    value_scales: np.ndarray | None
    lengths: np.ndarray
    kept: np.ndarray
    table: np.ndarray | None = None
    shared: np.ndarray | None = None


@dataclass(frozen=True)
class DecoderLayer:
    """The weights and options of one layer of width h with H query heads and Hkv key heads of width D.

    qkv: queries, keys and values in one (H D + 2 Hkv D, h), or three weights. out (h, H D), up and gate (inner, h;
    None: not gated), down (h, inner). Norms are (weight, bias or None), or None: of what attention and feed-forward
    read, of what they give before it is added, and of queries and keys: (D,) for each head, or with whole_qk_norm of
    all heads together. scale multiplies the scores. window: keys that a query sees up to its own, that
    included. ahead: keys after its own that it sees, None: all; only 0 goes with caches. rotation: which of the
    rotations of a call, -1: none.

    Example:
        >>> pack = lambda *shape: F.pack_weight(np.ones(shape, np.float32))
        >>> layer = F.DecoderLayer((pack(16, 8),), pack(8, 8), pack(12, 8), pack(8, 12), scale=0.5, rotation=-1)
        >>> layer.up.shape, layer.gate
        ((12, 8), None)
    """

    qkv: tuple[PackedWeight, ...]
    out: PackedWeight
    up: PackedWeight
    down: PackedWeight
    scale: float
    rotation: int
    gate: PackedWeight | None = None
    qkv_bias: np.ndarray | None = None
    out_bias: np.ndarray | None = None
    gate_bias: np.ndarray | None = None
    up_bias: np.ndarray | None = None
    down_bias: np.ndarray | None = None
    attention_norm: Norm | None = None
    feed_forward_norm: Norm | None = None
    attention_out_norm: Norm | None = None
    feed_forward_out_norm: Norm | None = None
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    whole_qk_norm: bool = False
    sinks: np.ndarray | None = None
    softcap: float = 0.0
    window: int | None = None
    ahead: int | None = 0


class Decoder:
    """Decoder layers of one shape, checked and ready to run: x + attention(norm(x)), then + feed-forward(norm(...)).

    layers: DecoderLayers of the same shapes, at least one. heads, kv_heads, head_dim: H, Hkv, D. activation: of
    functional.linear. eps: of all norms, which are RMS norms, or layer norms with layer_norm. by_head: query, key and
    value of a head follow each other in qkv, which needs H = Hkv. interleaved: rotations turn neighbours. parallel:
    feed-forward reads the layer's input, as attention does. residual_scale multiplies what is added to x. final_norm:
    of the result. The weights belong to the instruction set they were packed under.
    Raises ValueError and TypeError for weights that do not fit together.

    Example:
        >>> pack = lambda *shape: F.pack_weight(np.ones(shape, np.float32))
        >>> layer = F.DecoderLayer((pack(16, 8),), pack(8, 8), pack(12, 8), pack(8, 12), scale=0.5, rotation=-1)
        >>> decoder = F.Decoder([layer, layer], heads=2, kv_heads=1, head_dim=4)
        >>> decoder(np.ones((5, 8), np.float32), [0, 2, 5]).shape  # two rows: of two tokens and of three
        (5, 8)
    """

    def __init__(
        self,
        layers: Sequence[DecoderLayer],
        heads: int,
        kv_heads: int,
        head_dim: int,
        activation: str | None = "silu",
        eps: float = 1e-6,
        *,
        layer_norm: bool = False,
        by_head: bool = False,
        interleaved: bool = False,
        parallel: bool = False,
        residual_scale: float = 1.0,
        final_norm: Norm | None = None,
    ) -> None:
        if not layers:
            raise ValueError("layers is empty; needed: at least one")
        if activation is not None and activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}; needed: one of {list(ACTIVATIONS)}")
        if min(heads, kv_heads, head_dim) < 1 or heads % kv_heads:
            raise ValueError(
                f"heads={heads}, kv_heads={kv_heads}, head_dim={head_dim}; needed: positive, and heads a multiple of "
                "kv_heads"
            )
        if by_head and (heads != kv_heads or any(len(layer.qkv) != 1 or layer.whole_qk_norm for layer in layers)):
            raise ValueError("by_head is True; needed with it: kv_heads = heads, one weight qkv, no whole_qk_norm")
        self.hidden, inner = layers[0].down.shape
        self.head_dim = head_dim
        self._shape = (heads, kv_heads, head_dim, inner)
        eps = arrays.number(eps, "eps")
        options = layer_norm, by_head, interleaved, parallel, eps, arrays.number(residual_scale, "residual_scale")
        self._options = (ACTIVATIONS[activation], *options)
        self._layers = tuple(_checked(layer, i, self.hidden, self._shape) for i, layer in enumerate(layers))
        self._final_norm = _norm(final_norm, "final_norm", self.hidden)
        self._rotations = 1 + max(layer.rotation for layer in layers)
        self.isa = layers[0].out.isa
        self.without_caches = ((0, 0),) * len(self._layers)  # places, where nothing is kept
        self._stacks: dict[tuple, _core.DecoderStack] = {}

    @property
    def fits(self) -> bool:
        """Whether the level in force reads all of the layers' weights."""
        weights = (w for one in self._layers for w in (*one.qkv, one.out, one.gate, one.up, one.down))
        return all(weight.fits for weight in weights if weight is not None)

    def __call__(
        self,
        x: np.ndarray,
        cu_seqlens: np.ndarray,
        rotations: Sequence[Rotation] = (),
        *,
        caches: Sequence[CacheArrays] | None = None,
        places: Sequence[tuple[int, int]] = (),
        fresh: bool = True,
        stepwise: bool = False,
        rows: np.ndarray | None = None,
        head: PackedWeight | None = None,
        head_bias: np.ndarray | None = None,
    ) -> np.ndarray:
        """x (T, h) float32, row b's new tokens cu_seqlens[b]:cu_seqlens[b + 1] -> (T, h), after final_norm.

        Each token sees those of its row before it, itself, and those after it as far as the layer looks ahead.
        rotations: for each, cosines and sines (T, half).
        caches: the rows' past, which gets the new tokens' keys and values; places: of each layer, which cache, and
        which layer of it. fresh: no row with tokens has a past; then they are attended as they were computed, not as
        they are stored. stepwise, for one row with a past: tokens attend as those of so many calls of one would, with
        their bits; together they are faster, and round in another order. rows: which of the tokens are wanted, rising
        -> (len(rows), h). head (V, h) and head_bias (V,): what is wanted times head, plus it -> (..., V). x is
        overwritten. A row's results do not depend on the other rows, nor on threads, to the bit.
        Raises TypeError, ValueError, and RuntimeError under another instruction set than the weights'.
        """
        x = arrays.float32(x, "x", last=self.hidden)
        if x.ndim != 2 or not x.flags.c_contiguous or not x.flags.writeable:
            raise ValueError(f"x has shape {x.shape}; needed: (T, {self.hidden}), dense and writable")
        cu_seqlens = starts(cu_seqlens, "cu_seqlens", len(x), "x")
        if len(rotations) < self._rotations:
            raise ValueError(f"rotations has {len(rotations)} entries; needed: {self._rotations}")
        rotations = tuple(self._rotation(tables, i, len(x)) for i, tables in enumerate(rotations))
        if head is not None and head.shape[1] != self.hidden:
            raise ValueError(f"head has shape {head.shape}; needed: (V, {self.hidden})")
        if head_bias is not None:
            if head is None:
                raise ValueError("head_bias is given without head; needed: both")
            head_bias = arrays.vector(head_bias, "head_bias", head.shape[0])
        if rows is not None:
            rows = arrays.integers(rows, "rows", len(rows))
            if len(rows) and (rows[0] < 0 or rows[-1] >= len(x) or (np.diff(rows) <= 0).any()):
                raise ValueError(f"rows is {rows}; needed: rising numbers from 0 to {len(x) - 1}")
        if stepwise and (caches is None or fresh or len(cu_seqlens) != 2):
            raise ValueError(f"stepwise is True with {len(cu_seqlens) - 1} rows; needed: one with caches, not fresh")
        if caches is not None and any(layer.ahead != 0 for layer in self._layers):
            raise ValueError("caches are given and a layer looks ahead; needed: None, or layers with ahead=0")
        if caches is None:
            fresh, places = True, self.without_caches
        where = {"caches": caches, "places": tuple(places), "fresh": fresh, "stepwise": stepwise}
        return self.unchecked(x, cu_seqlens, rotations, **where, rows=rows, head=head, head_bias=head_bias)

    def unchecked(
        self, x, cu_seqlens, rotations, *, caches, places, fresh, stepwise=False, rows=None, head=None, head_bias=None
    ) -> np.ndarray:
        """As a call, for callers that have made the arrays themselves: the checks took 20 us of a step's 300."""
        n, width = len(x) if rows is None else len(rows), self.hidden if head is None else head.shape[0]
        y, stack = np.empty((n, width), np.float32), self._stack(places)
        options = self._shape, self._options, rotations, caches, fresh, stepwise
        _core.decoder(x, cu_seqlens, stack, *options, rows, head, head_bias, y, 0)
        return y

    def _rotation(self, tables: Rotation, i: int, T: int) -> Rotation:
        cos, sin = tables
        if cos.dtype != np.float32 or cos.ndim != 2 or len(cos) != T or 2 * cos.shape[1] > self.head_dim:
            raise ValueError(
                f"rotations[{i}] has cosines of shape {cos.shape}; needed: ({T}, half), float32, with half at most "
                f"{self.head_dim // 2}"
            )
        if sin.shape != cos.shape or sin.dtype != cos.dtype:
            raise ValueError(f"rotations[{i}] has sines of shape {sin.shape}; needed: {cos.shape}, as the cosines")
        return np.ascontiguousarray(cos), np.ascontiguousarray(sin)

    def _stack(self, places: tuple) -> _core.DecoderStack:
        """What the engine takes; one for each way in which layers share caches."""
        stack = self._stacks.get(places)
        if stack is None:
            if len(places) != len(self._layers):
                raise ValueError(f"places has {len(places)} entries; needed: {len(self._layers)}, one a layer")
            stack = self._stacks[places] = _core.DecoderStack(self._layers, places, self._final_norm)
        return stack


def _norm(norm: Norm | None, name: str, n: int) -> Norm | None:
    if norm is None:
        return None
    weight, bias = norm
    return arrays.vector(weight, name, n), None if bias is None else arrays.vector(bias, f"{name}'s bias", n)


def _checked(layer: DecoderLayer, index: int, hidden: int, shape: tuple[int, int, int, int]) -> DecoderLayer:
    """The layer with dense vectors."""
    heads, kv_heads, D, inner = shape
    queries, keys = heads * D, kv_heads * D
    parts = [(queries + 2 * keys, hidden)] if len(layer.qkv) == 1 else [(n, hidden) for n in (queries, keys, keys)]
    if [weight.shape for weight in layer.qkv] != parts:
        raise ValueError(f"layers[{index}].qkv has shapes {[w.shape for w in layer.qkv]}; needed: {parts}")
    shapes = {"out": (hidden, queries), "gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}
    for name, expected in shapes.items():
        weight = getattr(layer, name)
        if weight is not None and weight.shape != expected:
            raise ValueError(f"layers[{index}].{name} has shape {weight.shape}; needed: {expected}")
    lengths = {"qkv_bias": queries + 2 * keys, "out_bias": hidden, "gate_bias": inner, "up_bias": inner}
    lengths |= {"down_bias": hidden, "sinks": heads}
    vectors = {
        name: arrays.vector(getattr(layer, name), f"layers[{index}].{name}", n)
        for name, n in lengths.items()
        if getattr(layer, name) is not None
    }
    widths = {"q_norm": queries if layer.whole_qk_norm else D, "k_norm": keys if layer.whole_qk_norm else D}
    for field in fields(layer):
        if field.name.endswith("_norm") and field.name != "whole_qk_norm":
            n = widths.get(field.name, hidden)
            vectors[field.name] = _norm(getattr(layer, field.name), f"layers[{index}].{field.name}", n)
    if layer.window is not None and layer.window < 1:
        raise ValueError(f"layers[{index}].window is {layer.window}; needed: at least 1, or None")
    if layer.ahead is not None and layer.ahead < 0:
        raise ValueError(f"layers[{index}].ahead is {layer.ahead}; needed: at least 0, or None")
    return replace(layer, **vectors)
