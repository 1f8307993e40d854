"""Quantised search next to sentence-transformers with faiss and usearch; docs/howto/search.md's recipes for indexes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from transformer_fast import util

pytestmark = pytest.mark.oracle

DOCS = Path(__file__).parents[2] / "docs" / "howto" / "search.md"


@pytest.fixture
def theirs(torch):
    return pytest.importorskip("sentence_transformers").util.quantization


@pytest.fixture
def vectors():
    """Widths of bits are whole bytes for usearch's index; 200 queries give ranges without a warning."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((40, 64))
    found = (centres[rng.integers(0, 40, 900)] + 0.5 * rng.standard_normal((900, 64))).astype(np.float32)
    return util.normalize_embeddings(found[:200]), util.normalize_embeddings(found[200:])


def compare(found, expected, least_last):
    """Equal scores, and equal indices but where the last place of candidates is shared by several.

    `least_last` is the share of queries without such a tie: both libraries take any of them.
    """
    same = 0
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs)
        same += [hit["corpus_id"] for hit in ours] == [hit["corpus_id"] for hit in theirs]
        if [hit["corpus_id"] for hit in ours] == [hit["corpus_id"] for hit in theirs]:
            np.testing.assert_allclose([h["score"] for h in ours], [h["score"] for h in theirs], rtol=1e-5, atol=1e-5)
    assert same >= least_last * len(found)


@pytest.mark.parametrize(
    "package, precision",
    [("faiss", "uint8"), ("faiss", "ubinary"), ("usearch", "int8"), ("usearch", "ubinary"), ("usearch", "binary")],
)
@pytest.mark.parametrize("options", [{}, {"top_k": 3, "rescore_multiplier": 8}], ids=str)
def test_rescored(theirs, vectors, package, precision, options):
    pytest.importorskip(package)
    queries, corpus = vectors
    ranges = np.stack([corpus.min(axis=0), corpus.max(axis=0)])
    codes = util.quantize_embeddings(corpus, precision, ranges)
    search = theirs.semantic_search_faiss if package == "faiss" else theirs.semantic_search_usearch
    for given in ({"ranges": ranges}, {"calibration_embeddings": corpus}):
        expected, _ = search(queries, codes, corpus_precision=precision, **given, **options)
        found = util.semantic_search_quantized(queries, codes, precision, **given, **options)
        # Of 64 bits many have the same distance as the last candidate.
        compare(found, expected, 0.98 if "int8" in precision else 0.3)


@pytest.mark.parametrize("precision", ["uint8", "ubinary"])
def test_not_rescored(theirs, vectors, precision):
    pytest.importorskip("faiss")
    queries, corpus = vectors
    ranges = np.stack([corpus.min(axis=0), corpus.max(axis=0)])
    codes = util.quantize_embeddings(corpus, precision, ranges)
    expected, _ = theirs.semantic_search_faiss(queries, codes, corpus_precision=precision, ranges=ranges, rescore=False)
    found = util.semantic_search_quantized(queries, codes, precision, ranges=ranges, rescore=False)
    for ours, other in zip(found, expected, strict=True):
        np.testing.assert_allclose([hit["score"] for hit in ours], [hit["score"] for hit in other], rtol=1e-6)


def test_floats(theirs, vectors):
    pytest.importorskip("faiss")
    queries, corpus = vectors
    expected, _ = theirs.semantic_search_faiss(queries, corpus, rescore=False)
    compare(util.semantic_search_quantized(queries, corpus), expected, 0.98)


class Encoder:
    """Unit vectors by a text's number, as SentenceEncoder.encode_query and encode_document return them."""

    def encode_document(self, texts, normalize_embeddings):
        assert normalize_embeddings
        rng = np.random.default_rng(1)
        return util.normalize_embeddings(rng.standard_normal((500, 48)))[[int(text) for text in texts]]

    encode_query = encode_document


@pytest.mark.parametrize("package", ["faiss", "usearch", "hnswlib"])
def test_recipes(package, tmp_path, monkeypatch):
    pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    (recipe,) = [
        code
        for code in re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
        if re.search(rf"^(import|from) {package}", code, re.MULTILINE)
    ]
    encoder, texts, queries = Encoder(), [str(i) for i in range(500)], [str(i) for i in range(0, 500, 25)]
    names = {"encoder": encoder, "documents": texts, "queries": queries, "np": np}
    exec(recipe, names)
    exact = util.semantic_search(
        encoder.encode_query(queries, True),
        encoder.encode_document(texts, True),
        top_k=10,
        score_function=util.dot_score,
    )
    expected = np.array([[hit["corpus_id"] for hit in hits] for hits in exact])
    ids, scores = np.asarray(names["ids"]), np.asarray(names["scores"])
    assert ids.shape == scores.shape == (20, 10)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids.tolist(), expected.tolist(), strict=True)])
    assert recall >= 0.9 and np.mean(ids[:, 0] == expected[:, 0]) >= 0.9  # an approximate index may miss any
    products = encoder.encode_query(queries, True) @ encoder.encode_document(texts, True).T
    np.testing.assert_allclose(scores, np.take_along_axis(products, ids.astype(np.int64), axis=1), atol=2e-3)
