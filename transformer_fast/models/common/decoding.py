"""How tokens run through a decoder: packed rows, the cache of their past, and attention.

`decoder.py` makes a `DecoderBatch` for each call, or a `DecoderStep` for one more token of each row, and hands it to
the family's blocks, which ask it to `attend`; a block knows nothing of rows, padding or the past. Nothing here depends
on a family.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from transformer_fast import functional as F
from transformer_fast.nn import KeyValueCache
from transformer_fast.nn.sequences import Scratch


class CacheShape(NamedTuple):
    """The shape of a layer's cache: kv heads, head size, and the window (in keys, the query's own included) or None."""

    heads: int
    head_dim: int
    window: int | None = None


class DecoderState:
    """The past of B rows: a cache for each layer, and the next position of each row.

    `forward` returns it as past_key_values, `start` as the state of a generation. tokens (B, n) says which of the
    columns seen so far were tokens; caches hold those only. A generation does not count columns: generating says that
    there are more than tokens knows of.
    """

    def __init__(self, B: int, shapes: Sequence[CacheShape], capacity: int, *, trimmed: bool) -> None:
        self.caches = [
            KeyValueCache(B, shape.heads, shape.head_dim, capacity, window=shape.window if trimmed else None)
            for shape in shapes
        ]
        self.positions = np.zeros(B, np.int64)
        self.tokens = np.zeros((B, 0), bool)
        self.generating = False

    def get_seq_length(self) -> int:
        """How many columns the rows have seen, padding counted."""
        return self.tokens.shape[1]

    def reorder(self, index: np.ndarray) -> None:
        """Row i becomes what row index[i] was; there may be more or fewer rows than before."""
        index = np.asarray(index)
        for cache in self.caches:
            cache.reorder(index)
        self.positions = self.positions[index]
        self.tokens = self.tokens[index]


class DecoderBatch:
    """The tokens (T) of one call, packed row after row: cu_seqlens (B + 1,) tells rows apart.

    caches: what they are appended to, and what they attend besides each other. weights: a list that gets what every
    layer's queries attend, (H, Lq, Lk) for each row; then attention runs row by row.
    """

    def __init__(
        self, cu_seqlens: np.ndarray, caches: Sequence[KeyValueCache] | None, weights: list | None = None
    ) -> None:
        self.cu_seqlens = cu_seqlens
        self.scratch = Scratch(int(cu_seqlens[-1]))
        self._caches = caches
        self._weights = weights
        self._fresh = not caches or not caches[0].lengths[np.diff(cu_seqlens) > 0].any()

    def out_buffer(self, array: np.ndarray) -> np.ndarray:
        """The array into which a block may write a result that replaces `array`."""
        return array

    def attend(
        self,
        layer: int,
        query: np.ndarray,
        key: np.ndarray,
        value: np.ndarray,
        scale: float,
        softcap: float = 0.0,
        window: int | None = None,
        *,
        sinks: np.ndarray | None = None,
    ) -> np.ndarray:
        """Causal attention: query (T, H, D), key and value (T, Hkv, D) -> (T, H * D).

        With a window a query sees the last `window` keys, its own included. sinks (H,): scores that join the softmax
        of each head's queries and have no value.
        """
        left = -1 if window is None else window - 1
        options = {"scale": scale, "softcap": softcap, "window": (left, -1), "sinks": sinks}
        T, H, D = query.shape
        context = self.scratch("context", H * D)
        out = context.reshape(T, H, D)
        packed = self._fresh and self._weights is None
        if packed:
            starts = self.cu_seqlens
            F.varlen_attention(query, key, value, starts, starts, is_causal=True, enable_gqa=True, out=out, **options)
        cache = None if self._caches is None else self._caches[layer]
        if cache is not None:
            cache.append_packed(key, value, self.cu_seqlens)
        if not packed:
            self._attend_rows(cache, query, key, value, out, options)
        return context

    def _attend_rows(self, cache, query, key, value, out, options) -> None:
        """One row after the other: for rows with a past that get several tokens, and to see the weights."""
        seen = []
        for b, (first, last) in enumerate(zip(self.cu_seqlens[:-1], self.cu_seqlens[1:], strict=True)):
            rows = slice(first, last)
            if cache is None:
                keys, values = key[rows].swapaxes(0, 1), value[rows].swapaxes(0, 1)
            else:
                length = cache.lengths[b]
                keys, values = cache.keys[b, :, :length], cache.values[b, :, :length]
            result = F.scaled_dot_product_attention(
                query[rows].swapaxes(0, 1),
                keys,
                values,
                is_causal=True,
                causal_offset="bottom_right",
                enable_gqa=True,
                return_weights=False if self._weights is None else "heads",
                out=out[rows].swapaxes(0, 1),
                **options,
            )
            if self._weights is not None:
                seen.append(result[1])
        if self._weights is not None:
            self._weights.append(seen)


class DecoderStep:
    """One more token of each row: a `DecoderBatch` with less to do, since it runs once a layer and token."""

    def __init__(self, state: DecoderState) -> None:
        self._caches = state.caches

    def scratch(self, name: str, width: int) -> None:
        """None: for a few rows a new array is cheaper than the checks of one that is given as out=."""

    def out_buffer(self, array: np.ndarray) -> None:
        """None, as `scratch`."""

    def attend(
        self,
        layer: int,
        query: np.ndarray,
        key: np.ndarray,
        value: np.ndarray,
        scale: float,
        softcap: float = 0.0,
        window: int | None = None,
        *,
        sinks: np.ndarray | None = None,
    ) -> np.ndarray:
        """As `DecoderBatch.attend`; T is the number of rows."""
        cache = self._caches[layer]
        cache.append(key[:, :, None], value[:, :, None])
        keys = cache.keys
        lengths = None if cache.uniform else cache.lengths
        offset, left = 0, -1  # the one query sees every key
        if window is not None and keys.shape[2] > window:
            offset, left = (keys.shape[2] if lengths is None else lengths) - 1, window - 1
        context = F.scaled_dot_product_attention(
            query[:, :, None],
            keys,
            cache.values,
            scale=scale,
            enable_gqa=True,
            causal_offset=offset,
            window=(left, -1),
            kv_lengths=lengths,
            softcap=softcap,
            sinks=sinks,
        )
        return context.reshape(len(query), query.shape[1] * context.shape[3])
