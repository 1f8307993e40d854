"""/v1/embeddings, as OpenAI's: texts or tokens in, vectors out."""

from __future__ import annotations

import base64
import sys
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import orjson
from pydantic import BaseModel, Field
from starlette.responses import Response

from transformer_fast.server.calls import Call, Endpoint, json_response
from transformer_fast.server.endpoints.common import (
    Labelled,
    ListOf,
    ModelName,
    Texts,
    Tokens,
    Usage,
    check_count,
    submitted,
)
from transformer_fast.server.errors import bad_request


class EmbeddingsBody(Labelled):
    input: str | Texts | Tokens | Annotated[list[Tokens], Field(min_length=1)] = Field(
        description="A text, several, the tokens of a text, or those of several."
    )
    model: ModelName = None
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="base64: of the vector's float32 numbers, little-endian. Default: float."
    )
    dimensions: Annotated[int, Field(ge=1, le=1 << 20)] | None = Field(
        None, description="The first so many numbers of a vector (Matryoshka)."
    )
    prompt_name: str | None = Field(None, description="Extension: the model's prompt of that name before each text.")
    prompt: str | None = Field(None, description="Extension: this text before each text.")
    task: str | None = Field(None, description="Extension: the model's route or task, as query or document.")
    normalize: bool | None = Field(
        None, description="Extension: give vectors the length 1. Default: as the model does."
    )
    truncate: bool | None = Field(
        None, description="Extension: cut off what the model cannot take (the default); false refuses such a text."
    )


class Embedding(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsReply(ListOf):
    data: list[Embedding]
    model: str
    usage: Usage


async def embed(call: Call) -> Response:
    body: EmbeddingsBody = call.body
    model = call.model(body.model, "embeddings")
    one = isinstance(body.input, str) or isinstance(body.input[0], int)
    inputs: Any = [body.input] if one else body.input
    check_count(call, inputs, "input")
    if body.dimensions is not None and body.dimensions > model.dimensions:
        message = f"dimensions is {body.dimensions}; the vectors of {model.name!r} have {model.dimensions}"
        raise bad_request(message, "dimensions")
    engine = partial(
        model.engine.embed,
        prompt_name=body.prompt_name,
        prompt=body.prompt,
        task=body.task,
        normalize=bool(body.normalize),
        truncate_dim=body.dimensions,
        truncate=body.truncate is not False,
    )
    found = await submitted(call, model, inputs, engine, "input")
    rows = _base64(found.vectors) if body.encoding_format == "base64" else np.ascontiguousarray(found.vectors)
    data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)]
    usage = {"prompt_tokens": found.tokens, "total_tokens": found.tokens}
    content = {"object": "list", "data": data, "model": model.name, "usage": usage}
    return json_response(content, orjson.OPT_SERIALIZE_NUMPY)


def _base64(vectors: np.ndarray) -> list[str]:
    little = np.ascontiguousarray(vectors, "<f4" if sys.byteorder == "big" else np.float32)
    return [base64.b64encode(row).decode("ascii") for row in little]


ENDPOINTS = (
    Endpoint(
        "/v1/embeddings",
        embed,
        "Embeddings of texts",
        body=EmbeddingsBody,
        reply=EmbeddingsReply,
        errors=(404, 429, 504),
    ),
)
