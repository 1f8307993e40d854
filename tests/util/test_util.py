"""transformer_fast.util by hand: ties, blocks, threads, refusals. tests/oracle/test_embeddings.py has the peer."""

from __future__ import annotations

import numpy as np
import pytest

from transformer_fast import util
from transformer_fast.util import search


@pytest.fixture
def vectors():
    """Small integers, many of them twice: sums are exact, scores have ties."""
    return np.random.default_rng(0).integers(-2, 3, (70, 6)).astype(np.float32)


def in_full(queries, corpus, k):
    """The best by float64, of equal ones the lower index first."""
    scores = queries.astype(np.float64) @ corpus.T.astype(np.float64)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order.tolist(), np.take_along_axis(scores, order, axis=1).tolist()


@pytest.mark.parametrize("strip", [1, 8, 4096])
@pytest.mark.parametrize("chunks", [{}, {"query_chunk_size": 3, "corpus_chunk_size": 1}, {"corpus_chunk_size": 11}])
@pytest.mark.parametrize("k", [1, 5, 70, 200])
def test_search_keeps_the_first_of_equal_scores(vectors, chunks, k, strip, monkeypatch):
    monkeypatch.setattr(search, "_STRIP", strip)
    found = util.semantic_search(vectors[:9], vectors, top_k=k, score_function=util.dot_score, **chunks)
    indices, scores = in_full(vectors[:9], vectors, k)
    assert [[hit["corpus_id"] for hit in hits] for hits in found] == indices
    assert [[hit["score"] for hit in hits] for hits in found] == scores


@pytest.mark.parametrize("score", [util.cos_sim, util.dot_score, util.euclidean_sim, util.manhattan_sim])
def test_bits_do_not_depend_on_blocks(isa, threads, score):
    rng = np.random.default_rng(1)
    queries, corpus = rng.standard_normal((2, 230, 37)).astype(np.float32)
    expected = util.semantic_search(queries, corpus, top_k=9, score_function=score)
    for chunks in ((7, 13), (1, 230), (230, 1), (64, 65)):
        assert util.semantic_search(queries, corpus, *chunks, top_k=9, score_function=score) == expected
    assert util.paraphrase_mining_embeddings(queries, 10, 17) == util.paraphrase_mining_embeddings(queries)
    whole = score(queries, corpus)
    assert np.array_equal(np.stack([score(query, corpus)[0] for query in queries[:20]]), whole[:20])


def test_other_score_functions(vectors):
    def negative(a, b):
        return -util.dot_score(a, b)

    found = util.semantic_search(vectors[:2], vectors, top_k=3, score_function=negative, corpus_chunk_size=20)
    assert [[hit["corpus_id"] for hit in hits] for hits in found] == in_full(-vectors[:2], vectors, 3)[0]
    with pytest.raises(ValueError, match=r"score_function gives shape \(2,\); needed: \(2, 70\)"):
        util.semantic_search(vectors[:2], vectors, score_function=lambda a, b: np.zeros(2))


def test_distances_of_vectors_that_are_nearly_the_same():
    """|a|^2 - 2ab + |b|^2 would have no digit of 1e-4 left."""
    a = np.full((30, 40), 100, np.float32)
    b = a + np.float32(2**-12)
    np.testing.assert_allclose(util.euclidean_sim(a, b), -(2**-12) * np.sqrt(40), rtol=1e-6)
    np.testing.assert_allclose(util.manhattan_sim(a, b), -(2**-12) * 40, rtol=1e-6)
    assert (util.euclidean_sim(a, a) == 0).all()


def test_mining_of_equal_vectors():
    """More equal vectors than places: none is its own paraphrase."""
    pairs = util.paraphrase_mining_embeddings(np.ones((9, 4)), top_k=2)
    assert all(score == pytest.approx(1) and i < j for score, i, j in pairs)
    assert len({(i, j) for _, i, j in pairs}) == len(pairs) >= 9
    assert util.paraphrase_mining_embeddings(np.ones((1, 4))) == []
    assert util.paraphrase_mining_embeddings(np.empty((0, 4))) == []


def test_mining_with_an_encoder():
    class Encoder:
        def encode(self, texts, **options):
            assert options["prompt"] == "p: " and options["batch_size"] == 4
            return np.array([[len(text), 1.0] for text in texts], np.float32)

    (best, *_) = util.paraphrase_mining(Encoder(), ["a", "abcdef", "b"], prompt="p: ", batch_size=4)
    assert best == [pytest.approx(1), 0, 2]


