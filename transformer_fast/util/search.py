"""Search, mining and communities among many vectors: only the best of a block of scores are kept, never all scores.

Users and commands call it. Cosines and dot products run in `functional.top_k_products`; for other functions of scores
`Best` keeps the highest of each block. Of equal scores the lower index comes first, so that results do not depend on
blocks or threads. A new kind of search goes over `_best`.

Source: sentence_transformers.util of sentence-transformers 6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.util import sparse
from transformer_fast.util.similarity import cos_sim, dot_score, normalize_embeddings, rows

ScoreFunction = Callable[[Any, Any], np.ndarray]

# Scores that are in memory at a time, 64 MB, where the caller says nothing else.
_MOST_SCORES = 1 << 24
_READ_AS_THEY_ARE = ("float32", "float16", "bfloat16", "int8", "uint8")
# Scores of a query that are looked through together: after the first strip few are above the k-th best so far.
_STRIP = 4096
# Best ones, of all queries of a call of the engine: it keeps them for each of some parts of the corpus, four a thread,
# in 16 bytes each: 67 MB a thread.
_MOST_BEST = 1 << 20


def semantic_search(
    query_embeddings: Any,
    corpus_embeddings: Any,
    query_chunk_size: int = 100,
    corpus_chunk_size: int | None = None,
    top_k: int = 10,
    score_function: ScoreFunction = cos_sim,
) -> list[list[dict[str, int | float]]]:
    """The top_k vectors of a corpus for each query: lists of {"corpus_id", "score"}, the highest score first.

    Args:
        query_embeddings, corpus_embeddings: (Q, D), or one vector (D,), and (N, D); both dense, or both arrays of
            scipy.sparse, as of `SparseEncoder`. A dense corpus of float32, float16, bfloat16, int8 or uint8 is read as
            it is, other types are converted to float32.
        query_chunk_size, corpus_chunk_size: rows of a block of scores; they change time and memory, not one bit of the
            result. By default a block has 2^24 scores. With `cos_sim` and `dot_score` the engine chooses the blocks of
            dense vectors.
        score_function: `cos_sim`, `dot_score`, or another function of (q, D) and (n, D) -> (q, n).

    Raises:
        TypeError: one is sparse and the other dense.
        ValueError: a number is out of range, shapes do not fit, or embeddings hold NaN.

    Example:
        >>> from transformer_fast import util
        >>> util.semantic_search([1, 0], [[0, 1], [2, 0], [1, 1]], top_k=2)
        [[{'corpus_id': 1, 'score': 1.0}, {'corpus_id': 2, 'score': 0.7071067690849304}]]
    """
    if sparse.both_sparse(query_embeddings, corpus_embeddings):
        queries = sparse.rows("query_embeddings", query_embeddings)
        corpus = sparse.rows("corpus_embeddings", corpus_embeddings)
    else:
        queries, corpus = rows("query_embeddings", query_embeddings), _corpus_rows(corpus_embeddings)
    best = _best(queries, corpus, query_chunk_size, corpus_chunk_size, top_k, score_function)
    return hits(best.scores, best.indices)


def hits(scores: np.ndarray, indices: np.ndarray) -> list[list[dict[str, int | float]]]:
    """Scores and indices (Q, k) as lists of {"corpus_id", "score"}."""
    return [
        [{"corpus_id": i, "score": score} for i, score in zip(*found, strict=True)]
        for found in zip(indices.tolist(), scores.tolist(), strict=True)
    ]


def paraphrase_mining(
    model: Any,
    sentences: Any,
    show_progress_bar: bool | None = False,
    batch_size: int = 32,
    query_chunk_size: int = 1000,
    corpus_chunk_size: int | None = None,
    max_pairs: int = 500_000,
    top_k: int = 100,
    score_function: ScoreFunction = cos_sim,
    truncate_dim: int | None = None,
    prompt_name: str | None = None,
    prompt: str | None = None,
) -> list[list[float | int]]:
    """The most similar pairs of texts, as `paraphrase_mining_embeddings`, with the embeddings of a `SentenceEncoder`.

    Raises:
        TypeError, ValueError: as `SentenceEncoder.encode` and `paraphrase_mining_embeddings`.

    Example:
        >>> from transformer_fast import util
        >>> util.paraphrase_mining(encoder, ["A cat sits.", "It rains.", "A cat is sitting."])[0]     # doctest: +SKIP
        [0.96, 0, 2]
    """
    embeddings = model.encode(
        sentences,
        show_progress_bar=show_progress_bar,
        batch_size=batch_size,
        truncate_dim=truncate_dim,
        prompt_name=prompt_name,
        prompt=prompt,
    )
    return paraphrase_mining_embeddings(
        embeddings, query_chunk_size, corpus_chunk_size, max_pairs, top_k, score_function
    )


def paraphrase_mining_embeddings(
    embeddings: Any,
    query_chunk_size: int = 1000,
    corpus_chunk_size: int | None = None,
    max_pairs: int = 500_000,
    top_k: int = 100,
    score_function: ScoreFunction = cos_sim,
) -> list[list[float | int]]:
    """The max_pairs best [score, i, j], i < j, of the pairs that each vector of (N, D) makes with its top_k nearest.

    The highest score comes first. score_function must be symmetric; chunks as in `semantic_search`.

    Raises:
        ValueError: as `semantic_search`.

    Example:
        >>> from transformer_fast import util
        >>> util.paraphrase_mining_embeddings([[1, 0], [0, 1], [3, 0]], max_pairs=1)
        [[1.0, 0, 2]]
    """
    vectors = rows("embeddings", embeddings)
    check_count("max_pairs", max_pairs)
    check_count("top_k", top_k)
    nearest = _best(vectors, vectors, query_chunk_size, corpus_chunk_size, top_k + 1, score_function)
    if len(vectors) < 2:
        return []
    own = nearest.indices == np.arange(len(vectors))[:, None]
    own[~own.any(axis=1), -1] = True  # as many equal vectors as there are places: one of them gives way
    others = ~own
    first = np.broadcast_to(np.arange(len(vectors))[:, None], own.shape)[others]
    second, scores = nearest.indices[others], nearest.scores[others]
    low, high = np.minimum(first, second), np.maximum(first, second)
    _, kept = np.unique(low * len(vectors) + high, return_index=True)
    order = kept[np.lexsort((high[kept], low[kept], -scores[kept]))][:max_pairs]
    return [list(pair) for pair in zip(scores[order].tolist(), low[order].tolist(), high[order].tolist(), strict=True)]


def community_detection(
    embeddings: Any,
    threshold: float = 0.75,
    min_community_size: int = 10,
    batch_size: int = 1024,
) -> list[list[int]]:
    """Groups of vectors (N, D) whose cosine to one of them, which comes first, is at least the threshold.

    Each vector that has min_community_size such vectors, itself among them, is a candidate; the largest comes first and
    takes its vectors, and what is left of the others counts if it is still large enough. Lists of indices, the largest
    first; after the centre the nearest first. batch_size: rows of a block of scores.

    Raises:
        ValueError: a number is out of range, or shapes do not fit.

    Example:
        >>> from transformer_fast import util
        >>> util.community_detection([[1, 0], [0, 1], [5, 1], [0, 3]], min_community_size=2)
        [[0, 2], [1, 3]]
    """
    vectors = normalize_embeddings(rows("embeddings", embeddings))
    check_count("min_community_size", min_community_size)
    check_count("batch_size", batch_size)
    candidates: list[tuple[int, np.ndarray]] = []
    packed = F.pack_weight(vectors) if len(vectors) else None
    for start in range(0, len(vectors), batch_size):
        scores = F.linear(vectors[start : start + batch_size], packed)
        near = scores >= np.float32(threshold)
        for row in np.flatnonzero(near.sum(axis=1) >= min_community_size):
            members = np.flatnonzero(near[row])
            order = np.argsort(-scores[row, members], kind="stable")
            candidates.append((start + int(row), members[order]))
    candidates.sort(key=lambda candidate: -len(candidate[1]))
    free = np.ones(len(vectors), bool)
    communities = []
    for centre, members in candidates:
        left = members[free[members]]
        if free[centre] and len(left) >= min_community_size:
            communities.append([centre, *left[left != centre].tolist()])
            free[communities[-1]] = False
    return sorted(communities, key=len, reverse=True)


class Best:
    """The k highest scores of each of Q queries so far, and their indices: (Q, k) each, the highest first."""

    def __init__(self, queries: int, k: int) -> None:
        self._k = k
        self.scores = np.empty((queries, 0), np.float32)
        self.indices = np.empty((queries, 0), np.int64)

    def add(self, scores: np.ndarray, first_index: int) -> None:
        """scores (Q, n) of the n indices from first_index on, which are above all before them."""
        for start in range(0, scores.shape[1], _STRIP):
            self._add(scores[:, start : start + _STRIP], first_index + start)

    def _add(self, scores: np.ndarray, first_index: int) -> None:
        if self.scores.shape[1] == self._k:
            candidates = _above(scores, self.scores[:, -1:])
        else:
            kept = _highest(scores, min(self._k, scores.shape[1]))
            candidates = np.take_along_axis(scores, kept, axis=1), kept
        scores = np.concatenate([self.scores, candidates[0]], axis=1)
        indices = np.concatenate([self.indices, candidates[1] + first_index], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, : self._k]
        self.scores = np.take_along_axis(scores, order, axis=1)
        self.indices = np.take_along_axis(indices, order, axis=1)


def _above(scores: np.ndarray, least: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The scores of each row of (Q, n) that are above `least` (Q, 1), and their places: rows are filled with -inf."""
    rows, places = np.nonzero(scores > least)
    counts = np.bincount(rows, minlength=len(scores))
    columns = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    found = np.full((len(scores), counts.max(initial=0)), -np.inf, np.float32)
    found_places = np.zeros(found.shape, np.int64)
    found[rows, columns], found_places[rows, columns] = scores[rows, places], places
    return found, found_places


