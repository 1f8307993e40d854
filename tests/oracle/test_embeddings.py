"""transformer_fast.util next to sentence_transformers.util: measures, search, mining, communities, quantisation."""

from __future__ import annotations

import numpy as np
import pytest

from transformer_fast import util

pytestmark = pytest.mark.oracle
TOLERANCE = 1e-5


@pytest.fixture
def theirs(torch):
    return pytest.importorskip("sentence_transformers").util


@pytest.fixture
def vectors():
    """Some that are alike, one twice, one of zeros."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((12, 24))
    found = (centres[rng.integers(0, 12, 300)] + 0.3 * rng.standard_normal((300, 24))).astype(np.float32)
    found[7] = found[3]
    found[11] = 0
    return found


@pytest.mark.parametrize("name", ["cos_sim", "dot_score", "euclidean_sim", "manhattan_sim"])
@pytest.mark.parametrize("pair", [False, True])
def test_measures(theirs, vectors, name, pair):
    name = f"pairwise_{name}" if pair else name
    a, b = vectors[:40], vectors[40:80] if pair else vectors
    ours, expected = getattr(util, name)(a, b), getattr(theirs, name)(a, b).numpy()
    # torch.cdist forms |a|^2 - 2ab + |b|^2 of many rows: equal ones are some 1e-3 apart there.
    exact = expected if pair or name != "euclidean_sim" else -np.linalg.norm(a[:, None].astype(float) - b, axis=-1)
    np.testing.assert_allclose(ours, exact, atol=TOLERANCE, rtol=1e-6)
    np.testing.assert_allclose(ours, expected, atol=5e-3)
    one = getattr(util, name)(a[0], b[0])
    np.testing.assert_allclose(one, getattr(theirs, name)(a[0], b[0]).numpy(), atol=TOLERANCE, rtol=1e-6)


@pytest.mark.parametrize("name", ["cos_sim", "dot_score", "manhattan_sim"])
def test_semantic_search(theirs, vectors, name):
    queries, corpus = vectors[:50], vectors[50:]
    expected = theirs.semantic_search(queries, corpus, top_k=7, score_function=getattr(theirs, name))
    found = util.semantic_search(queries, corpus, top_k=7, score_function=getattr(util, name))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose([hit["score"] for hit in one], [hit["score"] for hit in other], atol=TOLERANCE)
        # The zeros are as far from all: their order is nobody's.
        if len({hit["score"] for hit in other}) == len(other):
            assert [hit["corpus_id"] for hit in one] == [hit["corpus_id"] for hit in other]


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"max_pairs": 40}, {"top_k": 5, "query_chunk_size": 7}], ids=str)
def test_paraphrase_mining(theirs, torch, vectors, options):
    vectors = np.delete(vectors, [7, 11], axis=0)  # of equal scores they keep any
    expected = theirs.paraphrase_mining_embeddings(torch.from_numpy(vectors), **options)
    found = util.paraphrase_mining_embeddings(vectors, **options)
    assert len(found) == len(expected)
    np.testing.assert_allclose([pair[0] for pair in found], [pair[0] for pair in expected], atol=TOLERANCE)
    assert {tuple(pair[1:]) for pair in found} == {tuple(pair[1:]) for pair in expected}


@pytest.mark.parametrize("options", [{}, {"threshold": 0.9, "min_community_size": 3}, {"batch_size": 17}], ids=str)
def test_community_detection(theirs, vectors, options):
    expected = theirs.community_detection(vectors, **options)
    found = util.community_detection(vectors, **options)
    assert [len(one) for one in found] == [len(one) for one in expected] and len(found) > 2
    for one, other in zip(found, expected, strict=True):
        assert one[0] == other[0] and set(one) == set(other)


@pytest.mark.parametrize("precision", ["float32", "int8", "uint8", "binary", "ubinary"])
@pytest.mark.parametrize("given", ["nothing", "ranges", "calibration_embeddings"])
def test_quantize_embeddings(theirs, vectors, precision, given):
    vectors = vectors[:, :21].copy()
    vectors[:, 5] = 1
    options = {"ranges": np.stack([vectors.min(0) / 2, vectors.max(0)]), "calibration_embeddings": vectors[::2]}
    options = {} if given == "nothing" else {given: options[given]}
    found = util.quantize_embeddings(vectors, precision, **options)
    expected = theirs.quantize_embeddings(vectors, precision, **options)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
