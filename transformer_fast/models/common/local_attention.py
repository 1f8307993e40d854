"""Self-attention of LongT5's encoder: near keys, and with "transient-global" also one side token a block of tokens.

models/longt5.py makes a `LocalAttention` or a `TransientGlobalAttention` for each batch; `SideAttention` is the layer's
part that the second needs. Rows run packed, as in `seq2seq_blocks`. Distances and numbers of blocks count padding
between and before a row's tokens, as in transformers: `spans` keeps the gaps of a row as rows that nobody sees.

Source: Guo et al. 2021, https://arxiv.org/abs/2112.07916, and transformers' modeling_longt5.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.models.common.seq2seq_blocks import Attend, Block, BlockShape, SelfAttention
from transformer_fast.nn import RelativePositionBias, RMSNorm, relative_position_bucket
from transformer_fast.nn.sequences import PackedSequences


def spans(tokens: np.ndarray) -> np.ndarray:
    """(B, L) bool, True for tokens -> True from each row's first token to its last."""
    return np.logical_or.accumulate(tokens, axis=1) & np.logical_or.accumulate(tokens[:, ::-1], axis=1)[:, ::-1]


def block_ids(tokens: np.ndarray, size: int) -> np.ndarray:
    """(B, L) bool, True for tokens -> the side token (B, L) to whose sum each token belongs, -1 for none and padding.

    A token's block is its column // size; a row has as many side tokens as blocks whose last column is a token, and
    the last of them gets all tokens of later blocks: those that make no whole block, and where padding comes first
    those of whole blocks too. A row without a whole block has no side token.

    Example:
        >>> block_ids(np.array([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [1, 0, 0, 0, 0]], bool), 2).tolist()
        [[0, 0, 1, 1, 1], [-1, -1, 0, 0, 0], [-1, -1, -1, -1, -1]]
    """
    # column // size as transformers counts it, in float32: for a size that is no power of two a few columns of long
    # rows (7 of the first 5,000 for a size of 100) are rounded into the block before or after.
    share = np.float32(1) / np.float32(size)
    counted = np.cumsum(np.full(tokens.shape[1], share), dtype=np.float64).astype(np.float32) - share
    block = np.floor(np.float32(1) + counted - np.float32(1)).astype(np.int64)
    last_columns = np.arange(tokens.shape[1]) % size == size - 1
    whole = (tokens & last_columns & (block >= 0)).sum(axis=1, keepdims=True)
    return np.where(tokens, np.minimum(block, whole - 1), -1)


@dataclass(frozen=True)
class _NearCall:
    """Neighbouring sequences that attend to near keys in one call.

    Those with gaps need lists of ranges, for the others a window says all. Matrix engines take windows only, with other
    roundings, so that a call has sequences of one kind: else the neighbours would decide a sequence's bits.

    rows: packed. cu_seqlens: of these rows, from 0 on. options: of varlen_attention.
    """

    rows: slice
    cu_seqlens: np.ndarray
    options: dict[str, Any]


