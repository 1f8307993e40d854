"""How tokens run through a decoder: packed rows, the cache of their past, and attention.

`decoder.py` makes a `DecoderBatch` for each call, a `DecoderStep` for one more token of each row, or `DecoderSteps`
for several of one row, and hands it to the family's blocks, which ask it to `attend`; a block knows nothing of rows,
padding or the past. Nothing here depends on a family.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transformer_fast import functional as F
from transformer_fast.functional.bfloat16 import bfloat16_dtype
from transformer_fast.functional.one_call import OneCall, one_call
from transformer_fast.models.common.saved_state import save_state
from transformer_fast.nn.cache import StackCache
from transformer_fast.nn.page_pool import check_page_size
from transformer_fast.nn.paged_cache import PagedCache
from transformer_fast.nn.sequences import Scratch

CACHE_TYPES = ("float32", "bfloat16", "float16", "int8")


def cache_dtype(name: str | None) -> np.dtype:
    """The type of a cache that kv_cache_dtype names; None is float32.

    Raises:
        ValueError: there is no such type.
    """
    if name is not None and name not in CACHE_TYPES:
        raise ValueError(f"kv_cache_dtype is {name!r}; needed: {', '.join(CACHE_TYPES[:-1])} or {CACHE_TYPES[-1]}")
    return bfloat16_dtype() if name == "bfloat16" else np.dtype(name or "float32")


class CacheShape(NamedTuple):
    """The shape of a layer's cache: kv heads, head size, and the window (in keys, the query's own included) or None."""

    heads: int
    head_dim: int
    window: int | None = None


class DecoderState:
    """The past of B rows: caches of all layers, and the next position of each row.

    `forward` returns it as past_key_values, `start` as the state of a generation; either goes on from what the other
    left. tokens (B, n) says which of the columns seen so far were tokens; caches hold those only. A generation does
    not count columns: generating says that there are more than tokens knows of, and padded that its prompts had
    padding, of which nothing is known any more.

    caches: a `StackCache` for the layers of each shape, or with page_size a `PagedCache` for those without a window.
    places: of each layer, which of them, and which layer of it. trimmed: layers with a window forget what no later
    token sees. dtype: as `StackCache`. config: the model's, by which
    `save` tells models apart. in_use: what a call is in while it reads or changes the state: calls of two threads at
    once are refused.
    """

    def __init__(
        self,
        B: int,
        shapes: Sequence[CacheShape],
        capacity: int,
        *,
        trimmed: bool,
        page_size: int | None = None,
        dtype: np.dtype | type = np.float32,
        config: Any = None,
    ) -> None:
        kinds = [shape if trimmed else shape._replace(window=None) for shape in shapes]
        groups = list(dict.fromkeys(kinds))
        self.in_use = OneCall("past_key_values")
        self.places = tuple((groups.index(kind), kinds[:i].count(kind)) for i, kind in enumerate(kinds))
        if page_size is not None:
            check_page_size(page_size)
        self.caches: list[StackCache | PagedCache] = []
        for kind in groups:
            shape = (kinds.count(kind), B, kind.heads, kind.head_dim)
            if page_size is not None and kind.window is None:
                self.caches.append(PagedCache(*shape, page_size, dtype=dtype))
            else:
                self.caches.append(StackCache(*shape, capacity, window=kind.window, dtype=dtype))
        self.positions = np.zeros(B, np.int64)
        self.tokens = np.zeros((B, 0), bool)
        self.generating = self.padded = False
        self.trimmed, self.page_size, self.dtype, self.config = trimmed, page_size, np.dtype(dtype), config

    def get_seq_length(self) -> int:
        """How many columns the rows have seen, padding counted (after a generation with padding: of the longest)."""
        return int(self.positions.max(initial=0)) if self.generating else self.tokens.shape[1]

    def holds_some(self) -> bool:
        """Whether a row has a past."""
        return bool(self.caches) and np.count_nonzero(self.caches[0].lengths) > 0

    @one_call
    def crop(self, max_length: int) -> None:
        """Forget what follows the first max_length columns; negative: the last -max_length columns.

        Fewer columns than that stay as they are. After a generation whose prompts had padding a column is a token of
        each row. Source: transformers' Cache.crop.

        Raises:
            ValueError: fewer than no columns would stay, or a layer with a sliding window has dropped positions that
                the next token would have to see.
        """
        length = self.get_seq_length()
        if max_length < -length:
            raise ValueError(f"max_length is {max_length}; needed: at least -{length}, the columns that there are")
        if self.generating:
            totals = self.positions
            kept = np.minimum(totals, max_length) if max_length >= 0 else np.maximum(totals + max_length, 0)
        else:
            columns = self.tokens[:, : max_length if max_length >= 0 else length + max_length]
            totals, kept = self.tokens.sum(axis=1), columns.sum(axis=1)
        for cache in self.caches:
            dropped = totals - cache.lengths
            if cache.window is not None and (dropped > np.maximum(kept - (cache.window - 1), 0))[kept < totals].any():
                raise ValueError(
                    f"max_length is {max_length}; needed: more, since layers with a sliding window of {cache.window} "
                    f"have dropped the first {dropped.max()} positions"
                )
        for cache in self.caches:
            cache.crop(kept - (totals - cache.lengths))
        if self.generating:
            self.positions = kept
        else:
            self.tokens, self.positions = columns, np.minimum(self.positions, columns.shape[1])

    @one_call
    def reserve(self, capacity: int) -> None:
        """Makes room for rows of `capacity` positions; windows need none."""
        for cache in self.caches:
            cache.prepare(capacity)

    def count_step(self, n: int) -> None:
        """Each row has got n more tokens, by step() or extend()."""
        if not self.generating:
            self.generating, self.padded = True, not self.tokens.all()
        self.positions = self.positions + n

    @one_call
    def count_columns(self) -> None:
        """After a generation: the rows' tokens become columns, as forward counts them.

        Raises:
            ValueError: the prompts had padding, whose columns are not known.
        """
        if not self.generating:
            return
        if self.padded:
            raise ValueError("past_key_values is of prompts with padding, dropped by start(); needed: none, or forward")
        self.tokens = np.ones((len(self.positions), self.get_seq_length()), bool)
        self.generating = False

    @one_call
    def save(self, path: str | Path) -> None:
        """Writes the state to a file of NumPy's format .npz, for `load_past` of the same model; see `saved_state`."""
        save_state(self, path)

    @one_call
    def reorder(self, index: np.ndarray) -> None:
        """Row i becomes what row index[i] was; there may be more or fewer rows than before."""
        index = np.asarray(index)
        for cache in self.caches:
            cache.reorder(index)
        self.positions = self.positions[index]
        self.tokens = self.tokens[index]

    @one_call
    def beside(self, B: int) -> DecoderState:
        """B rows without a past, for steps, whose pages are of the pools of this state's; all its layers are paged."""
        state = copy.copy(self)
        state.in_use = OneCall("past_key_values")
        state.caches = [PagedCache.over(cache.pool, B) for cache in self.caches]
        state.positions, state.tokens, state.generating = np.zeros(B, np.int64), np.zeros((B, 0), bool), True
        return state

    @one_call
    def join(self, other: DecoderState) -> None:
        """The rows of `other`, made by `beside`, become rows behind those that there are; it has none then."""
        for cache, its in zip(self.caches, other.caches, strict=True):
            cache.join(its)
        self.positions = np.concatenate([self.positions, other.positions])
        self.tokens = np.zeros((len(self.positions), 0), bool)
        other.positions, other.tokens = other.positions[:0], other.tokens[:0]


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
        self.stepwise = False
        # No row with tokens has a past.
        self.fresh = state is None or not state.holds_some() or not caches[0].lengths[counts > 0].any()
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
        ahead: int | None = 0,
    ) -> np.ndarray:
        """Attention: query (T, H, D), key and value (T, Hkv, D) -> (T, H * D).

        A query sees the keys of its row up to its own, with a window the last `window` of them, and `ahead` after it
        (None: all; without a state). sinks (H,): scores that join the softmax of each head's queries and have no value.
        """
        sides = -1 if window is None else window - 1, ahead or -1
        options = {"scale": scale, "softcap": softcap, "window": sides, "sinks": sinks}
        T, H, D = query.shape
        context = self.scratch("context", H * D)
        out = context.reshape(T, H, D)
        if self.state is not None:
            number, place = self.state.places[layer]
            self.state.caches[number].write_packed(place, key, value, self.cu_seqlens, self.kept[number])
        if self.fresh and self.weights is None:
            starts = self.cu_seqlens
            options["is_causal"] = ahead == 0
            F.varlen_attention(query, key, value, starts, starts, enable_gqa=True, out=out, **options)
        else:
            self._attend_rows(layer, query, key, value, out, options, ahead == 0)
        return context

    def _attend_rows(self, layer, query, key, value, out, options, causal: bool) -> None:
        """One row after the other: for rows with a past that get several tokens, and to see the weights."""
        seen = []
        for b, (first, last) in enumerate(zip(self.cu_seqlens[:-1], self.cu_seqlens[1:], strict=True)):
            rows, scales = slice(first, last), {}
            number, place = self.state.places[layer] if self.state is not None else (0, 0)
            cache = None if self.fresh else self.state.caches[number]
            if isinstance(cache, PagedCache) and self.weights is None:
                total, own = cache.lengths[b : b + 1] + last - first, query[None, rows].swapaxes(1, 2)
                cache.attention(place, own, total, slice(b, b + 1), out=out[None, rows].swapaxes(1, 2), **options)
                continue
            if self.fresh:
                keys, values = key[rows].swapaxes(0, 1), value[rows].swapaxes(0, 1)
            else:
                length = cache.lengths[b] + last - first
                keys, values = (array[b, :, :length] for array in cache.seen(place, length))
                scales = {name: array[b, :, :length] for name, array in cache.scales(place, length).items()}
            result = F.scaled_dot_product_attention(
                query[rows].swapaxes(0, 1),
                keys,
                values,
                is_causal=causal,
                causal_offset="bottom_right",
                enable_gqa=True,
                return_weights=False if self.weights is None else "heads",
                out=out[rows].swapaxes(0, 1),
                **scales,
                **options,
            )
            if self.weights is not None:
                seen.append(result[1])
        if self.weights is not None:
            self.weights.append(seen)


