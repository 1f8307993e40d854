"""Search in quantised embeddings by hand; tests/oracle/test_indexes.py has faiss and usearch."""

from __future__ import annotations

import numpy as np
import pytest

from transformer_fast import util

PRECISIONS = ("int8", "uint8", "binary", "ubinary")


@pytest.fixture
def vectors():
    return np.random.default_rng(0).standard_normal((120, 20)).astype(np.float32)


def in_full(queries, values, k):
    scores = queries.astype(np.float64) @ values.T.astype(np.float64)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order.tolist(), np.take_along_axis(scores, order, axis=1)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_all_as_candidates_give_the_best_by_what_codes_stand_for(vectors, precision, isa):
    queries, corpus = vectors[:9], vectors[9:]
    ranges = np.stack([corpus.min(axis=0), corpus.max(axis=0)])
    codes = util.quantize_embeddings(corpus, precision, ranges)
    values = (corpus > 0).astype(float)
    if "int8" in precision:
        levels = codes.astype(float) + (128 if precision == "int8" else 0)
        values = levels * ((ranges[1] - ranges[0]) / np.float32(255)) + ranges[0]
    found = util.semantic_search_quantized(queries, codes, precision, 4, ranges, rescore_multiplier=99)
    expected = in_full(queries, values, 4)
    assert [[hit["corpus_id"] for hit in hits] for hits in found] == expected[0]
    np.testing.assert_allclose([[hit["score"] for hit in hits] for hits in found], expected[1], rtol=1e-12)


@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_without_rescoring_bits_have_distances(vectors, precision):
    queries, corpus = vectors[:9], vectors[9:]
    codes = util.quantize_embeddings(corpus, precision)
    found = util.semantic_search_quantized(queries, codes, precision, 5, rescore=False)
    distances = ((queries > 0)[:, None] != (corpus > 0)[None]).sum(axis=-1)
    order = np.argsort(distances, axis=1, kind="stable")[:, :5]
    assert [[hit["corpus_id"] for hit in hits] for hits in found] == order.tolist()
    assert [[hit["score"] for hit in hits] for hits in found] == np.take_along_axis(distances, order, axis=1).tolist()
    small = util.quantize_embeddings(queries, precision)
    assert util.semantic_search_quantized(small, codes, precision, 5) == found


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_without_rescoring_integers_have_products(vectors, precision):
    codes = util.quantize_embeddings(vectors, precision)
    found = util.semantic_search_quantized(codes[:5], codes, precision, 3)
    expected = in_full(codes[:5], codes, 3)
    assert [[hit["corpus_id"] for hit in hits] for hits in found] == expected[0]
    assert [[hit["score"] for hit in hits] for hits in found] == expected[1].tolist()


def test_rescoring_chooses_among_the_candidates_alone(vectors):
    codes = util.quantize_embeddings(vectors[9:], "ubinary")
    near = util.semantic_search_quantized(vectors[:9], codes, "ubinary", 6, rescore=False)
    found = util.semantic_search_quantized(vectors[:9], codes, "ubinary", 3, rescore_multiplier=2)
    for hits, candidates in zip(found, near, strict=True):
        assert {hit["corpus_id"] for hit in hits} < {hit["corpus_id"] for hit in candidates}
        scores = [hit["score"] for hit in hits]
        assert scores == sorted(scores, reverse=True)


def test_blocks_of_candidates_change_nothing(vectors, monkeypatch):
    codes = util.quantize_embeddings(vectors, "ubinary")
    whole = util.semantic_search_quantized(vectors, codes, "ubinary")
    monkeypatch.setattr("transformer_fast.util.quantized_search._MOST_NUMBERS", 1)
    assert util.semantic_search_quantized(vectors, codes, "ubinary") == whole


def test_floats_and_nothing(vectors):
    assert util.semantic_search_quantized(vectors[:3], vectors, top_k=2) == util.semantic_search(
        vectors[:3], vectors, top_k=2, score_function=util.dot_score
    )
    assert util.semantic_search_quantized(vectors[:2], np.empty((0, 3), np.uint8), "ubinary") == [[], []]


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda x, c: util.semantic_search_quantized(x, c, "int4"), ValueError, "precision is 'int4'; needed"),
        (lambda x, c: util.semantic_search_quantized(x, c, "int8"), TypeError, "'int8': int8"),
        (lambda x, c: util.semantic_search_quantized(x, c, "binary"), TypeError, "corpus_embeddings has dtype uint8"),
        (lambda x, c: util.semantic_search_quantized(c.view(np.int8), c, "ubinary"), TypeError, "floats, or uint8"),
        (lambda x, c: util.semantic_search_quantized(x, c, "ubinary", 0), ValueError, "top_k is 0"),
        (
            lambda x, c: util.semantic_search_quantized(x, c, "ubinary", rescore_multiplier=0),
            ValueError,
            "multiplier is 0",
        ),
        (lambda x, c: util.semantic_search_quantized(x[:, :4], c, "ubinary"), ValueError, "query has shape"),
        (lambda x, c: util.semantic_search_quantized(x[:1], c, "uint8"), ValueError, "needs the range"),
        (lambda x, c: util.semantic_search_quantized(x * np.nan, c, "ubinary"), ValueError, "hold NaN"),
        (lambda x, c: util.semantic_search_quantized(x * np.inf, c, "ubinary"), ValueError, "whose score is NaN"),
    ],
)
def test_what_is_refused(vectors, call, error, message):
    with pytest.raises(error, match=message):
        call(vectors, util.quantize_embeddings(vectors, "ubinary"))
