"""util on arrays of scipy.sparse: the measures and searches of the dense arrays with the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

from transformer_fast import util

sparse = pytest.importorskip("scipy.sparse")
rng = np.random.default_rng(0)
A, B = (np.where(rng.random((n, 300)) < 0.1, rng.standard_normal((n, 300)), 0).astype(np.float32) for n in (7, 40))
A[3] = 0
B[5] = A[2]


@pytest.mark.parametrize("name", util.SIMILARITIES)
@pytest.mark.parametrize("form", [sparse.csr_array, sparse.coo_array, sparse.csc_matrix])
def test_measures(name, form):
    expected = util.similarity(A, B, name)
    assert expected.shape == (7, 40)
    for a, b in ((form(A), form(B)), (A, form(B)), (form(A), B)):
        found = util.similarity(a, b, name)
        assert isinstance(found, np.ndarray) and found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=2e-6)
    found = util.pairwise_similarity(form(A), form(B[:7]), name)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, util.pairwise_similarity(A, B[:7], name), rtol=1e-6, atol=2e-6)
    with pytest.raises(ValueError, match="needed"):
        util.similarity(form(A), form(B[:, :5]), name)
    with pytest.raises(ValueError, match="needed"):
        util.pairwise_similarity(form(A), form(B), name)


@pytest.mark.parametrize("name", util.SIMILARITIES)
def test_one_vector(name):
    a, b = sparse.coo_array(A[0]), sparse.coo_array(B[0])
    np.testing.assert_allclose(util.similarity(a, b, name), util.similarity(A[0], B[0], name), rtol=1e-6, atol=2e-6)
    found = util.pairwise_similarity(a, b, name)
    np.testing.assert_allclose(found, util.pairwise_similarity(A[0], B[0], name), rtol=1e-6, atol=2e-6)
    assert np.ndim(found) == 0


def test_normalized_vectors_are_sparse():
    found = util.normalize_embeddings(sparse.csr_array(A))
    np.testing.assert_allclose(found.toarray(), util.normalize_embeddings(A), atol=1e-7)


@pytest.mark.parametrize("score", [util.dot_score, util.cos_sim, util.euclidean_sim])
@pytest.mark.parametrize("chunks", [{}, {"query_chunk_size": 2, "corpus_chunk_size": 11}])
def test_search(score, chunks):
    queries, corpus = A[[0, 1, 2, 4]], B
    found = util.semantic_search(
        sparse.csr_array(queries), sparse.csr_array(corpus), top_k=5, score_function=score, **chunks
    )
    expected = util.semantic_search(queries, corpus, top_k=5, score_function=score)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose([hit["score"] for hit in one], [hit["score"] for hit in other], atol=1e-5)
    assert found[2][0]["corpus_id"] == 5 or score is util.dot_score
    whole = util.semantic_search(sparse.csr_array(queries), sparse.csr_array(corpus), top_k=5, score_function=score)
    assert whole == found  # to the bit, whatever the blocks


def test_search_refuses():
    with pytest.raises(TypeError, match="both sparse, or none"):
        util.semantic_search(sparse.csr_array(A), B)
    with pytest.raises(ValueError, match=r"queries have shape \(7, 300\)"):
        util.semantic_search(sparse.csr_array(A), sparse.csr_array(B[:, :9]))
    spoilt = sparse.csr_array(B)
    spoilt.data[3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        util.semantic_search(sparse.csr_array(A), spoilt)
    assert util.semantic_search(sparse.csr_array(A), sparse.csr_array((0, 300), dtype=np.float32)) == [[]] * 7
    with pytest.raises(TypeError, match=r"embeddings is a csr_array; needed here: a dense array"):
        util.community_detection(sparse.csr_array(A))


def test_operands_are_left_as_they_are():
    """Indices out of order and numbers in two parts are put in order in a copy."""
    jumbled = sparse.csr_array((np.ones(3, np.float32), np.array([4, 1, 4]), np.array([0, 3])), (1, 5))
    np.testing.assert_allclose(util.cos_sim(jumbled, np.array([0, 1, 0, 0, 2], np.float32)), 1, rtol=1e-6)
    assert jumbled.indices.tolist() == [4, 1, 4]
