"""MaxSim: scores of queries and documents that have a vector a token (late interaction).

Called by users and by `util.multi_vectors`, which takes lists of arrays. The kernel is csrc/kernels/gemm/maxima.h, its
loops are csrc/ops/max_sim.c.
"""

from __future__ import annotations

import numpy as np

from transformer_fast import _core
from transformer_fast.functional import arrays
from transformer_fast.functional.attention_checks import starts


def max_sim(queries, documents, cu_seqlens, *, cu_queries=None, pairwise=False, out=None) -> np.ndarray:
    """The sum, over a query's vectors, of the vector's largest dot product with one of a document's.

    queries (Lq, D) float32, one query, and documents (T, D) float32, float16 or bfloat16, of which document d has the
    rows cu_seqlens[d]:cu_seqlens[d + 1] -> (N,) float32. cu_seqlens (N + 1,): integers that rise from 0 to T.

    cu_queries (B + 1,): queries (Tq, D) are B of them, query q has the rows cu_queries[q]:cu_queries[q + 1] -> (B, N).
    pairwise, B = N: query i meets document i alone -> (N,). A document without rows scores -inf, a query without rows
    0; a NaN in either gives NaN. No scores of tokens are kept, whatever the number of documents; a score has the same
    bits whatever else is in the call. Products and their sums are float32, the sum over a query's vectors is float64.
    Raises TypeError and ValueError. Source: Khattab, Zaharia 2020, arXiv:2004.12832.

    Example:
        >>> query = np.array([[1, 0], [0, 1]], np.float32)
        >>> documents = np.array([[1, 0], [0.5, 0.5], [0, 2]], np.float32)
        >>> F.max_sim(query, documents, [0, 1, 3])  # 1 + 0, and 0.5 + 2
        array([1. , 2.5], dtype=float32)
    """
    queries = arrays.float32(queries, "queries")
    documents = arrays.weight(documents, "documents")
    if queries.ndim != 2:
        raise ValueError(f"queries has shape {queries.shape}; needed: (rows, D)")
    if queries.shape[1] != documents.shape[1]:
        raise ValueError(
            f"documents has shape {documents.shape}; needed: rows of length {queries.shape[1]}, as queries has"
        )
    cu_documents = starts(cu_seqlens, "cu_seqlens", len(documents), "documents")
    bounds = np.array([0, len(queries)]) if cu_queries is None else cu_queries
    bounds = starts(bounds, "cu_queries", len(queries), "queries")
    B, N = len(bounds) - 1, len(cu_documents) - 1
    if not isinstance(pairwise, (bool, np.bool_)):
        raise TypeError(f"pairwise is {pairwise!r}; needed: True or False")
    if pairwise and B != N:
        raise ValueError(f"pairwise is True with {B} queries and {N} documents; needed: as many of both")
    shape = (N,) if pairwise or cu_queries is None else (B, N)
    if out is not None:
        inputs = {"queries": queries, "documents": documents, "cu_seqlens": cu_seqlens, "cu_queries": cu_queries}
        arrays.check_out(out, shape, arrays.FLOAT32, inputs)
    result = out if out is not None and out.flags.c_contiguous else np.empty(shape, arrays.FLOAT32)
    if result.size:
        _core.max_sim(queries, bounds, documents, cu_documents, bool(pairwise), result, 0)
    return arrays.finish(out, result)
