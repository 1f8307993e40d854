"""The best of many vectors for each query: products, cosines and Hamming distances, with the k highest kept on the way.

Called by `util.search` and users; csrc/ops/search.c computes. A further score: an argument here and a way to fill a
block of scores there.
"""

from __future__ import annotations

import numpy as np

from transformer_fast import _core
from transformer_fast.functional import arrays
from transformer_fast.functional.linear import pack_weight

# Queries that pass over the corpus together: 1.5 MB packed at a width of 384, which L2 keeps. The corpus is read once
# for 1,024 queries, 1.5 KB against 0.8 million operations a row. Fewer where k is large: the engine holds 16 bytes for
# each of k entries, query and part of the corpus (4 a thread).
_QUERIES_TOGETHER = 1024
_MOST_HEAP_BYTES = 1 << 26
_CORPUS_TYPES = ("float32", "float16", "bfloat16", "int8", "uint8")


def top_k_products(query, corpus, k: int, *, cosine: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The k highest products of each query with the rows of a corpus, and these rows' indices.

    query (Q, D) float32, corpus (N, D) float32, float16, bfloat16, int8 or uint8 -> scores (Q, k') float32 and indices
    (Q, k') int64, k' = min(k, N), the highest first, of equal scores the lower index. With cosine each product is
    divided by the lengths of both vectors, 1e-12 at least. The corpus is read in place, once for 1,024 queries, and
    never are all scores in memory. A score has the bits of `linear(corpus, query)`, whatever else is in the call.

    Raises:
        TypeError, ValueError: shapes, types or k do not fit; a score is NaN, which has no order.

    Example:
        >>> F.top_k_products(np.eye(2, dtype=np.float32), np.array([[0, 1], [2, 0], [1, 1]], np.float32), 2)
        (array([[2., 1.],
               [1., 1.]], dtype=float32), array([[1, 2],
               [0, 2]]))
    """
    query, corpus = arrays.float32(query, "query"), _corpus(corpus, _CORPUS_TYPES)
    k = _checked(query, corpus, k)
    if cosine:
        lengths = np.sqrt(np.add.reduce(query * query, axis=-1, keepdims=True))
        query = query / np.maximum(lengths, np.float32(1e-12))
    scores, indices = np.empty((len(query), k), np.float32), np.empty((len(query), k), np.int64)
    for some in _blocks(len(query), k):
        packed = pack_weight(query[some])
        if k and not _core.search_products(packed, corpus, cosine, scores[some], indices[some], 0):
            raise ValueError(
                "query or corpus holds NaN, or infinities whose score is NaN; needed: numbers, which have an order"
            )
    return scores, indices


def top_k_hamming(query, corpus, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k least Hamming distances of each query to the rows of a corpus of bits, and these rows' indices.

    query (Q, D / 8) and corpus (N, D / 8) uint8 -> distances (Q, k') and indices (Q, k') int64, k' = min(k, N), the
    nearest first, of equal distances the lower index.

    Raises:
        TypeError, ValueError: shapes, types or k do not fit.

    Example:
        >>> F.top_k_hamming(np.array([[7]], np.uint8), np.array([[0], [3], [6]], np.uint8), 2)
        (array([[1, 1]]), array([[1, 2]]))
    """
    query, corpus = _corpus(query, ("uint8",), "query"), _corpus(corpus, ("uint8",))
    k = _checked(query, corpus, k)
    query = np.ascontiguousarray(query)
    minus, indices = np.empty((len(query), k), np.float32), np.empty((len(query), k), np.int64)
    for some in _blocks(len(query), k):
        if k:
            _core.search_hamming(query[some], corpus, minus[some], indices[some], 0)
    return (-minus).astype(np.int64), indices


def _corpus(x, types: tuple[str, ...], name: str = "corpus") -> np.ndarray:
    x = arrays.as_array(x, name)
    if x.dtype.name not in types:
        raise TypeError(f"{name} has dtype {x.dtype}; needed: {', '.join(types)}")
    return arrays.dense(x)


def _checked(query: np.ndarray, corpus: np.ndarray, k: int) -> int:
    """The number of rows that are found for each query."""
    if query.ndim != 2 or corpus.ndim != 2 or query.shape[1] != corpus.shape[1]:
        raise ValueError(f"query has shape {query.shape}, corpus {corpus.shape}; needed: (Q, D) and (N, D)")
    k = arrays.integer(k, "k")
    if k < 1:
        raise ValueError(f"k is {k}; needed: an integer >= 1")
    return min(k, len(corpus))


def _blocks(queries: int, k: int) -> list[slice]:
    parts = 4 * _core.get_num_threads()
    together = max(1, min(_QUERIES_TOGETHER, _MOST_HEAP_BYTES // (16 * max(1, k) * parts)))
    return [slice(start, start + together) for start in range(0, queries, together)]
