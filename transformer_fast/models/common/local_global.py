"""Local and global attention, as Longformer and the encoder of LED have it: the layers, and who sees whom in them.

A token sees the tokens at most a window's half away and the global tokens of its sequence; a global token sees all of
them, through projections of its own. Rows run packed: `LocalGlobalTokens` makes the `KeyRanges` of a batch, one for
each width of a window, which all layers and heads share, so that time and memory follow what is seen. `longformer.py`
and `led.py` call `LocalGlobalEncoder`. Another structure of what is seen (blocks, dilation) is another `ranges`.

Source: Beltagy et al. 2020, https://arxiv.org/abs/2004.05150, and transformers' modeling_longformer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.functional import KeyRanges
from transformer_fast.functional import attention_checks as checks
from transformer_fast.masks import row_lists
from transformer_fast.models.common.base import Source
from transformer_fast.models.common.inputs import token_mask
from transformer_fast.nn import Collector, FeedForward, LayerNorm, Linear, Module, ModuleList
from transformer_fast.nn.sequences import Scratch


def check_windows(config: Any, layers: int) -> None:
    """config.attention_window is an even width for all layers, or a list with one for each.

    Raises:
        ValueError: a width is odd, or there are not as many as layers.
    """
    given = config.attention_window
    if isinstance(given, list) and len(given) != layers:
        raise ValueError(f"attention_window holds {len(given)} widths; needed: one for each of {layers} layers")
    if any(width % 2 for width in (given if isinstance(given, list) else [given])):
        raise ValueError(f"attention_window is {given}; needed: even widths, half of them on each side")


def windows(config: Any, layers: int) -> list[int]:
    """The width of each layer's window."""
    given = config.attention_window
    return given if isinstance(given, list) else [given] * layers


