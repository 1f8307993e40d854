"""Disentangled attention of packed tokens: in a score, content meets content, content distance, and distance content.

Source: He et al. 2020, https://arxiv.org/abs/2006.03654, section 3; names are transformers' (c2p: the query's content
and the key's position; p2c: the query's position and the key's content). The layers of DeBERTa v2 and v3 call
`DisentangledAttention.run`; `deberta_v2.py` makes the tables. A further kind of score is a further table in `Tables`.

Both terms depend on the distance e = j - i of key j and query i, and one factor of each on the distance alone. So each
row is multiplied by the vectors of the distances that occur, N of them (at most 512 with 256 buckets):

    query rows x table of key vectors    T x N products a head; row i's score with key j takes the one of e
    key rows x table of query vectors    T x N, likewise

`functional.DistanceScores` has both, and attention adds them to its scores block by block: no array has an axis of
queries and one of keys. Sequences run some at a time, and heads too, which bounds the memory. Of a sequence with
padding inside the rows are made as if its padding was there, and the padding is masked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from transformer_fast import functional as F
from transformer_fast.models.common.encoder import EncoderBatch
from transformer_fast.nn import Collector, Module

# Sequences run together until they have so many query rows: more rows amortise a call, fewer share its longest length.
_ROWS = 1024
# Numbers of both terms of the heads that run together (4 MiB), but for one head of one sequence: a second level of the
# cache holds them. Granite Rapids, one layer of DeBERTa-v3-base with 512 tokens, 2^23, 2^21, 2^20 and 2^19: 71, 60, 56
# and 60 ms; with 2048: 312, 294, 275 and 312 (a busy machine).
_NUMBERS = 2**20


def log_buckets(distances: np.ndarray, buckets: int, farthest: int) -> np.ndarray:
    """Distances -> signed buckets: themselves up to buckets // 2, then on a logarithmic scale up to `farthest`.

    In float32, as transformers computes it: the edges of the buckets are those of the trained models.

    Example:
        >>> log_buckets(np.array([-90, -9, -2, 0, 2, 9, 90]), 8, 100)
        array([-7, -5, -2,  0,  2,  5,  7])
    """
    middle, size = buckets // 2, np.abs(distances)
    ratio = np.maximum(size, 1).astype(np.float32) / np.float32(middle)
    steps = np.log(ratio) / np.log(np.float32((farthest - 1) / middle)) * np.float32(middle - 1)
    far = np.ceil(steps).astype(np.int64) + middle
    return np.where(size <= middle, distances, np.sign(distances) * far)


@dataclass(frozen=True)
class Distances:
    """Which row of a table of 2 `span` relative embeddings a distance has.

    buckets: 0 for one row a distance, else as in `log_buckets`. farthest: of `log_buckets`.
    """

    span: int
    buckets: int
    farthest: int

    def rows(self, lowest: int, highest: int) -> np.ndarray:
        """The row of each distance j - i from lowest to highest, in `Tables`: they rise."""
        back = np.arange(-lowest, -highest - 1, -1)  # i - j, whose embeddings rise
        place = log_buckets(back, self.buckets, self.farthest) if self.buckets else back
        return 2 * self.span - 1 - np.clip(place + self.span, 0, 2 * self.span - 1)


@dataclass(frozen=True)
class Tables:
    """The relative embeddings of one layer, projected, divided as scores are, the last first: (H, 2 span, D) each.

    key: multiplied by queries (c2p); query: multiplied by keys (p2c). None: the model has no such term.
    """

    key: np.ndarray | None
    query: np.ndarray | None

    def of(self, heads: slice) -> Tables:
        return Tables(*(None if x is None else x[heads] for x in (self.key, self.query)))


def table(projected: np.ndarray, num_heads: int, scale: float) -> np.ndarray:
    """Projected relative embeddings (2 span, H D) -> a table of `Tables`."""
    by_head = projected[::-1].reshape(len(projected), num_heads, -1).swapaxes(0, 1)
    return np.ascontiguousarray(by_head) * np.float32(scale)


class TablesCache:
    """The tables of all layers of a model, made in the first call, and again when a part of the model has changed.

    Many threads may call `get` at once, also while a part is replaced: what is kept is one tuple, replaced as a whole.
    Copies and pickles start empty.
    """

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: tuple[object, str, list[Tables | None]] | None = None

    def get(self, model: Module, read: Callable[[], list[Tables | None]]) -> list[Tables | None]:
        """The result of `read`, which may depend on the parameters of model and on the instruction set alone."""
        kept = self._kept
        if kept is None or kept[0] is not model._version or kept[1] != F.get_isa():
            version, isa = model._version, F.get_isa()  # read first: a change during `read` is seen by the next call
            tables = read()
            isa = isa if isa == F.get_isa() else ""  # bits of two levels are not kept
            kept = self._kept = (version, isa, tables)
        return kept[2]

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return TablesCache, ()


@dataclass(frozen=True)
class _Side:
    """The queries or the keys of a sequence: rows of the packed ones, and their places (n,), which rise."""

    rows: slice
    places: np.ndarray

    @cached_property
    def first(self) -> int:
        return int(self.places[0]) if len(self.places) else 0

    @cached_property
    def length(self) -> int:
        """Of the stretch from the first place to the last."""
        return int(self.places[-1]) + 1 - self.first if len(self.places) else 0

    @cached_property
    def at(self) -> np.ndarray | None:
        """Where the rows are in the stretch; None: they fill it."""
        return None if self.length == len(self.places) else self.places - self.first

    def stretched(self, packed: np.ndarray) -> np.ndarray:
        """packed (T, H, D) -> (length, H, D), zeros where there are no rows."""
        if self.at is None:
            return packed[self.rows]
        rows = np.zeros((self.length, *packed.shape[1:]), packed.dtype)
        rows[self.at] = packed[self.rows]
        return rows


class _Part:
    """Sequences that run in one call: (queries, keys) of each. See `_parts`.

    cu_queries, cu_keys: of varlen_attention. mask: its attn_mask, or None.
    """

    def __init__(self, sequences: list[tuple[_Side, _Side]], distances: Distances) -> None:
        self._sides = sequences
        queries, keys = zip(*sequences, strict=True)
        self.cu_queries, self.cu_keys = (np.cumsum([0, *(side.length for side in of)]) for of in (queries, keys))
        Lq, Lk = (max(side.length for side in of) for of in (queries, keys))
        apart = keys[0].first - queries[0].first
        used, self._buckets = np.unique(distances.rows(apart + 1 - Lq, apart + Lk - 1), return_inverse=True)
        in_a_row = len(used) and used[-1] - used[0] + 1 == len(used)
        self._used = slice(int(used[0]), int(used[-1]) + 1) if in_a_row else used
        self._count = len(used)
        self.mask = None
        if keys[0].at is not None:
            self.mask = np.zeros((1, 1, 1, Lk), bool)
            self.mask[..., keys[0].at] = True

    def rows(self, packed: np.ndarray, side: int) -> np.ndarray:
        """Of packed (T, H, D) the rows of this part's queries (side 0) or keys (1), stretched."""
        if len(self._sides) == 1:
            return self._sides[0][side].stretched(packed)
        return packed[self._sides[0][side].rows.start : self._sides[-1][side].rows.stop]

    def put(self, found: np.ndarray, context: np.ndarray) -> None:
        """Write found, in the rows of `rows(..., 0)`, to the part's rows of context."""
        at = self._sides[0][0].at if len(self._sides) == 1 else None
        rows = slice(self._sides[0][0].rows.start, self._sides[-1][0].rows.stop)
        context[rows] = found if at is None else found[at]

    def head_blocks(self, num_heads: int) -> list[slice]:
        """Heads that run together."""
        numbers = int(self.cu_queries[-1] + self.cu_keys[-1]) * self._count
        size = max(1, _NUMBERS // max(1, numbers))
        return [slice(start, start + size) for start in range(0, num_heads, size)]

    def room(self, heads: int) -> tuple[np.ndarray, np.ndarray]:
        """Scratch for the two terms of so many heads: memory that is new to the process costs more than the product."""
        return tuple(np.empty((heads, int(cu[-1]), self._count), np.float32) for cu in (self.cu_queries, self.cu_keys))

    def terms(
        self, query: np.ndarray, key: np.ndarray, tables: Tables, room: tuple[np.ndarray, np.ndarray]
    ) -> F.DistanceScores:
        """query (Tq, H, D) and key (Tk, H, D), stretched; tables of their heads; room for as many heads or more."""
        terms = (
            None
            if table is None
            else F.matmul(rows.swapaxes(0, 1), table[:, self._used].swapaxes(1, 2), out=out[: len(table)]).swapaxes(
                0, 1
            )
            for rows, table, out in ((query, tables.key, room[0]), (key, tables.query, room[1]))
        )
        return F.DistanceScores(*terms, self._buckets)


def _parts(queries: list[_Side], keys: list[_Side], distances: Distances) -> list[_Part]:
    """Sequences until they have _ROWS query rows. One with holes, or with its first key and first query at different
    places, is a part of its own: distances are then not those of the others."""
    parts, together = [], []
    for pair in zip(queries, keys, strict=True):
        own = len(pair[0].places) and len(pair[1].places)
        if own and (pair[0].first != pair[1].first or pair[0].at is not None or pair[1].at is not None):
            parts += [together, [pair]]
            together = []
            continue
        together.append(pair)
        if sum(query.length for query, _ in together) >= _ROWS:
            parts.append(together)
            together = []
    return [_Part(part, distances) for part in (*parts, together) if part]


class DisentangledAttention:
    """The attention of one call of a model, the same in every layer but for the layer's tables.

    batch: the rows; pooled (B,): of these rows, the queries, one a sequence; None: all rows. scale: of the scores.

    Example:
        >>> batch = EncoderBatch(np.array([0, 1, 3]), np.array([0, 0, 1]), None)
        >>> attention = DisentangledAttention(batch, Distances(4, 0, 0), 0.5)
        >>> x, relative = np.ones((3, 2, 4), np.float32), np.ones((2, 8, 4), np.float32)
        >>> attention.run(x, x, x, Tables(relative, relative)).shape
        (3, 8)
    """

    def __init__(
        self, batch: EncoderBatch, distances: Distances | None, scale: float, pooled: np.ndarray | None = None
    ) -> None:
        self.scale = scale
        T, starts = int(batch.cu_seqlens[-1]), batch.cu_seqlens
        rows, self._cu_keys = batch.keys or (np.arange(T), starts)
        self._cu_queries = starts if pooled is None else np.arange(len(starts))
        if distances is None:
            return
        places = batch.places
        if places is None:
            places = np.arange(T) - np.repeat(starts[:-1], np.diff(starts))
        queries = _sides(self._cu_queries, places if pooled is None else places[pooled])
        self._sequences = queries, _sides(self._cu_keys, places[rows]), distances
        self._parts = _parts(*self._sequences)

    def run(self, query: np.ndarray, key: np.ndarray, value: np.ndarray, tables: Tables | None) -> np.ndarray:
        """query (Tq, H, D) of the queries, key and value (Tk, H, D) of the keys -> context (Tq, H D).

        tables: None where the model has no terms of distance.
        """
        T, H, D = query.shape
        context = np.empty((T, H, D), np.float32)
        if tables is None:
            F.varlen_attention(query, key, value, self._cu_queries, self._cu_keys, scale=self.scale, out=context)
            return context.reshape(T, H * D)
        for part in self._parts:
            q, k, v = part.rows(query, 0), part.rows(key, 1), part.rows(value, 1)
            found = np.empty((len(q), H, D), np.float32)
            blocks = part.head_blocks(H)
            room = part.room(min(blocks[0].stop, H))
            for heads in blocks:
                own = q[:, heads], k[:, heads]
                F.varlen_attention(
                    *own,
                    v[:, heads],
                    part.cu_queries,
                    part.cu_keys,
                    attn_mask=part.mask,
                    scale=self.scale,
                    distance_scores=part.terms(*own, tables.of(heads), room),
                    out=found[:, heads],
                )
            part.put(found, context)
        return context.reshape(T, H * D)

    def report(self, collect: Collector, query: np.ndarray, key: np.ndarray, tables: Tables | None) -> None:
        """Tell `collect` the attention's weights; arguments as in `run`."""
        if collect.attentions is None:
            return
        if tables is None:
            collect.add_weights(query, key, {"scale": self.scale})
            return
        queries, keys, distances = self._sequences
        weights = []
        for query_side, key_side in zip(queries, keys, strict=True):
            part = _Part([(query_side, key_side)], distances)
            q, k = part.rows(query, 0), part.rows(key, 1)
            weights.append(np.zeros((q.shape[1], len(query_side.places), len(key_side.places)), np.float32))
            if weights[-1].size:
                terms = part.terms(q, k, tables, part.room(q.shape[1]))
                options = {"attn_mask": None if part.mask is None else part.mask[0], "scale": self.scale}
                options["distance_scores"] = replace(
                    terms, **{name: _by_head(getattr(terms, name)) for name in ("of_query", "of_key")}
                )
                _, found = F.scaled_dot_product_attention(*map(_by_head, (q, k, k)), return_weights="heads", **options)
                weights[-1][...] = found[:, _all(query_side.at)][:, :, _all(key_side.at)]
        collect.add_found(weights, query.shape[1])


def _by_head(packed: np.ndarray | None) -> np.ndarray | None:
    return None if packed is None else packed.swapaxes(0, 1)


def _all(at: np.ndarray | None) -> np.ndarray | slice:
    return slice(None) if at is None else at


def _sides(starts: np.ndarray, places: np.ndarray) -> list[_Side]:
    return [_Side(slice(a, b), places[a:b]) for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)]
