"""Disentangled attention of packed tokens: in a score, content meets content, content distance, and distance content.

Source: He et al. 2020, https://arxiv.org/abs/2006.03654, section 3; names are transformers' (c2p: the query's content
and the key's position; p2c: the query's position and the key's content). The layers of DeBERTa v2 and v3 call
`DisentangledAttention.run`; `deberta_v2.py` makes the tables. A further kind of score is a further table in `Tables`.

Both terms depend on the distance e = j - i of key j and query i, and one factor of each on the distance alone, so that
no array has a query, a key and a feature as axes:

    query rows x table of key vectors, one row for each e     R x (L + R - 1) products; row i, shifted by i, is its bias
    table of query vectors x C keys                           (C + R - 1) x C products; diagonals are the bias of a row

The first product is written once and read through strides as (R, L); the second is added to it, C keys at a time.
Blocks of R query rows bound the memory. Of a sequence with padding inside the scores are made as if its padding was
there, and read without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.lib.stride_tricks import as_strided

from transformer_fast import functional as F
from transformer_fast.models.common.encoder import EncoderBatch
from transformer_fast.nn import Collector, Module

# Query rows of a block: at most so many, and fewer where the block's scores of all heads would be more numbers than
# that (32 MiB). Keys of a step: 64 rows of the table's product are 64 lines of memory, which the first level holds.
_ROWS, _LEAST_ROWS, _NUMBERS = 256, 16, 2**23
_KEYS = 64


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

    def rows(self, reach: int) -> np.ndarray | slice:
        """The row of each distance j - i from -reach to reach, in `Tables`, which have the last embedding first."""
        back = np.arange(reach, -reach - 1, -1)  # i - j, whose embeddings rise
        place = log_buckets(back, self.buckets, self.farthest) if self.buckets else back
        rows = 2 * self.span - 1 - np.clip(place + self.span, 0, 2 * self.span - 1)
        first, last = int(rows[0]), int(rows[-1])
        return slice(first, last + 1) if last - first == 2 * reach and (np.diff(rows) == 1).all() else rows


@dataclass(frozen=True)
class Tables:
    """The relative embeddings of one layer, projected, divided as scores are, the last first: (H, 2 span, D) each.

    key: multiplied by queries (c2p); query: multiplied by keys (p2c). None: the model has no such term.
    """

    key: np.ndarray | None
    query: np.ndarray | None

    def of(self, rows: np.ndarray | slice) -> Tables:
        """The rows of each distance, `Distances.rows`."""
        return Tables(*(None if x is None else x[:, rows] for x in (self.key, self.query)))


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
            kept = self._kept = (version, isa, read())
        return kept[2]

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return TablesCache, ()


def position_scores(query: np.ndarray, key: np.ndarray, first: int, tables: Tables) -> np.ndarray:
    """Both terms of distance for query (H, R, D), whose row 0 is `first` keys behind key 0, and key (H, L, D).

    tables: one row for each distance from -reach to reach. -> (H, R, L), strided.

    Example:
        >>> ones = np.ones((1, 5, 2), np.float32)  # distances -2 to 2
        >>> position_scores(ones[:, :2], ones[:, :3], 0, Tables(ones, ones))
        array([[[4., 4., 4.],
                [4., 4., 4.]]], dtype=float32)
    """
    (H, R, _), L = query.shape, key.shape[1]
    given = tables.key if tables.key is not None else tables.query
    start = given.shape[1] // 2 - (first + R - 1)  # the row of the smallest distance, of key 0 and the last query
    if tables.key is None:
        products = np.zeros((H, R, L + R - 1), np.float32)
    else:
        products = F.matmul(query, tables.key[:, start : start + L + R - 1].swapaxes(1, 2))
    head, row, one = products.strides
    scores = as_strided(products[:, :, R - 1 :], (H, R, L), (head, row - one, one))
    if tables.query is not None:
        for j in range(0, L, _KEYS):
            own = key[:, j : j + _KEYS]
            last = start + j + own.shape[1] + R - 1
            products = F.matmul(tables.query[:, start + j : last], own.swapaxes(1, 2))
            head, row, one = products.strides
            scores[:, :, j : j + _KEYS] += as_strided(
                products[:, R - 1 :], (H, R, own.shape[1]), (head, -row, row + one)
            )
    return scores


@dataclass(frozen=True)
class _Side:
    """The queries or the keys of a sequence: rows of the packed ones, and their places (n,), which rise."""

    rows: slice
    places: np.ndarray

    @cached_property
    def first(self) -> int:
        return int(self.places[0])

    @cached_property
    def length(self) -> int:
        """Of the stretch from the first place to the last."""
        return int(self.places[-1]) + 1 - self.first

    @cached_property
    def at(self) -> np.ndarray | None:
        """Where the rows are in the stretch; None: they fill it."""
        return None if self.length == len(self.places) else self.places - self.first

    def stretched(self, packed: np.ndarray) -> np.ndarray:
        """packed (T, H, D) -> (H, length, D), zeros where there are no rows."""
        rows = packed[self.rows]
        if self.at is not None:
            own, rows = rows, np.zeros((self.length, *rows.shape[1:]), rows.dtype)
            rows[self.at] = own
        return rows.swapaxes(0, 1)


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
        self._sequences = list(zip(queries, _sides(self._cu_keys, places[rows]), strict=True))
        ends = [
            (query.places[[0, -1]], key.places[[0, -1]])
            for query, key in self._sequences
            if len(query.places) and len(key.places)
        ]
        reach = max((int(np.abs(np.subtract.outer(*pair)).max()) for pair in ends), default=0)
        self._rows = distances.rows(reach)

    def run(self, query: np.ndarray, key: np.ndarray, value: np.ndarray, tables: Tables | None) -> np.ndarray:
        """query (Tq, H, D) of the queries, key and value (Tk, H, D) of the keys -> context (Tq, H D).

        tables: None where the model has no terms of distance.
        """
        T, H, D = query.shape
        context = np.empty((T, H, D), np.float32)
        if tables is None:
            F.varlen_attention(query, key, value, self._cu_queries, self._cu_keys, scale=self.scale, out=context)
            return context.reshape(T, H * D)
        tables = tables.of(self._rows)
        for queries, keys in self._sequences:
            own_key, own_value = (packed[keys.rows].swapaxes(0, 1) for packed in (key, value))
            for rows, scores in _blocks(queries, keys, query, key, tables):
                out = context[rows].swapaxes(0, 1)
                F.scaled_dot_product_attention(
                    query[rows].swapaxes(0, 1), own_key, own_value, scores, scale=self.scale, out=out
                )
        return context.reshape(T, H * D)

    def report(self, collect: Collector, query: np.ndarray, key: np.ndarray, tables: Tables | None) -> None:
        """Tell `collect` the attention's weights; arguments as in `run`."""
        if collect.attentions is None:
            return
        options: dict[str, object] = {"scale": self.scale}
        if tables is not None:
            tables = tables.of(self._rows)
            longest = [int(np.diff(cu).max(initial=0)) for cu in (self._cu_queries, self._cu_keys)]
            bias = np.zeros((len(self._sequences), query.shape[1], *longest), np.float32)
            for own, (queries, keys) in zip(bias, self._sequences, strict=True):
                for rows, scores in _blocks(queries, keys, query, key, tables):
                    first = rows.start - queries.rows.start
                    own[:, first : first + scores.shape[1], : scores.shape[2]] = scores
            options["attn_mask"] = bias
        collect.add_weights(query, key, options)


