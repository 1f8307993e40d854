"""The official `openai` client: embeddings and the list of models."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

TEXTS = ["the cat sat on the mat.", "dog", "The Cat ran, far!"]


def vectors(answer) -> np.ndarray:
    return np.array([item.embedding for item in answer.data], np.float32)


@pytest.mark.parametrize("encoding", [None, "float", "base64"])
def test_vectors_are_those_of_encode(client, local, encoding):
    """None: the client asks for base64 and decodes it, "float" comes as decimal numbers; neither loses a bit."""
    options = {} if encoding is None else {"encoding_format": encoding}
    answer = client.embeddings.create(model="embed", input=TEXTS, **options)
    expected = local.encoder.encode(TEXTS)
    if encoding == "base64":
        import base64

        got = np.stack([np.frombuffer(base64.b64decode(item.embedding), "<f4") for item in answer.data])
    else:
        got = vectors(answer)
    np.testing.assert_array_equal(got, expected)
    assert [item.index for item in answer.data] == [0, 1, 2]
    assert answer.object == "list" and answer.data[0].object == "embedding"
    tokens = sum(len(local.encoder.tokenizer.encode(text).ids) for text in TEXTS)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == tokens


def test_one_text_and_tokens(client, local):
    expected = local.encoder.encode(TEXTS)
    np.testing.assert_array_equal(vectors(client.embeddings.create(model="embed", input=TEXTS[0]))[0], expected[0])
    ids = [local.encoder.tokenizer.encode(text).ids for text in TEXTS]
    np.testing.assert_array_equal(vectors(client.embeddings.create(model="embed", input=ids)), expected)
    np.testing.assert_array_equal(vectors(client.embeddings.create(model="embed", input=ids[1]))[0], expected[1])


def test_dimensions_are_those_of_encode(client, local):
    got = vectors(client.embeddings.create(model="embed", input=TEXTS, dimensions=8))
    cut = local.encoder.encode(TEXTS, truncate_dim=8)
    # OpenAI's vectors are of length 1 after they are cut.
    assert got.shape == (3, 8)
    np.testing.assert_allclose(
        got / np.linalg.norm(got, axis=1)[:, None], cut / np.linalg.norm(cut, axis=1)[:, None], atol=1e-6
    )


def test_many_at_once_with_the_asynchronous_client(aclient, local):
    texts = [f"the dog ran {'far ' * n}" for n in range(32)]

    async def ask():
        async with aclient() as client:
            return await asyncio.gather(*(client.embeddings.create(model="embed", input=text) for text in texts))

    got = np.concatenate([vectors(answer) for answer in asyncio.run(ask())])
    np.testing.assert_array_equal(got, local.encoder.encode(texts))


def test_models(client):
    assert {model.id for model in client.models.list()} == {"embed", "rerank", "classify", "chat"}
    one = client.models.retrieve("chat")
    assert (one.id, one.object) == ("chat", "model") and one.created > 0