def global_tokens(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """global_attention_mask as booleans (B, L).

    Raises:
        ValueError, TypeError: it holds others than 0 and 1, or its shape is not that of the tokens.
    """
    return token_mask(mask, shape, "global_attention_mask")


class LocalGlobalTokens:
    """Which rows of packed sequences see which.

    cu_seqlens (B + 1,): the rows of each sequence. places (T,): the place of each row in its sequence, padding counted;
    None means 0, 1, ... keys: rows that are seen and their offsets, as in nn.PackedSelfAttention; None means all. A row
    that is not among them sees none. global_rows: the rows of global tokens, rising; None means none.

    Example:
        >>> tokens = LocalGlobalTokens(np.array([0, 4]), global_rows=np.array([3]))
        >>> tokens.ranges(1).dense()[0, 0].astype(int)  # row 3 is global: it sees all, but not through its window
        array([[1, 1, 0, 1],
               [1, 1, 1, 1],
               [0, 1, 1, 1],
               [0, 0, 0, 0]])
    """

    def __init__(
        self,
        cu_seqlens: np.ndarray,
        places: np.ndarray | None = None,
        keys: tuple[np.ndarray, np.ndarray] | None = None,
        global_rows: np.ndarray | None = None,
    ) -> None:
        self.cu_seqlens = np.asarray(cu_seqlens)
        rows = np.arange(self.cu_seqlens[-1])
        self._sequence = np.repeat(np.arange(len(self)), np.diff(self.cu_seqlens))
        self.places = rows - self.cu_seqlens[self._sequence] if places is None else places
        self.key_rows, self.cu_keys = (rows, self.cu_seqlens) if keys is None else keys
        self.all_are_keys = keys is None
        self.global_rows = np.zeros(0, np.int64) if global_rows is None else global_rows
        self._ranges: dict[int, KeyRanges] = {}

    def __len__(self) -> int:
        """The number of sequences."""
        return len(self.cu_seqlens) - 1

    def keys_of(self, rows: np.ndarray) -> np.ndarray:
        """rows (T, ...) -> those that are seen."""
        return rows if self.all_are_keys else rows[self.key_rows]

    @property
    def global_keys(self) -> np.ndarray:
        """The global tokens, counted among the keys of their sequences."""
        numbers = np.searchsorted(self.key_rows, self.global_rows)
        return numbers - self.cu_keys[self._sequence[self.global_rows]]

    def ranges(self, reach: int) -> KeyRanges:
        """What each row sees through a window of `reach` places to each side, and of global tokens; (1, 1, T, Lk).

        Rows of global tokens see nothing here.
        """
        if reach not in self._ranges:
            self._ranges[reach] = self._made(reach)
        return self._ranges[reach]

    def _made(self, reach: int) -> KeyRanges:
        T, sequence = len(self.places), self._sequence
        # On one line for all sequences, whose distance no window bridges.
        step = int(self.places.max(initial=0)) + reach + 1
        line = self.places + sequence * step
        keys, before = self.keys_of(line), self.cu_keys[sequence]
        low = np.searchsorted(keys, line - reach) - before
        high = np.searchsorted(keys, line + reach, side="right") - before
        sees = np.zeros(T, bool)
        sees[self.key_rows] = True
        sees[self.global_rows] = False
        rows = np.flatnonzero(sees)
        of, lows, highs = [rows], [low[rows]], [high[rows]]
        for part, new in zip((of, lows, highs), self._global_ranges(sees), strict=True):
            part.append(new)
        Lk = int(np.diff(self.cu_keys).max(initial=0))
        lists = (np.concatenate(parts) for parts in (of, lows, highs))
        return row_lists.of_ranges(np.arange(T), T, *lists, Lk).key_ranges()

    def _global_ranges(self, sees: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(rows, low, high): global keys, neighbours together, for each row of their sequence that sees them."""
        keys, owner = self.global_keys, self._sequence[self.global_rows]
        first = np.ones(len(keys), bool)
        first[1:] = (np.diff(keys) != 1) | (np.diff(owner) != 0)
        starts = np.flatnonzero(first)
        ends = np.append(starts[1:], len(keys))[: len(starts)] - 1
        owner = owner[starts]
        counts = np.diff(self.cu_seqlens)[owner]
        # Each range once for all rows of its sequence.
        shift = self.cu_seqlens[owner] - (np.cumsum(counts) - counts)
        rows = np.arange(counts.sum()) + np.repeat(shift, counts)
        seen = sees[rows]
        low, high = np.repeat(keys[starts], counts), np.repeat(keys[ends] + 1, counts)
        return rows[seen], low[seen], high[seen]


class LocalGlobalAttention(Module):
    """Attention of width h with num_heads heads: in_proj (query, key, value) for what rows see through their windows,
    global_query and global_in_proj (key, value) for the rows of global tokens, and out_proj for all.

    Example:
        >>> attention, x = LocalGlobalAttention(16, 2), np.ones((7, 16), np.float32)
        >>> attention(x, LocalGlobalTokens(np.array([0, 7]), global_rows=np.array([0])), 2).shape
        (7, 16)
    """

    def __init__(self, h: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj = Linear(h, 3 * h)
        self.global_query = Linear(h, h)
        self.global_in_proj = Linear(h, 2 * h)
        self.out_proj = Linear(h, h)

    def follows(self, norm: Module, parts: int = 1) -> LocalGlobalAttention:
        """As `Module.follows`, of each projection."""
        for n, linear in enumerate((self.global_query, self.global_in_proj, self.in_proj), 1):
            linear.follows(norm, n)
        return self

    def forward(
        self,
        input: np.ndarray,
        tokens: LocalGlobalTokens,
        reach: int,
        *,
        pooled: np.ndarray | None = None,
        residual: np.ndarray | None = None,
        projected: np.ndarray | None = None,
        context: np.ndarray | None = None,
        out: np.ndarray | None = None,
        collect: LocalGlobalCollector | None = None,
    ) -> np.ndarray:
        """input (T, h) -> (T, h), with the residual added; windows have `reach` places to each side.

        pooled (B,): rows of the input, one of each sequence: only these attend -> (B, h), as are residual, context and
        out then. projected (T, 3h) and context (T, h) are scratch that a caller may reuse.
        """
        query, key, value = self._heads(self.in_proj(input, out=projected))
        key, value = tokens.keys_of(key), tokens.keys_of(value)
        ranges, cu_seqlens, rows = tokens.ranges(reach), tokens.cu_seqlens, tokens.global_rows
        targets = rows
        if pooled is not None:
            query, cu_seqlens = query[pooled], np.arange(len(pooled) + 1)
            own = np.ascontiguousarray(ranges.list_of_row[:, :, pooled])
            ranges = KeyRanges.trusted(own, ranges.begin, ranges.bounds, ranges.Lk)
            targets = np.flatnonzero(np.isin(pooled, rows))
            rows = pooled[targets]
        if context is None:
            context = np.empty((len(query), input.shape[1]), np.float32)
        heads = context.reshape(query.shape)
        F.varlen_attention(query, key, value, cu_seqlens, tokens.cu_keys, mask=ranges, out=heads)
        if collect is not None:
            collect.add_local(query, key, tokens, reach)
        if len(rows):
            cu_rows = np.searchsorted(targets, cu_seqlens)
            heads[targets] = self._global(input, tokens, rows, cu_rows, collect)
        return self.out_proj(context, residual=residual, out=out)

    def _global(self, input, tokens: LocalGlobalTokens, rows, cu_rows, collect) -> np.ndarray:
        """What the rows of global tokens, cu_rows[b]:cu_rows[b + 1] of sequence b, read of all: (rows, H, D)."""
        counts, keys = np.diff(cu_rows), tokens.keys_of(input)
        cu_keys, asked = tokens.cu_keys, counts > 0
        if not asked.all():
            # Nobody reads the keys of the other sequences.
            lengths = np.diff(cu_keys)
            keys = keys[np.repeat(asked, lengths)]
            cu_keys, cu_rows = _offsets(lengths[asked]), _offsets(counts[asked])
        (query,) = self._heads(self.global_query(input[rows]))
        key, value = self._heads(self.global_in_proj(keys))
        if collect is not None:
            collect.add_global(query, key, tokens, np.flatnonzero(asked), cu_rows, cu_keys)
        return F.varlen_attention(query, key, value, cu_rows, cu_keys)

    def _heads(self, projected: np.ndarray) -> list[np.ndarray]:
        """(T, n h) -> n views (T, H, D)."""
        h = self.out_proj.in_features
        shape = (len(projected), self.num_heads, h // self.num_heads)
        return [projected[:, i : i + h].reshape(shape) for i in range(0, projected.shape[1], h)]

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}"


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)])


class LocalGlobalLayer(Module):
    """Local and global attention and the feed-forward, each with residual and the norm after it."""

    def __init__(self, h: int, num_heads: int, inner: int, activation: str, eps: float) -> None:
        super().__init__()
        self.attention = LocalGlobalAttention(h, num_heads)
        self.attention_norm = LayerNorm(h, eps)
        self.feed_forward = FeedForward(h, inner, activation)
        self.feed_forward_norm = LayerNorm(h, eps)
        self.feed_forward.linear1.follows(self.attention_norm)

    def forward(
        self,
        hidden: np.ndarray,
        tokens: LocalGlobalTokens,
        reach: int,
        scratch: Scratch,
        collect: LocalGlobalCollector | None = None,
        pooled: np.ndarray | None = None,
    ) -> np.ndarray:
        """hidden (T, h) -> (T, h), a new array; with pooled, as in `LocalGlobalAttention`, (B, h)."""
        own = hidden if pooled is None else hidden[pooled]
        h, inner = hidden.shape[1], self.feed_forward.linear1.out_features
        context, inner = scratch("context", h)[: len(own)], scratch("inner", inner)[: len(own)]
        rows = self.attention(
            hidden,
            tokens,
            reach,
            pooled=pooled,
            residual=own,
            projected=scratch("projected", 3 * h),
            context=context,
            collect=collect,
        )
        normed = self.attention_norm(rows, out=context)
        self.feed_forward(normed, residual=normed, hidden=inner, out=rows)
        return self.feed_forward_norm(rows, out=rows)


class LocalGlobalEncoder(ModuleList):
    """Layers of width h with num_heads heads and a feed-forward of width inner, on packed tokens.

    widths: of each layer's window, even. activation: a name of functional.linear. eps: of the norms.

    Example:
        >>> encoder = LocalGlobalEncoder([2, 4], 16, 4, 32, "gelu", 1e-5)
        >>> encoder(np.zeros((5, 16), np.float32), LocalGlobalTokens(np.array([0, 2, 5]))).shape
        (5, 16)
    """

    def __init__(self, widths: Sequence[int], h: int, num_heads: int, inner: int, activation: str, eps: float) -> None:
        super().__init__([LocalGlobalLayer(h, num_heads, inner, activation, eps) for _ in widths])
        self.reaches = [width // 2 for width in widths]
        for before, layer in zip(self, self[1:], strict=False):
            layer.attention.follows(before.feed_forward_norm)

    def follows(self, norm: Module, parts: int = 1) -> LocalGlobalEncoder:
        """As `Module.follows`."""
        self[0].attention.follows(norm)
        return self

    def forward(
        self,
        hidden: np.ndarray,
        tokens: LocalGlobalTokens,
        *,
        pooled_rows: int | np.ndarray | None = None,
        collect: LocalGlobalCollector | None = None,
    ) -> np.ndarray:
        """hidden (T, h) -> (T, h). pooled_rows, an int or (B,): of functional.Encoder -> (B, h).

        collect keeps attentions and hidden states, the input among them.
        """
        scratch = Scratch(len(hidden))
        *layers, last = zip(self, self.reaches, strict=True)
        if collect is not None:
            collect.add_hidden(hidden)
        for layer, reach in layers:
            hidden = layer(hidden, tokens, reach, scratch, collect)
            if collect is not None:
                collect.add_hidden(hidden)
        layer, reach = last
        if pooled_rows is None or collect is not None:
            state = layer(hidden, tokens, reach, scratch, collect)
            if collect is not None:
                collect.add_hidden(state)
            if pooled_rows is None:
                return state
        lengths = np.diff(tokens.cu_seqlens)
        places = checks.rows_within(pooled_rows, "pooled_rows", lengths)
        return layer(hidden, tokens, reach, scratch, pooled=tokens.cu_seqlens[:-1] + places)


class LocalGlobalCollector(Collector):
    """A `nn.Collector` whose attentions have transformers' layout, with X the most global tokens of a sequence.

    Attributes:
        attentions: (B, H, L, X + w + 1) for each layer, w its window: the weights of the global tokens in their order,
            then those of the places -w / 2 to w / 2 from the query, without global tokens; 0 for rows of global tokens.
        global_attentions: (B, H, L, X) for each layer: of place l, the weights that each global token gives it; None
            where there is no global token. (transformers pads L to a multiple of the window there.)
    """

    def add_local(self, query: np.ndarray, key: np.ndarray, tokens: LocalGlobalTokens, reach: int) -> None:
        """query (T, H, D) of all rows and key (Tk, H, D): the weights of the windows and of global tokens."""
        if self.attentions is None:
            return
        (B, L), H, X = self._keys.tokens.shape, query.shape[1], _most_globals(tokens)
        weights = np.zeros((B, H, L, X + 2 * reach + 1), np.float32)
        seen, global_keys = tokens.ranges(reach).dense()[0, 0], np.split(tokens.global_keys, _global_starts(tokens))
        for b, (rows, keys) in enumerate(_sequences(tokens)):
            places, key_places = tokens.places[rows], tokens.keys_of(tokens.places)[keys]
            visible, own = seen[rows, : len(key_places)], global_keys[b]
            if not visible.any():
                continue
            found = _weights(query[rows], key[keys], attn_mask=visible)
            weights[b][:, places, : len(own)] = found[:, :, own]
            visible[:, own] = False
            i, j = np.nonzero(visible)
            weights[b][:, places[i], X + reach + key_places[j] - places[i]] = found[:, i, j]
        self.attentions += (weights,)

    def add_global(
        self, query: np.ndarray, key: np.ndarray, tokens: LocalGlobalTokens, which: np.ndarray, cu_rows, cu_keys
    ) -> None:
        """query and key of the global projections: those of sequence which[n] are cu_rows[n]:cu_rows[n + 1], ..."""
        if self.attentions is None:
            return
        B, L = self._keys.tokens.shape
        weights = np.zeros((B, query.shape[1], L, _most_globals(tokens)), np.float32)
        sequences = list(_sequences(tokens))
        for n, b in enumerate(which):
            rows, keys = slice(*cu_rows[n : n + 2]), slice(*cu_keys[n : n + 2])
            found = _weights(query[rows], key[keys])
            places = tokens.keys_of(tokens.places)[sequences[b][1]]
            weights[b][:, places, : found.shape[1]] = found.swapaxes(1, 2)
        self.global_attentions = (*(self.global_attentions or ()), weights)


def _weights(query: np.ndarray, key: np.ndarray, **options: Any) -> np.ndarray:
    """query (Lq, H, D), key (Lk, H, D) -> (H, Lq, Lk)."""
    query, key = query.swapaxes(0, 1), key.swapaxes(0, 1)
    return F.scaled_dot_product_attention(query, key, key, return_weights="heads", **options)[1]


def _sequences(tokens: LocalGlobalTokens):
    """For each sequence, where its rows and its keys are."""
    for b in range(len(tokens)):
        yield slice(*tokens.cu_seqlens[b : b + 2]), slice(*tokens.cu_keys[b : b + 2])


def _global_starts(tokens: LocalGlobalTokens) -> np.ndarray:
    """Where the global tokens of sequences 1, 2, ... begin among all."""
    return np.searchsorted(tokens.global_rows, tokens.cu_seqlens[1:-1])


def _most_globals(tokens: LocalGlobalTokens) -> int:
    starts = np.concatenate([[0], _global_starts(tokens), [len(tokens.global_rows)]])
    return int(np.diff(starts).max(initial=0))


def global_sources(layers: int, ours: str, theirs: str, attention: str) -> dict[str, Source]:
    """Sources of the projections of global tokens of a `LocalGlobalEncoder`.

    ours, theirs: prefixes of the numbered layers, here and in the checkpoint; attention: of its projections in a layer.
    """
    projections = {"global_query": ("query_global",), "global_in_proj": ("key_global", "value_global")}
    return {
        f"{ours}{i}.attention.{own}.{kind}": Source(*(f"{theirs}{i}.{attention}.{name}.{kind}" for name in names))
        for i in range(layers)
        for own, names in projections.items()
        for kind in ("weight", "bias")
    }
