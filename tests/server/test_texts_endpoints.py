"""Embeddings, reranking, labels and tokens over HTTP: the numbers are those of the pipelines, to the bit."""

from __future__ import annotations

import base64

import numpy as np
import pytest

TEXTS = ["the cat sat", "a dog", "the cat sat on the mat and the dog ran far"]


def embeddings(answer) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    content = answer.json()
    assert [one["index"] for one in content["data"]] == list(range(len(content["data"])))
    return np.array([one["embedding"] for one in content["data"]], np.float32)


def test_embeddings_are_those_of_encode(client, served):
    encoder = served["embed"].model
    answer = client.post("/v1/embeddings", json={"model": "embed", "input": TEXTS, "user": "me"})
    assert np.array_equal(embeddings(answer), encoder.encode(TEXTS))
    used = answer.json()["usage"]
    assert used["prompt_tokens"] == used["total_tokens"] == sum(len(encoder.tokenizer.encode(t).ids) for t in TEXTS)
    one = client.post("/v1/embeddings", json={"input": TEXTS[0], "dimensions": 7, "normalize": True})
    expected = encoder.encode([TEXTS[0]], truncate_dim=7, normalize_embeddings=True)
    assert np.array_equal(embeddings(one), expected)


def test_base64_and_tokens(client, served):
    encoder = served["embed"].model
    ids = [encoder.tokenizer.encode(text).ids for text in TEXTS]
    for given in (ids, TEXTS):
        answer = client.post("/v1/embeddings", json={"input": given, "encoding_format": "base64"}).json()
        found = [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in answer["data"]]
        assert np.array_equal(found, encoder.encode(TEXTS))
    assert np.array_equal(embeddings(client.post("/v1/embeddings", json={"input": ids[0]})), encoder.encode(TEXTS[:1]))


@pytest.mark.parametrize("path, version", [("/v1/rerank", "1"), ("/v2/rerank", "2"), ("/rerank", "1")])
def test_rerank(client, served, path, version):
    body = {"query": "the cat", "documents": [TEXTS[0], {"text": TEXTS[1]}, TEXTS[2]], "model": "rerank", "top_n": 2}
    answer = client.post(path, json={**body, "return_documents": True}).json()
    scores = served["rerank"].model.predict([("the cat", text) for text in TEXTS])
    best = np.argsort(-scores, kind="stable")[:2].tolist()
    assert [one["index"] for one in answer["results"]] == best
    assert [np.float32(one["relevance_score"]) for one in answer["results"]] == scores[best].tolist()
    assert [one["document"]["text"] for one in answer["results"]] == [TEXTS[i] for i in best]
    assert answer["meta"] == {"api_version": {"version": version}, "billed_units": {"search_units": 1}}
    assert "document" not in client.post(path, json=body).json()["results"][0]


def test_classify(client, served):
    answer = client.post("/v1/classify", json={"input": TEXTS, "top_k": 2}).json()
    expected = served["classify"].model(TEXTS, top_k=2)
    assert [one["scores"] for one in answer["data"]] == expected
    assert [(one["label"], one["num_classes"]) for one in answer["data"]] == [(e[0]["label"], 4) for e in expected]


@pytest.mark.parametrize("model", ["embed", "rerank", "classify", "chat"])
def test_tokens(client, model):
    answer = client.post("/tokenize", json={"model": model, "prompt": "the cat", "return_token_strs": True}).json()
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    plain = client.post("/tokenize", json={"model": model, "prompt": "the cat", "add_special_tokens": False}).json()
    back = client.post("/detokenize", json={"model": model, "tokens": plain["tokens"]}).json()
    assert back["prompt"].strip() == "the cat" and plain["token_strs"] is None


def test_tokens_of_a_chat(client, served):
    messages = [{"role": "user", "content": "hi"}]
    expected = served["chat"].tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert client.post("/tokenize", json={"model": "chat", "messages": messages}).json()["tokens"] == expected


@pytest.mark.parametrize(
    "path, body, status, param, words",
    [
        ("embeddings", {"input": []}, 400, "input", "at least 1"),
        ("embeddings", {"input": [1, "a"]}, 400, "input", "valid"),
        ("embeddings", {"input": {"a": 1}}, 400, "input", "string"),
        ("embeddings", {}, 400, "input", "missing"),
        ("embeddings", {"input": "a", "inputs": "b"}, 400, "inputs", "unknown parameter"),
        ("embeddings", {"input": "a", "dimensions": "7"}, 400, "dimensions", "integer"),
        ("embeddings", {"input": "a", "dimensions": 700}, 400, "dimensions", "24"),
        ("embeddings", {"input": "a", "encoding_format": "hex"}, 400, "encoding_format", "base64"),
        ("embeddings", {"input": "a", "prompt_name": "no"}, 400, "input", "prompt"),
        ("embeddings", {"input": "a " * 100, "truncate": False}, 400, "input", "tokens"),
        ("embeddings", {"input": [[5, 99999]]}, 400, "input", "99999"),
        ("embeddings", {"input": ["a"] * 2049}, 400, "input", "2048"),
        ("embeddings", {"input": "a", "model": "no"}, 404, "model", "embed"),
        ("embeddings", {"input": "a", "model": "chat"}, 400, "model", "language"),
        ("rerank", {"query": "a", "documents": []}, 400, "documents", "at least 1"),
        ("rerank", {"query": "a", "documents": ["b"], "top_n": 0}, 400, "top_n", "greater"),
        ("rerank", {"query": "a", "documents": ["b"], "max_tokens_per_doc": 5}, 400, "max_tokens_per_doc", "unknown"),
        ("rerank", {"query": "a", "documents": [{"title": "b"}]}, 400, "documents", ""),
        ("classify", {"input": "a", "top_k": True}, 400, "top_k", "integer"),
    ],
    ids=str,
)
def test_refusals_name_the_parameter(client, path, body, status, param, words):
    answer = client.post(f"/v1/{path}", json=body)
    error = answer.json()["error"]
    assert answer.status_code == status and error["param"].split(".")[0] == param and words in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"input": NaN}',
        b'{"input": "\\ud800"}',
        b'{"input": "\xff"}',
        b"[" * 100_000,
        b'{"input": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"input": "a", "dimensions": ' + b"9" * 5000 + b"}",
        b'{"input": "a", "dimensions": 1e400}',
        b'{"input": [[99999999999999999999]]}',
    ],
    ids=lambda content: content[:30].decode("latin-1"),
)
def test_what_is_no_json_or_no_number_is_refused(client, content):
    answer = client.post("/v1/embeddings", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error"


def test_words_that_json_does_not_have_are_refused_where_anything_may_stand(client):
    body = b'{"messages": [{"role": "user", "content": "a", "x": NaN}], "max_tokens": 1}'
    answer = client.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_json"
    assert client.post("/v1/embeddings", json={"input": "NaN and Infinity"}).status_code == 200
