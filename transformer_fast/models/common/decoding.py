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
from transformer_fast.nn.cache import StackCache
from transformer_fast.nn.sequences import Scratch


class CacheShape(NamedTuple):
    """The shape of a layer's cache: kv heads, head size, and the window (in keys, the query's own included) or None."""

    heads: int
    head_dim: int
    window: int | None = None


class DecoderState:
    """The past of B rows: caches of all layers, and the next position of each row.

    `forward` returns it as past_key_values, `start` as the state of a generation. tokens (B, n) says which of the
    columns seen so far were tokens; caches hold those only. A generation does not count columns: generating says that
    there are more than tokens knows of.

    caches: one `StackCache` for the layers of each shape. places: of each layer, which of them, and which layer of it.
    trimmed: layers with a window forget what no later token sees.
    """

    def __init__(self, B: int, shapes: Sequence[CacheShape], capacity: int, *, trimmed: bool) -> None:
        kinds = [shape if trimmed else shape._replace(window=None) for shape in shapes]
        groups = list(dict.fromkeys(kinds))
        self.places = tuple((groups.index(kind), kinds[:i].count(kind)) for i, kind in enumerate(kinds))
        self.caches = [
            StackCache(kinds.count(kind), B, kind.heads, kind.head_dim, capacity, window=kind.window) for kind in groups
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

    state: whose caches get the tokens' keys and values, and whose past they attend besides each other. weights: a list
    that gets what every layer's queries attend, (H, Lq, Lk) for each row; then attention runs row by row.
    Caches get room when a batch is made, and count the tokens when `finish` is called.
    """

    def __init__(self, cu_seqlens: np.ndarray, state: DecoderState | None, weights: list | None = None) -> None:
        self.cu_seqlens = cu_seqlens
        self.scratch = Scratch(int(cu_seqlens[-1]))
        self.weights = weights
        self.state = state
        counts = np.diff(cu_seqlens)
        caches = [] if state is None else state.caches
        self.fresh = not caches or not caches[0].lengths[counts > 0].any()  # no row with tokens has a past
        self.kept = [cache.kept_of_prompts(counts) if self.fresh else counts for cache in caches]
        for cache, kept in zip(caches, self.kept, strict=True):
            cache.reserve(kept)

    def finish(self) -> None:
        """All layers have run: their caches count the tokens."""
        for cache, kept in zip([] if self.state is None else self.state.caches, self.kept, strict=True):
            cache.advance(kept)

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
        if self.state is not None:
            number, place = self.state.places[layer]
            self.state.caches[number].write_packed(place, key, value, self.cu_seqlens, self.kept[number])
        if self.fresh and self.weights is None:
            starts = self.cu_seqlens
            F.varlen_attention(query, key, value, starts, starts, is_causal=True, enable_gqa=True, out=out, **options)
        else:
            self._attend_rows(layer, query, key, value, out, options)
        return context

    def _attend_rows(self, layer, query, key, value, out, options) -> None:
        """One row after the other: for rows with a past that get several tokens, and to see the weights."""
        seen = []
        for b, (first, last) in enumerate(zip(self.cu_seqlens[:-1], self.cu_seqlens[1:], strict=True)):
            rows = slice(first, last)
            if self.fresh:
                keys, values = key[rows].swapaxes(0, 1), value[rows].swapaxes(0, 1)
            else:
                number, place = self.state.places[layer]
                length = self.state.caches[number].lengths[b] + last - first
                keys, values = (array[b, :, :length] for array in self.state.caches[number].seen(place, length))
            result = F.scaled_dot_product_attention(
                query[rows].swapaxes(0, 1),
                keys,
                values,
                is_causal=True,
                causal_offset="bottom_right",
                enable_gqa=True,
                return_weights=False if self.weights is None else "heads",
                out=out[rows].swapaxes(0, 1),
                **options,
            )
            if self.weights is not None:
                seen.append(result[1])
        if self.weights is not None:
            self.weights.append(seen)


class DecoderStep:
    """One more token of each row: a `DecoderBatch` with less to do, since it runs once a layer and token."""

    weights = None
    fresh = False

    def __init__(self, state: DecoderState) -> None:
        self.state = state
        for cache in state.caches:
            cache.reserve(1)

    @property
    def cu_seqlens(self) -> np.ndarray:
        return np.arange(len(self.state.positions) + 1)

    @property
    def kept(self) -> list[np.ndarray]:
        return [np.ones(len(cache), np.int64) for cache in self.state.caches]

    def finish(self) -> None:
        """As `DecoderBatch.finish`."""
        for cache in self.state.caches:
            cache.advance(1)

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
        number, place = self.state.places[layer]
        cache = self.state.caches[number]
        cache.write(place, key[:, :, None], value[:, :, None])
        keys, values = cache.seen(place, 1)
        lengths = None if cache.uniform else cache.lengths + 1
        offset, left = 0, -1  # the one query sees every key
        if window is not None and keys.shape[2] > window:
            offset, left = (keys.shape[2] if lengths is None else lengths) - 1, window - 1
        context = F.scaled_dot_product_attention(
            query[:, :, None],
            keys,
            values,
            scale=scale,
            enable_gqa=True,
            causal_offset=offset,
            window=(left, -1),
            kv_lengths=lengths,
            softcap=softcap,
            sinks=sinks,
        )
        return context.reshape(len(query), query.shape[1] * context.shape[3])