class LocalAttention:
    """Attention of packed rows to the keys within `radius` of them: called with query, key, value (T, H, D) and out.

    tokens (B, L): True for tokens. packing: the rows that layers run, `spans(tokens)`. bias: of the distances. With
    collect=True each call appends its weights to `weights`, in transformers' form: (B, blocks, H, radius + 1,
    3 * (radius + 1)), for a block of queries the keys of the block before, its own and the next; zeros where a query is
    padding or sees no key.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        packing: PackedSequences,
        radius: int,
        bias: RelativePositionBias,
        collect: bool = False,
    ) -> None:
        self.tokens, self.packing, self.radius, self.bias = tokens, packing, radius, bias
        self.weights: list[np.ndarray] | None = [] if collect else None
        has_gaps = (packing.tokens & ~tokens).any(axis=1).tolist()
        neighbours = (list(rows) for _, rows in itertools.groupby(range(len(packing)), has_gaps.__getitem__))
        self._calls = [self._near_call(rows[0], rows[-1] + 1, has_gaps[rows[0]]) for rows in neighbours]

    def __call__(self, query: np.ndarray, key: np.ndarray, value: np.ndarray, out: np.ndarray) -> None:
        self.attend_near(query, key, value, out)
        if self.weights is not None:
            self.weights.append(_softmax(self._near_scores(query, key)))

    def attend_near(self, query: np.ndarray, key: np.ndarray, value: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Attend to the keys within `radius` into out; returns the log-sum-exp (H, T)."""
        lse = np.empty(query.shape[1::-1], np.float32)
        for call in self._calls:
            own, starts = call.rows, call.cu_seqlens
            arrays = (query[own], key[own], value[own], starts, starts)
            lse[:, own] = F.varlen_attention(*arrays, out=out[own], return_lse=True, **call.options)[1]
        return lse

    def _near_call(self, first: int, end: int, has_gaps: bool) -> _NearCall:
        """Of the sequences [first, end), which all have gaps, or none of them has."""
        starts = self.packing.cu_seqlens[first : end + 1]
        longest = int(np.diff(starts).max())
        options = {"scale": 1.0, "relative_bias": self.bias.table(longest, longest)}
        if has_gaps:
            own = self.packing.pack(self.tokens)[starts[0] : starts[-1]]
            options["mask"] = _near_tokens(own, starts - starts[0], self.radius)
        else:
            options["window"] = (self.radius, self.radius)
        return _NearCall(slice(starts[0], starts[-1]), starts - starts[0], options)

    def _near_scores(self, query: np.ndarray, key: np.ndarray) -> np.ndarray:
        """(B, blocks, H, length, 3 * length) with length radius + 1; -inf where a key is not seen."""
        length = self.radius + 1
        tokens = _in_blocks(self.tokens, length)
        scores = _product(*(_in_blocks(self.packing.unpack(rows), length) for rows in (query, key)))
        table = self.bias.table(length, 3 * length, offset=length)
        distances = np.arange(3 * length) - np.arange(length)[:, None]
        scores += table[:, distances + length - 1]
        near = np.abs(distances - length) <= self.radius
        seen = tokens[:, 1:-1, :, None] & _three(tokens)[:, :, None, :] & near
        return np.where(seen[:, :, None], scores, -np.inf)


