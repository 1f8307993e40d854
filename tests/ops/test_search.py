"""The k best of many rows: products of every type and Hamming distances, against the reference."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from support import assert_same_bits, normal

from transformer_fast import functional as F
from transformer_fast import reference

# Around the tiles, blocks of rows (96) and the strip of `above` (64 scores at most).
SHAPES = [(1, 1, 1), (1, 97, 3), (3, 500, 384), (65, 191, 33), (130, 700, 20), (257, 95, 8)]


def integers(seed, *shape, dtype=np.float32):
    """Products are exact, and many are equal."""
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(dtype)


@pytest.mark.rotate("threads")
@pytest.mark.parametrize("k", [1, 4, 60, 1000])
@pytest.mark.parametrize("Q, N, D", SHAPES)
def test_products_and_ties(Q, N, D, k, isa, threads):
    query, corpus = integers(0, Q, D), integers(1, N, D)
    scores, indices = F.top_k_products(query, corpus, k)
    expected = reference.top_k_products(query.astype(np.float64), corpus, k)
    assert np.array_equal(indices, expected[1]) and np.array_equal(scores, expected[0])


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16, "int8", "uint8"])
@pytest.mark.parametrize("cosine", [False, True])
def test_types_of_the_corpus(dtype, cosine, isa):
    corpus = (normal(150, 37) * 40).astype(dtype)
    query = normal(5, 37)
    scores, indices = F.top_k_products(query, corpus, 9, cosine=cosine)
    wide = F.top_k_products(query, corpus.astype(np.float32), 9, cosine=cosine)
    assert_same_bits(scores, wide[0])
    assert np.array_equal(indices, wide[1])
    expected = reference.top_k_products(query.astype(np.float64), corpus.astype(np.float64), 9, cosine=cosine)
    np.testing.assert_allclose(scores, expected[0], rtol=2e-5)


def test_scores_have_the_bits_of_linear(isa, threads):
    query, corpus = normal(130, 100), normal(1300, 100)
    whole = F.linear(corpus, query).T
    scores, indices = F.top_k_products(query, corpus, 7)
    assert_same_bits(scores, np.take_along_axis(whole, indices, axis=1))
    assert np.array_equal(indices, np.argsort(-whole, axis=1, kind="stable")[:, :7])
    for some in (slice(0, 1), slice(7, 55)):
        assert_same_bits(F.top_k_products(query[some], corpus, 7)[0], scores[some])


def test_cosine_of_zeros_and_of_long_and_short_rows(isa):
    corpus = np.array([[0, 0], [1e15, 1e15], [1e-9, 0], [-5, 0], [1e-30, 0]], np.float32)
    scores, indices = F.top_k_products(np.array([[2, 0], [0, 0]], np.float32), corpus, 5, cosine=True)
    np.testing.assert_allclose(scores[0], [1, np.sqrt(0.5), 1e-18, 0, -1], rtol=1e-6)
    assert indices.tolist() == [[2, 1, 4, 0, 3], [0, 1, 2, 3, 4]]


def test_strided_operands(isa):
    query, corpus = normal(9, 80)[::2, :40], normal(200, 90)[::3, 5:45]
    ours = F.top_k_products(query, corpus, 5)
    copied = F.top_k_products(query.copy(), corpus.copy(), 5)
    assert_same_bits(ours[0], copied[0])
    bits = np.random.default_rng(0).integers(0, 256, (50, 24), np.uint8)
    found = F.top_k_hamming(bits[::7, 3:20], bits[::2, 3:20], 6)
    assert np.array_equal(found[1], reference.top_k_hamming(bits[::7, 3:20], bits[::2, 3:20], 6)[1])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["query", "corpus"])
def test_scores_without_an_order(bad, where, isa, threads):
    """Infinities that meet 0 give NaN, too."""
    query, corpus = normal(3, 20), normal(300, 20)
    query[:, 4] = corpus[:, 4] = 0
    (query if where == "query" else corpus)[-1, 4] = bad
    with pytest.raises(ValueError, match="holds NaN"):
        F.top_k_products(query, corpus, 2)


def test_infinite_scores_have_an_order(isa):
    corpus = np.array([[-np.inf], [1], [np.inf], [-np.inf]], np.float32)
    scores, indices = F.top_k_products(np.ones((1, 1), np.float32), corpus, 4)
    assert indices.tolist() == [[2, 1, 0, 3]] and scores.tolist() == [[np.inf, 1, -np.inf, -np.inf]]


@pytest.mark.rotate("threads")
@pytest.mark.parametrize("Q, N, D", [(1, 1, 1), (5, 300, 7), (70, 200, 48), (3, 100, 17)])
def test_hamming(Q, N, D, isa, threads):
    rng = np.random.default_rng(2)
    query, corpus = (rng.integers(0, 256, (rows, D)).astype(np.uint8) for rows in (Q, N))
    for k in (1, 10, 1000):
        distances, indices = F.top_k_hamming(query, corpus, k)
        expected = reference.top_k_hamming(query, corpus, k)
        assert np.array_equal(distances, expected[0]) and np.array_equal(indices, expected[1])


def test_many_queries_and_places_run_in_parts(monkeypatch):
    query, corpus = normal(50, 16), normal(300, 16)
    whole = F.top_k_products(query, corpus, 20)
    monkeypatch.setattr("transformer_fast.functional.search._MOST_HEAP_BYTES", 16 * 20 * 4 * F.get_num_threads() * 7)
    parts = F.top_k_products(query, corpus, 20)
    assert_same_bits(parts[0], whole[0])
    assert np.array_equal(parts[1], whole[1])


def test_nothing_to_find():
    none = np.empty((0, 4), np.float32)
    assert F.top_k_products(none, np.ones((3, 4), np.float32), 2)[0].shape == (0, 2)
    assert F.top_k_products(np.ones((2, 4), np.float32), none, 2)[1].shape == (2, 0)
    assert F.top_k_hamming(np.ones((2, 4), np.uint8), np.empty((0, 4), np.uint8), 2)[0].shape == (2, 0)
    assert F.top_k_products(np.ones((2, 0), np.float32), np.ones((3, 0), np.float32), 2)[1].tolist() == [[0, 1]] * 2


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda x: F.top_k_products(x, x, 0), ValueError, "k is 0; needed: an integer >= 1"),
        (lambda x: F.top_k_products(x, x, 1.5), TypeError, "k is 1.5; needed: an integer"),
        (lambda x: F.top_k_products(x, x[:, :2], 1), ValueError, r"query has shape \(3, 4\), corpus \(3, 2\)"),
        (lambda x: F.top_k_products(x[0], x, 1), ValueError, r"query has shape \(4,\)"),
        (lambda x: F.top_k_products(x.astype(int), x, 1), TypeError, "query has dtype int64; needed: float32"),
        (
            lambda x: F.top_k_products(x, x.astype(int), 1),
            TypeError,
            "corpus has dtype int64; needed: float32",
        ),
        (lambda x: F.top_k_hamming(x, x, 1), TypeError, "query has dtype float32; needed: uint8"),
    ],
)
def test_what_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(np.ones((3, 4), np.float32))
