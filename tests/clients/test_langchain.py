"""LangChain's classes for OpenAI: embeddings, chat, streams, structured output, tools.

OpenAIEmbeddings cuts texts with tiktoken unless check_embedding_ctx_length=False; tiktoken fetches its tables from the
net, and its tokens are those of OpenAI's models and no others. So that is how a server of other models is used.
"""

from __future__ import annotations

import asyncio
from typing import Literal

import numpy as np
import pytest
from servers import KEY

langchain_openai = pytest.importorskip("langchain_openai")

TEXTS = ["the cat sat on the mat.", "dog", "The Cat ran, far!"]


@pytest.fixture(scope="module")
def embeddings(server):
    return langchain_openai.OpenAIEmbeddings(
        model="embed", base_url=f"{server.url}/v1", api_key=KEY, check_embedding_ctx_length=False, max_retries=0
    )


@pytest.fixture(scope="module")
def chat(server):
    return langchain_openai.ChatOpenAI(
        model="chat", base_url=f"{server.url}/v1", api_key=KEY, temperature=0, max_tokens=300, max_retries=0
    )


def test_embeddings(embeddings, local):
    expected = local.encoder.encode(TEXTS)
    np.testing.assert_array_equal(np.array(embeddings.embed_documents(TEXTS), np.float32), expected)
    np.testing.assert_array_equal(np.array(embeddings.embed_query(TEXTS[1]), np.float32), expected[1])
    later = asyncio.run(embeddings.aembed_documents(TEXTS))
    np.testing.assert_array_equal(np.array(later, np.float32), expected)


def test_chat_and_stream(chat):
    whole = chat.invoke("2+2?")
    assert "".join(piece.content for piece in chat.stream("2+2?")) == whole.content
    assert whole.usage_metadata["output_tokens"] == 300
    assert whole.response_metadata["finish_reason"] == "length"


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(chat, method):
    pydantic = pytest.importorskip("pydantic")

    class Animal(pydantic.BaseModel):
        """An animal."""

        kind: Literal["cat", "dog"]
        tame: bool

    assert isinstance(chat.with_structured_output(Animal, method=method).invoke("an animal?"), Animal)


def test_tools(chat):
    from langchain_core.tools import tool

    @tool
    def weather(city: Literal["Oslo", "Rome"]) -> str:
        """The weather of a city."""
        return city

    answer = chat.bind_tools([weather], tool_choice="weather").invoke("weather?")
    assert [call["name"] for call in answer.tool_calls] == ["weather"]
    assert answer.tool_calls[0]["args"]["city"] in ("Oslo", "Rome")
    streamed = list(chat.bind_tools([weather], tool_choice="any").stream("weather?"))
    joined = streamed[0]
    for piece in streamed[1:]:
        joined += piece
    assert joined.tool_calls[0]["args"] == answer.tool_calls[0]["args"]
