"""Cohere's client: rerank in its first and second form."""

from __future__ import annotations

import numpy as np
import pytest
from servers import KEY

cohere = pytest.importorskip("cohere")

QUERY = "the cat"
DOCUMENTS = ["sat on the mat", "dog", "The Cat ran, far!", "a b c"]


@pytest.fixture(scope="module", params=["v1", "v2"])
def rerank(server, request):
    made = {"v1": cohere.Client, "v2": cohere.ClientV2}[request.param](api_key=KEY, base_url=server.url)
    return lambda **options: made.rerank(model="rerank", query=QUERY, **options)


def test_scores_are_those_of_predict(rerank, local):
    expected = np.asarray(local.reranker.predict([(QUERY, text) for text in DOCUMENTS]))
    results = rerank(documents=DOCUMENTS).results
    assert [result.index for result in results] == np.argsort(-expected, kind="stable").tolist()
    np.testing.assert_array_equal(
        np.array([result.relevance_score for result in results], np.float32), expected[[r.index for r in results]]
    )


def test_top_n(rerank):
    every = rerank(documents=DOCUMENTS).results
    assert [r.index for r in rerank(documents=DOCUMENTS, top_n=2).results] == [r.index for r in every[:2]]


def test_documents_come_back_in_the_first_form(server):
    client = cohere.Client(api_key=KEY, base_url=server.url)
    result = client.rerank(model="rerank", query=QUERY, documents=DOCUMENTS, return_documents=True).results[0]
    assert result.document.text == DOCUMENTS[result.index]


def test_refusals(server):
    with pytest.raises(cohere.UnauthorizedError):
        cohere.ClientV2(api_key="wrong", base_url=server.url).rerank(model="rerank", query=QUERY, documents=DOCUMENTS)
    client = cohere.ClientV2(api_key=KEY, base_url=server.url)
    with pytest.raises(cohere.NotFoundError):
        client.rerank(model="none", query=QUERY, documents=DOCUMENTS)
    with pytest.raises(cohere.BadRequestError):
        client.rerank(model="rerank", query=QUERY, documents=DOCUMENTS, top_n=0)
