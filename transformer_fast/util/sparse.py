"""The measures of `similarity` and the scores of `search` for vectors in arrays of scipy.sparse.

`similarity` and `search` call it where an operand is sparse; scipy is imported then. A dense operand beside a sparse
one becomes sparse. Results are dense arrays, as of dense vectors. Products of sparse matrices run on one thread. The
sum of a score has the order of the query's indices, whatever else is in the call.

Source: sentence_transformers.util.similarity of sentence-transformers 6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from transformer_fast.functional.sparse_weights import csr_array_class

# Scores of one block of a product, which is sparse at first and takes up to 12 bytes for each.
_BLOCK = 1 << 20


def is_sparse(embeddings: Any) -> bool:
    """Is it an array or a matrix of scipy.sparse? It is asked without scipy."""
    return hasattr(embeddings, "tocsr") and hasattr(embeddings, "nnz")


def both_sparse(a: Any, b: Any) -> bool:
    """
    Raises:
        TypeError: only one of them is sparse.
    """
    if is_sparse(a) != is_sparse(b):
        raise TypeError(f"embeddings are a {type(a).__name__} and a {type(b).__name__}; needed: both sparse, or none")
    return is_sparse(a)


def rows(name: str, embeddings: Any, dtype: type = np.float32) -> Any:
    """Vectors as the rows of a csr_array (N, D); one vector (D,) is one row.

    Raises:
        ValueError: they have another shape.
    """
    found = embeddings if is_sparse(embeddings) else np.asarray(embeddings)
    if found.ndim == 1:
        found = found.reshape(1, -1)
    if found.ndim != 2:
        raise ValueError(f"{name} has shape {found.shape}; needed: (N, D)")
    found = csr_array_class()(found).astype(dtype, copy=False)
    if not found.has_canonical_format:
        found = found.copy()
        found.sum_duplicates()
    return found


def values(embeddings: Any) -> np.ndarray:
    """The numbers of dense vectors, or those that sparse ones store."""
    return embeddings.data if is_sparse(embeddings) else embeddings


def unit(vectors: Any) -> Any:
    """The rows of a csr_array scaled to length 1, as `similarity.normalize_embeddings`."""
    norms = np.sqrt(vectors.multiply(vectors).sum(axis=1))
    scale = np.repeat(np.maximum(norms, np.float32(1e-12)), np.diff(vectors.indptr))
    return csr_array_class()((vectors.data / scale, vectors.indices, vectors.indptr), vectors.shape)


def part(vectors: Any, first: int, last: int) -> Any:
    """Rows [first, last) of a csr_array, which share its memory: a slice of it copies."""
    begin, end = vectors.indptr[first], vectors.indptr[min(last, vectors.shape[0])]
    indptr = vectors.indptr[first : last + 1] - begin
    shape = len(indptr) - 1, vectors.shape[1]
    return csr_array_class()((vectors.data[begin:end], vectors.indices[begin:end], indptr), shape)


def scorer(block: Any, queries: Any, normalized: bool) -> Callable[[Any], np.ndarray]:
    """Queries (q, D) -> their dot products (q, n) with a block (n, D), or their cosines.

    The block is transposed once, and of it only the columns that one of `queries`, all that there will be, has: for 100
    queries of 20 numbers and 24 million of a corpus that takes an eighth of the time.
    """
    block = unit(block) if normalized else block
    used = np.zeros(block.shape[1], bool)
    used[queries.indices] = True
    kept = np.flatnonzero(used[block.indices])
    indptr = np.searchsorted(kept, block.indptr)
    by_word = csr_array_class()((block.data[kept], block.indices[kept], indptr), block.shape).T.tocsr()
    return lambda some: _product(unit(some) if normalized else some, by_word)


def cos_sim(a: Any, b: Any) -> np.ndarray:
    a, b = _both(a, b)
    return scorer(b, a, normalized=True)(a)


def dot_score(a: Any, b: Any) -> np.ndarray:
    a, b = _both(a, b)
    return scorer(b, a, normalized=False)(a)


def euclidean_sim(a: Any, b: Any) -> np.ndarray:
    """Of squares and products in float64, which leave eight digits where two vectors are the same."""
    a, b = _both(a, b, np.float64)
    squares = [np.asarray(one.multiply(one).sum(axis=1)) for one in (a, b)]
    products = _product(a, b.T.tocsr())
    return -np.sqrt(np.maximum(squares[0][:, None] - 2 * products + squares[1], 0)).astype(np.float32)


def manhattan_sim(a: Any, b: Any) -> np.ndarray:
    """|a - b| = |a| + |b|, and where both have a number |a - b| - |a| - |b|: what a row of b stores is gone through for
    each row of a."""
    a, b = _both(a, b, np.float64)
    found = np.empty((a.shape[0], b.shape[0]), np.float32)
    for i in range(a.shape[0]):
        row = a[[i]].toarray()[0]
        met = row[b.indices]
        differences = csr_array_class()((np.abs(b.data - met) - np.abs(met), b.indices, b.indptr), b.shape)
        found[i] = -(differences.sum(axis=1) + np.abs(row).sum())
    return found


def pairwise_cos_sim(a: Any, b: Any) -> Any:
    a, b, finish = _pairs(a, b)
    return finish(unit(a).multiply(unit(b)).sum(axis=1))


def pairwise_dot_score(a: Any, b: Any) -> Any:
    a, b, finish = _pairs(a, b)
    return finish(a.multiply(b).sum(axis=1))


def pairwise_euclidean_sim(a: Any, b: Any) -> Any:
    a, b, finish = _pairs(a, b)
    differences = a - b
    return finish(-np.sqrt(differences.multiply(differences).sum(axis=1)))


def pairwise_manhattan_sim(a: Any, b: Any) -> Any:
    a, b, finish = _pairs(a, b)
    return finish(-abs(a - b).sum(axis=1))


def _product(a: Any, by_word: Any) -> np.ndarray:
    """a (q, D) times (D, n), both csr_arrays: some rows at a time, since the product is sparse before it is dense."""
    found = np.empty((a.shape[0], by_word.shape[1]), a.dtype)
    step = max(1, _BLOCK // max(1, found.shape[1]))
    for first in range(0, len(found), step):
        found[first : first + step] = (part(a, first, first + step) @ by_word).toarray()
    return found


def _both(a: Any, b: Any, dtype: type = np.float32) -> tuple[Any, Any]:
    a, b = rows("a", a, dtype), rows("b", b, dtype)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"a and b have shapes {a.shape} and {b.shape}; needed: (Na, D) and (Nb, D)")
    return a, b


def _pairs(a: Any, b: Any) -> tuple[Any, Any, Callable[[Any], Any]]:
    """Both as rows, and what makes the result of the rows' numbers: one number of one vector each."""
    shapes = np.shape(a), np.shape(b)
    if shapes[0] != shapes[1] or not 1 <= len(shapes[0]) <= 2:
        raise ValueError(f"a and b have shapes {shapes[0]} and {shapes[1]}; needed: (N, D), the same for both")
    single = len(shapes[0]) == 1
    return rows("a", a), rows("b", b), lambda found: found[0] if single else np.asarray(found)