def _highest(scores: np.ndarray, k: int) -> np.ndarray:
    """The places of the k highest of each row of (Q, n), in ascending order; of equal ones the first."""
    if k == scores.shape[1]:
        return np.broadcast_to(np.arange(k), scores.shape)
    least = np.partition(scores, -k, axis=1)[:, -k, None]
    above = scores > least
    missing = k - above.sum(axis=1)
    equal = scores == least
    equal &= np.cumsum(equal, axis=1, dtype=np.int32) <= missing[:, None]
    return np.nonzero(above | equal)[1].reshape(len(scores), k)


def _best(queries: Any, corpus: Any, query_chunk: int, corpus_chunk: int | None, k: int, score: ScoreFunction) -> Best:
    """The k highest scores of all queries (Q, D) in the corpus (N, D): arrays, or csr_arrays."""
    check_count("top_k", k)
    count = queries.shape[0]
    if count and corpus.shape[0] and queries.shape[1] != corpus.shape[1]:
        raise ValueError(f"queries have shape {queries.shape}, the corpus {corpus.shape}; needed: (Q, D) and (N, D)")
    together = Best(count, k)
    check_count("query_chunk_size", query_chunk)
    if corpus_chunk is not None:
        check_count("corpus_chunk_size", corpus_chunk)
    if score in (cos_sim, dot_score) and not sparse.is_sparse(corpus):
        if len(queries) and len(corpus):
            chunks = [chunk for _, chunk in _chunks(queries, max(1, _MOST_BEST // k))]
            found = [F.top_k_products(chunk, corpus, k, cosine=score is cos_sim) for chunk in chunks]
            together.scores, together.indices = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return together
    if any(np.isnan(sparse.values(one).min(initial=0)) for one in (queries, corpus)):  # the least of NaN is NaN
        raise ValueError("the embeddings hold NaN; needed: numbers, which have an order")
    best = [Best(chunk.shape[0], k) for _, chunk in _chunks(queries, query_chunk)]
    if corpus_chunk is None:
        corpus_chunk = max(k, _MOST_SCORES // max(1, min(query_chunk, count)))
    for start, block in _chunks(corpus, corpus_chunk):
        of_block = _scorer(block, score, queries)
        for found, (_, chunk) in zip(best, _chunks(queries, query_chunk), strict=True):
            found.add(of_block(chunk), start)
    if best:
        together.scores = np.concatenate([found.scores for found in best])
        together.indices = np.concatenate([found.indices for found in best])
    return together


def _scorer(block: Any, score: ScoreFunction, every: Any) -> Callable[[Any], np.ndarray]:
    """Queries (q, D) of `every` -> their scores (q, n) in a block (n, D)."""
    if sparse.is_sparse(block) and score in (cos_sim, dot_score):
        return sparse.scorer(block, every, normalized=score is cos_sim)
    return lambda queries: _scores(score, queries, block)


def _scores(score: ScoreFunction, queries: Any, block: Any) -> np.ndarray:
    """Scores (q, n) of queries (q, D) and a block of the corpus (n, D)."""
    scores = np.asarray(score(queries, block), np.float32)
    needed = queries.shape[0], block.shape[0]
    if scores.shape != needed:
        raise ValueError(f"score_function gives shape {scores.shape}; needed: {needed}")
    if np.isnan(scores.max(initial=-np.inf)):  # the largest of NaN is NaN
        raise ValueError("score_function gives NaN; needed: numbers, which have an order")
    return scores


def _corpus_rows(embeddings: Any) -> np.ndarray:
    """Rows (N, D) in their own type where the engine reads it."""
    found = embeddings if isinstance(embeddings, np.ndarray) else None
    if found is None or found.ndim != 2 or found.dtype.name not in _READ_AS_THEY_ARE:
        return rows("corpus_embeddings", embeddings)
    return found


def _chunks(vectors: Any, size: int) -> Iterator[tuple[int, Any]]:
    for start in range(0, vectors.shape[0], size):
        if sparse.is_sparse(vectors):
            yield start, sparse.part(vectors, start, start + size)
        else:
            yield start, vectors[start : start + size]


def check_count(name: str, value: Any) -> None:
    """
    Raises:
        ValueError: the value is no integer >= 1.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} is {value!r}; needed: an integer >= 1")