def test_communities():
    angles = np.radians([0, 5, 10, 90, 95, 200])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = util.community_detection(vectors, threshold=np.cos(np.radians(6)), min_community_size=2)
    assert found == [[1, 0, 2], [3, 4]] or found == [[1, 2, 0], [3, 4]]
    assert util.community_detection(vectors, threshold=0.999, min_community_size=3) == []
    assert util.community_detection(np.empty((0, 2))) == []
    assert util.community_detection(vectors[:1], min_community_size=1) == [[0]]


def test_empty_search():
    assert util.semantic_search(np.empty((0, 4)), np.ones((3, 4))) == []
    assert util.semantic_search(np.ones((2, 4)), np.empty((0, 4))) == [[], []]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: util.semantic_search([[1, 2]], [[1, 2, 3]]), r"queries have shape \(1, 2\), the corpus \(1, 3\)"),
        (lambda: util.semantic_search([[1, 2]], [[1, 2]], top_k=0), "top_k is 0; needed: an integer >= 1"),
        (lambda: util.semantic_search([[1]], [[1]], query_chunk_size=0), "query_chunk_size is 0"),
        (lambda: util.semantic_search([[1]], [[1]], corpus_chunk_size=-1), "corpus_chunk_size is -1"),
        (lambda: util.semantic_search([[np.nan]], [[1]]), "query or corpus holds NaN"),
        (
            lambda: util.semantic_search([[1]], [[1], [2]], score_function=lambda a, b: np.array([[1, np.nan]])),
            "score_function gives NaN",
        ),
        (
            lambda: util.semantic_search([[np.inf]], [[np.inf], [2]], score_function=util.euclidean_sim),
            "score_function gives NaN",
        ),
        (lambda: util.cos_sim(np.ones((2, 3)), np.ones((2, 4))), r"shapes \(2, 3\) and \(2, 4\)"),
        (lambda: util.cos_sim(np.ones((2, 3, 1)), np.ones((2, 4))), r"a has shape \(2, 3, 1\)"),
        (lambda: util.cos_sim([[1], [1, 2]], [[1]]), "a holds vectors of different lengths"),
        (lambda: util.pairwise_dot_score([[1], [2]], [[1]]), r"shapes \(2, 1\) and \(1, 1\)"),
        (lambda: util.similarity([1], [1], "maxsim"), "similarity_fn_name is 'maxsim'; needed: one of cosine"),
        (lambda: util.community_detection([[1]], min_community_size=0), "min_community_size is 0"),
        (lambda: util.paraphrase_mining_embeddings([[1]], max_pairs=0), "max_pairs is 0"),
        (lambda: util.quantize_embeddings([[1.0]], "int4"), "precision is 'int4'; needed: one of float32"),
        (lambda: util.quantize_embeddings([[1.0]], "int8"), r"embeddings has shape \(1, 1\), and int8 needs"),
        (lambda: util.quantize_embeddings(np.ones((2, 3), np.int8), "int8"), "embeddings has dtype int8"),
        (lambda: util.quantize_embeddings(np.ones((2, 3)), "int8", ranges=np.ones((2, 2))), r"needed: \(2, 3\)"),
        (lambda: util.quantize_embeddings(1.0, "binary"), r"embeddings has shape \(\)"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_quantising_nothing_and_single_vectors():
    for precision, width in (("int8", 9), ("uint8", 9), ("binary", 2), ("ubinary", 2)):
        assert util.quantize_embeddings(np.empty((0, 9)), precision).shape == (0, width)
    assert util.quantize_embeddings([1.0, -1, 0, 2, 0, 0, 0, 0, 3], "binary").tolist() == [128 + 16 - 128, 0]


@pytest.mark.parametrize("most", [1, 4, 7])
def test_search_by_parts_of_the_queries(most, monkeypatch):
    """The engine keeps so many best ones at a time: a bound of memory, which changes nothing."""
    rng = np.random.default_rng(3)
    queries, corpus = (rng.standard_normal((n, 8), dtype=np.float32) for n in (9, 40))
    whole = util.semantic_search(queries, corpus, top_k=3)
    calls = []
    top_k_products = search.F.top_k_products
    monkeypatch.setattr(search, "_MOST_BEST", most)
    monkeypatch.setattr(
        search.F, "top_k_products", lambda *a, **o: (calls.append(len(a[0])), top_k_products(*a, **o))[1]
    )
    assert util.semantic_search(queries, corpus, top_k=3) == whole
    assert calls == {1: [1] * 9, 4: [1] * 9, 7: [2, 2, 2, 2, 1]}[most]