class TransientGlobalAttention(LocalAttention):
    """As LocalAttention, and all queries also see their row's side tokens, each the sum of a block of `size` tokens.

    side_bias: of the distances between a query's block and a side token. Called with the side tokens' keys and values
    (S, H, D) as well. Weights have the side tokens as further keys, L // size of them.

    Near keys and side tokens are attended by two calls, whose results are joined by their log-sum-exp: the biases of
    the two depend on differences of other things, j - i and s - block(i), so that one call would need them as an array
    L x (L + S). The queries at place k of their blocks, for each k, are one batch entry of the second call: one such
    entry has the blocks 0, 1, 2, ... as its queries, and its bias is a table of 2 S - 1 values, as well.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        packing: PackedSequences,
        radius: int,
        bias: RelativePositionBias,
        collect: bool = False,
        *,
        size: int,
        side_bias: RelativePositionBias,
    ) -> None:
        super().__init__(tokens, packing, radius, bias, collect)
        self.size, self.side_bias = size, side_bias
        self._ids = block_ids(tokens, size)
        counts = self._ids.max(axis=1, initial=-1) + 1
        self._side_starts = np.concatenate([[0], np.cumsum(counts)])
        self._rows = packing.pack(self._ids)
        self._sequences = [self._groups(b) for b in range(len(packing))]

    def sums(self, input: np.ndarray) -> np.ndarray:
        """input (T, h) -> the side tokens (S, h) of all rows, one row's after the other; zeros for an empty block."""
        side = np.zeros((self._side_starts[-1], input.shape[1]), np.float32)
        owner = np.repeat(self._side_starts[:-1], self.packing.lengths) + self._rows
        summed = self._rows >= 0
        if not summed.all():
            owner, input = owner[summed], input[summed]
        if len(owner):
            starts = np.flatnonzero(np.diff(owner, prepend=-1))
            side[owner[starts]] = np.add.reduceat(input, starts, axis=0)
        return side

    def __call__(
        self,
        query: np.ndarray,
        key: np.ndarray,
        value: np.ndarray,
        out: np.ndarray,
        side_key: np.ndarray,
        side_value: np.ndarray,
    ) -> None:
        near_lse = self.attend_near(query, key, value, out)
        far, far_lse = np.zeros_like(out), np.full(out.shape[:2], -np.inf, np.float32)
        for b, groups in enumerate(self._sequences):
            of_row = slice(*self._side_starts[b : b + 2])
            keys, values = side_key[of_row].swapaxes(0, 1), side_value[of_row].swapaxes(0, 1)
            for group in groups:
                group.attend(query, keys, values, far, far_lse)
        # What functional.merge_attention computes, in place: it would copy both parts.
        with np.errstate(over="ignore", invalid="ignore"):
            share = 1 / (1 + np.exp(near_lse.T - far_lse))
        share[far_lse == -np.inf] = 0
        far -= out
        far *= share[:, :, None]
        out += far
        if self.weights is not None:
            near, side = self._near_scores(query, key), self._side_scores(query, side_key)
            self.weights.append(_softmax(np.concatenate([near, side], axis=-1)))

    def _groups(self, b: int) -> list[_Group]:
        """The queries of row b, grouped so that the biases of each group are one table."""
        start, end = self.packing.cu_seqlens[b : b + 2]
        ids, count = self._rows[start:end], int(self._side_starts[b + 1] - self._side_starts[b])
        if not count:
            return []
        last = count - 1
        front, rest = (start + np.flatnonzero(rows) for rows in ((ids >= 0) & (ids < last), ids == last))
        groups = [_Group(rest[:, None], {"attn_mask": self.side_bias.table(1, count, offset=last)[:, None]})]
        if len(front):
            of = ids[front - start]
            first, blocks = int(of[0]), int(of[-1] - of[0]) + 1
            place = np.arange(len(of)) - np.searchsorted(of, of)
            places = np.full((blocks, int(place.max()) + 1), -1)
            places[of - first, place] = front
            table = self.side_bias.table(blocks, count, offset=first)
            groups.append(_Group(places, {"relative_bias": table}))
        return groups

    def _side_scores(self, query: np.ndarray, side_key: np.ndarray) -> np.ndarray:
        """(B, blocks, H, length, L // size): -inf where a query is padding, or a key no side token of its row."""
        (B, L), (H, D) = self.tokens.shape, query.shape[1:]
        counts, numbers = np.diff(self._side_starts), np.arange(L // self.size)
        exists = numbers < counts[:, None]
        keys = np.zeros((B, len(numbers), H, D), np.float32)
        keys[exists] = side_key
        scores = np.einsum("bqhd,bkhd->bqhk", self.packing.unpack(query), keys)
        bias = self.side_bias
        buckets = relative_position_bucket(
            numbers - self._ids[:, :, None], bias.bidirectional, bias.num_buckets, bias.max_distance
        )
        scores += bias.weight[buckets].swapaxes(2, 3)
        scores[~(self.tokens[:, :, None] & exists[:, None])[:, :, None].repeat(H, axis=2)] = -np.inf
        blocks = _in_blocks(scores, self.radius + 1, fill=-np.inf)[:, 1:-1]
        return blocks.swapaxes(2, 3)


@dataclass(frozen=True)
class _Group:
    """Queries that attend to side tokens in one call.

    places (n, w): their packed rows, -1 for none; a column is a batch entry of n queries. bias: the option that gives
    a column's bias.
    """

    places: np.ndarray
    bias: dict[str, np.ndarray]

    def attend(self, query: np.ndarray, keys: np.ndarray, values: np.ndarray, out: np.ndarray, lse: np.ndarray) -> None:
        """Writes their rows of out (T, H, D) and lse (T, H); keys and values (H, S, D)."""
        n, w = self.places.shape
        first = self.places[0, 0]
        if np.array_equal(self.places.reshape(-1), np.arange(first, first + n * w)):
            rows = slice(first, first + n * w)
            target = out[rows].reshape(n, w, *out.shape[1:]).transpose(1, 2, 0, 3)
            _, own = self._attend(query[rows], keys, values, target)
            lse[rows].reshape(n, w, -1)[:] = own.transpose(2, 0, 1)
        else:
            there = self.places >= 0
            found, own = self._attend(query[self.places.reshape(-1)], keys, values)
            out[self.places[there]] = found.transpose(2, 0, 1, 3)[there]
            lse[self.places[there]] = own.transpose(2, 0, 1)[there]

    def _attend(self, query: np.ndarray, keys: np.ndarray, values: np.ndarray, out: np.ndarray | None = None) -> tuple:
        n, w = self.places.shape
        query = query.reshape(n, w, *query.shape[1:]).transpose(1, 2, 0, 3)
        return F.scaled_dot_product_attention(query, keys, values, scale=1.0, return_lse=True, out=out, **self.bias)


class SideAttention(SelfAttention):
    """Self-attention that also sees side tokens: norms of the sums of its input's rows that `attend.sums` makes."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__(shape)
        self.side_norm = RMSNorm(shape.width, shape.eps)

    def forward(self, input: np.ndarray, attend: Attend, residual: np.ndarray) -> np.ndarray:
        """input (T, h) -> (T, h), with the residual added; attend: a TransientGlobalAttention."""
        _, *side = self.heads(self.side_norm(attend.sums(input)))
        return super().forward(input, lambda *arrays: attend(*arrays, *side), residual)


class SideBlock(Block):
    """A Block whose self-attention also sees side tokens."""

    self_attention_class = SideAttention


def _near_tokens(own: np.ndarray, cu_seqlens: np.ndarray, radius: int) -> F.KeyRanges:
    """Of packed rows (T,), True for tokens: which keys of its sequence each token sees. Other rows see none."""
    bounds, counts = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.int64)]
    for start, end in itertools.pairwise(cu_seqlens):
        edges = np.flatnonzero(np.diff(np.pad(own[start:end].astype(np.int8), 1)))
        lows, highs = edges[::2], edges[1::2]  # of the runs of tokens
        place = np.arange(end - start)
        begin, stop = place - radius, place + radius + 1
        first, after = np.searchsorted(highs, begin, "right"), np.searchsorted(lows, stop, "left")
        count = np.where(own[start:end], after - first, 0)
        query = np.repeat(place, count)
        run = np.arange(len(query)) - np.repeat(np.cumsum(count) - count, count) + first[query]
        bounds.append(np.stack([np.maximum(lows[run], begin[query]), np.minimum(highs[run], stop[query])], axis=1))
        counts.append(count)
    begin = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    return F.KeyRanges(np.arange(len(own))[None, None], begin, np.concatenate(bounds), int(np.diff(cu_seqlens).max()))


# ----------------------------------------------------------------------------------------------------------------------
# Weights that are reported, in transformers' blocks: arrays as large as what is reported.


def _in_blocks(array: np.ndarray, length: int, fill: float = 0) -> np.ndarray:
    """(B, L, ...) -> (B, blocks + 2, length, ...), with a block of `fill` before the first one and after the last."""
    B, L = array.shape[:2]
    blocks = -(-L // length)
    padded = np.full((B, (blocks + 2) * length, *array.shape[2:]), fill, array.dtype)
    padded[:, length : length + L] = array
    return padded.reshape(B, blocks + 2, length, *array.shape[2:])


def _three(blocks: np.ndarray) -> np.ndarray:
    """(B, blocks + 2, length, ...) -> (B, blocks, 3 * length, ...): each block with its neighbours."""
    return np.concatenate([blocks[:, :-2], blocks[:, 1:-1], blocks[:, 2:]], axis=2)


def _product(query: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Blocks (B, blocks + 2, length, H, D) of both -> scores (B, blocks, H, length, 3 * length)."""
    return query[:, 1:-1].swapaxes(2, 3) @ _three(key).transpose(0, 1, 3, 4, 2)


def _softmax(scores: np.ndarray) -> np.ndarray:
    """Over the last axis; zeros where all are -inf."""
    peak = scores.max(axis=-1, keepdims=True)
    shares = np.exp(scores - np.where(np.isneginf(peak), 0, peak)).astype(np.float32)
    total = shares.sum(axis=-1, keepdims=True)
    return shares / np.where(total == 0, np.float32(1), total)