@lru_cache(maxsize=64)
def _of_a_step(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """cu_seqlens of one token a row, and the numbers of positions that are kept of each; read-only."""
    starts, ones = np.arange(rows + 1), np.ones(rows, np.int64)
    starts.flags.writeable = ones.flags.writeable = False
    return starts, ones


class DecoderStep:
    """One more token of each row: a `DecoderBatch` with less to do, since it runs once a layer and token."""

    weights = None
    fresh = stepwise = False

    def __init__(self, state: DecoderState) -> None:
        self.state = state
        for cache in state.caches:
            cache.reserve(1)

    @property
    def cu_seqlens(self) -> np.ndarray:
        return _of_a_step(len(self.state.positions))[0]

    @property
    def kept(self) -> list[np.ndarray]:
        return [_of_a_step(len(self.state.positions))[1]] * len(self.state.caches)

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
        if isinstance(cache, PagedCache):
            options = {"scale": scale, "softcap": softcap, "sinks": sinks}
            options["window"] = (-1 if window is None else window - 1, -1)
            context = cache.attention(place, query[:, :, None], cache.lengths + 1, **options)
            return context.reshape(len(query), query.shape[1] * context.shape[3])
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
            **cache.scales(place, 1),
        )
        return context.reshape(len(query), query.shape[1] * context.shape[3])


