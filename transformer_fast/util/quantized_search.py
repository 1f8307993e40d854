"""Search in a corpus of embeddings of 8 bits or 1 bit a number, with rescoring by the float queries.

Users call it. The candidates come from `functional.top_k_hamming` (bits) and `top_k_products` (integers, floats), which
look at every row; only they are turned back into numbers. A further precision: its candidates in `_candidates`, what
its rows stand for in `_values`.

Source: semantic_search_faiss and semantic_search_usearch of sentence_transformers.util.quantization, release 6, with
exact=True; neither package is used.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.util.quantization import calibrated_ranges, checked_precision, quantize_embeddings
from transformer_fast.util.search import check_count, hits
from transformer_fast.util.similarity import rows

_DTYPES = {"float32": "float32", "int8": "int8", "uint8": "uint8", "binary": "int8", "ubinary": "uint8"}
# Numbers of candidates that are in memory at a time, float64: 32 MB.
_MOST_NUMBERS = 1 << 22


def semantic_search_quantized(
    query_embeddings: Any,
    corpus_embeddings: Any,
    corpus_precision: str = "float32",
    top_k: int = 10,
    ranges: Any = None,
    calibration_embeddings: Any = None,
    rescore: bool = True,
    rescore_multiplier: int = 2,
) -> list[list[dict[str, int | float]]]:
    """The top_k vectors of a quantised corpus for each query: lists of {"corpus_id", "score"}, the best first.

    Queries of floats are quantised as the corpus was. With rescore, if that made them smaller, the top_k *
    rescore_multiplier nearest are candidates, and the best of them by the product of the float query with what the
    corpus's integers or bits stand for (a bit: 1 or 0) are the result. Without, or with queries that are quantised
    already, the score is the product of the integers, the highest first, or the Hamming distance of bits, the least
    first. Of equal scores the lower index comes first.

    sentence-transformers returns the time as well, and usearch's scores of integers and floats are 1 minus these.

    Args:
        query_embeddings: (Q, D) floats, or quantised with corpus_precision; one vector (D,) is one row.
        corpus_embeddings: (N, D), or (N, D / 8 rounded up) of bits, as `quantize_embeddings` returns them.
        corpus_precision: "float32", "int8", "uint8", "binary" or "ubinary".
        ranges, calibration_embeddings: those of the corpus, as in `quantize_embeddings`, for int8 and uint8. Without
            them they are those of the queries, which is hardly what the corpus was quantised with.

    Raises:
        TypeError: an array has a type that is not that of the precision.
        ValueError: a number is out of range, shapes do not fit, or as `quantize_embeddings`.

    Example:
        >>> from transformer_fast import util
        >>> corpus = util.quantize_embeddings([[1.0, -1], [2, 3], [-1, 4]], "ubinary")
        >>> util.semantic_search_quantized([0.5, 2.0], corpus, "ubinary", top_k=1)
        [[{'corpus_id': 1, 'score': 2.5}]]
    """
    checked_precision(corpus_precision)
    for name, value in (("top_k", top_k), ("rescore_multiplier", rescore_multiplier)):
        check_count(name, value)
    corpus = np.asarray(corpus_embeddings)
    if corpus.dtype.name != _DTYPES[corpus_precision] or corpus.ndim != 2:
        raise TypeError(
            f"corpus_embeddings has dtype {corpus.dtype} and shape {corpus.shape}; needed for corpus_precision="
            f"{corpus_precision!r}: {_DTYPES[corpus_precision]}, (N, D)"
        )
    queries, codes, ranges = _queries(query_embeddings, corpus_precision, ranges, calibration_embeddings)
    if not len(codes) or not len(corpus):
        return [[] for _ in codes]
    rescores = rescore and queries is not None and corpus_precision != "float32"
    scores, found = _candidates(codes, corpus, corpus_precision, top_k * (rescore_multiplier if rescores else 1))
    if rescores:
        scores, found = _rescored(queries, corpus, corpus_precision, ranges, found, top_k)
    return hits(scores, found)


def _queries(
    given: Any, precision: str, ranges: Any, calibration: Any
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray | None]:
    """The float queries, if they are floats, the quantised ones, and the ranges that 8 bits need."""
    queries = np.asarray(given)
    if queries.dtype in (np.int8, np.uint8):
        if queries.dtype.name != _DTYPES[precision]:
            raise TypeError(
                f"query_embeddings has dtype {queries.dtype}; needed for corpus_precision={precision!r}: floats, or "
                f"{_DTYPES[precision]}"
            )
        return None, np.atleast_2d(queries), None
    queries = rows("query_embeddings", given)
    if np.isnan(queries.min(initial=0)):
        raise ValueError("query_embeddings hold NaN; needed: numbers, whose scores have an order")
    integers = precision in ("int8", "uint8")
    ranges = calibrated_ranges(queries, precision, ranges, calibration) if integers else None
    return queries, quantize_embeddings(queries, precision, ranges), ranges


def _candidates(codes: np.ndarray, corpus: np.ndarray, precision: str, k: int) -> tuple[np.ndarray, np.ndarray]:
    if precision in ("binary", "ubinary"):  # two bytes differ in the same bits when both are less 128
        return F.top_k_hamming(codes.view(np.uint8), corpus.view(np.uint8), k)
    return F.top_k_products(codes.astype(np.float32), corpus, k)


def _rescored(
    queries: np.ndarray, corpus: np.ndarray, precision: str, ranges: np.ndarray | None, found: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k best of each query's candidates (Q, n) by its products with their values."""
    found = np.sort(found, axis=1)  # so that of equal scores the lower index comes first
    scores = np.empty(found.shape)
    together = max(1, _MOST_NUMBERS // (found.shape[1] * queries.shape[1]))
    for start in range(0, len(queries), together):
        some = slice(start, start + together)
        values = _values(corpus[found[some]], precision, ranges, queries.shape[1])
        scores[some] = np.einsum("ij,ikj->ik", queries[some].astype(np.float64), values)
    if np.isnan(scores.max(initial=-np.inf)):
        raise ValueError("query_embeddings hold infinities whose score is NaN; needed: numbers, which have an order")
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(found, order, axis=1)


def _values(codes: np.ndarray, precision: str, ranges: np.ndarray | None, D: int) -> np.ndarray:
    """What codes (..., D or D / 8) stand for: (..., D) float64."""
    if ranges is None:
        bits = codes.view(np.uint8) ^ np.uint8(0x80) if precision == "binary" else codes
        return np.unpackbits(bits, axis=-1)[..., :D].astype(np.float64)
    steps = (ranges[1] - ranges[0]) / 255
    levels = codes.astype(np.float64) + (128 if precision == "int8" else 0)
    return levels * np.where(steps == 0, 1, steps) + ranges[0]