def _sides(starts: np.ndarray, places: np.ndarray) -> list[_Side]:
    return [_Side(slice(a, b), places[a:b]) for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)]


def _blocks(
    queries: _Side, keys: _Side, query: np.ndarray, key: np.ndarray, tables: Tables
) -> Iterator[tuple[slice, np.ndarray]]:
    """Packed rows of a sequence's queries, and the terms of distance of each with all keys, (H, rows, Lk)."""
    if not len(queries.places):
        return
    if not len(keys.places):
        yield queries.rows, np.zeros((query.shape[1], len(queries.places), 0), np.float32)
        return
    stretched, all_keys = queries.stretched(query), keys.stretched(key)
    size = max(_LEAST_ROWS, min(_ROWS, _NUMBERS // (query.shape[1] * keys.length)))
    for start in range(0, queries.length, size):
        block = stretched[:, start : start + size]
        scores = position_scores(block, all_keys, queries.first + start - keys.first, tables)
        rows = slice(queries.rows.start + start, queries.rows.start + start + block.shape[1])
        if queries.at is not None:
            a, b = np.searchsorted(queries.at, (start, start + block.shape[1])).tolist()
            rows, scores = slice(queries.rows.start + a, queries.rows.start + b), scores[:, queries.at[a:b] - start]
        if keys.at is not None:
            scores = scores[:, :, keys.at]
        yield rows, scores