class DecoderSteps:
    """n more tokens of one row, each of which attends as a `DecoderStep` would: what they give has its bits.

    The keys are given to attention once for each token, with as many keys as it sees. A `DecoderBatch` would take the
    tokens as queries of one row, which is faster over a long past, and rounds in another order.
    """

    weights = None
    fresh, stepwise = False, True

    def __init__(self, state: DecoderState, n: int) -> None:
        self.state, self.n = state, n
        self.cu_seqlens = np.array([0, n])
        self.kept = [np.array([n]) for _ in state.caches]
        for cache in state.caches:
            cache.reserve(n)

    def finish(self) -> None:
        """As `DecoderBatch.finish`."""
        for cache in self.state.caches:
            cache.advance(self.n)

    def scratch(self, name: str, width: int) -> None:
        """None, as `DecoderStep.scratch`."""

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
        """As `DecoderBatch.attend`; T is n."""
        number, place = self.state.places[layer]
        cache = self.state.caches[number]
        cache.write(place, key.swapaxes(0, 1)[None], value.swapaxes(0, 1)[None])
        lengths = cache.lengths + 1 + np.arange(self.n)
        if isinstance(cache, PagedCache):
            options = {"scale": scale, "softcap": softcap, "sinks": sinks}
            options["window"] = (-1 if window is None else window - 1, -1)
            context = cache.attention(place, query[:, :, None], lengths, np.zeros(self.n, np.int64), **options)
            return context.reshape(self.n, query.shape[1] * context.shape[3])
        keys, values = cache.seen(place, self.n)
        context = F.scaled_dot_product_attention(
            query[:, :, None],
            np.broadcast_to(keys, (self.n, *keys.shape[1:])),
            np.broadcast_to(values, (self.n, *values.shape[1:])),
            scale=scale,
            enable_gqa=True,
            causal_offset=lengths - 1,
            window=(-1 if window is None else window - 1, -1),
            kv_lengths=lengths,
            softcap=softcap,
            sinks=sinks,
            **{
                name: np.broadcast_to(array, (self.n, *array.shape[1:]))
                for name, array in cache.scales(place, self.n).items()
            },
        )
        return context.reshape(self.n, query.shape[1] * context.shape[3])
